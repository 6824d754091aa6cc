"""An evaluation, or a comparison of two, as tables and sentences for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator

import numpy as np

from hrrsi.evaluation.boundary_scores import FARTHEST
from hrrsi.evaluation.intervals import (
    FEWEST_BLOCKS,
    RESAMPLES,
    Difference,
    Interval,
)
from hrrsi.evaluation.result import Comparison, EvaluationResult
from hrrsi.quantities import TextTable, area_text
from hrrsi.report.sentences import (
    blocks_text,
    ends_text,
    left_out_warning,
    mean_words,
    partial_text,
    printable,
    scenes_text,
    sentence,
    shared_sentence,
    source_sentence,
    unequal_pixels_text,
    unscored_text,
    verdict,
)

_WIDTH = 98
# of distances to the nearest border, in px: first and last of each column
_DISTANCES = ((0, 0), (1, 2), (3, 5), (6, 10), (11, 20), (21, 31), (FARTHEST, FARTHEST))


def outcome_text(
    outcome: EvaluationResult | Comparison, wording: Callable[[str], str] = str
) -> str:
    """Return an evaluation or a comparison as tables, question marks for what is no text.

    Args:
        outcome: Either of them.
        wording: As for `hrrsi.report.sentences.verdict`.
    """
    if isinstance(outcome, Comparison):
        return printable(comparison_text(outcome, wording))
    return printable(evaluation_text(outcome))


def evaluation_text(result: EvaluationResult) -> str:
    """Return tables of scores, and the protocol that they were taken under."""
    parts = [
        _wrapped(f"Protocol {result.protocol.name!r}: {sentence(result)}."),
        *_class_tables(result),
        *_grid_table(result),
        *_boundary_tables(result),
        *_area_table(result),
        *_calibration_line(result),
        *_notes(result),
    ]
    return "\n".join(parts)


def comparison_text(comparison: Comparison, wording: Callable[[str], str] = str) -> str:
    """Return the scores of both maps, and how sure their differences are.

    Args:
        comparison: Two evaluations under one protocol.
        wording: As for `hrrsi.report.sentences.verdict`.
    """
    first, second = comparison.first, comparison.second
    table = TextTable(["score", "A", "B", "B - A", "95 %", "p"])
    scores = (first.intervals, second.intervals, comparison.differences)
    boundaries = (
        first.boundary_intervals,
        second.boundary_intervals,
        comparison.boundary_differences,
    )
    for kind, (of_first, of_second, differences) in (("", scores), ("boundary ", boundaries)):
        for name, difference in differences.items():
            table.add_row(_row(kind + name, of_first[name], of_second[name], difference))
    lines = [
        f"A: {source_sentence(first.source)}.",
        f"B: {source_sentence(second.source)}.",
        f"Scenes: {', '.join(first.evaluation.scenes)}.",
        f"In percent. 95 %: bootstrap over the same {blocks_text(first)} for both. p: how often "
        "maps that are swapped within random blocks differ by as much (at least "
        f"{1 / (RESAMPLES + 1):.4f}).",
    ]
    if scenes_text(comparison):
        lines.append(f"Beware of the differences' intervals: {scenes_text(comparison)}.")
    lines += filter(None, [unequal_pixels_text(comparison)])
    return "\n".join(
        [
            *map(_wrapped, _protocol_lines(comparison)),
            str(table),
            verdict(comparison, wording),
            *_comparison_grid_table(comparison),
            "",
            *map(_wrapped, lines),
        ]
    )


def percent(value: float) -> str:
    """Return a share (0 to 1) in percent without the sign, or a dash where it is undefined."""
    return "-" if np.isnan(value) else f"{100 * value:.2f}"


def _class_tables(result: EvaluationResult) -> Iterator[str]:
    scores, intervals = result.scores, result.intervals
    classes = TextTable(["class", "precision", "recall", "F1", "IoU", "95 %", "pixels"])
    for c in scores.classes:
        shares = [percent(v) for v in (c.precision, c.recall, c.f1, c.iou)]
        interval = ends_text(intervals.get(f"IoU {c.name}"))
        classes.add_row([c.name, *shares, interval, f"{c.pixels:,}"])
    yield str(classes)
    overall = TextTable(["", *scores.overall, "pixels"])
    overall.add_row(["score", *map(percent, scores.overall.values()), f"{scores.pixels:,}"])
    ends = [ends_text(intervals[name]) for name in scores.overall]
    overall.add_row(["95 %", *ends, ""])
    yield str(overall)
    if left_out_warning(result):
        yield left_out_warning(result)


def _grid_table(result: EvaluationResult) -> Iterator[str]:
    rows = [row for row in result.grid if row.scene is None]
    if len(rows) < 2:
        return
    yield "\nThe same under every protocol:"
    table = TextTable(["protocol", "labels", "augmentation", *rows[0].scores.overall])
    for row in rows:
        scores = map(percent, row.scores.overall.values())
        table.add_row([row.protocol.name, row.protocol.labels, row.augmentation, *scores])
    yield str(table)


def _boundary_tables(result: EvaluationResult) -> Iterator[str]:
    if not result.boundaries:
        return
    yield "\nBoundaries (full labels): boundary F1 and boundary IoU within 1, 3 and 5 px:"
    names = [f"{kind} {at.tolerance} px" for at in result.boundaries for kind in ("F1", "IoU")]
    table = TextTable(["class", *names])
    for index, name in enumerate(result.matrix.classes):
        classes = [at.classes[index] for at in result.boundaries]
        table.add_row([name, *(percent(v) for c in classes for v in (c.f1, c.iou))])
    means = [percent(v) for at in result.boundaries for v in (at.mean_f1, at.mean_iou)]
    table.add_row([mean_words(result), *means])
    kinds = [f"{kind} at {at.tolerance} px" for at in result.boundaries for kind in ("F1", "IoU")]
    table.add_row(["95 % of it", *(ends_text(result.boundary_intervals[name]) for name in kinds)])
    yield str(table)
    counts = result.evaluation.counts.border_distances
    table = TextTable(["px from the nearest border", *map(_distance_text, _DISTANCES)])
    accuracies = [counts.accuracy_between(first, last) for first, last in _DISTANCES]
    table.add_row(["OA (every class)", *map(percent, accuracies)])
    pixels = [int(counts.pixels[first : last + 1].sum()) for first, last in _DISTANCES]
    total = sum(pixels)
    table.add_row(["share of pixels", *(percent(p / total) if total else "-" for p in pixels)])
    yield str(table)


def _area_table(result: EvaluationResult) -> Iterator[str]:
    if not result.areas:
        return
    metres = result.mapped_square_metres
    unit = "in percent of the map" if metres is None else f"of {area_text(metres)} mapped"
    if result.evaluation.unit == "maps":
        unit += " where the labels' rasters lie"
    unit += f" ({result.evaluation.labels} labels)"
    yield f"\nAreas {unit}, adjusted for the map's errors (Olofsson et al. 2014):"
    table = TextTable(["class", "mapped", "adjusted", "95 % (blocks)", "user's", "producer's"])
    for area, blocks in zip(result.areas, result.area_intervals, strict=True):
        if metres is None:
            mapped, adjusted, ends = (
                percent(area.mapped),
                percent(area.estimated),
                ends_text(blocks),
            )
        else:
            mapped, adjusted, low, high = (
                "-" if np.isnan(share) else area_text(share * metres)
                for share in (area.mapped, area.estimated, blocks.low, blocks.high)
            )
            ends = "-" if np.isnan(blocks.low) else f"{low} to {high}"
        accuracies = (percent(area.users_accuracy), percent(area.producers_accuracy))
        table.add_row([area.name, mapped, adjusted, ends, *accuracies])
    yield str(table)


def _calibration_line(result: EvaluationResult) -> Iterator[str]:
    e = result.evaluation
    counts = e.counts.reliability
    if not counts.pixels.any():
        return
    yield (
        f"\nCalibration ({e.labels} labels): ECE {percent(counts.expected_calibration_error)}; "
        f"mean confidence {percent(counts.mean_confidence)} where {percent(counts.share_right)} "
        "of the pixels (of every class) are right."
    )


def _notes(result: EvaluationResult) -> Iterator[str]:
    e = result.evaluation
    seen, partial, scenes = ", ".join(e.seen_in_training), partial_text(result), scenes_text(result)
    lines = [
        f"Scenes: {', '.join(e.scenes)}.",
        f"Made by: {source_sentence(result.source)}.",
        *([f"The weights were trained on {seen}: these scores flatter them."] if seen else []),
        f"Not scored: {unscored_text(result)}.",
        *([f"Partial labels: {partial}."] if partial else []),
        "In percent; - where a class is in neither truth nor prediction (left out of means), or "
        f"where there is nothing to divide by. 95 %: bootstrap over {blocks_text(result)}; - of "
        f"what fewer than {FEWEST_BLOCKS} blocks hold.",
        *([f"Beware of these intervals: {scenes}."] if scenes else []),
    ]
    yield ""
    yield from map(_wrapped, lines)


def _wrapped(line: str) -> str:
    return textwrap.fill(
        line, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _distance_text(ends: tuple[int, int]) -> str:
    first, last = ends
    if first == FARTHEST:
        return f"{first} and more"
    return str(first) if first == last else f"{first} to {last}"


def _protocol_lines(comparison: Comparison) -> Iterator[str]:
    """Yield what both maps are scored under, of each alone where they were read differently."""
    results = {"A": comparison.first, "B": comparison.second}
    name = comparison.first.protocol.name
    sentences = {letter: shared_sentence(result) for letter, result in results.items()}
    if len(set(sentences.values())) == 1:
        yield f"Protocol {name!r}, of both: {sentences['A']}."
    else:
        yield from (
            f"Protocol {name!r}, of {letter}: {sentence_of}."
            for letter, sentence_of in sentences.items()
        )


def _comparison_grid_table(comparison: Comparison) -> Iterator[str]:
    """Yield both maps' scores of all scenes under every protocol, where there are several."""
    pairs = [
        (first, second)
        for first, second in zip(comparison.first.grid, comparison.second.grid, strict=True)
        if first.scene is None
    ]
    if len(pairs) < 2:
        return
    yield "\nThe same under every protocol:"
    headings = ["protocol", "labels", "augmentation", "", "OA", "mF1", "mIoU"]
    table = TextTable(headings, left=(0, 3))
    for first, second in pairs:
        a, b = ((s.overall_accuracy, s.mean_f1, s.mean_iou) for s in (first.scores, second.scores))
        protocol = first.protocol
        table.add_row([protocol.name, protocol.labels, first.augmentation, "A", *map(percent, a)])
        table.add_row(["", "", "", "B", *map(percent, b)])
        differences = [_signed(of_b - of_a) for of_a, of_b in zip(a, b, strict=True)]
        table.add_row(["", "", "", "B - A", *differences])
        table.add_divider()
    yield str(table)


def _row(name: str, first: Interval, second: Interval, difference: Difference) -> list[str]:
    interval, values = difference.interval, [percent(first.value), percent(second.value)]
    if np.isnan(interval.value):
        return [name, *values, "-", "-", "-"]
    ends = "-"
    if not np.isnan(interval.low):
        ends = f"{_signed(interval.low)} to {_signed(interval.high)}"
    return [name, *values, _signed(interval.value), ends, f"{difference.p:.4f}"]


def _signed(difference: float) -> str:
    """Return a difference of shares in percentage points, or a dash where it is undefined."""
    return "-" if np.isnan(difference) else f"{100 * difference:+.2f}"
