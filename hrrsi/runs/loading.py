"""Batches epoch by epoch, and the processes that load them."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol, Self

from torch.utils.data import DataLoader

# torch advises against more processes than cores; how many there are is what --workers says
warnings.filterwarnings("ignore", message="This DataLoader will create")


class EpochOrder(Protocol):
    """An order of what is loaded that is another one in each epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration is one of, from 0."""


class EpochBatches:
    """Batches of one epoch after the other, whose loading processes end when it is closed.

    Args:
        loader: Loads the batches of an epoch. Nothing else may hold on to it: its processes end
            with it.
        images: Images or patches of an epoch, over all processes of the run.
        order: Told each epoch; None where all epochs are alike.

    Attributes:
        images: Images or patches of an epoch, over all processes of the run.
        order: Told each epoch, or None.
    """

    def __init__(self, loader: Any, images: int, order: EpochOrder | None = None) -> None:
        self.images = images
        self._loader = loader
        self.order = order
        self._length = len(loader)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loader)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields, from 0."""
        if self.order is not None:
            self.order.set_epoch(epoch)

    def start_processes(self) -> None:
        """Start the loading processes now instead of with the first batch.

        A process starts as a copy of the run, and a run that has trained holds gigabytes, each
        page of which then costs a copy when it is next written: seconds on a processor.
        """
        if isinstance(self._loader, DataLoader) and self._loader.persistent_workers:
            iter(self._loader)

    def close(self) -> None:
        """End the loading processes: left to themselves, they keep the program from ending."""
        self._loader = ()


def leave_signals_to_the_run(_worker: int = 0) -> None:
    """Make a loading process go on until the run itself ends it.

    Ctrl-C and a cluster's signals reach every process; the run itself decides when to stop.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):  # not on Windows
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # (a second SIGTERM is multiprocessing's, which waits for the process to end)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
