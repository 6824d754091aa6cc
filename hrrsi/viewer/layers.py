"""Layers of classes on the pixel grid of a map, tile by tile; what all layers have in common.

Level 0 is the grid itself; each level above it has half the rows and columns. Classes are chosen,
never averaged: those of a level are the file's own by mode, or those of the pixels in the middle.
"""

from __future__ import annotations

import io
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hrrsi.classes import IGNORE_INDEX, Colour, class_palette
from hrrsi.labels.laid_classes import GridClasses
from hrrsi.scenes.pixel_reader import PixelReader
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window

TILE = 256  # pixels
COARSE = 4096  # pixels of the longer side of a layer that is kept in memory, at most
_STRIP_PIXELS = 1 << 22  # that are read at a time
RIGHT, WRONG = 0, 1  # in layers of errors
RIGHT_COLOUR, WRONG_COLOUR = (133, 205, 190), (196, 0, 58)  # one light, one dark
Shape = tuple[int, int]
Indices = npt.NDArray[np.uint8]


class ClosedError(Exception):
    """The viewer was closed meanwhile."""


def stored_colours(dataset: Any, count: int) -> list[Colour]:
    """Return the colours of a map's palette, grey where it has lost it.

    Args:
        dataset: The map's rasterio dataset.
        count: Its classes.
    """
    try:
        palette = dataset.colormap(1)
    except ValueError:
        palette = {}
    grey = (128, 128, 128, 255)
    colours: list[Colour] = []
    for index in range(count):
        red, green, blue, _ = palette.get(index, grey)
        colours.append((red, green, blue))
    return colours


def level_shape(shape: Shape, level: int) -> Shape:
    """Return rows and columns of a level."""
    return -(-shape[0] >> level), -(-shape[1] >> level)


