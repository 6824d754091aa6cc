"""Layers of values on the pixel grid of a map: a scene as a picture, and confidences."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from rasterio import Affine
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT

from hrrsi.classes import IGNORE_INDEX
from hrrsi.errors import InputError
from hrrsi.scenes.pixel_reader import rasterio_window, stretch_limits, stretched
from hrrsi.scenes.raster_opening import unified_gdal_errors
from hrrsi.scenes.windows import Window
from hrrsi.viewer.layers import (
    COARSE,
    TILE,
    ClosedError,
    Layer,
    highest_level,
    level_shape,
    palette_png,
    png,
    tile_window,
)

# of no confidence to full: dark violet, red, yellow (points of matplotlib's inferno)
_RAMP = (
    *((40, 11, 84), (120, 28, 109), (188, 55, 84)),
    *((237, 105, 37), (252, 165, 10), (252, 240, 150)),
)
_SHADES = 251
_NO_CRS = "EPSG:3857"  # of rasters that have none: both get it, so nothing is projected


class ScoreLayer(Layer):
    """Confidences of hrrsi's.

    Args:
        label: What the page calls it.
        dataset: Their rasterio dataset, of one band, on the grid; nobody else may read it.
        where: Its name, for messages.
    """

    kind = "scores"

    def __init__(self, label: str, dataset: Any, where: str) -> None:
        super().__init__(label, dataset.shape)
        self._dataset, self._where = dataset, where
        self._is_bytes = dataset.dtypes[0] == "uint8"
        self._lock = threading.Lock()
        self._is_closed = False
        shades = np.linspace(0, len(_RAMP) - 1, _SHADES)
        ramp = np.array(_RAMP, dtype=np.float64)
        mixed = [np.interp(shades, np.arange(len(_RAMP)), ramp[:, n]) for n in range(3)]
        ramp = np.rint(mixed).T.astype(int)
        self.colours = [(red, green, blue) for red, green, blue in ramp.tolist()]

    def at(self, row: int, column: int) -> float | None:
        """Return the confidence of a pixel, 0 to 1, or None where there is none."""
        value = float(self._values(0, Window(row, column, 1, 1))[0, 0])
        if self._is_bytes:
            return None if value == IGNORE_INDEX else value / (_SHADES - 1)
        return value if np.isfinite(value) else None

    def tile(self, level: int, row: int, column: int, hidden: Collection[int] = ()) -> bytes | None:
        """Return a tile as a PNG whose palette is a ramp of colours."""
        window = tile_window(self.shape, level, row, column)
        if window is None:
            return None
        steps = np.full((TILE, TILE), IGNORE_INDEX, dtype=np.uint8)
        values = self._values(level, window)
        if not self._is_bytes:
            is_finite = np.isfinite(values)
            shares = np.where(is_finite, values, 0).clip(0, 1)
            values = np.where(is_finite, np.rint(shares * (_SHADES - 1)), IGNORE_INDEX)
        steps[: window.height, : window.width] = values
        opacity = np.where(np.arange(256) < _SHADES, 255, 0).astype(np.uint8)
        return palette_png(steps, self.colours, opacity)

    def close(self) -> None:
        """Let nothing be read any more."""
        with self._lock:
            self._is_closed = True

    def _values(self, level: int, window: Window) -> npt.NDArray[Any]:
        with self._lock:
            if self._is_closed:
                raise ClosedError
            how = Resampling.nearest
            values: npt.NDArray[Any] = read_level(
                self._dataset, [1], level, window, how, self._where
            )[0]
        return values


class SceneLayer(Layer):
    """A scene as a picture, on the grid of its map.

    Args:
        label: What the page calls it.
        dataset: The scene's rasterio dataset; nobody else may read it.
        bands: The 1-based bands that are shown, three or one.
        where: Its name, for messages.
        grid: The rasterio dataset whose grid it is laid on; None: it has that grid.
        sample: Some of its values, (bands, pixels), where its type is not uint8: what lies below
            2 % of them is black, what lies above 98 % is white, as on map sheets.
        nodata: A value of pixels without data, beside what the file declares.
        masked: Whether its mask or alpha says which pixels hold data.
    """

    kind = "scene"

    def __init__(
        self,
        label: str,
        dataset: Any,
        bands: Sequence[int],
        where: str,
        *,
        grid: Any = None,
        sample: npt.NDArray[Any] | None = None,
        nodata: float | None = None,
        masked: bool = True,
    ) -> None:
        super().__init__(label, dataset.shape if grid is None else grid.shape)
        self._dataset, self._grid, self._where = dataset, grid, where
        self._bands = list(bands)
        self._limits = None if sample is None else stretch_limits(sample)
        # numbers of a palette can't be averaged
        self._how = Resampling.nearest if "expand=" in dataset.name else Resampling.average
        self._nodata, self._masked = nodata, masked
        self._lock = threading.RLock()
        self._is_closed = False
        self._stack = ExitStack()
        self._warped_levels: dict[int, Any] = {}
        self._coarse_level = highest_level(self.shape, COARSE // 2)
        factors = [1, *dataset.overviews(self._bands[0])]
        largest = max(dataset.shape) / max(factors)
        self._coarse: npt.NDArray[np.uint8] | None = None
        self._rows = 0  # of the grid that the coarse level shows
        if self._coarse_level > 0 and largest > COARSE:
            empty = level_shape(self.shape, self._coarse_level)
            self._coarse = np.zeros((*empty, 4), dtype=np.uint8)

    @property
    def needs_pass(self) -> bool:
        """Whether levels are kept in memory: there are no overviews, and the scene is large."""
        return self._coarse is not None

    def take(self, window: Window) -> None:
        """Keep what the coarse level shows of a strip of whole rows."""
        if self._coarse is None:
            return
        step = 1 << self._coarse_level
        end = window.row + window.height
        first = self._rows // step
        last = len(self._coarse) if end >= self.shape[0] else end // step
        if last > first:
            part = Window(first, 0, last - first, self._coarse.shape[1])
            self._coarse[first:last] = self._picture(self._coarse_level, part)
            self._rows = last * step

    def tile(self, level: int, row: int, column: int, hidden: Collection[int] = ()) -> bytes | None:
        """Return a tile as a PNG, transparent where the scene holds no data."""
        window = tile_window(self.shape, level, row, column)
        if window is None:
            return None
        picture = np.zeros((TILE, TILE, 4), dtype=np.uint8)
        part = picture[: window.height, : window.width]
        if self._coarse is not None and level >= self._coarse_level:
            part[:] = self._reduced(level, window)
        else:
            part[:] = self._picture(level, window)
        is_whole = bool((picture[..., 3] == 255).all())
        return png(Image.fromarray(picture[..., :3] if is_whole else picture))

    def close(self) -> None:
        """Let nothing be read any more."""
        with self._lock:
            self._is_closed = True
            self._stack.close()

    def _reduced(self, level: int, window: Window) -> npt.NDArray[np.uint8]:
        assert self._coarse is not None
        factor = level - self._coarse_level
        top, left = window.row << factor, window.col << factor
        rows, columns = window.height << factor, window.width << factor
        part = Image.fromarray(self._coarse[top : top + rows, left : left + columns])
        reduced = np.asarray(part.convert("RGBa").reduce(1 << factor).convert("RGBA"))
        return reduced[: window.height, : window.width]

    def _picture(self, level: int, window: Window) -> npt.NDArray[np.uint8]:
        """Return a window of a level as (rows, columns, 4): red, green, blue and opacity."""
        with self._lock:
            if self._is_closed:
                raise ClosedError
            values, valid = self._values(level, window)
        if np.issubdtype(values.dtype, np.floating):
            valid &= np.isfinite(values).all(axis=0)
        if self._nodata is not None:
            valid &= ~(values == self._nodata).all(axis=0)
        shown = values if self._limits is None else stretched(values, valid, self._limits)
        picture = np.empty((*valid.shape, 4), dtype=np.uint8)
        picture[..., :3] = np.moveaxis(shown, 0, -1)  # one band becomes grey
        picture[..., 3] = np.where(valid, 255, 0)
        return picture

    def _values(self, level: int, window: Window) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        how = self._how if level else Resampling.nearest
        dataset, at = self._dataset, level
        if self._grid is not None:
            dataset, at = self._warped(level), 0
            how = Resampling.nearest
        values = read_level(dataset, self._bands, at, window, how, self._where)
        if self._grid is None and not self._masked:
            return values, np.ones(values.shape[1:], dtype=bool)
        masks = read_level(
            dataset, self._bands, at, window, Resampling.nearest, self._where, masks=True
        )
        return values, (masks != 0).any(axis=0)

    def _warped(self, level: int) -> Any:
        """Return the scene on a level of the map's grid, as GDAL warps it."""
        if level not in self._warped_levels:
            height, width = level_shape(self.shape, level)
            crs = self._grid.crs or self._dataset.crs or _NO_CRS
            has_alpha = ColorInterp.alpha in self._dataset.colorinterp
            try:
                with unified_gdal_errors():
                    warped = WarpedVRT(
                        self._dataset,
                        src_crs=self._dataset.crs or crs,
                        crs=crs,
                        transform=self._grid.transform @ Affine.scale(1 << level),
                        height=height,
                        width=width,
                        resampling=Resampling.average if level else Resampling.bilinear,
                        add_alpha=not has_alpha,
                    )
            except RasterioError as error:
                raise InputError(
                    f"can't be laid under the map ({' '.join(str(error).split())})",
                    where=self._where,
                    fix="check the CRS of both",
                ) from error
            self._warped_levels[level] = self._stack.enter_context(warped)
        return self._warped_levels[level]


