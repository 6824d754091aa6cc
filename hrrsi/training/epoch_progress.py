"""Progress bars of a training run."""

from typing import Any

from lightning.pytorch.callbacks import Callback

from hrrsi.progress import progress


class EpochProgress(Callback):
    """A progress bar for the training and one for the validation of each epoch.

    Args:
        enabled: False shows nothing.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._open: Any = None
        self._bar: Any = None

    def _start(self, what: str, total: float) -> None:
        self._stop()
        self._open = progress(what, total, " batches", enabled=self._enabled)
        self._bar = self._open.__enter__()

    def _stop(self) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the epoch's bar."""
        self._start(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", trainer.num_training_batches
        )

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Advance the bar."""
        self._bar.update()
        if not self._bar.disable:
            self._bar.set_postfix_str(f"loss {pl_module.losses['loss']:.3f}", refresh=False)

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the validation's bar."""
        self._start("validation", sum(trainer.num_val_batches))

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        """Advance the bar."""
        self._bar.update()

    def on_validation_epoch_end(self, *_: Any) -> None:
        """Close the validation's bar."""
        self._stop()

    def on_exception(self, *_: Any) -> None:
        """Close whatever bar is open, so that the error starts on a line of its own."""
        self._stop()
