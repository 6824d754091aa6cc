"""The loop of a run: epochs of training and validation, on Lightning Fabric.

`fit` is what `train` and `pretrain` call. All that happens between the first step and the last is
in `Loop`, in its order.
"""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from traceback import clear_frames
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist

from hrrsi.errors import HrrsiError
from hrrsi.interruption import heeding_signals, stop_requested
from hrrsi.progress import EpochProgress
from hrrsi.runs.failures import (
    PeerEndedError,
    SharedError,
    bad_loss_error,
    is_out_of_memory,
    run_error,
)
from hrrsi.runs.folder import (
    OPTIONS,
    Position,
    checkpoint_position,
    random_state,
    replaced_run,
    set_random_state,
    unfit_checkpoint,
    write_checkpoint,
)
from hrrsi.runs.options import LAST_CHECKPOINT, RunOptions
from hrrsi.runs.processes import (
    FlagExchange,
    Processes,
    StepFlags,
    broadcast_from,
    gathered,
)
from hrrsi.runs.record import EpochRecord
from hrrsi.runs.steps import Steps, run_fabric
from hrrsi.runs.task import EpochBatches, Task

# what SLURM sends before it takes a machine away (Windows has none)
_ALSO_STOPPING = [signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []
_REASON_KEY = "hrrsi_has_said_why"  # a key of the store that processes met at
_STORE_SECONDS = 10


class RunStoppedError(Exception):
    """The run was told to stop, and has saved where it is."""


class TrainedStep(NamedTuple):
    """A step that was trained: epoch and step of it, from 1; its batch, and its loss."""

    epoch: int
    step: int
    batch: Any
    loss: torch.Tensor


def fit(
    task: Task,
    training: EpochBatches,
    validation: EpochBatches,
    record: EpochRecord,
    options: RunOptions,
    processes: Processes,
    *,
    checkpoint: Mapping[str, Any] | None,
    checkpoint_seconds: float,
    quiet: bool,
) -> None:
    """Train and validate a task, over all processes, until the end of the run.

    Args:
        task: What is trained.
        training: Batches of an epoch of training.
        validation: Batches of a validation.
        record: Keeps, says and writes what each epoch came to.
        options: Options of the run.
        processes: The processes of the run.
        checkpoint: What the run goes on from; None: it starts.
        checkpoint_seconds: Time between the checkpoints within an epoch.
        quiet: No progress bars.

    Raises:
        HrrsiError: What went wrong, in words of its own.
        KeyboardInterrupt: The run was told to stop, and can be resumed.
        SystemExit: Either of these, where another process says it: in any but the first, or in the
            first where what went wrong is another one's alone.
    """
    fabric = run_fabric(options, processes)
    try:
        validation.start_processes()
        with warnings.catch_warnings():
            # advice on DDP's arguments that a user of the command line can't act on
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            fabric.launch()
            steps = Steps(fabric, task, len(training))
        recipe = options.recipe
        bars = EpochProgress(
            training.images,
            validation.images,
            batch=recipe.batch,
            epochs=recipe.epochs,
            enabled=not quiet,
        )
        loop = Loop(steps, training, validation, record, bars, options, processes)
        loop.run(checkpoint, checkpoint_seconds)
    except BaseException as error:
        _end(error, fabric, options, processes)


class Loop:
    """Trains and validates epoch by epoch, and writes the last checkpoint of the run.

    A checkpoint is written after each epoch, when some time has passed since the one before, and
    after the step that is running when Ctrl-C, SIGTERM or SIGUSR1 arrives. A run that starts from
    one goes on exactly as if it had not been stopped: the checkpoint holds the state of the random
    generators, the place in the epoch, and the sums of the epoch's losses beside weights, optimiser
    and schedule. What else a run leaves is written once the checkpoint after an epoch is there, and
    when a run goes on from one: so it is never ahead of the checkpoint.

    Args:
        steps: The task, ready for its steps.
        training: Batches of an epoch of training.
        validation: Batches of a validation.
        record: Keeps, says and writes what each epoch came to.
        bars: Progress bars.
        options: Options of the run.
        processes: The processes of the run.
    """

    def __init__(
        self,
        steps: Steps,
        training: EpochBatches,
        validation: EpochBatches,
        record: EpochRecord,
        bars: EpochProgress,
        options: RunOptions,
        processes: Processes,
    ) -> None:
        self._steps = steps
        self._task = steps.task
        self._training = training
        self._validation = validation
        self._record = record
        self._bars = bars
        self._options = options
        self._processes = processes
        self._flags = FlagExchange(steps.device, processes.count)
        self._position = Position()
        self._checkpoint_seconds = 0.0
        self._checkpoint_due = 0.0

    def run(self, checkpoint: Mapping[str, Any] | None, checkpoint_seconds: float) -> None:
        """Go through the epochs that are left.

        Args:
            checkpoint: What the run goes on from; None: it starts.
            checkpoint_seconds: Time between the checkpoints within an epoch.

        Raises:
            RunStoppedError: The run was told to stop.
            HrrsiError: A loss is not a number, or the checkpoint is none of this run.
        """
        self._checkpoint_seconds = checkpoint_seconds
        self._checkpoint_due = time.monotonic() + checkpoint_seconds
        with heeding_signals(also=_ALSO_STOPPING), self._bars:
            self._begin(checkpoint)
            while self._position.epoch < self._options.recipe.epochs and not self._record.is_over:
                self._train()
                self._validate()
                self._end_epoch()
            self._record.end(self._task)

    def _begin(self, checkpoint: Mapping[str, Any] | None) -> None:
        self._position = checkpoint_position(checkpoint)
        if checkpoint is None:
            torch.manual_seed(self._options.seed + self._processes.rank)
            return
        try:
            self._restore(checkpoint)
        except Exception as error:  # whatever torch says of tensors of other shapes, and Python
            if is_out_of_memory(error):  # which is no fault of the checkpoint's
                raise
            unfit = unfit_checkpoint(self._options.run_folder / LAST_CHECKPOINT)
            raise SharedError(unfit.what, where=unfit.where, fix=unfit.fix) from error
        if not self._position.batches and self._processes.is_first:
            self._record.write(self._task)  # what a run that was killed did not come to

    def _restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Take back what a checkpoint holds.

        Raises:
            Exception: It is not what this run would have written.
        """
        epochs, batches = self._options.recipe.epochs, len(self._training)
        if self._position.epoch > epochs or self._position.batches > batches:
            raise ValueError(f"{self._position} is past {epochs} epochs of {batches} batches")
        self._steps.load_state(checkpoint)
        self._task.load_counts(checkpoint["counts"])
        self._record.load_state(checkpoint["record"])
        if len(self._record.rows) != self._position.epoch:
            raise ValueError(f"{len(self._record.rows)} rows of metrics at {self._position}")
        if not isinstance(checkpoint["score"], str | None):
            raise ValueError("the score is no text")
        self._bars.last_score = checkpoint["score"]
        if len(checkpoint["random"]) != self._processes.count:
            raise ValueError("it is of another number of processes")
        set_random_state(checkpoint["random"][self._processes.rank])

    def _train(self) -> None:
        epoch, first = self._position.epoch, self._position.batches
        task = self._task
        task.epoch = epoch
        task.train()
        if not first:
            task.start_epoch()
            self._record.start_epoch()
        if first == len(self._training):
            return  # stopped in its validation
        self._training.set_epoch(epoch)
        self._bars.start_training(epoch, first)
        for index, loaded in enumerate(self._training, first):
            batch = self._steps.on_device(loaded)
            loss = self._steps.train(batch, epoch * self._steps.steps + index)
            self._position = Position(epoch, index + 1)
            self._record.see("train", batch)
            self._bars.advance(task.losses if self._bars.is_due else None)
            self._heed(TrainedStep(epoch + 1, index + 1, batch, loss))
        self._heed_last()

    def _validate(self) -> None:
        task = self._task
        task.eval()
        self._record.end_training()
        with torch.no_grad():
            task.start_validation()
        self._bars.start_validation()
        for loaded in self._validation:
            batch = self._steps.on_device(loaded)
            self._steps.validate(batch)
            self._record.see("val", batch)
            self._bars.advance()
            self._heed(None)
        task.end_validation()
        self._record.end_validation(task)
        self._bars.stop()
        self._bars.last_score = task.score

    def _end_epoch(self) -> None:
        self._record.end_epoch(self._task, self._steps.learning_rate)
        flags = self._flags.settled()
        self._position = Position(self._position.epoch + 1, 0)
        self._save()
        if self._processes.is_first:
            self._record.write(self._task)
        if any(gathered(stop_requested())) or (flags is not None and flags.stop):
            raise RunStoppedError

    def _heed(self, step: TrainedStep | None) -> None:
        """Save or stop where that is due; raise where a loss is not a number."""
        flags = self._flags.after_step(
            step,
            None if step is None else step.loss,
            stop=stop_requested(),
            save=time.monotonic() >= self._checkpoint_due,
        )
        if flags is not None:
            self._act(flags)

    def _heed_last(self) -> None:
        """Look at the last step of the epoch before its weights are validated."""
        flags = self._flags.settled()
        if flags is not None:
            self._act(flags)

    def _act(self, flags: StepFlags) -> None:
        self._check_loss(flags)
        if flags.stop or flags.save:
            pending = self._flags.settled()
            if pending is not None:
                self._check_loss(pending)
            self._save()
        if flags.stop:
            raise RunStoppedError

    def _check_loss(self, flags: StepFlags) -> None:
        """Raise what the first process with a loss that is no number finds, in every process.

        Raises:
            SharedError: There is such a loss; the batch is saved.
        """
        bad = flags.bad_process
        if bad is None:
            return
        error = None
        if self._processes.rank == bad:
            epoch, step, batch, loss = flags.step
            error = bad_loss_error(
                batch, loss, self._task.names, epoch=epoch, step=step, options=self._options
            )
        shared: HrrsiError = broadcast_from(bad, error)
        raise SharedError(shared.what, where=shared.where, fix=shared.fix)

    def _save(self) -> None:
        with torch.no_grad():
            self._task.share_statistics()
        content = {
            # what the run was started with; a person may edit its config.yaml
            OPTIONS: self._options.to_config(),
            **self._steps.state(),
            "counts": self._task.counts(),
            "record": self._record.state(),
            "score": self._bars.last_score,
            "random": gathered(random_state()),
        }
        if self._processes.is_first:
            path = self._options.run_folder / LAST_CHECKPOINT
            write_checkpoint(self._position, content, path)
        self._checkpoint_due = time.monotonic() + self._checkpoint_seconds


def _end(error: BaseException, fabric: Any, options: RunOptions, processes: Processes) -> NoReturn:
    """Raise what a user should read, in one process; the others end without a word.

    That is the first one, but for an error that another process has alone.
    """
    _let_go_of_loaders(error)
    if isinstance(error, RunStoppedError | KeyboardInterrupt):
        if not processes.is_first:
            raise SystemExit(0) from None
        raise KeyboardInterrupt(_interruption(options)) from None
    reason = run_error(error, options)
    if processes.is_first:
        launcher = fabric.strategy.launcher
        if launcher is not None:
            for process in launcher.procs:
                process.kill()  # they may be waiting for this process forever
            launcher.procs.clear()  # Fabric would kill this process, too, when it finds them so
        if isinstance(reason, PeerEndedError) and _is_reason_stored(processes):
            raise SystemExit(1) from None
    elif isinstance(error, SharedError):
        # not 1: Fabric and torchrun would kill the first process before it has said why
        raise SystemExit(0) from None
    elif isinstance(reason, PeerEndedError):
        raise SystemExit(1) from None
    elif dist.is_initialized():
        with suppress(dist.DistError):  # the first process ended, too
            _store(processes).set(_REASON_KEY, "")
    if reason is None:
        raise error
    raise reason from error


def _let_go_of_loaders(error: BaseException) -> None:
    """Drop what the frames of an error hold, and of those that led to it.

    Where loading failed, loaders are among it. Their processes end with them, and the program waits
    for these processes when it ends, so it would wait forever.
    """
    errors: list[BaseException | None] = [error]
    cleared: set[int] = set()
    while errors:
        cause = errors.pop()
        if cause is not None and id(cause) not in cleared:
            cleared.add(id(cause))
            clear_frames(cause.__traceback__)
            errors += [cause.__cause__, cause.__context__]


def _is_reason_stored(processes: Processes) -> bool:
    if not dist.is_initialized():
        return False
    is_stored: bool = _store(processes).check([_REASON_KEY])
    return is_stored


def _store(processes: Processes) -> Any:
    """Return the store that the processes met at, which whoever started them keeps."""
    where = processes.environment
    return dist.TCPStore(  # type: ignore[attr-defined]  # documented there, but not exported
        where.main_address, where.main_port, timeout=timedelta(seconds=_STORE_SECONDS)
    )


def _interruption(options: RunOptions) -> str:
    checkpoint = options.run_folder / LAST_CHECKPOINT
    if not checkpoint.is_file():
        has_earlier = replaced_run(options.run_folder).exists()
        return "interrupted before the first checkpoint; " + (
            "the run it was to replace stays" if has_earlier else "start it again"
        )
    return f"interrupted; {checkpoint} holds the run as it was, continue it with `resume=True`"
