"""What a run would be, of whichever kind: one step tried, nothing written."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from hrrsi.quantities import byte_text, counted, time_text
from hrrsi.runs.failures import bad_loss_error, run_error
from hrrsi.runs.options import RunOptions
from hrrsi.runs.steps import Steps, run_fabric
from hrrsi.runs.task import EpochBatches, Task


@dataclass(frozen=True)
class Trial:
    """What a step and a validation took that were tried.

    Attributes:
        device: Where it computed, in words.
        step_seconds: Time of a step on one process, after the first.
        load_seconds: Time to read and augment its images, in one process.
        validation_seconds: Time to validate a batch, reading included.
        peak_bytes: Most memory that the step took: of the GPU, or of this process; 0: unknown
            (of a process on Windows).
    """

    device: str
    step_seconds: float
    load_seconds: float
    validation_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class RunPlan:
    """What a run would be.

    Attributes:
        options: Its options.
        parameters: Parameters of the network.
        about: What its kind has to say of recipe and data: titles, and a line each.
        images: Images or patches trained on.
        left_out: How many of them each epoch leaves out: other ones each time.
        validation_images: Images or patches validated on.
        steps_per_epoch: Steps of an epoch.
        trial: What was tried.
        files: What the run folder would hold.
        notes: What was found on the way, a line each.
    """

    options: RunOptions
    parameters: int
    about: Mapping[str, str]
    images: int
    left_out: int
    validation_images: int
    steps_per_epoch: int
    trial: Trial
    files: Sequence[str]
    notes: Sequence[str]

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.options.recipe.epochs * self.steps_per_epoch

    @property
    def seconds(self) -> float:
        """Estimated time of the whole run, validation included."""
        recipe, workers, trial = self.options.recipe, self.options.workers, self.trial
        processes = self.options.devices * self.options.nodes
        step = trial.step_seconds
        # with workers, images are read meanwhile
        step = max(step, trial.load_seconds / workers) if workers else step + trial.load_seconds
        share = max(1, recipe.batch // processes)
        batches = math.ceil(math.ceil(self.validation_images / processes) / share)
        return self.steps * step + recipe.epochs * batches * trial.validation_seconds

    def __str__(self) -> str:
        options, recipe, trial = self.options, self.options.recipe, self.trial
        processes = options.devices * options.nodes
        left_out = (
            f" ({self.left_out:,} of them left out of each epoch, others each time: they don't "
            "fill a step)"
            if self.left_out
            else ""
        )
        lines = {
            "network": f"{options.model}, {self.parameters:,} parameters",
            **self.about,
            options.items: f"{self.images:,} to train on{left_out}, {self.validation_images:,} to "
            f"validate on; {min(recipe.batch, self.images):,} a step"
            + (f", in {processes} processes" if processes > 1 else ""),
            "steps": f"{counted(recipe.epochs, 'epoch')} of "
            f"{counted(self.steps_per_epoch, 'step')}, {self.steps:,} in all",
            "a step": f"{trial.step_seconds:.3g} s on {trial.device} in precision "
            f"{options.precision}; reading its {options.items} {trial.load_seconds:.2g} s, with "
            f"{counted(options.workers, 'worker')}",
            **(
                {"memory": f"{byte_text(trial.peak_bytes)} at its peak"} if trial.peak_bytes else {}
            ),
            "the run": f"about {time_text(self.seconds)}, validation included",
            "files": f"{', '.join(self.files)} in {options.run_folder}",
        }
        width = max(map(len, lines))
        text = [f"{key:<{width}}  {value}" for key, value in lines.items()]
        return "\n".join([*text, *self.notes, "dry run: nothing was written"])


def tried(
    task: Task, training: EpochBatches, validation: EpochBatches, options: RunOptions
) -> Trial:
    """Return what a step and a validation take, in this process alone.

    Args:
        task: What is trained.
        training: Batches of an epoch of training, read in this process.
        validation: Batches of a validation, likewise.
        options: Options of the run.

    Raises:
        HrrsiError: What the run would raise in its first steps: a loss that is not a number, too
            little memory, images that can't be read.
    """
    fabric = run_fabric(options)
    fabric.launch()
    with _words_of_the_run(options):
        steps = Steps(fabric, task, len(training))
        device = steps.device
        task.train()
        start = time.perf_counter()
        batch = next(iter(training))
        load_seconds = time.perf_counter() - start

        def train(step: int) -> None:
            loss = steps.train(steps.on_device(batch), step)
            if not math.isfinite(float(loss)):
                raise bad_loss_error(
                    batch, loss, task.names, epoch=1, step=step + 1, options=options, save=False
                )

        def validate() -> None:
            steps.validate(steps.on_device(next(iter(validation))))

        step_seconds = 0.0
        for step in range(2):  # the first also prepares: kernels, memory, maybe the compiler
            step_seconds = timed(device, partial(train, step))
        task.eval()
        validate()
        return Trial(
            device=_device_name(device),
            step_seconds=step_seconds,
            load_seconds=load_seconds,
            validation_seconds=timed(device, validate),
            peak_bytes=_peak_bytes(device),
        )


@contextmanager
def _words_of_the_run(options: RunOptions) -> Iterator[None]:
    """Raise what goes wrong as the run itself would."""
    try:
        yield
    except Exception as error:
        reason = run_error(error, options)
        if reason is None:
            raise
        raise reason from error


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Return the seconds that some work takes on a device."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if sys.platform == "win32":
        return 0
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU with {counted(torch.get_num_threads(), 'thread')}"
