"""Mean and standard deviation of bands, gathered piece by piece."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BandMoments:
    """Count, mean and sum of squared deviations of each band.

    Pieces join by the update of Chan, Golub & LeVeque (1979), which stays exact where sums of
    squares would cancel. Joined in the same order they give the same bits.

    Attributes:
        count: Number of pixels.
        mean: (bands,) mean.
        deviations: (bands,) sum of squared deviations from the mean.
    """

    count: int
    mean: Floats
    deviations: Floats

    @classmethod
    def of(cls, pixels: npt.NDArray[np.generic]) -> BandMoments:
        """Return the moments of (bands, pixels) values."""
        bands, count = pixels.shape
        if count == 0:
            return cls(0, np.zeros(bands), np.zeros(bands))
        values = pixels.astype(np.float64)
        mean = values.mean(axis=1)
        return cls(count, mean, ((values - mean[:, np.newaxis]) ** 2).sum(axis=1))

    def joined(self, other: BandMoments) -> BandMoments:
        """Return the moments of both sets of pixels together."""
        count = self.count + other.count
        if count == 0:
            return self
        apart = other.mean - self.mean
        return BandMoments(
            count,
            self.mean + apart * (other.count / count),
            self.deviations + other.deviations + apart**2 * (self.count * other.count / count),
        )

    @property
    def std(self) -> Floats:
        """(bands,) standard deviation over all pixels."""
        result: Floats = np.sqrt(self.deviations / max(self.count, 1))
        return result
