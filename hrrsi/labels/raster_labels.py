"""Labels in a raster: colours or class indices."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError

from hrrsi.errors import HrrsiError
from hrrsi.labels.scene_labels import UNKNOWN_LABEL, Indices, Labels, Unknown
from hrrsi.labels.scheme import IGNORE_INDEX, Scheme
from hrrsi.quantities import counted
from hrrsi.scenes.scene import Scene, rasterio_window
from hrrsi.scenes.windows import Window

_TRANSPARENT = -1  # stands for the colour of pixels whose alpha is 0
_BAND_PIXELS = 1 << 20  # values take eight bytes a pixel, so only so many at a time
_RESAMPLED_COLOURS = 8  # so many unknown colours come from resampling or lossy compression


class _RasterLabels(Labels):
    """Labels in a raster, where a known set of values stands for classes."""

    noun = "label"  # what messages call it

    def __init__(
        self, path: str, dataset: Any, scene: Scene, scheme: Scheme, name: str, unknown: Unknown
    ) -> None:
        super().__init__(scene, name, path, unknown)
        self.dataset = dataset
        self.scheme = scheme
        values, indices = self._known_values()
        order = np.argsort(values)
        self._values = values[order]
        self._indices = indices[order]

    @abstractmethod
    def _known_values(self) -> tuple[npt.NDArray[np.int64], Indices]:
        """Return the values that the scheme knows, and the class index of each."""

    @abstractmethod
    def _read_values(self, window: Window) -> npt.NDArray[np.int64]:
        """Return one value a pixel."""

    @abstractmethod
    def _describe(self, value: int) -> tuple[str, str]:
        """Return a value as text, and what the scheme has nearest to it."""

    def _decode(self, window: Window) -> Indices:
        indices = np.empty((window.height, window.width), dtype=np.uint8)
        for row, values in self._values_by_rows(window):
            indices[row - window.row :][: len(values)] = self._indices_of(values)
        return indices

    def _values_by_rows(self, window: Window) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Yield a window's values some rows at a time, with the first row of each piece."""
        step = max(1, _BAND_PIXELS // window.width)
        for row in range(window.row, window.row + window.height, step):
            rows = min(step, window.row + window.height - row)
            yield row, self._read_values(Window(row, window.col, rows, window.width))

    def _indices_of(self, values: npt.NDArray[np.int64]) -> Indices:
        place = np.minimum(np.searchsorted(self._values, values), len(self._values) - 1)
        known = self._values[place] == values
        return np.where(known, self._indices[place], np.uint8(UNKNOWN_LABEL)).astype(np.uint8)

    def _bands(self, bands: list[int], window: Window) -> npt.NDArray[Any]:
        try:
            array: npt.NDArray[Any] = self.dataset.read(bands, window=rasterio_window(window))
        except RasterioError as error:
            raise HrrsiError(
                f"the {self.noun} cannot be read at row {window.row}, column {window.col} "
                "(truncated or damaged)",
                where=self.path,
                fix="copy the file again",
            ) from error
        return array

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

    def _unknown_error(self) -> HrrsiError:
        (row, col), value, counts = self._unknown_values()
        text, nearest = self._describe(value)
        what = (
            f"scene {self.name}: unknown {text} at row {row}, column {col}, "
            f"{_pixels(counts[value])}; the nearest class is {nearest}"
        )
        if len(counts) > 1:
            others = sum(counts.values()) - counts[value]
            what += f"; {len(counts) - 1} more unknown values in {_pixels(others)}"
        if self._looks_resampled(counts):
            what += f"; the {self.noun} looks resampled or lossily compressed (blended colours)"
            fix = f"take the original {self.noun}, or resample it with nearest neighbour"
        else:
            fix = "add it to the scheme, or give --unknown ignore"
        return HrrsiError(what, where=self.path, fix=fix)


class ColourLabels(_RasterLabels):
    """Labels whose colours stand for classes; palettes count as the colours that they show."""

    def _known_values(self) -> tuple[npt.NDArray[np.int64], Indices]:
        self._alpha: int | None = None
        self._palette: npt.NDArray[np.int64] | None = None
        dataset = self.dataset
        meanings = list(dataset.colorinterp)
        if ColorInterp.alpha in meanings:
            self._alpha = meanings.index(ColorInterp.alpha) + 1
        self._colour_bands = [b for b in range(1, dataset.count + 1) if b != self._alpha]
        if set(dataset.dtypes) != {"uint8"} or len(self._colour_bands) not in (1, 3):
            raise HrrsiError(
                f"holds {counted(len(self._colour_bands), 'band')} of {dataset.dtypes[0]}, "
                "not colours (three bands or a palette, of uint8)",
                where=self.path,
                fix=f"if it holds class indices, give --{self.noun}-format indices",
            )
        if meanings[0] == ColorInterp.palette:
            self._palette = np.full(256, -1, dtype=np.int64)
            for entry, (red, green, blue, _) in dataset.colormap(1).items():
                self._palette[entry] = _packed(red, green, blue)
        scheme = self.scheme
        known = {_TRANSPARENT: IGNORE_INDEX}
        known |= {_packed(*i.colour): IGNORE_INDEX for i in scheme.ignored}
        known |= {_packed(*c.colour): position for position, c in enumerate(scheme.classes)}
        return (
            np.array(list(known), dtype=np.int64),
            np.array(list(known.values()), dtype=np.uint8),
        )

    def _read_values(self, window: Window) -> npt.NDArray[np.int64]:
        bands = self._bands(self._colour_bands, window)
        if self._palette is not None:
            packed: npt.NDArray[np.int64] = self._palette[bands[0]]
        else:
            red, green, blue = bands if len(bands) == 3 else bands.repeat(3, axis=0)
            packed = red.astype(np.int64) << 16
            packed |= green.astype(np.int64) << 8
            packed |= blue
        if self._alpha is not None:
            packed[self._bands([self._alpha], window)[0] == 0] = _TRANSPARENT
        return packed

    def _describe(self, value: int) -> tuple[str, str]:
        colour = _unpacked(value)
        nearest = min(
            self.scheme.classes,
            key=lambda c: sum((a - b) ** 2 for a, b in zip(c.colour, colour, strict=True)),
        )
        text = f"colour {_text(colour)}"
        if len(self._colour_bands) == 1 and self._palette is None:
            text += f" (one band without palette: class indices? then --{self.noun}-format indices)"
        return text, f"{nearest.name} {_text(nearest.colour)}"

    def _looks_resampled(self, counts: dict[int, int]) -> bool:
        if len(counts) >= _RESAMPLED_COLOURS:
            return True
        known = [*self.scheme.colours, *(i.colour for i in self.scheme.ignored)]
        return len(counts) > 1 and all(_is_blend(_unpacked(v), known) for v in counts)


class IndexLabels(_RasterLabels):
    """Labels whose values are class indices.

    255 is ignored, and so is the file's nodata value unless the scheme has a class of that index.
    """

    def _known_values(self) -> tuple[npt.NDArray[np.int64], Indices]:
        dataset = self.dataset
        if dataset.count != 1 or not np.issubdtype(np.dtype(dataset.dtypes[0]), np.integer):
            raise HrrsiError(
                f"holds {counted(dataset.count, 'band')} of {dataset.dtypes[0]}, "
                "not class indices (one band of whole numbers)",
                where=self.path,
                fix="convert it, e.g. with `gdal_translate -ot Byte`"
                if dataset.count == 1
                else f"if it holds colours, give --{self.noun}-format colours",
            )
        known = {IGNORE_INDEX: IGNORE_INDEX}
        if dataset.nodata is not None:
            known[int(dataset.nodata)] = IGNORE_INDEX
        known |= {i.index: IGNORE_INDEX for i in self.scheme.ignored if i.index is not None}
        for position, c in enumerate(self.scheme.classes):
            known[position if c.index is None else c.index] = position
        return (
            np.array(list(known), dtype=np.int64),
            np.array(list(known.values()), dtype=np.uint8),
        )

    def _read_values(self, window: Window) -> npt.NDArray[np.int64]:
        values: npt.NDArray[np.int64] = self._bands([1], window)[0].astype(np.int64)
        return values

    def _describe(self, value: int) -> tuple[str, str]:
        numbered = [
            (position if c.index is None else c.index, c.name)
            for position, c in enumerate(self.scheme.classes)
        ]
        index, name = min(numbered, key=lambda pair: abs(pair[0] - value))
        text = f"index {value}"
        if value == len(self.scheme.classes) and numbered[0][0] == 0:
            text += " (do they start at 1? Classes do at 0 here)"
        return text, f"{name} ({index})"


def _packed(red: int, green: int, blue: int) -> int:
    return red << 16 | green << 8 | blue


def _unpacked(value: int) -> tuple[int, int, int]:
    return value >> 16 & 255, value >> 8 & 255, value & 255


def _text(colour: tuple[int, int, int]) -> str:
    return ",".join(map(str, colour))


def _pixels(count: int) -> str:
    return f"{count} pixel" if count == 1 else f"{count} pixels"


def _is_blend(colour: tuple[int, int, int], known: list[tuple[int, int, int]]) -> bool:
    """Return whether a colour lies between two known ones, but for rounding."""
    point = np.array(colour, dtype=float)
    ends = np.array(known, dtype=float)
    for i, start in enumerate(ends):
        for end in ends[i + 1 :]:
            along = end - start
            share = np.clip((point - start) @ along / (along @ along), 0, 1)
            if np.abs(start + share * along - point).max() <= 2:
                return True
    return False
