"""Blends overlapping windows into strips of labels, carrying only what windows share.

A block of pixels is made from the logits of up to four windows when the last of them is there:
`blend_kernel` says which logits count, and does the arithmetic.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hrrsi.classes import IGNORE_INDEX, ScoreType
from hrrsi.maps.rasters import empty_scores, stored_scores
from hrrsi.networks.architecture import LogitGrid
from hrrsi.prediction.blend_kernel import (
    Axis,
    BlendKernel,
    Floats,
    Span,
    blocks_of_equal_size,
    kept_logits,
)
from hrrsi.scenes.resampling import OWN_STEPS, Steps


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


def window_labels(
    logits: Floats, height: int, width: int, grid: LogitGrid
) -> npt.NDArray[np.uint8]:
    """Return the labels of one window by itself, (height, width) uint8.

    Args:
        logits: (classes, rows, columns), as many as `grid` counts.
        height: Rows of the window.
        width: Columns of the window.
        grid: Where they lie on the window, the engine's.
    """
    rows, columns = ([Span(0, None, 0, size, 0)] for size in (height, width))
    shape = (height, width)
    blender = RowBlender(rows, columns, shape, 0, len(logits), shape, grid)
    blender.start_row(0)
    blender.add(0, logits, None)
    return blender.strip().labels


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
        logits: Where the logits of a window lie on its pixels, the engine's.
        steps: The scene's pixels in one of the network's, down and across.
        confidence: Type in which strips hold confidences, or None for none.
        probabilities: Type in which strips hold class probabilities, or None for none.
    """

    def __init__(
        self,
        rows: list[Span],
        columns: list[Span],
        shape: tuple[int, int],
        overlap: int,
        num_classes: int,
        scene: tuple[int, int],
        logits: LogitGrid,
        *,
        steps: Steps = OWN_STEPS,
        confidence: ScoreType | None = None,
        probabilities: ScoreType | None = None,
    ) -> None:
        height, width = shape
        self._classes = num_classes
        self._scene = scene
        self._score_types = (confidence, probabilities)
        self._logits = (logits.count(height), logits.count(width))
        self._kept = (kept_logits(height, overlap, logits), kept_logits(width, overlap, logits))
        down, across = steps
        self._rows = [Axis(span, height, overlap, down, scene[0], logits) for span in rows]
        self._blocks = blocks_of_equal_size(
            [axis.blocks() for axis in self._rows], sum((self._kept[0], self._logits[0]))
        )
        self._columns = [Axis(span, width, overlap, across, scene[1], logits) for span in columns]
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
