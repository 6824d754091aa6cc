"""The metrics of a run's epochs as a table that any tool reads."""

import csv
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
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(epochs[0]))
        writer.writeheader()
        writer.writerows(epochs)
