"""Reads pixels of a raster, by windows or as a picture for people.

Of a window also which of its values the file declares to be data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import Interleaving, MaskFlags, Resampling
from rasterio.env import get_gdal_config
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterioWindow

from hrrsi.errors import InputError, one_line
from hrrsi.scenes.bands import (
    BLUE,
    GREEN,
    RED,
    alpha_bands,
    bands_showing,
    colour_bands,
    open_imagery,
)
from hrrsi.scenes.raster_opening import (
    bounded_block_cache,
    is_local,
    open_raster,
    remember_failure,
)
from hrrsi.scenes.windows import Window

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

NO_DATA_COLOUR = (235, 237, 240)  # in pictures for people
_LARGEST_ROWS = 192 * 2**20
_ROWS_SEEN = 256  # of a raster whose values are looked at
_MOST_SEEN = 1000  # values; what has more is none of classes


@bounded_block_cache()
def scene_picture(
    name: str, bands: Sequence[int] | None, height: int, width: int
) -> npt.NDArray[np.uint8]:
    """Return a scene as (height, width, 3) uint8, white to grey where it holds no data.

    Values other than uint8 are stretched between their 2nd and 98th percentile. The raster is read
    decimated, so its size does not matter.

    Args:
        name: The raster, as GDAL opens it.
        bands: 1-based bands, of which the first three (or the first alone) are shown; by default
            those that it says are red, green and blue, else all that are not alpha.
        height: Rows of the picture.
        width: Columns of the picture.

    Raises:
        InputError: The raster can't be opened.
    """
    with open_imagery(name, 3) as dataset:
        colours = bands_showing(dataset, (RED, GREEN, BLUE))
        candidates = bands or colours or colour_bands(dataset)
        triple = list(candidates[:3]) if len(candidates) >= 3 else [candidates[0]] * 3
        size = (3, height, width)
        enlarged = height > dataset.height
        resampling = Resampling.cubic if enlarged else Resampling.average
        values = dataset.read(triple, out_shape=size, resampling=resampling)
        valid = (dataset.read_masks(triple, out_shape=size) != 0).any(axis=0)
    valid &= np.isfinite(values).all(axis=0)
    pixels = values
    if values.dtype != np.uint8:
        pixels = stretched(values, valid, stretch_limits(values[:, valid]))
    pixels = np.where(valid, pixels, np.asarray(NO_DATA_COLOUR, dtype=np.uint8)[:, None, None])
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))


@cache
def text_font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which knows more letters than Pillow's own font.

    Args:
        size: In pixels.
        bold: Whether it is the bold one.
    """
    from PIL import ImageFont  # which maps do without

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(resources.files("hrrsi") / "scenes" / "fonts" / name), size)


