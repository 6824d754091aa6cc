"""The network that a run starts with, and the weights it starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn

from hrrsi.errors import WeightsError
from hrrsi.hardware import chosen_device
from hrrsi.networks.network import SegmentationNetwork, adapted_to_bands
from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights import load_network
from hrrsi.networks.weights_file import weights_line
from hrrsi.networks.weights_reading import read_meta
from hrrsi.runs.folder import unfit_checkpoint
from hrrsi.runs.options import LAST_CHECKPOINT
from hrrsi.scenes.input_bands import InputBands
from hrrsi.scenes.value_scale import alike_bands
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.training.encoder_weights import load_encoder_weights
from hrrsi.training.options import TrainOptions
from hrrsi.training.run_data import RunData


def first_network(
    options: TrainOptions,
    dataset: TiledDataset | RunData,
    *,
    resume: bool,
    report: Callable[[str], None],
    checkpoint: Mapping[str, Any] | None = None,
) -> SegmentationNetwork:
    """Return the network before the first step, the same in every process.

    It has as many channels as what it starts from, or goes on from, has after pruning.

    On several GPUs its BatchNorms see the whole batch (SyncBatchNorm, whose tensors have the same
    names); processes on a CPU each normalise their share.

    Args:
        options: Model, seed, and what it starts from.
        dataset: Classes and bands.
        resume: Leave it random: a checkpoint will fill it.
        report: Called with what was taken from a weights file, or from timm.
        checkpoint: The checkpoint that will fill it, where there is one.

    Raises:
        HrrsiError: Weights can't be had, don't fit, or hold what is not a number.
    """
    torch.manual_seed(options.seed)
    classes, bands = dataset.description.classes, dataset.description.input_bands
    pruned, shapes = _pruning(options, checkpoint, resume=resume)
    try:
        network = build_network(options.model, len(classes), len(bands.names), shapes)
    except ValueError as error:
        if checkpoint is None:
            raise
        raise unfit_checkpoint(options.run_folder / LAST_CHECKPOINT) from error
    network.pruned = pruned
    network.logit_alignment = options.recipe.logit_alignment
    if not resume and options.init_file is not None:
        meta = read_meta(options.init_file)
        report(f"weights: {weights_line(options.init_file, meta)}")
        if meta.logit_alignment != network.logit_alignment:
            report(
                f"note: their logits lie at {meta.logit_alignment}, those of this run at "
                f"{network.logit_alignment}"
            )
        report(load_initial_weights(network, options.init_file, classes, bands).summary)
        if not (isinstance(dataset, RunData) and dataset.has_initial_statistics):
            report(
                "note: the bands are normalised by the dataset's own mean and deviation, not as "
                f"those of {options.init_file.name} were: they are others, or look unlike"
            )
    elif not resume:
        loaded = load_encoder_weights(network, options.model, options.encoder_weights)
        if loaded is not None:
            report(loaded)
    if not resume:
        _check_finite(network, options.init or f"`encoder_weights={options.encoder_weights}`")
    if chosen_device(options.device) == "cpu":
        if options.precision == "bf16":
            keep_strided_depthwise_single(network)
    elif options.devices * options.nodes > 1:
        # timm's, since its own BatchNorms hold an activation that torch's conversion drops
        converted: SegmentationNetwork = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]  # timm
        return converted
    return network


def normalised_data(
    data: RunData, options: TrainOptions, checkpoint: Mapping[str, Any] | None
) -> RunData:
    """Return a run's data, normalised as the run goes on with it.

    Weights that a run starts from were trained on bands of their own mean and deviation. Shown
    others, they see other contrast and colours than they know; so they keep theirs where the data
    holds the same bands and looks alike (as `hrrsi.scenes.value_scale.alike_bands` has it). Of
    heights, which stand above another sea, the data's own count.

    Args:
        data: The datasets, by their own statistics.
        options: What the run starts from.
        checkpoint: What it goes on from; None: it starts.
    """
    if checkpoint is not None:
        statistics = checkpoint.get("record", {}).get("initial_statistics")
        return data.normalised(*statistics) if statistics else data
    if options.init_file is None:
        return data
    meta, own = read_meta(options.init_file), data.description
    if meta.input_bands.difference(own.input_bands) is not None:
        return data
    bands = len(own.bands)
    if not alike_bands(own.mean[:bands], own.std[:bands], meta.mean[:bands], meta.std[:bands]):
        return data
    return data.normalised(
        [*meta.mean[:bands], *own.mean[bands:]], [*meta.std[:bands], *own.std[bands:]]
    )


def _pruning(
    options: TrainOptions, checkpoint: Mapping[str, Any] | None, *, resume: bool
) -> tuple[list[dict[str, Any]] | None, dict[str, torch.Size] | None]:
    """Return what was cut out of a run's network, and the shapes of its tensors; None: nothing.

    Raises:
        WeightsError: What it starts from is another network, or can't be read.
    """
    if checkpoint is not None:
        pruned = checkpoint.get("record", {}).get("pruned")
        tensors = checkpoint.get("state_dict", {})
        shapes = {key.removeprefix("network."): tensor.shape for key, tensor in tensors.items()}
        return (pruned, shapes) if pruned else (None, None)
    if resume or options.init_file is None:
        return None, None
    meta = read_meta(options.init_file)
    if not meta.pruned:
        return None, None
    if meta.model != options.model:
        raise WeightsError(
            f"holds {meta.network_text}, whose channels {options.model} does not have",
            where=options.init_file,
            fix=f"train with `model={meta.model}`",
        )
    network, _ = load_network(options.init_file)
    return meta.pruned, {key: tensor.shape for key, tensor in network.state_dict().items()}


def load_initial_weights(
    network: SegmentationNetwork, path: str | Path, classes: Sequence[str], bands: InputBands
) -> KeptTensors:
    """Start a network from a weights file, as far as it fits.

    Every tensor of the same name and shape is taken over. Of the layers whose outputs are the
    classes, so are the rows of those that both networks name alike, whatever their order; the
    others keep their random start. The first layer is taken over band by band, whatever each of
    them is; one that sees another number of bands is adapted (`adapted_to_bands` says how).

    Args:
        network: The network; it is changed.
        path: A weights file of hrrsi, or a published checkpoint.
        classes: The network's class names, in the order of its logits.
        bands: The bands that it sees.

    Returns:
        What was taken over.

    Raises:
        HrrsiError: The file can't be read, or its encoder is not the network's.
    """
    source, meta = load_network(Path(path))
    source_tensors, own = source.state_dict(), network.state_dict()
    rows = _rows_of_classes(meta["classes"], classes)
    parameters = {key for key, _ in network.named_parameters()}
    heads = {f"{head}.{part}" for head in network.class_heads for part in ("weight", "bias")}
    source_heads = {f"{head}.{part}" for head in source.class_heads for part in ("weight", "bias")}
    tensors: dict[str, torch.Tensor] = {}
    count, adapted = 0, None
    for key, value in own.items():
        tensor = source_tensors.get(key)
        # a layer may hold classes in one of the networks and features in the other
        if tensor is None or (key in heads) != (key in source_heads):
            continue
        size = value.numel()
        if key in heads:
            if not rows or tensor.shape[1:] != value.shape[1:]:
                continue
            mixed = value.clone()
            mixed[list(rows)] = tensor[list(rows.values())]
            size = mixed[list(rows)].numel()
            tensors[key] = mixed
        elif tensor.shape == value.shape:
            tensors[key] = tensor
        elif _is_first_layer(tensor, value, source.bands, network.bands):
            tensors[key] = adapted_to_bands(tensor, network.bands)
            adapted = source.bands
        else:
            continue
        count += size if key in parameters else 0
    _check_encoder(network, tensors, meta["model"], path)
    network.load_state_dict({**own, **tensors})
    return KeptTensors(
        source=Path(path).name,
        model=meta["model"],
        tensors=len(tensors),
        all_tensors=len(own),
        parameters=count,
        all_parameters=sum(own[key].numel() for key in parameters),
        classes=tuple(classes[row] for row in rows) if heads & tensors.keys() else (),
        all_classes=tuple(classes),
        bands_adapted=adapted,
        bands_differing=meta.input_bands.difference(bands),
    )


@dataclass(frozen=True)
class KeptTensors:
    """What a network took over from a weights file.

    Attributes:
        source: The file's name.
        model: The network that it holds.
        tensors: Tensors taken over, heads of classes included if any of their rows was.
        all_tensors: Tensors that the network has.
        parameters: Parameters taken over; of heads, those of the classes that were.
        all_parameters: Parameters that the network has.
        classes: Classes whose rows of the heads were taken over.
        all_classes: Classes of the network.
        bands_adapted: The number of bands that the file's network sees, where it is another one.
        bands_differing: Names of the bands that the file's network saw and of those that the
            network sees, in their order; None where they are the same.
    """

    source: str
    model: str
    tensors: int
    all_tensors: int
    parameters: int
    all_parameters: int
    classes: tuple[str, ...]
    all_classes: tuple[str, ...]
    bands_adapted: int | None
    bands_differing: tuple[list[str], list[str]] | None

    @property
    def share(self) -> float:
        """Share of the network's parameters that were taken over, 0 to 1."""
        return self.parameters / self.all_parameters

    @property
    def summary(self) -> str:
        """What was taken over, in one line."""
        new = [name for name in self.all_classes if name not in self.classes]
        line = (
            f"kept {self.share:.1%} of the parameters ({self.tensors} of {self.all_tensors} "
            f"tensors) of {self.model} in {self.source}"
        )
        if self.classes:
            line += f"; classes kept: {', '.join(self.classes)}"
        if new:
            line += f"; new: {', '.join(new)}"
        if self.bands_adapted is not None:
            line += f"; its first layer adapted from {self.bands_adapted} bands"
        elif self.bands_differing is not None:
            saw, hold = (", ".join(names) for names in self.bands_differing)
            line += (
                f"; its first layer saw {saw} where the patches hold {hold}, taken in this order"
            )
        return line


