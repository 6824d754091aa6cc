"""The folder of a run: held while it works, begun, replaced, recognised as the same run.

Its last checkpoint: what it holds, and how it is written and read.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hrrsi.errors import HrrsiError, InputError, OutputError, OutputExistsError, WeightsError
from hrrsi.files import (
    check_unlocked,
    dump_yaml,
    is_full_disk,
    is_leftover,
    locked,
    prepare_folder,
    read_yaml,
    refuse_foreign,
    remove,
    replacing,
)
from hrrsi.networks.weights import read_tensor_file
from hrrsi.networks.weights_file import BEST_WEIGHTS, ENCODER_WEIGHTS, RUN_CHECKPOINT
from hrrsi.quantities import counted, names_text
from hrrsi.runs.options import (
    CONFIG,
    CURVES,
    ENVIRONMENT,
    LAST_CHECKPOINT,
    METRICS,
    NAN_BATCH,
    SAMPLES,
    TENSORBOARD,
    RunOptions,
    plain_value,
)
from hrrsi.runs.processes import Processes
from hrrsi.runs.record import EPOCHS_SINCE_BEST

# What a resumed run may change: the rest would make its curve another one.
# (Data and teachers may lie elsewhere; their digests are compared.)
_FREE_ON_RESUME = ("data", "teachers", "out", "device", "workers", "patience")
# Of what runs keep in their checkpoints; another number where a run could not go on from an older
# one as if it had not been stopped.
FORMAT = 3

OPTIONS = "options"  # in a checkpoint: those of its run, as its config.yaml had them
_POSITION = "position"
# of `train`, of `pretrain`, or of both
_OWN_NAMES = (
    *(CONFIG, LAST_CHECKPOINT, ENVIRONMENT, METRICS, NAN_BATCH, BEST_WEIGHTS, ENCODER_WEIGHTS),
    *(CURVES, SAMPLES, TENSORBOARD),
)


def check_folder(options: RunOptions, *, resume: bool, overwrite: bool) -> None:
    """Raise where a run can't have its folder; nothing is changed.

    Args:
        options: Options of the run.
        resume: Whether a run that is there is continued.
        overwrite: Whether a run that is there is replaced.

    Raises:
        HrrsiError: It can't be made, another process works in it, or it holds something else, a run
            that may not be replaced, or one that was started with other options.
    """
    _check_place(options.run_folder)
    check_unlocked(options.run_folder)
    _check_content(options, resume=resume, overwrite=overwrite)


@contextmanager
def _held_folder(
    options: RunOptions, processes: Processes, *, resume: bool, overwrite: bool
) -> Iterator[None]:
    """Keep other commands from a run's folder until the block ends.

    At its start and its end, a run that was replaced is dropped once the new one has a
    checkpoint, else put back. Only the first process does all this.

    Raises:
        HrrsiError: As `check_folder`.
    """
    if not processes.is_first:
        yield
        return
    with locked(options.run_folder):
        _settle_replaced(options.run_folder)  # of a process that was killed
        _check_content(options, resume=resume, overwrite=overwrite)
        try:
            yield
        finally:
            _settle_replaced(options.run_folder)


class RunStart(NamedTuple):
    """Where a run begins.

    Attributes:
        checkpoint: What it goes on from; None where it starts.
        share: Which part of the images this process takes, as loaders name it.
        first: The first batch to train on, likewise.
    """

    checkpoint: dict[str, Any] | None
    share: dict[str, int]
    first: dict[str, int]


@contextmanager
def run_start(
    options: RunOptions, processes: Processes, *, resume: bool, overwrite: bool
) -> Iterator[RunStart]:
    """Yield where a run begins, whose folder is held until the block ends.

    Args:
        options: Options of the run.
        processes: The processes of the run.
        resume: As for `check_folder`.
        overwrite: Likewise.

    Raises:
        HrrsiError: As `check_folder`, or its last checkpoint is none.
    """
    with _held_folder(options, processes, resume=resume, overwrite=overwrite):
        checkpoint = starting_checkpoint(options, resume=resume)
        position = checkpoint_position(checkpoint)
        share = {"rank": processes.rank, "processes": processes.count}
        first = {"epoch": position.epoch, "first": position.batches}
        yield RunStart(checkpoint, share, first)


def starting_checkpoint(options: RunOptions, *, resume: bool) -> dict[str, Any] | None:
    """Return the checkpoint that a run goes on from; None where it starts.

    Raises:
        InputError: Its last checkpoint is none.
    """
    if not has_checkpoint(options, resume=resume):
        return None
    return read_checkpoint(_present_run(options.run_folder) / LAST_CHECKPOINT)


def has_checkpoint(options: RunOptions, *, resume: bool) -> bool:
    """Return whether a run goes on from a checkpoint, where it may be resumed."""
    return resume and (_present_run(options.run_folder) / LAST_CHECKPOINT).is_file()


def starting_line(options: RunOptions, checkpoint: Mapping[str, Any] | None, steps: int) -> str:
    """Return what a resumed run says of where it begins.

    Args:
        options: Options of the run.
        checkpoint: What it goes on from; None where it starts.
        steps: Steps of an epoch.
    """
    if checkpoint is None:
        return f"{options.run_folder}: there is no checkpoint to go on from, so it starts"
    return f"{options.run_folder}: {_resumed(options, checkpoint, steps)}"


def present_run_notes(
    options: RunOptions, *, resume: bool, overwrite: bool, steps: int
) -> list[str]:
    """Return what would become of a run that is there, for one that is only planned.

    Args:
        options: Options of the run.
        resume: Whether it is to be continued.
        overwrite: Whether it is to be replaced.
        steps: Steps of an epoch.
    """
    if not has_checkpoint(options, resume=True):
        return []
    holds = f"{options.run_folder} holds a run already"
    if overwrite:
        return [f"note: {holds}, which `overwrite=True` replaces"]
    try:
        _check_same_run(options, _present_run(options.run_folder))
        checkpoint = starting_checkpoint(options, resume=True)
        resumed = f"it {_resumed(options, checkpoint or {}, steps)}"
    except HrrsiError as error:
        resumed = f"it is refused, too: it {error.what}"
    if resume:
        return [f"note: {holds}; with `resume=True` {resumed}"]
    return [
        f"warning: {holds}, so the run would be refused; with `resume=True` {resumed}; "
        "`overwrite=True` would replace it"
    ]


def start_folder(options: RunOptions) -> None:
    """Begin a run's folder; what it replaces waits beside it until `run_start` ends."""
    folder = options.run_folder
    if folder.exists():
        folder.rename(replaced_run(folder))
    prepare_folder(folder)
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(dump_yaml(options.to_config()), encoding="utf-8")


