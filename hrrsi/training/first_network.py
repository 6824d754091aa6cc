"""The network that a run starts with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.layers.norm_act import convert_sync_batchnorm

from hrrsi.device import chosen_device
from hrrsi.errors import HrrsiError
from hrrsi.networks.network import SegmentationNetwork
from hrrsi.networks.segmentation import build_network
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.training.encoder_weights import load_encoder_weights
from hrrsi.training.initial_weights import load_initial_weights
from hrrsi.training.options import TrainOptions
from hrrsi.training.strided_convolutions import keep_strided_depthwise_single


def first_network(
    options: TrainOptions, dataset: TiledDataset, *, resume: bool, report: Callable[[str], None]
) -> SegmentationNetwork:
    """Return the network before the first step, the same in every process.

    On several GPUs its BatchNorms see the whole batch (SyncBatchNorm, whose tensors have the same
    names); processes on a CPU each normalise their share.

    Args:
        options: Model, seed, and what it starts from.
        dataset: Classes and bands.
        resume: Leave it random: a checkpoint will fill it.
        report: Called with what was taken from a weights file, or from timm.

    Raises:
        HrrsiError: Weights can't be had, don't fit, or hold what is not a number.
    """
    torch.manual_seed(options.seed)
    classes, bands = dataset.description.classes, dataset.description.band_names
    network = build_network(options.model, len(classes), len(bands))
    if not resume and options.init is not None:
        report(load_initial_weights(network, options.init, classes, bands).summary)
    elif not resume:
        loaded = load_encoder_weights(network, options.model, options.encoder_weights)
        if loaded is not None:
            report(loaded)
    if not resume:
        _check_finite(network, options.init or f"--encoder-weights {options.encoder_weights}")
    if chosen_device(options.device) == "cpu":
        if options.precision == "bf16":
            keep_strided_depthwise_single(network)
    elif options.devices * options.nodes > 1:
        # timm's, since its own BatchNorms hold an activation that torch's conversion drops
        converted: SegmentationNetwork = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]  # timm
        return converted
    return network


def _check_finite(network: SegmentationNetwork, source: object) -> None:
    """Raise where a weight is not a number: no loss would be one.

    Raises:
        HrrsiError: One is not.
    """
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise HrrsiError(
                f"holds values that are not finite (NaN or infinite), in {name}",
                where=source,
                fix="start from other weights",
            )
