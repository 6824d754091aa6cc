"""Names of the segmentation networks, understood without torch."""

import re
from typing import NamedTuple

from hrrsi.errors import OptionError

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
        return self.width is not None


def parsed_model(model: str) -> ModelName:
    """Return what a model's name says.

    A name is one of ``ued``, ``ued_bes`` and ``ued_bes_sfm``, alone (GhostNet), with ``_1p3`` or
    ``_1p5`` (a wider GhostNet) or with ``-ENCODER`` (timm's encoder of that name, which is not
    looked up here); or that of a baseline.

    Raises:
        OptionError: The name is not a model's.
    """
    if model in _BASELINE_ENCODERS:
        return ModelName(model, _BASELINE_ENCODERS[model], None)
    base, dash, encoder = model.partition("-")
    if dash and base in NETWORKS and _TIMM_NAME.fullmatch(encoder):
        for width, suffix in zip(WIDTHS.values(), WIDTHS, strict=True):
            if encoder.partition(".")[0] == _GHOSTNETS[width]:
                raise OptionError(
                    f"{encoder} is the encoder of {base}{suffix} itself", fix=f"give {base}{suffix}"
                )
        return ModelName(base, encoder, None)
    for suffix, width in WIDTHS.items():
        network = base.removesuffix(suffix)
        if not dash and network in NETWORKS and network + suffix == base:
            return ModelName(network, _GHOSTNETS[width], width)
    raise OptionError(
        f"unknown model {model!r}",
        fix=f"choose from {', '.join(NETWORKS)}, alone, with {' or '.join(s for s in WIDTHS if s)}"
        f" (wider) or with -ENCODER (one of timm's, e.g. ued-resnet18), and from "
        f"{', '.join(_BASELINE_ENCODERS)}",
    )
