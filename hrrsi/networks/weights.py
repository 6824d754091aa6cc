"""Networks from weights files and back, without ever running what a pickle may hold."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch.nn import init
from torch.overrides import TorchFunctionMode

from hrrsi.errors import OptionError, WeightsError
from hrrsi.files import replacing
from hrrsi.labels.scheme import load_scheme
from hrrsi.networks.architecture import STEM_CHANNELS, WIDTHS
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.network import SegmentationNetwork
from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights_file import (
    is_safetensors,
    meta_of,
    open_weights,
    refuse_run_checkpoint,
    tensors_of,
)

_CLASSIFICATION_ONLY = (
    "base_network.blocks.9.",
    "base_network.conv_head.",
    "base_network.classifier.",
)


def load_network(path: Path) -> tuple[SegmentationNetwork, ModelMeta]:
    """Return a network with its weights, in eval mode, and what these say of themselves.

    Args:
        path: A weights file of hrrsi (``.safetensors``) or a published checkpoint (``.pth``).

    Raises:
        WeightsError: Truncated, not a weights file, of another model, or a pickle that holds more
            than tensors.
        MissingInputError: There is no such file.
    """
    meta, tensors = _read_safetensors(path) if is_safetensors(path) else _read_published(path)
    try:
        with _WithoutRandomNumbers():
            shapes = {key: t.shape for key, t in tensors.items()} if meta.pruned else None
            network = build_network(
                meta.model, len(meta.classes), meta.band_count, pruned_shapes=shapes
            )
    except OptionError as error:  # of an encoder that timm does not know here
        raise WeightsError(error.what, where=path, fix=error.fix) from error
    except ValueError as error:
        raise _wrong_shapes(path) from error
    network.pruned = meta.pruned
    network.logit_alignment = meta.logit_alignment
    _load_tensors(network, tensors, path)
    network.meta = meta
    return network.eval(), meta


class _WithoutRandomNumbers(TorchFunctionMode):
    """Leaves parameters of new networks as they are, which a file is about to fill.

    Drawing them takes a quarter of the time of loading.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _RANDOM_NUMBERS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


_RANDOM_NUMBERS = {
    init.kaiming_normal_,
    init.kaiming_uniform_,
    init.normal_,
    init.trunc_normal_,
    init.uniform_,
    init.xavier_normal_,
    init.xavier_uniform_,
}


def save_weights(
    tensors: Mapping[str, torch.Tensor], meta: ModelMeta, path: Path, *, half: bool = False
) -> None:
    """Write a weights file; it appears under its name whole or not at all, equal for equal weights.

    Args:
        tensors: State dict of the network.
        meta: What the weights are.
        path: A ``.safetensors`` file; replaced where it exists.
        half: Store the kernels of convolutions in half precision; BatchNorm stays as it is, since
            its rounding errors would reach every pixel.

    Raises:
        ValueError: `meta` holds a NaN or an infinity, which JSON can't; a score that is not defined
            is None.
    """
    stored = {
        key: (t.half() if half and t.ndim == 4 else t).detach().cpu().contiguous()
        for key, t in tensors.items()
    }
    content = save(stored, meta.to_metadata())
    with replacing(path) as temporary:
        # written by us, so that a full disk shows as such
        temporary.write_bytes(_with_sorted_metadata(content))


