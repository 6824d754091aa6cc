"""What the page shows of scores: headline, classes, confusion, borders, confidence and areas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hrrsi.evaluation.boundary_scores import FARTHEST
from hrrsi.evaluation.intervals import Difference, Interval
from hrrsi.evaluation.result import EvaluationResult, GridRow
from hrrsi.evaluation.scene_counts import BINS
from hrrsi.quantities import area_text
from hrrsi.report.figures import (
    LETTERS,
    NONE,
    Axis,
    Cell,
    Chart,
    Note,
    Series,
    Table,
    count_cell,
    interval_text,
    line_chart,
    name_cell,
    p_text,
    percent,
    percent_axis,
    percent_cell,
    plus_minus_cell,
    points,
    points_cell,
    points_interval_text,
)
from hrrsi.report.model_sections import EvaluatedMap
from hrrsi.report.sentences import mean_words

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
        table = Table(
            "All scenes together" if scene is None else f"Scene {scene}",
            [
                *(["map"] if len(maps) > 1 else []),
                "protocol",
                "labels",
                "augmentation",
                *_MEANINGS,
                "pixels",
            ],
            [_grid_cells(entry, row, named=len(maps) > 1) for entry, row in rows],
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
    headline_of = (maps[0].result.protocol, maps[0].result.evaluation.augmentation)
    places = (i for i, row in enumerate(rows) if (row.protocol, row.augmentation) == headline_of)
    return next(places, None)


def _grid_cells(entry: EvaluatedMap, row: GridRow, *, named: bool) -> list[Cell]:
    words = [row.protocol.name, row.protocol.labels, row.augmentation]
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
    headings = [f"{kind} {column}" for kind in ("IoU", "F1") for column in (*LETTERS, "difference")]
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


def borders(
    maps: Sequence[EvaluatedMap], differences: Mapping[str, Difference]
) -> dict[str, Any] | None:
    """Return boundary scores and accuracy by the distance to a border; None without borders.

    Args:
        maps: One or two.
        differences: Those of the second map's mean boundary scores; empty for one map.
    """
    counts = maps[0].result.evaluation.counts.border_distances
    if not maps[0].result.boundaries or not counts.pixels.any():
        return None
    tables = [_boundary_table(entry, named=len(maps) > 1) for entry in maps]
    if differences:
        tables.append(_boundary_differences(maps, differences))
    return {
        "tables": tables,
        "near": [_near_border(entry) for entry in maps],
        "distances": _distance_table(maps),
        "chart": _distance_chart(maps),
    }


def _boundary_table(entry: EvaluatedMap, *, named: bool) -> Table:
    result = entry.result
    names = [f"{kind} {at.tolerance} px" for at in result.boundaries for kind in ("F1", "IoU")]
    rows = [
        [
            name_cell(name, index),
            *(
                percent_cell(value)
                for at in result.boundaries
                for value in (at.classes[index].f1, at.classes[index].iou)
            ),
        ]
        for index, name in enumerate(result.matrix.classes)
    ]
    means = [
        percent_cell(value, result.boundary_intervals[f"{kind} at {at.tolerance} px"])
        for at in result.boundaries
        for kind, value in (("F1", at.mean_f1), ("IoU", at.mean_iou))
    ]
    rows.append([Cell(f"{mean_words(result)}, with 95 % interval", "mean"), *means])
    title = f"Boundary scores of {entry.name}" if named else "Boundary scores"
    return Table(title, ["class", *names], rows, marked=len(rows) - 1)


def _boundary_differences(
    maps: Sequence[EvaluatedMap], differences: Mapping[str, Difference]
) -> Table:
    cells = [points_cell(d) for d in differences.values()]
    title = f"{maps[1].name} minus {maps[0].name}, in points"
    return Table(title, ["", *differences], [[name_cell("difference of the mean"), *cells]])


def _distance_chart(maps: Sequence[EvaluatedMap]) -> Chart:
    counts = [m.result.evaluation.counts.border_distances for m in maps]
    shares = counts[0].pixels / max(int(counts[0].pixels.sum()), 1)
    top = max(float(shares.max()), 1e-12)
    lowest = min(float(np.nanmin(c.accuracy)) for c in counts)
    ticks = [(value, str(value)) for value in range(0, FARTHEST, 8)]
    words = "; ".join(
        f"{m.name}: {percent(c.accuracy_between(0, 3))} % at 0 to 3 px from a border, "
        f"{percent(c.accuracy_between(FARTHEST, FARTHEST))} % from {FARTHEST} px on"
        for m, c in zip(maps, counts, strict=True)
    )
    return line_chart(
        (
            "distance",
            "Accuracy by the distance to the nearest border of the labels",
            f"{words}. Bars: how many pixels lie at each distance.",
        ),
        Axis("distance in px", -0.5, FARTHEST + 0.5, [*ticks, (FARTHEST, f"{FARTHEST}+")]),
        percent_axis("right, in percent", math.floor(min(lowest, 0.9) * 10) / 10),
        [
            Series(m.name, list(enumerate(c.accuracy.tolist())), dots=len(maps) == 1)
            for m, c in zip(maps, counts, strict=True)
        ],
        bars=[(d - 0.5, d + 0.5, 0.35 * float(s) / top) for d, s in enumerate(shares)],
    )


def _distance_table(maps: Sequence[EvaluatedMap]) -> Table:
    counts = [m.result.evaluation.counts.border_distances for m in maps]
    rows = [
        [
            Cell(f"{d} px" + (" or more" if d == FARTHEST else ""), float(d)),
            *(percent_cell(float(c.accuracy[d])) for c in counts),
            count_cell(int(counts[0].pixels[d])),
        ]
        for d in range(FARTHEST + 1)
    ]
    columns = ["right A", "right B"] if len(maps) > 1 else ["right"]
    headings = ["distance", *columns, "pixels"]
    return Table("Accuracy by distance to a border", headings, rows)


def _near_border(entry: EvaluatedMap) -> dict[str, str]:
    counts = entry.result.evaluation.counts.border_distances
    share = int(counts.pixels[:4].sum()) / max(int(counts.pixels.sum()), 1)
    return {
        "name": entry.name,
        "right": percent(counts.accuracy_between(0, 3)),
        "farther": percent(counts.accuracy_between(4, FARTHEST)),
        "share": percent(share),
    }


def confidence(maps: Sequence[EvaluatedMap]) -> dict[str, Any] | None:
    """Return the reliability curve; None where no confidence is known."""
    calibrated = [m for m in maps if m.result.evaluation.counts.reliability.pixels.any()]
    if not calibrated:
        return None
    counts = [m.result.evaluation.counts.reliability for m in calibrated]
    errors = [
        f"{m.name}: ECE {percent(c.expected_calibration_error)} %"
        for m, c in zip(calibrated, counts, strict=True)
    ]
    shares = counts[0].pixels / counts[0].pixels.sum()
    top = float(shares.max())
    ticks = [(k / 5, f"{20 * k}") for k in range(6)]
    chart = line_chart(
        (
            "reliability",
            "Reliability: how often a confidence is right",
            f"{'; '.join(errors)}. Dashed: perfect calibration. Bars: how many pixels have each "
            "confidence.",
        ),
        Axis("confidence in percent", 0, 1, ticks),
        percent_axis("right, in percent"),
        [
            Series(m.name, list(zip(c.confidence.tolist(), c.accuracy.tolist(), strict=True)))
            for m, c in zip(calibrated, counts, strict=True)
        ],
        bars=[(k / BINS, (k + 1) / BINS, 0.35 * float(s) / top) for k, s in enumerate(shares)],
        has_diagonal=True,
    )
    rows = [
        [
            Cell(f"{100 * k // BINS} to {100 * (k + 1) // BINS} %", float(k)),
            *(cell for c in counts for cell in _bin_cells(c.confidence[k], c.accuracy[k])),
            count_cell(int(counts[0].pixels[k])),
        ]
        for k in range(BINS)
        if any(c.pixels[k] for c in counts)
    ]
    letters = [f" {letter}" if len(calibrated) > 1 else "" for letter in LETTERS[: len(calibrated)]]
    headings = [f"{figure}{of}" for of in letters for figure in ("mean confidence", "right")]
    return {
        "chart": chart,
        "table": Table("Reliability", ["confidence", *headings, "pixels"], rows),
        "maps": [
            {
                "name": m.name,
                "error": percent(c.expected_calibration_error),
                "confidence": percent(c.mean_confidence),
                "right": percent(c.share_right),
            }
            for m, c in zip(calibrated, counts, strict=True)
        ],
    }


def _bin_cells(confidence: float, accuracy: float) -> list[Cell]:
    return [percent_cell(float(confidence)), percent_cell(float(accuracy))]


def area_tables(maps: Sequence[EvaluatedMap]) -> list[Table]:
    """Return the area of each class, corrected for the map's errors; none of patches."""
    if not all(entry.result.areas for entry in maps):
        return []
    return [_area_table(entry, named=len(maps) > 1) for entry in maps]


