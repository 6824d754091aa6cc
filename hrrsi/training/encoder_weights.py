"""The weights that an encoder starts from: of a file, or of timm's hub."""

from __future__ import annotations

import json
import socket
import urllib.parse
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import timm
import torch
from huggingface_hub import constants

from hrrsi.errors import InputError, MissingInputError, OptionError, WeightsError, quiet_loggers
from hrrsi.files import require_regular
from hrrsi.networks.architecture import parsed_model
from hrrsi.networks.network import SegmentationNetwork, adapted_to_bands, check_timm_name
from hrrsi.networks.weights import read_tensor_file
from hrrsi.networks.weights_file import (
    BEST_WEIGHTS,
    ENCODER_WEIGHTS,
    encoder_of,
    open_weights,
    refuse_run_checkpoint,
)

_PREFIXES = ("module.", "base_network.")
_COUNTER = "num_batches_tracked"  # BatchNorms count what they never use here, if at all


def load_encoder_weights(network: SegmentationNetwork, model: str, source: str) -> str | None:
    """Fill a network's encoder.

    A first layer that sees another number of bands is adapted (`adapted_to_bands` says how).

    Args:
        network: The network; its encoder is changed.
        model: Its name, which says what its encoder is.
        source: ``imagenet`` (from timm's hub), ``none``, or a file that holds the encoder's
            tensors under timm's names, as `hrrsi pretrain` and timm write them: a
            ``.safetensors`` or a ``.pth``, with or without the prefix ``base_network.``.

    Returns:
        What was loaded, in one line; None for ``none``.

    Raises:
        HrrsiError: The hub is out of reach, or the file does not hold such an encoder.
    """
    check_encoder_source(model, source)
    if source == "none":
        return None
    name = parsed_model(model).encoder
    tensors = _imagenet_tensors(name) if source == "imagenet" else _tensors_of(Path(source))
    encoder = network.encoder
    expected = encoder.state_dict()
    fitting = _under_own_names(tensors, expected)
    absent_keys = [key for key in expected if key not in fitting and not key.endswith(_COUNTER)]
    if absent_keys:
        raise WeightsError(
            f"lacks {len(absent_keys)} of the {len(expected)} tensors of {model}'s encoder, "
            f"e.g. {absent_keys[0]}{_encoder_text(source)}",
            where=source,
            fix=f"give weights of {name}, or `encoder_weights=none`",
        )
    adapted = ""
    for key, value in expected.items():
        if key in fitting and _differ_in_bands(fitting[key], value, network.bands):
            adapted = (
                f"; its first layer adapted from {fitting[key].shape[1]} to {network.bands} bands"
            )
            fitting[key] = adapted_to_bands(fitting[key], network.bands)
    differing = [key for key in fitting if fitting[key].shape != expected[key].shape]
    if differing:
        raise WeightsError(
            f"holds an encoder of another width or number of bands ({differing[0]} is "
            f"{tuple(fitting[differing[0]].shape)}, not {tuple(expected[differing[0]].shape)})"
            f"{_encoder_text(source)}",
            where=source,
            fix=f"give weights of {name}, or `encoder_weights=none`",
        )
    encoder.load_state_dict({**expected, **fitting})
    origin = f"timm's ImageNet weights of {name}" if source == "imagenet" else source
    return f"encoder weights: {len(fitting)} of {len(expected)} tensors from {origin}{adapted}"


def check_encoder_source(model: str, source: str) -> None:
    """Raise where a model's encoder or a source of its weights can't be used, by their names.

    Raises:
        HrrsiError: timm knows no such encoder, or has no ImageNet weights for it, or there is no
            such file.
    """
    _, encoder, width = parsed_model(model)
    if width is None:
        check_timm_name(encoder)
    if source == "imagenet" and not _has_weights(encoder):
        encoder_text = encoder if width is None else f"GhostNet at width {width}"
        raise OptionError(
            f"timm has no ImageNet weights for {encoder_text} ({model})",
            fix="give `encoder_weights=FILE` or none",
            parameter="encoder_weights",
        ).at("`encoder_weights=imagenet`")
    if source not in ("imagenet", "none"):
        _check_file(Path(source))


