"""Depthwise convolutions with a stride, kept in single precision on processors."""

import torch
from torch import nn


def keep_strided_depthwise_single(network: nn.Module) -> None:
    """Let a network's depthwise convolutions with a stride compute in single precision.

    In bf16 a processor (oneDNN 3) takes three to five times as long for their gradients, which
    was a seventh of a training step of `ued_bes_sfm`. Names of tensors stay what they are.

    Args:
        network: Changed in place; for training on a processor in mixed precision.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and module.groups > 1 and max(module.stride) > 1:
            module.__class__ = _SinglePrecisionConv2d


class _SinglePrecisionConv2d(nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())
