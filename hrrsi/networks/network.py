"""What every segmentation network is, whatever it is made of."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class SegmentationNetwork(nn.Module, ABC):
    """A network that gives each pixel the logits of its classes.

    Args:
        num_classes: Number of classes.
        bands: Number of input bands.

    Attributes:
        num_classes: Number of classes.
        bands: Number of input bands.
        logit_stride: Pixels that one of `coarse_logits` stands for along an axis: 4, or 1 where
            they have the input's size.
        class_heads: Names of the convolutions whose output channels are the classes.
        meta: What the weights are (see ``hrrsi.weights.ModelMeta``); empty until weights are
            loaded.
    """

    logit_stride: int = 4
    class_heads: tuple[str, ...]

    def __init__(self, num_classes: int, bands: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.bands = bands
        self.meta: Mapping[str, Any] = {}

    @property
    @abstractmethod
    def encoder(self) -> nn.Module:
        """The part that can start from the weights of a classifier."""

    @abstractmethod
    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the maps of the network.

        Args:
            image: (N, bands, H, W), float, normalised; any H and W.

        Returns:
            ``lbl``: class logits (N, classes, H, W); some networks give more maps.
        """

    def segment(self, image: torch.Tensor) -> torch.Tensor:
        """Return ``lbl`` alone, without computing what only the other maps need.

        Args:
            image: (N, bands, H, W), float, normalised; any H and W.

        Returns:
            Class logits (N, classes, H, W), those of `forward`.
        """
        return self.resized(self.coarse_logits(image), image)

    @abstractmethod
    def coarse_logits(self, image: torch.Tensor) -> torch.Tensor:
        """Return the class logits that `segment` resizes.

        Returns:
            (N, classes, ceil(H / logit_stride), ceil(W / logit_stride)).
        """

    def resized(self, coarse: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Return a map of `logit_stride` at the image's size, as the network resizes its logits.

        Args:
            coarse: (N, channels, ceil(H / logit_stride), ceil(W / logit_stride)), float.
            image: (N, bands, H, W).

        Returns:
            (N, channels, H, W).
        """
        if self.logit_stride == 1:
            return coarse
        return F.interpolate(coarse, size=image.shape[-2:], mode="bilinear", align_corners=True)
