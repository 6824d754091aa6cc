"""A scene: a raster on disk, read window by window on its own grid, with or without heights.

A height model is one more band of a scene, brought to the scene's grid window by window.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform as transform_coordinates
from rasterio.warp import transform_bounds

from hrrsi.errors import InputError
from hrrsi.scenes.bands import (
    alpha_bands,
    alpha_is_imagery,
    chosen_bands,
    colour_bands,
    open_imagery,
)
from hrrsi.scenes.georeference import (
    ground_resolution,
    has_transform,
    is_same_grid,
    map_coordinates,
)
from hrrsi.scenes.missing_data import RIM_MARGIN, is_lossy, lossy_rim, without_undeclared_gap
from hrrsi.scenes.pixel_reader import PixelReader, open_band_datasets
from hrrsi.scenes.raster_opening import MosaicLabel, open_raster, opened_raster, unified_gdal_errors
from hrrsi.scenes.windows import Window

if TYPE_CHECKING:
    from hrrsi.scenes.polygons import AreaOfInterest

# No ground lies there, in metres or feet. -9999, -32768 and the largest floats mark missing data.
_LOWEST, _HIGHEST = -1500.0, 1e6
_TOLERANCE = 0.01  # pixels by which places may be off where another CRS is approximated
_FULL_ALPHA = 1e-6  # any alpha but 0 is data, as in scenes; GDAL would weigh heights by it
# Stands for the CRS of rasters that have none: both get it, so nothing is projected.
_NO_CRS = CRS.from_epsg(3857)
# What the largest value of a type counts as: values are divided by it before normalisation.
FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0, "int16": 32767.0}


class HeightModel:
    """The heights of a scene's pixels. Use `open_height_model`.

    Args:
        path: Its file, for messages.
        dataset: A rasterio dataset with one band, on the scene's grid; nobody else may read it.
        original: The dataset as it was opened, which says what its values stand for. Where it is
            another one, NaN says in `dataset` where no height is known.
    """

    def __init__(self, path: str, dataset: Any, original: Any) -> None:
        self.path = path
        self._original = original
        self._reader = PixelReader(dataset, [1], path)
        self._masked = dataset is original and self._reader.declares_nodata
        self._gain, self._offset = float(original.scales[0]), float(original.offsets[0])

    @property
    def files(self) -> list[str]:
        """The files that it is made of."""
        return list(self._original.files)

    def read(self, window: Window) -> npt.NDArray[np.float32]:
        """Return the heights of a window of the scene, NaN where none is known.

        Values are converted by the scale and offset that the file declares.

        Args:
            window: On the scene's own grid.

        Returns:
            (height, width) float32.

        Raises:
            InputError: The file can't be read there, or holds what can be no height.
        """
        values = self._reader.values(window)[0]
        valid = np.isfinite(values)
        if self._masked:
            valid &= self._reader.valid(window)
        with np.errstate(over="ignore", invalid="ignore"):
            heights: npt.NDArray[np.float32] = (values * self._gain + self._offset).astype(
                np.float32
            )
        heights[~valid] = np.nan
        impossible = values[(heights < _LOWEST) | (heights > _HIGHEST)]
        if impossible.size:
            extreme = float(impossible[np.abs(impossible).argmax()])  # others may be mixed with it
            raise InputError(
                f"holds {extreme:g}, which can be no height",
                where=self.path,
                fix=f"declare what marks missing data, e.g. `gdal_edit.py -a_nodata {extreme:g}`",
            )
        return heights


def open_height_model(
    stack: ExitStack, path: str | Path, dataset: Any, scene_path: str, opened: Any
) -> HeightModel:
    """Open a raster of heights on a scene's grid, until `stack` closes.

    A raster on another grid is resampled by GDAL (bilinear, over as many pixels as one of the
    scene's covers, without those that hold no data; a pixel of the scene has a height where the
    height model's pixel at its centre has one). Where only one of the two says in which CRS it is,
    the other is taken to be in the same.

    Args:
        stack: Closes what is opened.
        path: The height model: a raster with one band.
        dataset: The scene's rasterio dataset.
        scene_path: The scene's name, for messages.
        opened: The height model's rasterio dataset.

    Raises:
        InputError: It has several bands, lies elsewhere, or can't be laid over the scene.
    """
    name = str(path)
    _require_one_band(opened, name)
    if is_same_grid(opened, dataset):
        return HeightModel(name, opened, opened)
    if not (has_transform(opened) and has_transform(dataset)):
        raise InputError(
            f"has {opened.height} rows and {opened.width} columns where {scene_path} has "
            f"{dataset.height} and {dataset.width}, and not both have a place on the map",
            where=name,
            fix="give both a CRS and a transform, or put the height model on the scene's grid",
        )
    own = opened.crs or dataset.crs or _NO_CRS
    target = dataset.crs or own
    _require_overlap(opened, own, dataset, target, name, scene_path)
    missing = opened.nodata
    if missing is None and "float" in opened.dtypes[0]:
        missing = np.nan
    try:
        with unified_gdal_errors():
            across, down = _covered(opened, own, dataset, target)
            warped = WarpedVRT(
                opened,
                src_crs=own,
                src_nodata=missing,
                crs=target,
                transform=dataset.transform,
                height=dataset.height,
                width=dataset.width,
                nodata=np.nan,
                dtype="float32",
                resampling=Resampling.bilinear,
                tolerance=_TOLERANCE,
                SRC_ALPHA_MAX=_FULL_ALPHA,
                # GDAL would estimate them for each window anew, and windows would not agree
                XSCALE=1 / across,
                YSCALE=1 / down,
            )
    except RasterioError as error:
        raise _not_projected(name, scene_path, error) from error
    return HeightModel(name, stack.enter_context(warped), opened)


def _require_one_band(dataset: Any, name: str) -> None:
    bands = colour_bands(dataset)
    if bands != [1]:
        raise InputError(
            f"has {len(bands)} bands where a height model has one",
            where=name,
            fix="name a raster that holds heights only, e.g. `gdal_translate -b 1`",
        )
    if "complex" in dataset.dtypes[0]:
        raise InputError("holds complex numbers", where=name, fix="use a raster of real values")


def _require_overlap(
    opened: Any, own: CRS, dataset: Any, target: CRS, name: str, scene_path: str
) -> None:
    left, bottom, right, top = map_coordinates(opened).bounds()
    bounds = map_coordinates(dataset).bounds()
    if own != target:
        try:
            with unified_gdal_errors():
                bounds = transform_bounds(target, own, *bounds)
        except RasterioError as error:
            raise _not_projected(name, scene_path, error) from error
    if bounds[2] <= left or bounds[0] >= right or bounds[3] <= bottom or bounds[1] >= top:
        raise InputError(
            f"does not lie on {scene_path}",
            where=name,
            fix="name its own height model, and check the CRS of both",
        )


def _covered(opened: Any, own: CRS, dataset: Any, target: CRS) -> tuple[float, float]:
    """Return how many columns and rows of a height model a pixel of a scene covers."""
    middle = np.array([dataset.width / 2, dataset.height / 2])
    pixels = middle + np.array([[0, 0], [1, 0], [0, 1]])
    x, y = map_coordinates(dataset).of_pixels(pixels[:, 0], pixels[:, 1])
    if own != target:
        x, y = map(np.array, transform_coordinates(target, own, x.tolist(), y.tolist()))
    columns, rows = map_coordinates(opened).pixels_of(x, y)
    across, down = (float(np.hypot(*(p[1:] - p[0]))) for p in (columns, rows))
    return round(across, 9), round(down, 9)


def _not_projected(name: str, scene_path: str, error: Exception) -> InputError:
    reason = re.sub(r"\s+", " ", str(error)).strip()
    return InputError(
        f"can't be laid over {scene_path} ({reason})", where=name, fix="check the CRS of both"
    )


@dataclass(frozen=True)
class Scene:
    """An open raster, limited to the bands that a network sees. Use `open_scene`.

    Windows lie on the raster's own grid; `hrrsi.scenes.window_source.SceneWindows` has a scene on
    another one.

    Attributes:
        path: As given, for messages; of a `Mosaic`, its title.
        dataset: The rasterio dataset.
        bands: The 1-based bands that `read` returns.
        nodata: A value that marks pixels without data where every band in `bands` holds it, on
            top of what the file itself declares.
        height_model: Heights of the pixels, which are one more band after `bands`, or None. With
            it, all that is read is float32.
        band_datasets: From `open_band_datasets`.
        imagery_alpha: Whether the band that the file calls alpha holds values as imagery does, and
            masks nothing; None: not looked at yet (`has_imagery_alpha` does).
        alpha_area: Where it is looked at; None: all over.
    """

    path: str
    dataset: Any
    bands: tuple[int, ...]
    nodata: float | None = None
    height_model: HeightModel | None = None
    band_datasets: tuple[Any, ...] = ()
    imagery_alpha: bool | None = False
    alpha_area: AreaOfInterest | None = None

    @cached_property
    def has_imagery_alpha(self) -> bool:
        """Whether the band that the file calls alpha holds values as imagery does.

        `hrrsi.scenes.bands.alpha_is_imagery` looks at pixels, which may come from a server.
        """
        known = self.imagery_alpha
        return alpha_is_imagery(self.dataset, self.alpha_area) if known is None else known

    @property
    def own_grid(self) -> Scene:
        """The scene on its raster's grid: itself, unless it is read at another resolution."""
        return self

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return int(self.dataset.height)

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return int(self.dataset.width)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of pixels."""
        return self.height, self.width

    @property
    def dtype(self) -> str:
        """NumPy name of the type of the raster's bands."""
        return str(self.dataset.dtypes[self.bands[0] - 1])

    @property
    def is_palette_picture(self) -> bool:
        """Whether the raster has a palette, and its colours are read."""
        return self.dataset.name.startswith("vrt://") and "?expand=rgb" in self.dataset.name

    @property
    def is_part(self) -> bool:
        """Whether it is a window of a larger raster."""
        return self.dataset.name.startswith("vrt://") and "srcwin=" in self.dataset.name

    @cached_property
    def mosaic(self) -> MosaicLabel | None:
        """What it says of itself where it is a `Mosaic`, whose file is gone after the run."""
        return MosaicLabel.of(self.dataset)

    @property
    def has_height(self) -> bool:
        """Whether the last band is a height."""
        return self.height_model is not None

    @property
    def resolution(self) -> float | None:
        """Ground sampling distance in metres per pixel, or None where unknown."""
        return ground_resolution(self.dataset)

    @cached_property
    def reader(self) -> PixelReader:
        """Reads windows of the bands."""
        return PixelReader(
            self.dataset,
            self.bands,
            self.path,
            self.band_datasets,
            reads_alpha=not self.has_imagery_alpha,
        )

    @cached_property
    def declares_nodata(self) -> bool:
        """Whether some pixels may hold no data, by the file's word or by `nodata`."""
        return (
            self.nodata is not None
            or self.reader.declares_nodata
            or "float" in self.dtype
            or self.has_height
        )

    def read(self, window: Window) -> npt.NDArray[Any]:
        """Return the bands of a window as (bands, height, width) in the file's type.

        With a height model it is float32, and the heights come last: NaN where there is none.

        Raises:
            InputError: The file can't be read there (truncated, damaged).
        """
        values = self.reader.values(window)
        if self.height_model is None:
            return values
        pixels = np.empty((len(values) + 1, *values.shape[1:]), dtype=np.float32)
        pixels[:-1] = values
        pixels[-1] = self.height_model.read(window)
        return pixels

    def read_valid(self, window: Window, pixels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which pixels of a window hold data, as (height, width).

        A pixel holds no data where the file's mask or alpha says so (alpha from 1 on is data),
        where every band that has a nodata value holds it, where every band holds `nodata`, where
        any band is NaN or infinite, and where there is no height in a scene with a height model.
        Where compression is lossy, also beside missing data where it has nearly its value.

        Args:
            window: The window.
            pixels: What `read` returned for it.
        """
        if not self.declares_nodata:
            return np.ones((window.height, window.width), dtype=bool)
        if self.height_model is None:
            return self._image_valid(window, pixels)
        valid = self._image_valid(window, pixels[:-1])
        valid &= np.isfinite(pixels[-1])
        return valid

    def without_height(
        self, window: Window, pixels: npt.NDArray[Any]
    ) -> npt.NDArray[np.bool_] | None:
        """Return which pixels hold data but for their height, as (height, width), or None.

        None where there is no height model.

        Args:
            window: The window.
            pixels: What `read` returned for it.
        """
        if self.height_model is None:
            return None
        heightless: npt.NDArray[np.bool_] = ~np.isfinite(pixels[-1])
        return heightless & self._image_valid(window, pixels[:-1])

    @contextmanager
    def reduced(self, shortest: int, longest: int) -> Iterator[Scene | None]:
        """Yield the smallest overview whose longer side has so many pixels, or None.

        None also where `open_overview` has none.

        Args:
            shortest: Pixels of the longer side at least.
            longest: Pixels of the longer side at most.
        """
        factors = self.dataset.overviews(self.bands[0])
        side = max(self.shape)
        fitting = {f: i for i, f in enumerate(factors) if shortest <= side / f <= longest}
        with ExitStack() as stack:
            yield open_overview(stack, self, fitting[max(fitting)]) if fitting else None

    @cached_property
    def _blurred_nodata(self) -> float | None:
        """The value of missing data whose edge lossy compression has blurred, or None."""
        declared = {self.dataset.nodatavals[band - 1] for band in self.bands}
        value = self.nodata
        if value is None and len(declared) == 1:
            (value,) = declared
        return value if value is not None and is_lossy(self.dataset) else None

    def _rim(self, window: Window, nodata: float) -> npt.NDArray[np.bool_]:
        row, col = max(0, window.row - RIM_MARGIN), max(0, window.col - RIM_MARGIN)
        stop_row = min(self.height, window.row + window.height + RIM_MARGIN)
        stop_col = min(self.width, window.col + window.width + RIM_MARGIN)
        values = self.reader.values(Window(row, col, stop_row - row, stop_col - col))
        rim = lossy_rim(values, nodata)[window.row - row :, window.col - col :]
        return rim[: window.height, : window.width]

    def _image_valid(self, window: Window, pixels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        valid = self.reader.valid(window)
        if self.nodata is not None:
            valid &= ~(pixels == self.nodata).all(axis=0)
        if self._blurred_nodata is not None:
            valid &= ~self._rim(window, self._blurred_nodata)
        if np.issubdtype(pixels.dtype, np.floating):
            valid &= np.isfinite(pixels).all(axis=0)
        return valid


@contextmanager
def open_scene(
    path: str | Path,
    *,
    bands: Sequence[int] | None = None,
    expected_bands: int = 3,
    trained_bands: Sequence[int] | None = None,
    meanings: Sequence[str | None] | None = None,
    nodata: float | Literal["auto"] | None = None,
    height_model: str | Path | None = None,
    crs: str | None = None,
    part: Window | None = None,
) -> Iterator[Scene]:
    """Open a raster as a scene.

    Args:
        path: A file, or whatever GDAL opens.
        bands: The 1-based bands to read; by default as `bands.chosen_bands` says. A band that is
            named is imagery, also where the file calls it alpha.
        expected_bands: How many bands the network sees, without the height model's.
        trained_bands: The bands of the scenes that the network was trained on.
        meanings: What these show, where it is known: bands that the raster itself calls so are
            read in their place.
        nodata: A value that marks pixels without data beside what the file declares; ``auto``:
            the one that `missing_data.undeclared_gap` finds, if any.
        height_model: A raster of heights, the last band that the network sees, laid over the
            scene as `height_model.open_height_model` says.
        crs: The CRS of a raster that holds none, by default that of a ``.prj`` file beside it.
        part: A window of the raster to open as if it were the scene; by default the whole.

    Raises:
        InputError: Not a readable raster, not the right bands, or a height model that is none or
            doesn't fit.
    """
    with open_imagery(path, expected_bands, crs, part) as dataset, ExitStack() as stack:
        name = scene_title(dataset, path)
        chosen = chosen_bands(name, dataset, bands, expected_bands, trained_bands, meanings)
        heights = None
        if height_model is not None:
            opened = stack.enter_context(open_raster(height_model))
            heights = open_height_model(stack, height_model, dataset, name, opened)
        by_band = open_band_datasets(stack, dataset, chosen, lambda: opened_raster(str(path)))
        alphas = set(alpha_bands(dataset))
        no_mask = None if alphas and not alphas & set(chosen) else False
        value = None if nodata == "auto" else nodata
        scene = Scene(name, dataset, chosen, value, heights, by_band, no_mask)
        yield without_undeclared_gap(scene) if nodata == "auto" else scene


def scene_title(dataset: Any, path: str | Path) -> str:
    """Return what messages call an open raster: its path; of a `Mosaic`, its title."""
    label = MosaicLabel.of(dataset)
    return str(path) if label is None else label.title


def open_overview(stack: ExitStack, scene: Scene, level: int) -> Scene | None:
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
    if scene.is_part or scene.mosaic:  # those of its file are of the whole, or of a tile
        return None
    if scene.is_palette_picture:  # its overviews may have mixed numbers of the palette
        return None
    dataset = stack.enter_context(opened_raster(scene.path, overview_level=level))
    if dataset.mask_flag_enums != scene.dataset.mask_flag_enums:
        return None
    return Scene(scene.path, dataset, scene.bands, imagery_alpha=scene.has_imagery_alpha)
