"""Progress of long work: bars on a terminal, and only there; steps that heed a request to stop."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from hrrsi.errors import printable
from hrrsi.interruption import stop_if_requested


class _Bar(tqdm):  # type: ignore[misc]  # without hints
    def __init__(self, *, heeds: bool, **named: Any) -> None:
        self._heeds = heeds
        super().__init__(**named)

    def update(self, n: float | None = 1) -> None:
        if self._heeds:
            stop_if_requested()
        super().update(n)


@contextmanager
def progress(
    what: str,
    total: float | None,
    unit: str,
    *,
    scale: bool = False,
    enabled: bool = True,
    done: float = 0,
    brief: bool = False,
    heeds: bool = True,
) -> Iterator[Any]:
    """Yield a tqdm bar on standard error with an estimate of the time left.

    It shows nothing where standard error is not a terminal, so logs stay clean. Shown or not, its
    `update` is where work stops that Ctrl-C or SIGTERM has asked to (`hrrsi.interruption`).

    Args:
        what: What is being done, e.g. ``"tiling"``.
        total: Units in all, or None where unknown.
        unit: What is counted, e.g. ``" Mpx"``.
        scale: Count fractions, with one decimal.
        enabled: False shows nothing.
        done: Units that were done earlier.
        brief: Leave room in 80 columns for what is set as the bar's postfix.
        heeds: Whether its `update` raises KeyboardInterrupt once a signal has asked to stop.
    """
    numbers = "{n:.1f}/{total:.1f}" if scale else "{n:.0f}/{total_fmt}"
    figures = numbers + "{unit} [{elapsed} elapsed, {remaining} left, {rate_fmt}{postfix}]"
    with _Bar(
        heeds=heeds,
        desc=printable(what),
        total=total,
        initial=done,
        unit=unit,
        disable=None if enabled else True,
        leave=False,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| "
        + ("[{remaining} left, {rate_fmt}{postfix}]" if brief else figures),
    ) as bar:
        yield bar
