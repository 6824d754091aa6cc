"""Short runs of training, and what they leave."""

import csv
from pathlib import Path
from typing import Any

import torch

from hrrsi.runs.options import LAST_CHECKPOINT
from hrrsi.training.options import RECIPE_FIELDS, TrainOptions, recipe_named
from hrrsi.training.run import TrainedRun, train

# timm's smallest encoder: a fifth of GhostNet's time to train, save and load
SMALL = "ued-test_efficientnet"
# what depends on the clock or the folder
VOLATILE = {"seconds", "images_per_second"}


def quick(dataset: Path, out: Path, *, recipe: str = "default", **changes: Any) -> TrainOptions:
    """Options of a run of two epochs of two steps; `changes` of the recipe or the options."""
    own = {k: changes.pop(k) for k in list(changes) if k in RECIPE_FIELDS}
    values = {"model": SMALL, "encoder_weights": "none", "workers": 0, "device": "cpu", **changes}
    chosen = recipe_named(recipe, **{"epochs": 2, "batch": 2, **own})
    return TrainOptions(data=dataset, out=out, recipe=chosen, **values)


def quietly(options: TrainOptions, **arguments: Any) -> tuple[TrainedRun, list[str]]:
    lines: list[str] = []
    named: dict[str, Any] = {"report": lines.append, "warn": say_nothing, **arguments}
    return train(options, quiet=True, **named), lines


def say_nothing(_warning: str) -> None:
    """Pass over a warning, e.g. that a learning rate of 0 changes nothing."""


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in r.items() if k not in VOLATILE} for r in csv.DictReader(file)]


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def assert_same_run(folder: Path, undisturbed: Path) -> None:
    assert rows_of(folder) == rows_of(undisturbed)
    tensors = weights_of(folder / LAST_CHECKPOINT)
    expected = weights_of(undisturbed / LAST_CHECKPOINT)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[key], value) for key, value in expected.items())
