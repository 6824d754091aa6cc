"""Figures of the page: how numbers are written, and tables of them. Templates draw them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hrrsi.evaluation.intervals import Difference, Interval

NONE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
LETTERS = "AB"


@dataclass(frozen=True)
class Note:
    """A small figure below another.

    Attributes:
        text: What it says.
        kind: Class of the element, if any.
    """

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it shows.
        order: What it is sorted by: a number (NaN last), or text.
        classes: Of the element.
        notes: Small figures below.
        bar: Length of a bar below, 0 to 100, or None.
        class_index: The class whose colour stands before the text, or None.
        is_name: Whether lines may break within the text where words of it end.
        lead: Words before all that.
    """

    text: str
    order: float | str
    classes: str = ""
    notes: tuple[Note, ...] = ()
    bar: float | None = None
    class_index: int | None = None
    is_name: bool = False
    lead: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: What it shows.
        headings: Of the columns; the first column names the rows.
        rows: As many cells each.
        is_sortable: Whether clicks on headings sort it.
        marked: Index of a row that stands out, or None.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    is_sortable: bool = False
    marked: int | None = None

    @property
    def number_columns(self) -> set[int]:
        """Indices of the columns that hold numbers."""
        first = self.rows[0] if self.rows else ()
        return {i for i, cell in enumerate(first) if "number" in cell.classes.split()}


def name_cell(name: str, class_index: int | None = None, lead: str = "") -> Cell:
    """Return a cell with a name, after the colour of a class."""
    return Cell(name, name, class_index=class_index, is_name=True, lead=lead)


def percent_cell(value: float, interval: Interval | None = None, *, bar: bool = False) -> Cell:
    """Return a cell with a share in percent, its interval below, maybe on a bar of its length."""
    return Cell(
        percent(value),
        value,
        "number",
        () if interval is None else (Note(interval_text(interval), "interval"),),
        round(100 * max(0.0, min(1.0, value)), 1) if bar and not math.isnan(value) else None,
    )


def plus_minus_cell(value: float, half_width: float) -> Cell:
    """Return a cell with a share in percent, and half its interval below."""
    notes = () if math.isnan(half_width) else (Note(f"± {percent(half_width)}"),)
    return Cell(percent(value), value, "number", notes)


def points_cell(difference: Difference) -> Cell:
    """Return a cell with a difference in percentage points, its interval and its p below."""
    value = difference.interval.value
    marked = "unsure" if not difference.is_significant else "up" if value > 0 else "down"
    texts = points_interval_text(difference.interval), p_text(difference.p)
    notes = tuple(Note(text, "interval") for text in texts)
    return Cell(points(value), value, f"number {marked}", notes)


def count_cell(value: float) -> Cell:
    """Return a cell with a whole number."""
    return Cell(f"{value:,.0f}", value, "number")


def percent(value: float) -> str:
    """Return a share in percent with two decimals, without the sign."""
    return NONE if math.isnan(value) else f"{100 * value:.2f}".replace("-", MINUS)


def points(value: float) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    return NONE if math.isnan(value) else f"{100 * value:+.2f}".replace("-", MINUS)


def interval_text(interval: Interval) -> str:
    """Return the ends of an interval of a share, in percent."""
    if math.isnan(interval.low):
        return "no interval"
    return f"{percent(interval.low)} to {percent(interval.high)}"


def points_interval_text(interval: Interval) -> str:
    """Return the ends of an interval of a difference, in percentage points."""
    if math.isnan(interval.low):
        return "no interval"
    return f"{points(interval.low)} to {points(interval.high)}"


def p_text(p: float) -> str:
    """Return a p value as it is printed in articles."""
    if math.isnan(p):
        return "p undefined"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
