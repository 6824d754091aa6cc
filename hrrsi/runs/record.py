"""What runs say and write after an epoch: metrics, curves, TensorBoard, the best weights."""

from __future__ import annotations

import csv
import io
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from hrrsi.errors import MissingInputError
from hrrsi.files import replacing
from hrrsi.runs.options import CURVES, METRICS, TENSORBOARD, RunOptions

EPOCHS_SINCE_BEST = "epochs_since_best"  # in the record of a checkpoint
SAMPLES_TAG = "samples"

_MARKED_EPOCHS = 30  # up to so many, each has a marker
_JPEG_QUALITY = 85


class EpochRecord(ABC):
    """Keeps the metrics of the epochs, and writes them, curves and the best weights.

    A row of the metrics holds the epoch, the images seen since the run began, the seconds of
    the epoch and the images trained on in each of them (validation aside), and what the kind
    of run adds.

    Args:
        options: Options of the run.
        weights: Name of the file of the best epoch's weights.
        score: The metric whose highest value makes an epoch the best.
        report: Called with a line an epoch.
        patience: Epochs without a better score after which the run is over; 0: never.
    """

    def __init__(
        self,
        options: RunOptions,
        weights: str,
        score: str,
        report: Callable[[str], None],
        patience: int = 0,
    ) -> None:
        self._options = options
        self._weights = options.run_folder / weights
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
        return 0 < self._patience <= self._epochs_since_best

    @property
    def _epochs_since_best(self) -> int:
        return int(self._rows[-1]["epoch"] - self.best["epoch"]) if self._rows else 0

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the metrics so far, and the time spent on this epoch."""
        since = {EPOCHS_SINCE_BEST: self._epochs_since_best}
        return {"rows": self._rows, **since, **self._clock.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned.

        Raises:
            Exception: It is none.
        """
        for row in state["rows"]:
            if any(type(value) not in (int, float) for value in row.values()):
                raise ValueError("a metric is no number")
            if row.keys() != state["rows"][0].keys() or self._score not in row:
                raise ValueError("metrics are missing")
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
        is_best = row is self.best
        if holds_metrics(self._rows, folder / METRICS) and (self._weights.is_file() or not is_best):
            return  # of a run that goes on after all was written
        if is_best:
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
        self._trained = None if state["trained"] is None else float(state["trained"])


def require_best(path: Path, row: Mapping[str, float]) -> None:
    """Raise where the best epoch's weights, which a run wrote once, are gone.

    Args:
        path: Their file.
        row: The metrics of that epoch.

    Raises:
        MissingInputError: There is no such file.
    """
    if not path.is_file():
        raise MissingInputError(
            f"the weights of epoch {row['epoch']:.0f}, the best, are no longer there",
            where=path,
            fix="put the file back, or start the run again with `overwrite=True`",
        )


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


class CurvePanels:
    """A picture of panels that share their epochs, the best of which is marked in each.

    Args:
        epochs: The rows of ``metrics.csv``.
        score: The metric whose highest value makes an epoch the best.
        rows: Panels below each other.
        columns: Panels beside each other.

    Attributes:
        axes: Matplotlib's axes of the panels, row by row.
        best: The row of the best epoch.
    """

    def __init__(
        self, epochs: Sequence[Mapping[str, float]], score: str, rows: int, columns: int
    ) -> None:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        self._epochs = epochs
        self.best = max(epochs, key=lambda row: row[score])
        self._figure = Figure(figsize=(6.5 * columns, 4 * rows), layout="constrained")
        panels = self._figure.subplots(rows, columns, sharex=True, squeeze=False)
        self.axes: list[Any] = list(panels.flat)
        for axes in self.axes:
            axes.axvline(self.best["epoch"], color="0.6", linestyle=":", linewidth=1)
            axes.grid(alpha=0.3)
        for axes in panels[-1]:
            axes.set_xlabel("epoch")
            # a single epoch has a single tick
            whole = MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
            axes.xaxis.set_major_locator(whole)

    def plot(self, axes: Any, key: str, label: str, *, factor: float = 1, **style: Any) -> None:
        """Draw a metric over the epochs.

        Args:
            axes: The panel.
            key: The metric.
            label: Its name in the legend.
            factor: What its values are multiplied by.
            style: Further properties of Matplotlib's line.
        """
        axes.plot(
            [row["epoch"] for row in self._epochs],
            [factor * row[key] for row in self._epochs],
            **{
                "marker": "." if len(self._epochs) <= _MARKED_EPOCHS else None,
                "label": label,
                **style,
            },
        )

    def star(self, axes: Any, key: str) -> None:
        """Mark a share of the best epoch, in percent."""
        axes.plot(self.best["epoch"], 100 * self.best[key], "k*", markersize=9)

    def save(self, path: Path) -> None:
        """Write the picture as a PNG, a legend beside each panel that has more than one curve.

        Args:
            path: The picture; replaced where it exists.
        """
        for axes in self.axes:
            handles, _ = axes.get_legend_handles_labels()
            if len(handles) > 1:
                axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        with replacing(path) as temporary:
            self._figure.savefig(temporary, dpi=110)


