"""What a run trains, whichever kind it is: `train` and `pretrain` are two tasks of one loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hrrsi.runs.processes import averaged


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
