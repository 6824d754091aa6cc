"""Confusion matrices of square blocks of a scene: what uncertainty is estimated from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

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

    def add(
        self, first_row: int, prediction: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]
    ) -> None:
        """Count the pixels of a strip.

        Args:
            first_row: Row of the scene that the strip begins with.
            prediction: (rows, width) class indices, 255 where there is none.
            truth: Likewise; pixels of 255 are ignored.
        """
        rows, width = truth.shape
        last_row, block = first_row + rows, self.block
        for row in range(first_row // block, -(-last_row // block)):
            part = slice(
                max(row * block - first_row, 0), min((row + 1) * block, last_row) - first_row
            )
            for column in range(-(-width // block)):
                columns = slice(column * block, (column + 1) * block)
                place = (row, column)
                if place not in self._matrices:
                    self._matrices[place] = ConfusionMatrix(self.classes)
                self._matrices[place].add(prediction[part, columns], truth[part, columns])

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
