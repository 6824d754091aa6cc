"""When a run's last checkpoint is written, what it holds, and how a run stops in between."""

from __future__ import annotations

import io
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO

from hrrsi.errors import HrrsiError
from hrrsi.files import is_full_disk, replacing
from hrrsi.networks.weights import read_tensor_file
from hrrsi.runs.failures import SharedError, bad_loss_error
from hrrsi.runs.options import ENVIRONMENT, RunOptions
from hrrsi.runs.processes import FlagExchange, Processes, StepFlags, gathered, told_by

LAST_CHECKPOINT = "last.ckpt"
CHECKPOINT_SECONDS = 300.0

# Of what runs keep in their checkpoints; another number where a run could not go on from an older
# one as if it had not been stopped.
FORMAT = 1

_FORMAT = "hrrsi_checkpoint"
_POSITION = "position"
_RANDOM = "random"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class RunStoppedError(Exception):
    """The run was told to stop, and has saved where it is."""


@dataclass(frozen=True)
class Position:
    """Where a run is.

    Attributes:
        epoch: Epochs trained and validated.
        batches: Batches trained of the next one.
    """

    epoch: int
    batches: int

    @property
    def is_start(self) -> bool:
        """Whether nothing was trained yet."""
        return self == Position(0, 0)


class Checkpoints(Callback):
    """Writes the last checkpoint of a run, and stops the run where a signal asks for it.

    A checkpoint is written after each epoch, when some time has passed since the one before, and
    after the step that is running when Ctrl-C, SIGTERM or SIGUSR1 (which SLURM sends before it
    takes a machine away) arrives. A run that starts from one goes on exactly as if it had not
    been stopped: the checkpoint holds the state of the random generators, the place in the
    epoch, and the sums of the epoch's losses beside weights, optimiser and schedule.

    Args:
        options: Options of the run.
        processes: The processes of the run.
        names: Names of what is trained on, by index.
        seconds: Time between checkpoints within an epoch.
        write_epoch: Called with the module, by the first process, once the checkpoint after an
            epoch is written, and when a run goes on from one: writes what follows from it, which
            so is never ahead of the checkpoint.
    """

    def __init__(
        self,
        options: RunOptions,
        processes: Processes,
        names: Sequence[str],
        seconds: float,
        write_epoch: Callable[[Any], None],
    ) -> None:
        self._options = options
        self._processes = processes
        self._names = names
        self._seconds = seconds
        self._write_epoch = write_epoch
        self._is_between_epochs = False
        self._due = 0.0
        self._signal: int | None = None
        self._random: Mapping[str, Any] | None = None
        self._flags: FlagExchange

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Write what a run that was killed after an epoch's checkpoint did not come to."""
        if self._is_between_epochs and self._processes.is_first:
            self._write_epoch(pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Listen to signals instead of Lightning, which puts the old handlers back at the end."""
        self._flags = FlagExchange(pl_module.device, self._processes.count)
        self._due = time.monotonic() + self._seconds
        # Lightning would make the device wait for all processes before each step
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        if self._random is None:
            torch.manual_seed(self._options.seed + self._processes.rank)
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._take_signal)

    def on_train_batch_start(self, *_: Any) -> None:
        """Continue with the random numbers of the run that was stopped."""
        if self._random:
            _set_random_state(self._random)
            self._random = {}

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save or stop where that is due; raise where the loss is not a number."""
        loss = outputs["loss"]
        step = (trainer.current_epoch + 1, batch_idx + 1, batch, loss)
        self._heed(trainer, pl_module, step, loss)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Look at the last step of the epoch before its weights are validated."""
        flags = self._flags.settled()
        if flags is not None:
            self._act(trainer, pl_module, flags)

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
        """Save or stop where that is due; the validation begins again with the next start."""
        self._heed(trainer, pl_module, None, None)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Save the run as it is between two epochs, and stop where that was asked for."""
        flags = self._flags.settled()
        self._save(trainer, pl_module)
        if self._processes.is_first:
            self._write_epoch(pl_module)
        if any(gathered(self._signal is not None)) or (flags is not None and flags.stop):
            raise RunStoppedError

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the format, the place in the epoch and the random generators' states."""
        checkpoint[_FORMAT] = FORMAT
        fit = checkpoint["loops"]["fit_loop"]
        epochs, batches = fit["epoch_progress"]["current"], fit["epoch_loop.batch_progress"]
        is_between_epochs = epochs["processed"] == epochs["ready"]
        done = 0 if is_between_epochs else batches["current"]["processed"]
        checkpoint[_POSITION] = {"epoch": epochs["processed"], "batches": done}
        if not is_between_epochs and batches["is_last_batch"]:
            _begin_validation_again(fit)
        checkpoint[_RANDOM] = gathered(_random_state())

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Take the random generators' states, and whether an epoch was over."""
        self._random = checkpoint[_RANDOM][self._processes.rank]
        self._is_between_epochs = not checkpoint[_POSITION]["batches"]

    def _take_signal(self, number: int, _frame: Any) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # Ctrl-C twice: at once, without another checkpoint
        self._signal = number

    def _heed(self, trainer: Any, module: Any, step: Any, loss: torch.Tensor | None) -> None:
        flags = self._flags.after_step(
            step, loss, stop=self._signal is not None, save=time.monotonic() >= self._due
        )
        if flags is not None:
            self._act(trainer, module, flags)

    def _act(self, trainer: Any, module: Any, flags: StepFlags) -> None:
        if flags.bad_process is not None:
            raise self._bad_loss(flags)
        if flags.stop or flags.save:
            pending = self._flags.settled()
            if pending is not None and pending.bad_process is not None:
                raise self._bad_loss(pending)
            self._save(trainer, module)
        if flags.stop:
            raise RunStoppedError

    def _bad_loss(self, flags: StepFlags) -> HrrsiError:
        """Return the error that the first process with such a loss has, in every process."""
        error = None
        bad = flags.bad_process
        assert bad is not None
        if self._processes.rank == bad:
            epoch, step, batch, loss = flags.step
            error = bad_loss_error(
                batch, loss, self._names, epoch=epoch, step=step, options=self._options
            )
        told: HrrsiError = told_by(bad, error)
        return SharedError(told.what, where=told.where, fix=told.fix)

    def _save(self, trainer: Any, module: Any) -> None:
        module.share_statistics()
        trainer.save_checkpoint(self._options.run_folder / LAST_CHECKPOINT)
        self._due = time.monotonic() + self._seconds


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints that are whole under their name, wherever temporary files live."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; a full disk leaves the one before.

        Raises:
            HrrsiError: The disk is full.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        path = Path(path)
        try:
            with replacing(path) as temporary:
                temporary.write_bytes(content.getbuffer())
        except OSError as error:
            if not is_full_disk(error):
                raise
            kept = "the checkpoint before is whole; " if path.exists() else ""
            raise HrrsiError(
                "the disk is full",
                where=path,
                fix=f"{kept}free {content.tell() / 2**20:.0f} MB, and "
                + ("continue with --resume" if kept else "start again"),
            ) from error


def checkpoint_position(path: Path) -> Position:
    """Return where the run is that a checkpoint holds.

    Raises:
        HrrsiError: The file is no checkpoint of a run, or one of another version of hrrsi.
    """
    checkpoint = read_tensor_file(path)
    position = checkpoint.get(_POSITION) if isinstance(checkpoint, dict) else None
    if not isinstance(checkpoint, dict) or not isinstance(position, dict):
        raise HrrsiError(
            "is not a checkpoint", where=path, fix="start the run again with --overwrite"
        )
    found = checkpoint.get(_FORMAT)
    if found != FORMAT:
        raise HrrsiError(
            f"has {'no format number' if found is None else f'format {found}'} where this version "
            f"of hrrsi continues from format {FORMAT}",
            where=path,
            fix=f"continue with the version that {ENVIRONMENT} beside it names, or start the run "
            "again with --overwrite",
        )
    return Position(int(position["epoch"]), int(position["batches"]))


def _begin_validation_again(fit: dict[str, Any]) -> None:
    """Make Lightning's counters say that the epoch's last batch is done, and no validation.

    Counters of a validation in progress would make it skip as many batches; those of one that
    has not begun make it skip the validation.
    """
    batches = fit["epoch_loop.batch_progress"]
    for counts in (batches["total"], batches["current"]):
        counts["completed"] = counts["processed"]
    started = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    fit["epoch_loop.val_loop.batch_progress"] = {
        "total": dict(started),
        "current": dict(started),
        "is_last_batch": False,
    }


def _random_state() -> dict[str, Any]:
    _, keys, position, has_gauss, gauss = np.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": {
            "keys": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            "rest": [int(position), int(has_gauss), float(gauss)],
        },
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    keys = state["numpy"]["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, *state["numpy"]["rest"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
