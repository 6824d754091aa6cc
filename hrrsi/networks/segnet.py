"""SegNet: an encoder that remembers where its maxima were, and a decoder that puts them back."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

# Convolutions' outputs from the lowest resolution to the highest, the encoder's in reverse.
_STAGES = ((512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64,))


class VGG16(nn.Module):
    """The convolutions of VGG-16 with BatchNorm, under torchvision's and timm's names.

    Args:
        bands: Number of input bands.
    """

    def __init__(self, bands: int = 3) -> None:
        super().__init__()
        self.features = make_layers(cfgs["D"], batch_norm=True)
        if bands != 3:
            self.features[0] = nn.Conv2d(bands, 64, 3, padding=1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the map at stride 32, and where the maxima of the five poolings were.

        Args:
            image: (N, bands, H, W), sizes multiples of 32.
        """
        x, places = image, []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                x, place = F.max_pool2d(x, 2, return_indices=True)
                places.append(place)
            else:
                x = layer(x)
        return x, places


class SegNet(nn.Module):
    """SegNet on VGG-16 (Badrinarayanan et al. 2017, "SegNet", their full-size network).

    Args:
        num_classes: Number of classes.
        bands: Number of input bands.
    """

    def __init__(self, num_classes: int, bands: int = 3) -> None:
        super().__init__()
        self.encoder = VGG16(bands)
        self.decoder = nn.ModuleList()
        inputs = 512
        for stage in _STAGES:
            self.decoder.append(
                nn.Sequential(
                    *(_convolution(i, o) for i, o in pairwise((inputs, *stage))),
                )
            )
            inputs = stage[-1]
        self.head = nn.Conv2d(inputs, num_classes, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return class logits (N, classes, H, W) of (N, bands, H, W), sizes multiples of 32."""
        x, places = self.encoder(image)
        for stage, place in zip(self.decoder, reversed(places), strict=True):
            x = stage(F.max_unpool2d(x, place, [2, 2]))
        logits: torch.Tensor = self.head(x)
        return logits


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
