"""Everything that is counted of a scene: what all of its scores follow from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hrrsi.classes import IGNORE_INDEX
from hrrsi.evaluation.boundary_scores import (
    BorderDistanceCounts,
    BoundaryCounts,
    Candidates,
    DecidedBoundaryCounts,
)
from hrrsi.evaluation.class_borders import EROSION_RADIUS, eroded_labels
from hrrsi.evaluation.evaluated_strips import Core, EvaluatedStrip, with_margins
from hrrsi.evaluation.options import DEFAULT_BLOCK, LabelKind
from hrrsi.evaluation.scores import ConfusionMatrix, shares
from hrrsi.maps.rasters import ClassAreas

KINDS: tuple[LabelKind, ...] = ("full", "eroded")
BINS = 20  # of confidence


class BlockMatrices:
    """A confusion matrix for each block of a scene.

    Neighbouring pixels are right or wrong together; blocks that are larger than what is wrong in
    one piece are nearly independent of each other.

    Args:
        classes: Class names in the order of their indices.
        block: Rows and columns of a block, in pixels; those at a scene's end may be smaller.
        candidates: Indices of the classes that each label index stands for, as `ConfusionMatrix`.
    """

    def __init__(
        self, classes: Sequence[str], block: int = DEFAULT_BLOCK, candidates: Candidates = None
    ) -> None:
        self.classes = tuple(classes)
        self.candidates = candidates
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
                    self._matrices[place] = self._matrix()
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
        total = self._matrix()
        for matrix in self._matrices.values():
            total.merge(matrix)
        return total

    def _matrix(self) -> ConfusionMatrix:
        return ConfusionMatrix(self.classes, candidates=self.candidates)

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Row and column of each block, in blocks, in the order of `counts`."""
        return tuple(sorted(self._matrices))

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(blocks, classes, columns) int64, `ConfusionMatrix.scored_counts` of each block."""
        stacked = [self._matrices[place].scored_counts for place in self.places]
        empty = np.zeros((0, *self._matrix().scored_counts.shape), dtype=np.int64)
        return np.stack(stacked) if stacked else empty


class ReliabilityCounts:
    """Counts behind a reliability curve: pixels by the confidence in their predicted class.

    The confidence is the probability of the class that was predicted; its bins are equally wide
    (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2).

    Attributes:
        pixels: (20,) int64, pixels of each bin.
        right: (20,) int64, those of them that are predicted right.
        confidence_sums: (20,) float64, sum of the confidences of each bin.
    """

    def __init__(self) -> None:
        self.pixels: npt.NDArray[np.int64] = np.zeros(BINS, dtype=np.int64)
        self.right: npt.NDArray[np.int64] = np.zeros(BINS, dtype=np.int64)
        self.confidence_sums: npt.NDArray[np.float64] = np.zeros(BINS)

    def add(self, strip: EvaluatedStrip) -> None:
        """Count the pixels of a strip that have a prediction, its confidence and a label."""
        if strip.confidence is None:
            return
        prediction, truth, confidence = strip.prediction, strip.truth, strip.confidence
        counted = (prediction != IGNORE_INDEX) & (truth != IGNORE_INDEX) & np.isfinite(confidence)
        values = confidence[counted].astype(np.float64)
        right = prediction[counted] == truth[counted]
        place = np.clip((values * BINS).astype(np.intp), 0, BINS - 1)
        self.pixels += np.bincount(place, minlength=BINS)
        self.right += np.bincount(place[right], minlength=BINS)
        self.confidence_sums += np.bincount(place, weights=values, minlength=BINS)

    def merge(self, other: ReliabilityCounts) -> None:
        """Add the counts of other pixels."""
        self.pixels += other.pixels
        self.right += other.right
        self.confidence_sums += other.confidence_sums

    @property
    def accuracy(self) -> npt.NDArray[np.float64]:
        """(20,) share of each bin's pixels that are right, NaN where it has none."""
        return shares(self.right, self.pixels)

    @property
    def confidence(self) -> npt.NDArray[np.float64]:
        """(20,) mean confidence of each bin's pixels, NaN where it has none."""
        return shares(self.confidence_sums, self.pixels)

    @property
    def mean_confidence(self) -> float:
        """Mean confidence of all pixels, 0 to 1; NaN for none."""
        return float(shares(self.confidence_sums.sum(), self.pixels.sum()))

    @property
    def share_right(self) -> float:
        """Share of all pixels that are right, 0 to 1; NaN for none."""
        return float(shares(self.right.sum(), self.pixels.sum()))

    @property
    def expected_calibration_error(self) -> float:
        """ECE, 0 to 1: mean over the pixels of their bin's |accuracy - confidence|; NaN for none.

        Guo et al. 2017, equation 3.
        """
        pixels = int(self.pixels.sum())
        if not pixels:
            return float("nan")
        return float(np.abs(self.right - self.confidence_sums).sum() / pixels)


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
        candidates: Indices of the classes that each label index stands for, as `ConfusionMatrix`.
        scene: The scene that it is a patch of; by default, it is a scene itself.

    Attributes:
        matrices: Confusion matrices of the blocks under ``full`` and ``eroded`` labels.
        boundaries: Of the truth, as `border_distances` and `reliability`.
        border_distances: Right pixels by their distance to a border.
        reliability: Right pixels by confidence; empty where that is not known, and where a label
            stands for several classes: whether a prediction is right is not known then.
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
        candidates: Candidates = None,
        scene: str | None = None,
    ) -> None:
        self.name = name
        self.scene = scene or name
        self.classes = tuple(classes)
        self.candidates = candidates
        self.labels = labels
        self.matrices = {kind: BlockMatrices(classes, block, candidates) for kind in KINDS}
        self.boundaries: BoundaryCounts | DecidedBoundaryCounts
        if candidates is None or len(candidates) == len(self.classes):
            self.boundaries = BoundaryCounts(classes, block=block)
            self.border_distances = BorderDistanceCounts()
        else:
            self.boundaries = DecidedBoundaryCounts(classes, candidates, block=block)
            self.border_distances = BorderDistanceCounts(candidates)
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
        counted, size = strip.part(*core), len(self.candidates or self.classes)
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
        total, *rest = (scene.matrices[labels].matrix for scene in self.scenes)
        for matrix in rest:
            total.merge(matrix)
        return total

    def blocks(self, labels: LabelKind) -> npt.NDArray[np.int64]:
        """Return what is scored of all blocks of all scenes, (blocks, classes, columns)."""
        return np.concatenate([scene.matrices[labels].counts for scene in self.scenes])

    def scene_sums(self, labels: LabelKind) -> npt.NDArray[np.int64]:
        """Return what is scored of each whole scene, (scenes, classes, columns)."""
        sums: dict[str, npt.NDArray[np.int64]] = {}
        for counts in self.scenes:
            total = counts.matrices[labels].counts.sum(axis=0)
            sums[counts.scene] = sums.get(counts.scene, 0) + total
        return np.stack([*sums.values()])

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
        """(blocks, tolerances, 7, classes) boundary counts of all blocks of all scenes.

        Under partial labels all are 0 of a class without a true border: no label tells it apart.
        """
        counts = np.concatenate([scene.boundaries.counts for scene in self.scenes])
        if isinstance(self.scenes[0].boundaries, DecidedBoundaryCounts):
            counts[..., ~counts[:, 0, 1].any(axis=0)] = 0
        return counts

    @property
    def border_distances(self) -> BorderDistanceCounts:
        """The counts by distance to a border, of all scenes."""
        total = BorderDistanceCounts()
        for scene in self.scenes:
            total.merge(scene.border_distances)
        return total

    @property
    def reliability(self) -> ReliabilityCounts:
        """The counts by confidence, of all scenes; empty under partial labels."""
        total = ReliabilityCounts()
        if any(scene.matrices[scene.labels].matrix.partial.any() for scene in self.scenes):
            return total
        for scene in self.scenes:
            total.merge(scene.reliability)
        return total

    @property
    def mapped_pixels(self) -> npt.NDArray[np.int64]:
        """(classes,) pixels that the maps gave each class."""
        pixels: npt.NDArray[np.int64] = np.sum([s.mapped.pixels for s in self.scenes], axis=0)
        return pixels

    @property
    def mapped_areas(self) -> npt.NDArray[np.float64] | None:
        """(classes,) square metres that the maps gave each class; None where a scene has none."""
        areas = [scene.mapped.areas for scene in self.scenes]
        defined = [area for area in areas if area is not None]
        return np.sum(defined, axis=0) if len(defined) == len(areas) else None

    @property
    def ignored_pixels(self) -> int:
        """Pixels without a class in the truth."""
        return sum(scene.ignored_pixels for scene in self.scenes)
