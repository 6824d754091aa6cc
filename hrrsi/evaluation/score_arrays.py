"""Scores of many confusion matrices at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from hrrsi.evaluation.protocols import Protocol

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
