"""Names of the segmentation networks and of their widths."""

from hrrsi.errors import HrrsiError

NETWORK_NAMES = ("ued", "ued_bes", "ued_bes_sfm")
_WIDTHS = {"": 1.0, "_1p3": 1.3, "_1p5": 1.5}

MODEL_NAMES: tuple[str, ...] = tuple(
    f"{network}{suffix}" for suffix in _WIDTHS for network in NETWORK_NAMES
)


def split_width(model: str) -> tuple[str, float]:
    """Return the network's name and width of a model, e.g. ``("ued_bes", 1.3)``.

    Raises:
        HrrsiError: The name is not a model's.
    """
    for suffix, width in _WIDTHS.items():
        network = model.removesuffix(suffix)
        if network in NETWORK_NAMES and network + suffix == model:
            return network, width
    raise HrrsiError(f"unknown model {model!r}", fix=f"choose from {', '.join(MODEL_NAMES)}")
