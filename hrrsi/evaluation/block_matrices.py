"""Confusion matrices of square blocks of a scene: what uncertainty is estimated from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from hrrsi.evaluation.evaluated_strips import EvaluatedStrip
from hrrsi.evaluation.protocols import DEFAULT_BLOCK
from hrrsi.evaluation.scores import ConfusionMatrix


class BlockMatrices:
    """A confusion matrix for each block of a scene.

    Neighbouring pixels are right or wrong together; blocks that are larger than what is wrong in
    one piece are nearly independent of each other.

    Args:
        classes: Class names in the order of their indices.
        block: Rows and columns of a block, in pixels; those at a scene's end may be smaller.
    """

    def __init__(self, classes: Sequence[str], block: int = DEFAULT_BLOCK) -> None:
        self.classes = tuple(classes)
        self.block = block
        self._matrices: dict[tuple[int, int], ConfusionMatrix] = {}

    def add(self, strip: EvaluatedStrip, truth: npt.NDArray[np.uint8]) -> None:
        """Count the pixels of a strip.

        Args:
            strip: Where they lie, and what is predicted.
            truth: (rows, width) class indices; pixels of 255 are ignored.
        """
        for row, rows in self._parts(strip.first_row, truth.shape[0]):
            for column, columns in self._parts(strip.first_column, truth.shape[1]):
                place = (row, column)
                if place not in self._matrices:
                    self._matrices[place] = ConfusionMatrix(self.classes)
                self._matrices[place].add(strip.prediction[rows, columns], truth[rows, columns])

    def _parts(self, first: int, count: int) -> Iterator[tuple[int, slice]]:
        """Yield the blocks along an axis that some pixels lie in, and which of the pixels do."""
        end, block = first + count, self.block
        for number in range(first // block, -(-end // block)):
            inside = max(number * block, first), min((number + 1) * block, end)
            yield number, slice(inside[0] - first, inside[1] - first)

    @property
    def matrix(self) -> ConfusionMatrix:
        """The confusion matrix of the whole scene."""
        total = ConfusionMatrix(self.classes)
        for matrix in self._matrices.values():
            total.merge(matrix)
        return total

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Row and column of each block, in blocks, in the order of `counts`."""
        return tuple(sorted(self._matrices))

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(blocks, classes, classes) int64, rows = prediction, columns = truth, of each block."""
        size = len(self.classes)
        stacked = [self._matrices[place].counts for place in self.places]
        return np.stack(stacked) if stacked else np.zeros((0, size, size), dtype=np.int64)
