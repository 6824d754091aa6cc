"""Pruning: a network with fewer channels, so that file and time shrink, from weights and a dataset.

What goes is chosen on training patches, and what it costs is seen on validation patches; `train`
lets the rest learn again where too much was lost.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hrrsi.deployment.calibration import evenly_chosen, network_pixels
from hrrsi.deployment.options import PruneOptions
from hrrsi.errors import InputError, OptionError
from hrrsi.evaluation.evaluation import class_lookup
from hrrsi.evaluation.patch_evaluation import checked_reading, paired_counts, require_scores
from hrrsi.evaluation.scores import ConfusionMatrix
from hrrsi.extras import requiring
from hrrsi.files import refuse_existing, scratch_folder
from hrrsi.hardware import chosen_device
from hrrsi.interruption import heeding_signals
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.weights_file import open_weights, packaged_name, weights_path
from hrrsi.networks.weights_reading import read_meta, weights_file
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.options import EngineOptions
from hrrsi.progress import progress
from hrrsi.quantities import TextTable
from hrrsi.scenes.resampling import nearest_step
from hrrsi.tiling.dataset import Patch, TiledDataset, read_label

if TYPE_CHECKING:
    import torch

    from hrrsi.deployment.channel_cuts import LayerCosts
    from hrrsi.networks.network import SegmentationNetwork

SUFFIX = ".safetensors"
_ROUNDS = 4  # what channels are worth is looked at anew as others go
_SIZE = 512  # rows and columns of the window whose multiply-accumulates are counted
_BATCH_PIXELS = 8 * 256**2
_ENCODER = "base_network"  # of ours; other encoders are named otherwise

Pair = tuple[int, int]


class PrunedPart(NamedTuple):
    """A part of a network before and after pruning.

    Attributes:
        name: The first layers' names have it in common.
        channels: Channels that its layers give, before and after.
        parameters: Parameters, likewise.
        macs: Multiply-accumulates of its layers, likewise.
    """

    name: str
    channels: tuple[int, int]
    parameters: tuple[int, int]
    macs: tuple[int, int]


@dataclass(frozen=True)
class PrunedNetwork:
    """A network that was pruned, or would be. Pairs are before and after.

    Attributes:
        path: The file; None where nothing was written.
        meta: What the weights say of themselves.
        options: How it was pruned.
        parts: Its parts, in the order of its layers.
        parameters: Parameters.
        macs: Multiply-accumulates of a window of 512 px, as `hrrsi.profile` counts them.
        file_bytes: Sizes of the files; None where nothing was written, as with what follows.
        mean_iou: mIoU of the validation patches, 0 to 1.
        agreement: Share of their pixels that have the same label as before.
    """

    path: Path | None
    meta: ModelMeta
    options: PruneOptions
    parts: tuple[PrunedPart, ...]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    file_bytes: tuple[int, int] | None = None
    mean_iou: tuple[float, float] | None = None
    agreement: float | None = None


@requiring("prune", "pruning")
@heeding_signals()
def prune(
    weights: str | Path | None,
    data: str | Path,
    out: str | Path = "pruned.safetensors",
    *,
    options: PruneOptions = PruneOptions(),
    dry_run: bool = False,
    overwrite: bool = False,
    show_progress: bool = False,
) -> PrunedNetwork:
    """Cut whole channels out of a network, those that its loss would miss least.

    Channels go together where they have to: the cheap half of a ghost module with the primary
    one, and all that sums and concatenations join (torch-pruning's dependency graph). What is
    written is a weights file like any other, of the same network with fewer channels, which says
    what was cut. `hrrsi.train` with it as `init` trains it on.

    Args:
        weights: A weights file, or the name of weights inside the package; None: ``default``.
        data: Folder of a tiled dataset with the weights' classes and bands.
        out: The file, a ``.safetensors``.
        options: How.
        dry_run: Whether only to say what would be cut.
        overwrite: Whether to replace a file that exists.
        show_progress: Whether bars on a terminal's standard error show how far it is.

    Raises:
        OptionError: So few multiply-accumulates can't be reached, or `out` is called otherwise.
        InputError: The dataset has other classes or bands, no labels, or no such patches.
        WeightsError: The weights can't be read.
        OutputError: `out` exists, or can't be written.
        DependencyError: PyTorch or torch-pruning is not installed.
    """
    from hrrsi.networks.weights import load_network, save_weights

    path, source = Path(out), weights_path(weights)
    if path.suffix != SUFFIX:
        raise OptionError(
            f"{path.name} does not end in {SUFFIX}", parameter="out", fix="call it so"
        )
    if not dry_run:
        refuse_existing(path, overwrite=overwrite)
    dataset = TiledDataset(Path(data))
    _check_dataset(dataset, read_meta(source))
    network, meta = load_network(source)
    smaller, parts, macs = _pruned(network, meta, dataset, options, show_progress=show_progress)
    parameters = [sum(p.numel() for p in part.parameters()) for part in (network, smaller)]
    pruned = PrunedNetwork(None, meta, options, parts, (parameters[0], parameters[1]), macs)
    cut = [*(meta.pruned or []), _pruning_record(source, dataset, options, pruned)]
    pruned = replace(pruned, meta=replace(meta, pruned=cut, scores={}))
    if dry_run:
        return pruned
    half = _has_half_kernels(source)
    with scratch_folder(path) as folder:
        written = folder / path.name
        save_weights(smaller.state_dict(), pruned.meta, written, half=half)
        engine = EngineOptions(device=options.device, precision="32")
        engines = open_engine(source, engine), open_engine(written, engine)
        total = len(dataset.patches("val"))
        with progress("validating", total, " patches", enabled=show_progress) as bar:
            matrices, agreement = paired_counts(dataset, engines, "val", on_patches=bar.update)
        described = replace(pruned.meta, scores=_scores_meta(matrices[1], dataset))
        save_weights(smaller.state_dict(), described, written, half=half)
        sizes = (source.stat().st_size, written.stat().st_size)
        written.replace(path)
    before, after = (matrix.scores().mean_iou for matrix in matrices)
    return replace(
        pruned,
        path=path,
        meta=described,
        file_bytes=sizes,
        mean_iou=(before, after),
        agreement=agreement,
    )


def _check_dataset(dataset: TiledDataset, meta: ModelMeta) -> None:
    """Raise unless a dataset is what a network can be pruned and validated on.

    Raises:
        InputError: It has other classes or bands, or lacks patches or labels.
    """
    description, where = dataset.description, str(dataset.folder)
    class_lookup(meta.classes, description.classes, where)
    checked_reading(description, meta, where)
    for split in ("train", "val"):
        dataset.patches(split)
        content = description.split_content(split)
        if content is None or not sum(content.label_pixels):
            raise InputError(
                f"its {split} split has no labels, so nothing says which channels count",
                where=where,
                fix="tile it with labels",
            )
    require_scores(dataset, "val")


def _pruned(
    network: SegmentationNetwork,
    meta: ModelMeta,
    dataset: TiledDataset,
    options: PruneOptions,
    *,
    show_progress: bool,
) -> tuple[SegmentationNetwork, tuple[PrunedPart, ...], Pair]:
    """Return the network with fewer channels, in eval mode, its parts and multiply-accumulates.

    Raises:
        OptionError: So few multiply-accumulates can't be reached.
    """
    from hrrsi.deployment import channel_cuts
    from hrrsi.networks.segmentation import build_network
    from hrrsi.profiling.operations import count_operations

    costs = channel_cuts.LayerCosts(network, _SIZE)
    parts = [_part_sums(network, costs)]
    whole = count_operations(network, network.bands, _SIZE).macs
    beside = whole - costs.total  # products of maps are no layers, and count too
    device = chosen_device(options.device)
    patches = evenly_chosen(dataset.patches("train"), options.patches)
    coupled, smaller = channel_cuts.coupled_channels(network), network
    with progress("pruning", _ROUNDS * len(patches), " patches", enabled=show_progress) as bar:
        for step in range(1, _ROUNDS + 1):
            importances = channel_cuts.taylor_importances(
                smaller.to(device),
                coupled,
                _batches(patches, dataset, meta, device, bar.update),
                _candidates(dataset, meta),
            )
            smaller.cpu()
            target = whole * (1 - (1 - options.macs) * step / _ROUNDS)
            cuts = channel_cuts.chosen_cuts(
                costs, coupled, importances, target - beside, options.multiple
            )
            tensors = channel_cuts.cut_tensors(smaller, coupled, cuts)
            shapes = {key: tensor.shape for key, tensor in tensors.items()}
            smaller = build_network(meta.model, len(meta.classes), meta.band_count, shapes).eval()
            smaller.load_state_dict(tensors)
            smaller.logit_alignment = network.logit_alignment
            coupled = channel_cuts.left_channels(coupled, cuts)
            if costs.total > target - beside:
                break
    left = count_operations(smaller, smaller.bands, _SIZE).macs
    if left > options.macs * whole:
        share = np.ceil(100 * left / whole) / 100
        raise OptionError(
            f"{options.macs:g} can't be reached: with {options.multiple} channels in each layer "
            f"that can lose some, {left / whole:.1%} of the multiply-accumulates are left",
            parameter="macs",
            fix=f"give {share:g} or more" if share < 1 else "prune another network",
        )
    parts.append(_part_sums(smaller, costs))
    rows = tuple(
        PrunedPart(name, *((own[name], cut[name]) for own, cut in zip(*parts, strict=True)))
        for name in parts[0][0]
    )
    return smaller, rows, (whole, left)


def _candidates(dataset: TiledDataset, meta: ModelMeta) -> list[list[int]]:
    """Return the classes of the weights that each label of a dataset stands for."""
    own = [name.casefold() for name in meta.classes]
    places = [own.index(name.casefold()) for name in dataset.description.classes]
    return [[places[index] for index in labels] for labels in dataset.description.candidates]


def _batches(
    patches: Sequence[Patch],
    dataset: TiledDataset,
    meta: ModelMeta,
    device: str,
    on_patches: Callable[[int], object],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield normalised images (N, bands, H, W) and labels (N, H, W) on a device.

    Both are at the ground resolution that the weights read patches at.
    """
    import torch

    description = dataset.description
    step = nearest_step(description.metres_per_pixel, meta.resolutions)
    size = max(1, _BATCH_PIXELS // description.patch_size**2)
    gain, offset = meta.normalisation(description.scale)
    for first in range(0, len(patches), size):
        part = patches[first : first + size]
        images = np.stack([network_pixels(patch, description, meta) for patch in part])
        normal = np.nan_to_num(images * gain + offset, nan=0, posinf=0, neginf=0)
        labels = np.stack([read_label(patch, description) for patch in part])
        if step != 1:  # those of the pixels that the centres lie on
            centres = ((np.arange(images.shape[-1]) + 0.5) * step).astype(np.int64)
            centres = np.minimum(centres, labels.shape[-1] - 1)
            labels = labels[:, centres[:, None], centres]
        yield torch.from_numpy(normal).to(device), torch.from_numpy(labels).to(device)
        on_patches(len(part))


def _part_sums(network: SegmentationNetwork, costs: LayerCosts) -> list[dict[str, int]]:
    """Return the channels, parameters and multiply-accumulates of each part of a network."""
    parameters = {name: parameter.numel() for name, parameter in network.named_parameters()}
    return [_by_part(numbers) for numbers in (costs.channels, parameters, costs.macs)]


def _by_part(numbers: Mapping[str, int]) -> dict[str, int]:
    """Return sums of what layers have, for each part: a stage of the encoder, a step, a head."""
    sums: Counter[str] = Counter()
    for name, number in numbers.items():
        head, *rest = name.split(".")
        if head == _ENCODER:
            rest = [word for word in rest if word != "features"]  # timm's, around all of them
            end = next((n for n, word in enumerate(rest) if word.isdigit()), 0)
            head = ".".join([head, *rest[: end + 1]])
        sums[head] += number
    return dict(sums)


def _pruning_record(
    source: Path, dataset: TiledDataset, options: PruneOptions, pruned: PrunedNetwork
) -> dict[str, Any]:
    """Return what the weights say of having been pruned."""
    from hrrsi.deployment.channel_cuts import CRITERION

    before, after = pruned.macs
    return {
        "from": packaged_name(source) or source.name,
        "macs": round(after / before, 6),
        "criterion": CRITERION,
        "data": dataset.description.scheme,
        "patches": min(options.patches, len(dataset.patches("train"))),
        "channels": {
            part.name: list(part.channels)
            for part in pruned.parts
            if part.channels[0] != part.channels[1]
        },
    }


def _has_half_kernels(source: Path) -> bool:
    """Return whether a weights file keeps kernels in half precision, as its pruned one then does.

    Of published checkpoints, it is the one in the cache.
    """
    with open_weights(weights_file(source)) as file:
        kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
    return "F16" in kinds


def _scores_meta(matrix: ConfusionMatrix, dataset: TiledDataset) -> dict[str, Any]:
    """Return what the weights say of their scores."""
    scores = matrix.scores()
    content = dataset.description.split_content("val")
    return {
        "validation": {
            "protocol": "patches, every class counts, no test-time augmentation; right after "
            "pruning",
            "scenes": [] if content is None else content.scenes,
            "OA": _defined(scores.overall_accuracy),
            "mF1": _defined(scores.mean_f1),
            "mIoU": _defined(scores.mean_iou),
            "IoU": {c.name: _defined(c.iou) for c in scores.classes},
        }
    }


def _defined(score: float) -> float | None:
    return None if math.isnan(score) else score


def pruning_table(pruned: PrunedNetwork) -> str:
    """Return what was cut, part by part, and what it saves and costs, as text."""
    table = TextTable(["part", "channels", "left", "parameters", "left", "MMACs", "left"])
    for part in pruned.parts:
        cells: list[str] = [part.name]
        for before, after in (part.channels, part.parameters):
            cells += [f"{before:,}", f"{after:,}"]
        table.add_row([*cells, *(f"{macs / 1e6:,.1f}" for macs in part.macs)])
    lines = [
        str(table),
        f"parameters: {_change(pruned.parameters)}",
        f"multiply-accumulates of a window of {_SIZE} px: {_change(pruned.macs)}",
    ]
    if pruned.file_bytes is not None:
        lines.append(f"bytes of the file: {_change(pruned.file_bytes)}")
    if pruned.mean_iou is not None:
        whole, left = (100 * share for share in pruned.mean_iou)
        lines.append(
            f"validation: mIoU {whole:.2f} before, {left:.2f} now; "
            f"{pruned.agreement:.2%} of the labels are the same"
        )
    return "\n".join(lines)


def _change(pair: Pair) -> str:
    return f"{pair[0]:,} before, {pair[1]:,} left ({pair[1] / pair[0]:.1%})"
