"""Progress bars that count images."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch.callbacks import Callback

from hrrsi.progress import progress

_SECONDS = 1.0


class ImageProgress(Callback):
    """A bar of images for the training and one for the validation of each epoch.

    Args:
        images: Images of an epoch's training and validation.
        batch: Images of a step, over all processes.
        enabled: False shows nothing.
    """

    def __init__(self, images: tuple[int, int], batch: int, *, enabled: bool) -> None:
        self._images = images
        self._batch = batch
        self._enabled = enabled
        self._open: Any = None
        self._bar: Any = None
        self._looked = 0.0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, index: int) -> None:
        """Open the epoch's bar with its first batch, which a resumed run has in the middle."""
        if self._open is None:
            done = min(index * self._batch, self._images[0])
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self._start(epoch, self._images[0], done)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Advance the bar; look at the loss now and then, since a GPU has to stop for that."""
        self._bar.update(min(self._batch, self._images[0] - self._bar.n))
        now = time.monotonic()
        if not self._bar.disable and now - self._looked > _SECONDS:
            self._looked = now
            self._bar.set_postfix_str(f"loss {pl_module.losses['loss']:.3f}", refresh=False)

    def on_validation_start(self, *_: Any) -> None:
        """Open the validation's bar."""
        self._start("validation", self._images[1])

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        """Advance the bar."""
        self._bar.update(min(self._batch, self._images[1] - self._bar.n))

    def on_validation_end(self, *_: Any) -> None:
        """Close the validation's bar."""
        self._stop()

    def on_exception(self, *_: Any) -> None:
        """Close whatever bar is open, so that the error starts on a line of its own."""
        self._stop()

    def _start(self, what: str, total: int, done: int = 0) -> None:
        self._stop()
        self._open = progress(what, total, " images", enabled=self._enabled, done=done)
        self._bar = self._open.__enter__()

    def _stop(self) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None
