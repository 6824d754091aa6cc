"""Weights files without torch: what they say of themselves, and their tensors as arrays.

A weights file is one ``.safetensors``. A published ``.pth`` checkpoint needs torch to be read, so
what it holds is kept as a weights file in the cache, under the digest of its content.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from typing_extensions import TypedDict

from hrrsi.errors import HrrsiError
from hrrsi.networks.names import parsed_model

PACKAGED_WEIGHTS = "ued_bes_sfm-dubai.safetensors"
FORMAT = "1"
ENCODER_METADATA = "hrrsi_encoder"  # of files of `hrrsi pretrain`
# what runs of `hrrsi train` and `hrrsi pretrain` keep
BEST_WEIGHTS = "best.safetensors"
ENCODER_WEIGHTS = "encoder.safetensors"

_CHECKPOINT = "pytorch-lightning_version"  # a key of each checkpoint of a run


class ModelMeta(TypedDict):
    """What a weights file says of itself.

    Attributes:
        model: Name of the network, as `hrrsi.networks.names.parsed_model` understands it.
        classes: Class names in the order of the logits.
        colours: Class colours (red, green, blue, 0 to 255), likewise.
        bands: Meaning of the input bands, 1-based in the scenes trained on.
        height: Whether one more band comes last: heights, from a raster of their own. Absent
            where it is not so.
        dtype: NumPy name of the type of the scenes trained on.
        scale: The value that counts as 1: bands are divided by it, then normalised.
        mean: Mean of each band after that division.
        std: Standard deviation of each band, likewise.
        resolution: Ground sampling distance in metres per pixel, or None where it is unknown.
        scheme: Name of the label scheme.
        training: How the weights were trained: data, recipe, seed, images seen.
        scores: Scores and their protocol; None stands for one that is not defined.
        licence: Terms of the weights and of the data behind them.
    """

    model: str
    classes: list[str]
    colours: list[tuple[int, int, int]]
    bands: list[int]
    height: NotRequired[bool]
    dtype: str
    scale: float
    mean: list[float]
    std: list[float]
    resolution: float | None
    scheme: str
    training: dict[str, Any]
    scores: dict[str, Any]
    licence: str


_META = TypeAdapter(ModelMeta)


def packaged_weights() -> Path:
    """Return the weights inside the package."""
    return Path(str(resources.files("hrrsi") / "pretrained" / PACKAGED_WEIGHTS))


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits.

    Raises:
        HrrsiError: The file is missing or can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise HrrsiError("no such weights file", where=path, fix="check the path") from None
    except OSError as error:
        raise HrrsiError(f"cannot be read ({error.strerror})", where=path) from error


def read_meta(path: str | Path) -> ModelMeta:
    """Return what a weights file or a published checkpoint says of itself.

    Raises:
        HrrsiError: As `read_weights`.
    """
    with open_weights(weights_file(Path(path))) as file:
        return meta_of(file.metadata() or {}, Path(path))


def read_weights(path: str | Path) -> tuple[ModelMeta, dict[str, npt.NDArray[np.float32]]]:
    """Return what a weights file says of itself, and its tensors in single precision.

    Args:
        path: A weights file of hrrsi (``.safetensors``) or a published checkpoint (``.pth``).

    Raises:
        HrrsiError: Missing, truncated, not a weights file, of another model, or a pickle that
            holds more than tensors.
    """
    given = Path(path)
    with open_weights(weights_file(given)) as file:
        meta = meta_of(file.metadata() or {}, given)
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    return meta, {key: tensor.astype(np.float32) for key, tensor in tensors.items()}


def weights_file(path: Path) -> Path:
    """Return a ``.safetensors`` that holds what a file does: itself, or one from the cache.

    The cache is ``$HRRSI_CACHE``, by default ``hrrsi`` in the user's cache folder. Processes share
    it safely: a file appears in it whole, under the digest of what it was made from.

    Raises:
        HrrsiError: As `read_weights`.
    """
    if is_safetensors(path):
        return path
    kept = cache_folder() / f"checkpoint-{content_digest(path)}-{FORMAT}.safetensors"
    with suppress(HrrsiError), open_weights(kept):
        return kept
    # torch takes seconds to import
    from hrrsi.networks.weights import load_network, save_weights

    network, meta = load_network(path)
    try:
        save_weights(network.state_dict(), meta, kept)
    except (OSError, HrrsiError) as error:
        raise HrrsiError(
            "the checkpoint can't be kept in a form that is read without PyTorch",
            where=kept.parent,
            fix="free space there, or name another folder with HRRSI_CACHE",
        ) from error
    return kept


def cache_folder() -> Path:
    """Return the folder of what is prepared once and used by many runs."""
    given = os.environ.get("HRRSI_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hrrsi"


def is_safetensors(path: Path) -> bool:
    """Return whether a file starts as safetensors do: a header's length, then JSON.

    Raises:
        HrrsiError: The file is missing, empty or can't be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except FileNotFoundError:
        raise HrrsiError("no such weights file", where=path, fix="check the path") from None
    except OSError as error:
        raise HrrsiError(f"cannot be read ({error.strerror})", where=path) from error
    if not start:
        raise HrrsiError("is empty (0 bytes)", where=path, fix="copy the file again")
    return path.suffix == ".safetensors" or (len(start) == 9 and start[8:] == b"{")


