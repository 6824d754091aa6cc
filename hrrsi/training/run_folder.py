"""The folder of a run: held while it works, begun, replaced, and recognised as the same run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hrrsi.atomic_write import prepare_folder, replacing
from hrrsi.errors import HrrsiError
from hrrsi.training.checkpoints import LAST_CHECKPOINT, Position, checkpoint_position
from hrrsi.training.failures import NAN_BATCH
from hrrsi.training.processes import Processes
from hrrsi.training.run_lock import check_unlocked, locked
from hrrsi.training.run_options import RunOptions
from hrrsi.yaml_file import dump_yaml, read_yaml

CONFIG = "config.yaml"

# What a resumed run may change: the rest would make its curve another one.
_FREE_ON_RESUME = ("data", "out", "device", "workers", "patience")


def check_folder(options: RunOptions, *, resume: bool, overwrite: bool) -> None:
    """Raise where a run can't have its folder; nothing is changed.

    Args:
        options: Options of the run.
        resume: Whether a run that is there is continued.
        overwrite: Whether a run that is there is replaced.

    Raises:
        HrrsiError: Another process works in it, or it holds something else, a run that may not be
            replaced, or one that was started with other options.
    """
    check_unlocked(options.run_folder)
    _check_content(options, resume=resume, overwrite=overwrite)


@contextmanager
def held_folder(
    options: RunOptions, processes: Processes, *, resume: bool, overwrite: bool
) -> Iterator[None]:
    """Keep other commands from a run's folder until the block ends.

    At its start and its end, a run that was replaced is dropped once the new one has a
    checkpoint, else put back. Only the first process does all this.

    Args:
        options: Options of the run.
        processes: The processes of the run.
        resume: As for `check_folder`.
        overwrite: Likewise.

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


def starting_position(options: RunOptions, *, resume: bool) -> Position:
    """Return where a run begins: at its last checkpoint, where it has one and is resumed.

    Raises:
        HrrsiError: Its last checkpoint is none.
    """
    if not has_checkpoint(options, resume=resume):
        return Position(0, 0)
    return checkpoint_position(_present_run(options.run_folder) / LAST_CHECKPOINT)


def has_checkpoint(options: RunOptions, *, resume: bool) -> bool:
    """Return whether a run goes on from a checkpoint, where it may be resumed."""
    return resume and (_present_run(options.run_folder) / LAST_CHECKPOINT).is_file()


def start_folder(options: RunOptions) -> None:
    """Begin a run's folder; what it replaces waits beside it until `held_folder` ends."""
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
        shutil.rmtree(replaced)
        return
    bad_batch = folder / NAN_BATCH
    if bad_batch.exists():
        bad_batch.replace(replaced / NAN_BATCH)
    shutil.rmtree(folder, ignore_errors=True)
    replaced.rename(folder)


def _check_content(options: RunOptions, *, resume: bool, overwrite: bool) -> None:
    folder = options.run_folder
    run = _present_run(folder)
    if not run.exists() or not any(run.iterdir()):
        return
    if not (run / CONFIG).is_file():
        raise HrrsiError("is not a run folder", where=folder, fix="give another --out")
    if not (run / LAST_CHECKPOINT).is_file():
        return  # a run that never came to its first checkpoint
    if resume:
        _check_same_run(options, run)
    elif not overwrite:
        raise HrrsiError(
            "holds a run already",
            where=folder,
            fix="give --resume to continue it, --overwrite to replace it, or another --out",
        )


def _check_same_run(options: RunOptions, run: Path) -> None:
    before, now = read_yaml(run / CONFIG), options.to_config()
    for key, value in now.items():
        if key not in _FREE_ON_RESUME and before.get(key) != value:
            raise HrrsiError(
                f"was started with {key} {before.get(key)}, not {value}",
                where=options.run_folder,
                fix="resume with the same options, or start another run",
            )
