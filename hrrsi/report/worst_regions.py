"""Where a map is wrong most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hrrsi.evaluation.protocols import LabelKind
from hrrsi.evaluation.scene_counts import SceneCounts


@dataclass(frozen=True)
class WorstRegion:
    """A block of a scene in which many pixels are wrong.

    Attributes:
        row: First row of the block, in pixels of the scene.
        column: First column.
        side: Rows and columns of the block; the scene may end within it.
        wrong: Wrong pixels.
        share_of_errors: Of all wrong pixels of the scene, 0 to 1.
        accuracy: Share of the block's pixels that are right.
        predicted: Index of the class that the leading confusion takes another one for.
        true: Index of that other class.
        share_of_wrong: Of the block's wrong pixels, those of the leading confusion.
    """

    row: int
    column: int
    side: int
    wrong: int
    share_of_errors: float
    accuracy: float
    predicted: int
    true: int
    share_of_wrong: float


def worst_regions(counts: SceneCounts, labels: LabelKind, most: int = 6) -> tuple[WorstRegion, ...]:
    """Return the blocks with the most wrong pixels, the worst first.

    Args:
        counts: Of one scene.
        labels: Which labels are the truth.
        most: How many at most; blocks without a wrong pixel are none of them.
    """
    matrices = counts.matrices[labels]
    found = []
    diagonal = np.eye(len(counts.classes), dtype=bool)
    errors = np.where(diagonal, 0, matrices.counts)
    wrong = errors.sum(axis=(1, 2))
    for index in np.argsort(-wrong, kind="stable")[:most]:
        if not wrong[index]:
            break
        row, column = matrices.places[index]
        predicted, true = np.unravel_index(int(errors[index].argmax()), diagonal.shape)
        found.append(
            WorstRegion(
                row=row * matrices.block,
                column=column * matrices.block,
                side=matrices.block,
                wrong=int(wrong[index]),
                share_of_errors=float(wrong[index] / wrong.sum()),
                accuracy=float(1 - wrong[index] / matrices.counts[index].sum()),
                predicted=int(predicted),
                true=int(true),
                share_of_wrong=float(errors[index].max() / wrong[index]),
            )
        )
    return tuple(found)
