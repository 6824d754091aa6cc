"""The folder of a run: begun, replaced, and recognised as the same run again."""

from __future__ import annotations

import shutil
from pathlib import Path

from hrrsi.atomic_write import prepare_folder, replacing
from hrrsi.errors import HrrsiError
from hrrsi.training.checkpoints import LAST_CHECKPOINT
from hrrsi.training.failures import NAN_BATCH
from hrrsi.training.run_options import RunOptions
from hrrsi.yaml_file import dump_yaml, read_yaml

CONFIG = "config.yaml"

# What a resumed run may change: the rest would make its curve another one.
_FREE_ON_RESUME = ("data", "out", "device", "workers", "patience")


def check_folder(options: RunOptions, *, resume: bool, overwrite: bool) -> None:
    """Raise where a run can't have its folder.

    Args:
        options: Options of the run.
        resume: Whether a run that is there is continued.
        overwrite: Whether a run that is there is replaced.

    Raises:
        HrrsiError: It holds something else, a run that may not be replaced, or one that was
            started with other options.
    """
    folder = options.run_folder
    settle_replaced(folder)
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / CONFIG).is_file():
        raise HrrsiError("is not a run folder", where=folder, fix="give another --out")
    if not (folder / LAST_CHECKPOINT).is_file():
        return  # a run that never came to its first checkpoint
    if resume:
        _check_same_run(options)
    elif not overwrite:
        raise HrrsiError(
            "holds a run already",
            where=folder,
            fix="give --resume to continue it, --overwrite to replace it, or another --out",
        )


def start_folder(options: RunOptions) -> None:
    """Begin a run's folder; what it replaces waits beside it until `settle_replaced`."""
    folder = options.run_folder
    if folder.exists():
        folder.rename(_replaced(folder))
    prepare_folder(folder)
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(dump_yaml(options.to_config()), encoding="utf-8")


def settle_replaced(folder: Path) -> None:
    """Drop a replaced run once the new one has a checkpoint, else put it back.

    A batch whose loss was not a number stays, whichever run it comes from.
    """
    replaced = _replaced(folder)
    if not replaced.exists():
        return
    if (folder / LAST_CHECKPOINT).exists():
        shutil.rmtree(replaced)
        return
    bad_batch = folder / NAN_BATCH
    if bad_batch.exists():
        bad_batch.replace(replaced / NAN_BATCH)
    shutil.rmtree(folder, ignore_errors=True)
    replaced.rename(folder)


def _check_same_run(options: RunOptions) -> None:
    folder = options.run_folder
    before, now = read_yaml(folder / CONFIG), options.to_config()
    for key, value in now.items():
        if key not in _FREE_ON_RESUME and before.get(key) != value:
            raise HrrsiError(
                f"was started with {key} {before.get(key)}, not {value}",
                where=folder,
                fix="resume with the same options, or start another run",
            )


def _replaced(folder: Path) -> Path:
    """Return where a run waits that another one replaces."""
    return folder.with_name(f".{folder.name}.replaced")
