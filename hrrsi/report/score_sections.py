"""The sections of the page that hold scores: headline, differences, grid, classes, confusion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from hrrsi.evaluation.block_bootstrap import Difference, Interval
from hrrsi.evaluation.result import EvaluationResult, GridRow
from hrrsi.report.evaluated_map import EvaluatedMap
from hrrsi.report.markup import (
    NONE,
    Cell,
    count_cell,
    escaped,
    interval_text,
    lettered,
    name_cell,
    p_text,
    percent,
    percent_cell,
    points,
    points_cell,
    points_interval_text,
    section,
    table,
)

HEADLINE = ("OA", "mF1", "mIoU", "kappa")
_MEANINGS = {
    "OA": "overall accuracy",
    "mF1": "mean F1 of the classes",
    "mIoU": "mean IoU of the classes",
    "kappa": "agreement beyond chance",
}


def headline(maps: Sequence[EvaluatedMap], differences: Mapping[str, Difference]) -> str:
    """Return a card for each headline score, with its interval and, of two maps, the difference."""
    names = [one.name for one in maps]
    cards = []
    for key in HEADLINE:
        figures = []
        for number, one in enumerate(maps):
            interval = one.report.intervals[key]
            whose = f'<span class="whose">{lettered(names, number)}</span>' if differences else ""
            figures.append(
                f'<div class="figure map-{number}">{whose}<b>{percent(interval.value)}</b>'
                f"{_interval_bar(interval)}"
                f"<small>95 %: {interval_text(interval)}</small></div>"
            )
        if differences:
            figures.append(_difference(differences[key]))
        cards.append(
            f'<div class="score"><h3>{key} <span>{_MEANINGS[key]}</span></h3>'
            f"{''.join(figures)}</div>"
        )
    return f'<div class="scores">{"".join(cards)}</div>'


def _interval_bar(interval: Interval) -> str:
    low, high = (0.0 if math.isnan(end) else end for end in (interval.low, interval.high))
    value = 0.0 if math.isnan(interval.value) else max(0.0, interval.value)
    return (
        '<svg class="range" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" y="3" width="100" height="2"/>'
        f'<rect class="reach" x="{100 * max(low, 0):.2f}" y="1" rx="1" '
        f'width="{100 * max(high - max(low, 0), 0):.2f}" height="6"/>'
        f'<rect class="at" x="{100 * value - 0.4:.2f}" width="0.8" height="8"/></svg>'
    )


def _difference(difference: Difference) -> str:
    value = difference.interval
    return (
        f'<div class="difference"><span class="whose">B minus A</span>'
        f"<b>{points(value.value)}</b>"
        f"<small>95 %: {points_interval_text(value)}; {p_text(difference.p)}</small></div>"
    )


def grid_section(maps: Sequence[EvaluatedMap]) -> str:
    """Return the scores under every protocol, of all scenes and, to unfold, of each."""
    scenes: dict[str | None, list[tuple[EvaluatedMap, GridRow]]] = {None: []}
    for one in maps:
        for row in one.report.grid:
            scenes.setdefault(row.scene, []).append((one, row))
    parts = []
    for scene, rows in scenes.items():
        caption = "All scenes together" if scene is None else f"Scene {scene}"
        found = table(
            caption,
            [
                *(["map"] if len(maps) > 1 else ["labels"]),
                *(["labels"] if len(maps) > 1 else []),
                "clutter",
                "augmentation",
                *HEADLINE,
                "pixels",
            ],
            [_grid_cells(one, row, named=len(maps) > 1) for one, row in rows],
            sortable=True,
            marked=_headline_row(maps, [row for _, row in rows]) if len(maps) == 1 else None,
        )
        if scene is not None:
            one, first = rows[0]
            found = (
                f"<details><summary>{escaped(scene)} "
                f"<span>OA {percent(first.scores.overall_accuracy)}, "
                f"mIoU {percent(first.scores.mean_iou)}</span></summary>{found}</details>"
            )
        parts.append(found)
    return section(
        "protocols",
        "Every protocol at once",
        "Two figures can be compared only where they were taken in the same way. These are from "
        "one run: labels full, or eroded at the borders of classes; clutter in, or out; without "
        "test-time augmentation and, where it was asked for, with it.",
        *parts,
    )


def _headline_row(maps: Sequence[EvaluatedMap], rows: Sequence[GridRow]) -> int | None:
    protocol = maps[0].report.protocol
    for index, row in enumerate(rows):
        same = (row.protocol.labels, row.protocol.dropped_from_overall)
        if (
            same == (protocol.labels, protocol.dropped_from_overall)
            and row.protocol.dropped_from_means == protocol.dropped_from_means
            and not protocol.left_out_of_means
            and row.augmentation == maps[0].report.evaluation.augmentation
        ):
            return index
    return None


def _grid_cells(one: EvaluatedMap, row: GridRow, *, named: bool) -> list[Cell]:
    s = row.scores
    has_clutter = any(r.protocol.dropped_from_overall for r in one.report.grid)
    clutter = "out" if row.protocol.dropped_from_overall else "in" if has_clutter else NONE
    words = [row.protocol.labels, clutter, row.augmentation]
    return [
        *([name_cell(one.name)] if named else []),
        *(Cell(escaped(word), word) for word in words),
        *(percent_cell(v) for v in (s.overall_accuracy, s.mean_f1, s.mean_iou, s.kappa)),
        count_cell(s.pixels),
    ]


def classes_section(maps: Sequence[EvaluatedMap], differences: Mapping[str, Difference]) -> str:
    """Return the scores of each class, to sort; of two maps F1 and IoU beside each other."""
    places = {name: index for index, name in enumerate(maps[0].report.matrix.classes)}
    shown = (
        _class_table(maps[0].report, places)
        if len(maps) == 1
        else _paired_class_table(maps, places, differences)
    )
    return section(
        "classes",
        "Classes",
        "In percent; small figures are 95 % intervals over blocks of scene. Click on a heading to "
        "sort.",
        shown,
    )


def _class_table(report: EvaluationResult, places: Mapping[str, int]) -> str:
    scores = report.scores
    total = sum(c.pixels for c in scores.classes) or 1
    rows = [
        [
            name_cell(c.name, places[c.name]),
            percent_cell(c.iou, report.intervals.get(f"IoU {c.name}"), bar=True),
            percent_cell(c.f1, report.intervals.get(f"F1 {c.name}")),
            percent_cell(c.precision),
            percent_cell(c.recall),
            percent_cell(c.pixels / total),
            count_cell(c.pixels),
        ]
        for c in scores.classes
    ]
    headings = ["class", "IoU", "F1", "precision", "recall", "share of truth", "pixels"]
    return table("Scores of each class", headings, rows, sortable=True)


def _paired_class_table(
    maps: Sequence[EvaluatedMap], places: Mapping[str, int], differences: Mapping[str, Difference]
) -> str:
    rows = []
    for classes in zip(*(m.report.scores.classes for m in maps), strict=True):
        name = classes[0].name
        cells = [name_cell(name, places[name])]
        for kind, values in (("IoU", [c.iou for c in classes]), ("F1", [c.f1 for c in classes])):
            found = differences.get(f"{kind} {name}")
            cells += [percent_cell(value) for value in values]
            cells.append(
                points_cell(found)
                if found
                else Cell(points(values[1] - values[0]), values[1] - values[0], "number")
            )
        rows.append([*cells, count_cell(classes[0].pixels)])
    letters = ("A", "B")
    headings = [f"{kind} {what}" for kind in ("IoU", "F1") for what in (*letters, "difference")]
    return table(
        f"Scores of each class: A is {maps[0].name}, B is {maps[1].name}",
        ["class", *headings, "pixels"],
        rows,
        sortable=True,
    )


def confusion_section(maps: Sequence[EvaluatedMap]) -> str:
    """Return the confusion matrix of each map."""
    parts = [_confusion_table(one.report, one.name if len(maps) > 1 else "") for one in maps]
    return section(
        "confusion",
        "What is taken for what",
        "Each column is a true class; its cells say as which class it was mapped and add up to "
        "100 %. Small figures are pixels.",
        *parts,
    )


def _confusion_table(report: EvaluationResult, name: str) -> str:
    matrix = report.matrix
    true = matrix.counts.sum(axis=0)
    rows = []
    for i, predicted in enumerate(matrix.classes):
        cells = [
            Cell(
                f'<span class="mapped-as">mapped as</span>{name_cell(predicted, i).html}', predicted
            )
        ]
        for j in range(len(matrix.classes)):
            count = int(matrix.counts[i, j])
            share = count / true[j] if true[j] else float("nan")
            level = 0 if np.isnan(share) else math.ceil(share * 10)
            kind = "right" if i == j else "wrong"
            shown = f"{percent(share)}<small>{count:,}</small>"
            cells.append(Cell(shown, share, f"number {kind} heat-{level}"))
        rows.append(cells)
    title = f"Confusion matrix of {name}" if name else "Confusion matrix"
    return f'<div class="matrix">{table(title, ["", *matrix.classes], rows)}</div>'
