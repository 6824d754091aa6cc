"""The course of a pre-training run as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hrrsi.atomic_write import replacing


def write_pretraining_curves(epochs: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw losses, shares of right images and learning rate over the epochs as a PNG.

    Args:
        epochs: The rows of ``metrics.csv``.
        path: The picture; replaced where it exists.
    """
    from matplotlib.figure import Figure

    x = [row["epoch"] for row in epochs]
    figure = Figure(figsize=(13, 4), layout="constrained")
    losses, scores, rate = figure.subplots(1, 3)
    losses.plot(x, [row["loss"] for row in epochs], ".-", label="training, labels smoothed")
    losses.plot(x, [row["val_loss"] for row in epochs], ".-", label="validation")
    losses.set(title="Cross-entropy", xlabel="epoch", ylim=(0, None))
    for key, label in (
        ("val_top5", "validation, top 5"),
        ("val_top1", "validation, top 1"),
        ("top1", "training crops, top 1"),
    ):
        scores.plot(x, [100 * row[key] for row in epochs], ".-", label=label)
    best = max(epochs, key=lambda row: row["val_top1"])
    scores.plot(best["epoch"], 100 * best["val_top1"], "k*", label="best, kept")
    scores.set(title="Right images, in percent", xlabel="epoch", ylim=(0, 100))
    rate.plot(x, [row["lr"] for row in epochs], ".-")
    rate.set(title="Learning rate at the end of the epoch", xlabel="epoch")
    rates = {row["lr"] for row in epochs}
    if len(rates) > 1 and min(rates) > 0:  # a single one leaves a logarithmic axis without ends
        rate.set(yscale="log")
    for axes in (losses, scores):
        axes.legend()
    for axes in (losses, scores, rate):
        axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
