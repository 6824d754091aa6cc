"""Confusion matrices, one or many at once, and the scores that follow from them.

Where labels tell only some classes apart (partial labels), matrices have two more columns: pixels
whose prediction is among the classes that the label stands for, and pixels where it is not. The
first are right, though no hit of a class; the second are wrong, and false positives of what was
predicted. So scores count what the labels can decide; a class that no label tells apart has none.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hrrsi.classes import IGNORE_INDEX
from hrrsi.errors import OptionError
from hrrsi.evaluation.options import ALL, Protocol

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Part = npt.NDArray[np.float64] | npt.NDArray[np.int64]


def shares(part: Part, whole: npt.ArrayLike) -> Floats:
    """Return parts of wholes, NaN of nothing."""
    divisor = np.asarray(whole, dtype=np.float64)
    quotients = np.full(divisor.shape, np.nan)
    np.divide(part, divisor, out=quotients, where=divisor > 0)
    return quotients


def f1_scores(hits: Counts, predicted: Counts, true: Counts) -> Floats:
    """Return F1, ``2 TP / (2 TP + FP + FN)``, NaN of what is neither predicted nor true."""
    return shares(2 * hits, predicted + true)


def iou_scores(hits: Counts, predicted: Counts, true: Counts) -> Floats:
    """Return the intersection over union, ``TP / (TP + FP + FN)``, NaN likewise."""
    return shares(hits, predicted + true - hits)


def kappa_scores(counts: Counts) -> Floats:
    """Return Cohen's kappa (Cohen 1960), NaN where chance alone explains everything.

    Args:
        counts: (..., classes, classes) confusion matrices; or (..., classes, classes + 2).

    Returns:
        (...), -1 to 1; NaN also where any label is partial: what chance explains is not known then.
    """
    square = counts[..., : counts.shape[-2]]
    is_partial = counts[..., counts.shape[-2] :].any(axis=(-2, -1))
    hits, predicted, true = _margins(square.reshape(-1, *square.shape[-2:]))
    # Python's integers: products of pixel counts overflow int64, and double precision rounds them
    by_prediction, by_truth = predicted.astype(object), true.astype(object)
    by_chance = (by_prediction * by_truth).sum(axis=-1)
    pixels, right = by_prediction.sum(axis=-1), hits.astype(object).sum(axis=-1)
    divided = np.frompyfunc(_ratio, 2, 1)
    exact = divided(right * pixels - by_chance, pixels * pixels - by_chance)
    kappas: Floats = exact.astype(np.float64).reshape(counts.shape[:-2])
    return np.where(is_partial, np.nan, kappas)


def defined_means(values: Floats) -> Floats:
    """Return the means over the last axis of what is not NaN, NaN where all is."""
    defined = ~np.isnan(values)
    return shares(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))


def complete_means(
    values: Floats, averaged: Sequence[int], complete: npt.ArrayLike, wrong: npt.ArrayLike = False
) -> Floats:
    """Return means over classes, NaN where a class is lacking that they need.

    Args:
        values: (..., classes).
        averaged: Indices of the classes that means are of.
        complete: (...) bool, whether no class is lacking.
        wrong: (classes,) bool, which count as 0 where they have no value.
    """
    values = np.where(np.isnan(values) & np.asarray(wrong), 0.0, values)
    return np.where(complete, defined_means(values[..., list(averaged)]), np.nan)


@dataclass(frozen=True)
class ScoreArrays:
    """Scores of many confusion matrices at once, each 0 to 1 (kappa -1 to 1), NaN where undefined.

    Attributes:
        classes: Names of the classes that have scores.
        averaged: Indices of those of them that means are of.
        pixels: (...) int64, pixels behind the overall accuracy.
        true_pixels: (..., classes) int64, true pixels of each class.
        precision: (..., classes).
        recall: (..., classes).
        f1: (..., classes).
        iou: (..., classes).
        overall_accuracy: (...).
        mean_f1: (...).
        mean_iou: (...).
        kappa: (...).
    """

    classes: tuple[str, ...]
    averaged: tuple[int, ...]
    pixels: Counts
    true_pixels: Counts
    precision: Floats
    recall: Floats
    f1: Floats
    iou: Floats
    overall_accuracy: Floats
    mean_f1: Floats
    mean_iou: Floats
    kappa: Floats

    @property
    def by_name(self) -> dict[str, Floats]:
        """``OA``, ``mF1``, ``mIoU``, ``kappa``; ``F1 CLASS`` and ``IoU CLASS`` of averaged ones."""
        return {
            "OA": self.overall_accuracy,
            "mF1": self.mean_f1,
            "mIoU": self.mean_iou,
            "kappa": self.kappa,
            **{f"F1 {self.classes[i]}": self.f1[..., i] for i in self.averaged},
            **{f"IoU {self.classes[i]}": self.iou[..., i] for i in self.averaged},
        }


def score_arrays(
    counts: Counts,
    classes: Sequence[str],
    protocol: Protocol,
    required_classes: npt.NDArray[np.bool_] | None = None,
    wrong_classes: npt.NDArray[np.bool_] | None = None,
) -> ScoreArrays:
    """Return the scores of many confusion matrices at once.

    Args:
        counts: (..., classes, classes), rows = prediction; or (..., classes, classes + 2).
        classes: Class names.
        protocol: What counts.
        required_classes: (classes,) those without whose truth mF1 and mIoU are undefined, so that
            means of parts of a whole are over the classes of the whole; None: no class is.
        wrong_classes: (classes,) those that the whole predicts and its truth lacks: they count as 0
            in mF1 and mIoU of each part, also of one that does not predict them; None: none is.
    """
    overall, _ = _without(counts, classes, protocol.dropped_from_overall)
    means, names = _without(counts, classes, protocol.dropped_from_means)
    hits, predicted, true = _margins(means)
    if means.shape[-1] > means.shape[-2]:
        predicted = np.where(true > 0, predicted, 0)  # else nothing can be decided of the class
    f1, iou = f1_scores(hits, predicted, true), iou_scores(hits, predicted, true)
    averaged = [i for i, name in enumerate(names) if name not in protocol.left_out_of_means]
    complete = np.ones(f1.shape[:-1], dtype=np.bool_)
    if required_classes is not None:
        class_indices = [i for i in averaged if required_classes[list(classes).index(names[i])]]
        complete = np.asarray((true[..., class_indices] > 0).all(axis=-1))
    wrong = np.zeros(len(names), dtype=np.bool_)
    if wrong_classes is not None:
        wrong = np.array([wrong_classes[list(classes).index(name)] for name in names])
    pixels = overall.sum(axis=(-2, -1))
    right = _margins(overall)[0].sum(axis=-1) + overall[..., _right(overall)].sum(axis=(-2, -1))
    return ScoreArrays(
        classes=tuple(names),
        averaged=tuple(averaged),
        pixels=pixels,
        true_pixels=true,
        precision=shares(hits, predicted),
        recall=shares(hits, true),
        f1=f1,
        iou=iou,
        overall_accuracy=shares(right, pixels),
        mean_f1=complete_means(f1, averaged, complete, wrong),
        mean_iou=complete_means(iou, averaged, complete, wrong),
        kappa=kappa_scores(overall),
    )


def named_scores(
    counts: Counts,
    classes: Sequence[str],
    protocol: Protocol,
    required_classes: npt.NDArray[np.bool_] | None = None,
    wrong_classes: npt.NDArray[np.bool_] | None = None,
) -> dict[str, Floats]:
    """Return what `score_arrays` does by the scores' names, as `ScoreArrays.by_name`."""
    return score_arrays(counts, classes, protocol, required_classes, wrong_classes).by_name


