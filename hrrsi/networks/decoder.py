"""The unified decoder: joins the encoder's maps from stride 32 up to stride 4."""

import torch
import torch.nn.functional as F
from torch import nn


class ConvNorm(nn.Module):
    """Convolution, BatchNorm and, unless switched off, ReLU, under the published key ``primary``.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        stride: 1 or 2; the kernel is 3x3 with one zero of padding.
        bias: Whether the convolution has a bias.
        relu: Whether a ReLU follows.
    """

    def __init__(
        self, inputs: int, outputs: int, *, stride: int = 1, bias: bool = False, relu: bool = True
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias),
            nn.BatchNorm2d(outputs),
        ]
        if relu:
            layers.append(nn.ReLU(inplace=True))
        self.primary = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
        y: torch.Tensor = self.primary(x)
        return y


class JoinStep(nn.Module):
    """Joins a low-resolution map to the next higher one (a "UED" step).

    Args:
        low: Channels of the low-resolution map.
        high: Channels of the high-resolution map, and of the result.
    """

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.Conv2d(low, high, 3, 1, 1), nn.BatchNorm2d(high), nn.ReLU(inplace=True)
        )
        self.cat_conv = nn.Sequential(
            nn.Conv2d(2 * high, high, 1), nn.BatchNorm2d(high), nn.ReLU(inplace=True)
        )

    def forward(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Return (N, high, h, w) from maps (N, low, h', w') and (N, high, h, w)."""
        low = F.interpolate(low, size=high.shape[-2:], mode="bilinear", align_corners=False)
        y: torch.Tensor = self.cat_conv(torch.cat((high, self.up(low)), dim=1))
        return y
