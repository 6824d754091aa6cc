"""The processes of a run: who starts them, and what they tell each other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from hrrsi.errors import DeviceError, OptionError
from hrrsi.hardware import chosen_device
from hrrsi.runs.options import RunOptions


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        count: How many, over all nodes.
        rank: Which one this is, from 0; the first one writes and speaks.
        environment: Who starts them: torchrun, SLURM, or the first one the others.
    """

    count: int
    rank: int
    environment: ClusterEnvironment

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0


def run_processes(options: RunOptions) -> Processes:
    """Return the processes of a run, which may not have been started yet.

    Raises:
        OptionError: torchrun or SLURM started another number of processes than the options say,
            nobody starts those of several nodes, or the batch can't be shared out.
        DeviceError: This machine has fewer GPUs.
    """
    count = options.devices * options.nodes
    if options.recipe.batch % count:
        raise OptionError(
            f"{options.recipe.batch} {options.items} can't be shared out among {count} processes",
            parameter="batch",
            fix=f"give a multiple of {count}",
        )
    _check_devices(options)
    environment = _environment(options)
    rank = environment.global_rank()
    if isinstance(environment, LightningEnvironment):
        rank = environment.local_rank()
    return Processes(count, rank, environment)


def accelerator_and_devices(options: RunOptions) -> tuple[str, Any]:
    """Return Fabric's words for the devices of a node: their kind, and which or how many."""
    name, _, number = chosen_device(options.device).partition(":")
    if name == "cpu":
        return "cpu", options.devices
    return "gpu", options.devices if options.devices > 1 or not number else [int(number)]


def check_precision(options: RunOptions) -> None:
    """Raise where the device does not compute in the precision of a run.

    Raises:
        DeviceError: It does not.
    """
    accelerator, _ = accelerator_and_devices(options)
    if accelerator == "cpu" and options.precision == "16":
        raise DeviceError(
            "half precision needs a GPU",
            where="`precision=16`",
            fix="give `precision=bf16` or 32",
        )


def gathered(value: Any) -> list[Any]:
    """Return what each process passes, in their order; every process has to call this."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_from(rank: int, value: Any) -> Any:
    """Return what one process passes; every process has to call this."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=rank)
    return values[0]


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over the processes; every process has to call this."""
    if world_size() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def averaged(tensor: torch.Tensor) -> torch.Tensor:
    """Return the mean of a tensor over the processes; every process has to call this."""
    return summed(tensor) / world_size() if world_size() > 1 else tensor


def rank() -> int:
    """Return which of the processes this one is, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def say_nothing(_line: str) -> None:
    """Report nothing, as all processes but the first do."""


def world_size() -> int:
    """Return how many processes work together, 1 before they have met."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _check_devices(options: RunOptions) -> None:
    name, _, number = chosen_device(options.device).partition(":")
    if name == "cpu" or options.devices == 1:
        return
    if number:
        raise DeviceError(
            f"{options.devices} processes can't share one GPU",
            where=f"`device={options.device}`",
            fix="give `device=cuda`, or choose GPUs with CUDA_VISIBLE_DEVICES",
        )
    present = torch.cuda.device_count()
    if present < options.devices:
        raise DeviceError(
            f"there are {present} GPUs here",
            where=f"`devices={options.devices}`",
            fix="give fewer",
        )


def _environment(options: RunOptions) -> ClusterEnvironment:
    if TorchElasticEnvironment.detect():
        world = int(os.environ["WORLD_SIZE"])
        _require("torchrun", options, world, int(os.environ["LOCAL_WORLD_SIZE"]))
        return TorchElasticEnvironment()
    # Without srun there is but the batch script's own process, whatever SLURM's variables say.
    if "SLURM_STEP_ID" in os.environ and SLURMEnvironment.detect():
        world = int(os.environ["SLURM_NTASKS"])
        _require("srun", options, world, world // int(os.environ.get("SLURM_NNODES", "1")))
        if world > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
            raise OptionError(
                "srun doesn't say how many processes a node has",
                fix=f"start it with --ntasks-per-node={options.devices}",
                parameter="devices",
            ).at(f"`devices={options.devices}`")
        # a job that is queued again continues with --resume, whatever ended it
        return SLURMEnvironment(auto_requeue=False)
    if options.nodes > 1:
        raise OptionError(
            "nobody started a process on each node",
            fix="start the command with torchrun or with SLURM's srun",
            parameter="nodes",
        ).at(f"`nodes={options.nodes}`")
    return LightningEnvironment()


def _require(starter: str, options: RunOptions, world: int, here: int) -> None:
    if (world, here) != (options.devices * options.nodes, options.devices):
        raise OptionError(
            f"{starter} started {world} processes, {here} of them on this node",
            fix=f"give `devices={here}` `nodes={world // here}`",
        ).at(f"`devices={options.devices}` `nodes={options.nodes}`")


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
        own_flags = torch.tensor([0.0, float(stop), float(save)])
        on_gpu = self._device.type == "cuda"
        device_flags = (
            own_flags.pin_memory().to(self._device, non_blocking=True) if on_gpu else own_flags
        )
        if loss is not None:
            device_flags[0] = ~torch.isfinite(loss.detach())
        if self._processes > 1:
            rows = [torch.empty_like(device_flags) for _ in range(self._processes)]
            dist.all_gather(rows, device_flags)
            flags = torch.stack(rows)
        else:
            flags = device_flags[None]
        if not on_gpu:
            return _flags(step, flags)
        before = self.settled()
        host = torch.empty(flags.shape, pin_memory=True)
        host.copy_(flags, non_blocking=True)
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


def _flags(step: Any, flags: torch.Tensor) -> StepFlags:
    rows = flags.tolist()
    bad = [rank for rank, row in enumerate(rows) if row[0]]
    return StepFlags(step, bad[0] if bad else None, any(row[1] for row in rows), bool(rows[0][2]))
