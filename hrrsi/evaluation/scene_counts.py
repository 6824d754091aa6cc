"""Everything that is counted of a scene: what all of its scores follow from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hrrsi.classes import IGNORE_INDEX
from hrrsi.evaluation.block_bootstrap import BlockMatrices
from hrrsi.evaluation.boundary_scores import BorderDistanceCounts, BoundaryCounts
from hrrsi.evaluation.calibration import ReliabilityCounts
from hrrsi.evaluation.class_borders import EROSION_RADIUS, eroded_labels
from hrrsi.evaluation.evaluated_strips import Core, EvaluatedStrip, with_margins
from hrrsi.evaluation.protocols import DEFAULT_BLOCK, LabelKind
from hrrsi.evaluation.scores import ConfusionMatrix
from hrrsi.maps.areas import ClassAreas

KINDS: tuple[LabelKind, ...] = ("full", "eroded")


class SceneCounts:
    """Counts of one scene, filled strip by strip, so that memory does not grow with its height.

    But for one confusion matrix a block, that is. With its width grow the labels and predictions
    of the strip that is being counted, a byte a pixel each.

    Args:
        name: The scene's name.
        classes: Class names in the order of their indices.
        labels: What the truth of the strips is. Where it is ``eroded``, the borders of classes are
            not known: ``full`` matrices and what is counted at borders stay empty.
        block: Rows and columns of a block.
        pixel_areas: (height,) square metres of a pixel in each row, or None where not known.

    Attributes:
        matrices: Confusion matrices of the blocks under ``full`` and ``eroded`` labels.
        boundaries: Of the truth, as `border_distances` and `reliability`.
        border_distances: Right pixels by their distance to a border.
        reliability: Right pixels by confidence; empty where that is not known.
        mapped: What the map gave each class, labelled or not.
        ignored_pixels: Pixels without a class in the truth.
        erodes: Whether eroded labels are computed, and not read.
    """

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        labels: LabelKind = "full",
        block: int = DEFAULT_BLOCK,
        pixel_areas: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self.name = name
        self.classes = tuple(classes)
        self.labels = labels
        self.matrices = {kind: BlockMatrices(classes, block) for kind in KINDS}
        self.boundaries = BoundaryCounts(classes, block=block)
        self.border_distances = BorderDistanceCounts()
        self.reliability = ReliabilityCounts()
        self.mapped = ClassAreas(len(self.classes), pixel_areas)
        self.ignored_pixels = 0
        self.erodes = labels == "full"

    def add(self, strips: Iterable[EvaluatedStrip]) -> None:
        """Count all strips of the scene, in their order.

        Args:
            strips: They and what they read from are left to the caller to close.
        """
        margin = max(self.boundaries.margin, self.border_distances.margin, EROSION_RADIUS)
        for part, core in with_margins(map(self._counted_alone, strips), margin):
            self._add(part, core)

    def _counted_alone(self, strip: EvaluatedStrip) -> EvaluatedStrip:
        """Count what needs no pixels around it, and return the strip without what that needs."""
        for part, _ in strip.by_columns():
            self.reliability.add(part)
        self.mapped.add(strip.prediction if strip.mapped is None else strip.mapped)
        return strip._replace(confidence=None, mapped=None)

    def _add(self, strip: EvaluatedStrip, core: Core) -> None:
        counted, size = strip.part(*core), len(self.classes)
        if self.labels == "full":
            eroded = counted.eroded_truth
            self.erodes = eroded is None
            if eroded is None:
                eroded = eroded_labels(strip.truth, size)[core]
            self.matrices["full"].add(counted, counted.truth)
            self.boundaries.add(strip, core)
            self.border_distances.add(strip, core)
        else:
            eroded = counted.truth
        self.matrices["eroded"].add(counted, eroded)
        self.ignored_pixels += int((counted.truth == IGNORE_INDEX).sum())


@dataclass(frozen=True)
class PooledCounts:
    """Counts of several scenes together.

    Attributes:
        scenes: The counts of each.
    """

    scenes: tuple[SceneCounts, ...]

    def matrix(self, labels: LabelKind) -> ConfusionMatrix:
        """Return the confusion matrix of all scenes under one kind of labels."""
        total = ConfusionMatrix(self.scenes[0].classes)
        for scene in self.scenes:
            total.merge(scene.matrices[labels].matrix)
        return total

    def blocks(self, labels: LabelKind) -> npt.NDArray[np.int64]:
        """Return the confusion matrices of all blocks of all scenes, (blocks, classes, classes)."""
        return np.concatenate([scene.matrices[labels].counts for scene in self.scenes])

    @property
    def block_places(self) -> tuple[tuple[str, int, int], ...]:
        """Scene, row and column of each block, in the order of `blocks`."""
        return tuple(
            (scene.name, row, column)
            for scene in self.scenes
            for row, column in scene.matrices[scene.labels].places
        )

    @property
    def boundary_blocks(self) -> npt.NDArray[np.int64]:
        """(blocks, tolerances, 7, classes) boundary counts of all blocks of all scenes."""
        return np.concatenate([scene.boundaries.counts for scene in self.scenes])

    @property
    def border_distances(self) -> BorderDistanceCounts:
        """The counts by distance to a border, of all scenes."""
        total = BorderDistanceCounts()
        for scene in self.scenes:
            total.merge(scene.border_distances)
        return total

    @property
    def reliability(self) -> ReliabilityCounts:
        """The counts by confidence, of all scenes."""
        total = ReliabilityCounts()
        for scene in self.scenes:
            total.merge(scene.reliability)
        return total

    @property
    def mapped_pixels(self) -> npt.NDArray[np.int64]:
        """(classes,) pixels that the maps gave each class."""
        found: npt.NDArray[np.int64] = np.sum([s.mapped.pixels for s in self.scenes], axis=0)
        return found

    @property
    def mapped_areas(self) -> npt.NDArray[np.float64] | None:
        """(classes,) square metres that the maps gave each class; None where a scene has none."""
        areas = [scene.mapped.areas for scene in self.scenes]
        known = [found for found in areas if found is not None]
        return np.sum(known, axis=0) if len(known) == len(areas) else None

    @property
    def ignored_pixels(self) -> int:
        """Pixels without a class in the truth."""
        return sum(scene.ignored_pixels for scene in self.scenes)
