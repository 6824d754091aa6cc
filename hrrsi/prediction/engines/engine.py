"""What every engine does, and what engines share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from hrrsi.errors import InputError
from hrrsi.graphs.graph import Floats
from hrrsi.networks.architecture import LogitGrid
from hrrsi.networks.model_meta import ModelMeta

Pixels = npt.NDArray[Any]
_Handle = TypeVar("_Handle")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Engine(Protocol):
    """Runs a network over windows.

    Attributes:
        name: One of `hrrsi.prediction.options.ENGINES` but ``auto``.
        precision: One of `hrrsi.prediction.options.PRECISIONS` but ``auto``.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        meta: What the weights say of themselves.
        logit_grid: Where the logits of a window lie on its pixels.
        side_by_side: Steps of the network that are computed at once, each by threads of its own.
    """

    name: str
    precision: str
    device: str
    meta: ModelMeta
    logit_grid: LogitGrid
    side_by_side: int

    def prepare(self, height: int, width: int) -> None:
        """Begin to get ready for windows of that size, in the type of the weights' scenes.

        It returns at once; whoever calls `logits` waits for the rest.
        """
        ...

    def logits(
        self, windows: Iterable[Pixels | None], gain: Floats, offset: Floats
    ) -> Generator[Floats | None, None, None]:
        """Yield the logits of windows in their order, with several in work at once.

        Args:
            windows: (bands, height, width) each, in the scene's type; None has no logits.
            gain: (1, bands, 1, 1), and
            offset: (1, bands, 1, 1): the network sees pixels * gain + offset.

        Yields:
            (classes, rows, columns) float32, as many as `logit_grid` counts, or None.

        Raises:
            InputError: Logits are not finite.
            DeviceError: Memory is short.
        """
        ...


def in_order(
    items: Iterable[_Item],
    start: Callable[[_Item], _Handle],
    finish: Callable[[_Handle], _Result],
    in_work: int,
) -> Iterator[_Result]:
    """Yield results in the order of their items, with up to `in_work` of them started ahead."""
    started: deque[_Handle] = deque()
    for item in items:
        if len(started) == in_work:
            yield finish(started.popleft())
        started.append(start(item))
    while started:
        yield finish(started.popleft())


def groups(windows: Iterable[Pixels | None], size: int) -> Iterator[list[Pixels | None]]:
    """Yield windows in groups that hold up to `size` with data, of one shape.

    Groups are short where nothing holds data, too: what waits for them should not.
    """
    group: list[Pixels | None] = []
    count = 0
    shape: tuple[int, ...] | None = None
    for window in windows:
        differs = window is not None and shape is not None and window.shape != shape
        if count == size or len(group) >= 4 * size or differs:
            yield group
            group, count, shape = [], 0, None
        group.append(window)
        if window is not None:
            count, shape = count + 1, window.shape
    if group:
        yield group


def checked(logits: Floats) -> Floats:
    """Return logits, if they are finite.

    Raises:
        InputError: They are not.
    """
    if not np.isfinite(logits).all():
        raise InputError(
            "the network's output is not finite: the raster holds values far beyond its scale",
            fix="name the value of pixels without data with `nodata`, or correct `scale`",
        )
    return logits
