"""Two maps of the same scenes, compared block by block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hrrsi.errors import HrrsiError
from hrrsi.evaluation.block_bootstrap import (
    FEWEST_BLOCKS,
    Difference,
    counted_blocks,
    score_differences,
)
from hrrsi.evaluation.report import EvaluationReport, number
from hrrsi.evaluation.scores import Counts, telling_blocks


@dataclass(frozen=True)
class Comparison:
    """Two evaluations of the same pixels under one protocol.

    Attributes:
        first: The one to compare with.
        second: The one that differences are of.

    Raises:
        HrrsiError: They are of other classes, scenes, pixels or under other protocols.
    """

    first: EvaluationReport
    second: EvaluationReport

    def __post_init__(self) -> None:
        one, other = self.first, self.second
        counts, others = one.evaluation.counts, other.evaluation.counts
        for what, differs in (
            ("classes", one.matrix.classes != other.matrix.classes),
            ("protocols", one.protocol != other.protocol),
            ("scenes or blocks", counts.block_places != others.block_places),
        ):
            if differs:
                raise HrrsiError(
                    f"they have other {what}",
                    where=f"{one.source.name} and {other.source.name}",
                    fix="compare evaluations of the same data",
                )

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """How much each score of the second differs, as `score_arrays` names them."""
        first, second = self._blocks
        telling = telling_blocks(first + second, self.first.matrix.classes, self.first.protocol)
        return score_differences(first, second, self.first.scores_of, telling)

    @cached_property
    def boundary_differences(self) -> dict[str, Difference]:
        """Likewise of mean boundary scores, as ``F1 at 3 px``; empty where there are no borders."""
        if not self.first.boundaries:
            return {}
        first, second = (r.evaluation.counts.boundary_blocks for r in (self.first, self.second))
        telling = self.first.telling_boundary_blocks(first + second)
        return score_differences(first, second, self.first.boundary_scores_of, telling)

    @property
    def _blocks(self) -> tuple[Counts, Counts]:
        """(blocks, classes, classes) what was counted of each, under the protocol's labels."""
        labels = self.first.protocol.labels
        first, second = (r.evaluation.counts.blocks(labels) for r in (self.first, self.second))
        return first, second

    @property
    def verdict(self) -> str:
        """Whether the mIoU tells the two (A and B) apart, as a sentence."""
        found, over = self.differences["mIoU"], self.first.blocks_text
        if np.isnan(found.interval.low):
            few = over
            if counted_blocks(self._blocks[0]) >= FEWEST_BLOCKS:
                few = f"fewer than {FEWEST_BLOCKS} of {over} that hold the rarest class"
            return (
                f"With {few}, A and B can't be told apart: take more scenes, or a smaller --block."
            )
        sure = f"p = {found.p:.4f}, {over}"
        if not found.is_significant:
            return f"By mIoU, A and B can't be told apart on these scenes ({sure})."
        better = "B" if found.interval.value > 0 else "A"
        return f"By mIoU, {better} is better on these scenes ({sure})."

    @property
    def unequal_pixels(self) -> str:
        """Which labelled pixels only one of the two predicts, as a sentence; empty where none."""
        lacking = [r.evaluation.uncompared_pixels or 0 for r in (self.second, self.first)]
        if any(lacking):  # maps that were there: scored where both predict
            return (
                f"A leaves out {lacking[0]:,} labelled pixels that B maps, and B {lacking[1]:,} "
                "that A maps; none of them counts."
            )
        first, second = (blocks.sum(axis=1) for blocks in self._blocks)  # the truth of each block
        apart = int(np.abs(second - first).sum())
        return f"{apart:,} pixels are scored of one of the two only." if apart else ""

    def to_dict(self) -> dict[str, Any]:
        """Return both evaluations and their differences (second minus first) as plain data."""
        return {
            "first": self.first.to_dict(),
            "second": self.second.to_dict(),
            "verdict": self.verdict,
            "differences": {name: _plain(found) for name, found in self.differences.items()},
            "boundary_differences": {
                name: _plain(found) for name, found in self.boundary_differences.items()
            },
        }


def _plain(found: Difference) -> dict[str, Any]:
    interval = found.interval
    return {
        "difference": number(interval.value),
        "interval": [number(interval.low), number(interval.high)],
        "p": number(found.p),
    }
