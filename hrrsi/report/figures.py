"""Figures of the page: how numbers are written, tables, and charts with a text alternative each.

Templates draw them; a confusion matrix is also a picture of its own.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hrrsi.evaluation.intervals import Difference, Interval
from hrrsi.evaluation.result import EvaluationResult
from hrrsi.extras import requiring
from hrrsi.files import replacing
from hrrsi.report.sentences import sentence

NONE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
LETTERS = "AB"
_WIDTH, _HEIGHT = 440, 290  # of a chart
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 46  # around its lines
_CELL_INCHES = 1.05
Point = tuple[float, float]


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


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        label: What it shows, with its unit.
        low: Value at its beginning.
        high: Value at its end.
        ticks: Values and their texts.
    """

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        name: For the legend.
        points: x and y; a gap where y is NaN.
        dots: Whether points are marked.
    """

    name: str
    points: Sequence[Point]
    dots: bool = True


@dataclass(frozen=True)
class Bar:
    """A bar behind the lines, in the chart's units, as text."""

    x: str
    y: str
    width: str
    height: str


@dataclass(frozen=True)
class Tick:
    """A tick of an axis: where it is, where its text is, in the chart's units, and the text."""

    at: str
    text_at: str
    text: str


@dataclass(frozen=True)
class Line:
    """A line: its name, its path as SVG writes it, and where its points are marked."""

    name: str
    path: str
    dots: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Chart:
    """A chart with lines, ready to be drawn.

    Attributes:
        anchor: Beginning of the ids in it.
        title: Its caption.
        description: What one sees, for those who don't.
        x_label: What the horizontal axis shows.
        y_label: What the vertical axis shows.
        x_ticks: Of the horizontal axis.
        y_ticks: Of the vertical axis.
        lines: The lines.
        bars: Behind them.
        diagonal: Ends of where y equals x: x, y, x, y; empty where it isn't drawn.
    """

    anchor: str
    title: str
    description: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    bars: tuple[Bar, ...] = ()
    diagonal: tuple[str, ...] = ()

    width, height = _WIDTH, _HEIGHT
    left, right = _LEFT, _WIDTH - _RIGHT
    top, bottom = _TOP, _HEIGHT - _BOTTOM


def line_chart(
    words: tuple[str, str, str],
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    *,
    bars: Sequence[tuple[float, float, float]] = (),
    has_diagonal: bool = False,
) -> Chart:
    """Return a chart with lines.

    Args:
        words: Beginning of the ids in it, its caption, and what one sees, for those who don't.
        x: The horizontal axis.
        y: The vertical axis.
        series: The lines.
        bars: Start and end on `x` and a share (0 to 1) of the chart's height, behind the lines.
        has_diagonal: Whether to draw where y equals x.
    """
    across = _scaled(x, Chart.left, Chart.right)
    up = _scaled(y, Chart.bottom, Chart.top)
    tall = Chart.bottom - Chart.top
    corners = across(x.low), up(x.low), across(x.high), up(x.high)
    return Chart(
        *words,
        x.label,
        y.label,
        tuple(Tick(f"{across(v):.1f}", str(Chart.bottom + 18), text) for v, text in x.ticks),
        tuple(Tick(f"{up(v):.1f}", f"{up(v) + 4:.1f}", text) for v, text in y.ticks),
        tuple(_line(line, across, up) for line in series),
        tuple(
            Bar(
                f"{across(start):.1f}",
                f"{Chart.bottom - share * tall:.1f}",
                f"{max(across(end) - across(start) - 1, 0.5):.1f}",
                f"{share * tall:.1f}",
            )
            for start, end, share in bars
        ),
        tuple(f"{value:.1f}" for value in corners) if has_diagonal else (),
    )


def percent_axis(label: str, low: float = 0.0) -> Axis:
    """Return an axis of shares from `low` to 1, in percent."""
    step = 0.2 if low < 0.5 else 0.1
    first = math.ceil(low / step - 1e-9)
    values = [k * step for k in range(first, round(1 / step) + 1)]
    return Axis(label, low, 1.0, [(value, f"{100 * value:.0f}") for value in values])


def even_axis(label: str, low: float, high: float, count: int = 5) -> Axis:
    """Return an axis with about `count` round ticks."""
    rough = max(high - low, 1e-12) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    ticks = [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]
    return Axis(label, low, high, [(value, f"{value:g}") for value in ticks])


def _scaled(axis: Axis, start: float, end: float) -> Callable[[float], float]:
    span = axis.high - axis.low or 1.0
    return lambda value: start + (value - axis.low) / span * (end - start)


def _line(line: Series, across: Callable[[float], float], up: Callable[[float], float]) -> Line:
    path, starts, dots = "", True, []
    for x, y in line.points:
        if math.isnan(y):
            starts = True
            continue
        place = f"{across(x):.1f}", f"{up(y):.1f}"
        path += f"{'M' if starts else 'L'}{place[0]} {place[1]}"
        starts = False
        dots.append(place)
    return Line(line.name, path, tuple(dots) if line.dots else ())


def write_confusion_plot(result: EvaluationResult, path: Path) -> None:
    """Draw a confusion matrix as a heat map: each cell's pixels, and its share of the true class.

    Args:
        result: Every class is shown, whatever the protocol drops from scores; the protocol stands
            below.
        path: A picture whose suffix matplotlib knows, e.g. ``.png``; replaced where it exists.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    with requiring("plots", "a picture of the confusion matrix"):
        from matplotlib.figure import Figure

    matrix = result.matrix
    caption = f"Protocol {result.protocol.name!r}: {sentence(result)}."
    names = [textwrap.fill(name, 14) for name in matrix.classes]
    size = len(names)
    totals = matrix.counts.sum(axis=0)
    shares = 100 * matrix.counts / np.maximum(totals, 1)
    side = max(4.0, _CELL_INCHES * size)
    text = textwrap.fill(caption, int(14 * (side + 2.5)))
    figure = Figure(
        figsize=(side + 2.5, side + 1.6 + 0.17 * text.count("\n")), layout="constrained"
    )
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row in range(size):
        for col in range(size):
            share = f"{shares[row, col]:.1f} %" if totals[col] else "-"
            axes.text(
                col,
                row,
                f"{share}\n{_short(int(matrix.counts[row, col]))}",
                ha="center",
                va="center",
                fontsize=9,
                fontweight="bold" if row == col else "normal",
                color="white" if shares[row, col] > 55 else "black",
            )
    axes.set_xticks(range(size), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), names)
    axes.set(xlabel="true class", ylabel="predicted class")
    axes.set_title("Confusion matrix: share of the true class, and pixels", fontsize=11)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("share of the true class' pixels, in percent")
    figure.supxlabel(text, fontsize=8, x=0.02, ha="left")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _short(pixels: int) -> str:
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if pixels >= unit:
            return f"{pixels / unit:.1f} {name}"
    return str(pixels)