def _check_file(path: Path) -> None:
    where = f"`encoder_weights={path}`"
    if path.is_dir():
        of_run = [path / name for name in (ENCODER_WEIGHTS, BEST_WEIGHTS)]
        present = next((str(file) for file in of_run if file.is_file()), "a weights file in it")
        raise InputError("is a folder", where=where, fix=f"give {present}")
    require_regular(path)
    if not path.is_file():
        raise MissingInputError(
            "no such file", where=where, fix="give imagenet, none or a weights file"
        )


def _has_weights(encoder: str) -> bool:
    described = timm.get_pretrained_cfg(encoder) if timm.is_model(encoder) else None
    return described is not None and bool(described.has_weights)


def _under_own_names(
    tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return those of a classifier's tensors that an encoder expects, under its own names.

    Where timm takes the maps out of a classifier, it joins the first two parts of some names
    (``stages.0`` becomes ``stages_0``), or puts ``model`` before them all.
    """
    fitting = {}
    for key, value in tensors.items():
        for alias in (key, key.replace(".", "_", 1), f"model.{key}"):
            for own in (alias, f"features.{alias}"):
                if own in expected:
                    fitting[own] = value
    return fitting


def _differ_in_bands(tensor: torch.Tensor, expected: torch.Tensor, bands: int) -> bool:
    """Return whether kernels are those expected but for the number of bands that they see."""
    return (
        tensor.ndim == expected.ndim == 4
        and tensor.shape[1] != expected.shape[1] == bands
        and tensor[:, :1].shape == expected[:, :1].shape
    )


def _imagenet_tensors(encoder: str) -> dict[str, torch.Tensor]:
    try:
        _require_hub(encoder)
        with quiet_loggers(("huggingface_hub", "timm")):
            classifier = timm.create_model(encoder, pretrained=True)
    except Exception as error:  # the hub's client raises errors of its own, of the network's, ...
        raise WeightsError(
            f"timm's ImageNet weights cannot be fetched ({type(error).__name__})",
            where="`encoder_weights=imagenet`",
            fix="check the network, or give `encoder_weights=none` (from scratch) or FILE (a "
            f"{encoder} .safetensors or .pth fetched elsewhere)",
        ) from error
    return dict(classifier.state_dict())


def _require_hub(encoder: str) -> None:
    """Raise at once where the hub is out of reach: its client would try again for a minute.

    Raises:
        OSError: No connection, and nothing cached.
    """
    described = timm.get_pretrained_cfg(encoder)
    repository = described and described.hf_hub_id
    if not repository:  # a few weights lie elsewhere, where the client gives up at once
        return
    cached = (Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}").exists()
    if cached or constants.is_offline_mode() or urllib.request.getproxies():
        return
    hub = urllib.parse.urlsplit(constants.ENDPOINT)
    port = hub.port or (443 if hub.scheme == "https" else 80)
    socket.create_connection((hub.hostname, port), timeout=10).close()


def _tensors_of(path: Path) -> dict[str, torch.Tensor]:
    content = read_tensor_file(path)
    refuse_run_checkpoint(content, path)
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


def _encoder_text(source: str) -> str:
    """Return what a file says of the encoder that it holds, for the end of a sentence."""
    if source == "imagenet" or Path(source).suffix != ".safetensors":
        return ""
    with open_weights(Path(source)) as file:
        metadata = file.metadata() or {}
    with suppress(KeyError, TypeError, ValueError):  # said by others than us
        encoder = encoder_of(metadata)
        if encoder is not None:
            return f"; it holds {encoder['encoder']}"
        return f"; it holds {json.loads(metadata['model'])}"  # the weights of a network
    return ""
