"""The segmentation networks as graphs: windows in the scene's type in, class logits out.

A graph gives what the map needs and no more: the body and edge heads are left out, the logits stay
at the network's own resolution (`hrrsi.prediction.blending` resizes them), and the score fusion's
means are taken before its convolutions (`_mean_of_convolution`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from hrrsi.errors import WeightsError
from hrrsi.graphs.graph import Floats, Graph, Map
from hrrsi.networks.architecture import (
    HEADS,
    JOINS,
    LITE_BATCH_NORM_EPSILON,
    LITE_MAP_STAGES,
    LITE_STAGES,
    MAP_STAGES,
    STAGES,
    STEM_CHANNELS,
    STRIDES,
    Bottleneck,
    LiteSize,
    LogitAlignment,
    LogitGrid,
    ModelName,
    parsed_model,
)
from hrrsi.networks.weights_reading import read_weights

_ENCODER = "base_network"
# Of what bf16 does to the labels it does two thirds in the stem and these of GhostNet, and half of
# EfficientNet-Lite's; its next stage does a quarter, but has the largest maps and most to gain.
_PRECISE_STAGES = 2
_PRECISE_LITE_STAGES = 1
# EfficientNet-Lite's widest maps are computed in parts that processors' caches hold, but of so
# many channels that their arithmetic units are full
_PART_BYTES = 4e6
_PART_CHANNELS = 16


def encoder_maps(graph: Graph, image: Map, model: ModelName, *, pruned: bool = False) -> list[Map]:
    """Add a network's encoder, and return its maps at strides 4, 8, 16 and 32.

    Args:
        graph: Holds the encoder's tensors under ``base_network``.
        image: The normalised image.
        model: What the network's name says.
        pruned: Whether it may have other channels than the name says: those of its tensors.

    Raises:
        KeyError: A tensor is missing.
        ValueError: A tensor has the wrong shape, or there is no graph of this encoder.
    """
    if model.width is not None:
        return _ghostnet_maps(graph, image, None if pruned else model.width)
    if model.lite_size is not None:
        return _efficientnet_lite_maps(graph, image, model.lite_size, pruned=pruned)
    raise ValueError(f"there is no graph of {model.encoder}")


def _ghostnet_maps(graph: Graph, image: Map, width: float | None) -> list[Map]:
    stem = len(graph.tensors[f"{_ENCODER}.conv_stem.weight"])
    if width is not None and stem != STEM_CHANNELS[width]:
        raise ValueError(f"{_ENCODER}.conv_stem.weight has {stem} channels")
    with graph.precise():
        x = graph.convolution(
            image, f"{_ENCODER}.conv_stem", norm=f"{_ENCODER}.bn1", stride=2, relu=True
        )
        for stage in range(_PRECISE_STAGES):
            x = _stage(graph, x, stage)
    maps = []
    for stage in range(_PRECISE_STAGES, len(STAGES)):
        x = _stage(graph, x, stage)
        if stage in MAP_STAGES:
            maps.append(x)
    return maps


def _stage(graph: Graph, x: Map, stage: int) -> Map:
    for number, bottleneck in enumerate(STAGES[stage]):
        x = _bottleneck(graph, x, f"{_ENCODER}.blocks.{stage}.{number}", bottleneck)
    return x


def _bottleneck(graph: Graph, image: Map, key: str, bottleneck: Bottleneck) -> Map:
    # halves stay apart up to the end: putting them behind each other copies the network's largest
    # maps, a tenth of its time in bf16
    halves = _ghost_module(graph, [image], f"{key}.ghost1", relu=True)
    stride = bottleneck.stride
    if stride == 2:
        halves = graph.depthwise_of_parts(
            halves, f"{key}.conv_dw", norm=f"{key}.bn_dw", stride=stride
        )
    if bottleneck.squeeze:
        halves = _squeeze_excite(graph, halves, f"{key}.se")
    x = graph.concatenate(*_ghost_module(graph, halves, f"{key}.ghost2", relu=False))
    shortcut = image
    if f"{key}.shortcut.0.weight" in graph.tensors:
        shortcut = graph.convolution(
            image, f"{key}.shortcut.0", norm=f"{key}.shortcut.1", stride=stride
        )
        shortcut = graph.convolution(shortcut, f"{key}.shortcut.2", norm=f"{key}.shortcut.3")
    return graph.add(x, shortcut)


def _ghost_module(graph: Graph, parts: Sequence[Map], key: str, *, relu: bool) -> tuple[Map, ...]:
    """Add a ghost module, and return its two halves."""
    primary = graph.convolution_of_parts(
        parts, f"{key}.primary_conv.0", norm=f"{key}.primary_conv.1", relu=relu
    )
    cheap = graph.convolution(
        primary, f"{key}.cheap_operation.0", norm=f"{key}.cheap_operation.1", relu=relu
    )
    return primary, cheap


def _squeeze_excite(graph: Graph, parts: Sequence[Map], key: str) -> tuple[Map, ...]:
    pooled = [Map(graph.node("GlobalAveragePool", x.name), x.channels, 1, 1) for x in parts]
    gate = graph.convolution_of_parts(pooled, f"{key}.conv_reduce", relu=True)
    gate = graph.convolution(gate, f"{key}.conv_expand")
    gate = gate._replace(name=graph.node("HardSigmoid", gate.name, alpha=1 / 6, beta=0.5))
    gates = graph.split(gate, parts)
    return tuple(graph.multiply(x, gate) for x, gate in zip(parts, gates, strict=True))


def _efficientnet_lite_maps(graph: Graph, image: Map, size: LiteSize, *, pruned: bool) -> list[Map]:
    key = f"{_ENCODER}.features"  # where timm's features_only is
    # timm's layers see multiples of the last stride
    x = graph.with_edges_repeated(image, STRIDES[-1])
    maps = []
    with graph.norm_epsilon(LITE_BATCH_NORM_EPSILON):
        with graph.precise():
            x = graph.convolution(x, f"{key}.conv_stem", norm=f"{key}.bn1", stride=2, same=True)
            x = graph.relu6(x)
        for stage, (channels, blocks) in enumerate(zip(*size, strict=True)):
            with graph.precise() if stage < _PRECISE_LITE_STAGES else nullcontext():
                for number in range(blocks):
                    x = _lite_block(graph, x, f"{key}.blocks.{stage}.{number}", stage, number == 0)
            if x.channels != channels and not pruned:
                raise ValueError(f"{key}.blocks.{stage} gives {x.channels} channels")
            if stage in LITE_MAP_STAGES:
                maps.append(x)
    return [
        graph.cut(x, -(-image.height // stride), -(-image.width // stride))
        for x, stride in zip(maps, STRIDES, strict=True)
    ]


def _lite_block(graph: Graph, image: Map, key: str, stage: int, first: bool) -> Map:
    blocks = LITE_STAGES[stage]
    stride = blocks.stride if first else 1
    parts: Sequence[Map] = [image]
    norms = iter((f"{key}.bn1", f"{key}.bn2", f"{key}.bn3"))
    last = "conv_pw"
    if blocks.expansion > 1:
        count = _parts(image, len(graph.tensors[f"{key}.conv_pw.weight"]))
        wide = graph.convolution_in_parts(image, f"{key}.conv_pw", norm=next(norms), parts=count)
        parts = [graph.relu6(part) for part in wide]
        last = "conv_pwl"
    wide = graph.depthwise_of_parts(
        parts, f"{key}.conv_dw", norm=next(norms), stride=stride, same=True
    )
    parts = [graph.relu6(part) for part in wide]
    # the first of a stage has other outputs than inputs, if not always after pruning
    shortcut = None if first else image
    return graph.convolution_of_parts(parts, f"{key}.{last}", norm=next(norms), plus=shortcut)


def _parts(image: Map, channels: int) -> int:
    """Return in how many parts a block's widest map, as large as its image, is computed."""
    least = 4 * image.height * image.width * channels / _PART_BYTES
    most = channels // _PART_CHANNELS
    counts = [n for n in range(1, most + 1) if channels % (n * _PART_CHANNELS) == 0] or [1]
    return next((n for n in counts if n >= least), counts[-1])


