"""How accuracy depends on the distance to the nearest border of the labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hrrsi.evaluation.evaluated_strips import Core, EvaluatedStrip
from hrrsi.evaluation.nearby_classes import border_pixels
from hrrsi.labels.scheme import IGNORE_INDEX

FARTHEST = 32  # px; what is farther counts as one


class BorderDistanceCounts:
    """Pixels, and those predicted right, by their distance to the nearest border of the truth.

    A border pixel is one with one of four neighbours in another class, and is at distance 0.
    Distances are those between pixel centres (Euclidean), rounded down.

    Attributes:
        pixels: (33,) int64 at distances 0, 1, ..., 31, and 32 or more px (or without any border).
        right: (33,) int64, those of them that are predicted right.
    """

    margin = FARTHEST

    def __init__(self) -> None:
        self.pixels: npt.NDArray[np.int64] = np.zeros(FARTHEST + 1, dtype=np.int64)
        self.right: npt.NDArray[np.int64] = np.zeros(FARTHEST + 1, dtype=np.int64)

    def add(self, strip: EvaluatedStrip, core: Core) -> None:
        """Count the pixels of a strip that have both a prediction and a label.

        Args:
            strip: With up to `margin` rows and columns on each side of those counted.
            core: The rows and columns that are counted.
        """
        from scipy import ndimage

        truth, prediction = strip.truth, strip.prediction
        border = border_pixels(truth)
        if border.any():
            distance = ndimage.distance_transform_edt(~border)[core]
            place = np.minimum(distance, FARTHEST).astype(np.intp)
        else:
            place = np.full(truth[core].shape, FARTHEST, dtype=np.intp)
        counted = (prediction[core] != IGNORE_INDEX) & (truth[core] != IGNORE_INDEX)
        right = counted & (prediction[core] == truth[core])
        self.pixels += np.bincount(place[counted], minlength=FARTHEST + 1)
        self.right += np.bincount(place[right], minlength=FARTHEST + 1)

    def merge(self, other: BorderDistanceCounts) -> None:
        """Add the counts of other pixels."""
        self.pixels += other.pixels
        self.right += other.right

    @property
    def accuracy(self) -> npt.NDArray[np.float64]:
        """(33,) share of pixels predicted right at each distance, NaN where there is none."""
        shares = np.full(FARTHEST + 1, np.nan)
        np.divide(self.right, self.pixels, out=shares, where=self.pixels > 0)
        return shares
