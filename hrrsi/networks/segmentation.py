"""Networks: unified decoder (UED), body and edge supervision (BES), score-based fusion (SFM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.ghostnet import GhostModule
from torch import nn

from hrrsi.extras import requiring
from hrrsi.networks.architecture import FEATURES, HEADS, parsed_model
from hrrsi.networks.network import GhostNetEncoder, SegmentationNetwork, TimmEncoder


class ConvNorm(nn.Module):
    """Convolution, BatchNorm and, unless switched off, ReLU, under the published key ``primary``.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        stride: 1 or 2; the kernel is 3x3 with one zero of padding.
        bias: Whether the convolution has a bias.
        relu: Whether a ReLU follows.
    """

    def __init__(
        self, inputs: int, outputs: int, *, stride: int = 1, bias: bool = False, relu: bool = True
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias),
            nn.BatchNorm2d(outputs),
        ]
        if relu:
            layers.append(nn.ReLU(inplace=True))
        self.primary = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
        y: torch.Tensor = self.primary(x)
        return y


class JoinStep(nn.Module):
    """Joins a low-resolution map to the next higher one (a "UED" step).

    Args:
        low: Channels of the low-resolution map.
        high: Channels of the high-resolution map, and of the result.
    """

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.Conv2d(low, high, 3, 1, 1), nn.BatchNorm2d(high), nn.ReLU(inplace=True)
        )
        self.cat_conv = nn.Sequential(
            nn.Conv2d(2 * high, high, 1), nn.BatchNorm2d(high), nn.ReLU(inplace=True)
        )

    def forward(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Return (N, high, h, w) from maps (N, low, h', w') and (N, high, h, w)."""
        low = F.interpolate(low, size=high.shape[-2:], mode="bilinear", align_corners=False)
        y: torch.Tensor = self.cat_conv(torch.cat((high, self.up(low)), dim=1))
        return y


class BodyEdgeDecoupling(nn.Module):
    """Warps fine features along a learned flow; what moves little is body, what is lost is edge.

    Args:
        channels: Channels of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_high_res = nn.Conv2d(channels, channels, 1)
        self.conv_low_res = nn.Sequential(
            ConvNorm(channels, channels, stride=2, bias=True, relu=False),
            ConvNorm(channels, channels, stride=2, bias=True, relu=False),
            nn.Conv2d(channels, channels, 1),
        )
        self.flow_make = nn.Conv2d(2 * channels, 2, 3, 1, 1, bias=False)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (warped, fine - warped), each of the shape of `features` (N, channels, h, w)."""
        fine = self.conv_high_res(features)
        coarse = F.interpolate(
            self.conv_low_res(features),
            size=features.shape[-2:],
            mode="bilinear",
            align_corners=True,
        )
        flow = self.flow_make(torch.cat((fine, coarse), dim=1))
        warped = _sample_along_flow(fine, flow)
        return warped, fine - warped


