"""Confusion matrices, one or many at once, and the scores that follow from them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hrrsi.classes import IGNORE_INDEX
from hrrsi.errors import HrrsiError
from hrrsi.evaluation.protocols import ALL, Protocol

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def score_arrays(
    counts: Counts,
    classes: Sequence[str],
    protocol: Protocol,
    needed: npt.NDArray[np.bool_] | None = None,
) -> dict[str, Floats]:
    """Return the scores of many confusion matrices at once.

    They are those of `hrrsi.evaluation.scores.ConfusionMatrix.scores`, NaN where undefined.

    Args:
        counts: (..., classes, classes), rows = prediction.
        classes: Class names.
        protocol: What counts.
        needed: (classes,) those without whose truth mF1 and mIoU are undefined, so that means of
            parts of a whole are over the classes of the whole; None: no class is.

    Returns:
        (...) of each: ``OA``, ``mF1``, ``mIoU``, ``kappa``, and ``F1 CLASS`` and ``IoU CLASS`` of
        each class that counts.
    """
    overall, _ = _without(counts, classes, protocol.dropped_from_overall)
    means, names = _without(counts, classes, protocol.dropped_from_means)
    hits, predicted, true = _sums(means)
    f1 = shares(2 * hits, predicted + true)
    iou = shares(hits, predicted + true - hits)
    averaged = [i for i, name in enumerate(names) if name not in protocol.left_out_of_means]
    complete = np.ones(f1.shape[:-1], dtype=np.bool_)
    if needed is not None:
        kept = [i for i in averaged if needed[list(classes).index(names[i])]]
        complete = np.asarray((true[..., kept] > 0).all(axis=-1))
    right, by_prediction, by_truth = _sums(overall)
    pixels = overall.sum(axis=(-2, -1)).astype(np.float64)
    correct = right.sum(axis=-1).astype(np.float64)
    chance = (by_prediction.astype(np.float64) * by_truth).sum(axis=-1)
    return {
        "OA": shares(correct, pixels),
        "mF1": np.where(complete, defined_means(f1[..., averaged]), np.nan),
        "mIoU": np.where(complete, defined_means(iou[..., averaged]), np.nan),
        "kappa": shares(correct * pixels - chance, pixels * pixels - chance),
        **{f"F1 {name}": f1[..., i] for i, name in enumerate(names) if i in averaged},
        **{f"IoU {name}": iou[..., i] for i, name in enumerate(names) if i in averaged},
    }


def telling_blocks(blocks: Counts, classes: Sequence[str], protocol: Protocol) -> dict[str, int]:
    """Return how many blocks say something of each score that `score_arrays` names.

    Of a class, those whose truth holds it, or whose prediction does where no truth does; of a mean,
    as many as of the rarest of its classes that the truth holds; of the others, those that hold any
    pixel that counts.

    Args:
        blocks: (blocks, classes, classes), rows = prediction.
        classes: Class names.
        protocol: What counts.
    """
    overall, _ = _without(blocks, classes, protocol.dropped_from_overall)
    holding = int((overall.sum(axis=(-2, -1)) > 0).sum())
    found = dict.fromkeys(score_arrays(blocks, classes, protocol), holding)
    true, predicted = ((blocks.sum(axis=axis) > 0).sum(axis=0).tolist() for axis in (1, 2))
    for index, name in enumerate(classes):
        if f"IoU {name}" not in found:
            continue
        count = true[index] or predicted[index]
        found[f"IoU {name}"] = found[f"F1 {name}"] = count
        if true[index]:
            found["mF1"] = found["mIoU"] = min(found["mIoU"], count)
    return found


def shares(part: npt.NDArray[np.float64 | np.int64], whole: npt.ArrayLike) -> Floats:
    """Return parts of wholes, NaN of nothing."""
    divisor = np.asarray(whole, dtype=np.float64)
    found = np.full(divisor.shape, np.nan)
    np.divide(part, divisor, out=found, where=divisor > 0)
    return found


def defined_means(values: Floats) -> Floats:
    """Return the means over the last axis of what is not NaN, NaN where all is."""
    known = ~np.isnan(values)
    return shares(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1))


def _without(
    counts: Counts, classes: Sequence[str], dropped: Collection[str]
) -> tuple[Counts, list[str]]:
    kept = [i for i, name in enumerate(classes) if name not in dropped]
    return counts[..., kept, :][..., kept], [classes[i] for i in kept]


def _sums(counts: Counts) -> tuple[Counts, Counts, Counts]:
    return np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1), counts.sum(axis=-2)


class ConfusionMatrix:
    """Counts of pixels by predicted and true class.

    Args:
        classes: Class names in the order of their indices.
        counts: (classes, classes) whole numbers to start from, rows = prediction, columns =
            truth; zeros where not given.

    Attributes:
        classes: Class names.
        counts: (classes, classes) int64, rows = prediction, columns = truth.
        unpredicted: (classes,) int64: labelled pixels for which there is no prediction (255), by
            true class. They are in no score.

    Raises:
        ValueError: `counts` does not fit `classes`.
    """

    def __init__(self, classes: Sequence[str], counts: npt.ArrayLike | None = None) -> None:
        self.classes = tuple(classes)
        size = len(self.classes)
        self.counts: npt.NDArray[np.int64] = np.zeros((size, size), dtype=np.int64)
        self.unpredicted: npt.NDArray[np.int64] = np.zeros(size, dtype=np.int64)
        if counts is not None:
            given = np.asarray(counts)
            if given.shape != self.counts.shape:
                raise ValueError(f"counts of shape {given.shape} for {size} classes")
            self.counts += given.astype(np.int64)

    @property
    def pixels(self) -> int:
        """Pixels counted."""
        return int(self.counts.sum())

    def add(self, prediction: Any, truth: Any) -> None:
        """Count pixels.

        Args:
            prediction: Class indices of any shape, whole numbers: an array or a torch tensor on
                any device (uint8 is quickest); 255 where there is none.
            truth: The true class indices, of the same shape; pixels of 255 are ignored.

        Raises:
            ValueError: The shapes differ, or an index is neither a class nor 255.
        """
        predicted, true = _bytes(prediction), _bytes(truth)
        if predicted.shape != true.shape:
            raise ValueError(f"prediction {predicted.shape} and truth {true.shape} differ")
        # one histogram over every pair of bytes needs no mask, and shows indices that are no class
        pairs = predicted.astype(np.uint16).ravel() * np.uint16(256) + true.ravel()
        histogram = np.bincount(pairs, minlength=65536).reshape(256, 256)
        size = len(self.classes)
        self._refuse_unknown(histogram.sum(axis=0), "truth")
        self._refuse_unknown(histogram.sum(axis=1), "prediction")
        self.counts += histogram[:size, :size]
        self.unpredicted += histogram[IGNORE_INDEX, :size]

    def _refuse_unknown(self, pixels: npt.NDArray[np.int64], what: str) -> None:
        size = len(self.classes)
        unknown = np.flatnonzero(pixels[size:IGNORE_INDEX])
        if unknown.size:
            raise ValueError(f"the {what} holds {size + int(unknown[0])} of {size} classes")

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix of the same classes.

        Raises:
            ValueError: The classes differ.
        """
        if other.classes != self.classes:
            raise ValueError(f"classes {other.classes} and {self.classes} differ")
        self.counts += other.counts
        self.unpredicted += other.unpredicted

    def without(self, names: Collection[str]) -> ConfusionMatrix:
        """Return the matrix without the rows and columns of some classes.

        A pixel goes where its true or its predicted class goes.

        Args:
            names: Names of classes; those that are none are skipped.
        """
        kept = [i for i, name in enumerate(self.classes) if name not in names]
        smaller = ConfusionMatrix([self.classes[i] for i in kept], self.counts[np.ix_(kept, kept)])
        smaller.unpredicted += self.unpredicted[kept]
        return smaller

    def scores(self, protocol: Protocol | None = None) -> Scores:
        """Return the scores of the counts under a protocol.

        Args:
            protocol: What counts; by default every class.

        Raises:
            HrrsiError: The protocol drops every class.
        """
        protocol = protocol or ALL
        overall = self.without(protocol.dropped_from_overall)
        means = self.without(protocol.dropped_from_means)
        if not overall.classes or not means.classes:
            raise HrrsiError(
                f"no class is left under the protocol {protocol.name!r}",
                fix="give --protocol all",
            )
        classes = tuple(_class_scores(means))
        averaged = [c for c in classes if c.name not in protocol.left_out_of_means]
        return Scores(
            pixels=overall.pixels,
            overall_accuracy=ratio(int(np.trace(overall.counts)), overall.pixels),
            mean_f1=mean_of_defined(c.f1 for c in averaged),
            mean_iou=mean_of_defined(c.iou for c in averaged),
            kappa=_kappa(overall.counts),
            classes=classes,
        )


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class, each 0 to 1, or NaN where its denominator is 0.

    F1 and IoU are thus NaN only where neither truth nor prediction holds the class, and 0 where
    only one of them does.

    Attributes:
        name: The class.
        pixels: True pixels of the class.
        precision: Share of the pixels predicted as the class that are.
        recall: Share of the class' pixels that are found (its producer's accuracy).
        f1: Harmonic mean of the two, ``2 TP / (2 TP + FP + FN)``.
        iou: Intersection over union, ``TP / (TP + FP + FN)``.
    """

    name: str
    pixels: int
    precision: float
    recall: float
    f1: float
    iou: float


@dataclass(frozen=True)
class Scores:
    """Scores of a confusion matrix, each 0 to 1 (kappa -1 to 1), or NaN where nothing counts.

    Attributes:
        pixels: Pixels behind the overall accuracy.
        overall_accuracy: Share of pixels predicted right (OA).
        mean_f1: Mean of the classes' F1 (mF1); classes without an F1 are left out.
        mean_iou: Mean of the classes' IoU (mIoU); classes without an IoU are left out.
        kappa: Cohen's kappa: agreement beyond chance, over the pixels of the overall accuracy.
        classes: Scores of each class that counts in the means.
    """

    pixels: int
    overall_accuracy: float
    mean_f1: float
    mean_iou: float
    kappa: float
    classes: tuple[ClassScores, ...]


def _class_scores(matrix: ConfusionMatrix) -> Iterable[ClassScores]:
    predicted, true = matrix.counts.sum(axis=1), matrix.counts.sum(axis=0)
    for i, name in enumerate(matrix.classes):
        hits, p, t = int(matrix.counts[i, i]), int(predicted[i]), int(true[i])
        yield ClassScores(
            name=name,
            pixels=t,
            precision=ratio(hits, p),
            recall=ratio(hits, t),
            f1=ratio(2 * hits, p + t),
            iou=ratio(hits, p + t - hits),
        )


def _kappa(counts: npt.NDArray[np.int64]) -> float:
    """Return Cohen's kappa (Cohen 1960), NaN where chance alone explains everything."""
    pixels = int(counts.sum())
    by_chance = sum(  # in Python's integers: products of pixel counts overflow int64
        int(p) * int(t) for p, t in zip(counts.sum(axis=1), counts.sum(axis=0), strict=True)
    )
    return ratio(int(np.trace(counts)) * pixels - by_chance, pixels * pixels - by_chance)


def ratio(part: float, whole: float) -> float:
    """Return a share, NaN of nothing."""
    return part / whole if whole else float("nan")


def mean_of_defined(values: Iterable[float]) -> float:
    """Return the mean of the values that are not NaN, NaN where all are."""
    known = [v for v in values if not np.isnan(v)]
    return sum(known) / len(known) if known else float("nan")


def _bytes(values: Any) -> npt.NDArray[np.uint8]:
    """Return class indices as uint8, wherever they were."""
    if hasattr(values, "detach"):  # a torch tensor; torch itself isn't imported here
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "iub":
        raise ValueError(f"class indices are whole numbers, not {array.dtype}")
    if array.size and (array.min() < 0 or array.max() > IGNORE_INDEX):
        raise ValueError(f"class indices lie in 0 to 255, not {array.min()} to {array.max()}")
    return array.astype(np.uint8)