# heads that only training needs, and BatchNorms' counters
_NOT_NEEDED = re.compile(r"body_out\.|edge_out\.|.*\.num_batches_tracked$")


def logits_graph(
    model: str,
    tensors: Mapping[str, Floats],
    classes: int,
    bands: int,
    height: int,
    width: int,
    dtype: str,
    *,
    pruned: bool = False,
) -> ModelProto:
    """Return the graph of a network from pixels to logits.

    Its inputs are ``pixels`` (windows, bands, height, width) in the scene's type, and ``gain`` and
    ``offset`` (1, bands, 1, 1) float32, which normalise them: pixels * gain + offset. Its output is
    ``logits`` (windows, classes, ceil(height / 4), ceil(width / 4)) float32: those that `segment`
    of the network resizes to the window's size.

    Args:
        model: Name of the network, whose `ModelName.has_graph`.
        tensors: Its state dict.
        classes: Number of classes.
        bands: Number of bands.
        height: Rows of a window.
        width: Columns of a window.
        dtype: NumPy name of the type of the pixels.
        pruned: As for `encoder_maps`.

    Raises:
        KeyError: A tensor is missing.
        ValueError: A tensor has the wrong shape.
    """
    graph = Graph(tensors)
    with graph.precise():
        image = _normalised(graph, bands, height, width, dtype)
    logits = _logits(graph, image, parsed_model(model), classes, pruned=pruned)
    graph.output(logits, "logits")
    return graph.model()


