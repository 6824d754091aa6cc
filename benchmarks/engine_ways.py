"""The ways to run a network on the CPU that `engine_options.py` compares."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import openvino
import torch
from exported_graph import Logits, export
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hrrsi.graphs import segmentation
from hrrsi.graphs.graph import PRECISE, Graph, Map
from hrrsi.graphs.segmentation import NetworkGraph
from hrrsi.hardware import available_cores
from hrrsi.networks.segmentation import UED
from hrrsi.prediction.engines import graph_engines, open_engine
from hrrsi.prediction.options import EngineOptions

SIZE = 512
CORES = available_cores()

Pixels = npt.NDArray[np.uint8]
Logit = npt.NDArray[np.float32]
# windows in, logits out: (classes, 512, 512) or, not resized, (classes, 128, 128)
Run = Callable[[Sequence[Pixels]], list[Logit]]


@dataclass(frozen=True)
class Setup:
    """What every way starts from.

    Attributes:
        weights: The weights file.
        network: The same weights in torch, in eval mode.
        calibration: Windows that ranges of int8 are taken from.
        folder: For files that a way needs.
    """

    weights: Path
    network: UED
    calibration: list[Pixels]
    folder: Path

    def feeds(self, window: Pixels) -> dict[str, npt.NDArray[Any]]:
        """Return a window as the graph's inputs."""
        gain, offset = self.network.meta.normalisation()
        return {"pixels": window[None], "gain": gain, "offset": offset}

    def normalised(self, window: Pixels) -> Logit:
        """Return a window as torch's network sees it, (1, bands, 512, 512)."""
        feeds = self.feeds(window)
        image: Logit = feeds["pixels"] * feeds["gain"] + feeds["offset"]
        return image


class Whole(nn.Module):
    """All maps of the network, as tensors that the exporter can name."""

    def __init__(self, network: UED) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return every map, the class logits first."""
        return tuple(self.network(image).values())


def eager(
    setup: Setup,
    *,
    batch: int = 4,
    heads: bool = False,
    channels_last: bool = False,
    folded: bool = False,
    bf16: bool = False,
    compiled: bool = False,
) -> Run:
    network = with_norms_folded(copy.deepcopy(setup.network)) if folded else setup.network
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module: Any = (Whole if heads else Logits)(copy.deepcopy(network).to(memory_format=layout))
    module = torch.compile(module) if compiled else module

    @torch.inference_mode()
    def run(windows: Sequence[Pixels]) -> list[Logit]:
        results: list[Logit] = []
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            for first in range(0, len(windows), batch):
                group = [setup.normalised(w) for w in windows[first : first + batch]]
                images = torch.from_numpy(np.concatenate(group))
                logits = module(images.contiguous(memory_format=layout))
                results.extend((logits[0] if heads else logits).float().numpy())
        return results

    return run


def with_norms_folded(module: nn.Module) -> nn.Module:
    """Fold each BatchNorm into the convolution that its parent holds just before it."""
    for (name, first), (after, second) in itertools.pairwise(list(module.named_children())):
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(first, second))
            setattr(module, after, nn.Identity())
    for child in module.children():
        with_norms_folded(child)
    return module


def engine(setup: Setup, name: str, precision: str, *patches: Any) -> Run:
    """Run one of hrrsi's engines, its graph built with parts replaced."""
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        runner = open_engine(setup.weights, EngineOptions(name, precision, "cpu"))
        feeds = setup.feeds(setup.calibration[0])

        def run(windows: Sequence[Pixels]) -> list[Logit]:
            results = runner.logits(iter(windows), feeds["gain"], feeds["offset"])
            classes = setup.network.num_classes
            return [logits[:classes] for logits in results if logits is not None]

        run(setup.calibration[:1])  # builds and compiles the graph, as it is patched now
    return run


def mean_after_convolution(graph: Graph, x: Map, key: str, axis: int) -> Map:
    y = graph.convolution(x, key)
    size = (y.height, 1) if axis == 3 else (1, y.width)
    return Map(graph.node("ReduceMean", y.name, axes=[axis], keepdims=1), y.channels, *size)


def resized_output(graph: Graph, x: Map, name: str) -> None:
    output(graph, graph.resize(x, SIZE, SIZE, align_corners=True), name)


def ghost_module_in_one(graph: Graph, *args: Any, **options: Any) -> tuple[Map, ...]:
    return (graph.concatenate(*ghost_module(graph, *args, **options)),)


@contextmanager
def all_heads() -> Iterator[None]:
    heads: list[Map] = []

    def fused(graph: Graph, body: Map, edge: Map, x: Map) -> Map:
        for key, features in (("body_out", body), ("edge_out", edge)):
            part = f"{key}.0.primary"
            y = graph.convolution(features, f"{part}.0", norm=f"{part}.1", relu=True)
            heads.append(graph.convolution(y, f"{key}.1"))
        return score_fused(graph, body, edge, x)

    def output_of_all(graph: Graph, x: Map, name: str) -> None:
        output(graph, graph.concatenate(x, *heads), name)

    with (
        mock.patch.object(segmentation, "_score_fused", fused),
        mock.patch.object(Graph, "output", output_of_all),
    ):
        yield


# as they are before a way replaces them
output = Graph.output
score_fused, ghost_module = segmentation._score_fused, segmentation._ghost_module
replaced = partial(partial, mock.patch.object)
PATCHES: dict[str, Callable[[], Any]] = {
    "all heads": all_heads,
    "means after convolutions": replaced(
        segmentation, "_mean_of_convolution", mean_after_convolution
    ),
    "logits resized": replaced(Graph, "output", resized_output),
    "ghost halves in one map": replaced(segmentation, "_ghost_module", ghost_module_in_one),
    "all of it in bf16": replaced(graph_engines, "PRECISE", "no such name"),
}


