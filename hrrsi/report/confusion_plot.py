"""A confusion matrix as a picture."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np

from hrrsi.evaluation.scores import ConfusionMatrix
from hrrsi.extras import requiring
from hrrsi.files import replacing

_CELL_INCHES = 1.05


def write_confusion_plot(matrix: ConfusionMatrix, caption: str, path: Path) -> None:
    """Draw a confusion matrix as a heat map: each cell's pixels, and its share of the true class.

    Args:
        matrix: Every class is shown, whatever the protocol drops from scores.
        caption: Says what was counted; stands below.
        path: A picture whose suffix matplotlib knows, e.g. ``.png``; replaced where it exists.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    with requiring("plots", "a picture of the confusion matrix"):
        from matplotlib.figure import Figure

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
