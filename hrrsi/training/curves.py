"""Training curves as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hrrsi.atomic_write import replacing


def write_curves(epochs: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw losses, validation scores and learning rate over the epochs as a PNG.

    Args:
        epochs: The rows of ``metrics.csv``.
        path: The picture; replaced where it exists.
    """
    from matplotlib.figure import Figure

    x = [row["epoch"] for row in epochs]
    figure = Figure(figsize=(13, 4), layout="constrained")
    losses, scores, rate = figure.subplots(1, 3)
    for key, label in (
        ("loss", "sum"),
        ("segmentation_loss", "segmentation"),
        ("body_loss", "body"),
        ("edge_loss", "edge"),
    ):
        if key in epochs[0]:
            losses.plot(x, [row[key] for row in epochs], label=label)
    losses.set(title="Training loss", xlabel="epoch", ylim=(0, None))
    for key, label in (("val_OA", "OA"), ("val_mF1", "mF1"), ("val_mIoU", "mIoU")):
        scores.plot(x, [100 * row[key] for row in epochs], label=label)
    best = max(epochs, key=lambda row: row["val_mIoU"])
    scores.plot(best["epoch"], 100 * best["val_mIoU"], "k*", label="best mIoU")
    scores.set(title="Validation patches, in percent", xlabel="epoch", ylim=(0, 100))
    rate.plot(x, [row["lr"] for row in epochs])
    rate.set(title="Learning rate at the end of the epoch", xlabel="epoch", ylim=(0, None))
    for axes in (losses, scores):
        axes.legend()
    for axes in (losses, scores, rate):
        axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
