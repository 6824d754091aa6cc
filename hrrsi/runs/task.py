"""What a run trains, whichever kind it is: `train` and `pretrain` are two tasks of one loop."""

from __future__ import annotations

import signal
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self

import torch
from torch import nn
from torch.utils.data import DataLoader

from hrrsi.runs.processes import averaged

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

    def __exit__(self, *_: object) -> None:
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


class Task(nn.Module, ABC):
    """A network with its losses and scores; called with a batch, it returns the loss to minimise.

    Args:
        names: Names of what is trained on, by index.

    Attributes:
        names: Likewise.
        epoch: The running epoch, from 0.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        super().__init__()
        self.names = names
        self.epoch = 0

    @property
    @abstractmethod
    def losses(self) -> dict[str, float]:
        """Means of the losses of this epoch so far, their sum first.

        Of this process' steps, and from validation on of those of all processes.
        """

    @property
    @abstractmethod
    def score(self) -> str:
        """The last validation's score in words, e.g. ``"mIoU 43.21"``."""

    @abstractmethod
    def optimizer_and_schedule(
        self,
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Return the optimiser, and the learning rate's schedule, which moves each step."""

    @abstractmethod
    def forward(self, batch: Any) -> torch.Tensor:
        """Return the loss of a batch that is trained on, and count it."""

    @abstractmethod
    def start_epoch(self) -> None:
        """Forget the counts of the last epoch's training."""

    @abstractmethod
    def before_step(self) -> None:
        """Change gradients before the optimiser uses them."""

    @abstractmethod
    def after_step(self, step: int) -> None:
        """Follow the weights after a step.

        Args:
            step: Steps of the run done before.
        """

    @abstractmethod
    def start_validation(self) -> None:
        """Forget the counts of the last validation; share what was trained between processes.

        It may come twice in an epoch, where a run was stopped within its validation.
        """

    @abstractmethod
    def validate(self, batch: Any) -> None:
        """Count a batch that is validated on."""

    @abstractmethod
    def end_validation(self) -> None:
        """Add up the counts of all processes."""

    def share_statistics(self) -> None:
        """Average running statistics of BatchNorms over the processes, which each have their own.

        Every process has to call this.
        """
        for buffer in self.network_buffers():
            if buffer.is_floating_point():
                buffer.copy_(averaged(buffer))

    @abstractmethod
    def network_buffers(self) -> list[torch.Tensor]:
        """Return the buffers of what is trained that each process has of its own."""

    @abstractmethod
    def counts(self) -> dict[str, Any]:
        """Return the counts of the running epoch, of each process, as plain data and tensors.

        Every process has to call this.
        """

    @abstractmethod
    def load_counts(self, counts: dict[str, Any]) -> None:
        """Take back what `counts` returned."""
