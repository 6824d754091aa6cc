"""Training curves as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hrrsi.atomic_write import replacing

_FEW = 30  # up to so many epochs each is marked
_SCORES = (("val_OA", "OA"), ("val_mF1", "mF1"), ("val_mIoU", "mIoU"))


def write_curves(epochs: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw losses, validation scores, each class' IoU and the learning rate as a PNG.

    Losses are on a logarithmic axis, since they fall by parts and not by amounts. The epoch of
    the highest mIoU, whose weights are kept, is marked everywhere.

    Args:
        epochs: The rows of ``metrics.csv``.
        path: The picture; replaced where it exists.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8), layout="constrained")
    losses, scores, classes, rate = figure.subplots(2, 2, sharex=True).flat
    best = max(epochs, key=lambda row: row["val_mIoU"])
    for axes in (losses, scores, classes, rate):
        axes.axvline(best["epoch"], color="0.6", linestyle=":", linewidth=1)
        axes.grid(alpha=0.3)
    for axes in (classes, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)

    names = [key for key in epochs[0] if key == "loss" or key.endswith("_loss")]
    for key in names:
        is_sum = key == "loss"
        label = "sum" if is_sum else key.removesuffix("_loss")
        _plot(losses, epochs, key, label, color="black" if is_sum else None)
    losses.set_title("Training losses, means of each epoch (logarithmic)")
    if all(row[key] > 0 for row in epochs for key in names):
        _make_logarithmic(losses)
    else:
        losses.set(title="Training losses, means of each epoch", ylim=(0, None))

    for key, label in _SCORES:
        _plot(scores, epochs, key, f"{label} {100 * best[key]:.1f}", factor=100)
    scores.plot(best["epoch"], 100 * best["val_mIoU"], "k*", markersize=9)
    scores.set(
        title=f"Validation, in percent (legend: epoch {best['epoch']:.0f}, the best mIoU)",
        ylim=(0, 100),
    )

    for key in (key for key in epochs[0] if key.startswith("val_IoU_")):
        at_best = "absent" if math.isnan(best[key]) else f"{100 * best[key]:.1f}"
        label = f"{key.removeprefix('val_IoU_')} {at_best}"
        _plot(classes, epochs, key, label, factor=100)
    classes.set(title="Validation IoU of each class, in percent", ylim=(0, 100))

    _plot(rate, epochs, "lr", "learning rate")
    rate.set(title="Learning rate at the end of the epoch", ylim=(0, None))
    for axes in (losses, scores, classes):
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _plot(
    axes: Any,
    epochs: Sequence[Mapping[str, float]],
    key: str,
    label: str,
    *,
    factor: float = 1,
    color: str | None = None,
) -> None:
    axes.plot(
        [row["epoch"] for row in epochs],
        [factor * row[key] for row in epochs],
        marker="." if len(epochs) <= _FEW else None,
        label=label,
        color=color,
    )


def _make_logarithmic(axes: Any) -> None:
    """Make the vertical axis logarithmic, with plain figures in between the powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
