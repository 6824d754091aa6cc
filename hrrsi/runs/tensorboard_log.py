"""What TensorBoard shows of a run: the metrics, and pictures."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

TENSORBOARD = "tensorboard"
SAMPLES_TAG = "samples"

_JPEG_QUALITY = 85


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