def fitting_text(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int
) -> str:
    """Return a text, shortened so that it is at most `width` pixels wide."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"


def stretch_limits(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the values that are black and white in pictures: the 2nd and 98th percentile.

    Args:
        values: Of all bands, from pixels with data; of any shape, perhaps empty.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, (2, 98))
    return float(low), float(high)


def stretched(
    values: npt.NDArray[Any], valid: npt.NDArray[np.bool_], limits: tuple[float, float]
) -> npt.NDArray[np.uint8]:
    """Return values as uint8, stretched between those that are black and white.

    Args:
        values: (bands, height, width).
        valid: (height, width), which pixels hold data; the others are black.
        limits: From `stretch_limits`.
    """
    low, high = limits
    finite = np.where(valid, values, low).astype(np.float64)
    shares: npt.NDArray[np.float64] = np.clip((finite - low) / max(high - low, 1e-12), 0, 1)
    return (shares * 255).astype(np.uint8)


class PixelReader:
    """Reads windows of some bands of a raster, each block of the file as seldom as can be.

    GDAL keeps the blocks that it has decoded. Where those that a row of windows touches don't fit
    into that cache (blocks far larger than windows, or very wide rasters in strips), every window
    would decode them again: then whole rows of pixels are read once and kept for the windows
    beside each other.

    Args:
        dataset: A rasterio dataset; nobody else may read it meanwhile.
        bands: The 1-based bands.
        where: Its name, for messages.
        band_datasets: From `open_band_datasets`.
        reads_alpha: Whether a band that the file calls alpha says which pixels hold data.

    Attributes:
        alpha_bands: The 1-based bands that the file calls alpha.
    """

    def __init__(
        self,
        dataset: Any,
        bands: Sequence[int],
        where: str,
        band_datasets: Sequence[Any] = (),
        *,
        reads_alpha: bool = True,
    ) -> None:
        self._dataset = dataset
        self._bands = list(bands)
        self._where = where
        self._row_cache: dict[bool, tuple[int, npt.NDArray[Any]]] = {}
        self._row_bytes = dataset.width * sum(
            np.dtype(dataset.dtypes[band - 1]).itemsize for band in self._bands
        )
        self._band_datasets = band_datasets
        # before the masks: where GDAL looked for one on a server in vain, rasterio raises that here
        self.alpha_bands = alpha_bands(dataset)
        # GDAL calls the last of four bands alpha unless told otherwise: it is no mask where it
        # is wanted as a band
        reads_alpha = reads_alpha and not set(self.alpha_bands) & set(self._bands)
        flags = dataset.mask_flag_enums
        no_masks = {MaskFlags.all_valid} | ({MaskFlags.alpha} if not reads_alpha else set())
        self._masked = [band for band in self._bands if not no_masks & set(flags[band - 1])]
        # GDAL makes a mask only of the last of two or four bands, of 8 or 16 bits, and where no
        # value is declared as no data
        is_mask = any(MaskFlags.alpha in flags[band - 1] for band in self._masked)
        if self._masked and all(MaskFlags.per_dataset in flags[b - 1] for b in self._masked):
            self._masked = self._masked[:1]  # one mask for all of them
        self._alpha = self.alpha_bands[:1] if reads_alpha and not is_mask else []

    @property
    def declares_nodata(self) -> bool:
        """Whether the file has a mask, alpha or a nodata value for any of the bands."""
        return bool(self._masked or self._alpha)

    @property
    def has_unmasked_alpha(self) -> bool:
        """Whether there is an alpha that GDAL takes for no mask, in overviews neither."""
        return bool(self._alpha)

    def values(self, window: Window) -> npt.NDArray[Any]:
        """Return a window's (bands, height, width) in the file's type.

        Raises:
            InputError: The file can't be read there.
        """
        return self._rows_or_window(window, masks=False)

    def valid(self, window: Window) -> npt.NDArray[np.bool_]:
        """Return which pixels of a window the file declares to be data, (height, width).

        As in `rasterio.DatasetReader.dataset_mask`: with a nodata value a pixel is without data
        where every band that has one holds it; alpha counts as data from 1 on, beside a nodata
        value or mask too, unless it is one of the bands that are read.

        Raises:
            InputError: The file can't be read there.
        """
        if not self.declares_nodata:
            return np.ones((window.height, window.width), dtype=bool)
        masks = self._rows_or_window(window, masks=True) != 0
        alpha = slice(len(masks) - len(self._alpha), None)
        valid: npt.NDArray[np.bool_] = masks[alpha].all(axis=0)
        if self._masked:
            valid &= masks[: alpha.start].any(axis=0)
        return valid

    def _rows_or_window(self, window: Window, *, masks: bool) -> npt.NDArray[Any]:
        if window.width == self._dataset.width or not self._rows_pay(window):
            return self._read(window, masks=masks)
        first, rows = self._row_cache.setdefault(masks, (0, np.empty((0, 0, 0))))
        stop = window.row + window.height
        if not first <= window.row < stop <= first + rows.shape[1]:
            overlap = rows[:, window.row - first :] if first <= window.row else rows[:, :0]
            overlap = overlap.copy()
            del rows, self._row_cache[masks]  # the new rows take as much memory
            rows = self._more_rows(window, overlap, masks=masks)
            first = window.row
            self._row_cache[masks] = first, rows
        columns = slice(window.col, window.col + window.width)
        return rows[:, window.row - first : stop - first, columns].copy()

    def _rows_pay(self, window: Window) -> bool:
        """Return whether a row of such windows touches more blocks than GDAL keeps."""
        dataset = self._dataset
        if self._row_bytes * window.height > _LARGEST_ROWS:
            return False
        rows, columns = dataset.block_shapes[self._bands[0] - 1]
        down = min((window.height - 2) // rows + 2, -(-dataset.height // rows))
        touched = down * rows * self._row_bytes * (-(-dataset.width // columns) * columns)
        return bool(touched > int(get_gdal_config("GDAL_CACHEMAX")) * dataset.width)

    def _more_rows(
        self, window: Window, overlap: npt.NDArray[Any], *, masks: bool
    ) -> npt.NDArray[Any]:
        """Return whole rows from a window's first one on, of which the first are in memory already.

        They end where blocks end, if so many can be kept: then no block is decoded twice.
        """
        dataset = self._dataset
        stop = window.row + window.height
        rows = dataset.block_shapes[self._bands[0] - 1][0]
        block_stop = min(-(-stop // rows) * rows, dataset.height)
        if (block_stop - window.row) * self._row_bytes <= _LARGEST_ROWS:
            stop = block_stop
        begin = window.row + overlap.shape[1]
        new_rows = Window(begin, 0, stop - begin, dataset.width)
        if not overlap.size:
            return self._read(new_rows, masks=masks)
        whole = np.empty((len(overlap), stop - window.row, dataset.width), dtype=overlap.dtype)
        whole[:, : overlap.shape[1]] = overlap
        self._read(new_rows, masks=masks, out=whole[:, overlap.shape[1] :])
        return whole

    def _read(
        self, window: Window, *, masks: bool, out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        place = rasterio_window(window)
        try:
            if masks:
                array: npt.NDArray[Any] = self._read_masks(place, out)
            elif not self._band_datasets:
                array = self._dataset.read(self._bands, window=place, out=out)
            else:
                shape = (len(self._bands), window.height, window.width)
                array = (
                    np.empty(shape, self._dataset.dtypes[self._bands[0] - 1])
                    if out is None
                    else out
                )
                for number, opened in enumerate(self._band_datasets):
                    array[number] = opened.read(self._bands[number], window=place)
        except RasterioError as error:
            raise _unreadable(self._dataset, self._where, window, error) from error
        return array

    def _read_masks(
        self, place: RasterioWindow, out: npt.NDArray[np.uint8] | None
    ) -> npt.NDArray[np.uint8]:
        """Return the masks of bands, then alpha, above 0 where there is data."""
        layers = []
        dataset, masked = self._dataset, self._masked
        by_value = all(MaskFlags.nodata in dataset.mask_flag_enums[b - 1] for b in masked)
        if masked and self._alpha and by_value:
            # `read_masks` would warn that it leaves out the alpha
            values = dataset.read(masked, window=place)
            nodata = [np.array(dataset.nodatavals[b - 1]).astype(values.dtype) for b in masked]
            own = np.reshape(nodata, (-1, 1, 1))
            layers.append((values != own) & ~(np.isnan(values) & np.isnan(own)))
        elif masked:
            layers.append(dataset.read_masks(masked, window=place))
        if self._alpha:
            layers.append(dataset.read(self._alpha, window=place) != 0)
        array = np.concatenate(layers, dtype=np.uint8) if len(layers) > 1 else layers[0]
        if out is None:
            return array.astype(np.uint8, copy=False)
        out[:] = array
        return out


@bounded_block_cache()
def value_sample(path: str) -> dict[float, int]:
    """Return how often values occur in some rows of a raster's first band, where it holds data.

    Overviews are not read, which may hold means.

    Args:
        path: The raster.

    Returns:
        The pixels of each value, in the order of values; empty where they can't be read.
    """
    counts: dict[float, int] = {}
    with open_raster(path) as dataset:
        reader = PixelReader(dataset, [1], path)
        last = dataset.height - 1
        rows = sorted({round(last * n / (_ROWS_SEEN - 1)) for n in range(_ROWS_SEEN)})
        for row in rows:
            window = Window(row, 0, 1, dataset.width)
            try:
                values = reader.values(window)[0][reader.valid(window)]
            except InputError:
                return {}  # whoever reads all of it says what is wrong
            for value, count in zip(*np.unique(values, return_counts=True), strict=True):
                counts[float(value)] = counts.get(float(value), 0) + int(count)
            if len(counts) > _MOST_SEEN:
                break
    return dict(sorted(counts.items()))


def rasterio_window(window: Window) -> RasterioWindow:
    """Return a window in rasterio's terms."""
    return RasterioWindow(window.col, window.row, window.width, window.height)