def read_level(
    dataset: Any,
    bands: Sequence[int],
    level: int,
    window: Window,
    resampling: Resampling,
    where: str,
    *,
    masks: bool = False,
) -> npt.NDArray[Any]:
    """Return a window of a level of a rasterio dataset, (bands, rows, columns).

    Args:
        dataset: The dataset; nobody else may read it meanwhile.
        bands: The 1-based bands.
        level: The level.
        window: On the level.
        resampling: How pixels become one; GDAL takes the file's overviews, where it has some.
        where: Its name, for messages.
        masks: Whether its masks are read, 0 where there is no data.

    Raises:
        InputError: It can't be read there.
    """
    read: Callable[..., npt.NDArray[Any]] = dataset.read_masks if masks else dataset.read
    parts = []
    try:
        with unified_gdal_errors():
            for top, rows, height in _whole_and_rest(
                window.row, window.height, level, dataset.height
            ):
                across = [
                    read(
                        list(bands),
                        window=rasterio_window(Window(top, left, height, width)),
                        out_shape=(len(bands), rows, columns),
                        resampling=resampling,
                    )
                    for left, columns, width in _whole_and_rest(
                        window.col, window.width, level, dataset.width
                    )
                ]
                parts.append(np.concatenate(across, axis=2))
    except RasterioError as error:
        raise InputError(
            f"cannot be read at row {window.row << level}, column {window.col << level} "
            "(truncated or damaged)",
            where=where,
            fix="copy the file again",
        ) from error
    return np.concatenate(parts, axis=1)


def _whole_and_rest(start: int, count: int, level: int, length: int) -> list[tuple[int, int, int]]:
    """Return the parts of an axis of a window that have one scale: its last pixel may be cut off.

    Args:
        start: Where the window begins on the level.
        count: Its pixels on the level.
        level: The level.
        length: Pixels of the dataset along the axis.

    Returns:
        First pixel of the dataset, pixels of the level, and pixels of the dataset, of each part.
    """
    whole = min(count, (length >> level) - start)
    first = (start + whole) << level
    parts = [(start << level, whole, whole << level), (first, count - whole, length - first)]
    return [part for part in parts if part[1] > 0]
