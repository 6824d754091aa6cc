"""Body and edge supervision (BES): splits the features into class bodies and class borders."""

import torch
import torch.nn.functional as F
from torch import nn

from hrrsi.networks.decoder import ConvNorm


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
