"""Networks in int8 or half precision, with what that costs and gains measured and written down."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from hrrsi.deployment.calibration import (
    METHODS,
    Calibration,
    CalibrationMethod,
    evenly_chosen,
    network_windows,
    session_of,
    with_float_nodes,
)
from hrrsi.deployment.export import (
    described,
    files_of,
    probabilities_graph,
    put_in_place,
    resolution_of,
    write_network,
)
from hrrsi.deployment.options import LEAST_PATCHES, ExportOptions, QuantizationOptions
from hrrsi.errors import DependencyError, DeviceError, InputError, WeightsError
from hrrsi.evaluation.patch_evaluation import paired_counts, require_scores, split_reading
from hrrsi.evaluation.scores import ConfusionMatrix
from hrrsi.extras import is_installed
from hrrsi.files import scratch_folder
from hrrsi.graphs.graph import PRECISE, Floats
from hrrsi.hardware import available_cores, processor_name
from hrrsi.interruption import heeding_signals, stop_if_requested
from hrrsi.networks.exported_file import refuse_exported
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.weights_file import weights_path
from hrrsi.networks.weights_reading import read_meta
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.mapped_scene import seconds_a_window
from hrrsi.prediction.options import EngineOptions
from hrrsi.progress import progress
from hrrsi.quantities import TextTable, share_text
from hrrsi.tiling.dataset import Patch, TiledDataset

_TRIALS = 16  # further training patches, by which ranges and layers are chosen
_LEAST_GAIN = 0.002  # share of labels that more agree by where a layer stays in float,
_LEAST_SHARE = 0.1  # and of those that don't agree
_ROUNDS = 5  # of timing, in turns
# A layer by its name in the weights: up to the first numbers, as in base_network.blocks.2.0
_LAYER = re.compile(r"(?:precise\.)?((?:.*?\d+(?:\.\d+)?(?=[./]|$))|.*)")


@dataclass(frozen=True)
class QuantizedNetwork:
    """A network that was quantized.

    Attributes:
        path: The file.
        meta: What it says of itself; `ModelMeta.quantized` is how it was quantized and what that
            cost: ``precision``, ``ranges``, ``patches``, ``data``, ``float_layers``,
            ``agreement`` (share of labels that are the same), ``protocol``, ``before`` and
            ``after`` (``mIoU``, ``OA``, ``IoU`` by class, ``bytes``), ``milliseconds`` a window by
            runtime (before, after) and ``hardware``.
        options: How it was quantized.
        bf16_milliseconds: A window of the float network in bf16 here, None where the processor
            does not calculate in it.
    """

    path: Path
    meta: ModelMeta
    options: QuantizationOptions
    bf16_milliseconds: float | None

    @property
    def is_slower_than_bf16(self) -> bool:
        """Whether the float network in bf16 is as fast here, in OpenVINO."""
        assert self.meta.quantized is not None
        own = self.meta.quantized["milliseconds"]["openvino"][1]
        return self.bf16_milliseconds is not None and self.bf16_milliseconds <= own


@heeding_signals()
def quantize(
    weights: str | Path | None,
    data: str | Path,
    out: str | Path = "int8.onnx",
    *,
    options: QuantizationOptions = QuantizationOptions(),
    export: ExportOptions = ExportOptions(),
    overwrite: bool = False,
    show_progress: bool = False,
) -> QuantizedNetwork:
    """Write a network in int8 or half precision, and measure what that costs and gains.

    Convolutions and what lies between them are rounded to int8: kernels by channel, to 7 bits,
    since processors without VNNI add products of 8 bits up in 16 and overflow; maps by ranges that
    are taken from training patches, by the method under which most labels stay the same. Layers
    that hurt are found by leaving each out, and stay in float. (Nagel et al. 2021, "A White Paper
    on Neural Network Quantization", sections 2 and 3.)

    Args:
        weights: A weights file, or the name of weights inside the package: ``default``, which None
            is too, or ``light``.
        data: The folder of a tiled dataset: ranges come from its training split, scores from its
            validation split.
        out: The file, ``.onnx`` or for OpenVINO ``.xml``.
        options: How numbers are rounded, and what that may cost.
        export: The file's format and windows, as for `hrrsi.export`.
        overwrite: Whether to replace a file that exists.
        show_progress: Whether to show progress on a terminal.

    Raises:
        WeightsError: The weights can't be read, or mIoU drops by more than `max_drop`.
        InputError: The dataset is not of the weights' classes and bands, has too few training
            patches, or no labels in its validation split.
        OptionError: As `hrrsi.export`.
        OutputError: Likewise.
        DependencyError: ONNX Runtime, which rounds, is not installed.
    """
    if not is_installed("onnxruntime"):
        raise DependencyError("onnxruntime, which quantizes, is not installed", extra="onnxruntime")
    path, source = Path(out), weights_path(weights)
    refuse_exported(source)
    files = files_of(path, export, overwrite=overwrite)
    meta = read_meta(source)
    dataset = TiledDataset(Path(data))
    split_reading(dataset, meta, "val")  # these raise before minutes of work
    require_scores(dataset, "val")
    resolution = resolution_of(meta, source, export)
    trained_on = [] if options.precision == "16" else _training_patches(dataset, options)
    model = described(probabilities_graph(source, meta, export.window), meta, export, resolution)
    with scratch_folder(path) as folder:
        before = folder / f"float{path.suffix}"
        float_bytes = write_network(model, before)
        ranges: str | None = None
        calibrated = 0
        float_layers: list[str] = []
        if options.precision == "16":
            rounded = _in_half_precision(model)
        else:
            windows = network_windows(trained_on, dataset.description, meta, export.window)
            rounding = _Rounding(model, windows, folder, show_progress)
            rounded, ranges, float_layers = rounding.best()
            calibrated = rounding.calibrated
        written = folder / path.name
        write_network(described(rounded, meta, export, resolution), written)
        scores = _scores(before, written, dataset, show_progress)
        drop = 100 * (scores["before"]["mIoU"] - scores["after"]["mIoU"])
        if drop > options.max_drop:
            raise WeightsError(
                f"{options.precision} costs {drop:.2f} points of mIoU "
                f"({share_text(scores['before']['mIoU'])} to "
                f"{share_text(scores['after']['mIoU'])}), more than `max_drop={options.max_drop:g}`"
                "; nothing was written",
                where=path,
                fix="allow more, give more `patches`, or `precision=16`",
            )
        milliseconds, bf16 = _milliseconds(before, written, export.window)
        quantized = {
            "precision": options.precision,
            "ranges": ranges,
            "patches": calibrated,
            "data": dataset.description.scheme or str(data),
            "float_layers": float_layers,
            **scores,
            "milliseconds": milliseconds,
            "hardware": f"{processor_name()}, {available_cores()} threads",
        }
        scores["before"]["bytes"] = float_bytes
        quantized_meta = replace(meta, quantized=quantized, scores={})  # those are of before
        size = -1
        while size != scores["after"].get("bytes"):  # which stands in the file itself
            scores["after"]["bytes"] = size
            model = described(rounded, quantized_meta, export, resolution)
            size = write_network(model, written)
        put_in_place(written, files)
    return QuantizedNetwork(path, quantized_meta, options, bf16)


def _training_patches(dataset: TiledDataset, options: QuantizationOptions) -> list[Patch]:
    """Return patches to take ranges from and to try them on, spread over the training split.

    Raises:
        InputError: There are too few.
    """
    patches = dataset.patches("train")
    if len(patches) < LEAST_PATCHES:
        raise InputError(
            f"its training split holds {len(patches)} patches, too few to show what ranges values "
            "have",
            where=dataset.folder,
            fix=f"tile it with {LEAST_PATCHES} or more, or give `precision=16`",
        )
    return evenly_chosen(patches, options.patches + _TRIALS)


def _in_half_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in half precision, but for its input, its output and what stays precise."""
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    precise_nodes = [node.name for node in model.graph.node if node.name.startswith(PRECISE)]
    tail = [node.name for node in model.graph.node[_last_convolution(model) + 1 :]]
    with contextlib.redirect_stdout(io.StringIO()):
        half = ONNXModel(
            convert_float_to_float16(
                deepcopy(model), keep_io_types=True, node_block_list=[*precise_nodes, *tail]
            )
        )
    half.topological_sort()
    sorted_model: onnx.ModelProto = half.model
    return sorted_model


def _last_convolution(model: onnx.ModelProto) -> int:
    return max(i for i, node in enumerate(model.graph.node) if node.op_type == "Conv")


class _Rounding:
    """Finds how a network is best rounded to int8, by trying.

    Args:
        model: The float network.
        windows: (bands, window, window) float32 each, what it sees of the training split.
        folder: For files that nobody needs later.
        show_progress: Whether to show progress on a terminal.

    Attributes:
        calibrated: How many of the windows ranges are taken from; the others are for trying.
    """

    def __init__(
        self, model: onnx.ModelProto, windows: list[Floats], folder: Path, show_progress: bool
    ) -> None:
        self._model = model
        places = set(evenly_chosen(range(len(windows)), _TRIALS))
        calibrated = [window for i, window in enumerate(windows) if i not in places]
        if len(calibrated) < LEAST_PATCHES:  # there are few: all are for both
            calibrated = windows
        self.calibrated = len(calibrated)
        self._calibration = Calibration(model, calibrated, folder)
        self._trials = [windows[i] for i in sorted(places)]
        self._show_progress = show_progress
        nodes = model.graph.node
        last = _last_convolution(model)
        # what comes after the last convolution is resizing and softmax in full size
        self._tail = [node.name for node in nodes[last + 1 :]]
        self._layers: dict[str, list[str]] = {}
        for node in nodes:
            if node.op_type == "Conv":
                self._layers.setdefault(layer_name(node.name), []).append(node.name)
        self._expected = self._labels(model)

    def best(self) -> tuple[onnx.ModelProto, str, list[str]]:
        """Return the network in int8, the method of its ranges, and the layers left in float."""
        steps = len(METHODS) + len(self._layers)
        with progress("quantizing", steps, " trials", enabled=self._show_progress) as bar:
            shares: dict[CalibrationMethod, float] = {}
            for method in METHODS:
                shares[method] = self._agreement(self._calibration.rounded(method, self._tail))
                bar.update()
            method = max(METHODS, key=shares.__getitem__)
            share = shares[method]
            whole = self._calibration.rounded(method, self._tail, keep_activations=True)
            gains = {}
            for layer in self._layers:
                gains[layer] = self._agreement_with(whole, (layer,)) - share
                bar.update()
            kept: tuple[str, ...] = ()
            for layer in sorted(gains, key=gains.__getitem__, reverse=True):
                gain = self._agreement_with(whole, (*kept, layer)) - share
                if gain < max(_LEAST_GAIN, _LEAST_SHARE * (1 - share)):
                    break
                kept, share = (*kept, layer), share + gain
        rounded = self._calibration.rounded(method, [*self._tail, *self._nodes(kept)])
        return rounded, method.name, list(kept)

    def _nodes(self, layers: Sequence[str]) -> list[str]:
        return [node for layer in layers for node in self._layers[layer]]

    def _agreement_with(self, rounded: onnx.ModelProto, layers: Sequence[str]) -> float:
        """Return the share of labels that stay the same where layers are left in float."""
        return self._agreement(with_float_nodes(rounded, self._model, self._nodes(layers)))

    def _agreement(self, rounded: onnx.ModelProto) -> float:
        """Return the share of labels that stay the same."""
        labels = self._labels(rounded)
        return float(np.mean([a == b for a, b in zip(labels, self._expected, strict=True)]))

    def _labels(self, model: onnx.ModelProto) -> list[npt.NDArray[np.int64]]:
        stop_if_requested()
        session = session_of(model)
        name = session.get_inputs()[0].name
        return [session.run(None, {name: w[None]})[0][0].argmax(axis=0) for w in self._trials]


def quantization_table(network: QuantizedNetwork) -> str:
    """Return what quantizing cost and gained as a table, and how it was done."""
    values = network.meta.quantized
    assert values is not None
    before, after = values["before"], values["after"]
    table = TextTable(["", "before", "after"])
    for name in ("mIoU", "OA"):
        table.add_row([name, *(share_text(own[name]) for own in (before, after))])
    for name in before["IoU"]:
        table.add_row([f"IoU of {name}", *(share_text(o["IoU"][name]) for o in (before, after))])
    table.add_row(["file (MB)", *(f"{own['bytes'] / 1e6:.2f}" for own in (before, after))])
    for runtime, times in values["milliseconds"].items():
        table.add_row([f"ms a window, {runtime}", *(f"{time:.1f}" for time in times)])
    remarks = [f"{share_text(values['agreement'])} of labels agree"]
    if values["ranges"] is not None:
        remarks.append(f"ranges by {values['ranges']} of {values['patches']} training patches")
        remarks.append(f"kept in float: {', '.join(values['float_layers']) or 'no layer'}")
    return "\n".join(
        [
            str(table),
            f"scores: {values['protocol']}; times: {values['hardware']}",
            f"{network.path}: {'; '.join(remarks)}",
        ]
    )


def layer_name(node: str) -> str:
    """Return the layer of the weights that a graph's node belongs to, e.g. ``dec_c1``."""
    match = _LAYER.match(node)
    return node if match is None else match.group(1)


def _scores(
    before: Path, after: Path, dataset: TiledDataset, show_progress: bool
) -> dict[str, Any]:
    """Return the scores of two files on the validation split, and how many labels agree."""
    description = dataset.description
    engine = _options("onnxruntime" if before.suffix == ".onnx" else "openvino")
    engines = open_engine(before, engine), open_engine(after, engine)
    total = len(dataset.patches("val"))
    with progress("scoring", total, " patches", enabled=show_progress) as bar:
        matrices, agreement = paired_counts(dataset, engines, "val", on_patches=bar.update)
    figures = [_figures(matrix) for matrix in matrices]
    if any(own["mIoU"] is None for own in figures):
        raise InputError(
            "its validation split has no labels by which mIoU is defined",
            where=dataset.folder,
            fix="tile scenes that have labels of the classes",
        )
    return {
        "protocol": f"{description.scheme or dataset.folder.name}, val, patches of "
        f"{description.patch_size} px",
        "agreement": agreement,
        "before": figures[0],
        "after": figures[1],
    }


def _figures(matrix: ConfusionMatrix) -> dict[str, Any]:
    scores = matrix.scores()
    overall = {name: _plain(value) for name, value in scores.overall.items()}
    return {
        "mIoU": overall["mIoU"],
        "OA": overall["OA"],
        "IoU": {own.name: _plain(own.iou) for own in scores.classes},
    }


def _plain(value: float) -> float | None:
    """Return a score as JSON holds it: None where it is not defined."""
    return float(value) if np.isfinite(value) else None


def _options(engine: str) -> EngineOptions:
    return EngineOptions(engine=engine, precision="32")


def _milliseconds(
    before: Path, after: Path, window: int
) -> tuple[dict[str, list[float]], float | None]:
    """Return the time of a window before and after by runtime, and before in bf16.

    All take turns, so that what else the machine does bears on all of them alike.
    """
    runtimes = ["openvino"] if before.suffix == ".xml" else ["onnxruntime", "openvino"]
    engines = {
        (runtime, path): open_engine(path, _options(runtime))
        for runtime in runtimes
        for path in (before, after)
    }
    with contextlib.suppress(DeviceError):
        options = EngineOptions(engine="openvino", precision="bf16")
        engines["bf16", before] = open_engine(before, options)
    seconds: dict[tuple[str, Path], list[float]] = {key: [] for key in engines}
    for _ in range(_ROUNDS):
        for key, engine in engines.items():
            stop_if_requested()
            seconds[key].append(seconds_a_window(engine, window))
    typical = {key: 1000 * median(values) for key, values in seconds.items()}
    by_runtime = {name: [typical[name, before], typical[name, after]] for name in runtimes}
    return by_runtime, typical.get(("bf16", before))
