"""A scene: a raster on disk, read window by window on its own grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hrrsi.scenes.bands import chosen_bands
from hrrsi.scenes.georeference import ground_resolution
from hrrsi.scenes.height_model import HeightModel, open_height_model
from hrrsi.scenes.pixel_reader import PixelReader, open_band_datasets
from hrrsi.scenes.raster_opening import open_raster, opened_raster
from hrrsi.scenes.windows import Window

# What the largest value of a type counts as: values are divided by it before normalisation.
FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0, "int16": 32767.0}


@dataclass(frozen=True)
class Scene:
    """An open raster, limited to the bands that a network sees. Use `open_scene`.

    Windows lie on the raster's own grid; `hrrsi.scenes.window_source.SceneWindows` has a scene on
    another one.

    Attributes:
        path: As given, for messages.
        dataset: The rasterio dataset.
        bands: The 1-based bands that `read` returns.
        nodata: A value that marks pixels without data where every band in `bands` holds it, on
            top of what the file itself declares.
        height_model: Heights of the pixels, which are one more band after `bands`, or None. With
            it, all that is read is float32.
        band_datasets: From `open_band_datasets`.
    """

    path: str
    dataset: Any
    bands: tuple[int, ...]
    nodata: float | None = None
    height_model: HeightModel | None = None
    band_datasets: tuple[Any, ...] = ()

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
        return PixelReader(self.dataset, self.bands, self.path, self.band_datasets)

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

    def _image_valid(self, window: Window, pixels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        valid = self.reader.valid(window)
        if self.nodata is not None:
            valid &= ~(pixels == self.nodata).all(axis=0)
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
    nodata: float | None = None,
    height_model: str | Path | None = None,
) -> Iterator[Scene]:
    """Open a raster as a scene.

    Args:
        path: A file, or whatever GDAL opens.
        bands: The 1-based bands to read; by default as `bands.chosen_bands` says. A band that is
            named is imagery, also where the file calls it alpha.
        expected_bands: How many bands the network sees, without the height model's.
        trained_bands: The bands of the scenes that the network was trained on.
        nodata: A value that marks pixels without data beside what the file declares.
        height_model: A raster of heights, the last band that the network sees, laid over the
            scene as `height_model.open_height_model` says.

    Raises:
        InputError: Not a readable raster, not the right bands, or a height model that is none or
            doesn't fit.
    """
    with open_raster(path) as dataset, ExitStack() as stack:
        chosen = chosen_bands(path, dataset, bands, expected_bands, trained_bands)
        heights = None
        if height_model is not None:
            opened = stack.enter_context(open_raster(height_model))
            heights = open_height_model(stack, height_model, dataset, str(path), opened)
        by_band = open_band_datasets(stack, dataset, chosen, lambda: opened_raster(str(path)))
        yield Scene(str(path), dataset, chosen, nodata, heights, by_band)


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
    dataset = stack.enter_context(opened_raster(scene.path, overview_level=level))
    if dataset.mask_flag_enums != scene.dataset.mask_flag_enums:
        return None
    return Scene(scene.path, dataset, scene.bands)
