"""What every segmentation network is, whatever it is made of, at any size and with any bands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from hrrsi.networks.model_meta import ModelMeta


def adapted_to_bands(kernels: torch.Tensor, bands: int) -> torch.Tensor:
    """Return the kernels of a first convolution for images with another number of bands.

    As timm does it: one band gets the sum over all; more bands repeat those that there are, in
    their order, fewer take the first, and the result is scaled by the ratio of their numbers. So
    its response to grey images stays what it was for one band and where all bands repeat equally
    often; else it is as large on average, over networks whose bands weigh alike.

    Args:
        kernels: (outputs, bands, height, width).
        bands: Bands of the images.

    Returns:
        (outputs, `bands`, height, width).
    """
    before = kernels.shape[1]
    if before == bands:
        return kernels
    if bands == 1:
        return kernels.sum(dim=1, keepdim=True)
    repeated = kernels.repeat(1, -(-bands // before), 1, 1)[:, :bands]
    return repeated * (before / bands)


def padded_to_multiples(image: torch.Tensor, multiple: int) -> torch.Tensor:
    """Return an image with its last row and column repeated until both sizes are multiples.

    Args:
        image: (N, bands, H, W).
        multiple: What both sizes shall be multiples of.

    Returns:
        (N, bands, H', W'), the image itself where its sizes are multiples already.
    """
    height, width = image.shape[-2:]
    below, right = -height % multiple, -width % multiple
    if not below and not right:
        return image
    return F.pad(image, (0, right, 0, below), mode="replicate")


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
        meta: What the weights say of themselves; not there until weights are loaded.
    """

    logit_stride: int = 4
    class_heads: tuple[str, ...]
    meta: ModelMeta

    def __init__(self, num_classes: int, bands: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.bands = bands

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
