"""Options of runs refuse what can't be, from Python as on the command line."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hrrsi.errors import OptionError
from hrrsi.pretraining.options import PretrainOptions, PretrainRecipe
from hrrsi.training.options import TrainOptions, recipe_named


def train_options(**values: Any) -> TrainOptions:
    return TrainOptions(Path("data"), **values)


def pretrain_options(**values: Any) -> PretrainOptions:
    return PretrainOptions(Path("data"), **values)


def recipe(**values: Any) -> object:
    return recipe_named("default", **values)


RUNS, RECIPES = (train_options, pretrain_options), (recipe, PretrainRecipe)


@pytest.mark.parametrize(
    ("options_class", "name", "value"),
    [
        *((run, name, -1) for run in RUNS for name in ("seed", "workers")),
        *((run, name, 0) for run in RUNS for name in ("devices", "nodes")),
        *((run, "seed", 2**32) for run in RUNS),
        *((run, "precision", "64") for run in RUNS),
        *((train_options, name, -1) for name in ("patience", "freeze_encoder", "overfit")),
        (pretrain_options, "loader", "pillow"),
        *((options_class, name, 0) for options_class in RECIPES for name in ("epochs", "batch")),
        *(
            (options_class, name, -1)
            for options_class in RECIPES
            for name in ("lr", "weight_decay")
        ),
        *(
            (options_class, "lr", value)
            for options_class in RECIPES
            for value in (math.nan, math.inf)
        ),
        *((recipe, name, 1.0) for name in ("warmup", "average")),
        *((PretrainRecipe, name, 31) for name in ("size", "val_size")),
        *((PretrainRecipe, name, 1.5) for name in ("momentum", "label_smoothing")),
    ],
)
def test_what_can_t_be_is_refused(
    options_class: Callable[..., object], name: str, value: object
) -> None:
    with pytest.raises(OptionError) as caught:
        options_class(**{name: value})
    assert caught.value.parameter == name
