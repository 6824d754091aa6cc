"""What follows from an evaluation: scores under every protocol, intervals, areas, comparisons."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from html import escape

import numpy as np

from hrrsi.errors import InputError
from hrrsi.evaluation.boundary_scores import (
    TOLERANCES,
    BoundaryScores,
    boundary_arrays,
    boundary_scores,
)
from hrrsi.evaluation.class_borders import EROSION_RADIUS
from hrrsi.evaluation.evaluation import Evaluation, MapSource
from hrrsi.evaluation.intervals import (
    FEWEST_BLOCKS,
    ClassArea,
    Difference,
    Interval,
    class_areas,
    counted_blocks,
    estimated_shares,
    score_differences,
    score_intervals,
)
from hrrsi.evaluation.options import CLUTTER_NAMES, LabelKind, Protocol, named_protocol
from hrrsi.evaluation.scene_counts import KINDS, SceneCounts
from hrrsi.evaluation.scores import (
    ConfusionMatrix,
    Counts,
    Floats,
    Scores,
    named_scores,
    score_support,
)
from hrrsi.quantities import TextTable, counted, share_text


@dataclass(frozen=True)
class GridRow:
    """The scores of one cell.

    Attributes:
        scene: The scene, or None for all of them together.
        protocol: Which labels, and which classes count in which score.
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
    """Return the scores under every protocol, of full and of eroded labels.

    What says nothing else is left out: protocols that treat clutter apart where no class is
    clutter, full labels where eroded ones were read, single patches.

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


@dataclass(frozen=True, repr=False)
class EvaluationResult:
    """An evaluation under a protocol, with everything that follows from what was counted.

    Attributes:
        evaluation: What was counted, and on what.
        protocol: Which labels, and which classes count in which score.
        source: What made the map.
        augmented: The same with test-time augmentation, for the grid; or None.
        clutter: Names of the classes that are clutter, for the grid.
    """

    evaluation: Evaluation
    protocol: Protocol
    source: MapSource
    augmented: Evaluation | None = None
    clutter: Collection[str] = field(default=CLUTTER_NAMES)

    def __repr__(self) -> str:
        """Return the scores, their protocol and what they are of in a line."""
        scores = ", ".join(f"{name} {share_text(v)}" for name, v in self.scores.overall.items())
        scenes = counted(len(self.evaluation.scenes), "scene")
        return (
            f"<EvaluationResult: {scores} (protocol {self.protocol.name!r}, {self.protocol.labels} "
            f"labels, {scenes} of {self.evaluation.data}); {self.source.name}>"
        )

    def _repr_html_(self) -> str:
        """Return the scores of each class with their intervals as a table, for notebooks."""
        table = TextTable(["class", "precision", "recall", "F1", "IoU", "95 %", "pixels"])
        for c in self.scores.classes:
            interval = self.intervals.get(f"IoU {c.name}")  # none of what no mean is of
            ends = "-"
            if interval is not None:
                ends = f"{share_text(interval.low)} to {share_text(interval.high)}"
            shares = [share_text(v) for v in (c.precision, c.recall, c.f1, c.iou)]
            table.add_row([c.name, *shares, ends, f"{c.pixels:,}"])
        return f"<p>{escape(repr(self))}</p>{table.html()}"

    @cached_property
    def matrix(self) -> ConfusionMatrix:
        """The confusion matrix under the protocol's labels."""
        return self.evaluation.counts.matrix(self.protocol.labels)

    @cached_property
    def scores(self) -> Scores:
        """The scores under the protocol."""
        return self.matrix.scores(self.protocol)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Scores with their intervals, as `hrrsi.evaluation.scores` names them."""
        blocks = self.evaluation.counts.blocks(self.protocol.labels)
        support = score_support(blocks, self.matrix.classes, self.protocol)
        return score_intervals(blocks, self.scores_of, support)

    @cached_property
    def scene_intervals(self) -> dict[str, Interval]:
        """The same scores with intervals over whole scenes instead of blocks.

        Wider ones where what is wrong in one piece is larger than a block. Empty where `scene_sums`
        is None.
        """
        scenes = self.scene_sums
        if scenes is None:
            return {}
        support = score_support(scenes, self.matrix.classes, self.protocol)
        return score_intervals(scenes, self.scores_of, support)

    @property
    def scene_sums(self) -> Counts | None:
        """(scenes, classes, columns) what was counted of each scene.

        None for fewer scenes than an interval can be drawn from.
        """
        scenes = self.evaluation.counts.scene_sums(self.protocol.labels)
        return scenes if counted_blocks(scenes) >= FEWEST_BLOCKS else None

    @property
    def counted_blocks(self) -> int:
        """How many blocks hold pixels that count: those that intervals are drawn from."""
        return counted_blocks(self.evaluation.counts.blocks(self.protocol.labels))

    @property
    def scores_of(self) -> partial[dict[str, Floats]]:
        """Returns the scores of many confusion matrices under the protocol.

        Means of parts of the pixels are over the classes of all pixels.
        """
        matrix = self.matrix
        wrong = {c.name for c in self.scores.classes if not c.pixels and not np.isnan(c.iou)}
        return partial(
            named_scores,
            classes=matrix.classes,
            protocol=self.protocol,
            required_classes=matrix.counts.sum(axis=0) > 0,
            wrong_classes=np.array([name in wrong for name in matrix.classes]),
        )

    @cached_property
    def grid(self) -> tuple[GridRow, ...]:
        """The scores under every protocol, of all scenes and of each."""
        evaluations = [self.evaluation, *([self.augmented] if self.augmented else [])]
        return protocol_grid(evaluations, self.clutter)

    @property
    def classes_left_out_of_means(self) -> tuple[str, ...]:
        """Names of the classes that no mean is of."""
        return (*self.protocol.dropped_from_means, *self.protocol.left_out_of_means)

    @cached_property
    def boundaries(self) -> tuple[BoundaryScores, ...]:
        """Boundary scores at each tolerance; empty where the labels have no borders."""
        if self.evaluation.labels == "eroded":
            return ()
        counts = self.evaluation.counts.boundary_blocks
        classes = self.matrix.classes
        averaged = self.protocol.averaged(classes)
        return boundary_scores(counts.sum(axis=0), classes, averaged=averaged)

    @cached_property
    def boundary_intervals(self) -> dict[str, Interval]:
        """Intervals of mean boundary F1 and IoU, as ``F1 at 3 px`` and ``IoU at 3 px``."""
        if not self.boundaries:
            return {}
        blocks = self.evaluation.counts.boundary_blocks
        return score_intervals(blocks, self.boundary_scores_of, self.boundary_support(blocks))

    @property
    def boundary_scores_of(self) -> partial[dict[str, Floats]]:
        """Returns the mean boundary scores of many counts under the protocol."""
        return partial(
            mean_boundary_scores,
            averaged=self.protocol.averaged(self.matrix.classes),
            required_classes=self._bordered,
            wrong_classes=self._wrongly_bordered,
        )

    def boundary_support(self, blocks: Counts) -> dict[str, int]:
        """Return how many blocks say something of each mean: as many as of its rarest class."""
        holding = (blocks[:, 0, 1] > 0).sum(axis=0)
        fewest = int(holding[self._bordered].min()) if self._bordered else 0
        return dict.fromkeys(mean_boundary_scores(blocks[:1]), fewest)

    @property
    def _bordered(self) -> list[int]:
        """Indices of the classes of the means that have a border in the truth."""
        true = self.evaluation.counts.boundary_blocks.sum(axis=0)[0, 1]
        return [i for i in self.protocol.averaged(self.matrix.classes) if true[i] > 0]

    @property
    def _wrongly_bordered(self) -> list[int]:
        """Indices of those that have a border in the map alone."""
        scores = self.boundaries[0].classes
        averaged = self.protocol.averaged(self.matrix.classes)
        return [i for i in averaged if i not in self._bordered and not np.isnan(scores[i].f1)]

    @cached_property
    def areas(self) -> tuple[ClassArea, ...]:
        """The error-adjusted share of each class in the mapped area.

        Empty for patches, which overlap: what of a scene they map is not known. Empty under partial
        labels: the pixels that tell classes apart are no sample of the whole.
        """
        if self.evaluation.unit == "patches" or self._full_matrix.partial.any():
            return ()
        return class_areas(self._full_matrix, self._mapped)

    @cached_property
    def area_intervals(self) -> tuple[Interval, ...]:
        """The same shares, with intervals over blocks, which allow for neighbours being alike."""
        if not self.areas:
            return ()
        # without the columns of partial labels: where any counts, there are no areas
        count = len(self.matrix.classes)
        blocks = self.evaluation.counts.blocks(self.evaluation.labels)[..., :count]
        # each share needs every class that is mapped, so as many blocks tell as of the rarest
        mapped = np.array(self._mapped) > 0
        labelled = (blocks.sum(axis=2) > 0).sum(axis=0)
        intervals = score_intervals(
            blocks,
            lambda sums: {
                str(i): share
                for i, share in enumerate(np.moveaxis(estimated_shares(sums, self._mapped), -1, 0))
            },
            dict.fromkeys(map(str, range(len(mapped))), int(labelled[mapped].min())),
        )
        return tuple(intervals.values())

    @property
    def mapped_square_metres(self) -> float | None:
        """Square metres that the map gave any class, or None where that is not known."""
        areas = self.evaluation.counts.mapped_areas
        return None if areas is None else float(areas.sum())

    @property
    def labels_text(self) -> str:
        """Which labels are the truth, and how they came about."""
        if self.protocol.labels == "full":
            return "full labels"
        scenes = self.evaluation.counts.scenes
        read = sum(not scene.erodes for scene in scenes)
        if read == len(scenes):
            return "eroded labels (as given)"
        how = f"by discs of {EROSION_RADIUS} px around borders"
        if self.evaluation.unit == "patches":
            how += ", in each patch on its own"
        elif read:
            how = f"as given for {read} of {len(scenes)} scenes, else {how}"
        return f"eroded labels ({how})"

    @property
    def _full_matrix(self) -> ConfusionMatrix:
        """The confusion matrix of all that was read: areas are those of all pixels."""
        return self.evaluation.counts.matrix(self.evaluation.labels)

    @property
    def _mapped(self) -> Sequence[int]:
        """What the map gave each class: square metres where they are known, else pixels."""
        counts = self.evaluation.counts
        areas = counts.mapped_areas
        mapped: list[int] = (counts.mapped_pixels if areas is None else areas).tolist()
        return mapped


def mean_boundary_scores(
    counts: Counts,
    averaged: Sequence[int] | None = None,
    required_classes: Sequence[int] = (),
    wrong_classes: Sequence[int] = (),
) -> dict[str, Floats]:
    """Return the means over classes of many boundary counts, as ``F1 at 3 px``.

    Args:
        counts: (n, tolerances, 7, classes), as `hrrsi.evaluation.boundary_scores` has them.
        averaged: As for `boundary_arrays`.
        required_classes: Likewise.
        wrong_classes: Likewise.
    """
    arrays = boundary_arrays(counts, averaged, required_classes, wrong_classes)
    means = {}
    for index, tolerance in enumerate(TOLERANCES):
        means[f"F1 at {tolerance} px"] = arrays.mean_f1[..., index]
        means[f"IoU at {tolerance} px"] = arrays.mean_iou[..., index]
    return means


@dataclass(frozen=True)
class Comparison:
    """Two evaluations of the same pixels under one protocol.

    Attributes:
        first: The one to compare with.
        second: The one that differences are of.

    Raises:
        InputError: They are of other classes, scenes, pixels or under other protocols.
    """

    first: EvaluationResult
    second: EvaluationResult

    def __post_init__(self) -> None:
        first, second = self.first, self.second
        places = first.evaluation.counts.block_places, second.evaluation.counts.block_places
        for noun, differs in (
            ("classes", first.matrix.classes != second.matrix.classes),
            ("protocols", first.protocol != second.protocol),
            ("scenes or blocks", places[0] != places[1]),
        ):
            if differs:
                raise InputError(
                    f"they have other {noun}",
                    where=f"{first.source.name} and {second.source.name}",
                    fix="compare evaluations of the same data",
                )

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """How much each score of the second differs, as `named_scores` names them."""
        first, second = self.blocks
        support = score_support(first + second, self.first.matrix.classes, self.first.protocol)
        of_both = self.first.scores_of, self.second.scores_of
        return score_differences(first, second, of_both, support)

    @cached_property
    def scene_differences(self) -> dict[str, Difference]:
        """Likewise over whole scenes instead of blocks; empty where there are too few of them."""
        first, second = self.first.scene_sums, self.second.scene_sums
        if first is None or second is None:
            return {}
        support = score_support(first + second, self.first.matrix.classes, self.first.protocol)
        of_both = self.first.scores_of, self.second.scores_of
        return score_differences(first, second, of_both, support)

    @cached_property
    def boundary_differences(self) -> dict[str, Difference]:
        """Likewise of mean boundary scores, as ``F1 at 3 px``; empty where there are no borders."""
        if not self.first.boundaries:
            return {}
        first, second = (r.evaluation.counts.boundary_blocks for r in (self.first, self.second))
        support = self.first.boundary_support(first + second)
        of_both = self.first.boundary_scores_of, self.second.boundary_scores_of
        return score_differences(first, second, of_both, support)

    @property
    def blocks(self) -> tuple[Counts, Counts]:
        """(blocks, classes, classes) what was counted of each, under the protocol's labels."""
        labels = self.first.protocol.labels
        first, second = (r.evaluation.counts.blocks(labels) for r in (self.first, self.second))
        return first, second


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
    clutter_names = {name.casefold() for name in clutter}
    averaged_classes = [name for name in matrix.classes if name.casefold() not in clutter_names]
    if averaged_classes and len(averaged_classes) < len(matrix.classes):
        names = ("no-clutter", "published", *(["isprs"] if labels == "eroded" else []))
        yield from (named_protocol(name, matrix.classes, clutter, labels) for name in names)
