"""Blends overlapping windows into strips of labels, carrying only what windows share.

A network's logits come at a quarter of the resolution (or at all of it, where the network says so),
and are kept so: a block of pixels is made from the logits of up to four windows when the last of
them is there (`blend_kernel` says how).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hrrsi.classes import IGNORE_INDEX, ScoreType
from hrrsi.maps.score_rasters import empty_scores, stored_scores
from hrrsi.prediction.blend_kernel import TAPS, BlendKernel, Floats

_ROWS_AT_ONCE = 512  # bounds memory where a network pixel covers many pixels of the scene


class Span(NamedTuple):
    """The part of a window that gets its labels once the window is there, along one axis.

    Attributes:
        window: Where the window starts, in pixels of the network's grid.
        previous: Where the window before it starts, or None.
        start: Where the part begins.
        stop: Where it ends.
        shared: Pixels from `start` on that are blended with the previous window.
    """

    window: int
    previous: int | None
    start: int
    stop: int
    shared: int


class Strip(NamedTuple):
    """Rows of a scene's map.

    Attributes:
        first_row: Where they begin.
        labels: (rows, width) uint8 class indices, 255 where there is no data.
        confidence: (rows, width) probability of the class that each pixel got, as
            `stored_scores` has it; None unless asked for.
        probabilities: (classes, rows, width) of every class, likewise.
    """

    first_row: int
    labels: npt.NDArray[np.uint8]
    confidence: npt.NDArray[Any] | None
    probabilities: npt.NDArray[Any] | None


def spans(starts: list[int], size: int, overlap: int, length: int) -> list[Span]:
    """Return which part of each window gets its labels with it, along one axis.

    Neighbours are blended over exactly `overlap` pixels. The last window, which moves inward and
    so covers more of its neighbour, counts from `overlap` pixels before the neighbour's end: what
    lies above only gives it context. So no pixel belongs to more than two windows of an axis.

    Args:
        starts: Where the windows start, in order.
        size: Pixels of a window.
        overlap: Pixels that neighbours are blended over, at most half of `size`.
        length: Pixels of the scene; a window may be longer.
    """
    parts = []
    for i, window in enumerate(starts):
        previous = starts[i - 1] if i else None
        start = window if previous is None else previous + size - overlap
        stop = window + size - (overlap if i < len(starts) - 1 else 0)
        stop = min(stop, length)
        parts.append(Span(window, previous, start, stop, 0 if previous is None else overlap))
    return parts


def blend_share(position: npt.NDArray[np.float64], shared: int) -> npt.NDArray[np.float64]:
    """Return what a window weighs where it is blended with the one before: a raised cosine.

    The window before weighs the rest. Shares rise from 0 to 1 without an edge, so that neither
    window's border shows.

    Args:
        position: Distance in pixels from where the blending begins, 0 to `shared`.
        shared: Pixels over which two windows are blended.
    """
    if not shared:
        return np.ones_like(position)
    inside = np.clip(position / shared, 0, 1)
    share: npt.NDArray[np.float64] = np.sin(inside * (np.pi / 2)) ** 2
    return share


def window_labels(
    logits: Floats, height: int, width: int, logit_stride: int = 4
) -> npt.NDArray[np.uint8]:
    """Return the labels of one window by itself, (height, width) uint8.

    Args:
        logits: (classes, ceil(height / logit_stride), ceil(width / logit_stride)).
        height: Rows of the window.
        width: Columns of the window.
        logit_stride: The engine's.
    """
    rows, columns = ([Span(0, None, 0, size, 0)] for size in (height, width))
    shape = (height, width)
    blender = RowBlender(rows, columns, shape, 0, len(logits), shape, logit_stride=logit_stride)
    blender.start_row(0)
    blender.add(0, logits, None)
    return blender.strip().labels


class Block(NamedTuple):
    """Some pixels of a part, along one axis.

    Attributes:
        pixels: Which of the part's pixels.
        logits: Which of the logits they are made from.
        taps: (2 or 4, pixels) which of those count for each pixel.
        weights: (2 or 4, pixels, 1) what they weigh.
    """

    pixels: slice
    logits: slice
    taps: npt.NDArray[np.int32]
    weights: Floats

    def padded(self, pixels: int, logits: int, all_logits: int) -> Block:
        """Return the block with more pixels, which weigh nothing, and more logits.

        Args:
            pixels: Pixels that it shall have.
            logits: Logits that it shall have.
            all_logits: Logits that there are.
        """
        missing = pixels - self.taps.shape[1]
        first = min(self.logits.start, all_logits - logits)
        return Block(
            self.pixels,
            slice(first, first + logits),
            np.pad(self.taps + np.int32(self.logits.start - first), ((0, 0), (0, missing))),
            np.pad(self.weights, ((0, 0), (0, missing), (0, 0))),
        )


class Axis:
    """How the logits of two windows become pixels along one axis.

    Attributes:
        first: The scene's first pixel of the part.
        pixels: The part's pixels, counted from the first one of the scene that the window covers.
        taps: (4, pixels) which of the logits count: `kept` of the previous window come first.
        weights: (4, pixels) what they weigh.
    """

    def __init__(
        self, span: Span, size: int, overlap: int, step: float, length: int, logit_stride: int
    ) -> None:
        """Work out the part of a window.

        Args:
            span: The part.
            size: Pixels of a window.
            overlap: Pixels that neighbours are blended over.
            step: The scene's pixels in one of the network's.
            length: The scene's pixels along the axis.
            logit_stride: Pixels of a window that one of its logits stands for.
        """
        kept = kept_logits(size, overlap, logit_stride)
        count = logit_count(size, logit_stride)
        self.first = _first_pixel(span.start, step)
        stop = min(_first_pixel(span.stop, step), length)
        # centres of the scene's pixels, on the network's grid
        centres = np.arange(self.first, stop).astype(np.float64)
        centres += 0.5
        centres /= step
        # as `WindowSource.raster_window` has it
        self.pixels = np.arange(self.first, stop) - math.floor(span.window * step)
        share = blend_share(centres - span.start, span.shared)
        taps, weights = _interpolation(centres - 0.5 - span.window, size, count)
        self.taps = np.zeros((TAPS, len(centres)), dtype=np.int32)
        self.weights = np.zeros((TAPS, len(centres)), dtype=np.float32)
        self.taps[:2] = taps + kept
        self.weights[:2] = weights * share
        if span.previous is not None and kept:
            taps, weights = _interpolation(centres - 0.5 - span.previous, size, count)
            blended = share < 1
            self.taps[2:] = np.where(blended, taps - (count - kept), 0)
            self.weights[2:] = np.where(blended, weights * (1 - share), 0)

    def blocks(self) -> list[Block]:
        """Return the part in blocks, so that only pixels of two windows take four logits each."""
        shared = int(np.count_nonzero(self.weights[2:].any(axis=0)))
        ends = [*range(shared, len(self.pixels), _ROWS_AT_ONCE), len(self.pixels)]
        blocks = []
        for first, stop in pairwise([0, *ends] if shared else ends):
            count = TAPS if stop <= shared else 2
            taps = self.taps[:count, first:stop]
            blocks.append(
                Block(
                    slice(first, stop),
                    slice(int(taps.min()), int(taps.max()) + 1),
                    taps - taps.min(),
                    np.ascontiguousarray(self.weights[:count, first:stop, None]),
                )
            )
        return blocks

    def matrix(self, rows: int, columns: int) -> Floats:
        """Return taps and weights as a (rows, columns) matrix, zero beyond the part's pixels."""
        matrix = np.zeros((rows, columns), dtype=np.float32)
        for taps, weights in zip(self.taps, self.weights, strict=True):
            np.add.at(matrix, (taps, np.arange(len(taps))), weights)
        return matrix


