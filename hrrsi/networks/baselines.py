"""Other people's networks under the same contract, for comparison under the same training."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from hrrsi.errors import OptionError, first_line
from hrrsi.networks.architecture import parsed_model
from hrrsi.networks.network import (
    PROBE_SIZE,
    SegmentationNetwork,
    check_timm_name,
    padded_to_multiples,
)

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


class Baseline(SegmentationNetwork):
    """A network of a library, called as ours are.

    Its logits have the input's size: what a library resizes, it resizes itself, as published.

    Args:
        model: Maps (N, bands, H, W) to logits (N, classes, H, W).
        encoder: Name of its encoder's module.
        head: Name of the convolution whose outputs are the classes.
        multiple: What H and W have to be multiples of; other images are padded by repeating
            their edges, and the logits cut.
        num_classes: Number of classes.
        bands: Number of input bands.
    """

    logit_stride = 1

    def __init__(
        self,
        model: nn.Module,
        *,
        encoder: str,
        head: str,
        multiple: int,
        num_classes: int,
        bands: int,
    ) -> None:
        super().__init__(num_classes, bands)
        self.model = model
        self.class_heads = (f"model.{head}",)
        self._encoder = encoder
        self._multiple = multiple

    @property
    def encoder(self) -> nn.Module:
        """The part that can start from the weights of a classifier."""
        return self.model.get_submodule(self._encoder)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return ``lbl``: class logits (N, classes, H, W) of a normalised (N, bands, H, W)."""
        return {"lbl": self.segment(image)}

    def coarse_logits(self, image: torch.Tensor) -> torch.Tensor:
        """Return class logits (N, classes, H, W) of a normalised (N, bands, H, W)."""
        height, width = image.shape[-2:]
        maps: Any = self.model(padded_to_multiples(image, self._multiple))
        logits: torch.Tensor = maps["out"] if isinstance(maps, dict) else maps
        return logits[..., :height, :width]


class _Parts(NamedTuple):
    model: nn.Module
    encoder: str
    head: str
    multiple: int


def build_baseline(model: str, num_classes: int, bands: int = 3) -> Baseline:
    """Return a baseline with random weights, in training mode.

    Args:
        model: ``deeplabv3plus``, ``fcn``, ``pspnet``, ``segnet``, ``unet`` or ``unet-ENCODER``.
        num_classes: Number of classes.
        bands: Number of input bands.

    Raises:
        OptionError: timm has no such encoder, or it can't carry a U-Net.
    """
    name = parsed_model(model)
    parts = _BUILDERS[name.network](name.encoder, num_classes, bands)
    return Baseline(
        parts.model,
        encoder=parts.encoder,
        head=parts.head,
        multiple=parts.multiple,
        num_classes=num_classes,
        bands=bands,
    )


def _deeplabv3plus(encoder: str, num_classes: int, bands: int) -> _Parts:
    """Chen et al. 2018 on ResNet-50 at stride 16, as segmentation_models_pytorch builds it."""
    import segmentation_models_pytorch as smp

    model = smp.DeepLabV3Plus(encoder, encoder_weights=None, in_channels=bands, classes=num_classes)
    return _Parts(model, "encoder", "segmentation_head.0", 32)


def _fcn(encoder: str, num_classes: int, bands: int) -> _Parts:
    """Long et al. 2015 as it is compared with today: torchvision's, on ResNet-50 at stride 8.

    The head that torchvision adds for an auxiliary loss is left out.
    """
    from torchvision.models import segmentation

    model = getattr(segmentation, f"fcn_{encoder}")(
        weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=False
    )
    if bands != 3:
        model.backbone.conv1 = nn.Conv2d(bands, 64, 7, stride=2, padding=3, bias=False)
    return _Parts(model, "backbone", "classifier.4", 1)


def _pspnet(encoder: str, num_classes: int, bands: int) -> _Parts:
    """Zhao et al. 2017 on ResNet-50, all of it, dilated to stride 8.

    By default segmentation_models_pytorch cuts the encoder off at stride 8, which is another
    network; the auxiliary loss is left out.
    """
    import segmentation_models_pytorch as smp

    model = smp.PSPNet(
        encoder,
        encoder_weights=None,
        encoder_depth=5,
        upsampling=8,
        in_channels=bands,
        classes=num_classes,
    )
    model.encoder.make_dilated(8)
    return _Parts(model, "encoder", "segmentation_head.0", 32)


def _segnet(_encoder: str, num_classes: int, bands: int) -> _Parts:
    """Badrinarayanan et al. 2017 on VGG-16."""
    return _Parts(SegNet(num_classes, bands), "encoder", "head", 32)


def _unet(encoder: str, num_classes: int, bands: int) -> _Parts:
    """Ronneberger et al. 2015, as segmentation_models_pytorch builds it, on ResNet-34 or timm's.

    On ResNet-34 it is what "U-Net" mostly means in remote sensing today, where encoders start from
    ImageNet; on the encoder of another network its decoder can be compared with that one's.
    """
    import segmentation_models_pytorch as smp

    options: dict[str, Any] = {"encoder_weights": None, "in_channels": bands}
    options["classes"] = num_classes
    if encoder == parsed_model("unet").encoder:
        return _Parts(smp.Unet(encoder, **options), "encoder", "segmentation_head.0", 32)
    encoder = encoder.partition(".")[0]  # the tag of its weights makes no difference
    check_timm_name(encoder)
    try:
        model = smp.Unet(f"tu-{encoder}", **options)
        with torch.inference_mode():  # some encoders take one size only, and say so when they run
            model.eval()(torch.zeros(1, bands, *PROBE_SIZE))
    except Exception as error:  # whatever a model's own code raises
        raise OptionError(
            f"the encoder {encoder} can't carry a U-Net ({first_line(error)})",
            fix="choose another encoder, e.g. unet-resnet18",
        ) from error
    return _Parts(model.train(), "encoder", "segmentation_head.0", 32)


_BUILDERS: dict[str, Callable[[str, int, int], _Parts]] = {
    "deeplabv3plus": _deeplabv3plus,
    "fcn": _fcn,
    "pspnet": _pspnet,
    "segnet": _segnet,
    "unet": _unet,
}
