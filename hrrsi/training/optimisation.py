"""Optimisers and learning-rate schedules of the recipes."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from hrrsi.training.recipes import Recipe

_MOMENTUM = 0.9
_POLYNOMIAL_POWER = 0.9


def optimizer_and_schedule(network: nn.Module, recipe: Recipe, steps: int) -> dict[str, Any]:
    """Return what Lightning's ``configure_optimizers`` asks for; stepped each iteration.

    AdamW does not decay biases and BatchNorms; the published SGD decays everything.

    Args:
        network: What is trained.
        recipe: Optimiser, learning rate, weight decay and schedule.
        steps: Steps of the whole run, over all epochs.
    """
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            network.parameters(), recipe.lr, momentum=_MOMENTUM, weight_decay=recipe.weight_decay
        )
    else:
        kernels, others = _kernels_and_others(network.parameters())
        groups = [
            {"params": kernels, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], recipe.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(recipe, step, steps)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def learning_rate_factor(recipe: Recipe, step: int, steps: int) -> float:
    """Return the share of the highest learning rate that a step uses, 0 to 1.

    Args:
        recipe: Schedule and warm-up.
        step: Number of steps done before.
        steps: Steps of the whole run.
    """
    warmup = round(recipe.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    left = max(0.0, 1 - (step - warmup) / max(1, steps - warmup))
    if recipe.schedule == "polynomial":
        return float(left**_POLYNOMIAL_POWER)
    return (1 - math.cos(math.pi * left)) / 2


def _kernels_and_others(
    parameters: Iterable[nn.Parameter],
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    kernels: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in parameters:
        (kernels if parameter.ndim > 1 else others).append(parameter)
    return kernels, others
