"""Files of networks for other programs: their names, their metadata, and how they are written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx

from hrrsi.deployment.options import ExportOptions
from hrrsi.errors import OptionError, OutputError
from hrrsi.files import refuse_existing, replacing
from hrrsi.graphs.graph import IR_VERSION, OPSET
from hrrsi.interruption import signal_stack_kept
from hrrsi.networks.exported_file import METADATA_KEY, MODEL_INFO, file_bytes
from hrrsi.networks.model_meta import ModelMeta

SUFFIXES: dict[str, str] = {"onnx": ".onnx", "openvino": ".xml"}


def files_of(path: Path, options: ExportOptions, *, overwrite: bool) -> tuple[Path, ...]:
    """Return the files that are written; the one that is opened, which is the last, is `path`.

    Raises:
        OptionError: `path` is not called as the format's files are.
        OutputError: One exists, and is not to be replaced.
    """
    if path.suffix.lower() != SUFFIXES[options.format]:
        raise OptionError(
            f"{path.name} does not end in {SUFFIXES[options.format]}",
            parameter="out",
            fix="call it so, or give another `format`",
        )
    files = (path,) if options.format == "onnx" else (path.with_suffix(".bin"), path)
    for file in files:
        refuse_existing(file, overwrite=overwrite)
    return files


def described(
    model: onnx.ModelProto, meta: ModelMeta, options: ExportOptions, resolution: float
) -> onnx.ModelProto:
    """Give a model the metadata that other programs and hrrsi read, each value a JSON text."""
    model.ir_version = IR_VERSION
    model.producer_name = "hrrsi"
    values = {
        "model_type": "Segmentor",
        "class_names": {str(index): name for index, name in enumerate(meta.classes)},
        "resolution": round(100 * resolution, 3),
        "tiles_size": options.window,
        "tile_size": options.window,
        "tiles_overlap": round(100 * options.effective_overlap / options.window),
        "seg_thresh": 0,  # 0.5 would make class 0 of all that is less certain
        "seg_small_segment": 0,
        METADATA_KEY: replace(
            meta, window=options.window, overlap=options.effective_overlap
        ).to_metadata(),
    }
    onnx.helper.set_model_props(model, {k: json.dumps(v) for k, v in values.items()})
    return model


def write_network(model: onnx.ModelProto, path: Path) -> int:
    """Write a model in the format that a path's suffix says, and return the bytes of its files.

    Raises:
        OutputError: What was written is not what the runtimes in plugins read.
    """
    if path.suffix.lower() == SUFFIXES["onnx"]:
        onnx.save(model, path)
        _require_form(path)
        return file_bytes(path)
    import openvino as ov

    with signal_stack_kept():
        converted = ov.Core().read_model(model.SerializeToString())
    for entry in model.metadata_props:
        converted.set_rt_info(entry.value, [MODEL_INFO, entry.key])
    ov.save_model(converted, path, compress_to_fp16=False)
    return file_bytes(path)


def _require_form(path: Path) -> None:
    """Raise unless a file is what the runtimes in plugins read: read back, not taken on trust."""
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    outside = [t.name for t in model.graph.initializer if t.data_location == t.EXTERNAL]
    if opsets != {"": OPSET} or model.ir_version != IR_VERSION or outside:
        raise OutputError(
            f"has opsets {opsets} and IR {model.ir_version}, not {OPSET} and {IR_VERSION}",
            where=path,
            fix="please report it",
        )


def put_in_place(written: Path, files: tuple[Path, ...]) -> int:
    """Give a network's files their names, the one that is opened last; return their bytes."""
    for file in files:
        with replacing(file) as temporary:
            written.with_suffix(file.suffix).rename(temporary)
    return sum(file.stat().st_size for file in files)
