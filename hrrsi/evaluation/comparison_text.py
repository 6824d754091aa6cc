"""A comparison of two maps as a table for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import numpy as np
from prettytable import PrettyTable

from hrrsi.evaluation.block_bootstrap import RESAMPLES, Difference, Interval
from hrrsi.evaluation.comparison import Comparison
from hrrsi.evaluation.grid import clutter_words
from hrrsi.evaluation.report_text import percent

_WIDTH = 98


def comparison_text(comparison: Comparison) -> str:
    """Return the scores of both maps, and how sure their differences are.

    Args:
        comparison: Two evaluations under one protocol.
    """
    first, second = comparison.first, comparison.second
    table = PrettyTable(["score", "A", "B", "B - A", "95 %", "p"])
    table.align = "r"
    table.align["score"] = "l"
    scores = (first.intervals, second.intervals, comparison.differences)
    boundaries = (
        first.boundary_intervals,
        second.boundary_intervals,
        comparison.boundary_differences,
    )
    for kind, (of_first, of_second, differences) in (("", scores), ("boundary ", boundaries)):
        for name, found in differences.items():
            table.add_row(_row(kind + name, of_first[name], of_second[name], found))
    lines = [
        f"A: {first.source.sentence}.",
        f"B: {second.source.sentence}.",
        *_protocol_lines(comparison),
        f"Scenes: {', '.join(first.evaluation.scenes)}.",
        f"In percent. 95 %: bootstrap over the same {first.blocks_text} for both. p: how often "
        "maps that are swapped within random blocks differ by as much (at least "
        f"{1 / (RESAMPLES + 1):.4f}).",
    ]
    lines += filter(None, [comparison.unequal_pixels])
    wrapped = [
        textwrap.fill(
            line, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        for line in lines
    ]
    return "\n".join(
        [table.get_string(), comparison.verdict, *_grid_table(comparison), "", *wrapped]
    )


def _protocol_lines(comparison: Comparison) -> Iterator[str]:
    """Yield what both maps are scored under, of each alone where they were read differently."""
    reports = {"A": comparison.first, "B": comparison.second}
    name = comparison.first.protocol.name
    sentences = {letter: report.shared_sentence for letter, report in reports.items()}
    if len(set(sentences.values())) == 1:
        yield f"Protocol {name!r}, of both: {sentences['A']}."
    else:
        yield from (f"Protocol {name!r}, of {one}: {said}." for one, said in sentences.items())


def _grid_table(comparison: Comparison) -> Iterator[str]:
    """Yield both maps' scores of all scenes under every protocol, where there are several."""
    pairs = [
        (one, other)
        for one, other in zip(comparison.first.grid, comparison.second.grid, strict=True)
        if one.scene is None
    ]
    if len(pairs) < 2:
        return
    yield "\nThe same under other protocols:"
    table = PrettyTable(["labels", "clutter", "augmentation", "", "OA", "mF1", "mIoU"])
    table.align = "r"
    table.align["labels"] = table.align[""] = "l"
    clutter = clutter_words([one for one, _ in pairs])
    for (one, other), word in zip(pairs, clutter, strict=True):
        of = [(s.overall_accuracy, s.mean_f1, s.mean_iou) for s in (one.scores, other.scores)]
        named = [one.protocol.labels, word, one.augmentation]
        table.add_row([*named, "A", *map(percent, of[0])])
        table.add_row(["", "", "", "B", *map(percent, of[1])])
        apart = [b - a for a, b in zip(*of, strict=True)]
        signed = ["-" if np.isnan(d) else f"{100 * d:+.2f}" for d in apart]
        table.add_row(["", "", "", "B - A", *signed], divider=True)
    yield table.get_string()


def _row(name: str, first: Interval, second: Interval, found: Difference) -> list[str]:
    interval = found.interval
    if np.isnan(interval.value):
        return [name, percent(first.value), percent(second.value), "-", "-", "-"]
    ends = "-"
    if not np.isnan(interval.low):
        ends = f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f}"
    return [
        name,
        percent(first.value),
        percent(second.value),
        f"{100 * interval.value:+.2f}",
        ends,
        f"{found.p:.4f}",
    ]