def open_band_datasets(
    stack: ExitStack, dataset: Any, bands: Sequence[int], open_again: Callable[[], Any]
) -> tuple[Any, ...]:
    """Return a dataset for each band where that saves decoding, until `stack` closes; else none.

    A TIFF with one strip a band is decoded from the strip's start whenever another band was
    read in between: each band keeps its place in its own strip this way.

    Args:
        stack: Closes the datasets.
        dataset: The raster, open.
        bands: The 1-based bands.
        open_again: Opens the raster once more.
    """
    if (
        len(bands) > 1
        and dataset.driver == "GTiff"
        and dataset.block_shapes[0][1] == dataset.width  # strips
        and dataset.compression is not None
        and dataset.interleaving == Interleaving.band
    ):
        return (dataset, *(stack.enter_context(open_again()) for _ in bands[1:]))
    return ()


def _unreadable(dataset: Any, where: str, window: Window, error: RasterioError) -> InputError:
    cause = one_line(getattr(error.__cause__, "errmsg", "") or error)
    place = f"cannot be read at row {window.row}, column {window.col}"
    if dataset.driver == "VRT":
        remember_failure(dataset, cause)
        return InputError(
            f"{place} ({cause})", where=where, fix="check the files that it refers to"
        )
    if not is_local(where):
        return InputError(f"{place} ({cause})", where=where, fix="try again, or copy the file")
    return InputError(f"{place} (truncated or damaged)", where=where, fix="copy the file again")
