"""HTML from text: everything that comes from files or data sets is escaped here."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hrrsi.evaluation.block_bootstrap import Difference, Interval

NONE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
NUMBER = ' class="number"'
_BREAKS = re.compile(r"(?<=[/_])(?=.)|(?<=.)(?=\.)")


def escaped(value: object) -> str:
    """Return text as HTML shows it, in an element or in a quoted attribute."""
    # names of files may hold bytes that are no text, which UTF-8 can't write
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    return html.escape(text, quote=True)


def breakable(name: str) -> str:
    """Return a name, escaped, that lines may break within where words of it end."""
    return _BREAKS.sub("<wbr>", escaped(name))


def script_json(value: object) -> str:
    """Return plain data as JSON that can't end the script element that it stands in."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        html: What it shows.
        order: What it is sorted by: a number (NaN last), or text.
        classes: Of the element.
    """

    html: str
    order: float | str
    classes: str = ""


def name_cell(name: str, class_index: int | None = None) -> Cell:
    """Return a cell with a name, after the colour of a class."""
    mark = "" if class_index is None else swatch(class_index)
    return Cell(mark + breakable(name), name)


def swatch(class_index: int) -> str:
    """Return the colour of a class as a small square."""
    return f'<span class="swatch class-{class_index}" aria-hidden="true"></span>'


def percent_cell(value: float, interval: Interval | None = None, *, bar: bool = False) -> Cell:
    """Return a cell with a share in percent, its interval below, maybe on a bar of its length."""
    shown = percent(value)
    if interval is not None:
        shown += f'<small class="interval">{interval_text(interval)}</small>'
    if bar and not math.isnan(value):
        width = round(100 * max(0.0, min(1.0, value)), 1)
        shown += (
            '<svg class="bar" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect class="track" width="100" height="4"/><rect width="{width}" height="4"/></svg>'
        )
    return Cell(shown, value, "number")


def plus_minus_cell(value: float, half_width: float) -> Cell:
    """Return a cell with a share in percent, and half its interval below."""
    half = "" if math.isnan(half_width) else f"<small>± {percent(half_width)}</small>"
    return Cell(percent(value) + half, value, "number")


def points_cell(difference: Difference) -> Cell:
    """Return a cell with a difference in percentage points, its interval and its p below."""
    value = difference.interval.value
    shown = points(value)
    shown += f'<small class="interval">{points_interval_text(difference.interval)}</small>'
    shown += f'<small class="interval">{p_text(difference.p)}</small>'
    marked = "unsure" if not difference.is_significant else "up" if value > 0 else "down"
    return Cell(shown, value, f"number {marked}")


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


def lettered(names: Sequence[str], number: int) -> str:
    """Return the name of a map, after its letter where there are two.

    Args:
        names: Of all maps.
        number: Which of them.
    """
    letter = f'<span class="letter">{"AB"[number]}</span>' if len(names) > 1 else ""
    return letter + breakable(names[number])


def table(
    caption: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    sortable: bool = False,
    marked: int | None = None,
) -> str:
    """Return a table that scrolls sideways where it is wider than the window.

    Args:
        caption: What it shows, as plain text.
        headings: Of the columns, as plain text; the first column names the rows.
        rows: As many cells each.
        sortable: Whether clicks on headings sort it.
        marked: Index of a row that stands out.
    """
    first = rows[0] if rows else ()
    numbers = {i for i, cell in enumerate(first) if "number" in cell.classes.split()}
    head = "".join(
        f'<th scope="col"{NUMBER if index in numbers else ""}>{escaped(heading)}</th>'
        for index, heading in enumerate(headings)
    )
    body = "".join(_row(cells, marked=index == marked) for index, cells in enumerate(rows))
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="scroller" role="region" tabindex="0" aria-label="{escaped(caption)}">'
        f"<table{kind}><caption><span>{escaped(caption)}</span></caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(cells: Sequence[Cell], *, marked: bool) -> str:
    first, *others = cells
    found = f'<th scope="row" data-order="{escaped(first.order)}">{first.html}</th>'
    for cell in others:
        kind = f' class="{cell.classes}"' if cell.classes else ""
        found += f'<td{kind} data-order="{escaped(cell.order)}">{cell.html}</td>'
    return f'<tr class="marked">{found}</tr>' if marked else f"<tr>{found}</tr>"


def section(anchor: str, title: str, lead: str, *content: str) -> str:
    """Return a section of the page.

    Args:
        anchor: Its id.
        title: Its heading, as plain text.
        lead: What it is about, as plain text.
        content: HTML.
    """
    opening = f'<p class="lead">{escaped(lead)}</p>' if lead else ""
    return (
        f'<section id="{anchor}" aria-labelledby="{anchor}-title">'
        f'<h2 id="{anchor}-title">{escaped(title)}</h2>{opening}{"".join(content)}</section>'
    )
