"""Progress bars of a training run."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch.callbacks import Callback

from hrrsi.progress import progress

_REFRESH_SECONDS = 0.5  # a GPU's losses are not waited for after each step


class EpochProgress(Callback):
    """A progress bar for the training and one for the validation of each epoch.

    The first shows images a second, the losses of the epoch so far and the last validation's
    mIoU. One of an epoch that is resumed starts where the epoch was.

    Args:
        enabled: False shows nothing.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._open: Any = None
        self._bar: Any = None
        self._refresh_at = 0.0
        self._miou: float | None = None

    def _start(self, what: str, total: float, done: float = 0) -> None:
        self._stop()
        self._open = progress(what, total, " images", enabled=self._enabled, done=done)
        self._bar = self._open.__enter__()

    def _stop(self) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = self._bar = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the last mIoU."""
        return {"miou": self._miou}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what a checkpoint kept."""
        self._miou = state_dict["miou"]

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Open the epoch's bar with its first batch: a resumed epoch starts in its middle."""
        if self._bar is None:
            images = len(batch[0]) * trainer.world_size
            self._start(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
                trainer.num_training_batches * images,
                batch_idx * images,
            )

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar."""
        self._bar.update(len(batch[0]) * trainer.world_size)
        if self._bar.disable or time.monotonic() < self._refresh_at:
            return
        shown = [f"{k.removesuffix('_loss')} {v:.3f}" for k, v in pl_module.losses.items()]
        if self._miou is not None:
            shown.append(f"last mIoU {100 * self._miou:.2f}")
        self._bar.set_postfix_str(", ".join(shown), refresh=False)
        self._refresh_at = time.monotonic() + _REFRESH_SECONDS

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Open the validation's bar with its first batch."""
        if batch_idx == 0:
            images = len(batch[0]) * trainer.world_size
            self._start("validation", sum(trainer.num_val_batches) * images)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Advance the bar."""
        self._bar.update(len(batch[0]) * trainer.world_size)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the validation's bar."""
        self._stop()
        self._miou = pl_module.matrix.scores().mean_iou

    def on_exception(self, *_: Any) -> None:
        """Close whatever bar is open, so that the error starts on a line of its own."""
        self._stop()
