"""What a run would be: everything checked, one step tried, nothing written."""

from __future__ import annotations

import math
import resource
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hrrsi.device import chosen_device
from hrrsi.quantities import byte_text, time_text
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.training.checkpoints import LAST_CHECKPOINT
from hrrsi.training.failures import run_error
from hrrsi.training.first_network import first_network
from hrrsi.training.memory_reuse import keep_freed_memory
from hrrsi.training.module import SegmentationTraining
from hrrsi.training.options import TrainOptions
from hrrsi.training.patch_batches import training_batches, validation_batches
from hrrsi.training.processes import run_processes
from hrrsi.training.run_checks import check_run
from hrrsi.training.run_folder import CONFIG

_AUTOCAST = {"bf16": torch.bfloat16, "16": torch.float16}
_RECORD = ("best.safetensors", "metrics.csv", "curves.png", "environment.yaml", "samples/",
           "tensorboard/")  # fmt: skip


@dataclass(frozen=True)
class RunPlan:
    """What a run would be.

    Attributes:
        options: Its options.
        parameters: Parameters of the network.
        patches: Patches trained on.
        validation_patches: Patches validated on.
        patch: What a patch is, in words.
        steps_per_epoch: Steps of an epoch.
        steps: Steps of the whole run.
        device: Where it computes.
        step_seconds: Time of a step on one process, after the first.
        load_seconds: Time to read and augment its patches, in one process.
        validation_seconds: Time to validate a batch, reading included.
        peak_bytes: Most memory that the step took: of the GPU, or of this process.
        folder: The run folder.
        files: What it would hold.
        notes: What was found on the way, a line each.
    """

    options: TrainOptions
    parameters: int
    patches: int
    validation_patches: int
    patch: str
    steps_per_epoch: int
    steps: int
    device: str
    step_seconds: float
    load_seconds: float
    validation_seconds: float
    peak_bytes: int
    folder: Path
    files: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Estimated time of the whole run, validation included."""
        recipe, workers = self.options.recipe, self.options.workers
        processes = self.options.devices * self.options.nodes
        step = self.step_seconds
        # with workers, patches are read meanwhile
        step = max(step, self.load_seconds / workers) if workers else step + self.load_seconds
        share = max(1, recipe.batch // processes)
        batches = math.ceil(math.ceil(self.validation_patches / processes) / share)
        return self.steps * step + recipe.epochs * batches * self.validation_seconds

    def __str__(self) -> str:
        options, recipe = self.options, self.options.recipe
        processes = options.devices * options.nodes
        shared = f", in {processes} processes" if processes > 1 else ""
        lines = {
            "network": f"{options.model}, {self.parameters:,} parameters",
            "recipe": f"{recipe.name}, {recipe.epochs} epochs of {self.steps_per_epoch:,} steps, "
            f"{self.steps:,} in all, {min(recipe.batch, self.patches)} patches each{shared}",
            "patches": f"{self.patches:,} to train, {self.validation_patches:,} to validate; "
            f"{self.patch}",
            "a step": f"{self.step_seconds:.3g} s on {self.device}; reading and augmenting its "
            f"patches {self.load_seconds:.2g} s, in {options.workers or 'no'} other processes",
            "memory": f"{byte_text(self.peak_bytes)} at its peak",
            "the run": f"about {time_text(self.seconds)}, validation included",
            "files": f"{', '.join(self.files)} in {self.folder}",
        }
        width = max(map(len, lines))
        text = [f"{key:<{width}}  {value}" for key, value in lines.items()]
        return "\n".join([*text, *self.notes, "dry run: nothing was written"])


def planned_run(options: TrainOptions, *, resume: bool = False, overwrite: bool = False) -> RunPlan:
    """Return what a run would be, having checked everything and tried a step and a validation.

    It runs in this process alone, with its share of the batch, and writes nothing.

    Args:
        options: What to train, and how.
        resume: As for `hrrsi.training.run.train`.
        overwrite: Likewise.

    Raises:
        HrrsiError: What `hrrsi.training.run.train` would raise at its start or in a first step.
    """
    dataset = check_run(options, resume=resume, overwrite=overwrite)
    try:
        return _tried(options, dataset)
    except Exception as error:
        known = run_error(error, options)
        if known is None:
            raise
        raise known from error


def _tried(options: TrainOptions, dataset: TiledDataset) -> RunPlan:
    notes: list[str] = []
    network = first_network(
        replace(options, devices=1, nodes=1), dataset, resume=False, report=notes.append
    )
    device = torch.device(chosen_device(options.device))
    if device.type == "cpu":
        keep_freed_memory()  # as the run does
    processes = run_processes(options).count
    here = replace(options, workers=0)
    batches = training_batches(dataset, here, processes=processes)
    steps = options.recipe.epochs * len(batches)
    module = SegmentationTraining(network, options, dataset.description, steps).to(device)
    optimizer = module.configure_optimizers()["optimizer"]
    start = time.perf_counter()
    batch = next(iter(batches))
    load_seconds = time.perf_counter() - start
    step_seconds = 0.0
    for step in range(2):  # the first also prepares: kernels, memory, maybe the compiler
        step_seconds = _timed(device, lambda step=step: _step(module, optimizer, batch, step))
    validation = validation_batches(dataset, here, processes=processes)
    module.eval()

    def validate() -> None:
        with torch.no_grad(), _precision(options, device):
            module.validation_step(_moved(next(iter(validation)), device), 0)

    validate()
    validation_seconds = _timed(device, validate)
    description = dataset.description
    return RunPlan(
        options=options,
        parameters=sum(p.numel() for p in network.parameters()),
        patches=len(batches.dataset),
        validation_patches=len(validation.dataset),
        patch=f"{description.patch_size} px, {', '.join(description.band_names)} "
        f"({description.patch_dtype})",
        steps_per_epoch=len(batches),
        steps=steps,
        device=_device_name(device),
        step_seconds=step_seconds,
        load_seconds=load_seconds,
        validation_seconds=validation_seconds,
        peak_bytes=_peak_bytes(device),
        folder=options.run_folder,
        files=(CONFIG, LAST_CHECKPOINT, *_RECORD),
        notes=tuple(notes),
    )


def _step(module: SegmentationTraining, optimizer: Any, batch: Any, step: int) -> None:
    options, device = module.options, module.device
    with _precision(options, device):
        loss = module.training_step(_moved(batch, device), step)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch lacks it
    optimizer.step()
    module.move_average(step)


def _moved(batch: Any, device: torch.device) -> Any:
    return [tensor.to(device) for tensor in batch]


def _precision(options: TrainOptions, device: torch.device) -> torch.autocast:
    dtype = _AUTOCAST.get(options.precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def _timed(device: torch.device, work: Any) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU with {torch.get_num_threads()} threads"
