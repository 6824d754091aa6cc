"""The moving average of a network's weights, which is validated and kept instead of them."""

import copy
from typing import TypeVar

import torch
from torch import nn

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
