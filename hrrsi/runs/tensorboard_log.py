"""What TensorBoard shows of a run: the metrics and the sample pictures."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from PIL import Image

from hrrsi.training.options import TrainOptions
from hrrsi.training.record import RunRecord
from hrrsi.training.sample_pictures import SamplePictures

TENSORBOARD = "tensorboard"
SAMPLES_TAG = "samples"

_JPEG_QUALITY = 85


class TensorBoardLog(Callback):
    """Writes the rows of the metrics and the sample pictures as events, an epoch a step.

    Each start of a run writes a file of its own, whose first event makes TensorBoard forget what
    earlier files say of the same epochs and later ones: a run that was killed and resumed has
    one curve. The files hold no name of a machine. Its place among a trainer's callbacks is
    after `RunRecord` and `SamplePictures`.

    Args:
        options: Options of the run.
    """

    def __init__(self, options: TrainOptions) -> None:
        self._folder = options.run_folder / TENSORBOARD
        self._file: _EventFile | None = None
        self._shown: Path | None = None

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the epoch's metrics and, where there is a new one, its picture."""
        if not trainer.is_global_zero:
            return
        record = _callback(trainer, RunRecord)
        row = record.rows[-1]
        file = self._events(int(row["epoch"]))
        file.add_scalars(int(row["epoch"]), tagged(row))
        self._add_picture(trainer, file)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the last picture."""
        if trainer.is_global_zero and self._file is not None:
            self._add_picture(trainer, self._file)

    def teardown(self, *_: Any, **__: Any) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _events(self, epoch: int) -> _EventFile:
        if self._file is None:
            self._file = _EventFile(self._folder, first_step=epoch)
        return self._file

    def _add_picture(self, trainer: Any, file: _EventFile) -> None:
        picture = _callback(trainer, SamplePictures).latest
        if picture is not None and picture.path != self._shown:
            file.add_picture(picture.epoch, SAMPLES_TAG, picture.path)
            self._shown = picture.path


def tagged(row: Mapping[str, float]) -> dict[str, float]:
    """Return a row of the metrics under the names that TensorBoard groups them by.

    The part before the slash names a group: ``loss/segmentation``, ``validation/mIoU``,
    ``validation IoU/Building``. What is not a number (a class that the validation patches lack)
    is left out.
    """
    found = {}
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
        found[tag] = float(value)
    return found


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

        found = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(step=step, summary=Summary(value=found))
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


def _callback(trainer: Any, kind: type) -> Any:
    return next(c for c in trainer.callbacks if isinstance(c, kind))