def _sample_along_flow(features: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Sample (N, C, h, w) features at an even grid moved by a (N, 2, h, w) flow, x first.

    The grid includes both ends while sampling treats pixels as areas (``align_corners=False``),
    so even a zero flow resamples: the published networks were trained that way.
    """
    height, width = flow.shape[-2:]
    flow = flow.float()  # bf16 would move samples by a quarter of a pixel
    ys = torch.linspace(-1.0, 1.0, height, device=flow.device)
    xs = torch.linspace(-1.0, 1.0, width, device=flow.device)
    grid_x = xs.expand(height, width) + flow[:, 0] / width
    grid_y = ys[:, None].expand(height, width) + flow[:, 1] / height
    grid = torch.stack((grid_x, grid_y), dim=-1)
    sampled = F.grid_sample(
        features.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return sampled.to(features.dtype)


class ScoreFusion(nn.Module):
    """Scores each channel and pixel from row means, column means and the pixel itself.

    Args:
        channels: Channels of the body and edge features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.h_map = nn.Conv2d(channels, channels, 3, 1, 1)
        self.w_map = nn.Conv2d(channels, channels, 3, 1, 1)
        self.x_map = nn.Conv2d(channels, channels, 1)

    def forward(self, body: torch.Tensor, edge: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Fuse body and edge features.

        Args:
            body: (N, channels, h, w).
            edge: (N, channels, h, w).

        Returns:
            The fused features, and the score in [0, 1] with which the body entered, both of the
            shape of `body`.
        """
        x = body + edge
        rows = self.h_map(x).mean(dim=3, keepdim=True)
        columns = self.w_map(x).mean(dim=2, keepdim=True)
        score = torch.sigmoid(rows * columns + self.x_map(x))
        return body * score + edge * (1 - score), score


class UED(SegmentationNetwork):
    """Unified encoder-decoder, published as SegGhostNet on GhostNet.

    Attribute names are the published checkpoints' keys.

    Args:
        num_classes: Number of classes.
        encoder: Gives maps at strides 4, 8, 16 and 32; the decoder is as wide as they are.
        bands: Number of input bands, the encoder's.
    """

    class_heads: tuple[str, ...] = ("final_out.2",)

    def __init__(
        self, num_classes: int, encoder: GhostNetEncoder | TimmEncoder, bands: int = 3
    ) -> None:
        super().__init__(num_classes, bands)
        self.base_network = encoder
        c4, c8, c16, c32 = encoder.channels
        self.dec_c3 = JoinStep(c32, c16)
        self.dec_c2 = JoinStep(c16, c8)
        self.dec_c1 = JoinStep(c8, c4)
        self.final_out = _head("final_out", c4, self._final_channels(), bias=False)

    @property
    def encoder(self) -> nn.Module:
        """The encoder; its weights are under the published key ``base_network``."""
        return self.base_network

    def _final_channels(self) -> int:
        return self.num_classes

    def _features(self, image: torch.Tensor) -> torch.Tensor:
        """Return `final_out`'s map at stride 4."""
        x4, x8, x16, x32 = self.base_network(image)
        x = self.dec_c1(self.dec_c2(self.dec_c3(x32, x16), x8), x4)
        y: torch.Tensor = self.final_out(x)
        return y

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the maps of the network.

        Args:
            image: (N, bands, H, W), float, normalised; any H and W.

        Returns:
            ``lbl``: class logits (N, classes, H, W).
        """
        return {"lbl": self.segment(image)}

    def coarse_logits(self, image: torch.Tensor) -> torch.Tensor:
        """Return the class logits before they are resized, (N, classes, ceil(H/4), ceil(W/4))."""
        return self._features(image)


class UEDBES(UED):
    """UED with body and edge supervision, published as SegGhostNetDecouple on GhostNet."""

    class_heads = ("seg_out.2", "body_out.1")

    def __init__(
        self, num_classes: int, encoder: GhostNetEncoder | TimmEncoder, bands: int = 3
    ) -> None:
        super().__init__(num_classes, encoder, bands)
        self.decouple_body_edge = BodyEdgeDecoupling(FEATURES)
        self.decouple_body = _refinement()
        self.decouple_edge = _refinement()
        self.seg_out = _head("seg_out", FEATURES, num_classes)
        self.body_out = _head("body_out", FEATURES, num_classes)
        self.edge_out = _head("edge_out", FEATURES, 1)

    def _final_channels(self) -> int:
        return FEATURES

    def _body_and_edge(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        warped, residue = self.decouple_body_edge(self._features(image))
        return self.decouple_body(warped), self.decouple_edge(residue)

    def _fused(
        self, body: torch.Tensor, edge: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the features of the segmentation head and the maps that fusing them yields."""
        return body + edge, {}

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the maps of the network.

        Args:
            image: (N, bands, H, W), float, normalised; any H and W.

        Returns:
            ``lbl`` and ``bdy``: class logits (N, classes, H, W) of the segmentation and the body
            head; ``edg``: edge logits (N, H, W).
        """
        body, edge = self._body_and_edge(image)
        fused, fusion_maps = self._fused(body, edge)
        return {
            "lbl": self.resized(self.seg_out(fused), image),
            "bdy": self.resized(self.body_out(body), image),
            "edg": self.resized(self.edge_out(edge), image)[:, 0],
            **fusion_maps,
        }

    def coarse_logits(self, image: torch.Tensor) -> torch.Tensor:
        """Return the class logits before they are resized, as `UED.coarse_logits`."""
        fused, _ = self._fused(*self._body_and_edge(image))
        y: torch.Tensor = self.seg_out(fused)
        return y


class UEDBESSFM(UEDBES):
    """UED+BES with score-based fusion, published as SegGhostNetDecoupleScore on GhostNet.

    `forward` adds ``scr``: the score in [0, 1], (N, 24, ceil(H / 4), ceil(W / 4)).
    """

    def __init__(
        self, num_classes: int, encoder: GhostNetEncoder | TimmEncoder, bands: int = 3
    ) -> None:
        super().__init__(num_classes, encoder, bands)
        self.fusion_score = ScoreFusion(FEATURES)

    def _fused(
        self, body: torch.Tensor, edge: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        fused, score = self.fusion_score(body, edge)
        return fused, {"scr": score}


_NETWORKS: dict[str, type[UED]] = {"ued": UED, "ued_bes": UEDBES, "ued_bes_sfm": UEDBESSFM}


def build_network(
    model: str,
    num_classes: int,
    bands: int = 3,
    pruned_shapes: Mapping[str, Sequence[int]] | None = None,
) -> SegmentationNetwork:
    """Return a network with random weights, in training mode.

    Args:
        model: Its name, as `hrrsi.networks.architecture.parsed_model` understands it.
        num_classes: Number of classes, at least 1.
        bands: Number of input bands.
        pruned_shapes: Shapes of the tensors of a network of that name that has fewer channels, by
            their keys: so many channels its layers get. What they say of classes and of bands does
            not count. None: as many as the name says.

    Raises:
        OptionError: The name is not a model's, or its encoder can't carry the network.
        DependencyError: The library of a baseline is not installed.
        ValueError: `pruned_shapes` are none of that network's.
    """
    network = _named_network(model, num_classes, bands)
    if pruned_shapes is not None:
        with_fewer_channels(network, pruned_shapes)
    return network


def _named_network(model: str, num_classes: int, bands: int) -> SegmentationNetwork:
    name = parsed_model(model)
    if name.network not in _NETWORKS:
        with requiring("baselines", f"the network {name.network}"):  # imports take seconds
            from hrrsi.networks.baselines import build_baseline

            return build_baseline(model, num_classes, bands)
    encoder = (
        TimmEncoder(name.encoder, bands)
        if name.width is None
        else GhostNetEncoder(name.width, bands)
    )
    return _NETWORKS[name.network](num_classes, encoder, bands)


def with_fewer_channels(network: SegmentationNetwork, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give the layers of a network as many channels as tensors of its keys have.

    A pruned network is such a one: its name says what it is made of, and its tensors how wide each
    layer is. Values stay those of the first channels.

    Args:
        network: It is changed. Its classes and bands stay as many as they are.
        shapes: Shapes of the tensors, by their keys.

    Raises:
        ValueError: The tensor of a layer is missing, or has more channels than the layer.
    """
    first = next(m for m in network.encoder.modules() if isinstance(m, nn.Conv2d))
    for key, module in network.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            continue
        own = tuple(module.weight.shape)
        sizes = list(shapes.get(f"{key}.weight", ()))
        if key in network.class_heads:
            sizes[:1] = own[:1]
        if module is first:
            sizes[1:2] = own[1:2]
        if len(sizes) != len(own) or any(n > m for n, m in zip(sizes, own, strict=True)):
            raise ValueError(f"{key}.weight has shape {sizes} where the network has {own}")
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.ndim:
                fewer = tensor.detach()[tuple(map(slice, sizes[: min(2, tensor.ndim)]))].clone()
                is_learned = isinstance(tensor, nn.Parameter)
                setattr(module, name, nn.Parameter(fewer) if is_learned else fewer)
        _count_channels(module)
    for module in network.modules():
        if isinstance(module, GhostModule):  # which takes so many of its two halves' outputs
            halves: Any = (module.primary_conv[0], module.cheap_operation[0])
            module.out_chs = sum(half.out_channels for half in halves)
    if isinstance(network, UED):
        steps: Any = (network.dec_c1, network.dec_c2, network.dec_c3)
        high = [step.cat_conv[0].in_channels - step.up[0].out_channels for step in steps]
        network.base_network.channels = (*high, steps[-1].up[0].in_channels)


def _count_channels(module: nn.Conv2d | nn.Linear | nn.BatchNorm2d) -> None:
    """Let a layer know how many channels its tensors have."""
    outputs = len(module.weight)
    if isinstance(module, nn.BatchNorm2d):
        module.num_features = outputs
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = module.weight.shape[1], outputs
    else:
        if 1 < module.groups == module.in_channels:  # a kernel for each channel
            module.groups = outputs * module.groups // module.out_channels
        module.in_channels = module.weight.shape[1] * module.groups
        module.out_channels = outputs


def _head(key: str, inputs: int, outputs: int, *, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(
        *(ConvNorm(inputs, inputs) for _ in range(HEADS[key])),
        nn.Conv2d(inputs, outputs, 1, bias=bias),
    )


def _refinement() -> nn.Sequential:
    return nn.Sequential(ConvNorm(FEATURES, FEATURES), nn.Conv2d(FEATURES, FEATURES, 3, 1, 1))
