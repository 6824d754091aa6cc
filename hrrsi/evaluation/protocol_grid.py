"""The scores of one evaluation under every protocol at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from hrrsi.evaluation.evaluation import Evaluation
from hrrsi.evaluation.protocols import CLUTTER_NAMES, LabelKind, Protocol, named_protocol
from hrrsi.evaluation.scene_counts import KINDS, SceneCounts
from hrrsi.evaluation.scores import ConfusionMatrix, Scores


@dataclass(frozen=True)
class GridRow:
    """The scores of one cell.

    Attributes:
        scene: The scene, or None for all of them together.
        protocol: ``all`` or ``no-clutter``, and which labels.
        augmentation: Test-time augmentation: ``none``, ``flip`` or ``d4``.
        scores: The scores.
    """

    scene: str | None
    protocol: Protocol
    augmentation: str
    scores: Scores


def protocol_grid(
    evaluations: Sequence[Evaluation], clutter: Collection[str] = CLUTTER_NAMES
) -> tuple[GridRow, ...]:
    """Return the scores under full and eroded labels, with clutter and without it.

    Cells that nothing is known of are left out: those without clutter where no class is clutter,
    those of full labels where eroded ones were read, those of single patches.

    Args:
        evaluations: Of the same data: without test-time augmentation, and maybe with it.
        clutter: Names of the classes that are clutter.

    Returns:
        The rows of all scenes together, then those of each scene.
    """
    rows = [row for e in evaluations for row in _rows(None, e, clutter)]
    if evaluations[0].unit == "patches" or len(evaluations[0].counts.scenes) == 1:
        return tuple(rows)
    for number in range(len(evaluations[0].counts.scenes)):
        for evaluation in evaluations:
            rows += _rows(evaluation.counts.scenes[number], evaluation, clutter)
    return tuple(rows)


def clutter_words(rows: Sequence[GridRow]) -> list[str]:
    """Return whether clutter is ``in`` or ``out`` of each row; ``-`` where no class is clutter."""
    has_clutter = any(row.protocol.dropped_from_overall for row in rows)
    return [
        "out" if row.protocol.dropped_from_overall else "in" if has_clutter else "-" for row in rows
    ]


def _rows(
    scene: SceneCounts | None, evaluation: Evaluation, clutter: Collection[str]
) -> Iterator[GridRow]:
    counts = evaluation.counts
    for labels in KINDS:
        matrix = counts.matrix(labels) if scene is None else scene.matrices[labels].matrix
        if labels == "full" and evaluation.labels == "eroded":
            continue
        for protocol in _protocols(matrix, clutter, labels):
            yield GridRow(
                None if scene is None else scene.name,
                protocol,
                evaluation.augmentation,
                matrix.scores(protocol),
            )


def _protocols(
    matrix: ConfusionMatrix, clutter: Collection[str], labels: LabelKind
) -> Iterator[Protocol]:
    yield named_protocol("all", matrix.classes, clutter, labels)
    names = {name.casefold() for name in clutter}
    others = [name for name in matrix.classes if name.casefold() not in names]
    if others and len(others) < len(matrix.classes):
        yield named_protocol("no-clutter", matrix.classes, clutter, labels)