def replaced_run(folder: Path) -> Path:
    """Return where a run waits that another one replaces."""
    return folder.with_name(f".{folder.name}.replaced")


def _present_run(folder: Path) -> Path:
    """Return the run of a folder: the replaced one while the new one has no checkpoint."""
    replaced = replaced_run(folder)
    return replaced if replaced.exists() and not (folder / LAST_CHECKPOINT).exists() else folder


def _settle_replaced(folder: Path) -> None:
    """Drop a replaced run once the new one has a checkpoint, else put it back.

    A batch whose loss was not a number is kept with the run that is put back.
    """
    replaced = replaced_run(folder)
    if not replaced.exists():
        return
    if _present_run(folder) == folder:
        remove(replaced)
        return
    bad_batch = folder / NAN_BATCH
    if bad_batch.exists():
        bad_batch.replace(replaced / NAN_BATCH)
    remove(folder)
    replaced.rename(folder)


def _check_content(options: RunOptions, *, resume: bool, overwrite: bool) -> None:
    folder = options.run_folder
    run = _present_run(folder)
    # a run that was killed in its first moments has left nothing but what it was writing
    if not run.exists() or all(is_leftover(path) for path in run.iterdir()):
        return
    if not (run / CONFIG).is_file():
        raise OutputError("is not a run folder", where=folder, fix="give another `out`")
    if not (run / LAST_CHECKPOINT).is_file():
        refuse_foreign(run, _OWN_NAMES)  # a run that never came to its first checkpoint
        return
    if resume:
        _check_same_run(options, run)
    elif not overwrite:
        raise OutputExistsError(
            "holds a run already",
            where=folder,
            fix=f"continue it with `config={folder / CONFIG}` `resume=True`, replace it with "
            "`overwrite=True`, or give another `out`",
        )
    else:
        refuse_foreign(run, _OWN_NAMES)


def _check_same_run(options: RunOptions, run: Path) -> None:
    config = read_yaml(run / CONFIG)
    checkpoint: dict[str, Any] = {}
    with suppress(WeightsError):  # which says so once it is gone on from
        checkpoint = read_checkpoint(run / LAST_CHECKPOINT)
    # a run of an earlier version had the default of an option that has come since
    before = {**_defaults(options), **config, **checkpoint.get(OPTIONS, {})}
    now = options.to_config()
    differing = [
        key for key, value in now.items() if key not in _FREE_ON_RESUME and before.get(key) != value
    ]
    if differing:
        file = options.run_folder / CONFIG
        length = "; a run's length stays" if before.get("epochs") != now["epochs"] else ""
        words = "; ".join(f"{key} {before.get(key)}, not {now[key]}" for key in differing)
        edited = [key for key in differing if key in config and config[key] != before[key]]
        put_back = f"put {names_text(edited)} back in {file}, " if edited else ""
        raise InputError(
            f"was started with {words}{length}",
            where=options.run_folder,
            fix=f"{put_back}continue it as it was with `config={file}` `resume=True`, or start "
            "another run" + _from_its_weights(options),
        )


