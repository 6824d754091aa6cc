"""A scene: a raster on disk, read window by window."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rasterio.windows import Window as RasterioWindow

from hrrsi.errors import HrrsiError
from hrrsi.scenes.bands import chosen_bands
from hrrsi.scenes.georeference import ground_resolution
from hrrsi.scenes.height_model import HeightModel, open_height_model
from hrrsi.scenes.pixel_reader import PixelReader
from hrrsi.scenes.raster_opening import open_raster, opened_raster
from hrrsi.scenes.resampling import GridAxis, Valid, resampled_window
from hrrsi.scenes.windows import Window

if TYPE_CHECKING:
    from hrrsi.scenes.polygons import AreaOfInterest

# What the largest value of a type counts as: values are divided by it before normalisation.
FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0, "int16": 32767.0}

_SAME_RESOLUTION = 0.01
_FINEST_STEP = 1 / 16


@dataclass
class Scene:
    """An open raster, limited to the bands that a network sees, on the network's grid.

    Use `open_scene`. Windows lie on the network's grid, which is the raster's own one unless the
    scene is read at another resolution: then pixel i of the raster has its centre at
    ``(i + 0.5) / step - 0.5`` on the network's grid, along both axes.

    Attributes:
        path: As given, for messages.
        dataset: The rasterio dataset, on the raster's own grid.
        bands: The 1-based bands that `read` returns.
        nodata: A value that marks pixels without data where every band in `bands` holds it, on
            top of what the file itself declares.
        step: Pixels of the raster in one pixel of the network's grid, along each axis.
        area: The area of interest, on the raster's own grid, or None.
        overview: The overview that a coarser grid is read from, or None.
        height_model: Heights on the raster's own grid, which are one more band after `bands`, or
            None. With it, all that is read is float32.
    """

    path: str
    dataset: Any
    bands: tuple[int, ...]
    nodata: float | None = None
    step: float = 1.0
    area: AreaOfInterest | None = None
    overview: Scene | None = None
    height_model: HeightModel | None = None
    _last: tuple[Window, Valid] | None = field(default=None, init=False, repr=False)

    @property
    def height(self) -> int:
        """Rows of pixels on the network's grid, which covers the raster."""
        return _covering(int(self.dataset.height), self.step)

    @property
    def width(self) -> int:
        """Columns of pixels on the network's grid, which covers the raster."""
        return _covering(int(self.dataset.width), self.step)

    @property
    def map_shape(self) -> tuple[int, int]:
        """Rows and columns of the raster's own grid, which a map has too."""
        return int(self.dataset.height), int(self.dataset.width)

    @property
    def dtype(self) -> str:
        """NumPy name of the type of the raster's bands."""
        return str(self.dataset.dtypes[self.bands[0] - 1])

    @property
    def has_height(self) -> bool:
        """Whether the last band is a height."""
        return self.height_model is not None

    @property
    def resolution(self) -> float | None:
        """Ground sampling distance of the raster in metres per pixel, or None where unknown."""
        return ground_resolution(self.dataset)

    @cached_property
    def reader(self) -> PixelReader:
        """Reads windows of the raster's own grid."""
        return PixelReader(self.dataset, self.bands, self.path)

    @cached_property
    def declares_nodata(self) -> bool:
        """Whether some pixels may hold no data, by the file's word or by `nodata`."""
        return (
            self.nodata is not None
            or self.reader.declares_nodata
            or "float" in self.dtype
            or self.has_height
        )

    @property
    def on_own_grid(self) -> Scene:
        """The same scene on the raster's own grid."""
        if self.step == 1:
            return self
        own = replace(self, step=1.0, overview=None)
        own.__dict__["reader"] = self.reader
        return own

    def on_input_grid(self, window: Window) -> Window:
        """Return the pixels of the raster's own grid that a window covers, wholly or in part."""
        if self.step == 1:
            return window
        height, width = self.dataset.height, self.dataset.width
        row = min(math.floor(window.row * self.step), height - 1)
        col = min(math.floor(window.col * self.step), width - 1)
        stop_row = min(math.ceil((window.row + window.height) * self.step), height)
        stop_col = min(math.ceil((window.col + window.width) * self.step), width)
        return Window(row, col, max(1, stop_row - row), max(1, stop_col - col))

    def read(self, window: Window) -> npt.NDArray[Any]:
        """Return the bands of a window as (bands, height, width) in the file's type.

        With a height model it is float32, and the heights come last: NaN where there is none.

        On a coarser grid than the raster's own, pixels are means of those that they cover; on a
        finer one they are interpolated. Pixels without data don't enter into either.

        Raises:
            HrrsiError: The file can't be read there (truncated, damaged).
        """
        if self.step == 1:
            return self._own_pixels(window)
        pixels, valid = self._resampled(window)
        self._last = window, valid
        return pixels

    def read_valid(self, window: Window, pixels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which pixels of a window hold data, as (height, width).

        A pixel holds no data where the file's mask or alpha says so (alpha from 1 on is data),
        where every band that has a nodata value holds it, where every band holds `nodata`, where
        any band is NaN or infinite, and where there is no height in a scene with a height model.

        Args:
            window: The window.
            pixels: What `read` returned for it.
        """
        if not self.declares_nodata:
            return np.ones((window.height, window.width), dtype=bool)
        if self.step == 1:
            return self._own_valid(window, pixels)
        if self._last is None or self._last[0] != window:
            self._last = window, self._resampled(window)[1]
        valid = self._last[1]
        return np.ones((window.height, window.width), dtype=bool) if valid is None else valid

    def read_map_valid(self, window: Window) -> npt.NDArray[np.bool_]:
        """Return which pixels of the raster's own grid that a window covers hold data.

        Args:
            window: The window; `on_input_grid` says where the pixels lie.

        Raises:
            HrrsiError: The file can't be read there.
        """
        own, part = self.on_own_grid, self.on_input_grid(window)
        return own.read_valid(part, own.read(part))

    @contextmanager
    def reduced(self, shortest: int, longest: int) -> Iterator[Scene | None]:
        """Yield the smallest overview whose longer side has so many pixels, or None.

        None also where overviews may have mixed pixels without data into others, and with a
        height model.

        Args:
            shortest: Pixels of the longer side at least.
            longest: Pixels of the longer side at most.
        """
        side = max(self.dataset.height, self.dataset.width)
        factors = self.dataset.overviews(self.bands[0])
        fitting = {f: i for i, f in enumerate(factors) if shortest <= side / f <= longest}
        with ExitStack() as stack:
            yield _overview(stack, self, fitting[max(fitting)]) if fitting else None

    def without_height(
        self, window: Window, pixels: npt.NDArray[Any]
    ) -> npt.NDArray[np.bool_] | None:
        """Return which pixels hold data but for their height, as (height, width), or None.

        None where there is no height model.

        Args:
            window: A window of the raster's own grid.
            pixels: What `read` returned for it.
        """
        if self.height_model is None:
            return None
        lacking: npt.NDArray[np.bool_] = ~np.isfinite(pixels[-1])
        return lacking & self._image_valid(window, pixels[:-1])

    def _own_pixels(self, window: Window) -> npt.NDArray[Any]:
        values = self.reader.values(window)
        if self.height_model is None:
            return values
        pixels = np.empty((len(values) + 1, *values.shape[1:]), dtype=np.float32)
        pixels[:-1] = values
        pixels[-1] = self.height_model.read(window)
        return pixels

    def _own_valid(self, window: Window, pixels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        if self.height_model is None:
            return self._image_valid(window, pixels)
        valid = self._image_valid(window, pixels[:-1])
        valid &= np.isfinite(pixels[-1])
        return valid

    def _image_valid(self, window: Window, pixels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        valid = self.reader.valid(window)
        if self.nodata is not None:
            valid &= ~(pixels == self.nodata).all(axis=0)
        if np.issubdtype(pixels.dtype, np.floating):
            valid &= np.isfinite(pixels).all(axis=0)
        return valid

    def _resampled(self, window: Window) -> tuple[npt.NDArray[Any], Valid]:
        source = self.overview or self.on_own_grid
        height, width = source.dataset.height, source.dataset.width
        averages = self.step > 1

        def read(place: Window) -> tuple[npt.NDArray[Any], Valid]:
            values = source.read(place)
            if not source.declares_nodata:
                return values, None
            valid = source.read_valid(place, values)
            return values, None if valid.all() else valid

        return resampled_window(
            window,
            GridAxis(self.step * height / self.dataset.height, height, averages),
            GridAxis(self.step * width / self.dataset.width, width, averages),
            read,
        )


def _covering(pixels: int, step: float) -> int:
    return max(1, math.ceil(pixels / step - 1e-6))


def rasterio_window(window: Window) -> RasterioWindow:
    """Return a window in rasterio's terms."""
    return RasterioWindow(window.col, window.row, window.width, window.height)


@contextmanager
def open_scene(
    path: str | Path,
    *,
    bands: Sequence[int] | None = None,
    expected_bands: int = 3,
    nodata: float | None = None,
    aoi: str | Path | None = None,
    resolution: float | None = None,
    height_model: str | Path | None = None,
    trained_bands: Sequence[int] | None = None,
) -> Iterator[Scene]:
    """Open a raster as a scene.

    Args:
        path: A file, or whatever GDAL opens.
        bands: The 1-based bands to read; by default as `band_choice.chosen_bands` says. A band
            that is named is imagery, also where the file calls it alpha.
        expected_bands: How many bands the network sees, without the height model's.
        nodata: A value that marks pixels without data beside what the file declares.
        aoi: A vector file of polygons, the area of interest.
        resolution: Metres a pixel at which the scene is read; by default the raster's own. A
            difference of less than 1 % is left as it is.
        height_model: A raster of heights, the last band that the network sees, laid over the
            scene as `height_model.open_height_model` says.
        trained_bands: The bands of the scenes that the network was trained on.

    Raises:
        HrrsiError: Not a readable raster, not the right bands, no polygon of the area of interest
            on it, no ground resolution of its own to start from, or a height model that is none
            or doesn't fit.
    """
    with open_raster(path) as dataset, ExitStack() as stack:
        chosen = chosen_bands(path, dataset, bands, expected_bands, trained_bands)
        scene = Scene(str(path), dataset, chosen, nodata)
        if height_model is not None:
            heights = stack.enter_context(open_raster(height_model))
            scene.height_model = open_height_model(stack, height_model, dataset, str(path), heights)
        scene.reader.open_band_by_band(stack, lambda: opened_raster(str(path)))
        if resolution is not None:
            scene.step = _step(scene, resolution)
            scene.overview = _grid_overview(stack, scene)
        if aoi is not None:
            from hrrsi.scenes.polygons import area_of_interest

            scene.area = area_of_interest(aoi, scene)
        yield scene


def _step(scene: Scene, resolution: float) -> float:
    """Return how many of the raster's pixels one of the wanted resolution is wide."""
    own = scene.resolution
    if own is None:
        raise HrrsiError(
            "its ground resolution is not known, so it can't be read at another one",
            where=scene.path,
            fix="give it a CRS and a transform, or leave out --resample",
        )
    step = resolution / own
    if not (math.isfinite(step) and step >= _FINEST_STEP):
        raise HrrsiError(
            f"has {own:.3g} m a pixel, far too coarse to be read at {resolution:.3g} m",
            where=scene.path,
            fix="use weights for that resolution, or leave out --resample",
        )
    return 1.0 if abs(step - 1) < _SAME_RESOLUTION else step


def _grid_overview(stack: ExitStack, scene: Scene) -> Scene | None:
    """Return the coarsest overview that is no coarser than the network's grid, or None."""
    factors = scene.dataset.overviews(scene.bands[0])
    fitting = {f: i for i, f in enumerate(factors) if f <= scene.step * 1.001}
    return _overview(stack, scene, fitting[max(fitting)]) if fitting else None


def _overview(stack: ExitStack, scene: Scene, level: int) -> Scene | None:
    """Return an overview as a scene until `stack` closes, or None.

    None where overviews may have mixed pixels without data into others: with a `nodata` of the
    user's, a mask that the overviews don't have, or one in a file of its own or an alpha that is
    no mask to GDAL, which it leaves out of account when it builds overviews. None also with a
    height model, which lies on the raster's own grid.
    """
    if scene.has_height or scene.reader.has_unmasked_alpha:
        return None
    if scene.nodata is not None or any(f.endswith(".msk") for f in scene.dataset.files):
        return None
    dataset = stack.enter_context(opened_raster(scene.path, overview_level=level))
    if dataset.mask_flag_enums != scene.dataset.mask_flag_enums:
        return None
    return Scene(scene.path, dataset, scene.bands)
