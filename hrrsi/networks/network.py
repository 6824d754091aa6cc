"""What every segmentation network is, at any size and with any bands; and the encoders of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import timm
import torch
import torch.nn.functional as F
from timm.models.ghostnet import GhostNet
from torch import nn

from hrrsi.errors import OptionError, first_line
from hrrsi.networks.architecture import (
    MAP_STAGES,
    STAGES,
    STRIDES,
    LogitAlignment,
    LogitGrid,
)

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
        logit_alignment: Where they lie on the input (`hrrsi.networks.architecture.LogitGrid`).
        class_heads: Names of the convolutions whose output channels are the classes.
        pruned: What was cut out of it (`hrrsi.networks.model_meta.ModelMeta`), or None.
        meta: What the weights say of themselves; not there until weights are loaded.
    """

    logit_stride: int = 4
    logit_alignment: LogitAlignment = "corners"
    class_heads: tuple[str, ...]
    pruned: list[dict[str, Any]] | None = None
    meta: ModelMeta

    def __init__(self, num_classes: int, bands: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.bands = bands

    @property
    def logit_grid(self) -> LogitGrid:
        """Where `coarse_logits` lie on the pixels of the input."""
        return LogitGrid(self.logit_stride, self.logit_alignment)

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
        height, width = image.shape[-2:]
        if self.logit_alignment == "corners":
            return F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)
        # by the stride itself: sizes that are no multiples of it would scale by another factor
        whole = F.interpolate(coarse, scale_factor=self.logit_stride, mode="bilinear")
        return whole[..., :height, :width]


def ghostnet_classifier(width: float, bands: int, classes: int) -> GhostNet:
    """Return timm's GhostNet at any width, with timm's names and its own first weights.

    Args:
        width: Channel multiplier.
        bands: Number of input bands.
        classes: Number of classes; 0: without the classifier.
    """
    stages = [[list(bottleneck) for bottleneck in stage] for stage in STAGES]
    return GhostNet(cfgs=stages, width=width, in_chans=bands, num_classes=classes)


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
        self.blocks = ghostnet.blocks[: len(STAGES)]
        bottlenecks: Any = ghostnet.blocks
        self.channels: tuple[int, ...] = tuple(
            bottlenecks[stage][-1].ghost2.out_chs for stage in MAP_STAGES
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
            if stage in MAP_STAGES:
                maps.append(x)
        return maps


PROBE_SIZE = (96, 160)  # multiples of 32, and of no encoder's own size


class TimmEncoder(nn.Module):
    """The maps of a timm encoder: of each stride the last one that timm offers.

    Images whose sizes are no multiples of 32 are padded by repeating their edges, and the maps cut
    to what the image covers, since some encoders take multiples only and others round down.

    Args:
        name: timm's name, e.g. ``resnet18`` or ``mobilenetv4_conv_small``. A tag of weights behind
            it makes no difference.
        bands: Number of input bands.

    Attributes:
        features: timm's ``features_only`` module.
        channels: Channels of the maps.

    Raises:
        OptionError: timm has no such encoder, or it lacks a stride, or takes images of one size
            only.
    """

    def __init__(self, name: str, bands: int = 3) -> None:
        super().__init__()
        # finished weights must load where timm has dropped or renamed those they started from
        name = name.partition(".")[0]
        check_timm_name(name)
        self.features = _features(name, bands)
        info = self.features.feature_info
        strides = info.reduction()
        positions = {stride: position for position, stride in enumerate(strides)}
        if not positions.keys() >= set(STRIDES):
            raise OptionError(
                f"the encoder {name} has maps at strides {', '.join(map(str, strides))}, and the "
                f"decoder joins those at {', '.join(map(str, STRIDES))}",
                fix="choose another encoder, e.g. resnet18",
            )
        self._positions = [positions[stride] for stride in STRIDES]
        self._channels_last = str(getattr(self.features, "output_fmt", "")).endswith("NHWC")
        self.channels: tuple[int, ...] = tuple(info.channels()[p] for p in self._positions)
        _check_maps(self, name, bands)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps at strides 4, 8, 16 and 32.

        Args:
            image: (N, bands, H, W), float, normalised.

        Returns:
            Four float tensors (N, channels[i], ceil(H / s), ceil(W / s)) for s = 4, 8, 16, 32.
        """
        features = self.features(padded_to_multiples(image, STRIDES[-1]))
        maps = [features[position] for position in self._positions]
        if self._channels_last:
            maps = [feature_map.permute(0, 3, 1, 2) for feature_map in maps]
        height, width = image.shape[-2:]
        return [
            # not -(-height // stride): PyTorch's exporter would round it towards zero
            feature_map[..., : (height + stride - 1) // stride, : (width + stride - 1) // stride]
            for stride, feature_map in zip(STRIDES, maps, strict=True)
        ]


def check_timm_name(name: str) -> None:
    """Raise unless timm knows an encoder, and the weights that a tag behind its name stands for.

    Raises:
        OptionError: It does not; names those that are spelt alike.
    """
    base, _, tag = name.partition(".")
    if timm.is_model(base):
        tags = timm.models.get_arch_pretrained_cfgs(base)
        if tag and name not in tags:
            raise OptionError(
                f"timm {timm.__version__} has no weights {tag!r} of {base}",
                fix=f"choose from {', '.join(key.partition('.')[2] for key in tags)}, or none",
            )
        return
    encoders = timm.list_models()
    longer = [encoder for encoder in encoders if encoder.startswith(f"{base}_")]
    close = longer[:3] or get_close_matches(base, encoders, n=3)
    raise OptionError(
        f"timm {timm.__version__} has no encoder {base!r}",
        fix=f"did you mean {' or '.join(close)}?" if close else "see timm.list_models() in Python",
    )


def _features(name: str, bands: int) -> Any:
    options: dict[str, Any] = {"features_only": True, "pretrained": False, "in_chans": bands}
    try:
        try:
            # windowed attention can take any size, but asks to be told
            return timm.create_model(name, strict_img_size=False, **options)
        except TypeError:  # all others do not know the option
            return timm.create_model(name, **options)
    except Exception as error:  # whatever a model's own constructor raises
        raise OptionError(
            f"timm can't give the maps of the encoder {name} ({first_line(error)})",
            fix="choose another encoder, e.g. resnet18",
        ) from error


def _check_maps(encoder: TimmEncoder, name: str, bands: int) -> None:
    """Raise unless the maps of an image of some size are as large as their strides say.

    Raises:
        OptionError: They are not, or the encoder does not take such an image.
    """
    training = encoder.training
    height, width = PROBE_SIZE
    try:
        with torch.no_grad():
            maps = encoder.eval()(torch.zeros(1, bands, height, width))
    except Exception as error:  # encoders that take one size say so in many ways
        own = timm.get_pretrained_cfg(name)
        size = "x".join(map(str, own.input_size[1:])) if own else "one size"
        raise OptionError(
            f"the encoder {name} takes images of {size} px only ({first_line(error)})",
            fix="choose one that takes any size, e.g. resnet18",
        ) from error
    finally:
        encoder.train(training)
    expected = [
        (channels, height // stride, width // stride)
        for channels, stride in zip(encoder.channels, STRIDES, strict=True)
    ]
    if [tuple(feature_map.shape[1:]) for feature_map in maps] != expected:
        raise OptionError(
            f"the maps of the encoder {name} lack the borders of the image",
            fix="choose another encoder, e.g. resnet18",
        )