def probabilities_graph(
    model: str,
    tensors: Mapping[str, Floats],
    classes: int,
    window: int,
    gain: Floats,
    offset: Floats,
    *,
    alignment: LogitAlignment,
    pruned: bool = False,
) -> ModelProto:
    """Return the graph of a network from a window to probabilities, for other programs.

    Its input is ``input`` (1, bands, window, window) float32, which it normalises: input * gain +
    offset. Its output is ``output`` (1, classes, window, window) float32, the probability of each
    class at each pixel. All sizes are fixed.

    Args:
        model: Name of the network, whose `ModelName.has_graph`.
        tensors: Its state dict.
        classes: Number of classes.
        window: Rows and columns.
        gain: (1, bands, 1, 1), and
        offset: (1, bands, 1, 1), of the normalisation.
        alignment: Where the network's logits lie on its input.
        pruned: As for `encoder_maps`.

    Raises:
        KeyError: A tensor is missing.
        ValueError: A tensor has the wrong shape.
    """
    graph = Graph(tensors, windows=1)
    bands = gain.shape[1]
    pixels = graph.windows("input", "float32", bands, window, window)
    scaled = graph.node("Mul", pixels, graph.constant(gain))
    image = Map(graph.node("Add", scaled, graph.constant(offset)), bands, window, window)
    logits = _logits(graph, image, parsed_model(model), classes, pruned=pruned)
    graph.output(graph.softmax(_whole(graph, logits, window, alignment)), "output")
    return graph.model()


def _whole(graph: Graph, logits: Map, window: int, alignment: LogitAlignment) -> Map:
    """Return logits at the size of their window, as `SegmentationNetwork.resized`."""
    if alignment == "corners":
        return graph.resize(logits, window, window, align_corners=True)
    height, width = (length * LogitGrid().stride for length in (logits.height, logits.width))
    return graph.cut(graph.resize(logits, height, width, align_corners=False), window, window)


def _logits(graph: Graph, image: Map, name: ModelName, classes: int, *, pruned: bool) -> Map:
    *higher, x = encoder_maps(graph, image, name, pruned=pruned)
    for key, high in zip(JOINS, reversed(higher), strict=True):
        x = _joined(graph, x, high, key)
    x = _head(graph, x, "final_out")
    if name.network != "ued":
        warped, residue = _body_and_edge(graph, x)
        body = _refined(graph, warped, "decouple_body")
        edge = _refined(graph, residue, "decouple_edge")
        fused = graph.add(body, edge)
        if name.network == "ued_bes_sfm":
            fused = _score_fused(graph, body, edge, fused)
        x = _head(graph, fused, "seg_out")
    if x.channels != classes:
        raise ValueError(f"they tell {x.channels} classes apart, not {classes}")
    unknown = [key for key in graph.left_over() if not _NOT_NEEDED.match(key)]
    if unknown:
        raise ValueError(f"{unknown[0]} is unknown")
    return x