def score_support(blocks: Counts, classes: Sequence[str], protocol: Protocol) -> dict[str, int]:
    """Return how many blocks say something of each score that `named_scores` names.

    Of a class, those whose truth holds it, or whose prediction does where no truth does; of a mean,
    as many as of the rarest of its classes that the truth holds; of the others, those that hold any
    pixel that counts.

    Args:
        blocks: (blocks, classes, classes), rows = prediction; or (blocks, classes, classes + 2).
        classes: Class names.
        protocol: What counts.
    """
    overall, _ = _without(blocks, classes, protocol.dropped_from_overall)
    holding = int((overall.sum(axis=(-2, -1)) > 0).sum())
    support = dict.fromkeys(named_scores(blocks[:0], classes, protocol), holding)
    _, by_prediction, by_truth = _margins(blocks)
    true, predicted = ((pixels > 0).sum(axis=0).tolist() for pixels in (by_truth, by_prediction))
    for index, name in enumerate(classes):
        if f"IoU {name}" not in support:
            continue
        count = true[index] or predicted[index]
        support[f"IoU {name}"] = support[f"F1 {name}"] = count
        if true[index]:
            support["mF1"] = support["mIoU"] = min(support["mIoU"], count)
    return support


def _without(
    counts: Counts, classes: Sequence[str], dropped: Collection[str]
) -> tuple[Counts, list[str]]:
    class_indices = [i for i, name in enumerate(classes) if name not in dropped]
    columns = [*class_indices, *range(len(classes), counts.shape[-1])]
    return counts[..., class_indices, :][..., columns], [classes[i] for i in class_indices]


def _margins(counts: Counts) -> tuple[Counts, Counts, Counts]:
    """Return hits, predicted and true pixels of each class, (..., classes) each.

    Predicted pixels are those whose label tells whether that is right.
    """
    square = counts[..., : counts.shape[-2]]
    predicted = square.sum(axis=-1) + counts[..., counts.shape[-2] + 1 :].sum(axis=-1)
    return np.diagonal(square, axis1=-2, axis2=-1), predicted, square.sum(axis=-2)


def _right(counts: Counts) -> slice:
    """Return which columns hold pixels of partial labels that are right: one, or none."""
    return slice(counts.shape[-2], counts.shape[-2] + 1)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


