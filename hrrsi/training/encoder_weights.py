"""Weights that the encoder starts from: timm's ImageNet weights, a file, or none."""

import logging
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import timm
import torch
from huggingface_hub import constants

from hrrsi.errors import HrrsiError
from hrrsi.networks.names import split_width
from hrrsi.networks.segmentation import UED
from hrrsi.tensor_files import read_tensor_file

_IMAGENET_MODEL = "ghostnet_100"
_PREFIXES = ("module.", "base_network.")


def load_encoder_weights(network: UED, model: str, source: str) -> None:
    """Fill a network's encoder.

    Args:
        network: The network; its encoder is changed.
        model: Its name, which says its width.
        source: ``imagenet`` (timm's hub; width 1.0 and three bands only), ``none``, or a file
            that holds GhostNet's tensors under timm's names: a ``.safetensors`` or a ``.pth``,
            with or without the prefix ``base_network.``.

    Raises:
        HrrsiError: The hub is out of reach, or the file does not hold such an encoder.
    """
    check_encoder_source(model, source)
    if source == "none":
        return
    tensors = _imagenet_tensors() if source == "imagenet" else _tensors_of(Path(source))
    encoder = network.base_network
    expected = encoder.state_dict()
    missing = [key for key in expected if key not in tensors]
    if missing:
        raise HrrsiError(
            f"lacks {len(missing)} of the encoder's {len(expected)} tensors, e.g. {missing[0]}",
            where=source,
            fix="give the weights of a GhostNet, or --encoder-weights none",
        )
    differing = [key for key, value in expected.items() if tensors[key].shape != value.shape]
    if differing:
        raise HrrsiError(
            f"holds an encoder of another width or number of bands ({differing[0]} is "
            f"{tuple(tensors[differing[0]].shape)}, not {tuple(expected[differing[0]].shape)})",
            where=source,
            fix="give the weights of the same GhostNet, or --encoder-weights none",
        )
    encoder.load_state_dict({key: tensors[key] for key in expected})


def check_encoder_source(model: str, source: str) -> None:
    """Raise where a source of encoder weights can't be used, as far as its name tells.

    Raises:
        HrrsiError: The model has no ImageNet weights, or there is no such file.
    """
    _, width = split_width(model)
    if source == "imagenet" and width != 1.0:
        raise HrrsiError(
            f"timm has no ImageNet weights for GhostNet at width {width} ({model})",
            where="--encoder-weights imagenet",
            fix="give --encoder-weights FILE or none",
        )
    if source not in ("imagenet", "none") and not Path(source).is_file():
        raise HrrsiError(
            "no such file",
            where=f"--encoder-weights {source}",
            fix="give imagenet, none or a weights file",
        )


def _imagenet_tensors() -> dict[str, torch.Tensor]:
    try:
        _require_hub()
        with _quiet("huggingface_hub", "timm"):
            ghostnet = timm.create_model(_IMAGENET_MODEL, pretrained=True)
    except Exception as error:  # the hub's client raises errors of its own, of the network's, ...
        raise HrrsiError(
            f"timm's ImageNet weights cannot be fetched ({type(error).__name__})",
            where="--encoder-weights imagenet",
            fix="check the network, or give --encoder-weights none (from scratch) or FILE (a "
            "ghostnet_100 .safetensors or .pth fetched elsewhere)",
        ) from error
    return dict(ghostnet.state_dict())


def _require_hub() -> None:
    """Raise at once where the hub is out of reach: its client would try again for a minute.

    Raises:
        OSError: No connection, and nothing cached.
    """
    cached = any(Path(constants.HF_HUB_CACHE).glob(f"models--*{_IMAGENET_MODEL}*"))
    if cached or constants.is_offline_mode() or urllib.request.getproxies():
        return
    hub = urllib.parse.urlsplit(constants.ENDPOINT)
    port = hub.port or (443 if hub.scheme == "https" else 80)
    socket.create_connection((hub.hostname, port), timeout=10).close()


@contextmanager
def _quiet(*loggers: str) -> Iterator[None]:
    """Silence the warnings of some loggers: what they say ends up in our one line."""
    before = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _tensors_of(path: Path) -> dict[str, torch.Tensor]:
    content = read_tensor_file(path)
    for key in ("model_state_dict", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {}
    for key, value in content.items() if isinstance(content, dict) else ():
        for prefix in _PREFIXES:
            key = key.removeprefix(prefix)
        if isinstance(value, torch.Tensor):
            tensors[key] = value.float() if value.is_floating_point() else value
    return tensors
