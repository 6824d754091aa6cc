"""Weights files, which are ``.safetensors``, opened without torch."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from hrrsi.errors import InputError, MissingInputError, WeightsError
from hrrsi.files import require_regular
from hrrsi.networks.exported_file import SUFFIXES, refuse_exported
from hrrsi.networks.model_meta import ModelMeta, metadata_value

# Files of the package by the names that `weights` takes for them; a version may lack some.
PACKAGED_FILES = {
    "default": "ued-efficientnet_lite0.safetensors",
    "light": "ued_bes_sfm.safetensors",
}
PACKAGED_FOLDER = Path(str(resources.files("hrrsi") / "pretrained"))
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", *SUFFIXES)
ENCODER_METADATA = "hrrsi_encoder"  # of files of `hrrsi pretrain`
# what runs of `hrrsi train` and `hrrsi pretrain` keep
BEST_WEIGHTS = "best.safetensors"
ENCODER_WEIGHTS = "encoder.safetensors"

# Keys of the checkpoints that a run goes on from: of this version, and of those before 2026-12.
RUN_CHECKPOINT = "hrrsi_checkpoint"
_OLDER_CHECKPOINT = "pytorch-lightning_version"


def packaged_weights(name: str = "default") -> Path:
    """Return the file of weights inside the package.

    Args:
        name: ``default``, or another one of `packaged_names`.

    Raises:
        MissingInputError: There are none of that name.
    """
    if name != "default" and name not in packaged_names():
        raise MissingInputError(
            "no such weights in the package",
            where=name,
            fix=f"there are {', '.join(packaged_names())}",
        )
    return PACKAGED_FOLDER / PACKAGED_FILES[name]


def packaged_names() -> list[str]:
    """Return the names of the weights inside the package, the default ones first."""
    return [name for name, file in PACKAGED_FILES.items() if (PACKAGED_FOLDER / file).is_file()]


def is_packaged_name(weights: str | Path) -> bool:
    """Return whether what was given for weights names some of the package, and no file."""
    return str(weights) in packaged_names() and not Path(weights).exists()


def is_weights_file(path: Path) -> bool:
    """Return whether a path has the name of a weights file, or is one of the package's."""
    return path.suffix.lower() in WEIGHTS_SUFFIXES or is_packaged_name(path)


def weights_path(weights: str | Path | None) -> Path:
    """Return the file of weights that are given as `hrrsi.predict` and others take them.

    Args:
        weights: A file; or a name of `packaged_names`, where there is no file of that name; None:
            the package's default.

    Raises:
        MissingInputError: There is neither a file nor a name in the package.
    """
    if weights is None:
        return packaged_weights()
    if is_packaged_name(weights):
        return packaged_weights(str(weights))
    path = Path(weights)
    if len(path.parts) == 1 and not path.suffix and not path.exists():  # a name, by its looks
        raise MissingInputError(
            "no such weights file, and none of the package's weights",
            where=path,
            fix=f"check the path, or name one of {', '.join(packaged_names())}",
        )
    return path


def packaged_name(path: Path) -> str | None:
    """Return the name of the package's weights that a file is, or None for any other file."""
    own = {PACKAGED_FOLDER / file: name for name, file in PACKAGED_FILES.items()}
    return own.get(path)


def weights_words(path: Path, meta: ModelMeta) -> str:
    """Return which weights are used, in the words of every command: name, place, network, classes.

    Args:
        path: Their file, as `weights_path` returns it.
        meta: What they say of themselves.
    """
    name = packaged_name(path)
    place = "packaged" if name is not None else str(path)
    file_text = f"{name or path.name} ({place})" if place != path.name else place
    return f"{file_text}, {meta.network_text}, {', '.join(meta.classes)}"


def weights_line(path: Path, meta: ModelMeta) -> str:
    """Return which weights a file holds; of those inside the package, also what they are for."""
    parts = [weights_words(path, meta), meta.background if packaged_name(path) else ""]
    return "; ".join(part for part in parts if part)


def is_safetensors(path: Path) -> bool:
    """Return whether a file starts as safetensors do: a header's length, then JSON.

    Raises:
        MissingInputError: There is no such file.
        InputError: It is empty or can't be read, or an exported network.
    """
    refuse_exported(path)
    require_regular(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except FileNotFoundError:
        raise MissingInputError("no such weights file", where=path, fix="check the path") from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path) from error
    if not start:
        raise WeightsError("is empty (0 bytes)", where=path, fix="copy the file again")
    return path.suffix == ".safetensors" or (len(start) == 9 and start[8:] == b"{")


def open_weights(path: Path, framework: str = "numpy") -> Any:
    """Open a ``.safetensors`` as safetensors' own reader.

    Raises:
        WeightsError: Missing, or not a whole file.
    """
    try:
        return safe_open(path, framework=framework)
    except (SafetensorError, OSError, struct.error) as error:
        raise WeightsError(
            f"is not a whole safetensors file ({error})", where=path, fix="copy the file again"
        ) from error


def encoder_of(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what a file's metadata says of the encoder that it holds, or None for other files."""
    try:
        encoder = metadata_value(metadata[ENCODER_METADATA])
    except (KeyError, ValueError):
        return None
    is_whole = (
        isinstance(encoder, dict)
        and isinstance(encoder.get("encoder"), str)
        and isinstance(encoder.get("classes", []), list)
    )
    return encoder if is_whole else None


def refuse_run_checkpoint(content: object, path: Path) -> None:
    """Raise where what was read as weights is the checkpoint that a run goes on from.

    Raises:
        WeightsError: It is; names the weights beside it.
    """
    if not isinstance(content, dict) or not {RUN_CHECKPOINT, _OLDER_CHECKPOINT} & content.keys():
        return
    files = (path.with_name(name) for name in (BEST_WEIGHTS, ENCODER_WEIGHTS))
    beside = next((file for file in files if file.is_file()), None)
    raise WeightsError(
        "is the checkpoint that a run goes on from, not its weights",
        where=path,
        fix=f"give {beside}, the best of that run"
        if beside
        else f"give the {BEST_WEIGHTS} that the run leaves beside it after an epoch",
    )


def meta_of(metadata: Mapping[str, str], path: Path) -> ModelMeta:
    """Return what a file's metadata says of its weights.

    Raises:
        WeightsError: Not written by hrrsi, damaged, or of a model unknown here.
    """
    encoder = encoder_of(metadata)
    if encoder is not None:
        raise WeightsError(
            f"holds the encoder {encoder.get('encoder')} alone, as `hrrsi pretrain` writes it",
            where=path,
            fix="train a network that starts from it: `hrrsi.train(encoder_weights)`",
        )
    return ModelMeta.from_metadata(metadata, path)


def tensors_of(file: Any, path: Path) -> dict[str, Any]:
    """Return the tensors of a file that `open_weights` opened.

    Raises:
        WeightsError: One is of a type that is not read, or damaged.
    """
    try:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WeightsError(
            f"holds a tensor that can't be read ({' '.join(str(error).split())[:80]})",
            where=path,
            fix="copy the file again",
        ) from error
