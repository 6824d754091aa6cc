"""Exported networks as weights: ONNX files and OpenVINO's, whoever wrote them.

What they say of themselves is metadata in the layout of the QGIS plugin Deepness and of GeoDeep
(each value a JSON text), which says what the classes are; files of `hrrsi export` also hold all
that their weights said.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hrrsi.classes import chosen_colours
from hrrsi.errors import MissingInputError, WeightsError, one_line
from hrrsi.files import require_regular
from hrrsi.interruption import signal_stack_kept
from hrrsi.networks.model_meta import Floats, ModelMeta, metadata_value
from hrrsi.scenes.windows import LARGEST_WINDOW

SUFFIXES = (".onnx", ".xml")
METADATA_KEY = "hrrsi"  # of all that the weights say of themselves
INPUT_SCALE = 255.0  # what Deepness and GeoDeep divide the values of scenes by
MODEL_INFO = "model_info"  # where OpenVINO's files keep metadata
_MODEL_TYPE = "Segmentor"
_BACKGROUND = "background"  # what Deepness calls the other of two classes
_WHAT = "`hrrsi export` writes such files, with all that they have to say"


def is_exported(path: Path) -> bool:
    """Return whether a file is an exported network, by its name."""
    return path.suffix.lower() in SUFFIXES


def file_bytes(path: Path) -> int:
    """Return the size of a file, of an OpenVINO network with the file that holds its numbers."""
    files = (path, path.with_suffix(".bin")) if path.suffix.lower() == ".xml" else (path,)
    return sum(file.stat().st_size for file in files)


@dataclass(frozen=True)
class ExportedFile:
    """An exported network that can be used here.

    Attributes:
        meta: What it says of itself; its `window` is known.
        input_name: What it calls its input, (1, bands, window, window) float32.
        output_name: And its output, (1, classes, window, window) float32.
        gain: (1, bands, 1, 1), and
        offset: (1, bands, 1, 1), float32: its input is values * gain + offset, where `meta`
            normalises the values.
        is_own: Whether hrrsi wrote it, so that its output are probabilities.
        is_binary: Whether its output is one map, the probability of the second of two classes:
            (1, 1, window, window) or (1, window, window).
    """

    meta: ModelMeta
    input_name: str
    output_name: str
    gain: Floats
    offset: Floats
    is_own: bool
    is_binary: bool


def exported_file(path: Path) -> ExportedFile:
    """Return what there is to know of an exported network.

    Raises:
        MissingInputError: There is no such file.
        WeightsError: It can't be read, is of something else, or its metadata is missing, says too
            little or contradicts itself.
    """
    if not path.exists():
        raise MissingInputError("no such weights file", where=path, fix="check the path")
    require_regular(path)
    if not path.stat().st_size:
        raise WeightsError("is empty (0 bytes)", where=path, fix="copy the file again")
    metadata, inputs, outputs = (_onnx if path.suffix.lower() == ".onnx" else _openvino)(path)
    bands, window = _input_size(inputs, path)
    (input_name, _), (output_name, output_shape) = inputs[0], _output(outputs, path)
    own = _own_meta(metadata, path)
    is_binary = own is None and output_shape[1:] in ((window, window), (1, window, window))
    meta = own or _foreign_meta(metadata, bands, path, is_binary=is_binary)
    if meta.window not in (None, window):
        raise _contradiction(f"windows of {meta.window} px", f"an input of {window} px", path)
    if meta.band_count != bands:
        raise _contradiction(f"{meta.band_count} bands", f"an input of {bands}", path)
    if METADATA_KEY in metadata:
        _require_equal_classes(meta, _class_names(metadata, path), path)
    maps = 2 if is_binary else output_shape[1] if len(output_shape) == 4 else None
    if len(meta.classes) != maps or output_shape[-2:] != (window, window):
        has = " x ".join("?" if size is None else str(size) for size in output_shape)
        raise _contradiction(
            f"{len(meta.classes)} classes and windows of {window} px", f"an output of {has}", path
        )
    for key in ("tiles_size", "tile_size"):
        if key in metadata and _number(metadata, key, path) != window:
            raise _contradiction(
                f"{key} {metadata[key]}", f"an input of {window} x {window} px", path
            )
    gain, offset = meta.normalisation()
    own_gain, own_offset = np.ones_like(gain), np.zeros_like(offset)
    if own is not None:  # it normalises what it sees
        own_gain = (1 / (gain * INPUT_SCALE)).astype(np.float32)
        own_offset = (-offset / (gain * INPUT_SCALE)).astype(np.float32)
    overlap = _overlap(metadata, window, path) if meta.overlap is None else meta.overlap
    return ExportedFile(
        replace(meta, window=window, overlap=overlap),
        input_name,
        output_name,
        own_gain,
        own_offset,
        own is not None,
        is_binary,
    )


def refuse_exported(path: Path) -> None:
    """Raise where tensors of a network are asked of an exported one.

    Raises:
        WeightsError: The file is one, by its name.
    """
    if is_exported(path):
        raise WeightsError(
            "is an exported network: it maps and is scored, and can't be trained, taught by, "
            "exported, quantized or pruned",
            where=path,
            fix="give the weights (.safetensors) that it was exported from",
        )


_Shape = tuple[int | None, ...]
_Ports = list[tuple[str, _Shape]]


def _onnx(path: Path) -> tuple[dict[str, str], _Ports, _Ports]:
    """Return metadata, inputs and outputs of an ONNX file."""
    model = read_onnx(path)
    initial = {tensor.name for tensor in model.graph.initializer}
    inputs = [port for port in model.graph.input if port.name not in initial]
    return (
        {entry.key: entry.value for entry in model.metadata_props},
        [_onnx_port(port, path) for port in inputs],
        [_onnx_port(port, path) for port in model.graph.output],
    )


def read_onnx(path: Path) -> Any:
    """Return an ONNX file's model, tensors that lie beside it included.

    Raises:
        WeightsError: It is none, not whole, or names tensors outside its folder.
    """
    import onnx  # which only those who need it import

    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, the checker and tensors' files each have their own
        words = one_line(error)
        raise WeightsError(
            f"is not a whole ONNX file ({words[:120] or type(error).__name__})",
            where=path,
            fix="copy it again, with the files that hold its tensors beside it",
        ) from error
    if not model.graph.node:
        raise WeightsError("is an ONNX file without a network", where=path, fix=_WHAT)
    return model


def _onnx_port(port: Any, path: Path) -> tuple[str, _Shape]:
    import onnx

    tensor = port.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        raise WeightsError(
            f"its {port.name!r} is not float32, as those of land cover are", where=path, fix=_WHAT
        )
    sizes = tensor.shape.dim
    return port.name, tuple(d.dim_value if d.HasField("dim_value") else None for d in sizes)


def _openvino(path: Path) -> tuple[dict[str, str], _Ports, _Ports]:
    """Return metadata, inputs and outputs of OpenVINO's two files."""
    model = _openvino_model(path)
    info = model.get_rt_info(MODEL_INFO).value if model.has_rt_info(MODEL_INFO) else {}
    metadata = {
        key: str(value.value if hasattr(value, "value") else value) for key, value in info.items()
    }
    inputs, outputs = (
        [_openvino_port(port, path) for port in own] for own in (model.inputs, model.outputs)
    )
    return metadata, inputs, outputs


