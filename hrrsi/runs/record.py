"""What runs of every kind say and write after an epoch: metrics, curves, the best weights."""

from __future__ import annotations

import csv
import io
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hrrsi.files import replacing
from hrrsi.runs.options import METRICS, RunOptions

CURVES = "curves.png"


class EpochClock:
    """Measures an epoch, and its training apart from its validation."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._trained: float | None = None

    def start(self) -> None:
        """Begin an epoch."""
        self._started, self._trained = time.monotonic(), None

    def end_training(self) -> None:
        """Take the time of the training; a validation that begins again adds nothing."""
        if self._trained is None:
            self._trained = self.seconds

    @property
    def seconds(self) -> float:
        """Seconds of the epoch so far."""
        return time.monotonic() - self._started

    @property
    def trained_seconds(self) -> float:
        """Seconds of its training."""
        return self.seconds if self._trained is None else self._trained

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"seconds": self.seconds, "trained": self._trained}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned; the time since then does not count."""
        self._started = time.monotonic() - state["seconds"]
        self._trained = state["trained"]


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


class EpochRecord(ABC):
    """Keeps the metrics of the epochs, and writes them, curves and the best weights.

    A row of the metrics holds the epoch, the images seen since the run began, the seconds of
    the epoch and the images trained on in each of them (validation aside), and what the kind
    of run adds.

    Args:
        options: Options of the run.
        score: The metric whose highest value makes an epoch the best.
        report: Called with a line an epoch.
        patience: Epochs without a better score after which the run is over; 0: never.
    """

    def __init__(
        self, options: RunOptions, score: str, report: Callable[[str], None], patience: int = 0
    ) -> None:
        self._options = options
        self._score = score
        self._report = report
        self._patience = patience
        self._rows: list[dict[str, float]] = []
        self._clock = EpochClock()

    @property
    def rows(self) -> list[dict[str, float]]:
        """The metrics of the epochs so far."""
        return self._rows

    @property
    def best(self) -> dict[str, float]:
        """The metrics of the best epoch so far."""
        return max(self._rows, key=lambda row: row[self._score])

    @property
    def is_over(self) -> bool:
        """Whether the last epochs were no better, for as long as the run was patient."""
        if not self._rows or not self._patience:
            return False
        return self._rows[-1]["epoch"] - self.best["epoch"] >= self._patience

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the metrics so far, and the time spent on this epoch."""
        return {"rows": self._rows, **self._clock.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self._rows = state["rows"]
        self._clock.load_state(state)

    def start_epoch(self) -> None:
        """Start the epoch's clock."""
        self._clock.start()

    @abstractmethod
    def see(self, split: str, batch: Any) -> None:
        """Look at a batch that was trained on (``train``) or validated (``val``)."""

    def end_training(self) -> None:
        """Take the time of the epoch's training."""
        self._clock.end_training()

    @abstractmethod
    def end_validation(self, task: Any) -> None:
        """Look at a task that was just validated, in eval mode.

        Raises:
            SharedError: There was nothing to learn, or nothing to validate.
        """

    def end_epoch(self, task: Any, learning_rate: float) -> None:
        """Add a row to the metrics, and report it.

        Args:
            task: What was trained and validated.
            learning_rate: That of the step to come.
        """
        images = self._images(task)
        row: dict[str, float] = {
            "epoch": task.epoch + 1,
            "images_seen": (self._rows[-1]["images_seen"] if self._rows else 0) + images,
            "seconds": round(self._clock.seconds, 1),
            "images_per_second": round(images / self._clock.trained_seconds, 2),
            **self._metrics(task, learning_rate),
        }
        self._rows.append(row)
        speed = row["images_per_second"]
        self._report(
            f"{self._options.model} epoch {row['epoch']:.0f}/{self._options.recipe.epochs}: "
            f"{self._summary(row)} | {row['seconds']:.0f} s, "
            + (f"{speed:.0f}" if speed >= 100 else f"{speed:.3g}")
            + " images/s"
            + (" | best so far" if row is self.best else "")
        )

    def write(self, task: Any) -> None:
        """Write metrics, curves and, where the last epoch is the best so far, its weights.

        Args:
            task: What was trained, as it was after that epoch.
        """
        folder, row = self._options.run_folder, self._rows[-1]
        if holds_metrics(self._rows, folder / METRICS):
            return  # of a run that goes on after all was written
        if row is self.best:
            self._write_best(task, row)
        self._write_curves(folder / CURVES)
        write_metrics(self._rows, folder / METRICS)  # last: it says that all is written

    @abstractmethod
    def end(self, task: Any) -> None:
        """Look at what the run leaves, after its last epoch."""

    @abstractmethod
    def _images(self, task: Any) -> int:
        """Return the images trained on in the epoch, over all processes."""

    @abstractmethod
    def _metrics(self, task: Any, learning_rate: float) -> dict[str, float]:
        """Return what the epoch came to, the learning rate first."""

    @abstractmethod
    def _summary(self, row: dict[str, float]) -> str:
        """Return what the epoch's line says of its losses and scores."""

    @abstractmethod
    def _write_best(self, task: Any, row: dict[str, float]) -> None:
        """Write the weights of the best epoch, whose metrics are given."""

    @abstractmethod
    def _write_curves(self, path: Path) -> None:
        """Draw the metrics so far."""
