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


def run_rows(
    datasets: Sequence[Path],
    out: Path,
    model: str,
    epochs: int,
    options: Sequence[str],
    *,
    encoder_weights: str = "none",
    only_finished: bool = False,
) -> list[dict[str, str]]:
    """Return the metrics of a run, trained where it is not finished, or from where it was stopped.

    Args:
        datasets: The folders of tiled datasets that it learns from together.
        out: The folder of the run's folder.
        model: The network.
        epochs: How many it trains.
        options: Further flags of ``hrrsi train``.
        encoder_weights: What it starts from; by default random weights.
        only_finished: Train nothing: a run that is not finished has no metrics.
    """
    rows = finished_rows(out / model, epochs)
    if rows or only_finished:
        return rows
    command = [sys.executable, "-m", "hrrsi", "train", *map(str, datasets), "--model", model]
    command += ["--encoder-weights", encoder_weights, "--epochs", str(epochs), *options]
    command += ["--out", str(out), "--resume", "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = finished_rows(out / model, epochs)
    print(f"{out.name}, {model}: {rows[-1]['val_mIoU']}", file=sys.stderr, flush=True)
    return rows


def summary(scores: Sequence[float]) -> str:
    """Return mean and standard deviation of scores in percent."""
    spread = f" ± {100 * statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
    return f"{100 * statistics.mean(scores):.2f}{spread}"
