"""What a network costs: parameters, operations by named conventions, file size."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hrrsi.errors import InputError
from hrrsi.networks.network import SegmentationNetwork
from hrrsi.networks.segmentation import ScoreFusion, build_network
from hrrsi.networks.weights import load_network
from hrrsi.profiling.figures import PUBLISHED_CLASSES, PUBLISHED_SIZE, Operations, Profile

_ATEN = torch.ops.aten
# products with weights; those of queries, keys and values are `bmm` and attention's own
_LAYER_PRODUCTS = (_ATEN.convolution, _ATEN._convolution, _ATEN.addmm, _ATEN.mm)


def profile_model(
    model: str, *, classes: int = PUBLISHED_CLASSES, size: int = PUBLISHED_SIZE
) -> Profile:
    """Return what a network costs.

    Args:
        model: Its name, as `hrrsi.networks.architecture.parsed_model` understands it.
        classes: Number of classes.
        size: Rows and columns of the window, at least 32.

    Raises:
        OptionError: The name is not a model's, or its encoder can't carry the network.
    """
    network = build_network(model, classes).eval()
    return _profile(network, model, None, size, len(safetensors.torch.save(network.state_dict())))


def profile_weights(path: Path, *, size: int = PUBLISHED_SIZE) -> Profile:
    """Return what the network in a weights file costs.

    Raises:
        WeightsError: Not a weights file (see `hrrsi.networks.weights.load_network`).
    """
    network, meta = load_network(path)
    return _profile(network, meta.model, path.name, size, path.stat().st_size)


def _profile(
    network: SegmentationNetwork, model: str, weights: str | None, size: int, file_bytes: int
) -> Profile:
    # PyTorch makes more calls, which ptflops counts, where tensors hold no numbers
    ptflops_macs = _ptflops_macs(network, network.bands, size)
    network = network.to("meta")
    return Profile(
        model=model,
        weights=weights,
        classes=network.num_classes,
        size=size,
        parameters=sum(p.numel() for p in network.parameters()),
        operations=count_operations(network, network.bands, size),
        ptflops_macs=ptflops_macs,
        file_bytes=file_bytes,
        pruned=network.pruned,
    )


def count_operations(network: nn.Module, bands: int, size: int) -> Operations:
    """Return what one forward pass of a (1, bands, size, size) window computes."""
    counts: Counter[str] = Counter()

    def count(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            counts["biases"] += output.numel() if module.bias is not None else 0
        elif isinstance(module, nn.BatchNorm2d):
            counts["norms"] += 2 * output.numel()
        elif isinstance(module, nn.ReLU):
            counts["relus"] += output.numel()
        elif isinstance(module, ScoreFusion):
            # the outer product of row and column means: a matrix product of inner dimension 1
            counts["matrix products"] += output[1].numel()

    # not by modules: some layers (SwinV2's, CondConv's) call functions
    flops = FlopCounterMode(display=False)
    with _hooked(network, count), flops, torch.no_grad():
        device = next(network.parameters()).device
        network(torch.zeros(1, bands, size, size, device=device))
    kinds = flops.get_flop_counts().get("Global", {})
    convolutions = sum(number for kind, number in kinds.items() if kind in _LAYER_PRODUCTS) // 2
    return Operations(
        macs=convolutions + counts["matrix products"],
        published=convolutions + sum(counts.values()) - counts["matrix products"],
    )


@contextlib.contextmanager
def _hooked(network: nn.Module, hook: Any) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in network.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _ptflops_macs(network: nn.Module, bands: int, size: int) -> int:
    from ptflops import get_model_complexity_info

    output = io.StringIO()
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        torch.inference_mode(),
    ):
        macs, _ = get_model_complexity_info(
            network,
            (bands, size, size),
            print_per_layer_stat=False,
            as_strings=False,
            backend="pytorch",
        )
    if macs is None:
        last = output.getvalue().strip().rsplit("\n", 1)[-1]
        raise InputError(f"ptflops could not count it ({last})", where=type(network).__name__)
    return int(macs)