def _normalised(graph: Graph, bands: int, height: int, width: int, dtype: str) -> Map:
    pixels = graph.windows("pixels", dtype, bands, height, width)
    if dtype != "float32":
        pixels = graph.node("Cast", pixels, to=onnx.TensorProto.FLOAT)
    scaled = graph.node("Mul", pixels, graph.input("gain", "float32", (1, bands, 1, 1)))
    shifted = graph.node("Add", scaled, graph.input("offset", "float32", (1, bands, 1, 1)))
    return Map(shifted, bands, height, width)


def _joined(graph: Graph, low: Map, high: Map, key: str) -> Map:
    low = graph.resize(low, high.height, high.width, align_corners=False)
    low = graph.convolution(low, f"{key}.up.0", norm=f"{key}.up.1", relu=True)
    joined = graph.concatenate(high, low)
    return graph.convolution(joined, f"{key}.cat_conv.0", norm=f"{key}.cat_conv.1", relu=True)


def _head(graph: Graph, x: Map, key: str) -> Map:
    for layer in range(HEADS[key]):
        part = f"{key}.{layer}.primary"
        x = graph.convolution(x, f"{part}.0", norm=f"{part}.1", relu=True)
    with graph.precise():  # rounded logits would be ties
        return graph.convolution(x, f"{key}.{HEADS[key]}")


def _body_and_edge(graph: Graph, x: Map) -> tuple[Map, Map]:
    key = "decouple_body_edge"
    fine = graph.convolution(x, f"{key}.conv_high_res")
    coarse = x
    for layer in (0, 1):
        part = f"{key}.conv_low_res.{layer}.primary"
        coarse = graph.convolution(coarse, f"{part}.0", norm=f"{part}.1", stride=2)
    coarse = graph.convolution(coarse, f"{key}.conv_low_res.2")
    coarse = graph.resize(coarse, x.height, x.width, align_corners=True)
    # the flow counts in halves of the map's size, as the sampling's grid does
    size = np.array([x.width, x.height], dtype=np.float32).reshape(2, 1, 1, 1)
    kernel = graph.tensors[f"{key}.flow_make.weight"] / size
    flow = graph.convolution_of(
        graph.concatenate(fine, coarse),
        kernel,
        np.zeros(2, dtype=np.float32),
        key=f"{key}.flow_make",
    )
    # a grid in bf16 would move samples by a quarter of a pixel, and the difference of two rounded
    # maps would be little but rounding
    with graph.precise():
        warped = _sampled_along_flow(graph, fine, flow)
        return warped, graph.add(fine, graph.negated(warped))


def _sampled_along_flow(graph: Graph, x: Map, flow: Map) -> Map:
    ys, xs = (np.linspace(-1, 1, n, dtype=np.float32) for n in (x.height, x.width))
    even = np.stack(np.meshgrid(xs, ys), axis=0)[None]  # x before y, as the flow has it
    grid = graph.node("Add", flow.name, graph.constant(even))
    places = graph.node("Transpose", grid, perm=[0, 2, 3, 1])
    sampled = graph.node(
        "GridSample", x.name, places, mode="bilinear", padding_mode="zeros", align_corners=0
    )
    return x._replace(name=sampled)


def _refined(graph: Graph, x: Map, key: str) -> Map:
    x = graph.convolution(x, f"{key}.0.primary.0", norm=f"{key}.0.primary.1", relu=True)
    return graph.convolution(x, f"{key}.1")


def _score_fused(graph: Graph, body: Map, edge: Map, x: Map) -> Map:
    rows = _mean_of_convolution(graph, x, "fusion_score.h_map", axis=3)
    columns = _mean_of_convolution(graph, x, "fusion_score.w_map", axis=2)
    outer = x._replace(name=graph.node("Mul", rows.name, columns.name))
    score = graph.add(graph.convolution(x, "fusion_score.x_map"), outer)
    score = score._replace(name=graph.node("Sigmoid", score.name))
    # body * score + edge * (1 - score), with one product less
    return graph.add(graph.multiply(graph.subtract(body, edge), score), edge)


