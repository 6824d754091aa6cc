"""GhostNet as part of a graph: four maps at strides 4, 8, 16 and 32.

What a bottleneck holds is read off its tensors (``networks.ghostnet_encoder`` has the table): a
depthwise convolution means stride 2.
"""

from __future__ import annotations

from collections.abc import Sequence

from hrrsi.graphs.graph import Graph, Map

_ENCODER = "base_network"
_STAGES = 9
_MAP_STAGES = (2, 4, 6, 8)
# two thirds of what bf16 does to the labels it does in these
_PRECISE_STAGES = 2


def ghostnet_maps(graph: Graph, image: Map) -> list[Map]:
    """Add GhostNet, and return its maps at strides 4, 8, 16 and 32.

    Args:
        graph: Holds the encoder's tensors under ``base_network``.
        image: The normalised image.
    """
    with graph.precise():
        x = graph.convolution(
            image, f"{_ENCODER}.conv_stem", norm=f"{_ENCODER}.bn1", stride=2, relu=True
        )
        for stage in range(_PRECISE_STAGES):
            x = _stage(graph, x, stage)
    maps = []
    for stage in range(_PRECISE_STAGES, _STAGES):
        x = _stage(graph, x, stage)
        if stage in _MAP_STAGES:
            maps.append(x)
    return maps


def _stage(graph: Graph, x: Map, stage: int) -> Map:
    block = 0
    while f"{_ENCODER}.blocks.{stage}.{block}.ghost1.primary_conv.0.weight" in graph.tensors:
        x = _bottleneck(graph, x, f"{_ENCODER}.blocks.{stage}.{block}")
        block += 1
    return x


def _bottleneck(graph: Graph, image: Map, key: str) -> Map:
    # halves stay apart up to the end: putting them behind each other copies the network's largest
    # maps, a tenth of its time in bf16
    halves = _ghost_module(graph, [image], f"{key}.ghost1", relu=True)
    stride = 2 if f"{key}.conv_dw.weight" in graph.tensors else 1
    if stride == 2:
        halves = graph.depthwise_of_parts(
            halves, f"{key}.conv_dw", norm=f"{key}.bn_dw", stride=stride
        )
    if f"{key}.se.conv_reduce.weight" in graph.tensors:
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