def _defaults(options: RunOptions) -> dict[str, Any]:
    """Return the fields of options and recipe that have a default, as plain data."""
    parts: tuple[Any, ...] = (options, options.recipe)  # dataclasses, which no protocol can say
    return {
        field.name: plain_value(field.default)
        for part in parts
        for field in fields(part)
        if field.default is not MISSING
    }


def _from_its_weights(options: RunOptions) -> str:
    """Return how another run starts from a run's weights, where it can: not in pre-training."""
    weights = options.run_folder / BEST_WEIGHTS
    return f" with `init={weights}` and another `out`" if "init" in options.to_config() else ""


def _resumed(options: RunOptions, checkpoint: Mapping[str, Any], steps: int) -> str:
    epochs, position = options.recipe.epochs, checkpoint_position(checkpoint)
    if position.epoch >= epochs:
        return (
            f"is finished ({counted(epochs, 'epoch')}); to train longer, start another run"
            + _from_its_weights(options)
        )
    patience = options.to_config().get("patience", 0)
    if 0 < patience <= checkpoint.get("record", {}).get(EPOCHS_SINCE_BEST, 0):
        return (
            f"has ended after epoch {position.epoch} of {epochs}, {counted(patience, 'epoch')} "
            "without a better score; a higher `patience` goes on, 0 to the end"
        )
    batches = (
        f", {position.batches} of its {counted(steps, 'step')} done" if position.batches else ""
    )
    return f"goes on in epoch {position.epoch + 1} of {epochs}{batches}"


def _check_place(folder: Path) -> None:
    """Raise where a folder could not be made; nothing is changed.

    Raises:
        HrrsiError: A file is in its place or above it, or what is above can't be written to.
    """
    present = next(path for path in (folder, *folder.parents) if path.exists())
    if not present.is_dir():
        raise OutputError(
            "the folder cannot be created (a file has that name)",
            where=present,
            fix="give another `out`",
        )
    if not os.access(present, os.W_OK | os.X_OK):
        raise OutputError(
            "the folder is not writable", where=present, fix="change its permissions, or `out`"
        )


@dataclass(frozen=True)
class Position:
    """Where a run is.

    Attributes:
        epoch: Epochs trained and validated.
        batches: Batches trained of the next one.

    Raises:
        ValueError: One is no number of things.
    """

    epoch: int = 0
    batches: int = 0

    def __post_init__(self) -> None:
        numbers = (self.epoch, self.batches)
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError(f"{numbers} is no place in a run")


def write_checkpoint(position: Position, content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint, whole or not at all; a full disk leaves the one before.

    Args:
        position: Where the run is.
        content: What else it needs to go on: tensors and plain data.
        path: The checkpoint; replaced where it exists.

    Raises:
        OutputError: The disk is full.
    """
    buffer = io.BytesIO()
    place = {"epoch": position.epoch, "batches": position.batches}
    torch.save({RUN_CHECKPOINT: FORMAT, _POSITION: place, **content}, buffer)
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())
    except OSError as error:
        if not is_full_disk(error):
            raise
        state = "the checkpoint before is whole; " if path.exists() else ""
        raise OutputError(
            "the disk is full",
            where=path,
            fix=f"{state}free {buffer.tell() / 2**20:.0f} MB, and "
            + ("continue with `resume=True`" if state else "start again"),
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds.

    Raises:
        InputError: The file is no checkpoint of a run, or one of another version of hrrsi.
    """
    checkpoint = read_tensor_file(path)
    try:
        checkpoint_position(checkpoint)  # type: ignore[arg-type]  # it may be anything
    except (TypeError, KeyError, ValueError) as error:
        raise unfit_checkpoint(path) from error
    assert isinstance(checkpoint, dict)
    number = checkpoint.get(RUN_CHECKPOINT)
    if number != FORMAT:
        raise InputError(
            f"has {'no format number' if number is None else f'format {number}'} where this "
            f"version of hrrsi continues from format {FORMAT}",
            where=path,
            fix=f"continue with the version that {ENVIRONMENT} beside it names, or start the run "
            "again with `overwrite=True`",
        )
    return checkpoint


def unfit_checkpoint(path: Path) -> InputError:
    """Return the error of a checkpoint that can be read, and is none of this run."""
    return InputError(
        "is not a checkpoint of this run",
        where=path,
        fix="start the run again with `overwrite=True`",
    )


def checkpoint_position(checkpoint: Mapping[str, Any] | None) -> Position:
    """Return where the run is that a checkpoint holds: at its start where there is none."""
    return Position() if checkpoint is None else Position(**checkpoint[_POSITION])


def random_state() -> dict[str, Any]:
    """Return the states of the generators of random numbers, as plain data and tensors."""
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


def set_random_state(state: Mapping[str, Any]) -> None:
    """Take back what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    keys = state["numpy"]["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, *state["numpy"]["rest"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
