"""A band of a raster on its way to a file: raw values and their overviews, row by row.

Raw files cost nothing to append to, to cut off at a row, and to read again; GDAL reads them
through a few lines of XML. Overviews are made as rows come, so a raster that is complete only
has to be compressed.
"""

# GDAL's own overviews by mode took 6.7 s with the file where these take 4.2 s (10000x10000 px,
# 0.17 and 0.19 GB), with 0.01 % other pixels, and need the finished raster.

from __future__ import annotations

import errno
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from hrrsi.classes import IGNORE_INDEX
from hrrsi.errors import HrrsiError, OutputError
from hrrsi.files import is_full_disk
from hrrsi.interruption import stop_if_requested
from hrrsi.scenes.windows import Window

TILE = 512
_SMALLEST_OVERVIEW = 256
_CHECK_DISK = "check the disk and its folder"
_WRITE_FIXES = {
    errno.ENOENT: "its folder is gone: give another `out`, or leave the folder while this runs",
    errno.EMFILE: "raise the limit of open files (ulimit -n 4096)",
    errno.ENFILE: "raise the system's limit of open files",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EACCES: "change the permissions of its folder",
    errno.EROFS: "choose a disk that can be written to",
}
_CHUNK_BYTES = 2**20  # what passes from step to step in the processor's cache

Values = npt.NDArray[Any]


class RawLevel(NamedTuple):
    """A raw file: row-major values, little-endian, without a header.

    Attributes:
        file: The file.
        height: Rows that it has once it is complete.
        width: Columns.
    """

    file: Path
    height: int
    width: int