def highest_level(shape: Shape, side: int = TILE) -> int:
    """Return the first level that has at most so many rows and columns."""
    return max(0, (max(shape) - 1) // side).bit_length()


def tile_window(shape: Shape, level: int, row: int, column: int) -> Window | None:
    """Return what a tile shows of a level, None where that has none."""
    height, width = level_shape(shape, level)
    top, left = row * TILE, column * TILE
    if level > highest_level(shape, 1) or not (0 <= top < height and 0 <= left < width):
        return None
    return Window(top, left, min(TILE, height - top), min(TILE, width - left))


def strips(shape: Shape) -> list[Window]:
    """Return windows of whole rows that cover a grid from top to bottom."""
    height, width = shape
    rows = max(1, min(height, _STRIP_PIXELS // width, 512))
    return [Window(top, 0, min(rows, height - top), width) for top in range(0, height, rows)]


class SharedReader:
    """Reads classes for several threads, one after the other, until it is closed."""

    def __init__(self, classes: GridClasses) -> None:
        self._classes = classes
        self._lock = threading.Lock()
        self._is_closed = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let nobody else read meanwhile.

        Raises:
            ClosedError: The viewer was closed.
        """
        with self._lock:
            if self._is_closed:
                raise ClosedError
            yield

    def read(self, window: Window) -> Indices:
        """Return the classes of a window, 255 where there is none.

        Raises:
            InputError: They can't be read.
            ClosedError: The viewer was closed.
        """
        with self.alone():
            return self._classes.read(window)

    def close(self) -> None:
        """Let nothing be read any more."""
        with self._lock:
            self._is_closed = True


class StoredClasses:
    """The classes of a map of hrrsi's, or of an overview of it, as they are stored.

    Args:
        scene: The map as a raster.
        count: How many classes it names.
    """

    def __init__(self, scene: Scene, count: int) -> None:
        self.scene = scene
        self._count = count
        self._reader = PixelReader(scene.dataset, [1], scene.path)

    def read(self, window: Window) -> Indices:
        """Return the classes of a window, 255 where there is none."""
        values = self._reader.values(window)[0]
        return np.where(values < self._count, values, IGNORE_INDEX).astype(np.uint8)


class ComparedClasses:
    """Where a map is right and where it is wrong, by labels.

    Args:
        map: Reads the map.
        labels: Reads the labels.
        are_same: (256, 256) bool: whether a label, and a class of the map, go together.
        are_scored: (256, 256) bool: whether both say something.
    """

    def __init__(
        self,
        map: GridClasses,
        labels: GridClasses,
        are_same: npt.NDArray[np.bool_],
        are_scored: npt.NDArray[np.bool_],
    ) -> None:
        self._map, self._labels = map, labels
        self._outcome = np.where(are_scored, np.where(are_same, RIGHT, WRONG), IGNORE_INDEX)
        self._outcome = self._outcome.astype(np.uint8)

    def read(self, window: Window) -> Indices:
        """Return `RIGHT` and `WRONG` of a window, 255 where nothing is compared."""
        outcome: Indices = self._outcome[self._labels.read(window), self._map.read(window)]
        return outcome


class Layer(ABC):
    """What the page can show of a place.

    Attributes:
        kind: ``classes``, ``errors``, ``scores`` or ``scene``.
        label: What the page calls it.
        shape: Rows and columns of the grid that it lies on.
    """

    kind: str

    def __init__(self, label: str, shape: Shape) -> None:
        self.label = label
        self.shape = shape

    @abstractmethod
    def tile(self, level: int, row: int, column: int, hidden: Collection[int] = ()) -> bytes | None:
        """Return a tile as a PNG, None where it lies beside the layer.

        Args:
            level: 0 of the grid itself, 1 of half of it, ...
            row: Of tiles, from 0.
            column: Likewise.
            hidden: Classes that are not shown.

        Raises:
            InputError: It can't be read.
            ClosedError: The viewer was closed.
        """

    @property
    def needs_pass(self) -> bool:
        """Whether some levels show no more than what `take` has seen."""
        return False

    def take(self, window: Window) -> None:
        """See a strip, for the levels that are kept in memory."""
        return

    @abstractmethod
    def close(self) -> None:
        """Let nothing be read any more."""


class ClassLayer(Layer):
    """A layer of classes: a map, labels, or where these differ.

    Args:
        label: What the page calls it.
        shape: Rows and columns.
        reader: Reads the classes on the grid.
        names: Class names in the order of their indices.
        colours: Class colours, likewise.
        overviews: By level, what reads the file's own overviews, where they hold classes for
            certain.
        kind: ``classes`` or ``errors``.
    """

    def __init__(
        self,
        label: str,
        shape: Shape,
        reader: SharedReader,
        names: Sequence[str],
        colours: Sequence[Colour],
        overviews: dict[int, SharedReader] | None = None,
        kind: str = "classes",
    ) -> None:
        super().__init__(label, shape)
        self.kind = kind
        self.reader = reader
        self.names, self.colours = tuple(names), tuple(colours)
        self._overviews = overviews or {}
        self._coarse_level = highest_level(shape, COARSE)
        self._coarse: Indices | None = None
        if self.needs_pass:
            empty = level_shape(shape, self._coarse_level)
            self._coarse = np.full(empty, IGNORE_INDEX, dtype=np.uint8)

    @property
    def needs_pass(self) -> bool:
        """Whether levels are kept in memory: there are no overviews, and the grid is large."""
        return self._coarse_level > 0 and not self._overviews

    def at(self, row: int, column: int) -> int:
        """Return the class of a pixel, 255 where there is none."""
        return int(self.reader.read(Window(row, column, 1, 1))[0, 0])

    def classes(self, level: int, window: Window) -> Indices:
        """Return the classes of a window of a level, 255 where there is none, or none yet."""
        if level in self._overviews:
            return self._overviews[level].read(window)
        rows, columns = self._places(level, window)
        if self._coarse is not None and level >= self._coarse_level:
            coarse: Indices = self._coarse[
                np.ix_(rows >> self._coarse_level, columns >> self._coarse_level)
            ]
            return coarse
        top, left = int(rows[0]), int(columns[0])
        whole = Window(top, left, int(rows[-1]) - top + 1, int(columns[-1]) - left + 1)
        middle: Indices = self.reader.read(whole)[np.ix_(rows - top, columns - left)]
        return middle

    def take(self, window: Window) -> None:
        """Keep what the coarse level shows of a strip of whole rows."""
        if self._coarse is not None:
            self.see(window, self.reader.read(window))

    def see(self, window: Window, classes: Indices) -> None:
        """Keep what the coarse level shows of a strip that has been read."""
        if self._coarse is None:
            return
        rows, columns = self._places(self._coarse_level, Window(0, 0, *self._coarse.shape))
        inside = (rows >= window.row) & (rows < window.row + window.height)
        self._coarse[inside] = classes[rows[inside] - window.row][:, columns]

    def tile(self, level: int, row: int, column: int, hidden: Collection[int] = ()) -> bytes | None:
        """Return a tile as a PNG with the classes' own colours as its palette."""
        window = tile_window(self.shape, level, row, column)
        if window is None:
            return None
        indices = np.full((TILE, TILE), IGNORE_INDEX, dtype=np.uint8)
        indices[: window.height, : window.width] = self.classes(level, window)
        opacity = np.zeros(256, dtype=np.uint8)
        opacity[: len(self.names)] = 255
        opacity[[index for index in hidden if index < len(self.names)]] = 0
        return palette_png(indices, self.colours, opacity)

    def close(self) -> None:
        """Let nothing be read any more."""
        for reader in (self.reader, *self._overviews.values()):
            reader.close()

    def _places(self, level: int, window: Window) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the rows and the columns of the grid in the middle of the pixels of a level."""
        half = (1 << level) >> 1
        rows = (np.arange(window.row, window.row + window.height) << level) + half
        columns = (np.arange(window.col, window.col + window.width) << level) + half
        return np.minimum(rows, self.shape[0] - 1), np.minimum(columns, self.shape[1] - 1)


def palette_png(
    indices: Indices, colours: Sequence[Colour], opacity: npt.NDArray[np.uint8]
) -> bytes:
    """Return indices as a PNG with a palette.

    Args:
        indices: (rows, columns).
        colours: The colours of the first indices.
        opacity: (256,) uint8 of each index.
    """
    image = Image.fromarray(indices)
    # of 256 entries: with fewer, Pillow would write fewer bits a pixel, and 255 as another index
    image.putpalette(class_palette(colours).tobytes())
    return png(image, transparency=opacity.tobytes())


def png(image: Image.Image, **options: object) -> bytes:
    """Return a picture as a PNG, compressed little: it goes no further than this machine."""
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=2, **options)
    return file.getvalue()
