"""The end of a run that gets no better."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import Callback


class EarlyStop(Callback):
    """Ends a run after some epochs without a better validation mIoU.

    Args:
        patience: That many epochs; 0: never.

    Attributes:
        stopped: Whether the run has been ended.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._best = -1.0
        self._waited = 0

    @property
    def stopped(self) -> bool:
        """Whether the last epochs were no better."""
        return 0 < self._patience <= self._waited

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what a checkpoint kept."""
        self._best, self._waited = state_dict["best"], state_dict["waited"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Train no further where a run had ended before it was started again."""
        trainer.should_stop = self.stopped

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Compare the epoch with the best so far."""
        miou = pl_module.matrix.scores().mean_iou
        if miou > self._best:
            self._best, self._waited = miou, 0
        else:
            self._waited += 1
        trainer.should_stop = self.stopped
