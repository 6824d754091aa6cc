"""A comparison of two maps as a table for a terminal."""

from __future__ import annotations

import textwrap

import numpy as np
from prettytable import PrettyTable

from hrrsi.evaluation.block_bootstrap import RESAMPLES, Difference, Interval
from hrrsi.evaluation.comparison import Comparison
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
    verdict = _verdict(comparison.differences["mIoU"])
    lines = [
        f"A: {first.source.sentence}.",
        f"B: {second.source.sentence}.",
        f"Protocol {first.protocol.name!r}: {first.sentence}; and B alike.",
        f"Scenes: {', '.join(first.evaluation.scenes)}.",
        "In percent. 95 %: bootstrap over the same blocks of "
        f"{first.evaluation.counts.scenes[0].matrices[first.evaluation.labels].block} px for "
        "both. p: how often maps that are swapped within random blocks differ by as much "
        f"(at least {1 / (RESAMPLES + 1):.4f}).",
    ]
    if comparison.unequal_pixels:
        lines.append(
            f"{comparison.unequal_pixels:,} pixels more have a prediction in one than in the other."
        )
    wrapped = [
        textwrap.fill(
            line, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        for line in lines
    ]
    return "\n".join([table.get_string(), verdict, "", *wrapped])


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


def _verdict(found: Difference) -> str:
    """Return in words whether the mIoU tells the two maps apart."""
    value, p = found.interval.value, found.p
    if np.isnan(value) or np.isnan(found.interval.low):
        return "There are too few blocks to tell A and B apart."
    if found.interval.low <= 0 <= found.interval.high:
        return f"By mIoU, A and B can't be told apart on these scenes (p = {p:.4f})."
    better = "B" if value > 0 else "A"
    return f"By mIoU, {better} is better on these scenes (p = {p:.4f})."
