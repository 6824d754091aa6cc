"""Weights read: what they say of themselves and their tensors, without torch, or as a network.

A published ``.pth`` checkpoint needs torch to be read, so what it holds is kept as a weights file
in the cache, under the digest of its content.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hrrsi.errors import HrrsiError, OutputError
from hrrsi.extras import requiring
from hrrsi.files import cache_folder, content_digest
from hrrsi.networks.exported_file import exported_file, is_exported
from hrrsi.networks.model_meta import FORMAT, ModelMeta
from hrrsi.networks.weights_file import (
    is_safetensors,
    meta_of,
    open_weights,
    tensors_of,
    weights_path,
)

if TYPE_CHECKING:
    from hrrsi.networks.network import SegmentationNetwork


@requiring("gpu", "a network in PyTorch")
def load_model(path: str | Path | None = None) -> SegmentationNetwork:
    """Return a network with its weights, in eval mode, on the CPU.

    Args:
        path: A weights file of hrrsi (``.safetensors``), a published checkpoint (``.pth``), or the
            name of weights inside the package: ``default``, which it is by default, or ``light``.

    Returns:
        A module whose call on a normalised (N, bands, H, W) float tensor returns a dict with at
        least ``lbl``, logits (N, classes, H, W), and whose ``meta`` is a `ModelMeta`.

    Raises:
        WeightsError: Truncated, not a weights file, of another model, or a pickle that holds more
            than tensors.
        MissingInputError: There is no such file.
        DependencyError: PyTorch is not installed.
    """
    from hrrsi.networks.weights import load_network

    return load_network(weights_path(path))[0]


def read_meta(path: str | Path) -> ModelMeta:
    """Return what a weights file, a published checkpoint or an exported network says of itself.

    Raises:
        WeightsError: As `read_weights`, or as `exported_file`.
        MissingInputError: Likewise.
    """
    if is_exported(Path(path)):
        return exported_file(Path(path)).meta
    with open_weights(weights_file(Path(path))) as file:
        return meta_of(file.metadata() or {}, Path(path))


def read_weights(path: str | Path) -> tuple[ModelMeta, dict[str, npt.NDArray[np.float32]]]:
    """Return what a weights file says of itself, and its tensors in single precision.

    Args:
        path: A weights file of hrrsi (``.safetensors``) or a published checkpoint (``.pth``).

    Raises:
        WeightsError: Truncated, not a weights file, of another model, or a pickle that holds more
            than tensors.
        MissingInputError: There is no such file.
    """
    path = Path(path)
    with open_weights(weights_file(path)) as file:
        meta = meta_of(file.metadata() or {}, path)
        tensors = tensors_of(file, path)
    return meta, {key: tensor.astype(np.float32) for key, tensor in tensors.items()}


def weights_file(path: Path) -> Path:
    """Return a ``.safetensors`` that holds what a file does: itself, or one from the cache.

    Processes share the cache safely: a file appears in it whole, under the digest of what it was
    made from.

    Raises:
        WeightsError: As `read_weights`.
        MissingInputError: Likewise.
    """
    if is_safetensors(path):
        return path
    cache_file = cache_folder() / f"checkpoint-{content_digest(path)}-{FORMAT}.safetensors"
    with suppress(HrrsiError), open_weights(cache_file):
        return cache_file
    with requiring("gpu", "a published checkpoint"):  # torch takes seconds to import
        from hrrsi.networks.weights import load_network, save_weights

    network, meta = load_network(path)
    try:
        save_weights(network.state_dict(), meta, cache_file)
    except (OSError, HrrsiError) as error:
        raise OutputError(
            "the checkpoint can't be kept in a form that is read without PyTorch",
            where=cache_file.parent,
            fix="free space there, or name another folder with HRRSI_CACHE",
        ) from error
    return cache_file
