"""How well a map draws the borders of classes, and how accuracy depends on the distance to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hrrsi.classes import IGNORE_INDEX
from hrrsi.evaluation.class_borders import (
    border_pixels,
    class_bits,
    distances_up_to,
    groups_of_classes,
    near_other_bits,
    nearby_classes,
)
from hrrsi.evaluation.evaluated_strips import Core, EvaluatedStrip
from hrrsi.evaluation.options import DEFAULT_BLOCK
from hrrsi.evaluation.scores import Counts, Floats, complete_means, iou_scores, shares

FARTHEST = 32  # px; what is farther counts as one
TOLERANCES = (1, 3, 5)  # px

# What is counted of each class at each tolerance: pixels of the predicted and of the true border
# (0, 1), those of each that are near the other (2, 3), and those of the rims along the predicted
# borders, the true ones, and both (4, 5, 6).
_KINDS = 7

Candidates = Sequence[Sequence[int]] | None
Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


class BorderDistanceCounts:
    """Pixels, and those predicted right, by their distance to the nearest border of the truth.

    A border pixel is one with one of four neighbours in another class, and is at distance 0.
    Distances are those between pixel centres (Euclidean), rounded down.

    Attributes:
        pixels: (33,) int64 at distances 0, 1, ..., 31, and 32 or more px (or without any border).
        right: (33,) int64, those of them that are predicted right.

    Args:
        candidates: Indices of the classes that each label index stands for, as `ConfusionMatrix`.
            Labels that may stand for the same class have no border between them; a prediction is
            right where the label may stand for it.
    """

    margin = FARTHEST

    def __init__(self, candidates: Candidates = None) -> None:
        self._may_be = None if candidates is None else _candidate_table(candidates)
        self._disjoint = None if self._may_be is None else ~(self._may_be @ self._may_be.T)
        self.pixels: npt.NDArray[np.int64] = np.zeros(FARTHEST + 1, dtype=np.int64)
        self.right: npt.NDArray[np.int64] = np.zeros(FARTHEST + 1, dtype=np.int64)

    def add(self, strip: EvaluatedStrip, core: Core) -> None:
        """Count the pixels of a strip that have both a prediction and a label.

        Args:
            strip: With up to `margin` rows and columns on each side of those counted.
            core: The rows and columns that are counted.
        """
        truth, prediction = strip.truth, strip.prediction
        may_be = self._may_be
        border = border_pixels(truth, self._disjoint)
        place = distances_up_to(FARTHEST, border)[core]
        counted = (prediction[core] != IGNORE_INDEX) & (truth[core] != IGNORE_INDEX)
        is_right = prediction == truth if may_be is None else may_be[truth, prediction]
        right = counted & is_right[core]
        self.pixels += np.bincount(place[counted], minlength=FARTHEST + 1)
        self.right += np.bincount(place[right], minlength=FARTHEST + 1)

    def merge(self, other: BorderDistanceCounts) -> None:
        """Add the counts of other pixels."""
        self.pixels += other.pixels
        self.right += other.right

    @property
    def accuracy(self) -> npt.NDArray[np.float64]:
        """(33,) share of pixels predicted right at each distance, NaN where there is none."""
        return shares(self.right, self.pixels)

    def accuracy_between(self, nearest: int, farthest: int) -> float:
        """Return the share of pixels predicted right at some distances, NaN where there is none.

        Args:
            nearest: The first of the distances, in pixels.
            farthest: The last of them.
        """
        part = slice(nearest, farthest + 1)
        return float(shares(self.right[part].sum(), self.pixels[part].sum()))


@dataclass(frozen=True)
class ClassBoundaryScores:
    """Boundary scores of one class at one tolerance, each 0 to 1, or NaN where there is no border.

    Attributes:
        name: The class.
        precision: Share of the predicted border that lies near the true one.
        recall: Share of the true border that lies near the predicted one.
        f1: Harmonic mean of the two; 0 where the class has a border in one of both only.
        iou: Boundary IoU.
    """

    name: str
    precision: float
    recall: float
    f1: float
    iou: float


@dataclass(frozen=True)
class BoundaryScores:
    """Boundary scores at one tolerance.

    Attributes:
        tolerance: In pixels.
        mean_f1: Mean of the classes' boundary F1; classes without a border are left out.
        mean_iou: Mean of their boundary IoU, likewise.
        classes: Scores of each class.
    """

    tolerance: int
    mean_f1: float
    mean_iou: float
    classes: tuple[ClassBoundaryScores, ...]


class BoundaryCounts:
    """Counts that the boundary scores of a map follow from.

    **Boundary F1** (Csurka, Larlus and Perronnin 2013, "What is a good evaluation measure for
    semantic segmentation?", section 3.2, per class): the border of a class are its pixels with one
    of four neighbours in another class. Precision is the share of the predicted border's pixels
    that have a pixel of the true border of the same class at most `tolerance` px away (centre to
    centre), recall the reverse. Pixels add up over scenes before shares are taken.

    **Boundary IoU** (Cheng et al. 2021, "Boundary IoU: Improving Object-Centric Image Segmentation
    Evaluation", equation 3, with its square structuring element): of each class' pixels, only those
    count that have another class at most `tolerance` rows and columns away; intersection and union
    are those of the predicted and of the true ones. Unlike there, the end of a scene is no border:
    it cuts objects that go on.

    Args:
        classes: Class names in the order of their indices.
        tolerances: In pixels, each at least 1.
        block: Rows and columns of the blocks that counts are kept for.
    """

    def __init__(
        self,
        classes: Sequence[str],
        tolerances: Sequence[int] = TOLERANCES,
        block: int = DEFAULT_BLOCK,
    ) -> None:
        self.classes = tuple(classes)
        self.tolerances = tuple(tolerances)
        self.block = block
        self._blocks: dict[tuple[int, int], Counts] = {}

    @property
    def margin(self) -> int:
        """Pixels to know around those counted: those of the tolerance, and a border."""
        return max(self.tolerances) + 1

    def add(self, strip: EvaluatedStrip, core: Core) -> None:
        """Count the pixels of a strip.

        Args:
            strip: With up to `margin` rows and columns on each side of those counted.
            core: The rows and columns that are counted.
        """
        valid = (strip.prediction != IGNORE_INDEX) & (strip.truth != IGNORE_INDEX)
        prediction, truth = pair = [
            np.where(valid, labels, np.uint8(IGNORE_INDEX))
            for labels in (strip.prediction, strip.truth)
        ]
        borders = [border_pixels(labels) for labels in pair]
        first = (
            strip.first_row + (core[0].start or 0),
            strip.first_column + (core[1].start or 0),
        )

        def count(numbers: int | slice, kind: int, labels: Labels, mask: Mask) -> None:
            self._count(numbers, kind, labels[core], mask[core], first)

        for kind in (0, 1):
            count(slice(None), kind, pair[kind], borders[kind])
        near, rims = _near_borders_and_rims(pair, borders, len(self.classes), self.tolerances)
        for number in range(len(self.tolerances)):
            for kind in (0, 1):
                count(number, 2 + kind, pair[kind], near[number, kind] & borders[kind])
                count(number, 4 + kind, pair[kind], rims[number, kind] & valid)
            right = rims[number].all(axis=0) & valid & (prediction == truth)
            count(number, 6, truth, right)

    def scores(self) -> tuple[BoundaryScores, ...]:
        """Return the scores at each tolerance."""
        return boundary_scores(self.counts.sum(axis=0), self.classes, self.tolerances)

    @property
    def counts(self) -> Counts:
        """(blocks, tolerances, 7, classes) int64: what the scores follow from, of each block."""
        stacked = [self._blocks[place] for place in sorted(self._blocks)]
        shape = (len(stacked), len(self.tolerances), _KINDS, len(self.classes))
        return np.stack(stacked) if stacked else np.zeros(shape, dtype=np.int64)

    def _count(
        self, numbers: int | slice, kind: int, labels: Labels, mask: Mask, first: tuple[int, int]
    ) -> None:
        """Count the pixels of a mask by their class and the block that they lie in.

        Args:
            numbers: Of the tolerances that the counts are of.
            kind: Which of the seven counts.
            labels: (rows, width) class of each pixel.
            mask: (rows, width) the pixels to count.
            first: Row and column of the scene that the arrays begin with.
        """
        pixels = np.flatnonzero(mask)
        rows, columns = np.divmod(pixels, mask.shape[1])
        size, block = len(self.classes), self.block
        top, left = (start // block for start in first)
        down, across = (
            -(-(start + length) // block) - start // block
            for start, length in zip(first, labels.shape, strict=True)
        )
        place = ((rows + first[0]) // block - top) * across + (columns + first[1]) // block - left
        keys = place * size + labels.ravel()[pixels]
        pixels_of_blocks = np.bincount(keys, minlength=down * across * size).reshape(
            down, across, size
        )
        for row in range(down):
            for column in range(across):
                where = (top + row, left + column)
                if where not in self._blocks:
                    shape = (len(self.tolerances), _KINDS, size)
                    self._blocks[where] = np.zeros(shape, dtype=np.int64)
                self._blocks[where][numbers, kind] += pixels_of_blocks[row, column]


class DecidedBoundaryCounts:
    """Boundary counts under partial labels: of each class against all others, where that is told.

    A pixel is in the class where its label stands for it alone, out of it where its label can't
    stand for it, and else ignored for this class. With full labels that gives `BoundaryCounts`.

    Args:
        classes: Class names in the order of their indices.
        candidates: Indices of the classes that each label index stands for, as `ConfusionMatrix`.
        block: Rows and columns of the blocks that counts are kept for.
    """

    def __init__(
        self,
        classes: Sequence[str],
        candidates: Sequence[Sequence[int]],
        block: int = DEFAULT_BLOCK,
    ) -> None:
        may_be = _candidate_table(candidates)
        alone = may_be.sum(axis=1) == 1
        self._of_class = [BoundaryCounts(("others", name), block=block) for name in classes]
        self._membership = [
            np.where(may_be[:, c] & alone, 1, np.where(may_be[:, c], IGNORE_INDEX, 0)).astype(
                np.uint8
            )
            for c in range(len(classes))
        ]
        for table in self._membership:
            table[len(candidates) :] = IGNORE_INDEX

    @property
    def margin(self) -> int:
        """As `BoundaryCounts.margin`."""
        return max(TOLERANCES) + 1

    def add(self, strip: EvaluatedStrip, core: Core) -> None:
        """Count the pixels of a strip, as `BoundaryCounts.add`."""
        for index, (counts, table) in enumerate(zip(self._of_class, self._membership, strict=True)):
            predicted = (strip.prediction == index).astype(np.uint8)
            predicted[strip.prediction == IGNORE_INDEX] = IGNORE_INDEX
            counts.add(strip._replace(prediction=predicted, truth=table[strip.truth]), core)

    @property
    def counts(self) -> Counts:
        """(blocks, tolerances, 7, classes) int64, as `BoundaryCounts.counts`."""
        return np.stack([counts.counts[..., 1] for counts in self._of_class], axis=-1)


def _candidate_table(candidates: Sequence[Sequence[int]]) -> Mask:
    """Return (256, 256) whether each label index may stand for each class."""
    table = np.zeros((256, 256), dtype=bool)
    for label, classes in enumerate(candidates):
        table[label, list(classes)] = True
    return table


def boundary_scores(
    counts: Counts,
    classes: Sequence[str],
    tolerances: Sequence[int] = TOLERANCES,
    averaged: Sequence[int] | None = None,
) -> tuple[BoundaryScores, ...]:
    """Return the scores at each tolerance.

    Args:
        counts: (tolerances, 7, classes), as a block of `BoundaryCounts.counts` or a sum of them.
        classes: Class names.
        tolerances: In pixels.
        averaged: Indices of the classes that means are of; None: of each.
    """
    arrays = boundary_arrays(counts, averaged)
    return tuple(
        BoundaryScores(
            tolerance,
            float(arrays.mean_f1[number]),
            float(arrays.mean_iou[number]),
            tuple(
                ClassBoundaryScores(name, *(float(a[number, index]) for a in arrays[:4]))
                for index, name in enumerate(classes)
            ),
        )
        for number, tolerance in enumerate(tolerances)
    )


class BoundaryArrays(NamedTuple):
    """Boundary scores of many counts at once, NaN where undefined.

    Attributes:
        precision: (..., tolerances, classes).
        recall: Likewise.
        f1: Likewise.
        iou: Likewise.
        mean_f1: (..., tolerances).
        mean_iou: Likewise.
    """

    precision: Floats
    recall: Floats
    f1: Floats
    iou: Floats
    mean_f1: Floats
    mean_iou: Floats


def boundary_arrays(
    counts: Counts,
    averaged: Sequence[int] | None = None,
    required_classes: Sequence[int] = (),
    wrong_classes: Sequence[int] = (),
) -> BoundaryArrays:
    """Return the scores of many counts at once.

    Args:
        counts: (..., tolerances, 7, classes), as in `BoundaryCounts.counts`.
        averaged: Indices of the classes that means are of; None: of each.
        required_classes: Indices of those without whose true border means are undefined.
        wrong_classes: Indices of those that count as 0 in means where neither has a border of them.
    """
    predicted, true, predicted_near, true_near, predicted_rim, true_rim, common_rim = np.moveaxis(
        counts, -2, 0
    )
    precision, recall = shares(predicted_near, predicted), shares(true_near, true)
    # precision and recall count other pixels, so F1 is their harmonic mean, not `f1_scores`; of a
    # class that one of the two lacks it is 0, of one that both lack undefined
    p, r = np.nan_to_num(precision), np.nan_to_num(recall)
    f1 = np.where(p + r > 0, shares(2 * p * r, p + r), 0.0)
    f1 = np.where(predicted + true > 0, f1, np.nan)
    iou = iou_scores(common_rim, predicted_rim, true_rim)
    complete = (true[..., list(required_classes)] > 0).all(axis=-1)
    class_indices = list(range(counts.shape[-1])) if averaged is None else list(averaged)
    wrong = np.isin(np.arange(counts.shape[-1]), list(wrong_classes))
    mean_f1, mean_iou = (complete_means(v, class_indices, complete, wrong) for v in (f1, iou))
    return BoundaryArrays(precision, recall, f1, iou, mean_f1, mean_iou)


def _near_borders_and_rims(
    labels: Sequence[Labels], borders: Sequence[Mask], classes: int, tolerances: Sequence[int]
) -> tuple[Mask, Mask]:
    """Return what lies near borders, of two arrays of classes.

    Args:
        labels: Two of (rows, width).
        borders: The border pixels of each.
        classes: Number of classes.
        tolerances: In pixels.

    Returns:
        Two of (tolerances, 2, rows, width): whether the *other* array has a border pixel of the
        pixel's class near it, and whether its own array has another class near it.
    """
    near = np.zeros((len(tolerances), 2, *labels[0].shape), dtype=bool)
    rims = np.zeros_like(near)
    for first, count in groups_of_classes(classes):
        bits = [class_bits(indices, count, first) for indices in labels]
        on_border = [own * border for own, border in zip(bits, borders, strict=True)]
        for number, tolerance in enumerate(tolerances):
            for own, other in ((0, 1), (1, 0)):
                near[number, own] |= (nearby_classes(on_border[other], tolerance) & bits[own]) != 0
                rims[number, own] |= near_other_bits(bits[own], tolerance, "square")
    return near, rims