def set_from_zero(axes: Any, title: str) -> None:
    """Begin the vertical axis at zero, with room above the curves, which are drawn already."""
    highest = axes.dataLim.y1
    axes.set(title=title, ylim=(0, 1.05 * highest if highest > 0 else 1))


def set_percent(axes: Any, title: str) -> None:
    """Make the vertical axis one of percent, with room for curves along its ends."""
    axes.set(title=title, ylim=(-2, 102))


def set_logarithmic(axes: Any, title: str) -> None:
    """Make the vertical axis logarithmic, with plain figures in between the powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_title(title)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


class TensorBoardLog:
    """Writes the rows of the metrics and pictures as events, an epoch a step.

    Each start of a run writes a file of its own, whose first event makes TensorBoard forget what
    earlier files say of the same epochs and later ones: a run that was killed and resumed has
    one curve. The files hold no name of a machine.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / TENSORBOARD
        self._file: _EventFile | None = None
        self._shown: Path | None = None

    def add(self, row: Mapping[str, float]) -> None:
        """Write an epoch's metrics."""
        epoch = int(row["epoch"])
        if self._file is None:
            self._file = _EventFile(self._folder, first_step=epoch)
        self._file.add_scalars(epoch, tagged(row))

    def add_picture(self, epoch: int, path: Path) -> None:
        """Write a picture, once; after the metrics of a first epoch."""
        if self._file is not None and path != self._shown:
            self._file.add_picture(epoch, SAMPLES_TAG, path)
            self._shown = path

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def tagged(row: Mapping[str, float]) -> dict[str, float]:
    """Return a row of the metrics under the names that TensorBoard groups them by.

    The part before the slash names a group: ``loss/segmentation``, ``validation/mIoU``,
    ``validation IoU/Building``. What is not a number (a class that the validation patches lack)
    is left out.
    """
    tags = {}
    for key, value in row.items():
        if key == "epoch" or not math.isfinite(value):
            continue
        if key.startswith("val_IoU_"):
            tag = f"validation IoU/{key.removeprefix('val_IoU_')}"
        elif key == "loss":
            tag = "loss/sum"
        elif key.endswith("_loss"):  # that of the validation stands beside those of the training
            tag = f"loss/{key.removesuffix('_loss')}"
        elif key.startswith("val_"):
            tag = f"validation/{key.removeprefix('val_')}"
        else:
            tag = f"run/{key}"
        tags[tag] = float(value)
    return tags


class _EventFile:
    """A file of TensorBoard's events.

    TensorBoard's own writer puts the machine's name into the file's name and writes in a thread,
    where a full disk is not noticed; its records and messages are used as they are.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.iterdir()))  # TensorBoard reads files in the order of their names
        self._stream = (folder / f"events.out.tfevents.{number:05d}").open("wb")
        self._writer = RecordWriter(self._stream)
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))
        self._stream.flush()

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=tag, simple_value=v) for tag, v in values.items()]
        self._write(step=step, summary=Summary(value=scalars))
        self._stream.flush()

    def add_picture(self, step: int, tag: str, path: Path) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        content = io.BytesIO()
        with Image.open(path) as picture:
            picture.convert("RGB").save(content, format="JPEG", quality=_JPEG_QUALITY)
            image = Summary.Image(
                width=picture.width,
                height=picture.height,
                colorspace=3,
                encoded_image_string=content.getvalue(),
            )
        self._write(step=step, summary=Summary(value=[Summary.Value(tag=tag, image=image)]))
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.write(Event(wall_time=time.time(), **fields).SerializeToString())


def _content(epochs: Sequence[Mapping[str, float]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(epochs[0]))
    writer.writeheader()
    writer.writerows(epochs)
    return text.getvalue().encode()
