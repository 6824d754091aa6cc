"""Scores with the protocol they were taken under: as a table, as plain data, as one sentence."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prettytable import PrettyTable

from hrrsi import __version__
from hrrsi.evaluation.evaluation import Evaluation
from hrrsi.evaluation.protocols import Protocol
from hrrsi.evaluation.scores import Scores
from hrrsi.prediction.engines.engine import Engine
from hrrsi.weights_file import content_digest, packaged_weights


@dataclass(frozen=True)
class Inference:
    """What predicted, and how.

    Attributes:
        weights: The weights as they were named; those inside the package by their file name.
        sha256: Digest of their content, in hexadecimal digits.
        engine: Name of the engine that ran them.
        precision: What it calculated in.
        device: What it calculated on.
    """

    weights: str
    sha256: str
    engine: str
    precision: str
    device: str

    @property
    def sentence(self) -> str:
        """What predicted, in words."""
        return (
            f"weights {self.weights}, sha256 {self.sha256}, run by hrrsi {__version__} with "
            f"{self.engine} on {self.device} in precision {self.precision}"
        )


def inference_with(engine: Engine, weights: Path | None) -> Inference:
    """Return what an engine predicts with.

    Args:
        engine: The engine.
        weights: The weights that it was given; None: those inside the package.

    Raises:
        HrrsiError: The weights can't be read.
    """
    return Inference(
        packaged_weights().name if weights is None else str(weights),
        content_digest(packaged_weights() if weights is None else weights),
        engine.name,
        engine.precision,
        engine.device,
    )


@dataclass(frozen=True)
class EvaluationReport:
    """An evaluation under a protocol.

    Args:
        evaluation: The confusion matrix, and what it was counted on.
        protocol: Which classes count in which score.
        inference: What predicted.
    """

    evaluation: Evaluation
    protocol: Protocol
    inference: Inference

    @property
    def scores(self) -> Scores:
        """The scores under the protocol."""
        return self.evaluation.matrix.scores(self.protocol)

    @property
    def sentence(self) -> str:
        """Everything a reader has to know to compare the figures, but for the scenes' names."""
        e = self.evaluation
        scenes = f"{len(e.scenes)} {'scene' if len(e.scenes) == 1 else 'scenes'}"
        if e.unit == "patches":
            unit = f"patches of {e.window} px of {scenes}, each seen on its own"
        else:
            unit = (
                f"{scenes}, whole, stitched from windows of {e.window} px "
                f"that overlap by {e.overlap} px"
            )
        split = f", {e.split}" if e.split else ""
        return (
            f"{e.data}{split}: {unit}; {e.labels} labels; {self.protocol.sentence}; no test-time "
            f"augmentation; weights {self.inference.weights} ({e.model})"
            + "".join(f"; {words}" for words in e.reading)
        )

    def to_text(self) -> str:
        """Return a table of classes, a table of scores, and the protocol, for a terminal."""
        scores = self.scores
        classes = PrettyTable(["class", "precision", "recall", "F1", "IoU", "pixels"])
        for c in scores.classes:
            shares = [_percent(v) for v in (c.precision, c.recall, c.f1, c.iou)]
            classes.add_row([c.name, *shares, f"{c.pixels:,}"])
        overall = PrettyTable(["OA", "mF1", "mIoU", "kappa", "pixels"])
        means = (scores.overall_accuracy, scores.mean_f1, scores.mean_iou, scores.kappa)
        overall.add_row([*map(_percent, means), f"{scores.pixels:,}"])
        for table in (classes, overall):
            table.align = "r"
        classes.align["class"] = "l"
        lines = [
            f"Protocol {self.protocol.name!r}: {self.sentence}.",
            f"Scenes: {', '.join(self.evaluation.scenes)}.",
            f"Predicted by: {self.inference.sentence}.",
            f"Not scored: {self._unscored()}.",
            "Scores in percent; - where a class is in neither truth nor prediction (left out of "
            "means), or where there is nothing to divide by.",
        ]
        if self.evaluation.seen_in_training:
            seen = ", ".join(self.evaluation.seen_in_training)
            lines.insert(2, f"The weights were trained on {seen}: these scores flatter them.")
        wrapped = [
            textwrap.fill(
                line, 98, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
            )
            for line in lines
        ]
        return "\n".join([classes.get_string(), overall.get_string(), "", *wrapped])

    def _unscored(self) -> str:
        e = self.evaluation
        parts = [f"{e.ignored_pixels:,} pixels without a label"]
        if e.unknown_pixels:
            parts[0] += f" ({e.unknown_pixels:,} of them with one that the scheme doesn't know)"
        unpredicted = int(e.matrix.unpredicted.sum())
        heights = any(words.startswith("heights ") for words in e.reading)
        source = "the image or the height model" if heights else "the image"
        parts.append(f"{unpredicted:,} labelled pixels where {source} holds no data")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return scores (0 to 1, None where undefined), protocol and matrix as plain data."""
        e, scores, inference = self.evaluation, self.scores, self.inference
        return {
            "protocol": {
                "name": self.protocol.name,
                "sentence": self.sentence,
                "data": e.data,
                "split": e.split,
                "scenes": list(e.scenes),
                "unit": e.unit,
                "window": e.window,
                "overlap": e.overlap,
                "labels": e.labels,
                "dropped_from_OA": list(self.protocol.dropped_from_overall),
                "dropped_from_means": list(self.protocol.dropped_from_means),
                "test_time_augmentation": "none",
                "reading": list(e.reading),
                "weights": inference.weights,
                "weights_sha256": inference.sha256,
                "model": e.model,
                "hrrsi": __version__,
                "engine": inference.engine,
                "precision": inference.precision,
                "device": inference.device,
                "scenes_seen_in_training": list(e.seen_in_training),
            },
            "scores": {
                "OA": _number(scores.overall_accuracy),
                "mF1": _number(scores.mean_f1),
                "mIoU": _number(scores.mean_iou),
                "kappa": _number(scores.kappa),
                "pixels": scores.pixels,
            },
            "classes": [
                {
                    "name": c.name,
                    "precision": _number(c.precision),
                    "recall": _number(c.recall),
                    "F1": _number(c.f1),
                    "IoU": _number(c.iou),
                    "pixels": c.pixels,
                }
                for c in scores.classes
            ],
            "confusion_matrix": {
                "classes": list(e.matrix.classes),
                "rows": "prediction",
                "columns": "truth",
                "counts": e.matrix.counts.tolist(),
            },
            "not_scored": {
                "unlabelled_pixels": e.ignored_pixels,
                "unknown_label_pixels": e.unknown_pixels,
                "labelled_pixels_without_data": int(e.matrix.unpredicted.sum()),
            },
        }


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