def _area_table(entry: EvaluatedMap, *, named: bool) -> Table:
    result, metres = entry.result, entry.result.mapped_square_metres
    rows = []
    for index, (area, blocks) in enumerate(zip(result.areas, result.area_intervals, strict=True)):
        cells = [name_cell(area.name, index), percent_cell(area.mapped)]
        if metres is not None:
            cells.append(_area_cell(area.mapped, metres))
        cells.append(plus_minus_cell(area.estimated, area.half_width))
        cells.append(Cell(interval_text(blocks), blocks.low, "number"))
        if metres is not None:
            cells.append(_area_cell(area.estimated, metres))
        cells.append(plus_minus_cell(area.users_accuracy, area.users_half_width))
        cells.append(plus_minus_cell(area.producers_accuracy, area.producers_half_width))
        rows.append(cells)
    has_metres = metres is not None
    headings = [
        "class",
        "mapped %",
        *(["mapped area"] if has_metres else []),
        "adjusted %",
        "95 % over blocks",
        *(["adjusted area"] if has_metres else []),
        "user's accuracy",
        "producer's accuracy",
    ]
    title = f"Areas of {entry.name}" if named else "Areas"
    extent = "" if metres is None else f", {area_text(metres)} mapped"
    return Table(title + extent, headings, rows, is_sortable=True)


def _area_cell(share: float, metres: float) -> Cell:
    shown = NONE if math.isnan(share) else area_text(share * metres)
    return Cell(shown, share, "number")