def _openvino_model(path: Path) -> Any:
    """Return the model of OpenVINO's two files.

    Raises:
        WeightsError: They are none, or not whole.
    """
    if not path.with_suffix(".bin").is_file():
        raise WeightsError(
            f"lacks {path.with_suffix('.bin').name}, which holds its numbers",
            where=path,
            fix="copy both files",
        )
    import openvino as ov

    try:
        with signal_stack_kept():
            return ov.Core().read_model(path)
    except RuntimeError as error:
        words = one_line(error)
        raise WeightsError(
            f"is not a whole network of OpenVINO's ({words[-120:]})",
            where=path,
            fix="copy it and its .bin again",
        ) from error


def _openvino_port(port: Any, path: Path) -> tuple[str, _Shape]:
    name = port.get_any_name()
    if port.get_element_type().get_type_name() != "f32":
        raise WeightsError(
            f"its {name!r} is not float32, as those of land cover are", where=path, fix=_WHAT
        )
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return name, ()
    return name, tuple(None if size.is_dynamic else size.get_length() for size in shape)


def _input_size(inputs: _Ports, path: Path) -> tuple[int, int]:
    """Return bands and window of the only input.

    Raises:
        WeightsError: There are several, or it is not of windows of one size.
    """
    if len(inputs) != 1:
        raise WeightsError(
            f"has {len(inputs)} inputs ({', '.join(name for name, _ in inputs)}) where land cover "
            "needs one, windows of a scene",
            where=path,
            fix=_WHAT,
        )
    name, shape = inputs[0]
    words = " x ".join("?" if size is None else str(size) for size in shape)
    if len(shape) != 4 or shape[0] not in (None, 1):
        raise WeightsError(
            f"its input {name!r} is {words or 'of no shape'}, not 1 x bands x rows x columns",
            where=path,
            fix=_WHAT,
        )
    _, bands, height, width = shape
    if height and height == width and height > LARGEST_WINDOW:
        raise WeightsError(
            f"takes windows of {height} px, more than the {LARGEST_WINDOW} that are mapped by",
            where=path,
            fix="export it again with smaller ones",
        )
    if not bands or not height or height != width:
        raise WeightsError(
            f"its input {name!r} is {words}, not windows of bands x S x S pixels with numbers for "
            "them",
            where=path,
            fix="export it again with fixed, square windows",
        )
    return bands, height


def _output(outputs: _Ports, path: Path) -> tuple[str, _Shape]:
    if len(outputs) != 1:
        names = ", ".join(name for name, _ in outputs)
        raise WeightsError(
            f"has {len(outputs)} outputs ({names}) where land cover has one, a map for each class",
            where=path,
            fix="export the segmentation head alone",
        )
    return outputs[0]