def _with_sorted_metadata(content: bytes) -> bytes:
    """Return a file of safetensors, which writes metadata in a random order, in the order of keys.

    The same weights are then the same bytes.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[end:]


def _read_safetensors(path: Path) -> tuple[ModelMeta, dict[str, torch.Tensor]]:
    with open_weights(path, "pt") as file:
        meta = meta_of(file.metadata() or {}, path)
        tensors = tensors_of(file, path)
    return meta, {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}


def _read_published(path: Path) -> tuple[ModelMeta, dict[str, torch.Tensor]]:
    checkpoint = read_tensor_file(path)
    refuse_run_checkpoint(checkpoint, path)
    state = checkpoint.get("model_state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        raise WeightsError(
            "is not a published checkpoint (it has no model_state_dict)",
            where=path,
            fix="use a file that `hrrsi train` wrote, or a published .pth checkpoint",
        )
    tensors = {
        key.removeprefix("module."): value
        for key, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    meta = _published_meta(tensors, path)
    return meta, {k: t for k, t in tensors.items() if not k.startswith(_CLASSIFICATION_ONLY)}


def _published_meta(tensors: Mapping[str, torch.Tensor], path: Path) -> ModelMeta:
    """Recognise a published network by its tensors; they come from Vaihingen."""
    if any(key.startswith("fusion_score.") for key in tensors):
        model, head = "ued_bes_sfm", "seg_out.2.weight"
    elif any(key.startswith("decouple_body_edge.") for key in tensors):
        model, head = "ued_bes", "seg_out.2.weight"
    else:
        model, head = "ued", "final_out.2.weight"
    stem = tensors.get("base_network.conv_stem.weight")
    suffixes = {STEM_CHANNELS[width]: suffix for suffix, width in WIDTHS.items()}
    suffix = None if stem is None else suffixes.get(stem.shape[0])
    if head not in tensors or suffix is None:
        raise WeightsError(
            "holds the weights of another network", where=path, fix="use one of hrrsi's networks"
        )
    scheme = load_scheme("vaihingen")
    by_code = sorted(scheme.classes, key=lambda c: c.code or c.name)
    rows = tensors[head].shape[0]
    if rows == len(by_code):
        classes, colours = [c.name for c in by_code], [c.colour for c in by_code]
    else:
        classes = [f"class {i}" for i in range(rows)]
        colours = [((i * 83) % 256, (i * 151) % 256, (i * 211) % 256) for i in range(rows)]
    assert scheme.mean is not None
    assert scheme.std is not None
    return ModelMeta(
        model=model + suffix,
        classes=classes,
        colours=colours,
        bands=[1, 2, 3],
        dtype="uint8",
        scale=255.0,
        mean=list(scheme.mean),
        std=list(scheme.std),
        resolution=scheme.resolution,
        scheme="vaihingen",
        training={"data": "ISPRS Vaihingen", "source": "published checkpoint"},
        scores={},
        licence="see the publisher of the checkpoint",
    )


def _load_tensors(
    network: SegmentationNetwork, tensors: Mapping[str, torch.Tensor], path: Path
) -> None:
    try:
        missing, unexpected = network.load_state_dict(dict(tensors), strict=False)
    except RuntimeError as error:
        raise _wrong_shapes(path) from error
    if missing or unexpected:
        raise WeightsError(
            f"holds the weights of another network ({len(missing)} tensors are missing, "
            f"{len(unexpected)} unknown, e.g. {(missing + unexpected)[0]})",
            where=path,
            fix="use a file that `hrrsi train` wrote, or a published .pth checkpoint",
        )


def _wrong_shapes(path: Path) -> WeightsError:
    return WeightsError(
        "its tensors have the wrong shapes for the network it names",
        where=path,
        fix="use a file that `hrrsi train` wrote, or a published .pth checkpoint",
    )


_TAR = b"ustar", 257  # PyTorch's files before 0.1.10; later ones are pickles, then zips


def read_tensor_file(path: Path) -> object:
    """Return the content of a ``.safetensors`` (a dict of tensors) or of a PyTorch file.

    Raises:
        WeightsError: The file is not whole, no PyTorch file at all, or a pickle that holds more
            than tensors and plain containers.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as file:
            start = file.read(_TAR[1] + len(_TAR[0]))
        if start.startswith(b"PK"):
            _check_members(path)
        elif not (start.startswith(b"\x80") or start[_TAR[1] :] == _TAR[0]):
            raise WeightsError(
                "holds no weights: it is neither a .safetensors nor a PyTorch file",
                where=path,
                fix="give another file; download it again if it should hold some",
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols, which load all the same
            content: object = torch.load(path, map_location="cpu", weights_only=True)
            return content
    except (WeightsError, MemoryError):  # the first a ValueError, too
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(
            "is a pickle that holds more than tensors; it was not run",
            where=path,
            fix="use a file that holds weights alone",
        ) from error
    except Exception as error:  # whatever a pickle that is cut or changed leads torch to
        raise WeightsError(
            "is not a whole weights file", where=path, fix="copy the file again"
        ) from error


def _check_members(path: Path) -> None:
    """Raise where a zip of PyTorch's is not as it was written, which torch does not look at.

    Raises:
        WeightsError: A member's checksum is another one, or one is compressed, as none of
            PyTorch's is: it could be of any size.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(each.compress_type != zipfile.ZIP_STORED for each in members) or archive.testzip():
            raise WeightsError("is not a whole weights file", where=path, fix="copy the file again")
