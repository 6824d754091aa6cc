"""What a step is computed in on a processor: outputs in half precision, gradients of depthwise
convolutions in single precision."""

from typing import Any

import pytest
import torch
from torch import nn

from hrrsi.runs.precision import NetworkPrecision


def gradients_of(
    layer: nn.Conv2d, image: torch.Tensor, context: Any, *, in_single: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output of a layer, and the gradients of image and kernel for the mean of its squares."""
    layer.zero_grad()
    image = image.clone().requires_grad_()
    with context:
        output = layer(image)
        loss = output.float().square().mean()
    assert (type(output.grad_fn).__name__ == "_DepthwiseBackward") is in_single
    loss.backward()
    assert image.grad is not None
    assert layer.weight.grad is not None
    return output.detach(), image.grad, layer.weight.grad


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 2, 0), (5, 1, 2), (5, 2, 0)])
def test_depthwise_gradients_are_those_of_single_precision(
    size: int, stride: int, padding: int
) -> None:
    torch.manual_seed(1)
    layer = nn.Conv2d(24, 24, size, stride, padding, groups=24, bias=False)
    image = torch.randn(2, 24, 19, 19).bfloat16().float()
    mixed = NetworkPrecision("bf16-mixed", "cpu").forward_context()
    plain = torch.autocast("cpu", dtype=torch.bfloat16)
    output, of_image, of_kernel = gradients_of(layer, image, mixed, in_single=True)
    expected, *_ = gradients_of(layer, image, plain)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected)
    rounded = layer.weight.detach().bfloat16().float()
    exact = nn.Conv2d(24, 24, size, stride, padding, groups=24, bias=False)
    exact.weight.data.copy_(rounded)
    _, of_exact_image, of_exact_kernel = gradients_of(exact, image, torch.enable_grad())
    scale = of_exact_kernel.abs().max()
    assert (of_kernel - of_exact_kernel).abs().max() < 0.01 * scale
    assert (of_image - of_exact_image).abs().max() < 0.02 * of_exact_image.abs().max()
    assert of_kernel.dtype == torch.float32


def test_other_convolutions_and_layers_are_left_alone() -> None:
    torch.manual_seed(1)
    for layer in (
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 5, padding=2, groups=8),  # with a bias
        nn.Conv2d(8, 16, 3, padding=1, groups=4, bias=False),
        nn.Conv2d(8, 8, 5, padding="same", groups=8, bias=False),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),  # which half precision is faster for
    ):
        image = torch.randn(1, 8, 9, 9)
        mixed = NetworkPrecision("bf16-mixed", "cpu").forward_context()
        both = [
            gradients_of(layer, image, context)
            for context in (mixed, torch.autocast("cpu", dtype=torch.bfloat16))
        ]
        for own, expected in zip(*both, strict=True):
            assert torch.equal(own, expected)
