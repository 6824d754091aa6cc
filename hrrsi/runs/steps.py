"""The steps of a task on the device of this process, by Lightning Fabric.

Device, precision and the sharing of gradients are decided here; the order of things is the loop's.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from lightning.fabric.strategies.ddp import DDPStrategy

from hrrsi.runs.options import RunOptions
from hrrsi.runs.processes import Processes, accelerator_and_devices
from hrrsi.runs.task import Task

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1
_MIXED: dict[str, Any] = {"bf16": "bf16-mixed", "16": "16-mixed"}
_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def run_fabric(options: RunOptions, processes: Processes | None = None) -> Any:
    """Return the Fabric of a run, whose processes are not started yet.

    Args:
        options: Device, devices and precision.
        processes: The processes of the run; None: this one alone.
    """
    accelerator, devices = accelerator_and_devices(options)
    if accelerator == "cpu":
        keep_freed_memory()
    torch.backends.cudnn.benchmark = accelerator == "gpu"  # every batch has one size
    strategy: Any = "auto"
    plugins: list[Any] = []
    if processes is None:
        devices = devices if isinstance(devices, list) else 1
    else:
        plugins.append(processes.environment)
        if processes.count > 1:
            strategy = DDPStrategy(
                # running statistics are averaged before they are used, not copied before each step
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )
    if options.precision in _MIXED:
        device = "cpu" if accelerator == "cpu" else "cuda"
        plugins.append(NetworkPrecision(_MIXED[options.precision], device))
    return Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=1 if processes is None else options.nodes,
        strategy=strategy,
        plugins=plugins,
    )


class NetworkPrecision(MixedPrecision):
    """Mixed precision that starts behind the normalisation: heights keep their digits till then."""

    def convert_input(self, data: Any) -> Any:
        """Return the data as it is, where Fabric would round it."""
        return data

    def forward_context(self) -> AbstractContextManager[Any]:
        """Return autocast without its cache, which no weight of these networks is found in."""
        return torch.autocast(self.device, dtype=_AUTOCAST[self.precision], cache_enabled=False)


def step_precision(options: RunOptions, device: torch.device) -> AbstractContextManager[Any]:
    """Return what the work of a step is computed in, for work beside it."""
    if options.precision in _MIXED:
        return NetworkPrecision(_MIXED[options.precision], device.type).forward_context()
    return nullcontext()


class Steps:
    """The steps of a task on the device of this process, one by one.

    Args:
        fabric: Launched, where there are other processes.
        task: What is trained; it moves to the device.
        steps: Steps of an epoch.

    Attributes:
        task: What is trained.
        steps: Steps of an epoch.
    """

    def __init__(self, fabric: Any, task: Task, steps: int) -> None:
        self.task = task
        self.steps = steps
        self._fabric = fabric
        self._optimizer, self._schedule = task.optimizer_and_schedule()
        self._shared_task, self._stepper = fabric.setup(task, self._optimizer)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device: torch.device = self._fabric.device
        return device

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        rate: float = self._optimizer.param_groups[0]["lr"]
        return rate

    def on_device(self, batch: Any) -> Any:
        """Return a batch on the device."""
        return self._fabric.to_device(batch)

    def train(self, batch: Any, step: int) -> torch.Tensor:
        """Make a step, and return its loss.

        Args:
            batch: A batch on the device.
            step: Steps of the run done before.
        """
        loss: torch.Tensor = self._shared_task(batch)
        self._stepper.zero_grad()
        self._fabric.backward(loss)
        self.task.before_step()
        self._stepper.step()
        self.task.after_step(step)
        self._schedule.step()
        return loss.detach()

    def validate(self, batch: Any) -> None:
        """Validate a batch that is on the device."""
        with torch.inference_mode(), self._fabric.autocast():
            self.task.validate(batch)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of task, optimiser, schedule and precision."""
        return {
            "state_dict": self.task.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "precision": self._fabric.strategy.precision.state_dict(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self.task.load_state_dict(state["state_dict"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._fabric.strategy.precision.load_state_dict(state["precision"])


def keep_freed_memory() -> None:
    """Let the allocator keep what tensors on the processor free, instead of giving it back.

    By default glibc takes large blocks from the system and gives them back each time, and the
    system clears each page that it hands out: a third of the time of a training step on a
    processor. The process keeps its highest amount of memory from then on. Elsewhere than on
    Linux with glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_MMAP_MAX, 0)


# In half precision the first step may be left out, its gradients too large for the scale that is
# still being found; the schedule moves on, as it should.
warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler\.step\(\)` before")

# Fabric announces devices and ranks, compiling that there is no CUDA; the command line has its own
# words.
for _name in (
    "lightning.fabric",
    "lightning.pytorch.utilities.rank_zero",  # whose import gives its logger to Fabric, too
    "torch.utils.cpp_extension",
):
    logging.getLogger(_name).setLevel(logging.ERROR)
