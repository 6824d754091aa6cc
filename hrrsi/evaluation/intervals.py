"""How sure scores and areas are.

Pixels that are near each other are right or wrong together, so they are no sample. Blocks nearly
are: what was counted in each is drawn, added up and scored, again and again.

Areas follow Olofsson et al. 2014, "Good practices for estimating area and assessing accuracy of
land change", Remote Sensing of Environment 148, 42-57. Adding up a map's pixels is biased wherever
one class is taken for another more often than the reverse; the estimate corrects for that with the
confusion matrix, whose predicted classes are the strata.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hrrsi.evaluation.scores import ConfusionMatrix, Counts, Floats, Part, shares

RESAMPLES = 2000
LEVEL = 0.95
_Z = 1.959963984540054  # half the width of an interval of that level, in standard deviations
# with fewer, no difference reaches a p below 1 - LEVEL: two of 2**blocks swaps are as large
FEWEST_BLOCKS = 6
_SEED = 20211110  # any will do, as long as it stays the same
_AT_ONCE = 2_500_000  # blocks that are drawn before they are added up; bounds memory

ScoresOf = Callable[[Counts], Mapping[str, Floats]]


@dataclass(frozen=True)
class Interval:
    """A figure with an interval of `LEVEL`.

    Attributes:
        value: The figure; NaN where it is undefined.
        low: Lower end, NaN where fewer than `FEWEST_BLOCKS` say anything of it.
        high: Upper end, likewise.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How much one score of two maps of the same pixels differs.

    Attributes:
        interval: Second minus first, with its interval.
        p: Probability of a difference at least as large, either way, if the two maps were
            exchangeable within each block; NaN where the score is undefined.
    """

    interval: Interval
    p: float

    @property
    def is_significant(self) -> bool:
        """Whether both the interval and the test say that the two differ."""
        low, high = self.interval.low, self.interval.high
        return self.p < 1 - LEVEL and not low <= 0 <= high and not np.isnan(low)


def counted_blocks(blocks: Counts) -> int:
    """Return how many of some blocks (blocks, ...) hold anything: those that are drawn."""
    return int(_counted(blocks).sum())


def score_intervals(
    blocks: Counts, scores: ScoresOf, support: Mapping[str, int] | None = None
) -> dict[str, Interval]:
    """Return scores with percentile bootstrap intervals over blocks.

    Blocks are drawn with replacement, as many as there are (Efron and Tibshirani 1993, chapter
    13). A draw that leaves a score undefined is no part of that score's interval.

    Args:
        blocks: (blocks, ...) what was counted in each; blocks of zeros are left out.
        scores: Returns scores by name, each (n,), of n sums of such counts, (n, ...).
        support: How many blocks say something of each score; by default, each does.
    """
    blocks = blocks[_counted(blocks)]
    values = scores(blocks.sum(axis=0, keepdims=True))
    if not len(blocks):
        return {
            name: Interval(float(v[0]), float("nan"), float("nan")) for name, v in values.items()
        }
    draws = _joined(scores(sums) for sums in _resampled(blocks))
    support = support or dict.fromkeys(values, len(blocks))
    return {
        name: _interval(float(value[0]), draws[name], support[name])
        for name, value in values.items()
    }


def _interval(value: float, draws: Floats, support: int) -> Interval:
    """Return a score with its interval; without a value it has none, whatever draws have."""
    if math.isnan(value):
        return Interval(value, value, value)
    return Interval(value, *_ends(draws, support))


def score_differences(
    first: Counts,
    second: Counts,
    scores: ScoresOf | tuple[ScoresOf, ScoresOf],
    support: Mapping[str, int] | None = None,
) -> dict[str, Difference]:
    """Return how much the scores of two maps differ, over the same blocks.

    The interval is a bootstrap that draws the same blocks for both. The test swaps the two maps
    within random blocks (a paired permutation test: Good 2005, chapter 3).

    Args:
        first: (blocks, ...) what was counted of the first map.
        second: What was counted of the second, in the same blocks in the same order.
        scores: As for `score_intervals`; one for both, or one for each.
        support: Likewise.

    Raises:
        ValueError: The two have other blocks.
    """
    if first.shape != second.shape:
        raise ValueError(f"blocks {first.shape} and {second.shape} differ")
    counted = _counted(first + second)
    first, second = first[counted], second[counted]

    of_maps = scores if isinstance(scores, tuple) else (scores, scores)

    def differences(first_sums: Counts, second_sums: Counts) -> dict[str, Floats]:
        of_first, of_second = of_maps[0](first_sums), of_maps[1](second_sums)
        return {name: of_second[name] - of_first[name] for name in of_first}

    values = differences(first.sum(axis=0, keepdims=True), second.sum(axis=0, keepdims=True))
    if not len(first):
        undefined = float("nan")
        return {
            name: Difference(Interval(float(v[0]), undefined, undefined), undefined)
            for name, v in values.items()
        }
    support = support or dict.fromkeys(values, len(first))
    drawn = _joined(
        differences(*sums) for sums in zip(_resampled(first), _resampled(second), strict=True)
    )
    swapped = _joined(differences(*sums) for sums in _swapped(first, second))
    return {
        name: Difference(
            _interval(float(value[0]), drawn[name], support[name]),
            _p_value(float(value[0]), swapped[name]),
        )
        for name, value in values.items()
    }


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


def class_areas(matrix: ConfusionMatrix, mapped: Sequence[int]) -> tuple[ClassArea, ...]:
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
    area_error = _Z * np.sqrt(_variances(weights, in_strata, sampled).sum(axis=0))  # equation 10
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
            users_half_width=float(_Z * np.sqrt(users_variance[i])),
            producers_accuracy=float(producers[i]),
            producers_half_width=float(_Z * np.sqrt(producers_variance[i])),
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


def _counted(blocks: Counts) -> npt.NDArray[np.bool_]:
    totals: Counts = blocks.sum(axis=tuple(range(1, blocks.ndim)))  # nothing is below zero
    return totals > 0


def _resampled(blocks: Counts) -> Iterator[Counts]:
    """Yield sums of draws of as many blocks, the same draws each time it is called."""
    random, count = np.random.default_rng(_SEED), len(blocks)
    for draws in _portions(count):
        times = random.multinomial(count, np.full(count, 1 / count), size=draws)
        yield _weighted_sums(times, blocks)


def _swapped(first: Counts, second: Counts) -> Iterator[tuple[Counts, Counts]]:
    """Yield sums of both maps' blocks, those of random blocks swapped."""
    random, count = np.random.default_rng(_SEED), len(first)
    for draws in _portions(count):
        assignment = random.integers(0, 2, size=(draws, count))
        yield (
            _weighted_sums(assignment, first) + _weighted_sums(1 - assignment, second),
            _weighted_sums(assignment, second) + _weighted_sums(1 - assignment, first),
        )