def _own_meta(metadata: Mapping[str, str], path: Path) -> ModelMeta | None:
    """Return what the weights said that hrrsi exported, None for files of others."""
    if METADATA_KEY not in metadata:
        return None
    value = _value(metadata, METADATA_KEY, path)
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _damaged(METADATA_KEY, path)
    return ModelMeta.from_metadata(value, path)


def _foreign_meta(
    metadata: Mapping[str, str], bands: int, path: Path, *, is_binary: bool
) -> ModelMeta:
    """Return what a file in the layout of Deepness and GeoDeep says."""
    kind = _value(metadata, "model_type", path) if "model_type" in metadata else _MODEL_TYPE
    if kind != _MODEL_TYPE:
        raise WeightsError(
            f"is a {kind}, and only a {_MODEL_TYPE} maps land cover", where=path, fix=_WHAT
        )
    classes = _class_names(metadata, path)
    if is_binary and len(classes) == 1:
        classes = [_BACKGROUND, *classes]
    mean, std = [0.0] * bands, [1.0] * bands
    if all(f"standardization_{key}" in metadata for key in ("mean", "std")):
        mean, std = (
            _numbers(metadata, f"standardization_{key}", bands, path) for key in ("mean", "std")
        )
    resolution = _number(metadata, "resolution", path) if "resolution" in metadata else None
    if not all(math.isfinite(value) for value in (*mean, *std)) or 0 in std:
        raise _damaged("standardization_std", path)
    if resolution is not None and not 0 < resolution < math.inf:
        raise _damaged("resolution", path)
    return ModelMeta(
        model=_MODEL_TYPE,
        classes=classes,
        colours=chosen_colours(classes, [None] * len(classes)),
        bands=list(range(1, bands + 1)),
        dtype="uint8",
        scale=INPUT_SCALE,
        mean=mean,
        std=std,
        resolution=None if resolution is None else resolution / 100,  # from centimetres
        scheme="",
        training={},
        scores={},
        licence="",
    )


def _class_names(metadata: Mapping[str, str], path: Path) -> list[str]:
    """Return the names of classes.

    Raises:
        WeightsError: There are none, or they don't count from 0 without gaps.
    """
    key = next((key for key in ("class_names", "names") if key in metadata), None)
    if key is None:
        raise WeightsError(
            "does not say what its classes are (no class_names in its metadata)",
            where=path,
            fix=_WHAT,
        )
    names = _value_or_literal(metadata, key, path)
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], dict):
        (names,) = names  # those of each output, of which there is one
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(n, str) and n for n in names.values()):
        raise _damaged(key, path)
    names = {str(index): name for index, name in names.items()}
    if set(names) != {str(index) for index in range(len(names))} or not names:
        raise WeightsError(
            f"its class_names count {', '.join(names) or 'none'}, not from 0 without gaps",
            where=path,
            fix="correct its metadata",
        )
    ordered = [names[str(index)] for index in range(len(names))]
    if len({name.casefold() for name in ordered}) < len(ordered) or len(ordered) > 254:
        raise WeightsError(
            f"its {len(ordered)} class_names are not as many different names of up to 254",
            where=path,
            fix="correct its metadata",
        )
    return ordered


def _require_equal_classes(meta: ModelMeta, names: list[str], path: Path) -> None:
    if names != list(meta.classes):
        raise _contradiction(
            f"class_names {', '.join(names)}", f"{METADATA_KEY} {', '.join(meta.classes)}", path
        )


def _overlap(metadata: Mapping[str, str], window: int, path: Path) -> int | None:
    """Return the pixels that windows should share: a whole percentage, rounded to a pixel."""
    if "tiles_overlap" not in metadata:
        return None
    percent = _number(metadata, "tiles_overlap", path)
    if not 0 <= percent <= 50:
        raise _damaged("tiles_overlap", path)
    return min(round(percent * window / 100), window // 2)


def _value(metadata: Mapping[str, str], key: str, path: Path) -> Any:
    try:
        return metadata_value(metadata[key])
    except ValueError as error:
        raise _damaged(key, path) from error


def _value_or_literal(metadata: Mapping[str, str], key: str, path: Path) -> Any:
    """Return a value that older files write as Python does, with numbers for keys."""
    with suppress(WeightsError):
        return _value(metadata, key, path)
    try:
        return ast.literal_eval(metadata[key])
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise _damaged(key, path) from error


def _number(metadata: Mapping[str, str], key: str, path: Path) -> float:
    value = _value(metadata, key, path)
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise _damaged(key, path) from error


def _numbers(metadata: Mapping[str, str], key: str, count: int, path: Path) -> list[float]:
    value = _value(metadata, key, path)
    try:
        values = [float(number) for number in value]
    except (TypeError, ValueError) as error:
        raise _damaged(key, path) from error
    if len(values) != count:
        raise _contradiction(f"{key} of {len(values)} bands", f"an input of {count}", path)
    return values


def _damaged(key: str, path: Path) -> WeightsError:
    return WeightsError(
        f"its metadata {key!r} can't be read", where=path, fix="export the network again"
    )


def _contradiction(first: str, second: str, path: Path) -> WeightsError:
    return WeightsError(
        f"contradicts itself: its metadata says {first}, and it has {second}",
        where=path,
        fix="export the network again, or correct its metadata",
    )
