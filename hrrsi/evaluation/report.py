"""Scores with the protocol they were taken under: as tables, as plain data, as one sentence."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np

from hrrsi.evaluation.area_estimates import ClassArea, class_areas_estimated, estimated_shares
from hrrsi.evaluation.block_bootstrap import Interval, counted_blocks, score_intervals
from hrrsi.evaluation.boundary_scores import (
    TOLERANCES,
    BoundaryScores,
    boundary_arrays,
    boundary_scores,
)
from hrrsi.evaluation.class_borders import EROSION_RADIUS
from hrrsi.evaluation.evaluation import Evaluation
from hrrsi.evaluation.map_source import MapSource
from hrrsi.evaluation.protocol_grid import GridRow, protocol_grid
from hrrsi.evaluation.protocols import CLUTTER_NAMES, Protocol
from hrrsi.evaluation.scores import (
    ConfusionMatrix,
    Counts,
    Floats,
    Scores,
    score_arrays,
    telling_blocks,
)
from hrrsi.quantities import counted

_MUCH_LEFT_OUT = 0.01  # of the labelled pixels


@dataclass(frozen=True)
class EvaluationReport:
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

    @property
    def matrix(self) -> ConfusionMatrix:
        """The confusion matrix under the protocol's labels."""
        return self.evaluation.counts.matrix(self.protocol.labels)

    @property
    def scores(self) -> Scores:
        """The scores under the protocol."""
        return self.matrix.scores(self.protocol)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Scores with their intervals, as `hrrsi.evaluation.scores` names them."""
        blocks = self.evaluation.counts.blocks(self.protocol.labels)
        telling = telling_blocks(blocks, self.matrix.classes, self.protocol)
        return score_intervals(blocks, self.scores_of, telling)

    @property
    def blocks_text(self) -> str:
        """What intervals are drawn from."""
        counts, labels = self.evaluation.counts, self.protocol.labels
        size = counts.scenes[0].matrices[labels].block
        return f"{counted(counted_blocks(counts.blocks(labels)), 'block')} of {size} px"

    @property
    def scores_of(self) -> partial[dict[str, Floats]]:
        """Returns the scores of many confusion matrices under the protocol.

        Means of parts of the pixels are over the classes of all pixels.
        """
        matrix = self.matrix
        needed = matrix.counts.sum(axis=0) > 0
        return partial(score_arrays, classes=matrix.classes, protocol=self.protocol, needed=needed)

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
        return score_intervals(
            blocks, self.boundary_scores_of, self.telling_boundary_blocks(blocks)
        )

    @property
    def boundary_scores_of(self) -> partial[dict[str, Floats]]:
        """Returns the mean boundary scores of many counts under the protocol."""
        return partial(
            mean_boundary_scores,
            averaged=self.protocol.averaged(self.matrix.classes),
            needed=self._bordered,
        )

    def telling_boundary_blocks(self, blocks: Counts) -> dict[str, int]:
        """Return how many blocks say something of each mean: as many as of its rarest class."""
        holding = (blocks[:, 0, 1] > 0).sum(axis=0)
        fewest = int(holding[self._bordered].min()) if self._bordered else 0
        return dict.fromkeys(mean_boundary_scores(blocks[:1]), fewest)

    @property
    def _bordered(self) -> list[int]:
        """Indices of the classes of the means that have a border in the truth."""
        true = self.evaluation.counts.boundary_blocks.sum(axis=0)[0, 1]
        return [i for i in self.protocol.averaged(self.matrix.classes) if true[i] > 0]

    @cached_property
    def areas(self) -> tuple[ClassArea, ...]:
        """The error-adjusted share of each class in the mapped area.

        Empty for patches, which overlap: what of a scene they map is not known.
        """
        if self.evaluation.unit == "patches":
            return ()
        return class_areas_estimated(self._full_matrix, self._mapped)

    @cached_property
    def area_intervals(self) -> tuple[Interval, ...]:
        """The same shares, with intervals over blocks, which allow for neighbours being alike."""
        if not self.areas:
            return ()
        blocks = self.evaluation.counts.blocks(self.evaluation.labels)
        # each share needs every class that is mapped, so as many blocks tell as of the rarest
        mapped = np.array(self._mapped) > 0
        labelled = (blocks.sum(axis=2) > 0).sum(axis=0)
        found = score_intervals(
            blocks,
            lambda sums: {
                str(i): share
                for i, share in enumerate(np.moveaxis(estimated_shares(sums, self._mapped), -1, 0))
            },
            dict.fromkeys(map(str, range(len(mapped))), int(labelled[mapped].min())),
        )
        return tuple(found.values())

    @property
    def mapped_square_metres(self) -> float | None:
        """Square metres that the map gave any class, or None where that is not known."""
        areas = self.evaluation.counts.mapped_areas
        return None if areas is None else float(areas.sum())

    @property
    def sentence(self) -> str:
        """Everything a reader has to know to compare the figures, but for the scenes' names."""
        return f"{self.shared_sentence}; {self.source.name}"

    @property
    def shared_sentence(self) -> str:
        """The same, but for what made the map."""
        e = self.evaluation
        split = f", {e.split}" if e.split else ""
        parts = [
            f"{e.data}{split}: {e.extent}",
            self.labels_text,
            self.protocol.sentence,
            # of maps that were there, it is not known
            *([] if e.unit == "maps" else [augmentation_text(e.augmentation)]),
            *e.reading,
        ]
        return "; ".join(parts)

    @property
    def labels_text(self) -> str:
        """Which labels are the truth, and how they came about."""
        if self.protocol.labels == "full":
            return "full labels"
        scenes = self.evaluation.counts.scenes
        given = sum(not scene.erodes for scene in scenes)
        if given == len(scenes):
            return "eroded labels (as given)"
        how = f"by discs of {EROSION_RADIUS} px around borders"
        if self.evaluation.unit == "patches":
            how += ", in each patch on its own"
        elif given:
            how = f"as given for {given} of {len(scenes)} scenes, else {how}"
        return f"eroded labels ({how})"

    @property
    def partial_map(self) -> str:
        """A warning where scores leave out much because nothing is predicted there; else empty."""
        left_out = int(self.matrix.unpredicted.sum())
        labelled = self.matrix.pixels + left_out
        if left_out < _MUCH_LEFT_OUT * labelled:
            return ""
        return (
            f"Scored on {100 * self.matrix.pixels / labelled:.2f} % of the labelled pixels only: "
            f"nothing is predicted on the other {left_out:,}."
        )

    @property
    def unscored(self) -> str:
        """How many pixels no score counts, and why."""
        e, matrix = self.evaluation, self.matrix
        why = "without a label"
        if e.unit == "patches":
            why += ", repeated where patches overlap, or padding"
        parts = [f"{e.unlabelled_pixels:,} pixels {why}"]
        if e.unknown_pixels:
            parts[0] += f" ({e.unknown_pixels:,} of them with one that the scheme doesn't know)"
        if self.protocol.labels == "eroded" and e.labels == "full":
            full = e.counts.matrix("full")
            at_borders = full.pixels + full.unpredicted.sum() - matrix.pixels
            parts.append(f"{int(at_borders - matrix.unpredicted.sum()):,} at borders of classes")
        heights = any(words.startswith("heights ") for words in e.reading)
        holder = "the map" if e.unit == "maps" else "the image"
        holder += " or the height model" if heights else ""
        unpredicted = int(matrix.unpredicted.sum())
        what = "no data"
        if e.unit == "maps" and "unknown labels ignored" in e.reading:
            what += " or a value that the scheme doesn't know"
        if e.is_compared:
            holder += " or the one that it is compared with"
        parts.append(f"{unpredicted:,} labelled pixels where {holder} holds {what}")
        if e.outside_pixels:
            parts.append(f"{e.outside_pixels:,} pixels outside of the area of interest")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return scores (0 to 1, None where undefined), protocol and matrix as plain data."""
        e, scores, matrix = self.evaluation, self.scores, self.matrix
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
                "labels": self.protocol.labels,
                "dropped_from_OA": list(self.protocol.dropped_from_overall),
                "dropped_from_means": list(self.protocol.dropped_from_means),
                "left_out_of_means": list(self.protocol.left_out_of_means),
                "test_time_augmentation": e.augmentation,
                "reading": list(e.reading),
                **self.source.to_dict(),
                "model": e.model,
                "scenes_seen_in_training": list(e.seen_in_training),
            },
            "scores": {**_overall(scores), "pixels": scores.pixels},
            "intervals": _interval_dict(self.intervals),
            "blocks": counted_blocks(self.evaluation.counts.blocks(self.protocol.labels)),
            "classes": _class_dicts(scores),
            "confusion_matrix": {
                "classes": list(matrix.classes),
                "rows": "prediction",
                "columns": "truth",
                "counts": matrix.counts.tolist(),
            },
            "grid": [_grid_dict(row) for row in self.grid],
            "boundaries": self._boundary_dict(),
            "border_distance": self._distance_dict(),
            "calibration": self._calibration_dict(),
            "areas": self._area_dict(),
            "not_scored": {
                "unlabelled_pixels": e.unlabelled_pixels,
                "unknown_label_pixels": e.unknown_pixels,
                "labelled_pixels_without_data": int(matrix.unpredicted.sum()),
                "labelled_pixels_that_the_other_map_lacks": e.uncompared_pixels or 0,
                "pixels_outside_of_the_area_of_interest": e.outside_pixels,
            },
        }

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

    def _boundary_dict(self) -> list[dict[str, Any]]:
        return [
            {
                "tolerance": at.tolerance,
                "mF1": number(at.mean_f1),
                "mIoU": number(at.mean_iou),
                "intervals": {
                    name: _ends(self.boundary_intervals[f"{kind} at {at.tolerance} px"])
                    for name, kind in (("mF1", "F1"), ("mIoU", "IoU"))
                },
                "classes": [
                    {
                        "name": c.name,
                        "precision": number(c.precision),
                        "recall": number(c.recall),
                        "F1": number(c.f1),
                        "IoU": number(c.iou),
                    }
                    for c in at.classes
                ],
            }
            for at in self.boundaries
        ]

    def _distance_dict(self) -> dict[str, Any]:
        found = self.evaluation.counts.border_distances
        return {
            "classes": "all",
            "labels": "full",
            "pixels": found.pixels.tolist(),
            "accuracy": [number(value) for value in found.accuracy],
        }

    def _calibration_dict(self) -> dict[str, Any] | None:
        found = self.evaluation.counts.reliability
        if not found.pixels.any():
            return None
        return {
            "classes": "all",
            "labels": self.evaluation.labels,
            "ECE": number(found.expected_calibration_error),
            "pixels": found.pixels.tolist(),
            "confidence": [number(value) for value in found.confidence],
            "accuracy": [number(value) for value in found.accuracy],
        }

    def _area_dict(self) -> dict[str, Any] | None:
        if not self.areas:
            return None
        return {
            "labels": self.evaluation.labels,
            "mapped_square_metres": self.mapped_square_metres,
            "mapped_pixels": int(self.evaluation.counts.mapped_pixels.sum()),
            "classes": [
                {
                    "name": area.name,
                    "mapped": number(area.mapped),
                    "estimated": number(area.estimated),
                    "half_width": number(area.half_width),
                    "interval_over_blocks": _ends(blocks),
                    "users_accuracy": number(area.users_accuracy),
                    "users_half_width": number(area.users_half_width),
                    "producers_accuracy": number(area.producers_accuracy),
                    "producers_half_width": number(area.producers_half_width),
                }
                for area, blocks in zip(self.areas, self.area_intervals, strict=True)
            ],
        }


def mean_boundary_scores(
    counts: Counts, averaged: Sequence[int] | None = None, needed: Sequence[int] = ()
) -> dict[str, Floats]:
    """Return the means over classes of many boundary counts, as ``F1 at 3 px``.

    Args:
        counts: (n, tolerances, 7, classes), as `hrrsi.evaluation.boundary_scores` has them.
        averaged: As for `boundary_arrays`.
        needed: Likewise.
    """
    arrays = boundary_arrays(counts, averaged, needed)
    found = {}
    for index, tolerance in enumerate(TOLERANCES):
        found[f"F1 at {tolerance} px"] = arrays.mean_f1[..., index]
        found[f"IoU at {tolerance} px"] = arrays.mean_iou[..., index]
    return found


def augmentation_text(name: str) -> str:
    """Return a test-time augmentation in words."""
    return "no test-time augmentation" if name == "none" else f"test-time augmentation {name}"


def number(value: float) -> float | None:
    """Return a figure as JSON has it: None where it is undefined."""
    return None if math.isnan(value) else float(value)


def _overall(scores: Scores) -> dict[str, float | None]:
    return {
        "OA": number(scores.overall_accuracy),
        "mF1": number(scores.mean_f1),
        "mIoU": number(scores.mean_iou),
        "kappa": number(scores.kappa),
    }


def _class_dicts(scores: Scores) -> list[dict[str, Any]]:
    return [
        {
            "name": c.name,
            "precision": number(c.precision),
            "recall": number(c.recall),
            "F1": number(c.f1),
            "IoU": number(c.iou),
            "pixels": c.pixels,
        }
        for c in scores.classes
    ]


def _ends(interval: Interval) -> list[float | None]:
    return [number(interval.low), number(interval.high)]


def _interval_dict(intervals: dict[str, Interval]) -> dict[str, list[float | None]]:
    return {name: _ends(interval) for name, interval in intervals.items()}


def _grid_dict(row: GridRow) -> dict[str, Any]:
    return {
        "scene": row.scene,
        "labels": row.protocol.labels,
        "clutter": "out" if row.protocol.dropped_from_overall else "in",
        "test_time_augmentation": row.augmentation,
        **_overall(row.scores),
        "pixels": row.scores.pixels,
        "classes": _class_dicts(row.scores),
    }
