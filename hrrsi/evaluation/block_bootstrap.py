"""How sure scores are: intervals and a paired test over blocks of scenes.

Pixels that are near each other are right or wrong together, so they are no sample. Blocks nearly
are: what was counted in each is drawn, added up and scored, again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

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


RESAMPLES = 2000
LEVEL = 0.95
# with fewer, no difference reaches a p below 1 - LEVEL: two of 2**blocks swaps are as large
FEWEST_BLOCKS = 6
_SEED = 20211110  # any will do, as long as it stays the same
_AT_ONCE = 2_500_000  # blocks that are drawn before they are added up; bounds memory

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
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
    blocks: Counts, scores: ScoresOf, telling: Mapping[str, int] | None = None
) -> dict[str, Interval]:
    """Return scores with percentile bootstrap intervals over blocks.

    Blocks are drawn with replacement, as many as there are (Efron and Tibshirani 1993, chapter
    13). A draw that leaves a score undefined is no part of that score's interval.

    Args:
        blocks: (blocks, ...) what was counted in each; blocks of zeros are left out.
        scores: Returns scores by name, each (n,), of n sums of such counts, (n, ...).
        telling: How many blocks say something of each score; by default, each does.
    """
    blocks = blocks[_counted(blocks)]
    values = scores(blocks.sum(axis=0, keepdims=True))
    if not len(blocks):
        return {
            name: Interval(float(v[0]), float("nan"), float("nan")) for name, v in values.items()
        }
    draws = _joined(scores(sums) for sums in _resampled(blocks))
    telling = telling or dict.fromkeys(values, len(blocks))
    return {
        name: Interval(float(value[0]), *_ends(draws[name], telling[name]))
        for name, value in values.items()
    }


def score_differences(
    first: Counts, second: Counts, scores: ScoresOf, telling: Mapping[str, int] | None = None
) -> dict[str, Difference]:
    """Return how much the scores of two maps differ, over the same blocks.

    The interval is a bootstrap that draws the same blocks for both. The test swaps the two maps
    within random blocks (a paired permutation test: Good 2005, chapter 3).

    Args:
        first: (blocks, ...) what was counted of the first map.
        second: What was counted of the second, in the same blocks in the same order.
        scores: As for `score_intervals`.
        telling: Likewise.

    Raises:
        ValueError: The two have other blocks.
    """
    if first.shape != second.shape:
        raise ValueError(f"blocks {first.shape} and {second.shape} differ")
    counted = _counted(first + second)
    first, second = first[counted], second[counted]

    def differences(one: Counts, other: Counts) -> dict[str, Floats]:
        before, after = scores(one), scores(other)
        return {name: after[name] - before[name] for name in before}

    seen = differences(first.sum(axis=0, keepdims=True), second.sum(axis=0, keepdims=True))
    if not len(first):
        undefined = float("nan")
        return {
            name: Difference(Interval(float(v[0]), undefined, undefined), undefined)
            for name, v in seen.items()
        }
    telling = telling or dict.fromkeys(seen, len(first))
    drawn = _joined(
        differences(one, other)
        for one, other in zip(_resampled(first), _resampled(second), strict=True)
    )
    swapped = _joined(differences(one, other) for one, other in _swapped(first, second))
    found = {}
    for name, values in seen.items():
        value = float(values[0])
        interval = Interval(value, *_ends(drawn[name], telling[name]))
        found[name] = Difference(interval, _p_value(value, swapped[name]))
    return found


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
        kept = random.integers(0, 2, size=(draws, count))
        yield (
            _weighted_sums(kept, first) + _weighted_sums(1 - kept, second),
            _weighted_sums(kept, second) + _weighted_sums(1 - kept, first),
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
    found = list(parts)
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _ends(draws: Floats, telling: int) -> tuple[float, float]:
    """Return the ends of an interval, from a number of blocks that say something of the score."""
    known = draws[~np.isnan(draws)]
    if telling < FEWEST_BLOCKS or not known.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _p_value(seen: float, swapped: Floats) -> float:
    known = swapped[~np.isnan(swapped)]
    if np.isnan(seen) or not known.size:
        return float("nan")
    # the arrangement that was seen is one of those possible (Phipson and Smyth 2010)
    as_large = (np.abs(known) >= abs(seen) - 1e-12).sum()
    return float((as_large + 1) / (known.size + 1))
