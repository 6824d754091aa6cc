"""The steps of a task on the device of this process, by Lightning Fabric; a trial of them.

Device, precision and the sharing of gradients are decided here; the order of things is the loop's.
A trial says what a run would be, writing nothing.
"""

from __future__ import annotations

import ctypes
import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy

from hrrsi.hardware import available_cores
from hrrsi.quantities import byte_text, counted, time_text
from hrrsi.runs.failures import bad_loss_error, run_error
from hrrsi.runs.options import RunOptions
from hrrsi.runs.precision import MIXED, NetworkPrecision
from hrrsi.runs.processes import Processes, accelerator_and_devices
from hrrsi.runs.task import EpochBatches, Task

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def run_fabric(options: RunOptions, processes: Processes | None = None) -> Any:
    """Return the Fabric of a run, whose processes are not started yet.

    Args:
        options: Device, devices and precision.
        processes: The processes of the run; None: this one alone.
    """
    accelerator, devices = accelerator_and_devices(options)
    if accelerator == "cpu":
        keep_freed_memory()
        # torch knows the processor's cores, and not what a container may use of them
        torch.set_num_threads(min(torch.get_num_threads(), available_cores()))
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
    if options.precision in MIXED:
        device = "cpu" if accelerator == "cpu" else "cuda"
        plugins.append(NetworkPrecision(MIXED[options.precision], device))
    return Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=1 if processes is None else options.nodes,
        strategy=strategy,
        plugins=plugins,
    )


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
        """Take back what `state` returned.

        Raises:
            Exception: It is of another task.
        """
        self.task.load_state_dict(state["state_dict"])
        self._optimizer.load_state_dict(state["optimizer"])
        for parameter, own in self._optimizer.state.items():  # torch does not look at these
            for value in own.values():
                if isinstance(value, torch.Tensor) and value.numel() not in (1, parameter.numel()):
                    raise ValueError("the optimiser's state has other shapes than the weights")
        _require_alike(state["schedule"], self._schedule.state_dict())
        self._schedule.load_state_dict(state["schedule"])
        self._fabric.strategy.precision.load_state_dict(state["precision"])


def _require_alike(data: Any, own: Any) -> None:
    """Raise where plain data has other names or types than what it takes the place of.

    Raises:
        ValueError: It has.
    """
    if isinstance(own, Mapping):
        if not isinstance(data, Mapping) or data.keys() != own.keys():
            raise ValueError("other names are there")
        for name, own_value in own.items():
            _require_alike(data[name], own_value)
    elif isinstance(own, list):
        if not isinstance(data, list) or len(data) != len(own):
            raise ValueError("a list is another one")
        for value, own_value in zip(data, own, strict=True):
            _require_alike(value, own_value)
    elif isinstance(own, int | float) and not isinstance(data, int | float):
        raise ValueError(f"{data!r} is no number")


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
