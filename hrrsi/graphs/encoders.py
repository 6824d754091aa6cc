"""The encoders as graphs: GhostNet and EfficientNet-Lite."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

from hrrsi.graphs.graph import Graph, Map
from hrrsi.networks.architecture import (
    LITE_BATCH_NORM_EPSILON,
    LITE_MAP_STAGES,
    LITE_STAGES,
    MAP_STAGES,
    STAGES,
    STEM_CHANNELS,
    STRIDES,
    Bottleneck,
    LiteSize,
    ModelName,
)

_ENCODER = "base_network"
# Of what bf16 does to the labels it does two thirds in the stem and these of GhostNet, and half of
# EfficientNet-Lite's; its next stage does a quarter, but has the largest maps and most to gain.
_PRECISE_STAGES = 2
_PRECISE_LITE_STAGES = 1
# EfficientNet-Lite's widest maps are computed in parts that processors' caches hold, but of so
# many channels that their arithmetic units are full
_PART_BYTES = 4e6
_PART_CHANNELS = 16


def encoder_maps(graph: Graph, image: Map, model: ModelName) -> list[Map]:
    """Add a network's encoder, and return its maps at strides 4, 8, 16 and 32.

    Args:
        graph: Holds the encoder's tensors under ``base_network``.
        image: The normalised image.
        model: What the network's name says.

    Raises:
        KeyError: A tensor is missing.
        ValueError: A tensor has the wrong shape, or there is no graph of this encoder.
    """
    if model.width is not None:
        return _ghostnet_maps(graph, image, model.width)
    if model.lite_size is not None:
        return _efficientnet_lite_maps(graph, image, model.lite_size)
    raise ValueError(f"there is no graph of {model.encoder}")


def _ghostnet_maps(graph: Graph, image: Map, width: float) -> list[Map]:
    stem = len(graph.tensors[f"{_ENCODER}.conv_stem.weight"])
    if stem != STEM_CHANNELS[width]:
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


def _efficientnet_lite_maps(graph: Graph, image: Map, size: LiteSize) -> list[Map]:
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
            if x.channels != channels:
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
    channels = len(graph.tensors[f"{key}.{last}.weight"])
    shortcut = image if stride == 1 and channels == image.channels else None
    return graph.convolution_of_parts(parts, f"{key}.{last}", norm=next(norms), plus=shortcut)


def _parts(image: Map, channels: int) -> int:
    """Return in how many parts a block's widest map, as large as its image, is computed."""
    least = 4 * image.height * image.width * channels / _PART_BYTES
    most = channels // _PART_CHANNELS
    counts = [n for n in range(1, most + 1) if channels % (n * _PART_CHANNELS) == 0] or [1]
    return next((n for n in counts if n >= least), counts[-1])
