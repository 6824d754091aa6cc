"""An evaluation, or a comparison of two, as plain data: what the JSON holds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from hrrsi import __version__
from hrrsi.evaluation.evaluation import MapFiles, MapSource
from hrrsi.evaluation.intervals import Difference, Interval
from hrrsi.evaluation.result import Comparison, EvaluationResult, GridRow
from hrrsi.evaluation.scores import ConfusionMatrix, Scores
from hrrsi.report.sentences import printable, sentence, verdict


def json_document(
    outcome: EvaluationResult | Comparison, wording: Callable[[str], str] = str
) -> str:
    """Return an evaluation or a comparison as JSON, question marks for what is no text.

    Args:
        outcome: Either of them.
        wording: As for `hrrsi.report.sentences.verdict`.
    """
    if isinstance(outcome, Comparison):
        data = comparison_data(outcome, wording)
    else:
        data = evaluation_data(outcome)
    return printable(json.dumps(data, indent=2, ensure_ascii=False))


def evaluation_data(result: EvaluationResult) -> dict[str, Any]:
    """Return scores (0 to 1, None where undefined), protocol and matrix as plain data."""
    scores, matrix = result.scores, result.matrix
    return {
        "protocol": _protocol_data(result),
        "scores": {**_overall(scores), "pixels": scores.pixels},
        "intervals": {name: _ends(interval) for name, interval in result.intervals.items()},
        "scene_intervals": {
            name: _ends(interval) for name, interval in result.scene_intervals.items()
        },
        "blocks": result.counted_blocks,
        "classes": _class_data(scores),
        "confusion_matrix": {
            "classes": list(matrix.classes),
            "rows": "prediction",
            "columns": "truth",
            "counts": matrix.counts.tolist(),
            **_partial_data(matrix),
        },
        "grid": [_grid_data(row) for row in result.grid],
        "boundaries": _boundary_data(result),
        "border_distance": _distance_data(result),
        "calibration": _calibration_data(result),
        "areas": _area_data(result),
        "not_scored": _unscored_data(result),
    }


def _partial_data(matrix: ConfusionMatrix) -> dict[str, Any]:
    """Return the pixels of partial labels by predicted class, where labels can be partial."""
    if len(matrix.candidates) == len(matrix.classes):
        return {}
    right, wrong = matrix.partial.T.tolist()
    return {"partial": {"right": right, "wrong": wrong}}


def comparison_data(comparison: Comparison, wording: Callable[[str], str] = str) -> dict[str, Any]:
    """Return both evaluations and their differences (second minus first) as plain data.

    Args:
        comparison: The two.
        wording: As for `hrrsi.report.sentences.verdict`.
    """
    return {
        "first": evaluation_data(comparison.first),
        "second": evaluation_data(comparison.second),
        "verdict": verdict(comparison, wording),
        "differences": _difference_data(comparison.differences),
        "scene_differences": _difference_data(comparison.scene_differences),
        "boundary_differences": _difference_data(comparison.boundary_differences),
    }


def _protocol_data(result: EvaluationResult) -> dict[str, Any]:
    e, protocol = result.evaluation, result.protocol
    return {
        "name": protocol.name,
        "sentence": sentence(result),
        "data": e.data,
        "split": e.split,
        "scenes": list(e.scenes),
        "unit": e.unit,
        "window": e.window,
        "overlap": e.overlap,
        "labels": protocol.labels,
        "dropped_from_OA": list(protocol.dropped_from_overall),
        "dropped_from_means": list(protocol.dropped_from_means),
        "left_out_of_means": list(protocol.left_out_of_means),
        "test_time_augmentation": e.augmentation,
        "reading": list(e.reading),
        **_source_data(result.source),
        "model": e.model,
        "scenes_seen_in_training": list(e.seen_in_training),
    }


def _source_data(source: MapSource) -> dict[str, Any]:
    if isinstance(source, MapFiles):
        return {"maps": list(source.paths)}
    return {
        "weights": source.weights,
        "weights_packaged": source.packaged,
        "weights_sha256": source.sha256,
        "hrrsi": __version__,
        "engine": source.engine,
        "precision": source.precision,
        "device": source.device,
    }


def _overall(scores: Scores) -> dict[str, float | None]:
    return {name: _number(value) for name, value in scores.overall.items()}


def _class_data(scores: Scores) -> list[dict[str, Any]]:
    return [
        {
            "name": c.name,
            "precision": _number(c.precision),
            "recall": _number(c.recall),
            "F1": _number(c.f1),
            "IoU": _number(c.iou),
            "pixels": c.pixels,
        }
        for c in scores.classes
    ]


def _grid_data(row: GridRow) -> dict[str, Any]:
    return {
        "scene": row.scene,
        "protocol": row.protocol.name,
        "labels": row.protocol.labels,
        "test_time_augmentation": row.augmentation,
        **_overall(row.scores),
        "pixels": row.scores.pixels,
        "classes": _class_data(row.scores),
    }


def _boundary_data(result: EvaluationResult) -> list[dict[str, Any]]:
    return [
        {
            "tolerance": at.tolerance,
            "mF1": _number(at.mean_f1),
            "mIoU": _number(at.mean_iou),
            "intervals": {
                name: _ends(result.boundary_intervals[f"{kind} at {at.tolerance} px"])
                for name, kind in (("mF1", "F1"), ("mIoU", "IoU"))
            },
            "classes": [
                {
                    "name": c.name,
                    "precision": _number(c.precision),
                    "recall": _number(c.recall),
                    "F1": _number(c.f1),
                    "IoU": _number(c.iou),
                }
                for c in at.classes
            ],
        }
        for at in result.boundaries
    ]


def _distance_data(result: EvaluationResult) -> dict[str, Any]:
    counts = result.evaluation.counts.border_distances
    return {
        "classes": "all",
        "labels": "full",
        "pixels": counts.pixels.tolist(),
        "accuracy": [_number(value) for value in counts.accuracy],
    }


def _calibration_data(result: EvaluationResult) -> dict[str, Any] | None:
    counts = result.evaluation.counts.reliability
    if not counts.pixels.any():
        return None
    return {
        "classes": "all",
        "labels": result.evaluation.labels,
        "ECE": _number(counts.expected_calibration_error),
        "pixels": counts.pixels.tolist(),
        "confidence": [_number(value) for value in counts.confidence],
        "accuracy": [_number(value) for value in counts.accuracy],
    }


def _area_data(result: EvaluationResult) -> dict[str, Any] | None:
    if not result.areas:
        return None
    return {
        "labels": result.evaluation.labels,
        "mapped_square_metres": result.mapped_square_metres,
        "mapped_pixels": int(result.evaluation.counts.mapped_pixels.sum()),
        "classes": [
            {
                "name": area.name,
                "mapped": _number(area.mapped),
                "estimated": _number(area.estimated),
                "half_width": _number(area.half_width),
                "interval_over_blocks": _ends(blocks),
                "users_accuracy": _number(area.users_accuracy),
                "users_half_width": _number(area.users_half_width),
                "producers_accuracy": _number(area.producers_accuracy),
                "producers_half_width": _number(area.producers_half_width),
            }
            for area, blocks in zip(result.areas, result.area_intervals, strict=True)
        ],
    }


def _unscored_data(result: EvaluationResult) -> dict[str, int]:
    e = result.evaluation
    return {
        "unlabelled_pixels": e.unlabelled_pixels,
        "unknown_label_pixels": e.unknown_pixels,
        "labelled_pixels_without_data": int(result.matrix.unpredicted.sum()),
        "labelled_pixels_that_the_other_map_lacks": e.uncompared_pixels or 0,
        "pixels_outside_of_the_area_of_interest": e.outside_pixels,
    }


def _difference_data(differences: Mapping[str, Difference]) -> dict[str, Any]:
    return {
        name: {
            "difference": _number(difference.interval.value),
            "interval": _ends(difference.interval),
            "p": _number(difference.p),
        }
        for name, difference in differences.items()
    }


def _ends(interval: Interval) -> list[float | None]:
    return [_number(interval.low), _number(interval.high)]


def _number(value: float) -> float | None:
    """Return a figure as JSON has it: None where it is undefined."""
    return None if math.isnan(value) else float(value)
