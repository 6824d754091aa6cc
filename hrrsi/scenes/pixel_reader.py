"""Reads windows of a raster: values, and which of them the file declares to be data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp, Interleaving, MaskFlags
from rasterio.env import get_gdal_config
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterioWindow

from hrrsi.errors import InputError
from hrrsi.scenes.bands import alpha_bands
from hrrsi.scenes.raster_opening import is_local, remember_failure
from hrrsi.scenes.windows import Window

_LARGEST_ROWS = 192 * 2**20


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

    Attributes:
        alpha_bands: The 1-based bands that the file calls alpha.
    """

    def __init__(
        self, dataset: Any, bands: Sequence[int], where: str, band_datasets: Sequence[Any] = ()
    ) -> None:
        self._dataset = dataset
        self._bands = list(bands)
        self._where = where
        self._kept: dict[bool, tuple[int, npt.NDArray[Any]]] = {}
        self._row_bytes = dataset.width * sum(
            np.dtype(dataset.dtypes[band - 1]).itemsize for band in self._bands
        )
        self._band_datasets = band_datasets
        # before the masks: where GDAL looked for one on a server in vain, rasterio raises that here
        self.alpha_bands = alpha_bands(dataset)
        meanings = [dataset.colorinterp[band - 1] for band in self._bands]
        flags = dataset.mask_flag_enums
        # GDAL calls the last of four bands alpha unless told otherwise: it is no mask where it
        # is wanted as a band
        no_mask = MaskFlags.alpha if ColorInterp.alpha in meanings else MaskFlags.all_valid
        self._masked = [
            band
            for band in self._bands
            if not {MaskFlags.all_valid, no_mask} & set(flags[band - 1])
        ]
        if self._masked and all(MaskFlags.per_dataset in flags[b - 1] for b in self._masked):
            self._masked = self._masked[:1]  # one mask for all of them
        # GDAL makes a mask only of the last of two or four bands, and of 8 or 16 bits
        plain = all(MaskFlags.all_valid in flags[band - 1] for band in self._bands)
        read_alpha = set(self.alpha_bands) & set(self._bands)
        self._alpha = self.alpha_bands[:1] if plain and not read_alpha else []

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
        where every band that has one holds it; alpha counts as data from 1 on, unless it is one
        of the bands that are read.

        Raises:
            InputError: The file can't be read there.
        """
        if not self.declares_nodata:
            return np.ones((window.height, window.width), dtype=bool)
        valid: npt.NDArray[np.bool_] = (self._rows_or_window(window, masks=True) != 0).any(axis=0)
        return valid

    def _rows_or_window(self, window: Window, *, masks: bool) -> npt.NDArray[Any]:
        if window.width == self._dataset.width or not self._rows_pay(window):
            return self._read(window, masks=masks)
        first, kept = self._kept.setdefault(masks, (0, np.empty((0, 0, 0))))
        stop = window.row + window.height
        if not first <= window.row < stop <= first + kept.shape[1]:
            overlap = kept[:, window.row - first :] if first <= window.row else kept[:, :0]
            overlap = overlap.copy()
            del kept, self._kept[masks]  # the new rows take as much memory
            kept = self._more_rows(window, overlap, masks=masks)
            first = window.row
            self._kept[masks] = first, kept
        columns = slice(window.col, window.col + window.width)
        return kept[:, window.row - first : stop - first, columns].copy()

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
        missing = Window(begin, 0, stop - begin, dataset.width)
        if not overlap.size:
            return self._read(missing, masks=masks)
        whole = np.empty((len(overlap), stop - window.row, dataset.width), dtype=overlap.dtype)
        whole[:, : overlap.shape[1]] = overlap
        self._read(missing, masks=masks, out=whole[:, overlap.shape[1] :])
        return whole

    def _read(
        self, window: Window, *, masks: bool, out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        place = rasterio_window(window)
        try:
            if masks and self._alpha:
                array: npt.NDArray[Any] = self._dataset.read(self._alpha, window=place, out=out)
            elif masks:
                array = self._dataset.read_masks(self._masked, window=place, out=out)
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
    cause = " ".join(str(getattr(error.__cause__, "errmsg", "") or error).split())
    place = f"cannot be read at row {window.row}, column {window.col}"
    if dataset.driver == "VRT":
        remember_failure(dataset, cause)
        return InputError(
            f"{place} ({cause})", where=where, fix="check the files that it refers to"
        )
    if not is_local(where):
        return InputError(f"{place} ({cause})", where=where, fix="try again, or copy the file")
    return InputError(f"{place} (truncated or damaged)", where=where, fix="copy the file again")
