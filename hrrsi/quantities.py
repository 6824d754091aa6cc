"""Figures with units, lists and tables, as people read them."""

from __future__ import annotations

import html
import io
from collections.abc import Container, Iterable, Sequence


def area_text(square_metres: float) -> str:
    """Return an area in hectares, or in square metres below one hectare."""
    if square_metres >= 10_000:
        return f"{square_metres / 10_000:,.2f} ha"
    return f"{square_metres:,.0f} m²"


def length_text(metres: float) -> str:
    """Return a ground sampling distance, in centimetres below a metre."""
    return f"{metres * 100:.3g} cm" if metres < 1 else f"{metres:.3g} m"


def byte_text(count: int) -> str:
    """Return a number of bytes in gigabytes, in megabytes below one."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def time_text(seconds: float) -> str:
    """Return a time in seconds, from two minutes on in minutes, from two hours on in hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def counted(number: int, noun: str) -> str:
    """Return a number of things, e.g. ``1 epoch`` or ``2,000 steps``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def share_text(share: float | None) -> str:
    """Return a share (0 to 1) in percent, or a dash where it is not defined."""
    return "-" if share is None or share != share else f"{share:.2%}"


def names_text(names: Sequence[str], most: int = 8) -> str:
    """Return the first of some names, and dots where there are more than `most`."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def counted_names(names: Sequence[str], most: int = 8) -> str:
    """Return the first of some names, and how many more than `most` there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


class TextTable:
    """A table of text: names at the left of their columns, figures at the right.

    ``str`` of it is the table in lines of characters.

    Args:
        headings: What each column holds, in a line or several.
        left: Numbers of the columns that hold names; the others hold figures.
        widest: Characters after which the last column goes on in another line; None: it never does.
    """

    def __init__(
        self, headings: Sequence[str], *, left: Container[int] = (0,), widest: int | None = None
    ) -> None:
        self._headings = headings
        self._left = left
        self._widest = widest
        self._rows: list[list[str]] = []
        self._dividers: set[int] = set()

    def add_row(self, cells: Iterable[object]) -> None:
        """Add a row below the others."""
        self._rows.append([str(cell) for cell in cells])

    def add_divider(self) -> None:
        """Draw a line between the rows so far and those that follow."""
        self._dividers.add(len(self._rows))

    def __str__(self) -> str:
        return "\n".join(self._lines(self._headings))

    def markdown(self) -> str:
        """Return the table in Markdown, each of its headings in a line."""
        border, *lines = self._lines([" ".join(text.split("\n")) for text in self._headings])
        rules = border.strip("+").split("+")
        for number, rule in enumerate(rules):
            rules[number] = f" :{rule[2:]}" if number in self._left else f"{rule[:-2]}: "
        heading, *rows = (line for line in lines if line.startswith("|"))
        return "\n".join([heading, f"|{'|'.join(rules)}|", *rows])

    def html(self) -> str:
        """Return the table in HTML."""
        rows = [_html_row("th", self._headings), *(_html_row("td", row) for row in self._rows)]
        return f"<table>{''.join(rows)}</table>"

    def _lines(self, headings: Sequence[str]) -> list[str]:
        # takes longer to import than most of what is printed
        from rich.box import ASCII2
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=ASCII2, show_header=False)  # whose lines would end at the bottom
        for number in range(len(headings)):
            table.add_column(
                justify="left" if number in self._left else "right",
                max_width=self._widest if number == len(headings) - 1 else None,
                overflow="fold",
            )
        for number, cells in enumerate([headings, *self._rows]):
            table.add_row(*map(Text, cells), end_section=number in {0, *self._dividers})
        text = io.StringIO()
        # no terminal's width, colours or notebook count: it is text, wherever it goes
        console = Console(file=text, width=10_000, color_system=None, force_jupyter=False)
        console.print(table)
        return text.getvalue().splitlines()


def _html_row(tag: str, cells: Sequence[str]) -> str:
    texts = (f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
    return f"<tr>{''.join(texts)}</tr>"
