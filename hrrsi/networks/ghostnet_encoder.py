"""GhostNet as the encoder of the segmentation networks: four maps at strides 4, 8, 16 and 32."""

from typing import Any

import torch
from timm.models.ghostnet import GhostNet
from torch import nn

# Kernel, expansion, output channels, squeeze-excite ratio, stride of every bottleneck:
# Han et al. 2020, "GhostNet: More Features from Cheap Operations", the architecture table.
_STAGES: list[list[list[int | float]]] = [
    [[3, 16, 16, 0, 1]],
    [[3, 48, 24, 0, 2]],
    [[3, 72, 24, 0, 1]],
    [[5, 72, 40, 0.25, 2]],
    [[5, 120, 40, 0.25, 1]],
    [[3, 240, 80, 0, 2]],
    [
        [3, 200, 80, 0, 1],
        [3, 184, 80, 0, 1],
        [3, 184, 80, 0, 1],
        [3, 480, 112, 0.25, 1],
        [3, 672, 112, 0.25, 1],
    ],
    [[5, 672, 160, 0.25, 2]],
    [
        [5, 960, 160, 0, 1],
        [5, 960, 160, 0.25, 1],
        [5, 960, 160, 0, 1],
        [5, 960, 160, 0.25, 1],
    ],
]
_MAP_STAGES = (2, 4, 6, 8)


def ghostnet_classifier(width: float, bands: int, classes: int) -> GhostNet:
    """Return timm's GhostNet at any width, with timm's names and its own first weights.

    Args:
        width: Channel multiplier.
        bands: Number of input bands.
        classes: Number of classes; 0: without the classifier.
    """
    return GhostNet(cfgs=_STAGES, width=width, in_chans=bands, num_classes=classes)


class GhostNetEncoder(nn.Module):
    """timm's GhostNet, cut after the last stage that the decoder uses.

    The modules keep timm's names, so timm's and the published checkpoints' keys load as they are
    (those of ``blocks.9``, ``conv_head`` and ``classifier`` have no place here).

    Args:
        width: Channel multiplier; 1.0, 1.3 and 1.5 are the published ones.
        bands: Number of input bands.
    """

    def __init__(self, width: float = 1.0, bands: int = 3) -> None:
        super().__init__()
        ghostnet = ghostnet_classifier(width, bands, 0)
        self.conv_stem = ghostnet.conv_stem
        self.bn1 = ghostnet.bn1
        self.act1 = ghostnet.act1
        self.blocks = ghostnet.blocks[: len(_STAGES)]
        bottlenecks: Any = ghostnet.blocks
        self.channels: tuple[int, ...] = tuple(
            bottlenecks[stage][-1].ghost2.out_chs for stage in _MAP_STAGES
        )

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps at strides 4, 8, 16 and 32.

        Args:
            image: (N, bands, H, W), float, normalised.

        Returns:
            Four float tensors (N, channels[i], ceil(H / s), ceil(W / s)) for s = 4, 8, 16, 32.
        """
        x = self.act1(self.bn1(self.conv_stem(image)))
        maps = []
        for stage, block in enumerate(self.blocks):
            x = block(x)
            if stage in _MAP_STAGES:
                maps.append(x)
        return maps