def _mean_of_convolution(graph: Graph, x: Map, key: str, axis: int) -> Map:
    """Return the mean over an axis of a 3x3 convolution of `x`, without that convolution.

    The mean of a shifted map is the mean of the map but for the line that the shift pushes out (a
    zero comes in), so a convolution along the other axis of the mean and the two outermost lines
    gives the same.

    Args:
        graph: The graph.
        x: What the convolution sees.
        key: The convolution.
        axis: 3 for the mean over columns, 2 over rows.
    """
    kernel, bias = graph.tensors[f"{key}.weight"], graph.tensors[f"{key}.bias"]
    length = x.width if axis == 3 else x.height
    mean = graph.node("ReduceMean", x.name, axes=[axis], keepdims=1)
    first, last = (
        graph.node(
            "Slice",
            x.name,
            *(graph.constant(np.array([n], dtype=np.int64)) for n in (start, stop, axis)),
        )
        for start, stop in ((0, 1), (length - 1, length))
    )
    lines = graph.node("Concat", mean, first, last, axis=1)
    # taps of the previous, the same and the next line: the mean holds the sum of all three, less
    # the last line where the tap looks back, less the first where it looks ahead
    before, here, after = np.moveaxis(kernel, axis, 0)
    taps = np.concatenate((before + here + after, -after / length, -before / length), axis=1)
    kernel = np.expand_dims(taps, axis)
    shape = (x.height, 1) if axis == 3 else (1, x.width)
    return graph.convolution_of(Map(lines, 3 * x.channels, *shape), kernel, bias, key=key)


# what BatchNorms count and do not learn
_NO_PARAMETER = re.compile(r"\.(running_mean|running_var|num_batches_tracked)$")


class NetworkGraph:
    """The network of a weights file.

    Args:
        weights: A weights file or a published checkpoint.

    Attributes:
        meta: What the weights say of themselves.
        logit_grid: Where the logits of a window lie on its pixels.
        is_quantized: Whether its numbers are rounded to integers: never.

    Raises:
        WeightsError: It can't be read, or its network is one that only PyTorch runs.
    """

    is_quantized = False

    def __init__(self, weights: Path) -> None:
        self._path = weights
        self.meta, self._tensors = read_weights(weights)
        self.logit_grid = LogitGrid(alignment=self.meta.logit_alignment)
        if not parsed_model(self.meta.model).has_graph:
            raise WeightsError(
                f"holds the model {self.meta.model!r}, which only PyTorch runs",
                where=weights,
                fix="give `engine=torch`, or none",
            )

    @property
    def parameters(self) -> int:
        """Number of the network's parameters, those of heads that a graph leaves out included."""
        return sum(
            tensor.size for key, tensor in self._tensors.items() if not _NO_PARAMETER.search(key)
        )

    def onnx(self, bands: int, height: int, width: int, dtype: str) -> bytes:
        """Return the graph, as `hrrsi.graphs.segmentation.logits_graph` describes it.

        Raises:
            WeightsError: The tensors are not those of the network that the file names.
        """
        with self._of_its_network():
            model = logits_graph(
                *self._network, bands, height, width, dtype, pruned=bool(self.meta.pruned)
            )
        serialised: bytes = model.SerializeToString()
        return serialised

    def openvino(self, core: Any, bands: int, height: int, width: int, dtype: str) -> Any:
        """Return the graph as a model of an OpenVINO core.

        Raises:
            WeightsError: As `onnx`.
        """
        return core.read_model(self.onnx(bands, height, width, dtype))

    def probabilities(self, window: int, gain: Floats, offset: Floats) -> ModelProto:
        """Return the graph for other programs, as `probabilities_graph` describes it.

        Raises:
            WeightsError: The tensors are not those of the network that the file names.
        """
        with self._of_its_network():
            return probabilities_graph(
                *self._network,
                window,
                gain,
                offset,
                alignment=self.meta.logit_alignment,
                pruned=bool(self.meta.pruned),
            )

    @property
    def _network(self) -> tuple[str, Mapping[str, Floats], int]:
        return self.meta.model, self._tensors, len(self.meta.classes)

    @contextmanager
    def _of_its_network(self) -> Iterator[None]:
        try:
            yield
        except (KeyError, ValueError) as error:
            raise WeightsError(
                f"its tensors are not those of the network that it names ({error})",
                where=self._path,
                fix="use a file that `hrrsi train` wrote, or a published .pth checkpoint",
            ) from error
