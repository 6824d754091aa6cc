"""Training curves as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hrrsi.classes import Colour
from hrrsi.runs.curves import CurvePanels, set_from_zero, set_logarithmic, set_percent
from hrrsi.runs.record import training_losses

_SCORES = (("val_OA", "OA"), ("val_mF1", "mF1"), ("val_mIoU", "mIoU"))
_LIGHT = 0.4  # a relative luminance that stands out from white by a contrast of 2.3


def write_curves(
    epochs: Sequence[Mapping[str, float]], colours: Mapping[str, Colour], path: Path
) -> None:
    """Draw losses, validation scores, each class' IoU and the learning rate as a PNG.

    Losses are on a logarithmic axis, since they fall by parts and not by amounts; that of the
    validation is dashed, in the colour of the training's. Classes have the colours of their
    scheme, light ones a dark outline. The epoch of the highest mIoU, whose weights are kept, is
    marked everywhere.

    Args:
        epochs: The rows of ``metrics.csv``.
        colours: The colour of each class.
        path: The picture; replaced where it exists.
    """
    panels = CurvePanels(epochs, "val_mIoU", rows=2, columns=2)
    losses, scores, classes, rate = panels.axes
    _plot_losses(panels, losses, epochs)

    best = panels.best
    for key, label in _SCORES:
        panels.plot(scores, key, f"{label} {100 * best[key]:.1f}", factor=100)
    panels.star(scores, "val_mIoU")
    set_percent(
        scores, f"Validation, in percent (legend: epoch {best['epoch']:.0f}, the best mIoU)"
    )

    for name, colour in colours.items():
        iou = best[f"val_IoU_{name}"]
        label = f"{name} {'absent' if math.isnan(iou) else f'{100 * iou:.1f}'}"
        panels.plot(classes, f"val_IoU_{name}", label, factor=100, **_class_style(colour))
    set_percent(classes, "Validation IoU of each class, in percent")

    panels.plot(rate, "lr", "learning rate")
    set_from_zero(rate, "Learning rate at the end of the epoch")
    panels.save(path)


def _plot_losses(panels: CurvePanels, axes: Any, epochs: Sequence[Mapping[str, float]]) -> None:
    _sum, *parts = training_losses(epochs[0])
    panels.plot(axes, "loss", "sum", color="black")
    for number, key in enumerate(parts):
        panels.plot(axes, key, key.removesuffix("_loss"), color=f"C{number}")
    of_training = f"C{parts.index('segmentation_loss')}"
    label = "segmentation,\nvalidation"
    panels.plot(axes, "val_seg_loss", label, color=of_training, linestyle="--")
    title = "Losses, means of each epoch"
    if all(row[key] > 0 for row in epochs for key in ("loss", *parts, "val_seg_loss")):
        set_logarithmic(axes, f"{title} (logarithmic)")
    else:
        set_from_zero(axes, title)


def _class_style(colour: Colour) -> dict[str, Any]:
    """Return how the line of a class looks; a light one could not be seen on white."""
    from matplotlib.patheffects import withStroke

    style: dict[str, Any] = {"color": tuple(value / 255 for value in colour)}
    if _luminance(colour) > _LIGHT:
        style["path_effects"] = [withStroke(linewidth=3, foreground="0.35")]
    return style


def _luminance(colour: Colour) -> float:
    """Return the relative luminance of an sRGB colour (WCAG 2.2), 0 black to 1 white."""
    shares = [value / 255 for value in colour]
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
