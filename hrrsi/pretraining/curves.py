"""The course of a pre-training run as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hrrsi.training.curve_panels import CurvePanels, set_from_zero, set_logarithmic, set_percent


def write_pretraining_curves(epochs: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw losses, shares of right images and learning rate over the epochs as a PNG.

    The epoch of the highest top-1, whose encoder is kept, is marked everywhere.

    Args:
        epochs: The rows of ``metrics.csv``.
        path: The picture; replaced where it exists.
    """
    panels = CurvePanels(epochs, "val_top1", rows=3, columns=1)
    losses, scores, rate = panels.axes
    panels.plot(losses, "loss", "training,\nlabels smoothed")
    panels.plot(losses, "val_loss", "validation")
    set_from_zero(losses, "Cross-entropy")

    best = panels.best
    panels.plot(scores, "val_top5", f"validation,\ntop 5 {100 * best['val_top5']:.1f}", factor=100)
    panels.plot(scores, "val_top1", f"validation,\ntop 1 {100 * best['val_top1']:.1f}", factor=100)
    panels.plot(scores, "top1", f"training crops,\ntop 1 {100 * best['top1']:.1f}", factor=100)
    panels.star(scores, "val_top1")
    set_percent(scores, f"Right images, in percent (legend: epoch {best['epoch']:.0f}, the best)")

    panels.plot(rate, "lr", "learning rate")
    rates = {row["lr"] for row in epochs}
    # a single one leaves a logarithmic axis without ends
    set_rate = set_logarithmic if len(rates) > 1 and min(rates) > 0 else set_from_zero
    set_rate(rate, "Learning rate at the end of the epoch")
    panels.save(path)
