"""The segmentation networks, by name."""

from hrrsi.errors import HrrsiError
from hrrsi.networks.segmentation import UED, UEDBES, UEDBESSFM

__all__ = [
    "MODEL_NAMES",
    "NETWORKS",
    "UED",
    "UEDBES",
    "UEDBESSFM",
    "build_network",
    "split_width",
]

NETWORKS: dict[str, type[UED]] = {"ued": UED, "ued_bes": UEDBES, "ued_bes_sfm": UEDBESSFM}
_WIDTHS = {"": 1.0, "_1p3": 1.3, "_1p5": 1.5}

MODEL_NAMES: tuple[str, ...] = tuple(
    f"{network}{suffix}" for suffix in _WIDTHS for network in NETWORKS
)


def build_network(model: str, num_classes: int, bands: int = 3) -> UED:
    """Return a network with random weights, in training mode.

    Args:
        model: One of `MODEL_NAMES`: a network, with ``_1p3`` or ``_1p5`` for its wider versions.
        num_classes: Number of classes, at least 1.
        bands: Number of input bands.

    Raises:
        HrrsiError: The name is not a model's.
    """
    network, width = split_width(model)
    return NETWORKS[network](num_classes, width, bands)


def split_width(model: str) -> tuple[str, float]:
    """Return the network's name and width of a model, e.g. ``("ued_bes", 1.3)``.

    Raises:
        HrrsiError: The name is not a model's.
    """
    for suffix, width in _WIDTHS.items():
        network = model.removesuffix(suffix)
        if network in NETWORKS and network + suffix == model:
            return network, width
    raise HrrsiError(f"unknown model {model!r}", fix=f"choose from {', '.join(MODEL_NAMES)}")
