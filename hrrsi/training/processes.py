"""The processes of a run: how many there are, which one this is, and what they tell each other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from hrrsi.device import chosen_device
from hrrsi.errors import HrrsiError
from hrrsi.training.run_options import RunOptions


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
        HrrsiError: torchrun or SLURM started another number of processes than the options say,
            nobody starts those of several nodes, the batch can't be shared out, or this machine
            has fewer GPUs.
    """
    count = options.devices * options.nodes
    if options.recipe.batch % count:
        raise HrrsiError(
            f"{options.recipe.batch} {options.items} can't be shared out among {count} processes",
            where="--batch",
            fix=f"give a multiple of {count}",
        )
    _check_devices(options)
    environment = _environment(options)
    rank = environment.global_rank()
    if isinstance(environment, LightningEnvironment):
        rank = environment.local_rank()
    return Processes(count, rank, environment)


def accelerator_and_devices(options: RunOptions) -> tuple[str, Any]:
    """Return Lightning's words for the devices of a node: their kind, and which or how many."""
    name, _, number = chosen_device(options.device).partition(":")
    if name == "cpu":
        return "cpu", options.devices
    return "gpu", options.devices if options.devices > 1 or not number else [int(number)]


def gathered(value: Any) -> list[Any]:
    """Return what each process passes, in their order; every process has to call this."""
    if not _are_several():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def told_by(rank: int, value: Any) -> Any:
    """Return what one process passes; every process has to call this."""
    if not _are_several():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=rank)
    return values[0]


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over the processes; every process has to call this."""
    if not _are_several():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def averaged(tensor: torch.Tensor) -> torch.Tensor:
    """Return the mean of a tensor over the processes; every process has to call this."""
    return summed(tensor) / dist.get_world_size() if _are_several() else tensor


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _check_devices(options: RunOptions) -> None:
    name, _, number = chosen_device(options.device).partition(":")
    if name == "cpu" or options.devices == 1:
        return
    if number:
        raise HrrsiError(
            f"{options.devices} processes can't share one GPU",
            where=f"--device {options.device}",
            fix="give --device cuda, or choose GPUs with CUDA_VISIBLE_DEVICES",
        )
    present = torch.cuda.device_count()
    if present < options.devices:
        raise HrrsiError(
            f"there are {present} GPUs here", where=f"--devices {options.devices}", fix="give fewer"
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
            raise HrrsiError(
                "srun doesn't say how many processes a node has",
                where=f"--devices {options.devices}",
                fix=f"start it with --ntasks-per-node={options.devices}",
            )
        # a job that is queued again continues with --resume, whatever ended it
        return SLURMEnvironment(auto_requeue=False)
    if options.nodes > 1:
        raise HrrsiError(
            "nobody started a process on each node",
            where=f"--nodes {options.nodes}",
            fix="start the command with torchrun or with SLURM's srun",
        )
    return LightningEnvironment()


def _require(starter: str, options: RunOptions, world: int, here: int) -> None:
    if (world, here) != (options.devices * options.nodes, options.devices):
        raise HrrsiError(
            f"{starter} started {world} processes, {here} of them on this node",
            where=f"--devices {options.devices} --nodes {options.nodes}",
            fix=f"give --devices {here} --nodes {world // here}",
        )
