"""What the networks are called and made of, understood without torch.

Torch's modules and the inference graphs are built from the same tables; their keys are those of
the published checkpoints.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from hrrsi.errors import OptionError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_Position = TypeVar("_Position", float, "npt.NDArray[np.float64]")
# Where the logits of a network lie on its input, where each stands for some pixels: the outermost
# ones on the outermost pixels (``corners``, as published), or each in the centre of its pixels.
LogitAlignment = Literal["corners", "centres"]


class LogitGrid(NamedTuple):
    """Where the logits of a network lie on the pixels of its input.

    Attributes:
        stride: Pixels that a logit stands for along an axis: 4, or 1 where they have the input's
            size.
        alignment: ``corners``: the outermost logits lie on the outermost pixels, so the distance of
            two is a little more than the stride, and a map is up to 1.5 px off towards the borders
            of its window; ``centres``: each lies in the centre of its pixels, in any window.
    """

    stride: int = 4
    alignment: LogitAlignment = "corners"

    def count(self, size: int) -> int:
        """Return how many logits a network gives along an axis of `size` pixels."""
        return -(-size // self.stride)

    def place(self, position: _Position, size: int) -> _Position:
        """Return where among its logits a position lies, along an axis of a window.

        Args:
            position: Counted in pixels from the centre of the first one; one or many.
            size: Pixels of the window.

        Returns:
            Counted from the first logit; beyond the outermost ones where it lies there.
        """
        if self.alignment == "corners":
            return position * ((self.count(size) - 1) / max(size - 1, 1))
        return (position + 0.5) / self.stride - 0.5


class Bottleneck(NamedTuple):
    """A ghost bottleneck, in the order in which timm's GhostNet takes it.

    Attributes:
        kernel: Rows and columns of the depthwise convolution where `stride` is 2.
        expansion: Channels between its two ghost modules, at width 1.
        channels: Channels that leave it, at width 1.
        squeeze: Channels of its squeeze-excite as a share of the expansion; 0: it has none.
        stride: 1 or 2.
    """

    kernel: int
    expansion: int
    channels: int
    squeeze: float
    stride: int


# Han et al. 2020, "GhostNet: More Features from Cheap Operations", the architecture table.
STAGES: tuple[tuple[Bottleneck, ...], ...] = (
    (Bottleneck(3, 16, 16, 0, 1),),
    (Bottleneck(3, 48, 24, 0, 2),),
    (Bottleneck(3, 72, 24, 0, 1),),
    (Bottleneck(5, 72, 40, 0.25, 2),),
    (Bottleneck(5, 120, 40, 0.25, 1),),
    (Bottleneck(3, 240, 80, 0, 2),),
    (
        Bottleneck(3, 200, 80, 0, 1),
        Bottleneck(3, 184, 80, 0, 1),
        Bottleneck(3, 184, 80, 0, 1),
        Bottleneck(3, 480, 112, 0.25, 1),
        Bottleneck(3, 672, 112, 0.25, 1),
    ),
    (Bottleneck(5, 672, 160, 0.25, 2),),
    (
        Bottleneck(5, 960, 160, 0, 1),
        Bottleneck(5, 960, 160, 0.25, 1),
        Bottleneck(5, 960, 160, 0, 1),
        Bottleneck(5, 960, 160, 0.25, 1),
    ),
)
MAP_STAGES = (2, 4, 6, 8)  # whose maps the decoder joins,
STRIDES = (4, 8, 16, 32)  # and theirs
STEM_CHANNELS = {1.0: 16, 1.3: 20, 1.5: 24}  # by width


class LiteBlocks(NamedTuple):
    """A stage of EfficientNet-Lite: inverted bottlenecks behind each other.

    Attributes:
        kernel: Rows and columns of their depthwise convolutions.
        expansion: Channels between their convolutions, as a multiple of those that enter.
        stride: 1 or 2, of the first; that of the others is 1.
    """

    kernel: int
    expansion: int
    stride: int


# EfficientNet-Lite, as TensorFlow's repository has it ("efficientnet/lite"); stem and head do not
# widen, and there is no squeeze-excite.
LITE_STAGES = (
    LiteBlocks(3, 1, 1),
    LiteBlocks(3, 6, 2),
    LiteBlocks(5, 6, 2),
    LiteBlocks(3, 6, 2),
    LiteBlocks(5, 6, 1),
    LiteBlocks(5, 6, 2),
    LiteBlocks(3, 6, 1),
)
LITE_MAP_STAGES = (1, 2, 4, 6)  # whose maps the decoder joins
LITE_BATCH_NORM_EPSILON = 1e-3


class LiteSize(NamedTuple):
    """How large an EfficientNet-Lite is.

    Attributes:
        channels: Channels that leave each of `LITE_STAGES`.
        blocks: Blocks of each.
    """

    channels: tuple[int, ...]
    blocks: tuple[int, ...]


LITE_SIZES = {  # by timm's names
    "tf_efficientnet_lite0": LiteSize((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
    "tf_efficientnet_lite1": LiteSize((16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1)),
    "tf_efficientnet_lite2": LiteSize((16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
    "tf_efficientnet_lite3": LiteSize((24, 32, 48, 96, 136, 232, 384), (1, 3, 3, 5, 5, 6, 1)),
    "tf_efficientnet_lite4": LiteSize((24, 32, 56, 112, 160, 272, 448), (1, 4, 4, 6, 6, 8, 1)),
}

JOINS = ("dec_c3", "dec_c2", "dec_c1")  # of maps at strides 32 and 16, then 8, then 4
FEATURES = 24  # channels of body and edge
# 3x3 convolutions of each head before its last, 1x1
HEADS = {"final_out": 2, "seg_out": 2, "body_out": 1, "edge_out": 1}


NETWORKS = ("ued", "ued_bes", "ued_bes_sfm")
WIDTHS = {"": 1.0, "_1p3": 1.3, "_1p5": 1.5}
_GHOSTNETS = {1.0: "ghostnet_100", 1.3: "ghostnet_130", 1.5: "ghostnet_150"}
_TIMM_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")  # some end in the tag of their weights

# Other systems, each with the encoder that is customary for it, under timm's name.
_BASELINE_ENCODERS = {
    "deeplabv3plus": "resnet50",
    "fcn": "resnet50",
    "pspnet": "resnet50",
    "segnet": "vgg16_bn",
    "unet": "resnet34",
}
_ENCODER_CHOICES = (*NETWORKS, "unet")  # networks that `-ENCODER` gives another encoder

GHOSTNET_MODELS: tuple[str, ...] = tuple(
    f"{network}{suffix}" for suffix in WIDTHS for network in NETWORKS
)
BASELINE_MODELS: tuple[str, ...] = (
    *(f"ued-resnet{depth}" for depth in (18, 34, 50, 101)),
    *_BASELINE_ENCODERS,
)


class ModelName(NamedTuple):
    """What a model's name says.

    Attributes:
        network: ``ued``, ``ued_bes`` or ``ued_bes_sfm``, or a baseline such as ``unet``.
        encoder: timm's name of its encoder; of GhostNet at a width that timm lacks, what timm
            would call it.
        width: Channel multiplier of GhostNet, None for other encoders.
    """

    network: str
    encoder: str
    width: float | None

    @property
    def has_graph(self) -> bool:
        """Whether `hrrsi.graphs` builds its inference graph; PyTorch runs all the others."""
        has_encoder = self.width is not None or self.lite_size is not None
        return self.network in NETWORKS and has_encoder

    @property
    def lite_size(self) -> LiteSize | None:
        """The size of its EfficientNet-Lite encoder, None where it has another one."""
        return LITE_SIZES.get(self.encoder.partition(".")[0])


def parsed_model(model: str) -> ModelName:
    """Return what a model's name says.

    A name is one of ``ued``, ``ued_bes`` and ``ued_bes_sfm``, alone (GhostNet), with ``_1p3`` or
    ``_1p5`` (a wider GhostNet) or with ``-ENCODER`` (timm's encoder of that name, which is not
    looked up here); or that of a baseline, of which ``unet`` takes ``-ENCODER`` too.

    Raises:
        OptionError: The name is not a model's.
    """
    if model in _BASELINE_ENCODERS:
        return ModelName(model, _BASELINE_ENCODERS[model], None)
    base, dash, encoder = model.partition("-")
    if dash and base in _ENCODER_CHOICES and _TIMM_NAME.fullmatch(encoder):
        plain = _models_of_own_encoders(base).get(encoder.partition(".")[0])
        if plain is not None:
            raise OptionError(f"{encoder} is the encoder of {plain} itself", fix=f"give {plain}")
        return ModelName(base, encoder, None)
    for suffix, width in WIDTHS.items():
        network = base.removesuffix(suffix)
        if not dash and network in NETWORKS and network + suffix == base:
            return ModelName(network, _GHOSTNETS[width], width)
    raise OptionError(
        f"unknown model {model!r}",
        fix=f"choose from {', '.join(NETWORKS)}, alone, with {' or '.join(s for s in WIDTHS if s)}"
        f" (wider) or with -ENCODER (one of timm's, e.g. ued-resnet18), and from "
        f"{', '.join(_BASELINE_ENCODERS)} (-ENCODER too)",
    )


def _models_of_own_encoders(network: str) -> dict[str, str]:
    """Return the models that have an encoder without its name, by encoder."""
    if network in _BASELINE_ENCODERS:
        return {_BASELINE_ENCODERS[network]: network}
    return {_GHOSTNETS[width]: f"{network}{suffix}" for suffix, width in WIDTHS.items()}
