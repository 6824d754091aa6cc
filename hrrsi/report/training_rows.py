"""The training curves of weights, from the run folder that they lie in."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from hrrsi.training.metrics_file import METRICS

_NEEDED = ("epoch", "loss", "val_OA", "val_mIoU")


def training_rows(weights: Path) -> tuple[Mapping[str, float], ...]:
    """Return the rows of ``metrics.csv`` beside weights; none where there is no such table.

    Args:
        weights: The weights file, as `hrrsi train` leaves it in its run folder.
    """
    path = weights.parent / METRICS
    if not path.is_file():
        return ()
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, TypeError, ValueError, csv.Error):
        return ()  # a table of another kind: the report does not depend on it
    return tuple(rows) if rows and all(key in rows[0] for key in _NEEDED) else ()
