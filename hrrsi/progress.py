"""Progress bars: on a terminal, and only there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


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
) -> Iterator[Any]:
    """Yield a tqdm bar on standard error with an estimate of the time left.

    It shows nothing where standard error is not a terminal, so logs stay clean.

    Args:
        what: What is being done, e.g. ``"tiling"``.
        total: Units in all, or None where unknown.
        unit: What is counted, e.g. ``" Mpx"``.
        scale: Count fractions, with one decimal.
        enabled: False shows nothing.
        done: Units that were done earlier.
        brief: Leave room in 80 columns for what is set as the bar's postfix.
    """
    numbers = "{n:.1f}/{total:.1f}" if scale else "{n:.0f}/{total_fmt}"
    figures = numbers + "{unit} [{elapsed} elapsed, {remaining} left, {rate_fmt}{postfix}]"
    with tqdm(
        desc=what,
        total=total,
        initial=done,
        unit=unit,
        disable=None if enabled else True,
        leave=False,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| "
        + ("[{remaining} left, {rate_fmt}{postfix}]" if brief else figures),
    ) as bar:
        yield bar