def open_weights(path: Path, framework: str = "numpy") -> Any:
    """Open a ``.safetensors`` as safetensors' own reader.

    Raises:
        HrrsiError: Missing, or not a whole file.
    """
    try:
        return safe_open(path, framework=framework)
    except (SafetensorError, OSError, struct.error) as error:
        raise HrrsiError(
            f"is not a whole safetensors file ({error})", where=path, fix="copy the file again"
        ) from error


def _loaded(text: str) -> Any:
    """Return a value of a file's metadata: None for the NaN of older files, which is no JSON."""
    return json.loads(text, parse_constant=lambda _: None)


def encoder_of(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what a file's metadata says of the encoder that it holds, or None for other files."""
    try:
        found = _loaded(metadata[ENCODER_METADATA])
    except (KeyError, json.JSONDecodeError):
        return None
    return found if isinstance(found, dict) else None


def refuse_run_checkpoint(content: object, path: Path) -> None:
    """Raise where what was read as weights is the checkpoint that a run goes on from.

    Raises:
        HrrsiError: It is; names the weights beside it.
    """
    if not isinstance(content, dict) or _CHECKPOINT not in content:
        return
    files = (path.with_name(name) for name in (BEST_WEIGHTS, ENCODER_WEIGHTS))
    beside = next((file for file in files if file.is_file()), None)
    raise HrrsiError(
        "is the checkpoint that a run goes on from, not its weights",
        where=path,
        fix=f"give {beside}, the best of that run"
        if beside
        else f"give the {BEST_WEIGHTS} that the run leaves beside it after an epoch",
    )


def meta_of(metadata: Mapping[str, str], path: Path) -> ModelMeta:
    """Return what a file's metadata says of its weights.

    Raises:
        HrrsiError: Not written by hrrsi, damaged, or of a model unknown here.
    """
    encoder = encoder_of(metadata)
    if encoder is not None:
        raise HrrsiError(
            f"holds the encoder {encoder.get('encoder')} alone, as `hrrsi pretrain` writes it",
            where=path,
            fix="train a network that starts from it: `hrrsi train --encoder-weights`",
        )
    if metadata.get("hrrsi_format") != FORMAT:
        raise HrrsiError(
            "does not say which network it holds (not written by hrrsi)",
            where=path,
            fix="use a file that `hrrsi train` wrote, or a published .pth checkpoint",
        )
    try:
        meta = _META.validate_python(
            {key: _loaded(value) for key, value in metadata.items() if key != "hrrsi_format"}
        )
    except (ValidationError, json.JSONDecodeError) as error:
        raise HrrsiError(
            "its description is damaged", where=path, fix="copy the file again"
        ) from error
    try:
        parsed_model(meta["model"])
    except HrrsiError as error:
        raise HrrsiError(
            f"holds the model {meta['model']!r}, which this version does not know",
            where=path,
            fix="update hrrsi",
        ) from error
    return meta
