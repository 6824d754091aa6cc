"""Areas of classes, corrected for the map's errors: what a mapper has to report.

Olofsson et al. 2014, "Good practices for estimating area and assessing accuracy of land change",
Remote Sensing of Environment 148, 42-57. Adding up a map's pixels is biased wherever one class is
taken for another more often than the reverse; the estimate corrects for that with the confusion
matrix, whose predicted classes are the strata.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hrrsi.evaluation.scores import ConfusionMatrix, Floats, Part, shares

Z = 1.959963984540054  # of a 95 % interval


@dataclass(frozen=True)
class ClassArea:
    """The area of a class, as a share of the mapped area (0 to 1), and how well it was mapped.

    Half widths are those of 95 % intervals that take each labelled pixel as a unit of its own;
    neighbouring pixels are not, so these are lower bounds.

    Attributes:
        name: The class.
        mapped: Share of the map's pixels that got the class.
        estimated: Error-adjusted share; NaN where a mapped class has no labelled pixel.
        half_width: Of its interval.
        users_accuracy: Share of what is mapped as the class that is; NaN where none is labelled.
        users_half_width: Of its interval.
        producers_accuracy: Share of the class that is mapped as it, by area.
        producers_half_width: Of its interval.
    """

    name: str
    mapped: float
    estimated: float
    half_width: float
    users_accuracy: float
    users_half_width: float
    producers_accuracy: float
    producers_half_width: float


def class_areas_estimated(matrix: ConfusionMatrix, mapped: Sequence[int]) -> tuple[ClassArea, ...]:
    """Return the error-adjusted share of each class.

    Args:
        matrix: Labelled pixels; its rows are the strata.
        mapped: Pixels that the whole map gave each class, labelled or not.

    Raises:
        ValueError: Not one number for each class, or none above 0.
    """
    sizes = np.asarray(mapped, dtype=np.float64)
    if sizes.shape != (len(matrix.classes),) or not sizes.sum() > 0:
        raise ValueError(f"mapped pixels {list(mapped)} for {len(matrix.classes)} classes")
    weights = sizes / sizes.sum()
    counts = matrix.counts.astype(np.float64)
    sampled = counts.sum(axis=1)
    in_strata = _shares_in_strata(counts, weights)
    proportions = weights[:, None] * in_strata  # equation 4
    estimated = proportions.sum(axis=0)  # equation 9
    area_error = Z * np.sqrt(_variances(weights, in_strata, sampled).sum(axis=0))  # equation 10
    users = shares(np.diagonal(counts), sampled)
    users_variance = shares(users * (1 - users), sampled - 1)  # equation 6
    producers = shares(np.diagonal(proportions), estimated)
    producers_variance = _producers_variances(weights, in_strata, sampled, sizes, users, producers)
    return tuple(
        ClassArea(
            name=name,
            mapped=float(weights[i]),
            estimated=float(estimated[i]),
            half_width=float(area_error[i]),
            users_accuracy=float(users[i]),
            users_half_width=float(Z * np.sqrt(users_variance[i])),
            producers_accuracy=float(producers[i]),
            producers_half_width=float(Z * np.sqrt(producers_variance[i])),
        )
        for i, name in enumerate(matrix.classes)
    )


def estimated_shares(counts: npt.NDArray[np.int64], mapped: Sequence[int]) -> Floats:
    """Return the error-adjusted share of each class for many confusion matrices (equation 9).

    Args:
        counts: (..., classes, classes), rows = prediction.
        mapped: Pixels that the whole map gave each class.

    Returns:
        (..., classes), NaN of every class where any mapped class has no labelled pixel.
    """
    weights = np.asarray(mapped, dtype=np.float64)
    weights = weights / weights.sum()
    estimated: Floats = (weights[:, None] * _shares_in_strata(counts, weights)).sum(axis=-2)
    return estimated


def _shares_in_strata(counts: Part, weights: Floats) -> Floats:
    """Return the share of each true class in the labelled pixels of each stratum.

    A stratum that is not mapped adds nothing; one without labels can't be estimated.
    """
    sampled = np.broadcast_to(counts.sum(axis=-1, keepdims=True), counts.shape)
    in_strata = shares(counts, sampled)
    in_strata[..., weights == 0, :] = 0.0
    return in_strata


def _variances(weights: Floats, in_strata: Floats, sampled: Floats) -> Floats:
    """Return each stratum's part of the variance of each class' share (equation 10)."""
    degrees = np.broadcast_to((sampled - 1)[:, None], in_strata.shape)
    spread = shares(in_strata * (1 - in_strata), degrees)
    parts: Floats = np.where(weights[:, None] > 0, weights[:, None] ** 2 * spread, 0.0)
    return parts


def _producers_variances(
    weights: Floats,
    in_strata: Floats,
    sampled: Floats,
    sizes: Floats,
    users: Floats,
    producers: Floats,
) -> Floats:
    """Return the variance of each producer's accuracy (equation 7)."""
    count = len(weights)
    estimated_pixels = sizes.sum() * (weights[:, None] * in_strata).sum(axis=0)
    variances = np.full(count, np.nan)
    for j in range(count):
        own = sizes[j] ** 2 * (1 - producers[j]) ** 2
        if sizes[j] > 0:
            own *= users[j] * (1 - users[j]) / (sampled[j] - 1) if sampled[j] > 1 else np.nan
        rest = 0.0
        for i in range(count):
            if i != j and sizes[i] > 0:
                spread = in_strata[i, j] * (1 - in_strata[i, j])
                rest += sizes[i] ** 2 * (spread / (sampled[i] - 1) if sampled[i] > 1 else np.nan)
        if estimated_pixels[j] > 0:
            variances[j] = (own + producers[j] ** 2 * rest) / estimated_pixels[j] ** 2
    return variances
