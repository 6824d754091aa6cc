"""Blends overlapping windows into rows of labels, carrying only what windows share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hrrsi.labels.scheme import IGNORE_INDEX
from hrrsi.prediction.window_reader import WindowPixels
from hrrsi.scenes.windows import Window, blend_weights


class Span(NamedTuple):
    """The part of a window that counts along one axis, in the scene's pixels.

    Attributes:
        start: Where the part begins.
        stop: Where it ends.
        before: Pixels from `start` on that it shares with the previous window.
        after: Pixels up to `stop` that it shares with the next window.
    """

    start: int
    stop: int
    before: int
    after: int


def spans(starts: list[int], size: int, overlap: int) -> list[Span]:
    """Return which part of each window counts along one axis.

    Neighbours share exactly `overlap` pixels. The last window, which moves inward and so overlaps
    its neighbour by more, counts from `overlap` pixels before the neighbour's end: what lies
    above only gives it context. So no pixel belongs to more than two windows of an axis.

    Args:
        starts: Where the windows start, in order.
        size: Pixels of a window.
        overlap: Pixels that neighbours share, at most half of `size`.
    """
    last = len(starts) - 1
    return [
        Span(
            start if i == 0 else starts[i - 1] + size - overlap,
            start + size,
            0 if i == 0 else overlap,
            0 if i == last else overlap,
        )
        for i, start in enumerate(starts)
    ]


class RowBlender:
    """Takes the windows of a scene row by row, left to right, and gives rows of labels.

    Only sums of weighted probabilities that a later window adds to are kept: `overlap` columns
    for the next window, and `overlap` rows as wide as the scene for the next row of windows.

    Args:
        width: Columns of the scene.
        num_classes: Number of classes.
        overlap: Pixels that neighbouring windows share.
    """

    def __init__(self, width: int, num_classes: int, overlap: int) -> None:
        self._width = width
        self._classes = num_classes
        self._rows_above: npt.NDArray[np.float32] = np.zeros(
            (num_classes, overlap, width), dtype=np.float32
        )
        self._columns_left: npt.NDArray[np.float32] = np.zeros(
            (num_classes, 0, 0), dtype=np.float32
        )
        self._labels = np.zeros((0, width), dtype=np.uint8)

    def start_row(self, rows: Span) -> None:
        """Begin a row of windows."""
        self._rows = rows
        final = rows.stop - rows.after - rows.start
        self._labels = np.full((final, self._width), IGNORE_INDEX, dtype=np.uint8)

    def add(
        self, columns: Span, read: WindowPixels, probabilities: npt.NDArray[np.float32] | None
    ) -> int:
        """Blend the next window of the row.

        Args:
            columns: The part of the window that counts.
            read: What was read for it.
            probabilities: (classes, height, width) of the whole window; None where it holds no
                data.

        Returns:
            How many pixels now have their labels.
        """
        rows, window = self._rows, read.window
        final_rows = rows.stop - rows.after - rows.start
        final = slice(columns.start, columns.stop - columns.after)
        final_columns = final.stop - final.start
        part = self._weighted(columns, window, probabilities)

        if columns.before:
            part[:, :, : columns.before] += self._columns_left
        self._columns_left = part[:, :, final_columns:].copy()
        part = part[:, :, :final_columns]
        part[:, : rows.before] += self._rows_above[:, : rows.before, final]
        if rows.after:
            self._rows_above[:, :, final] = part[:, final_rows:]
        if probabilities is not None:
            labels = most_probable(part[:, :final_rows])
            if read.valid is not None:
                top, left = rows.start - window.row, columns.start - window.col
                valid = read.valid[top : top + final_rows, left : left + final_columns]
                labels[~valid] = IGNORE_INDEX
            self._labels[:, final] = labels
        return final_rows * final_columns

    def labels(self) -> npt.NDArray[np.uint8]:
        """Return the labels of the row of windows that is complete now, (rows, width)."""
        return self._labels

    def _weighted(
        self, columns: Span, window: Window, probabilities: npt.NDArray[np.float32] | None
    ) -> npt.NDArray[np.float32]:
        rows = self._rows
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if probabilities is None:
            return np.zeros((self._classes, height, width), dtype=np.float32)
        part = probabilities[:, rows.start - window.row :, columns.start - window.col :]
        weights = (
            blend_weights(height, before=rows.before, after=rows.after)[:, None]
            * blend_weights(width, before=columns.before, after=columns.after)[None, :]
        )
        weighted: npt.NDArray[np.float32] = part * weights
        return weighted


def most_probable(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return the index of the largest of (classes, height, width) scores, as ``argmax(axis=0)``.

    Class by class over whole planes, seven times as fast as NumPy's reduction.
    """
    labels = np.zeros(scores.shape[1:], dtype=np.uint8)
    best = scores[0].copy()
    for index in range(1, len(scores)):
        np.copyto(labels, index, where=scores[index] > best)
        np.maximum(best, scores[index], out=best)
    return labels