def _portions(blocks: int) -> Iterator[int]:
    size = max(1, _AT_ONCE // blocks)
    for start in range(0, RESAMPLES, size):
        yield min(size, RESAMPLES - start)


def _weighted_sums(times: npt.NDArray[np.int64], blocks: Counts) -> Counts:
    """Return sums of blocks, each as often as `times` (sums, blocks) says."""
    # in double precision, which is exact below 2**53 pixels and many times faster
    sums = times.astype(np.float64) @ blocks.reshape(len(blocks), -1).astype(np.float64)
    return np.rint(sums).astype(np.int64).reshape(len(times), *blocks.shape[1:])


def _joined(parts: Iterator[Mapping[str, Floats]]) -> dict[str, Floats]:
    portions = list(parts)
    return {name: np.concatenate([part[name] for part in portions]) for name in portions[0]}


def _ends(draws: Floats, support: int) -> tuple[float, float]:
    """Return the ends of an interval, from a number of blocks that say something of the score."""
    defined = draws[~np.isnan(draws)]
    if support < FEWEST_BLOCKS or not defined.size:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _p_value(value: float, swapped: Floats) -> float:
    defined = swapped[~np.isnan(swapped)]
    if np.isnan(value) or not defined.size:
        return float("nan")
    # the arrangement that was seen is one of those possible (Phipson and Smyth 2010)
    as_large = (np.abs(defined) >= abs(value) - 1e-12).sum()
    return float((as_large + 1) / (defined.size + 1))


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