class ConfusionMatrix:
    """Counts of pixels by predicted and true class.

    Args:
        classes: Class names in the order of their indices.
        counts: (classes, labels) whole numbers to start from, rows = prediction, columns =
            truth; zeros where not given.
        candidates: Indices of the classes that each label index stands for, classes first; by
            default labels are the classes alone.

    Attributes:
        classes: Class names.
        candidates: Likewise.
        counts: (classes, classes) int64, rows = prediction, columns = truth.
        partial: (classes, 2) int64, pixels of partial labels by predicted class: those whose label
            may stand for it, and the others.
        unpredicted: (labels,) int64: labelled pixels for which there is no prediction (255), by
            label. They are in no score.

    Raises:
        ValueError: `counts` does not fit `classes` and `candidates`.
    """

    def __init__(
        self,
        classes: Sequence[str],
        counts: npt.ArrayLike | None = None,
        candidates: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.classes = tuple(classes)
        size = len(self.classes)
        self.candidates = tuple(
            tuple(indices) for indices in candidates or [[index] for index in range(size)]
        )
        self.counts: npt.NDArray[np.int64] = np.zeros((size, size), dtype=np.int64)
        self.partial: npt.NDArray[np.int64] = np.zeros((size, 2), dtype=np.int64)
        self.unpredicted: npt.NDArray[np.int64] = np.zeros(len(self.candidates), dtype=np.int64)
        if counts is not None:
            initial = np.asarray(counts)
            if initial.shape != (size, len(self.candidates)):
                raise ValueError(f"counts of shape {initial.shape} for {size} classes")
            self._add_counts(initial.astype(np.int64))

    @property
    def pixels(self) -> int:
        """Pixels counted."""
        return int(self.counts.sum() + self.partial.sum())

    @property
    def right_pixels(self) -> int:
        """Pixels whose prediction is what the label says, or may say."""
        return int(np.trace(self.counts) + self.partial[:, 0].sum())

    @property
    def scored_counts(self) -> npt.NDArray[np.int64]:
        """What scores are taken of: `counts`, with partial labels `partial` beside them."""
        if len(self.candidates) == len(self.classes):
            return self.counts
        return np.concatenate([self.counts, self.partial], axis=1)

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
        classes, labels = len(self.classes), len(self.candidates)
        self._refuse_unknown(histogram.sum(axis=0), labels, "truth")
        self._refuse_unknown(histogram.sum(axis=1), classes, "prediction")
        self._add_counts(histogram[:classes, :labels])
        self.unpredicted += histogram[IGNORE_INDEX, :labels]

    def _add_counts(self, counts: npt.NDArray[np.int64]) -> None:
        classes = len(self.classes)
        self.counts += counts[:, :classes]
        for label in range(classes, len(self.candidates)):
            is_candidate = np.isin(np.arange(classes), self.candidates[label])
            self.partial[:, 0] += np.where(is_candidate, counts[:, label], 0)
            self.partial[:, 1] += np.where(is_candidate, 0, counts[:, label])

    @staticmethod
    def _refuse_unknown(pixels: npt.NDArray[np.int64], size: int, source: str) -> None:
        unknown = np.flatnonzero(pixels[size:IGNORE_INDEX])
        if unknown.size:
            raise ValueError(f"the {source} holds {size + int(unknown[0])} of {size} classes")

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix of the same classes and labels.

        Raises:
            ValueError: They differ.
        """
        if (other.classes, other.candidates) != (self.classes, self.candidates):
            raise ValueError(f"classes {other.classes} and {self.classes} differ")
        self.counts += other.counts
        self.partial += other.partial
        self.unpredicted += other.unpredicted

    def scores(self, protocol: Protocol | None = None) -> Scores:
        """Return the scores of the counts under a protocol.

        Args:
            protocol: What counts; by default every class.

        Raises:
            OptionError: The protocol drops every class.
        """
        protocol = protocol or ALL
        for dropped in (protocol.dropped_from_overall, protocol.dropped_from_means):
            if not {*self.classes} - {*dropped}:
                raise OptionError(
                    f"no class is left under the protocol {protocol.name!r}",
                    fix="give `protocol=all`",
                )
        arrays = score_arrays(self.scored_counts, self.classes, protocol)
        columns = (arrays.precision, arrays.recall, arrays.f1, arrays.iou)
        return Scores(
            pixels=int(arrays.pixels),
            overall_accuracy=float(arrays.overall_accuracy),
            mean_f1=float(arrays.mean_f1),
            mean_iou=float(arrays.mean_iou),
            kappa=float(arrays.kappa),
            classes=tuple(
                ClassScores(name, int(arrays.true_pixels[i]), *(float(c[i]) for c in columns))
                for i, name in enumerate(arrays.classes)
            ),
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

    @property
    def overall(self) -> dict[str, float]:
        """The scores of all classes together: ``OA``, ``mF1``, ``mIoU``, ``kappa``."""
        return {
            "OA": self.overall_accuracy,
            "mF1": self.mean_f1,
            "mIoU": self.mean_iou,
            "kappa": self.kappa,
        }


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
