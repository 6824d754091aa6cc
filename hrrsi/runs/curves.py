"""Panels of curves over the epochs of a run, as runs of every kind draw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hrrsi.files import replacing

_FEW = 30  # up to so many epochs each is marked


class CurvePanels:
    """A picture of panels that share their epochs, the best of which is marked in each.

    Args:
        epochs: The rows of ``metrics.csv``.
        score: The metric whose highest value makes an epoch the best.
        rows: Panels below each other.
        columns: Panels beside each other.

    Attributes:
        axes: Matplotlib's axes of the panels, row by row.
        best: The row of the best epoch.
    """

    def __init__(
        self, epochs: Sequence[Mapping[str, float]], score: str, rows: int, columns: int
    ) -> None:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        self._epochs = epochs
        self.best = max(epochs, key=lambda row: row[score])
        self._figure = Figure(figsize=(6.5 * columns, 4 * rows), layout="constrained")
        panels = self._figure.subplots(rows, columns, sharex=True, squeeze=False)
        self.axes: list[Any] = list(panels.flat)
        for axes in self.axes:
            axes.axvline(self.best["epoch"], color="0.6", linestyle=":", linewidth=1)
            axes.grid(alpha=0.3)
        for axes in panels[-1]:
            axes.set_xlabel("epoch")
            # a single epoch has a single tick
            whole = MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
            axes.xaxis.set_major_locator(whole)

    def plot(self, axes: Any, key: str, label: str, *, factor: float = 1, **style: Any) -> None:
        """Draw a metric over the epochs.

        Args:
            axes: The panel.
            key: The metric.
            label: Its name in the legend.
            factor: What its values are multiplied by.
            style: Further properties of Matplotlib's line.
        """
        axes.plot(
            [row["epoch"] for row in self._epochs],
            [factor * row[key] for row in self._epochs],
            **{"marker": "." if len(self._epochs) <= _FEW else None, "label": label, **style},
        )

    def star(self, axes: Any, key: str) -> None:
        """Mark a share of the best epoch, in percent."""
        axes.plot(self.best["epoch"], 100 * self.best[key], "k*", markersize=9)

    def save(self, path: Path) -> None:
        """Write the picture as a PNG, a legend beside each panel that has more than one curve.

        Args:
            path: The picture; replaced where it exists.
        """
        for axes in self.axes:
            handles, _ = axes.get_legend_handles_labels()
            if len(handles) > 1:
                axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        with replacing(path) as temporary:
            self._figure.savefig(temporary, dpi=110)


def set_from_zero(axes: Any, title: str) -> None:
    """Begin the vertical axis at zero, with room above the curves, which are drawn already."""
    highest = axes.dataLim.y1
    axes.set(title=title, ylim=(0, 1.05 * highest if highest > 0 else 1))


def set_percent(axes: Any, title: str) -> None:
    """Make the vertical axis one of percent, with room for curves along its ends."""
    axes.set(title=title, ylim=(-2, 102))


def set_logarithmic(axes: Any, title: str) -> None:
    """Make the vertical axis logarithmic, with plain figures in between the powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_title(title)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
