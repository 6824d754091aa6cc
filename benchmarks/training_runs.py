"""Runs of `hrrsi train` that are compared: made where they are not there yet, else only read."""

from __future__ import annotations

import csv
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hrrsi.tiling.dataset import TiledDataset


def epochs_of(dataset: Path, images: int, batch: int) -> int:
    """Return the epochs that see about so many images."""
    patches = len(TiledDataset(dataset).patches("train"))
    return max(1, round(images / (patches // batch * batch)))


def finished_rows(folder: Path, epochs: int) -> list[dict[str, str]]:
    """Return the metrics of a finished run, or nothing."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return rows if len(rows) == epochs else []


def train(
    dataset: Path,
    out: Path,
    model: str,
    epochs: int,
    options: Sequence[str],
    *,
    encoder_weights: str = "none",
) -> None:
    """Train into a folder, from scratch or encoder weights, or from where it was stopped."""
    command = [sys.executable, "-m", "hrrsi", "train", str(dataset), "--model", model]
    command += ["--encoder-weights", encoder_weights, "--epochs", str(epochs), *options]
    command += ["--out", str(out), "--resume", "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def summary(scores: Sequence[float]) -> str:
    """Return mean and standard deviation of scores in percent."""
    spread = f" ± {100 * statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
    return f"{100 * statistics.mean(scores):.2f}{spread}"
