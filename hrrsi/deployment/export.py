"""A network as a file that other programs run: ONNX, or OpenVINO's own format.

Normalisation and softmax are inside, sizes are fixed, and the metadata is what GeoDeep and the QGIS
plugin Deepness read. A file gets its name once it is checked against the engine that maps here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from hrrsi.deployment.options import ExportOptions
from hrrsi.errors import OptionError, OutputError, WeightsError
from hrrsi.extras import requiring
from hrrsi.files import refuse_existing, replacing, scratch_folder
from hrrsi.graphs.graph import IR_VERSION, OPSET, Floats
from hrrsi.graphs.segmentation import NetworkGraph
from hrrsi.interruption import heeding_signals, signal_stack_kept
from hrrsi.networks.architecture import parsed_model
from hrrsi.networks.exported_file import (
    INPUT_SCALE,
    METADATA_KEY,
    MODEL_INFO,
    file_bytes,
    refuse_exported,
)
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.weights_file import weights_path
from hrrsi.networks.weights_reading import read_meta
from hrrsi.prediction.blending import window_labels
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.options import EngineOptions
from hrrsi.progress import progress

SUFFIXES: dict[str, str] = {"onnx": ".onnx", "openvino": ".xml"}
MOST_DIFFERENT = 1e-4  # labels that may differ from those of the engine
_COMPARED = 3  # windows
_INPUT, _OUTPUT = "input", "output"

_Probabilities = Callable[[Floats], Floats]


@dataclass(frozen=True)
class ExportedNetwork:
    """A network that was exported.

    Attributes:
        path: The file.
        meta: What the weights say of themselves.
        options: How it was exported.
        resolution: Metres per pixel that it names.
        file_bytes: Its size, that of the ``.bin`` beside it included.
        runtime: What it was checked with: ``onnxruntime`` or ``openvino``.
        compared: Pixels whose labels were compared with those of the engine that maps here.
        different: How many of them differed.
    """

    path: Path
    meta: ModelMeta
    options: ExportOptions
    resolution: float
    file_bytes: int
    runtime: str
    compared: int
    different: int


@heeding_signals()
def export(
    weights: str | Path | None = None,
    out: str | Path = "model.onnx",
    *,
    options: ExportOptions = ExportOptions(),
    overwrite: bool = False,
    show_progress: bool = False,
) -> ExportedNetwork:
    """Write a network for other programs, and check it against the engine that maps here.

    Its input is ``input``, (1, bands, window, window) float32, the scene's values divided by 255;
    its output ``output``, (1, classes, window, window) float32, probabilities. An ONNX file is of
    opset 17 and IR 8 and holds all weights. Its metadata is what GeoDeep and Deepness read
    (``model_type``, ``class_names``, ``resolution`` in cm per pixel, ``tiles_size``,
    ``tiles_overlap`` in percent, ``seg_thresh``, ``seg_small_segment``), and ``hrrsi``: all that
    the weights say of themselves. OpenVINO's format has the same under ``model_info``.

    Args:
        weights: A weights file, or the name of weights inside the package: ``default``, which it
            is by default, or ``light``.
        out: The file, ``.onnx`` or for OpenVINO ``.xml``.
        options: How.
        overwrite: Whether to replace a file that exists.
        show_progress: Whether to show progress on a terminal.

    Raises:
        WeightsError: The weights can't be read, or what was written gives other labels than they
            do on more than one pixel in ten thousand.
        OptionError: The weights name no resolution and none is given, or `out` is called otherwise.
        OutputError: `out` exists, or can't be written.
        DependencyError: A network that only PyTorch runs, without it.
    """
    path, source = Path(out), weights_path(weights)
    files = files_of(path, options, overwrite=overwrite)
    meta = read_meta(source)
    resolution = resolution_of(meta, source, options)
    steps = progress("exporting", 2 + _COMPARED, " steps", enabled=show_progress)
    with steps as bar, scratch_folder(path) as folder:
        graph = probabilities_graph(source, meta, options.window)
        bar.update()
        written = folder / path.name
        write_network(described(graph, meta, options, resolution), written)
        bar.update()
        runtime, run = _opened(written)
        compared, different = _compared(source, meta, options.window, run, path, bar.update)
        del run  # OpenVINO's has its weights mapped
        size = put_in_place(written, files)
    return ExportedNetwork(path, meta, options, resolution, size, runtime, compared, different)


def resolution_of(meta: ModelMeta, path: Path, options: ExportOptions) -> float:
    """Return the metres per pixel that a file names: those asked for, or the weights' own.

    Raises:
        OptionError: The weights name none and none are given.
    """
    if options.resolution is not None:
        return options.resolution
    if meta.resolution is None and meta.resolutions is None:
        raise OptionError(
            f"{path.name} does not say which ground resolution it was trained on",
            parameter="resolution",
            fix="give metres per pixel",
        )
    if meta.resolution is not None:
        return meta.resolution
    assert meta.resolutions is not None
    low, high = meta.resolutions
    return float(np.sqrt(low * high))


def probabilities_graph(path: Path, meta: ModelMeta, window: int) -> onnx.ModelProto:
    """Return the graph of weights, from values divided by `INPUT_SCALE` to probabilities.

    Raises:
        WeightsError: The weights can't be read, or PyTorch can't write their network.
        DependencyError: A network that only PyTorch runs, without it.
    """
    refuse_exported(path)
    gain, offset = meta.normalisation()
    gain = gain * np.float32(INPUT_SCALE)
    if parsed_model(meta.model).has_graph:
        return NetworkGraph(path).probabilities(window, gain, offset)
    with requiring("gpu", f"exporting the network {meta.model}"):
        return _traced(path, gain, offset, window)


def _traced(path: Path, gain: Floats, offset: Floats, window: int) -> onnx.ModelProto:
    """Return the graph of a network that only PyTorch runs, by its own exporter."""
    import io
    import warnings

    import torch

    from hrrsi.networks.weights import load_network

    network, meta = load_network(path)
    factors, shifts = torch.from_numpy(gain), torch.from_numpy(offset)

    class Probabilities(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.network.segment(image * factors + shifts).softmax(dim=1)

    written = io.BytesIO()
    image = torch.zeros(1, gain.shape[1], window, window)
    try:
        with warnings.catch_warnings(), _silent_standard_output(), torch.inference_mode():
            warnings.simplefilter("ignore")  # of sizes that become constants, as they should
            torch.onnx.export(
                Probabilities().eval(),
                (image,),
                written,
                input_names=[_INPUT],
                output_names=[_OUTPUT],
                opset_version=OPSET,
                dynamo=False,  # the newer exporter writes no opset below 18
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, TypeError) as error:
        raise WeightsError(
            f"its network is one that PyTorch can't write in opset {OPSET} for windows of "
            f"{window} px ({str(error).partition('. ')[0]})",
            where=path,
            fix="export a network on GhostNet or EfficientNet-Lite",
        ) from error
    model = onnx.load_from_string(written.getvalue())
    # which the exporter leaves unknown of some encoders
    sizes = model.graph.output[0].type.tensor_type.shape.dim
    for size, number in zip(sizes, (1, len(meta.classes), window, window), strict=True):
        size.dim_value = number
    return _sampled_in_single_precision(model)


@contextmanager
def _silent_standard_output() -> Iterator[None]:
    """Keep what PyTorch's exporter prints from C++, a graph of a thousand lines, to itself."""
    sys.stdout.flush()
    standard_output, null_device = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, 1)
    try:
        yield
    finally:
        os.dup2(standard_output, 1)
        os.close(standard_output)
        os.close(null_device)


