"""The unified decoder (UED), body and edge supervision (BES) and score-based fusion (SFM)."""

from __future__ import annotations

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


class BodyEdgeDecoupling(nn.Module):
    """Warps fine features along a learned flow; what moves little is body, what is lost is edge.

    Args:
        channels: Channels of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_high_res = nn.Conv2d(channels, channels, 1)
        self.conv_low_res = nn.Sequential(
            ConvNorm(channels, channels, stride=2, bias=True, relu=False),
            ConvNorm(channels, channels, stride=2, bias=True, relu=False),
            nn.Conv2d(channels, channels, 1),
        )
        self.flow_make = nn.Conv2d(2 * channels, 2, 3, 1, 1, bias=False)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (warped, fine - warped), each of the shape of `features` (N, channels, h, w)."""
        fine = self.conv_high_res(features)
        coarse = F.interpolate(
            self.conv_low_res(features),
            size=features.shape[-2:],
            mode="bilinear",
            align_corners=True,
        )
        flow = self.flow_make(torch.cat((fine, coarse), dim=1))
        warped = _sample_along_flow(fine, flow)
        return warped, fine - warped


def _sample_along_flow(features: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Sample (N, C, h, w) features at an even grid moved by a (N, 2, h, w) flow, x first.

    The grid includes both ends while sampling treats pixels as areas (``align_corners=False``),
    so even a zero flow resamples: the published networks were trained that way.
    """
    height, width = flow.shape[-2:]
    flow = flow.float()  # bf16 would move samples by a quarter of a pixel
    ys = torch.linspace(-1.0, 1.0, height, device=flow.device)
    xs = torch.linspace(-1.0, 1.0, width, device=flow.device)
    grid_x = xs.expand(height, width) + flow[:, 0] / width
    grid_y = ys[:, None].expand(height, width) + flow[:, 1] / height
    grid = torch.stack((grid_x, grid_y), dim=-1)
    sampled = F.grid_sample(
        features.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return sampled.to(features.dtype)


class ScoreFusion(nn.Module):
    """Scores each channel and pixel from row means, column means and the pixel itself.

    Args:
        channels: Channels of the body and edge features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.h_map = nn.Conv2d(channels, channels, 3, 1, 1)
        self.w_map = nn.Conv2d(channels, channels, 3, 1, 1)
        self.x_map = nn.Conv2d(channels, channels, 1)

    def forward(self, body: torch.Tensor, edge: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Fuse body and edge features.

        Args:
            body: (N, channels, h, w).
            edge: (N, channels, h, w).

        Returns:
            The fused features, and the score in [0, 1] with which the body entered, both of the
            shape of `body`.
        """
        x = body + edge
        rows = self.h_map(x).mean(dim=3, keepdim=True)
        columns = self.w_map(x).mean(dim=2, keepdim=True)
        score = torch.sigmoid(rows * columns + self.x_map(x))
        return body * score + edge * (1 - score), score
