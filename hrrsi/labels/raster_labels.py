"""Labels that are rasters: colours, or class indices."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError

from hrrsi.classes import IGNORE_INDEX, Colour, UnknownLabels
from hrrsi.errors import InputError
from hrrsi.labels.scene_labels import (
    UNKNOWN_LABEL,
    Indices,
    Labels,
)
from hrrsi.labels.scheme import Scheme
from hrrsi.quantities import counted
from hrrsi.scenes.bands import colour_bands
from hrrsi.scenes.pixel_reader import PixelReader, rasterio_window
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window

_NO_DATA = np.iinfo(np.int64).min  # stands for pixels without data; no file holds it
_BAND_PIXELS = 1 << 20  # values take eight bytes a pixel, so only so many at a time
_LARGEST_INDEX = 2**31
_RESAMPLED_COLOURS = 8  # so many unknown colours come from resampling or lossy compression


class _RasterLabels(Labels):
    """Labels in a raster, where a fixed set of values stands for classes.

    Pixels that the file declares to be no data (alpha, mask, a value, a palette's transparent
    entries) are ignored.
    """

    noun = "label"  # what messages call it, and NOUN_format the parameter that says what it holds

    def __init__(
        self,
        path: str,
        dataset: Any,
        scene: Scene,
        scheme: Scheme,
        name: str,
        unknown: UnknownLabels,
    ) -> None:
        super().__init__(scene, name, path, unknown)
        self.dataset = dataset
        self.scheme = scheme
        self._bands = colour_bands(dataset)
        indices = {_NO_DATA: IGNORE_INDEX, **self._scheme_values()}
        self._reader = PixelReader(dataset, self._bands, path)
        self._values = np.array(sorted(indices), dtype=np.int64)
        self._indices = np.array([indices[int(v)] for v in self._values], dtype=np.uint8)
        self._refuse_class_as_nodata()

    @abstractmethod
    def _scheme_values(self) -> dict[int, int]:
        """Return the class index of each value that the scheme has.

        Raises:
            InputError: The raster can't hold such values.
        """

    @abstractmethod
    def _read_values(self, window: Window) -> npt.NDArray[np.int64]:
        """Return one value a pixel."""

    @abstractmethod
    def _shown_as(self, value: int) -> int:
        """Return what `_read_values` makes of pixels that hold a value in all bands."""

    @abstractmethod
    def _describe(self, value: int) -> tuple[str, str]:
        """Return a value as text, and what the scheme has nearest to it."""

    def _decode(self, window: Window) -> Indices:
        indices = np.empty((window.height, window.width), dtype=np.uint8)
        for row, values in self._values_by_rows(window):
            indices[row - window.row :][: len(values)] = self._indices_of(values)
        return indices

    def decoded(self, window: Window) -> Indices:
        """Return class indices, 255 where ignored, 254 where the label is unknown."""
        return self._decode(window)

    def _values_by_rows(self, window: Window) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Yield a window's values some rows at a time, with the first row of each piece."""
        step = max(1, _BAND_PIXELS // window.width)
        for row in range(window.row, window.row + window.height, step):
            rows = min(step, window.row + window.height - row)
            part = Window(row, window.col, rows, window.width)
            values = self._read_values(part)
            if self._reader.declares_nodata:
                values[~self._valid(part)] = _NO_DATA
            yield row, values

    def _indices_of(self, values: npt.NDArray[np.int64]) -> Indices:
        place = np.minimum(np.searchsorted(self._values, values), len(self._values) - 1)
        in_scheme = self._values[place] == values
        return np.where(in_scheme, self._indices[place], np.uint8(UNKNOWN_LABEL)).astype(np.uint8)

    def _read(self, window: Window) -> npt.NDArray[Any]:
        """Return all bands but alpha, as they are."""
        with self._damage_named(window):
            array: npt.NDArray[Any] = self.dataset.read(self._bands, window=rasterio_window(window))
        return array

    def _valid(self, window: Window) -> npt.NDArray[np.bool_]:
        with self._damage_named(window):
            return self._reader.valid(window)

    @contextmanager
    def _damage_named(self, window: Window) -> Iterator[None]:
        try:
            yield
        except (RasterioError, InputError) as error:
            raise InputError(
                f"the {self.noun} cannot be read at row {window.row}, column {window.col} "
                "(truncated or damaged)",
                where=self.path,
                fix="copy the file again",
            ) from error

    def _refuse_class_as_nodata(self) -> None:
        """Raise where pixels of a class could not be told from pixels without data.

        Rasters often keep the declaration of the image that they were made from.
        """
        nodata: Any = self.dataset.nodata
        if nodata is None or not np.isfinite(nodata) or nodata != int(nodata):
            return
        dtype = np.dtype(self.dataset.dtypes[0])
        if np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            if not limits.min <= nodata <= limits.max:
                return
        shown = np.array([self._shown_as(int(nodata))], dtype=np.int64)
        index = int(self._indices_of(shown)[0])
        if index < len(self.scheme.all_labels):
            raise InputError(
                f"declares {nodata:g} as no data, which stands for "
                f"{self.scheme.all_labels[index].name} too",
                where=self.path,
                fix="take the declaration away (`gdal_edit.py -unsetnodata`), or write missing "
                "data as another value",
            )

    def _unknown_values(self) -> tuple[tuple[int, int], int, dict[int, int]]:
        """Return the first unknown pixel of the whole scene, its value, and counts by value."""
        whole = Window(0, 0, self.scene.height, self.scene.width)
        first: tuple[tuple[int, int], int] | None = None
        counts: dict[int, int] = {}
        for row, values in self._values_by_rows(whole):
            unknown = self._indices_of(values) == UNKNOWN_LABEL
            if not unknown.any():
                continue
            if first is None:
                r, c = np.unravel_index(int(unknown.argmax()), unknown.shape)
                first = (row + int(r), int(c)), int(values[r, c])
            for value, count in zip(*np.unique(values[unknown], return_counts=True), strict=True):
                counts[int(value)] = counts.get(int(value), 0) + int(count)
        assert first is not None  # only asked for after a window held one
        return *first, counts

    def _looks_resampled(self, counts: dict[int, int]) -> bool:
        return False

    def _unknown_error(self) -> InputError:
        (row, col), value, counts = self._unknown_values()
        text, nearest = self._describe(value)
        message = (
            f"scene {self.name}: unknown {text} at row {row}, column {col}, "
            f"{_pixels(counts[value])}; the nearest class is {nearest}"
        )
        if len(counts) > 1:
            rest = sum(counts.values()) - counts[value]
            message += f"; {len(counts) - 1} more unknown values in {_pixels(rest)}"
        if self._looks_resampled(counts):
            message += f"; the {self.noun} looks resampled or lossily compressed (blended colours)"
            fix = f"take the original {self.noun}, or resample it with nearest neighbour"
        else:
            fix = "add it to the scheme, or give `unknown=ignore`"
        return InputError(message, where=self.path, fix=fix)


class ColourLabels(_RasterLabels):
    """Labels whose colours stand for classes; palettes count as the colours that they show."""

    def _scheme_values(self) -> dict[int, int]:
        self._palette: npt.NDArray[np.int64] | None = None
        dataset = self.dataset
        if set(dataset.dtypes) != {"uint8"} or len(self._bands) not in (1, 3):
            raise InputError(
                f"holds {counted(len(self._bands), 'band')} of {dataset.dtypes[0]}, "
                "not colours (three bands or a palette, of uint8)",
                where=self.path,
                fix=f"if it holds class indices, give `{self.noun}_format=indices`",
            )
        if dataset.colorinterp[self._bands[0] - 1] == ColorInterp.palette:
            self._palette = np.full(256, -1, dtype=np.int64)
            for entry, (red, green, blue, opacity) in dataset.colormap(self._bands[0]).items():
                self._palette[entry] = _packed(red, green, blue) if opacity else _NO_DATA
        ignored = {_packed(*i.colour): IGNORE_INDEX for i in self.scheme.ignored}
        return ignored | {_packed(*c.colour): n for n, c in enumerate(self.scheme.all_labels)}

    def _read_values(self, window: Window) -> npt.NDArray[np.int64]:
        bands = self._read(window)
        if self._palette is not None:
            shown: npt.NDArray[np.int64] = self._palette[bands[0]]
            return shown
        red, green, blue = bands if len(bands) == 3 else bands.repeat(3, axis=0)
        packed: npt.NDArray[np.int64] = red.astype(np.int64) << 16
        packed |= green.astype(np.int64) << 8
        packed |= blue
        return packed

    def _shown_as(self, value: int) -> int:
        return _packed(value, value, value) if self._palette is None else int(self._palette[value])

    def _describe(self, value: int) -> tuple[str, str]:
        colour = _unpacked(value)
        nearest = min(
            self.scheme.all_labels,
            key=lambda c: sum((a - b) ** 2 for a, b in zip(c.colour, colour, strict=True)),
        )
        text = f"colour {_text(colour)}"
        if len(self._bands) == 1 and self._palette is None:
            text += f" (one band without palette: class indices? then `{self.noun}_format=indices`)"
        return text, f"{nearest.name} {_text(nearest.colour)}"

    def _looks_resampled(self, counts: dict[int, int]) -> bool:
        if len(counts) >= _RESAMPLED_COLOURS:
            return True
        colours = [label.colour for label in self.scheme.all_labels]
        colours += [label.colour for label in self.scheme.ignored]
        return len(counts) > 1 and all(_is_blend(_unpacked(v), colours) for v in counts)


class IndexLabels(_RasterLabels):
    """Labels whose values are class indices, whole numbers of any type; 255 and NaN are ignored."""

    def _scheme_values(self) -> dict[int, int]:
        dtypes = {np.dtype(self.dataset.dtypes[band - 1]) for band in self._bands}
        if len(self._bands) != 1 or next(iter(dtypes)).kind not in "iuf":
            raise InputError(
                f"holds {counted(len(self._bands), 'band')} of "
                f"{' and '.join(sorted(map(str, dtypes)))}, not class indices (one band)",
                where=self.path,
                fix=f"if it holds colours, give `{self.noun}_format=colours`",
            )
        return {IGNORE_INDEX: IGNORE_INDEX, **self._codes()}

    def _codes(self) -> dict[int, int]:
        """Return the class index of each code of the scheme."""
        codes = {i.index: IGNORE_INDEX for i in self.scheme.ignored if i.index is not None}
        return codes | {
            position if c.index is None else c.index: position
            for position, c in enumerate(self.scheme.all_labels)
        }

    def _read_values(self, window: Window) -> npt.NDArray[np.int64]:
        band = self._read(window)[0]
        if band.dtype.kind != "f":
            values: npt.NDArray[np.int64] = band.astype(np.int64)
            return values
        is_nodata = np.isnan(band) | ~self._valid(window)
        whole = np.where(is_nodata, 0, band)
        broken = ~(np.abs(whole) < _LARGEST_INDEX) | (whole != np.trunc(whole))
        if broken.any():
            row, col = np.argwhere(broken)[0]
            raise InputError(
                f"holds {band[row, col]:g} at row {window.row + row}, column {window.col + col}, "
                "which is no class index",
                where=self.path,
                fix="round a map of classes to whole numbers; scores and heights are none",
            )
        return np.where(is_nodata, _NO_DATA, whole.astype(np.int64))

    def _shown_as(self, value: int) -> int:
        return value

    def _describe(self, value: int) -> tuple[str, str]:
        numbered = [
            (position if c.index is None else c.index, c.name)
            for position, c in enumerate(self.scheme.all_labels)
        ]
        index, name = min(numbered, key=lambda pair: abs(pair[0] - value))
        text = f"index {value}"
        if value == len(self.scheme.all_labels) and numbered[0][0] == 0:
            text += " (do they start at 1? Classes do at 0 here)"
        return text, f"{name} ({index})"


def _packed(red: int, green: int, blue: int) -> int:
    return red << 16 | green << 8 | blue


def _unpacked(value: int) -> Colour:
    return value >> 16 & 255, value >> 8 & 255, value & 255


def _text(colour: Colour) -> str:
    return ",".join(map(str, colour))


def _pixels(count: int) -> str:
    return f"{count} pixel" if count == 1 else f"{count} pixels"


def _is_blend(colour: Colour, of_scheme: list[Colour]) -> bool:
    """Return whether a colour lies between two of the scheme's, but for rounding."""
    point = np.array(colour, dtype=float)
    ends = np.array(of_scheme, dtype=float)
    for i, start in enumerate(ends):
        for end in ends[i + 1 :]:
            along = end - start
            share = np.clip((point - start) @ along / (along @ along), 0, 1)
            if np.abs(start + share * along - point).max() <= 2:
                return True
    return False