def logit_count(size: int, logit_stride: int) -> int:
    """Return how many logits a network gives along an axis of `size` pixels."""
    return -(-size // logit_stride)


def kept_logits(size: int, overlap: int, logit_stride: int) -> int:
    """Return how many of a window's last logits along an axis the next window is blended with."""
    if not overlap:
        return 0
    count = logit_count(size, logit_stride)
    # one more pixel: the centre of a scene's pixel may lie before that of the network's
    first = max(size - overlap - 1, 0)
    return count - int(first * (count - 1) / max(size - 1, 1))


def _first_pixel(position: int, step: float) -> int:
    """Return the scene's first pixel whose centre is at or after a position on the network's."""
    return math.ceil(position * step - 0.5)


def _interpolation(
    positions: npt.NDArray[np.float64], size: int, count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return which two of `count` logits lie around positions in a window, and what each weighs.

    The logits' outermost centres lie on the outermost pixels' (``align_corners=True``).
    """
    if count == 1 or size == 1:
        taps = np.zeros((2, len(positions)), dtype=np.int64)
        return taps, np.stack((np.ones(len(positions)), np.zeros(len(positions))))
    place = np.clip(positions * ((count - 1) / (size - 1)), 0, count - 1)
    lower = np.minimum(place.astype(np.int64), count - 2)
    return np.stack((lower, lower + 1)), np.stack((1 - (place - lower), place - lower))


def _of_equal_size(rows: list[list[Block]], all_logits: int) -> list[list[Block]]:
    """Return blocks padded to those of the same kind, so that few kernels have to be compiled."""
    sizes: dict[int, tuple[int, int]] = {}
    for block in (block for row in rows for block in row):
        taps, pixels = block.taps.shape
        logits = block.logits.stop - block.logits.start
        most = sizes.get(taps, (0, 0))
        sizes[taps] = max(most[0], pixels), max(most[1], logits)
    return [[block.padded(*sizes[len(block.taps)], all_logits) for block in row] for row in rows]


class RowBlender:
    """Takes the logits of a scene's windows row by row, left to right, and gives strips.

    Only logits that a later window is blended with are kept: the last columns for the next
    window, and the last rows of each window for the next row of windows.

    Args:
        rows: The parts of the rows of windows.
        columns: The parts of a row's windows.
        shape: Rows and columns of a window.
        overlap: Pixels that neighbours are blended over.
        num_classes: Number of classes.
        scene: Rows and columns of the scene.
        step: The scene's pixels in one of the network's.
        confidence: Type in which strips hold confidences, or None for none.
        probabilities: Type in which strips hold class probabilities, or None for none.
        logit_stride: Pixels of a window that one of its logits stands for, the engine's.
    """

    def __init__(
        self,
        rows: list[Span],
        columns: list[Span],
        shape: tuple[int, int],
        overlap: int,
        num_classes: int,
        scene: tuple[int, int],
        *,
        step: float = 1.0,
        confidence: ScoreType | None = None,
        probabilities: ScoreType | None = None,
        logit_stride: int = 4,
    ) -> None:
        height, width = shape
        self._classes = num_classes
        self._scene = scene
        self._score_types = (confidence, probabilities)
        self._logits = (logit_count(height, logit_stride), logit_count(width, logit_stride))
        self._kept = (
            kept_logits(height, overlap, logit_stride),
            kept_logits(width, overlap, logit_stride),
        )
        self._rows = [Axis(span, height, overlap, step, scene[0], logit_stride) for span in rows]
        self._blocks = _of_equal_size(
            [axis.blocks() for axis in self._rows], sum((self._kept[0], self._logits[0]))
        )
        self._columns = [
            Axis(span, width, overlap, step, scene[1], logit_stride) for span in columns
        ]
        kept_columns, own_columns = self._kept[1], self._logits[1]
        widest = max(len(axis.pixels) for axis in self._columns)
        matrices: dict[bytes, Floats] = {}  # those in the middle are the same
        self._matrices = [
            matrices.setdefault(
                axis.taps.tobytes() + axis.weights.tobytes(),
                axis.matrix(kept_columns + own_columns, widest),
            )
            for axis in self._columns
        ]
        self._above: list[Floats | None] = [None] * len(columns)
        self._kernels: dict[Any, BlendKernel] = {}

    def row_of(self, first_pixel: int) -> int:
        """Return which row of windows the strip belongs to that begins at a row of the scene."""
        return [axis.first for axis in self._rows].index(first_pixel)

    def start_row(self, index: int) -> None:
        """Begin a row of windows, the next one or, of all before which nothing is known, any."""
        self._row = index
        height = len(self._rows[index].pixels)
        self._labels = np.full((height, self._scene[1]), IGNORE_INDEX, dtype=np.uint8)
        confidence, probabilities = self._score_types
        shape = self._labels.shape
        self._confidence = None if confidence is None else empty_scores(shape, confidence)
        self._probabilities = (
            None if probabilities is None else empty_scores((self._classes, *shape), probabilities)
        )
        self._left: Floats | None = None
        self._corner: Floats | None = None

    def add(self, index: int, logits: Floats | None, valid: npt.NDArray[np.bool_] | None) -> int:
        """Blend the next window of the row.

        Args:
            index: Its number in the row.
            logits: (classes, rows, columns); None where it holds no data.
            valid: (height, width), which of the scene's pixels that the window covers hold data;
                None where all do.

        Returns:
            How many pixels of the scene now have their labels.
        """
        rows, columns = self._rows[self._row], self._columns[index]
        if logits is not None:
            self._blend(index, self._mosaic(index, logits), valid)
        kept_rows, _ = self._kept
        self._corner, self._above[index] = (
            self._above[index],
            None if logits is None else logits[:, self._logits[0] - kept_rows :].copy(),
        )
        self._left = logits
        return len(rows.pixels) * len(columns.pixels)

    def strip(self) -> Strip:
        """Return the row of windows that is complete now."""
        return Strip(
            self._rows[self._row].first, self._labels, self._confidence, self._probabilities
        )

    def _mosaic(self, index: int, logits: Floats) -> Floats:
        """Return a window's logits with those that it is blended with above and to the left."""
        kept_rows, kept_columns = self._kept
        if not kept_rows and not kept_columns:
            return np.ascontiguousarray(logits)
        own_rows, own_columns = self._logits
        mosaic = np.zeros(
            (self._classes, kept_rows + own_rows, kept_columns + own_columns), dtype=np.float32
        )
        above = self._above[index]
        mosaic[:, kept_rows:, kept_columns:] = logits
        if above is not None:
            mosaic[:, :kept_rows, kept_columns:] = above
        if self._left is not None:
            mosaic[:, kept_rows:, :kept_columns] = self._left[:, :, own_columns - kept_columns :]
        if self._corner is not None:
            mosaic[:, :kept_rows, :kept_columns] = self._corner[:, :, own_columns - kept_columns :]
        return mosaic

    def _blend(self, index: int, mosaic: Floats, valid: npt.NDArray[np.bool_] | None) -> None:
        rows, columns = self._rows[self._row], self._columns[index]
        width = len(columns.pixels)
        place = slice(columns.first, columns.first + width)
        for block in self._blocks[self._row]:
            part = (block.pixels, place)
            logits = np.ascontiguousarray(mosaic[:, block.logits])
            across = self._matrices[index]
            kernel = self._kernel(logits.shape, block.taps.shape, across.shape[1])
            labels, probabilities = kernel(logits, across, block.taps, block.weights)
            labels = labels[: block.pixels.stop - block.pixels.start, :width]
            if valid is not None:
                holds = valid[rows.pixels[block.pixels, None], columns.pixels[None, :]]
                labels[~holds] = IGNORE_INDEX
            self._labels[part] = labels
            if probabilities is None:
                continue
            probabilities = probabilities[:, : labels.shape[0], :width]
            if self._confidence is not None:
                best = probabilities.max(axis=0)
                self._confidence[part] = stored_scores(best, labels, self._confidence.dtype)
            if self._probabilities is not None:
                self._probabilities[:, *part] = stored_scores(
                    probabilities, labels, self._probabilities.dtype
                )

    def _kernel(self, logits: Any, taps: Any, width: int) -> BlendKernel:
        """Return the kernel for blocks of one size; nobody else uses it."""
        size = (logits, taps, width)
        if size not in self._kernels:
            self._kernels[size] = BlendKernel(*size, probabilities=any(self._score_types))
        return self._kernels[size]
