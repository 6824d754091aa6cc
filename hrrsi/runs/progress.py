"""Progress bars of a run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch.callbacks import Callback

from hrrsi.progress import progress

_REFRESH_SECONDS = 0.5  # a GPU's losses are not waited for after each step


class EpochProgress(Callback):
    """A bar of images for the training and one for the validation of each epoch.

    The first shows images a second, the losses of the epoch so far and the last validation's
    score, as many of them as fit into the terminal. One of an epoch that is resumed starts where
    the epoch was.

    Args:
        images: Images of an epoch's training and of its validation.
        batch: Images of a step, over all processes.
        score: Returns the score of a module that was just validated, e.g. ``"mIoU 43.21"``.
        enabled: False shows nothing.
    """

    def __init__(
        self, images: tuple[int, int], batch: int, score: Callable[[Any], str], *, enabled: bool
    ) -> None:
        self._images = images
        self._batch = batch
        self._score = score
        self._enabled = enabled
        self._open: Any = None
        self._bar: Any = None
        self._refresh_at = 0.0
        self._last: str | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the last score."""
        return {"last": self._last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what a checkpoint kept."""
        self._last = state_dict["last"]

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Open the epoch's bar with its first batch: a resumed epoch starts in its middle."""
        if self._open is None:
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self._start(epoch, self._images[0], min(batch_idx * self._batch, self._images[0]))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Advance the bar."""
        self._advance(self._images[0])
        if self._bar.disable or time.monotonic() < self._refresh_at:
            return
        losses = [f"{k.removesuffix('_loss')} {v:.3f}" for k, v in pl_module.losses.items()]
        score = [] if self._last is None else [self._last]
        shown = [*losses[:1], *score, *losses[1:]]
        self._bar.set_postfix_str(", ".join(_fitting(self._bar, shown)), refresh=False)
        self._refresh_at = time.monotonic() + _REFRESH_SECONDS

    def on_validation_start(self, *_: Any) -> None:
        """Open the validation's bar."""
        self._start("validation", self._images[1])

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        """Advance the bar."""
        self._advance(self._images[1])

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the validation's bar."""
        self._stop()
        self._last = self._score(pl_module)

    def on_exception(self, *_: Any) -> None:
        """Close whatever bar is open, so that the error starts on a line of its own."""
        self._stop()

    def _start(self, what: str, total: int, done: int = 0) -> None:
        self._stop()
        self._open = progress(what, total, " images", enabled=self._enabled, done=done, brief=True)
        self._bar = self._open.__enter__()

    def _advance(self, total: int) -> None:
        self._bar.update(min(self._batch, total - self._bar.n))

    def _stop(self) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None


def _fitting(bar: Any, shown: list[str]) -> list[str]:
    """Return the first ones of what is to be shown, as many as fit into a bar's line whole."""
    if not bar.ncols:
        return shown
    # a line that may have any length draws a bar of ten columns, of which one is enough
    bare = bar.format_meter(**{**bar.format_dict, "ncols": None, "postfix": None})
    room = bar.ncols - len(bare) + 9
    ends = itertools.accumulate(len(f", {each}") for each in shown)
    return [each for each, end in zip(shown, ends, strict=True) if end <= room]
