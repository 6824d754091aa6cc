"""Optimisers, learning-rate schedules, and the moving average of a network's weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hrrsi.training.recipes import Recipe

_MOMENTUM = 0.9
_POLYNOMIAL_POWER = 0.9

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


def optimizer_and_schedule(
    network: nn.Module, recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return a recipe's optimiser, and the schedule of its learning rate, which moves each step.

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
    return optimizer, schedule


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


class MovingAverage:
    """The exponential moving average of a network's weights and running statistics.

    It is torch's, whose decay follows the steps: early on it is lower than the recipe's, or the
    average would hold on to the random start, as with the warm-up of TensorFlow's
    ``ExponentialMovingAverage``. Counters of BatchNorms are copied.

    Args:
        network: The network before the first step.
        decay: Share that the average keeps of itself at most, 0 to 1.

    Attributes:
        network: The average, in eval mode and without gradients; it may be moved to a device. (What
            counts the steps stays on the processor: asking a GPU for it would wait for each step.)
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._step = 0
        self._average = AveragedModel(network, multi_avg_fn=self._move, use_buffers=True)
        self._average.update_parameters(network)  # the first only copies
        self.network: Any = self._average.module.eval().requires_grad_(False)

    def move(self, network: nn.Module, step: int) -> None:
        """Move the average towards a network: ``decay * average + (1 - decay) * network``.

        Args:
            network: The network after a step.
            step: Steps done before.
        """
        self._step = step
        self._average.update_parameters(network)

    def _move(self, average: Tensors, network: Tensors, _count: Any) -> None:
        if average[0].is_floating_point():
            decay = decay_at(self._step, self._decay)
            move: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch
            move(average, network, _count)
        else:
            for counter, counted in zip(average, network, strict=True):
                counter.copy_(counted)


def decay_at(step: int, decay: float) -> float:
    """Return the share that an average keeps of itself at a step, 0 to 1.

    Args:
        step: Steps done before.
        decay: The recipe's decay.
    """
    return min(decay, (1 + step) / (10 + step))
