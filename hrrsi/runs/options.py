"""What every kind of training run can be told, as far as running it goes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from hrrsi.errors import OptionError

# Files in a run's folder, named where torch isn't imported; those of weights are with weights.
CONFIG = "config.yaml"
LAST_CHECKPOINT = "last.ckpt"
ENVIRONMENT = "environment.yaml"
METRICS = "metrics.csv"
CURVES = "curves.png"
TENSORBOARD = "tensorboard"
SAMPLES = "samples"
NAN_BATCH = "nan_batch.safetensors"

CHECKPOINT_SECONDS = 300.0  # between checkpoints within an epoch

Precision = Literal["auto", "32", "bf16", "16"]

LARGEST_SEED = 2**32 - 1  # NumPy's
_LEAST = {"seed": 0, "devices": 1, "nodes": 1, "workers": 0}


class RunRecipe(Protocol):
    """How long a run is."""

    @property
    def epochs(self) -> int:
        """Passes over the training data."""

    @property
    def batch(self) -> int:
        """Images a step, over all processes."""

    @property
    def lr(self) -> float:
        """Highest learning rate."""


class RunOptions(Protocol):
    """Options of a run: of `hrrsi.training.options` or of `hrrsi.pretraining.options`."""

    @property
    def data(self) -> Path | Sequence[Path]:
        """Folder of what it is trained on, or folders."""

    @property
    def model(self) -> str:
        """Name of what is trained."""

    @property
    def items(self) -> str:
        """What it is trained on, in the plural."""

    @property
    def run_folder(self) -> Path:
        """The folder of this run."""

    @property
    def recipe(self) -> RunRecipe:
        """What is learned, and how."""

    @property
    def seed(self) -> int:
        """Decides everything random."""

    @property
    def precision(self) -> Precision:
        """``32``, or mixed precision in ``bf16`` or ``16``; no longer ``auto``."""

    @property
    def device(self) -> str:
        """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""

    @property
    def devices(self) -> int:
        """Processes on this machine, each with a device of its own."""

    @property
    def nodes(self) -> int:
        """Machines."""

    @property
    def compile(self) -> bool:
        """Whether the network is compiled."""

    @property
    def workers(self) -> int:
        """Processes that load, for each device."""

    def to_config(self) -> dict[str, Any]:
        """Return the options as plain data."""


def check_run_options(options: RunOptions) -> None:
    """Raise where an option that every kind of run has can't be had.

    Raises:
        OptionError: It is out of its range, or there is no such precision.
    """
    check_least(options, _LEAST)
    if options.seed > LARGEST_SEED:
        raise OptionError(
            f"is more than {LARGEST_SEED}", parameter="seed", fix=f"give at most {LARGEST_SEED}"
        )
    if options.precision not in get_args(Precision):
        raise OptionError(
            f"{options.precision!r} is unknown",
            parameter="precision",
            fix=f"give {' or '.join(get_args(Precision))}",
        )


def check_least(options: object, least: Mapping[str, int]) -> None:
    """Raise where a field of an option class is less than the least that it can be.

    Raises:
        OptionError: One is.
    """
    for name, smallest in least.items():
        if getattr(options, name) < smallest:
            raise OptionError(
                f"is less than {smallest}", parameter=name, fix=f"give at least {smallest}"
            )


def check_rates(options: object, names: Sequence[str]) -> None:
    """Raise where a field of an option class is negative or not finite.

    Raises:
        OptionError: One is.
    """
    for name in names:
        if not 0 <= getattr(options, name) < math.inf:
            raise OptionError(
                f"{getattr(options, name)} is not possible", parameter=name, fix="give 0 or more"
            )


def chosen_precision(precision: Precision, device: str) -> Precision:
    """Return a precision that is not ``auto``: ``bf16`` where the device computes in it, or ``32``.

    Args:
        precision: What was asked for.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        HrrsiError: No such device here.
    """
    if precision != "auto":
        return precision
    # torch takes seconds to import
    from hrrsi.hardware import chosen_device, computes_in_bf16

    return "bf16" if computes_in_bf16(chosen_device(device)) else "32"


def run_warnings(options: RunOptions, images: int) -> list[str]:
    """Return what is odd about a run, though it can be trained, a line each.

    Args:
        options: What to train, and how.
        images: What there is to train on.
    """
    lines = []
    if options.precision == "bf16" and chosen_precision("auto", options.device) != "bf16":
        lines.append(
            "`precision=bf16`: this device has no instructions for it, so steps can take many "
            "times as long; give `precision=32`, or leave it to auto"
        )
    if options.recipe.lr == 0:
        lines.append("`lr=0`: no step changes a weight")
    if options.recipe.batch > images:
        lines.append(
            f"`batch={options.recipe.batch}`: there are {images} {options.items} to train on, so a "
            "step has no more"
        )
    return lines


def changes_text(recipe: Any, own: Any) -> str:
    """Return what a recipe has otherwise than the one that it was changed from.

    Args:
        recipe: A dataclass.
        own: Another one of its type.

    Returns:
        E.g. ``" with epochs 3, lr 0.01"``; empty where they are equal.
    """
    changed = []
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        if value != getattr(own, field.name):
            shown = f"{value:g}" if isinstance(value, float) else value
            changed.append(f"{field.name.replace('_', ' ')} {shown}")
    return f" with {', '.join(changed)}" if changed else ""


def plain_value(value: Any) -> Any:
    """Return an option as plain data; a path is absolute, so that it holds in any folder."""
    if isinstance(value, tuple):
        return [plain_value(item) for item in value]
    return str(value.absolute()) if isinstance(value, Path) else value


def folders_text(data: Path | Sequence[Path]) -> str:
    """Return a folder, or several, in words."""
    return str(data) if isinstance(data, Path) else ", ".join(map(str, data))
