"""The scores that the page shows: headline, classes, confusion, every protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hrrsi.evaluation.intervals import Difference, Interval
from hrrsi.evaluation.result import EvaluationResult, GridRow
from hrrsi.report.figures import (
    LETTERS,
    NONE,
    Cell,
    Note,
    Table,
    count_cell,
    interval_text,
    name_cell,
    p_text,
    percent,
    percent_cell,
    points,
    points_cell,
    points_interval_text,
)
from hrrsi.report.model_sections import EvaluatedMap
from hrrsi.report.sentences import clutter_words

_MEANINGS = {
    "OA": "overall accuracy",
    "mF1": "mean F1 of the classes",
    "mIoU": "mean IoU of the classes",
    "kappa": "agreement beyond chance",
}


def headline(
    maps: Sequence[EvaluatedMap], differences: Mapping[str, Difference]
) -> list[dict[str, Any]]:
    """Return a card for each headline score, with its interval and, of two maps, the difference."""
    return [
        {
            "key": key,
            "meaning": meaning,
            "figures": [_figure(entry.result.intervals[key]) for entry in maps],
            "difference": _difference(differences[key]) if differences else None,
        }
        for key, meaning in _MEANINGS.items()
    ]


def _figure(interval: Interval) -> dict[str, str]:
    """Return a score in words, and its interval as places on a bar of 100 units."""
    low, high = (0.0 if math.isnan(end) else end for end in (interval.low, interval.high))
    value = 0.0 if math.isnan(interval.value) else max(0.0, interval.value)
    return {
        "value": percent(interval.value),
        "interval": interval_text(interval),
        "low": f"{100 * max(low, 0):.2f}",
        "width": f"{100 * max(high - max(low, 0), 0):.2f}",
        "at": f"{100 * value - 0.4:.2f}",
    }


def _difference(difference: Difference) -> dict[str, str]:
    return {
        "value": points(difference.interval.value),
        "interval": points_interval_text(difference.interval),
        "p": p_text(difference.p),
    }


def protocol_grids(maps: Sequence[EvaluatedMap]) -> list[dict[str, Any]]:
    """Return the scores under every protocol, of all scenes and of each."""
    scenes: dict[str | None, list[tuple[EvaluatedMap, GridRow]]] = {None: []}
    for entry in maps:
        for row in entry.result.grid:
            scenes.setdefault(row.scene, []).append((entry, row))
    grids = []
    for scene, rows in scenes.items():
        first = rows[0][1].scores
        clutter = clutter_words([row for _, row in rows], absent=NONE)
        table = Table(
            "All scenes together" if scene is None else f"Scene {scene}",
            [
                *(["map"] if len(maps) > 1 else []),
                "labels",
                "clutter",
                "augmentation",
                *_MEANINGS,
                "pixels",
            ],
            [
                _grid_cells(entry, row, word, named=len(maps) > 1)
                for (entry, row), word in zip(rows, clutter, strict=True)
            ],
            is_sortable=True,
            marked=_headline_row(maps, [row for _, row in rows]) if len(maps) == 1 else None,
        )
        grids.append(
            {
                "scene": scene,
                "table": table,
                "overall_accuracy": percent(first.overall_accuracy),
                "mean_iou": percent(first.mean_iou),
            }
        )
    return grids


def _headline_row(maps: Sequence[EvaluatedMap], rows: Sequence[GridRow]) -> int | None:
    protocol = maps[0].result.protocol
    for index, row in enumerate(rows):
        same = (row.protocol.labels, row.protocol.dropped_from_overall)
        if (
            same == (protocol.labels, protocol.dropped_from_overall)
            and row.protocol.dropped_from_means == protocol.dropped_from_means
            and not protocol.left_out_of_means
            and row.augmentation == maps[0].result.evaluation.augmentation
        ):
            return index
    return None


def _grid_cells(entry: EvaluatedMap, row: GridRow, clutter: str, *, named: bool) -> list[Cell]:
    words = [row.protocol.labels, clutter, row.augmentation]
    return [
        *([name_cell(entry.name)] if named else []),
        *(Cell(word, word) for word in words),
        *(percent_cell(value) for value in row.scores.overall.values()),
        count_cell(row.scores.pixels),
    ]


def classes_table(maps: Sequence[EvaluatedMap], differences: Mapping[str, Difference]) -> Table:
    """Return the scores of each class, to sort; of two maps F1 and IoU beside each other."""
    places = {name: index for index, name in enumerate(maps[0].result.matrix.classes)}
    if len(maps) == 1:
        return _class_table(maps[0].result, places)
    return _paired_class_table(maps, places, differences)


def _class_table(result: EvaluationResult, places: Mapping[str, int]) -> Table:
    scores = result.scores
    total = sum(c.pixels for c in scores.classes) or 1
    rows = [
        [
            name_cell(c.name, places[c.name]),
            percent_cell(c.iou, result.intervals.get(f"IoU {c.name}"), bar=True),
            percent_cell(c.f1, result.intervals.get(f"F1 {c.name}")),
            percent_cell(c.precision),
            percent_cell(c.recall),
            percent_cell(c.pixels / total),
            count_cell(c.pixels),
        ]
        for c in scores.classes
    ]
    headings = ["class", "IoU", "F1", "precision", "recall", "share of truth", "pixels"]
    return Table("Scores of each class", headings, rows, is_sortable=True)


def _paired_class_table(
    maps: Sequence[EvaluatedMap], places: Mapping[str, int], differences: Mapping[str, Difference]
) -> Table:
    rows = []
    for classes in zip(*(m.result.scores.classes for m in maps), strict=True):
        name = classes[0].name
        cells = [name_cell(name, places[name])]
        for kind, values in (("IoU", [c.iou for c in classes]), ("F1", [c.f1 for c in classes])):
            difference = differences.get(f"{kind} {name}")
            cells += [percent_cell(value) for value in values]
            cells.append(
                points_cell(difference)
                if difference
                else Cell(points(values[1] - values[0]), values[1] - values[0], "number")
            )
        rows.append([*cells, count_cell(classes[0].pixels)])
    headings = [f"{kind} {what}" for kind in ("IoU", "F1") for what in (*LETTERS, "difference")]
    return Table(
        f"Scores of each class: A is {maps[0].name}, B is {maps[1].name}",
        ["class", *headings, "pixels"],
        rows,
        is_sortable=True,
    )


def confusion_table(entry: EvaluatedMap, *, named: bool) -> Table:
    """Return the confusion matrix of a map."""
    matrix = entry.result.matrix
    true = matrix.counts.sum(axis=0)
    rows = []
    for i, predicted in enumerate(matrix.classes):
        cells = [name_cell(predicted, i, lead="mapped as")]
        for j in range(len(matrix.classes)):
            count = int(matrix.counts[i, j])
            share = count / true[j] if true[j] else float("nan")
            level = 0 if np.isnan(share) else math.ceil(share * 10)
            kind = "right" if i == j else "wrong"
            notes = (Note(f"{count:,}"),)
            cells.append(Cell(percent(share), share, f"number {kind} heat-{level}", notes))
        rows.append(cells)
    title = f"Confusion matrix of {entry.name}" if named else "Confusion matrix"
    return Table(title, ["", *matrix.classes], rows)
