"""Optimisers, learning-rate schedules, and the moving average of a network's weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any, TypeVar

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


_Network = TypeVar("_Network", bound=nn.Module)


def averaged_copy(network: _Network) -> _Network:
    """Return the average before the first step: a copy in eval mode that asks for no gradient."""
    return copy.deepcopy(network).eval().requires_grad_(False)


def decay_at(step: int, decay: float) -> float:
    """Return the share that the average keeps of itself at a step, 0 to 1.

    Early on it is lower than the recipe's, or the average would hold on to the random start: the
    warm-up of TensorFlow's ``ExponentialMovingAverage``.

    Args:
        step: Steps done before.
        decay: The recipe's decay.
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move an average towards a network: ``decay * average + (1 - decay) * network``.

    Running statistics of BatchNorm are averaged with the weights; counters are copied.

    Args:
        average: What `averaged_copy` returned; changed.
        network: The network after a step.
        decay: Share that the average keeps of itself.
    """
    kept: list[torch.Tensor] = []
    new: list[torch.Tensor] = []
    for ours, theirs in zip(_tensors(average), _tensors(network), strict=True):
        if ours.is_floating_point():
            kept.append(ours)
            new.append(theirs)
        else:
            ours.copy_(theirs)
    torch._foreach_lerp_(kept, new, 1 - decay)


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]