def patched(setup: Setup, precision: str, *names: str) -> Run:
    return engine(setup, "openvino", precision, *(PATCHES[name]() for name in names))


def openvino_of(setup: Setup, model: Any, precision: str, *, normalised: bool) -> Run:
    """Run a model as `OpenVinoEngine` does, two windows at a time on two cores."""
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "NUM_STREAMS": str(CORES),
        "INFERENCE_NUM_THREADS": str(CORES),
        "ENABLE_CPU_PINNING": "NO",
    }
    compiled = openvino.Core().compile_model(model, "CPU", options)

    def run(windows: Sequence[Pixels]) -> list[Logit]:
        results: list[Logit] = [np.empty(0, np.float32)] * len(windows)

        def keep(request: Any, place: int) -> None:
            results[place] = request.get_output_tensor(0).data[0].copy()

        queue = openvino.AsyncInferQueue(compiled, 2 * CORES)
        queue.set_callback(keep)
        for i, window in enumerate(windows):
            queue.start_async([setup.normalised(window)] if normalised else setup.feeds(window), i)
        queue.wait_all()
        return results

    return run


def openvino_export(setup: Setup, precision: str, *, heads: bool) -> Run:
    path = setup.folder / f"heads_{heads}.onnx"
    if not path.exists():
        export((Whole if heads else Logits)(setup.network), setup.network.meta.band_count, path)
    return openvino_of(setup, openvino.Core().read_model(path), precision, normalised=True)


def openvino_int8(setup: Setup, precision: str, *, all_of_it: bool) -> Run:
    import nncf

    nncf.set_log_level(logging.ERROR)

    model = openvino.Core().read_model(NetworkGraph(setup.weights).onnx(3, SIZE, SIZE, "uint8"))
    model.reshape({key: value.shape for key, value in setup.feeds(setup.calibration[0]).items()})
    precise = nncf.IgnoredScope(patterns=[f"{PRECISE}.*"], validate=False)
    quantised = nncf.quantize(
        model,
        nncf.Dataset(setup.calibration, setup.feeds),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(setup.calibration),
        ignored_scope=None if all_of_it else precise,
    )
    return openvino_of(setup, quantised, precision, normalised=False)


def onnxruntime_int8(setup: Setup, *, all_of_it: bool) -> Run:
    import onnxruntime
    from onnxruntime import quantization

    class Windows(quantization.CalibrationDataReader):  # type: ignore[misc]  # its base is untyped
        def __init__(self) -> None:
            self.feeds: Iterator[dict[str, Any]] = map(setup.feeds, setup.calibration)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    paths = [setup.folder / f"{name}.onnx" for name in ("float32", "int8")]
    model = NetworkGraph(setup.weights).onnx(3, SIZE, SIZE, "uint8")
    paths[0].write_bytes(model)
    names = [
        n.name for n in quantization.quant_utils.load_model_with_shape_infer(paths[0]).graph.node
    ]
    quantization.quantize_static(
        *paths,
        Windows(),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,  # what AVX512-VNNI multiplies fastest
        per_channel=True,
        nodes_to_exclude=[] if all_of_it else [n for n in names if n.startswith(PRECISE)],
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # windows run side by side, as in hrrsi's engine
    session = onnxruntime.InferenceSession(paths[1], options, providers=["CPUExecutionProvider"])

    def run(windows: Sequence[Pixels]) -> list[Logit]:
        with ThreadPoolExecutor(CORES) as pool:
            return list(pool.map(lambda w: session.run(None, setup.feeds(w))[0][0], windows))

    return run


REFERENCE = "torch eager, float32, batch 4"
LAST = "torch channels-last"
WAYS: dict[str, Callable[[Setup], Run]] = {
    REFERENCE: partial(eager, heads=True),
    "torch eager, float32, batch 1": partial(eager, heads=True, batch=1),
    "torch eager, segment() only": eager,
    "torch eager, segment(), norms folded": partial(eager, folded=True),
    f"{LAST}, segment()": partial(eager, channels_last=True),
    f"{LAST}, segment(), norms folded": partial(eager, channels_last=True, folded=True),
    f"{LAST}, segment(), bf16 autocast": partial(eager, channels_last=True, bf16=True),
    f"{LAST}, segment(), torch.compile": partial(eager, channels_last=True, compiled=True),
    "ONNX Runtime float32, graph": lambda g: engine(g, "onnxruntime", "32"),
    "ONNX Runtime int8, graph": partial(onnxruntime_int8, all_of_it=False),
    "ONNX Runtime int8, all of the graph": partial(onnxruntime_int8, all_of_it=True),
    "OpenVINO float32, torch's export": partial(openvino_export, precision="f32", heads=True),
    "OpenVINO float32, export of segment()": partial(openvino_export, precision="f32", heads=False),
    "OpenVINO float32, graph": partial(patched, precision="32"),
    "OpenVINO bf16, torch's export": partial(openvino_export, precision="bf16", heads=True),
    "OpenVINO bf16, export of segment()": partial(openvino_export, precision="bf16", heads=False),
    "OpenVINO bf16, graph": partial(patched, precision="bf16"),
    **{
        f"OpenVINO bf16, graph, but {name}": lambda g, name=name: patched(g, "bf16", name)
        for name in PATCHES
    },
    "OpenVINO int8, graph": partial(openvino_int8, precision="f32", all_of_it=False),
    "OpenVINO int8, graph, rest in bf16": partial(openvino_int8, precision="bf16", all_of_it=False),
    "OpenVINO int8, all of the graph": partial(openvino_int8, precision="bf16", all_of_it=True),
}
