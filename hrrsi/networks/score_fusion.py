"""Score-based fusion (SFM): weighs body against edge features per channel and pixel."""

import torch
from torch import nn


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
