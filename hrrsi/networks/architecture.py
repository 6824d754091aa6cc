"""What the networks are made of, for the modules of torch and for the inference graphs.

Keys are those of the published checkpoints.
"""

from __future__ import annotations

from typing import NamedTuple


class Bottleneck(NamedTuple):
    """A ghost bottleneck, in the order in which timm's GhostNet takes it.

    Attributes:
        kernel: Rows and columns of the depthwise convolution where `stride` is 2.
        expansion: Channels between its two ghost modules, at width 1.
        channels: Channels that leave it, at width 1.
        squeeze: Channels of its squeeze-excite as a share of the expansion; 0: it has none.
        stride: 1 or 2.
    """

    kernel: int
    expansion: int
    channels: int
    squeeze: float
    stride: int


# Han et al. 2020, "GhostNet: More Features from Cheap Operations", the architecture table.
STAGES: tuple[tuple[Bottleneck, ...], ...] = (
    (Bottleneck(3, 16, 16, 0, 1),),
    (Bottleneck(3, 48, 24, 0, 2),),
    (Bottleneck(3, 72, 24, 0, 1),),
    (Bottleneck(5, 72, 40, 0.25, 2),),
    (Bottleneck(5, 120, 40, 0.25, 1),),
    (Bottleneck(3, 240, 80, 0, 2),),
    (
        Bottleneck(3, 200, 80, 0, 1),
        Bottleneck(3, 184, 80, 0, 1),
        Bottleneck(3, 184, 80, 0, 1),
        Bottleneck(3, 480, 112, 0.25, 1),
        Bottleneck(3, 672, 112, 0.25, 1),
    ),
    (Bottleneck(5, 672, 160, 0.25, 2),),
    (
        Bottleneck(5, 960, 160, 0, 1),
        Bottleneck(5, 960, 160, 0.25, 1),
        Bottleneck(5, 960, 160, 0, 1),
        Bottleneck(5, 960, 160, 0.25, 1),
    ),
)
MAP_STAGES = (2, 4, 6, 8)  # whose maps the decoder joins,
STRIDES = (4, 8, 16, 32)  # and theirs
STEM_CHANNELS = {1.0: 16, 1.3: 20, 1.5: 24}  # by width

JOINS = ("dec_c3", "dec_c2", "dec_c1")  # of maps at strides 32 and 16, then 8, then 4
FEATURES = 24  # channels of body and edge
# 3x3 convolutions of each head before its last, 1x1
HEADS = {"final_out": 2, "seg_out": 2, "body_out": 1, "edge_out": 1}
