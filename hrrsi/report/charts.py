"""Charts as inline SVG, each with its text alternative; and a confusion matrix as a picture."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hrrsi.evaluation.result import EvaluationResult
from hrrsi.extras import requiring
from hrrsi.files import replacing
from hrrsi.report.markup import escaped
from hrrsi.report.sentences import sentence

_WIDTH, _HEIGHT = 440, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 46
_CELL_INCHES = 1.05
Point = tuple[float, float]


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


def line_chart(
    anchor: str,
    title: str,
    description: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    *,
    bars: Sequence[tuple[float, float, float]] = (),
    diagonal: bool = False,
) -> str:
    """Return a figure with lines, and a legend where there are several.

    Args:
        anchor: Beginning of the ids in it.
        title: Its caption.
        description: What one sees, for those who don't.
        x: The horizontal axis.
        y: The vertical axis.
        series: The lines.
        bars: Start and end on `x` and a share (0 to 1) of the chart's height, behind the lines.
        diagonal: Whether to draw where y equals x.
    """
    across = _scaled(x, _LEFT, _WIDTH - _RIGHT)
    up = _scaled(y, _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<rect class="histogram" x="{across(a):.1f}" y="{bottom - share * tall:.1f}" '
        f'width="{max(across(b) - across(a) - 1, 0.5):.1f}" height="{share * tall:.1f}"/>'
        for bottom, tall in [(_HEIGHT - _BOTTOM, _HEIGHT - _BOTTOM - _TOP)]
        for a, b, share in bars
    ]
    parts += [_tick_y(up(value), text) for value, text in y.ticks]
    parts += [_tick_x(across(value), text) for value, text in x.ticks]
    if diagonal:
        parts.append(
            f'<line class="diagonal" x1="{across(x.low):.1f}" y1="{up(x.low):.1f}" '
            f'x2="{across(x.high):.1f}" y2="{up(x.high):.1f}"/>'
        )
    for number, line in enumerate(series):
        parts += _line(number, line, across, up)
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts += [
        f'<text class="axis" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}" '
        f'text-anchor="middle">{escaped(x.label)}</text>',
        f'<text class="axis" transform="translate(12 {middle}) rotate(-90)" '
        f'text-anchor="middle">{escaped(y.label)}</text>',
    ]
    return (
        f'<figure class="chart"><figcaption>{escaped(title)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-labelledby="{anchor}-title {anchor}-text">'
        f'<title id="{anchor}-title">{escaped(title)}</title>'
        f'<desc id="{anchor}-text">{escaped(description)}</desc>{"".join(parts)}</svg>'
        f"{_legend(series) if len(series) > 1 else ''}</figure>"
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


def _tick_y(y: float, text: str) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escaped(text)}</text>'
    )


def _tick_x(x: float, text: str) -> str:
    bottom = _HEIGHT - _BOTTOM
    return (
        f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{escaped(text)}</text>'
    )


def _line(
    number: int, line: Series, across: Callable[[float], float], up: Callable[[float], float]
) -> list[str]:
    path, starts = "", True
    dots = []
    for x, y in line.points:
        if math.isnan(y):
            starts = True
            continue
        path += f"{'M' if starts else 'L'}{across(x):.1f} {up(y):.1f}"
        starts = False
        dots.append(f'<circle class="dot-{number}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="2.6"/>')
    return [f'<path class="line-{number}" d="{path}"/>', *(dots if line.dots else [])]


def _legend(series: Sequence[Series]) -> str:
    return (
        '<ul class="chart-legend">'
        + "".join(
            f'<li><svg viewBox="0 0 28 8" aria-hidden="true">'
            f'<path class="line-{number}" d="M1 4L27 4"/></svg>{escaped(line.name)}</li>'
            for number, line in enumerate(series)
        )
        + "</ul>"
    )


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
