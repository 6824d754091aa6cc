"""A scene: a raster on disk, read window by window on its own grid, with or without heights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from hrrsi.scenes.bands import (
    alpha_bands,
    alpha_is_imagery,
    chosen_bands,
    open_imagery,
)
from hrrsi.scenes.georeference import (
    ground_pixel,
    ground_resolution,
)
from hrrsi.scenes.height_model import HeightModel, open_height_model
from hrrsi.scenes.missing_data import RIM_MARGIN, is_lossy, lossy_rim, without_undeclared_gap
from hrrsi.scenes.pixel_reader import PixelReader, open_band_datasets
from hrrsi.scenes.raster_opening import MosaicLabel, open_raster, opened_raster
from hrrsi.scenes.windows import Window

if TYPE_CHECKING:
    from hrrsi.scenes.polygons import AreaOfInterest


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
        is_imagery = self.imagery_alpha
        return alpha_is_imagery(self.dataset, self.alpha_area) if is_imagery is None else is_imagery

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

    @property
    def pixel_sides(self) -> tuple[float, float] | None:
        """Metres from a pixel to the next column and to the next row, or None where unknown."""
        pixel = ground_pixel(self.dataset)
        return None if pixel is None else (pixel.across, pixel.down)

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
