"""Strips of a scene that hold what is compared: truth and prediction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class EvaluatedStrip(NamedTuple):
    """Rows of a scene, from its left to its right end.

    Attributes:
        first_row: Where they begin.
        truth: (rows, width) uint8 class indices, 255 where ignored.
        prediction: (rows, width) uint8 class indices of the same classes, 255 where there is none.
        confidence: (rows, width) probability of the predicted class, 0 to 1, NaN where there is
            none; None where it is not known.
        eroded_truth: (rows, width) uint8, truth without the borders of classes, from labels of its
            own; None where there are none.
        mapped: (rows, width) uint8, what the map holds, where that is more than the prediction
            that is scored; None where it is not.
    """

    first_row: int
    truth: npt.NDArray[np.uint8]
    prediction: npt.NDArray[np.uint8]
    confidence: npt.NDArray[Any] | None = None
    eroded_truth: npt.NDArray[np.uint8] | None = None
    mapped: npt.NDArray[np.uint8] | None = None

    @property
    def end_row(self) -> int:
        """The row of the scene after the last of them."""
        return self.first_row + len(self.truth)

    def rows(self, part: slice) -> EvaluatedStrip:
        """Return some of the rows.

        Args:
            part: Rows of the strip, from 0, without a step.
        """
        return EvaluatedStrip(
            self.first_row + (part.start or 0),
            self.truth[part],
            self.prediction[part],
            None if self.confidence is None else self.confidence[part],
            None if self.eroded_truth is None else self.eroded_truth[part],
            None if self.mapped is None else self.mapped[part],
        )


def with_margins(
    strips: Iterable[EvaluatedStrip], margin: int
) -> Iterator[tuple[EvaluatedStrip, slice]]:
    """Yield strips together with the rows around them.

    Args:
        strips: A scene's strips in their order, without gaps.
        margin: Rows to know above and below; fewer at the ends of the scene.

    Yields:
        A strip with its margins, and the slice of its rows that are no margin. Those of all strips
        are each row of the scene once; they are other strips than the given ones.
    """
    held: EvaluatedStrip | None = None
    done = 0  # rows of the scene that were yielded
    for strip in strips:
        held = strip if held is None else _joined(held, strip)
        if held.end_row - margin > done:
            core = slice(done - held.first_row, held.end_row - margin - held.first_row)
            yield held, core
            done = held.end_row - margin
            held = held.rows(slice(max(core.stop - margin, 0), None))
    if held is not None and held.end_row > done:
        yield held, slice(done - held.first_row, len(held.truth))


def _joined(above: EvaluatedStrip, below: EvaluatedStrip) -> EvaluatedStrip:
    if above.end_row != below.first_row:
        raise ValueError(f"a strip at row {below.first_row} does not follow the one before")
    return EvaluatedStrip(
        above.first_row,
        np.concatenate([above.truth, below.truth]),
        np.concatenate([above.prediction, below.prediction]),
        _both(above.confidence, below.confidence),
        _both(above.eroded_truth, below.eroded_truth),
        _both(above.mapped, below.mapped),
    )


def _both(
    above: npt.NDArray[Any] | None, below: npt.NDArray[Any] | None
) -> npt.NDArray[Any] | None:
    return None if above is None or below is None else np.concatenate([above, below])
