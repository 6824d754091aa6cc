"""The sections on borders, confidence and areas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from hrrsi.evaluation.block_bootstrap import Difference
from hrrsi.evaluation.boundary_scores import FARTHEST, BorderDistanceCounts
from hrrsi.evaluation.scene_counts import BINS
from hrrsi.quantities import area_text
from hrrsi.report.charts import Axis, Series, line_chart, percent_axis
from hrrsi.report.evaluated_map import EvaluatedMap
from hrrsi.report.markup import (
    NONE,
    Cell,
    count_cell,
    escaped,
    interval_text,
    name_cell,
    percent,
    percent_cell,
    plus_minus_cell,
    points_cell,
    section,
    table,
)


def borders_section(maps: Sequence[EvaluatedMap], differences: Mapping[str, Difference]) -> str:
    """Return boundary scores and accuracy by the distance to a border; empty without borders.

    Args:
        maps: One or two.
        differences: Those of the second map's mean boundary scores; empty for one map.
    """
    counts = maps[0].report.evaluation.counts.border_distances
    if not maps[0].report.boundaries or not counts.pixels.any():
        return ""
    parts = [_boundary_table(one, named=len(maps) > 1) for one in maps]
    if differences:
        parts.append(_boundary_differences(maps, differences))
    return section(
        "borders",
        "Borders of classes",
        "Boundary F1 is the agreement of drawn with true borders within so many pixels (Csurka et "
        "al. 2013), boundary IoU that of the rims along them (Cheng et al. 2021). Full labels, in "
        "percent.",
        *parts,
        f'<div class="with-chart"><div>{_near_words(maps)}{_distance_table(maps)}</div>'
        f"{_distance_chart(maps)}</div>",
    )


def _boundary_table(one: EvaluatedMap, *, named: bool) -> str:
    report = one.report
    names = [f"{kind} {at.tolerance} px" for at in report.boundaries for kind in ("F1", "IoU")]
    rows = [
        [
            name_cell(name, index),
            *(
                percent_cell(value)
                for at in report.boundaries
                for value in (at.classes[index].f1, at.classes[index].iou)
            ),
        ]
        for index, name in enumerate(report.matrix.classes)
    ]
    means = [
        percent_cell(value, report.boundary_intervals[f"{kind} at {at.tolerance} px"])
        for at in report.boundaries
        for kind, value in (("F1", at.mean_f1), ("IoU", at.mean_iou))
    ]
    left_out = escaped(" and ".join(report.classes_left_out_of_means))
    mean = f"mean without {left_out}" if left_out else "mean"
    rows.append([Cell(f"{mean}, with 95 % interval", "mean"), *means])
    title = f"Boundary scores of {one.name}" if named else "Boundary scores"
    return table(title, ["class", *names], rows, marked=len(rows) - 1)


def _boundary_differences(
    maps: Sequence[EvaluatedMap], differences: Mapping[str, Difference]
) -> str:
    cells = [points_cell(d) for d in differences.values()]
    title = f"{maps[1].name} minus {maps[0].name}, in points"
    return table(title, ["", *differences], [[name_cell("difference of the mean"), *cells]])


def _distance_chart(maps: Sequence[EvaluatedMap]) -> str:
    counts = [m.report.evaluation.counts.border_distances for m in maps]
    shares = counts[0].pixels / max(int(counts[0].pixels.sum()), 1)
    top = max(float(shares.max()), 1e-12)
    lowest = min(float(np.nanmin(c.accuracy)) for c in counts)
    ticks = [(value, str(value)) for value in range(0, FARTHEST, 8)]
    words = "; ".join(
        f"{m.name}: {percent(_near(c, 0, 3))} % at 0 to 3 px from a border, "
        f"{percent(_near(c, FARTHEST, FARTHEST))} % from {FARTHEST} px on"
        for m, c in zip(maps, counts, strict=True)
    )
    return line_chart(
        "distance",
        "Accuracy by the distance to the nearest border of the labels",
        f"{words}. Bars: how many pixels lie at each distance.",
        Axis("distance in px", -0.5, FARTHEST + 0.5, [*ticks, (FARTHEST, f"{FARTHEST}+")]),
        percent_axis("right, in percent", math.floor(min(lowest, 0.9) * 10) / 10),
        [
            Series(m.name, list(enumerate(c.accuracy.tolist())), dots=len(maps) == 1)
            for m, c in zip(maps, counts, strict=True)
        ],
        bars=[(d - 0.5, d + 0.5, 0.35 * float(s) / top) for d, s in enumerate(shares)],
    )


def _distance_table(maps: Sequence[EvaluatedMap]) -> str:
    counts = [m.report.evaluation.counts.border_distances for m in maps]
    rows = [
        [
            Cell(f"{d} px" + (" or more" if d == FARTHEST else ""), float(d)),
            *(percent_cell(float(c.accuracy[d])) for c in counts),
            count_cell(int(counts[0].pixels[d])),
        ]
        for d in range(FARTHEST + 1)
    ]
    whose = ["right A", "right B"] if len(maps) > 1 else ["right"]
    headings = ["distance", *whose, "pixels"]
    return _figures(table("Accuracy by distance to a border", headings, rows))


def _near_words(maps: Sequence[EvaluatedMap]) -> str:
    parts = []
    for one in maps:
        counts = one.report.evaluation.counts.border_distances
        share = int(counts.pixels[:4].sum()) / max(int(counts.pixels.sum()), 1)
        parts.append(
            f'<p class="big-figure"><b>{percent(_near(counts, 0, 3))}</b> % right at 0 to 3 px '
            f"from a border<small>{escaped(one.name)}: {percent(_near(counts, 4, FARTHEST))} % "
            f"farther away; {percent(share)} % of the pixels are that near, counted from 0 on the "
            "border (eroded labels leave out fewer: those at most 3 px from another class)"
            "</small></p>"
        )
    return "".join(parts)


def _near(counts: BorderDistanceCounts, first: int, last: int) -> float:
    part = slice(first, last + 1)
    total = int(counts.pixels[part].sum())
    return int(counts.right[part].sum()) / total if total else float("nan")


def confidence_section(maps: Sequence[EvaluatedMap]) -> str:
    """Return the reliability curve; empty where no confidence is known."""
    known = [m for m in maps if m.report.evaluation.counts.reliability.pixels.any()]
    if not known:
        return ""
    counts = [m.report.evaluation.counts.reliability for m in known]
    errors = [
        f"{m.name}: ECE {percent(c.expected_calibration_error)} %"
        for m, c in zip(known, counts, strict=True)
    ]
    shares = counts[0].pixels / counts[0].pixels.sum()
    top = float(shares.max())
    ticks = [(k / 5, f"{20 * k}") for k in range(6)]
    chart = line_chart(
        "reliability",
        "Reliability: how often a confidence is right",
        f"{'; '.join(errors)}. Dashed: perfect calibration. Bars: how many pixels have each "
        "confidence.",
        Axis("confidence in percent", 0, 1, ticks),
        percent_axis("right, in percent"),
        [
            Series(m.name, list(zip(c.confidence.tolist(), c.accuracy.tolist(), strict=True)))
            for m, c in zip(known, counts, strict=True)
        ],
        bars=[(k / BINS, (k + 1) / BINS, 0.35 * float(s) / top) for k, s in enumerate(shares)],
        diagonal=True,
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
    whose = [f" {letter}" if len(known) > 1 else "" for letter in "AB"[: len(known)]]
    headings = [f"{what}{of}" for of in whose for what in ("mean confidence", "right")]
    figures = _figures(table("Reliability", ["confidence", *headings, "pixels"], rows))
    summary = "".join(
        f'<p class="big-figure"><b>{percent(c.expected_calibration_error)}</b> % expected '
        f"calibration error (ECE)<small>{escaped(m.name)}: mean confidence "
        f"{percent(float(c.confidence_sums.sum() / c.pixels.sum()))} % where "
        f"{percent(float(c.right.sum() / c.pixels.sum()))} % of the pixels are right</small></p>"
        for m, c in zip(known, counts, strict=True)
    )
    return section(
        "confidence",
        "Confidence",
        "Of the pixels mapped with a confidence of 80 %, are 80 % right? Above the diagonal a map "
        "is better than it says, below it is worse.",
        f'<div class="with-chart"><div>{summary}{figures}</div>{chart}</div>',
    )


def _bin_cells(confidence: float, accuracy: float) -> list[Cell]:
    return [percent_cell(float(confidence)), percent_cell(float(accuracy))]


def areas_section(maps: Sequence[EvaluatedMap]) -> str:
    """Return the area of each class, corrected for the map's errors."""
    if not all(one.report.areas for one in maps):  # patches have none
        return ""
    return section(
        "areas",
        "Areas",
        "Adding up a map's pixels is biased wherever one class is taken for another more often "
        "than the reverse. These areas are adjusted for that with the confusion matrix (Olofsson "
        "et al. 2014). Their formula takes pixels as independent, which neighbours are not: its "
        "± is a lower bound, and the interval over blocks is the one to report.",
        *(_area_table(one, named=len(maps) > 1) for one in maps),
    )


def _area_table(one: EvaluatedMap, *, named: bool) -> str:
    report, metres = one.report, one.report.mapped_square_metres
    rows = []
    for index, (area, blocks) in enumerate(zip(report.areas, report.area_intervals, strict=True)):
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
    known = metres is not None
    headings = [
        "class",
        "mapped %",
        *(["mapped area"] if known else []),
        "adjusted %",
        "95 % over blocks",
        *(["adjusted area"] if known else []),
        "user's accuracy",
        "producer's accuracy",
    ]
    title = f"Areas of {one.name}" if named else "Areas"
    extent = "" if metres is None else f", {area_text(metres)} mapped"
    return table(title + extent, headings, rows, sortable=True)


def _area_cell(share: float, metres: float) -> Cell:
    shown = NONE if math.isnan(share) else area_text(share * metres)
    return Cell(escaped(shown), share, "number")


def _figures(shown: str) -> str:
    return f'<div class="figures">{shown}</div>'