class RawPyramid:
    """A band in raw files: its rows, and overviews that halve it again and again.

    What is in the files depends on the rows alone, not on how they came in strips.

    Args:
        folder: Where the files are; it exists.
        name: What the files' names begin with.
        height: Rows of the raster.
        width: Columns of the raster.
        dtype: NumPy name of the type of the values.
        halved: Gives the values of an overview from (2 n, 2 m) values, as (n, m).

    Attributes:
        height: Rows of the raster.
        width: Columns of the raster.
        dtype: Type of the values.
        levels: The raster's file, then those of its overviews.
        checksums: The CRC-32 of what each of them holds.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        height: int,
        width: int,
        dtype: str,
        halved: Callable[[Values], Values],
    ) -> None:
        self.height = height
        self.width = width
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._halved = halved
        self.levels = [RawLevel(folder / f"{name}.raw", height, width)]
        for factor in overview_levels(height, width):
            above = self.levels[-1]
            file = folder / f"{name}.overview{factor}.raw"
            self.levels.append(RawLevel(file, (above.height + 1) // 2, (above.width + 1) // 2))
        self._rows = [0] * len(self.levels)
        self.checksums = [0] * len(self.levels)
        # the row of each level that waits for the next one, so that two become one below
        self._odd: list[Values | None] = [None] * len(self.levels)

    @property
    def rows(self) -> int:
        """Rows that have been appended."""
        return self._rows[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all files once they are complete."""
        return sum(level.height * level.width for level in self.levels) * self.dtype.itemsize

    @property
    def bytes_written(self) -> int:
        """Bytes of all files now."""
        sizes = zip(self._rows, self.levels, strict=True)
        return sum(rows * level.width for rows, level in sizes) * self.dtype.itemsize

    def append(self, values: Values) -> None:
        """Write the next rows, and the rows of the overviews that they complete.

        Args:
            values: (rows, width).

        Raises:
            OSError: The disk is full. What was written since `restore` is of no use then.
        """
        if values.shape[1:] != (self.width,) or self.rows + len(values) > self.height:
            raise ValueError(f"{values.shape} does not continue {self.rows} rows of {self.width}")
        self._append(0, np.ascontiguousarray(values, dtype=self.dtype))

    def restore(self, rows: int, checksums: Sequence[int] = ()) -> bool:
        """Go back, or forth, to the state after the first `rows` rows, from the files.

        Args:
            rows: How many.
            checksums: Those after these rows; without them, the files are taken as they are.

        Returns:
            Whether the files hold that many rows, and these; if not, nothing has changed.
        """
        counts = [rows]
        for above, level in zip(self.levels, self.levels[1:], strict=False):
            whole = counts[-1] == above.height
            counts.append(level.height if whole else counts[-1] // 2)
        row_bytes = [level.width * self.dtype.itemsize for level in self.levels]
        sizes = [count * size for count, size in zip(counts, row_bytes, strict=True)]
        for level, size in zip(self.levels, sizes, strict=True):
            if (level.file.stat().st_size if level.file.exists() else 0) < size:
                return False
        file_checksums = [
            _checksum(level.file, size) for level, size in zip(self.levels, sizes, strict=True)
        ]
        if checksums and list(checksums) != file_checksums:
            return False
        self.checksums = file_checksums
        for index, (level, size) in enumerate(zip(self.levels, sizes, strict=True)):
            with level.file.open("ab") as file:
                file.truncate(size)
            odd = counts[index] % 2 and counts[index] < level.height
            self._odd[index] = self._read(level, counts[index] - 1, 1) if odd else None
        self._rows = counts
        return True

    def strips(self, rows: int = TILE) -> Iterator[Values]:
        """Yield the rows from top to bottom in strips of (n, width).

        Args:
            rows: How many rows a strip has; the last may have fewer.
        """
        for first in range(0, self.rows, rows):
            stop_if_requested()
            yield self._read(self.levels[0], first, min(rows, self.rows - first))

    def block(self, level: int, window: Window) -> Values:
        """Return a part of a level, (window.height, window.width).

        Args:
            level: 0 for the rows themselves, then the overviews.
            window: The part; it lies within the level.
        """
        file, _, width = self.levels[level]
        values = np.empty((window.height, window.width), dtype=self.dtype)
        with file.open("rb") as raw:
            for row in range(window.height):
                raw.seek(((window.row + row) * width + window.col) * self.dtype.itemsize)
                raw.readinto(values[row].view(np.uint8).data)
        return values

    def cut(self, window: Window, folder: Path) -> Self:
        """Return a window of the rows as a raster of its own, overviews too.

        Args:
            window: Lies within the rows.
            folder: Where its files are; it exists.

        Raises:
            OSError: The disk is full.
        """
        part = self._empty(folder, window.height, window.width)
        part.restore(0)
        for first in range(0, window.height, TILE):
            stop_if_requested()
            rows = min(TILE, window.height - first)
            part.append(self.block(0, Window(window.row + first, window.col, rows, window.width)))
        return part

    def _empty(self, folder: Path, height: int, width: int) -> Self:
        """Return another one of the same kind, without rows."""
        name = self.levels[0].file.stem
        return type(self)(
            folder,
            name,
            height=height,
            width=width,
            dtype=self.dtype.name,
            halved=self._halved,
        )

    def _append(self, index: int, values: Values) -> None:
        level = self.levels[index]
        self._write(index, values)
        self._rows[index] += len(values)
        if index + 1 == len(self.levels):
            return
        halves = []
        odd = self._odd[index]
        if odd is not None and len(values):
            halves.append(self._halved(_even_width(np.concatenate((odd, values[:1])))))
            values = values[1:]
            odd = None
        chunk = max(2, _CHUNK_BYTES // (level.width * self.dtype.itemsize) // 2 * 2)
        even = len(values) // 2 * 2
        halves.extend(
            self._halved(_even_width(values[row : min(row + chunk, even)]))
            for row in range(0, even, chunk)
        )
        if even < len(values):
            odd = values[even:].copy()
        if odd is not None and self._rows[index] == level.height:
            halves.append(self._halved(_even_width(np.concatenate((odd, odd)))))
            odd = None
        self._odd[index] = odd
        if halves:
            self._append(index + 1, np.concatenate(halves))

    def _write(self, index: int, values: Values) -> None:
        checksum = zlib.crc32(values.reshape(-1).view(np.uint8).data, self.checksums[index])
        self.checksums[index] = checksum
        level = self.levels[index]
        # "ab" creates the file; what lies behind `row` was cut off by `restore`
        with level.file.open("ab", buffering=0) as file:
            rest = values.reshape(-1).view(np.uint8).data
            while rest.nbytes:
                rest = rest[file.write(rest) :]

    def _read(self, level: RawLevel, row: int, rows: int) -> Values:
        values = np.empty((rows, level.width), dtype=self.dtype)
        with level.file.open("rb", buffering=0) as file:
            file.seek(row * level.width * self.dtype.itemsize)
            rest = values.reshape(-1).view(np.uint8).data
            while rest.nbytes:
                count = file.readinto(rest)
                if not count:
                    raise OutputError("ends too early", where=level.file, fix="map the scene again")
                rest = rest[count:]
        return values


class LabelPyramid(RawPyramid):
    """Labels in raw files, with overviews by mode, and how many pixels each class has.

    Args:
        folder: Where the files are; it exists.
        height: Rows of the raster.
        width: Columns of the raster.
        num_classes: Number of classes.

    Attributes:
        class_pixels: Pixels of each class so far.
    """

    def __init__(self, folder: Path, *, height: int, width: int, num_classes: int) -> None:
        super().__init__(
            folder, "labels", height=height, width=width, dtype="uint8", halved=most_frequent
        )
        self.class_pixels = [0] * num_classes

    @property
    def nodata_pixels(self) -> int:
        """Pixels without data so far."""
        return self.rows * self.width - sum(self.class_pixels)

    def append(self, values: Values) -> None:
        """Write the next rows, see `RawPyramid.append`."""
        super().append(values)
        self._count(values)

    def restore(self, rows: int, checksums: Sequence[int] = ()) -> bool:
        """Go to the state after the first `rows` rows, see `RawPyramid.restore`."""
        if not super().restore(rows, checksums):
            return False
        self.class_pixels = [0] * len(self.class_pixels)
        for labels in self.strips():
            self._count(labels)
        return True

    def _empty(self, folder: Path, height: int, width: int) -> Self:
        """Return another one of the same kind, without rows."""
        return type(self)(folder, height=height, width=width, num_classes=len(self.class_pixels))

    def _count(self, labels: Values) -> None:
        chunk = max(1, _CHUNK_BYTES // self.width)
        for row in range(0, len(labels), chunk):
            part = labels[row : row + chunk]
            for index in range(len(self.class_pixels)):
                self.class_pixels[index] += int(np.count_nonzero(part == index))


def _checksum(file: Path, size: int) -> int:
    """Return the CRC-32 of a file's first bytes; of none where there is no file."""
    checksum = 0
    if size:
        with file.open("rb") as opened:
            while size and (chunk := opened.read(min(size, _CHUNK_BYTES))):
                checksum = zlib.crc32(chunk, checksum)
                size -= len(chunk)
    return checksum


def overview_levels(height: int, width: int) -> list[int]:
    """Return the factors of the overviews: halved until the longer side is 256 px or less."""
    levels = []
    factor = 2
    while max(height, width) * 2 > _SMALLEST_OVERVIEW * factor and max(height, width) > TILE:
        levels.append(factor)
        factor *= 2
    return levels


def most_frequent(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the label that most pixels of each block of 2 x 2 have.

    Of labels that are equally frequent the first in reading order wins (upper left, upper right,
    lower left), so that no class is favoured. "No data" counts like a class.

    Args:
        labels: (2 n, 2 m), C-contiguous.

    Returns:
        (n, m).
    """
    # two neighbours are one little-endian number: far faster to part than with strides
    upper, lower = labels[0::2].view("<u2"), labels[1::2].view("<u2")
    first, second = upper.astype(np.uint8), (upper >> 8).astype(np.uint8)
    third, fourth = lower.astype(np.uint8), (lower >> 8).astype(np.uint8)
    # first stands unless it is alone (or one of two pairs), and two of the others agree
    not_first = first != second
    take_third = (third == fourth) & not_first
    take_second = ((second == third) | (second == fourth)) & not_first
    take_second &= (first != third) & (first != fourth)
    # all bits set where true: masks are several times as fast as np.where
    second_bits, third_bits = (0 - mask.view(np.uint8) for mask in (take_second, take_third))
    most = first ^ ((first ^ second) & second_bits)
    most ^= (most ^ third) & third_bits
    result: npt.NDArray[np.uint8] = most
    return result


def mean_score(scores: Values) -> Values:
    """Return the mean of each block of 2 x 2 scores, of those that hold data.

    Args:
        scores: (2 n, 2 m), uint8 with 255 or float32 with NaN where there is no data.

    Returns:
        (n, m) of the same type; uint8 rounded, halves up.
    """
    if scores.dtype == np.uint8:
        quarters = [part.astype(np.uint16) for part in _quarters(scores)]
        if not (scores == IGNORE_INDEX).any():
            rounded = (quarters[0] + quarters[1] + quarters[2] + quarters[3] + 2) >> 2
            return rounded.astype(np.uint8)
        valid = [part != IGNORE_INDEX for part in quarters]
    else:
        quarters = list(_quarters(scores))
        valid = [~np.isnan(part) for part in quarters]
    count = sum(part.astype(np.uint16) for part in valid)
    total = sum(np.where(ok, part, 0) for part, ok in zip(quarters, valid, strict=True))
    divisor = np.maximum(count, 1)
    if scores.dtype == np.uint8:
        means = (2 * total + count) // (2 * divisor)
        return np.where(count > 0, means, IGNORE_INDEX).astype(np.uint8)
    return np.where(count > 0, total / divisor, np.nan).astype(np.float32)


@contextmanager
def write_errors(path: Path, fix: str) -> Iterator[None]:
    """Turn what the system says of writing into one line about `path`.

    Args:
        path: What is written.
        fix: What to do where the disk is full.

    Raises:
        OutputError: Something could not be written.
    """
    try:
        yield
    except HrrsiError:
        raise  # some are OSErrors too, and say what is wrong already
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror})",
            where=path,
            fix=fix if is_full_disk(error) else _WRITE_FIXES.get(error.errno or 0, _CHECK_DISK),
        ) from error


def _quarters(values: Values) -> tuple[Values, Values, Values, Values]:
    return values[0::2, 0::2], values[0::2, 1::2], values[1::2, 0::2], values[1::2, 1::2]


def _even_width(values: Values) -> Values:
    """Return values with their last column twice where they have an odd number of columns."""
    return np.concatenate((values, values[:, -1:]), axis=1) if values.shape[1] % 2 else values