def _sampled_in_single_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give samplings along a flow float32 places: PyTorch's exporter makes them of float64."""
    nodes = []
    for node in model.graph.node:
        if node.op_type == "GridSample":
            place = f"{node.input[1]}_float"
            nodes.append(
                onnx.helper.make_node("Cast", [node.input[1]], [place], to=onnx.TensorProto.FLOAT)
            )
            node.input[1] = place
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _opened(path: Path) -> tuple[str, _Probabilities]:
    """Return a runtime for a file and its function, for ONNX ONNX Runtime where it is installed."""
    with suppress(ImportError):
        if path.suffix.lower() != ".onnx":
            return "openvino", _openvino(path)
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return "onnxruntime", lambda window: session.run(None, {_INPUT: window})[0]
    return "openvino", _openvino(path)


def _openvino(path: Path) -> _Probabilities:
    import openvino as ov

    with signal_stack_kept():
        compiled = ov.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(window: Floats) -> Floats:
        values: Floats = compiled({_INPUT: window})[_OUTPUT]
        return values

    return run


def _compared(
    weights: Path,
    meta: ModelMeta,
    window: int,
    run: _Probabilities,
    path: Path,
    on_window: Callable[[], object],
) -> tuple[int, int]:
    """Return how many labels were compared with the engine's, and how many differ.

    Raises:
        WeightsError: More than `MOST_DIFFERENT` of them.
    """
    engine = open_engine(weights, EngineOptions(device="cpu", precision="32"))
    windows = list(_windows(meta, window))
    normal = meta.normalisation()
    compared = different = 0
    for pixels, logits in zip(windows, engine.logits(iter(windows), *normal), strict=True):
        assert logits is not None
        on_window()
        expected = window_labels(logits, window, window, engine.logit_grid)
        probabilities = run(pixels[None].astype(np.float32) / np.float32(INPUT_SCALE))
        compared += expected.size
        different += int((probabilities[0].argmax(axis=0) != expected).sum())
    if different > MOST_DIFFERENT * compared:
        raise WeightsError(
            f"what was written gives other labels on {different:,} of {compared:,} px",
            where=path,
            fix="nothing was kept; please report it",
        )
    return compared, different


def _windows(meta: ModelMeta, window: int) -> Iterator[npt.NDArray[Any]]:
    """Yield windows as an aerial camera takes them, in the bands and the values of the weights.

    They are a piece of Dubai, its mirror image in less light, and it turned; (bands, window,
    window) in the type of the weights' scenes.
    """
    from PIL import Image

    with Image.open(str(resources.files("hrrsi") / "deployment" / "aerial.jpg")) as image:
        piece = np.moveaxis(np.asarray(image.convert("RGB"), dtype=np.float32), -1, 0) / 255
    times = -(-window // piece.shape[1])
    rows = np.pad(piece, ((0, 0), *[(0, (times - 1) * piece.shape[1])] * 2), mode="symmetric")
    bands = rows[np.arange(meta.band_count) % len(rows), :window, :window]
    if meta.height:  # heights as training had them
        mean, deviation = (np.float32(values[-1]) for values in (meta.mean, meta.std))
        bands[-1] = mean + deviation * (bands[-1] - bands[-1].mean()) / bands[-1].std()
    dtype = "float32" if meta.height else meta.dtype
    for variant in (bands, 0.6 * bands[:, :, ::-1], bands.swapaxes(1, 2)):
        yield np.ascontiguousarray(variant * meta.scale).astype(dtype)


def files_of(path: Path, options: ExportOptions, *, overwrite: bool) -> tuple[Path, ...]:
    """Return the files that are written; the one that is opened, which is the last, is `path`.

    Raises:
        OptionError: `path` is not called as the format's files are.
        OutputError: One exists, and is not to be replaced.
    """
    if path.suffix != SUFFIXES[options.format]:  # OpenVINO takes no other case
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
