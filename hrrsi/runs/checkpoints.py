"""A run's last checkpoint: what it holds, and how it is written and read."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrrsi.errors import InputError, OutputError
from hrrsi.files import is_full_disk, replacing
from hrrsi.networks.weights import read_tensor_file
from hrrsi.networks.weights_file import RUN_CHECKPOINT
from hrrsi.runs.options import ENVIRONMENT

# Of what runs keep in their checkpoints; another number where a run could not go on from an older
# one as if it had not been stopped.
FORMAT = 2

_POSITION = "position"


@dataclass(frozen=True)
class Position:
    """Where a run is.

    Attributes:
        epoch: Epochs trained and validated.
        batches: Batches trained of the next one.
    """

    epoch: int = 0
    batches: int = 0

    @property
    def is_start(self) -> bool:
        """Whether nothing was trained yet."""
        return self == Position()


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
        kept = "the checkpoint before is whole; " if path.exists() else ""
        raise OutputError(
            "the disk is full",
            where=path,
            fix=f"{kept}free {buffer.tell() / 2**20:.0f} MB, and "
            + ("continue with `resume=True`" if kept else "start again"),
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds.

    Raises:
        InputError: The file is no checkpoint of a run, or one of another version of hrrsi.
    """
    checkpoint = read_tensor_file(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(_POSITION), dict):
        raise InputError(
            "is not a checkpoint", where=path, fix="start the run again with `overwrite=True`"
        )
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