def keep_strided_depthwise_single(network: nn.Module) -> None:
    """Let a network's depthwise convolutions with a stride compute in single precision.

    In bf16 a processor (oneDNN 3) takes three to five times as long for their gradients, which
    was a seventh of a training step of `ued_bes_sfm`. Names of tensors stay what they are.

    Args:
        network: Changed in place; for training on a processor in mixed precision.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and module.groups > 1 and max(module.stride) > 1:
            module.__class__ = _SinglePrecisionConv2d


class _SinglePrecisionConv2d(nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def _rows_of_classes(source: Sequence[str], own: Sequence[str]) -> dict[int, int]:
    """Return the row of the file's heads for each of the network's classes that they know."""
    rows = {name.casefold(): row for row, name in enumerate(source)}
    return {row: rows[name.casefold()] for row, name in enumerate(own) if name.casefold() in rows}


def _is_first_layer(tensor: torch.Tensor, own: torch.Tensor, bands: int, own_bands: int) -> bool:
    """Return whether kernels are alike but for the number of bands that each network sees."""
    return (
        tensor.ndim == own.ndim == 4
        and (tensor.shape[1], own.shape[1]) == (bands, own_bands)
        and tensor[:, :1].shape == own[:, :1].shape
    )


def _check_encoder(
    network: SegmentationNetwork,
    tensors: dict[str, torch.Tensor],
    model: str,
    path: str | Path,
) -> None:
    """Raise unless the whole encoder was taken over: less is no start.

    Raises:
        HrrsiError: It was not.
    """
    inside = next(name for name, module in network.named_modules() if module is network.encoder)
    keys = [key for key in network.state_dict() if key.startswith(f"{inside}.")]
    absent_keys = [key for key in keys if key not in tensors]
    if absent_keys:
        raise WeightsError(
            f"holds {model}, whose encoder is another one ({len(keys) - len(absent_keys)} of "
            f"{len(keys)} tensors of the encoder fit)",
            where=path,
            fix="start from weights of a network with the same encoder, or leave out `init`",
        )


def _check_finite(network: SegmentationNetwork, source: object) -> None:
    """Raise where a weight is not a number: no loss would be one.

    Raises:
        HrrsiError: One is not.
    """
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise WeightsError(
                f"holds values that are not finite (NaN or infinite), in {name}",
                where=source,
                fix="start from other weights",
            )
