"""Progress of long work: bars on a terminal, and only there; steps that heed a request to stop.

With ``HRRSI_PROGRESS=lines`` in the environment it is lines on standard error instead, terminal or
not, which other programs read: ``progress: 37.5% scene.tif: 1.2/3.2 Mpx, 00:04 left``.
"""

import io
import itertools
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from tqdm import tqdm

from hrrsi.errors import printable
from hrrsi.interruption import stop_if_requested

_REFRESH_SECONDS = 0.5  # a GPU's losses are not waited for after each step


class _Bar(tqdm):  # type: ignore[misc]  # without hints
    def __init__(self, *, heeds: bool, **options: Any) -> None:
        self._heeds = heeds
        super().__init__(**options)

    def update(self, n: float | None = 1) -> None:
        if self._heeds:
            stop_if_requested()
        super().update(n)


class _Lines(_Bar):
    """A line each time that a bar would be drawn anew, and at its end."""

    def __init__(self, **named: Any) -> None:
        # what tqdm itself writes, to clear the terminal's line, goes nowhere
        own = {"file": io.StringIO(), "mininterval": _REFRESH_SECONDS, "disable": False}
        super().__init__(**{**named, **own})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        figures = self.format_dict
        if self.total:
            figures["n"] = min(self.n, self.total)  # a sum of megapixels may end a little above
        print(" ".join(self.format_meter(**figures).split()), file=sys.stderr, flush=True)


@contextmanager
def progress(
    title: str,
    total: float | None,
    unit: str,
    *,
    scale: bool = False,
    enabled: bool = True,
    initial: float = 0,
    brief: bool = False,
    heeds: bool = True,
    delay: float = 0,
) -> Iterator[Any]:
    """Yield a tqdm bar on standard error with an estimate of the time left.

    It shows nothing where standard error is not a terminal, so logs stay clean, but for the lines
    that the environment asks for. Shown or not, its `update` is where work stops that Ctrl-C or
    SIGTERM has asked to (`hrrsi.interruption`).

    Args:
        title: What the work is, e.g. ``"tiling"``.
        total: Units in all, or None where unknown.
        unit: What is counted, e.g. ``" Mpx"``.
        scale: Count fractions, with one decimal.
        enabled: False shows nothing.
        initial: Units that were done earlier.
        brief: Leave room in 80 columns for what is set as the bar's postfix.
        heeds: Whether its `update` raises KeyboardInterrupt once a signal has asked to stop.
        delay: Seconds of work before it is shown.
    """
    numbers = "{n:.1f}/{total:.1f}" if scale else "{n:.0f}/{total_fmt}"
    figures = numbers + "{unit} [{elapsed} elapsed, {remaining} left, {rate_fmt}{postfix}]"
    is_lines = enabled and os.environ.get("HRRSI_PROGRESS") == "lines"
    drawn = "{desc}: {percentage:3.0f}%|{bar}| "
    drawn += "[{remaining} left, {rate_fmt}{postfix}]" if brief else figures
    line = "progress: {percentage:.1f}% {desc}: " + numbers + "{unit}, {remaining} left{postfix}"
    with (_Lines if is_lines else _Bar)(
        heeds=heeds,
        desc=printable(title),
        total=total,
        initial=initial,
        unit=unit,
        delay=delay,
        disable=None if enabled else True,
        leave=False,
        bar_format=line if is_lines else drawn,
    ) as bar:
        yield bar


class EpochProgress:
    """A bar of images for the training and one for the validation of each epoch.

    The first shows images a second, the losses of the epoch so far and the last validation's
    score, as many of them as fit into the terminal. One of an epoch that is resumed starts where
    the epoch was. It is a context, whose end closes whatever bar is open, so that an error starts
    on a line of its own.

    Args:
        training: Images that an epoch trains on.
        validation: Images that it validates.
        batch: Images in a batch.
        epochs: How many there are.
        enabled: False shows nothing.

    Attributes:
        last_score: The last validation's score in words, or None.
    """

    def __init__(
        self,
        training: int,
        validation: int,
        *,
        batch: int,
        epochs: int,
        enabled: bool,
    ) -> None:
        self._training = training
        self._validation = validation
        self._batch = batch
        self._epochs = epochs
        self._enabled = enabled
        self._context: Any = None
        self._bar: Any = None
        self._refresh_at = 0.0
        self.last_score: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def is_due(self) -> bool:
        """Whether losses can be seen, and were not for a while."""
        return not self._bar.disable and time.monotonic() >= self._refresh_at

    def start_training(self, epoch: int, batches: int) -> None:
        """Open an epoch's bar.

        Args:
            epoch: The epoch, from 0.
            batches: Batches of it that are done.
        """
        images = min(batches * self._batch, self._training)
        self._start(f"epoch {epoch + 1}/{self._epochs}", self._training, images)

    def start_validation(self) -> None:
        """Open the validation's bar."""
        self._start("validation", self._validation)

    def advance(self, losses: Mapping[str, float] | None = None) -> None:
        """Advance the bar by a batch.

        Args:
            losses: Losses of the epoch so far, their sum first; None leaves those that are shown.
        """
        self._bar.update(min(self._batch, self._bar.total - self._bar.n))
        if losses is None:
            return
        words = [f"{k.removesuffix('_loss')} {v:.3f}" for k, v in losses.items()]
        score = [] if self.last_score is None else [self.last_score]
        shown = _fitting(self._bar, [*words[:1], *score, *words[1:]])
        self._bar.set_postfix_str(", ".join(shown), refresh=False)
        self._refresh_at = time.monotonic() + _REFRESH_SECONDS

    def stop(self) -> None:
        """Close whatever bar is open."""
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = None

    def _start(self, label: str, total: int, initial: int = 0) -> None:
        self.stop()
        self._context = progress(
            label, total, " images", enabled=self._enabled, initial=initial, brief=True, heeds=False
        )
        self._bar = self._context.__enter__()


def _fitting(bar: Any, words: list[str]) -> list[str]:
    """Return the first ones of what is to be shown, as many as fit into a bar's line whole."""
    if not bar.ncols:
        return words
    # a line that may have any length draws a bar of ten columns, of which one is enough
    bare = bar.format_meter(**{**bar.format_dict, "ncols": None, "postfix": None})
    room = bar.ncols - len(bare) + 9
    ends = itertools.accumulate(len(f", {word}") for word in words)
    return [word for word, end in zip(words, ends, strict=True) if end <= room]
