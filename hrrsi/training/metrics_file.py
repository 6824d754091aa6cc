"""The metrics of a run's epochs as a table that any tool reads."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from hrrsi.atomic_write import replacing

METRICS = "metrics.csv"


def write_metrics(epochs: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write a row an epoch, under the names of its metrics.

    Args:
        epochs: The metrics; all have the same names.
        path: A ``.csv``; replaced where it exists.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(_content(epochs))


def holds_metrics(epochs: Sequence[Mapping[str, float]], path: Path) -> bool:
    """Return whether a file is what `write_metrics` would write."""
    return path.is_file() and path.read_bytes() == _content(epochs)


def training_losses(epoch: Mapping[str, float]) -> list[str]:
    """Return which metrics of an epoch are losses of its training: their sum, then its parts."""
    return [
        key
        for key in epoch
        if key == "loss" or (key.endswith("_loss") and not key.startswith("val_"))
    ]


def _content(epochs: Sequence[Mapping[str, float]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(epochs[0]))
    writer.writeheader()
    writer.writerows(epochs)
    return text.getvalue().encode()
