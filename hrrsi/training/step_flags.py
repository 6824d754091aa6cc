"""What all processes have to know after a step, found out without making a GPU wait."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist


class StepFlags(NamedTuple):
    """What came up in a step, in any process.

    Attributes:
        step: What was passed with the step.
        bad_process: The first process whose loss is not a number, or None.
        stop: A process was told to stop.
        save: The first process finds it is time for a checkpoint.
    """

    step: Any
    bad_process: int | None
    stop: bool
    save: bool


class FlagExchange:
    """Tells each process, at the same step, what came up in any of them.

    On the CPU that is known at once. On a GPU a step is looked at when the next one has been
    queued, so the device never runs dry.

    Args:
        device: Where the losses are.
        processes: How many there are.
    """

    def __init__(self, device: torch.device, processes: int) -> None:
        self._device = device
        self._processes = processes
        self._pending: tuple[Any, torch.Tensor, torch.cuda.Event] | None = None

    def after_step(
        self, step: Any, loss: torch.Tensor | None, *, stop: bool, save: bool
    ) -> StepFlags | None:
        """Return what came up: in this step on the CPU, in the one before on a GPU.

        Every process has to call this after the same steps.

        Args:
            step: Comes back with the flags of this step.
            loss: The step's loss; None where there is none.
            stop: Whether this process was told to stop.
            save: Whether this process finds it is time for a checkpoint.
        """
        told = torch.tensor([0.0, float(stop), float(save)])
        on_gpu = self._device.type == "cuda"
        mine = told.pin_memory().to(self._device, non_blocking=True) if on_gpu else told
        if loss is not None:
            mine[0] = ~torch.isfinite(loss.detach())
        if self._processes > 1:
            rows = [torch.empty_like(mine) for _ in range(self._processes)]
            dist.all_gather(rows, mine)
            found = torch.stack(rows)
        else:
            found = mine[None]
        if not on_gpu:
            return _flags(step, found)
        before = self.settled()
        host = torch.empty(found.shape, pin_memory=True)
        host.copy_(found, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch lacks it
        event.record()
        self._pending = (step, host, event)
        return before

    def settled(self) -> StepFlags | None:
        """Return what came up in a step that was not looked at yet, once it is done."""
        if self._pending is None:
            return None
        step, host, event = self._pending
        self._pending = None
        event.synchronize()
        return _flags(step, host)


def _flags(step: Any, found: torch.Tensor) -> StepFlags:
    rows = found.tolist()
    bad = [rank for rank, row in enumerate(rows) if row[0]]
    return StepFlags(step, bad[0] if bad else None, any(row[1] for row in rows), bool(rows[0][2]))
