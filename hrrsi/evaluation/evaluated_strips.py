"""What is compared, strip by strip: truth and prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hrrsi.classes import UnknownLabels
from hrrsi.labels.label_reading import open_labels
from hrrsi.labels.labelled_scenes import SceneFiles
from hrrsi.labels.scene_labels import Indices, Labels
from hrrsi.labels.scheme import Scheme
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window

COLUMNS = 2048  # of a strip that are counted at a time

Core = tuple[slice, slice]


class Truth:
    """The labels of an open scene, and those with eroded borders where it has them.

    Args:
        labels: The labels.
        eroded: Labels of its own with eroded borders, or None.

    Attributes:
        unknown_pixels: Pixels read so far whose label the scheme doesn't know.
    """

    def __init__(self, labels: Labels, eroded: Labels | None) -> None:
        self._labels = labels
        self._eroded = eroded
        self.unknown_pixels = 0

    @property
    def placement(self) -> str | None:
        """How the labels lie on the scene, where that is to be said; else None."""
        of_eroded = None if self._eroded is None else self._eroded.placement
        return self._labels.placement or of_eroded

    @property
    def is_blank(self) -> bool:
        """Whether no label lies on the scene."""
        return self._labels.is_blank

    def peek(self, window: Window) -> Indices:
        """Return the class indices of a window, of which nothing is counted."""
        return self._labels.read(window)

    def read(self, window: Window) -> tuple[Indices, Indices | None]:
        """Return the class indices of a window, as `Labels.read`, and those with eroded borders."""
        indices, unknown = self._labels.read_with_unknown(window)
        self.unknown_pixels += unknown
        return indices, None if self._eroded is None else self._eroded.read(window)


@contextmanager
def open_truth(
    files: SceneFiles, grid: Scene, scheme: Scheme, *, unknown: UnknownLabels
) -> Iterator[Truth]:
    """Open the labels of a scene, and those with eroded borders where it has them.

    Args:
        files: With a label of either kind; eroded ones alone are all of the truth.
        grid: The raster on whose grid they are.
        scheme: Says what they mean.
        unknown: As for `open_labels`.

    Raises:
        InputError: As `open_labels`.
    """
    with ExitStack() as stack:
        labels = [
            stack.enter_context(open_labels(paths, grid, scheme, name=files.name, unknown=unknown))
            for paths in (files.labels, files.eroded_label)
            if paths
        ]
        yield Truth(labels[0], labels[1] if len(labels) > 1 else None)


class EvaluatedStrip(NamedTuple):
    """Rows of a scene, from its left to its right end or some of its columns.

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
        first_column: The column that they begin at.
    """

    first_row: int
    truth: npt.NDArray[np.uint8]
    prediction: npt.NDArray[np.uint8]
    confidence: npt.NDArray[Any] | None = None
    eroded_truth: npt.NDArray[np.uint8] | None = None
    mapped: npt.NDArray[np.uint8] | None = None
    first_column: int = 0

    @property
    def end_row(self) -> int:
        """The row of the scene after the last of them."""
        return self.first_row + len(self.truth)

    def part(self, rows: slice, columns: slice = slice(None)) -> EvaluatedStrip:
        """Return some of the rows and columns.

        Args:
            rows: Of the strip, from 0, without a step.
            columns: Likewise.
        """
        return EvaluatedStrip(
            self.first_row + (rows.start or 0),
            self.truth[rows, columns],
            self.prediction[rows, columns],
            None if self.confidence is None else self.confidence[rows, columns],
            None if self.eroded_truth is None else self.eroded_truth[rows, columns],
            None if self.mapped is None else self.mapped[rows, columns],
            self.first_column + (columns.start or 0),
        )

    def by_columns(
        self, margin: int = 0, columns: int = COLUMNS
    ) -> Iterator[tuple[EvaluatedStrip, slice]]:
        """Yield parts that are narrow enough for arrays of their size to take little memory.

        Args:
            margin: Columns to know on either side; fewer at the ends of the strip.
            columns: How many a part has without them.

        Yields:
            A part with its margins, and the slice of its columns that are no margin.
        """
        width = self.truth.shape[1]
        for column in range(0, width, columns):
            first, end = max(column - margin, 0), min(column + columns, width)
            part = self.part(slice(None), slice(first, end + margin))
            yield _copied(part), slice(column - first, end - first)


def observed(
    strips: Iterable[EvaluatedStrip],
    file: SceneFiles,
    on_strip: Callable[[SceneFiles, EvaluatedStrip], None] | None = None,
    on_pixels: Callable[[int], None] | None = None,
) -> Iterator[EvaluatedStrip]:
    """Yield a scene's strips, having called what sees them, and what counts their pixels."""
    for strip in strips:
        if on_strip is not None:
            on_strip(file, strip)
        if on_pixels is not None:
            on_pixels(strip.truth.size)
        yield strip


def with_margins(
    strips: Iterable[EvaluatedStrip], margin: int, columns: int = COLUMNS
) -> Iterator[tuple[EvaluatedStrip, Core]]:
    """Yield parts of strips together with the pixels around them.

    Args:
        strips: A scene's strips in their order, without gaps, each of its whole width.
        margin: Rows and columns to know on each side; fewer at the ends of the scene.
        columns: How many a part has without its margins.

    Yields:
        A part with its margins, and the slices of its rows and columns that are no margin. Those of
        all parts are each pixel of the scene once.
    """
    for strip, rows in _with_row_margins(strips, margin):
        for part, inner in strip.by_columns(margin, columns):
            yield part, (rows, inner)
        del strip  # memory for the next


def _with_row_margins(
    strips: Iterable[EvaluatedStrip], margin: int
) -> Iterator[tuple[EvaluatedStrip, slice]]:
    pending: EvaluatedStrip | None = None
    next_row = 0  # the first that was not yielded
    for strip in strips:
        pending = strip if pending is None else _joined(pending, strip)
        del strip  # memory for the next
        if pending.end_row - margin > next_row:
            core = slice(next_row - pending.first_row, pending.end_row - margin - pending.first_row)
            yield pending, core
            next_row = pending.end_row - margin
            pending = _copied(pending.part(slice(max(core.stop - margin, 0), None)))
    if pending is not None and pending.end_row > next_row:
        yield pending, slice(next_row - pending.first_row, len(pending.truth))


def _copied(part: EvaluatedStrip) -> EvaluatedStrip:
    """Return a part with arrays of its own, which don't keep the whole strip in memory."""
    confidence, eroded, mapped = (
        None if array is None else array.copy()
        for array in (part.confidence, part.eroded_truth, part.mapped)
    )
    return EvaluatedStrip(
        part.first_row,
        part.truth.copy(),
        part.prediction.copy(),
        confidence,
        eroded,
        mapped,
        part.first_column,
    )


def _joined(above: EvaluatedStrip, below: EvaluatedStrip) -> EvaluatedStrip:
    if above.end_row != below.first_row:
        raise ValueError(f"a strip at row {below.first_row} does not follow the one before")
    return EvaluatedStrip(
        above.first_row,
        np.concatenate([above.truth, below.truth]),
        np.concatenate([above.prediction, below.prediction]),
        _joined_rows(above.confidence, below.confidence),
        _joined_rows(above.eroded_truth, below.eroded_truth),
        _joined_rows(above.mapped, below.mapped),
    )


def _joined_rows(
    above: npt.NDArray[Any] | None, below: npt.NDArray[Any] | None
) -> npt.NDArray[Any] | None:
    return None if above is None or below is None else np.concatenate([above, below])
