"""Whether the confidence of a map is the share of its pixels that are right."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hrrsi.classes import IGNORE_INDEX
from hrrsi.evaluation.evaluated_strips import EvaluatedStrip

BINS = 20


class ReliabilityCounts:
    """Counts behind a reliability curve: pixels by the confidence in their predicted class.

    The confidence is the probability of the class that was predicted; its bins are equally wide
    (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2).

    Attributes:
        pixels: (20,) int64, pixels of each bin.
        right: (20,) int64, those of them that are predicted right.
        confidence_sums: (20,) float64, sum of the confidences of each bin.
    """

    def __init__(self) -> None:
        self.pixels: npt.NDArray[np.int64] = np.zeros(BINS, dtype=np.int64)
        self.right: npt.NDArray[np.int64] = np.zeros(BINS, dtype=np.int64)
        self.confidence_sums: npt.NDArray[np.float64] = np.zeros(BINS)

    def add(self, strip: EvaluatedStrip) -> None:
        """Count the pixels of a strip that have a prediction, its confidence and a label."""
        if strip.confidence is None:
            return
        prediction, truth, confidence = strip.prediction, strip.truth, strip.confidence
        counted = (prediction != IGNORE_INDEX) & (truth != IGNORE_INDEX) & np.isfinite(confidence)
        values = confidence[counted].astype(np.float64)
        right = prediction[counted] == truth[counted]
        place = np.clip((values * BINS).astype(np.intp), 0, BINS - 1)
        self.pixels += np.bincount(place, minlength=BINS)
        self.right += np.bincount(place[right], minlength=BINS)
        self.confidence_sums += np.bincount(place, weights=values, minlength=BINS)

    def merge(self, other: ReliabilityCounts) -> None:
        """Add the counts of other pixels."""
        self.pixels += other.pixels
        self.right += other.right
        self.confidence_sums += other.confidence_sums

    @property
    def accuracy(self) -> npt.NDArray[np.float64]:
        """(20,) share of each bin's pixels that are right, NaN where it has none."""
        return self._means(self.right)

    @property
    def confidence(self) -> npt.NDArray[np.float64]:
        """(20,) mean confidence of each bin's pixels, NaN where it has none."""
        return self._means(self.confidence_sums)

    @property
    def expected_calibration_error(self) -> float:
        """ECE, 0 to 1: mean over the pixels of their bin's |accuracy - confidence|; NaN for none.

        Guo et al. 2017, equation 3.
        """
        pixels = int(self.pixels.sum())
        if not pixels:
            return float("nan")
        return float(np.abs(self.right - self.confidence_sums).sum() / pixels)

    def _means(self, sums: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        means = np.full(BINS, np.nan)
        np.divide(sums, self.pixels, out=means, where=self.pixels > 0)
        return means
