"""Which channels of a network can be cut out together, what each is worth, and cutting them.

Which go together (the two halves of a ghost module, what a sum or a concatenation joins) is
torch-pruning's dependency graph (Fang et al. 2023, "DepGraph: Towards Any Structural Pruning").
What they are worth is Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning".
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch_pruning import DependencyGraph

from hrrsi.classes import IGNORE_INDEX
from hrrsi.errors import InputError
from hrrsi.networks.network import SegmentationNetwork

CRITERION = "the first-order Taylor expansion of the loss (Molchanov et al. 2019)"
_PROBE = 64  # rows and columns of the image that the graph is traced with
# What a layer gives is along 0 of its kernel, what it sees along 1.
OUTPUT, INPUT = 0, 1
# Two numbers a pixel, the flow; and heads that only training needs, where nothing would be saved.
_UNCUT = ("decouple_body_edge.flow_make", "body_out.", "edge_out.")

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]
_Layer = nn.Conv2d | nn.Linear


@dataclass(frozen=True, eq=False)
class CoupledChannels:
    """Units of channels, each of which can only be cut whole, and from several layers at once.

    Attributes:
        units: How many there are.
        places: (units, channels of each) indices of channels, by the layer's name and side,
            `OUTPUT` or `INPUT`.
    """

    units: int
    places: Mapping[tuple[str, int], Places]


def coupled_channels(network: SegmentationNetwork) -> list[CoupledChannels]:
    """Return all channels that can be cut out of a network, as units that go together.

    Those that lead to classes or bands are none of them, nor those of layers that are neither
    ordinary nor depthwise convolutions, linear or BatchNorms (grouped convolutions, LayerNorms).

    Args:
        network: In eval mode, on the processor.
    """
    modules = dict(network.named_modules())
    names = {module: name for name, module in modules.items()}
    channels = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters outside of layers, which stay as they are
        image = torch.zeros(1, network.bands, _PROBE, _PROBE)
        graph = DependencyGraph().build_dependency(_AllMaps(network), image)
        for whole in graph.get_all_groups(root_module_types=(nn.Conv2d, nn.Linear)):
            outputs = {
                names[item.dep.target.module]: len(item.idxs)
                for item in whole
                if isinstance(item.dep.target.module, _Layer) and _side(graph, item) == OUTPUT
            }
            if any(name in network.class_heads or name.startswith(_UNCUT) for name in outputs):
                continue
            # half as many channels in a ghost module's halves as where these lie side by side
            root = min(outputs, key=lambda name: outputs[name])
            cut = graph.get_pruner_of_module(modules[root]).prune_out_channels
            units = outputs[root]
            group = graph.get_pruning_group(modules[root], cut, list(range(units)))
            places = _places(graph, group, names, units)
            if places is not None:
                channels.append(CoupledChannels(units, places))
    return channels


class _AllMaps(nn.Module):
    """A network that returns its maps as a list, which the graph is traced from."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return list(self.network(image).values())


def _side(graph: Any, item: Any) -> int:
    return OUTPUT if graph.is_out_channel_pruning_fn(item.dep.handler) else INPUT


def _places(
    graph: Any, group: Any, names: Mapping[nn.Module, str], units: int
) -> dict[tuple[str, int], Places] | None:
    """Return where the units of a group lie; None where a layer can't lose them."""
    channels: dict[tuple[str, int], list[dict[int, None]]] = {}
    for item in group:
        module = item.dep.target.module
        if module not in names and not isinstance(module, nn.Parameter):
            continue  # an operation: a sum, a concatenation
        is_grouped = isinstance(module, nn.Conv2d) and module.groups not in (1, module.in_channels)
        if not isinstance(module, _Layer | nn.BatchNorm2d) or is_grouped:
            return None
        place = (names[module], _side(graph, item))
        of_units = channels.setdefault(place, [{} for _ in range(units)])
        for index, unit in zip(item.idxs, item.root_idxs, strict=True):
            of_units[unit][index] = None
    sizes = [{len(unit) for unit in of_units} for of_units in channels.values()]
    if any(len(counts) != 1 for counts in sizes):
        return None
    return {
        place: np.array([list(unit) for unit in of_units]) for place, of_units in channels.items()
    }


def taylor_importances(
    network: SegmentationNetwork,
    coupled: Sequence[CoupledChannels],
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    candidates: Sequence[Sequence[int]],
) -> list[Floats]:
    """Return how much the loss would change without each unit, by a first-order expansion.

    To cut a unit is to set those kernels to zero that see it, so it is the square of the sum of
    their values times their gradients, averaged over batches (equation 8 of the paper, for sets of
    weights). The loss is the cross-entropy of `lbl` on labelled pixels.

    Args:
        network: In eval mode.
        coupled: Units.
        batches: Normalised images (N, bands, H, W) and labels (N, H, W), on the network's device.
        candidates: Classes that each label stands for, one or several.

    Returns:
        (units,) for each of `coupled`, 0 or more.

    Raises:
        InputError: No pixel has a label, or the loss is not a number.
    """
    kernels = {n: m.weight for n, m in network.named_modules() if isinstance(m, _Layer)}
    sums = [np.zeros(group.units) for group in coupled]
    count = 0
    for image, label in batches:
        loss = _loss(network.segment(image), label, candidates)
        if loss is None:
            continue
        if not bool(loss.isfinite()):
            raise InputError(
                "the loss on its training patches is not a number, so nothing can be chosen by it",
                fix="prune other weights",
            )
        slopes = torch.autograd.grad(loss, tuple(kernels.values()), allow_unused=True)
        effects = {
            name: _sums_along(kernel.detach() * slope, INPUT)
            for (name, kernel), slope in zip(kernels.items(), slopes, strict=True)
            if slope is not None
        }
        for group, total in zip(coupled, sums, strict=True):
            effect = np.zeros(group.units)
            for (name, side), places in group.places.items():
                if side == INPUT and name in effects:
                    effect += effects[name][places].sum(axis=1)
            total += effect**2
        count += 1
    if not count:
        raise InputError(
            "none of the training patches that were looked at has a label", fix="raise `patches`"
        )
    return [total / count for total in sums]


def _sums_along(values: torch.Tensor, axis: int) -> Floats:
    """Return sums over all axes but one."""
    moved = values.movedim(axis, 0).flatten(1).sum(dim=1, dtype=torch.float64)
    sums: Floats = moved.cpu().numpy()
    return sums


def _loss(
    logits: torch.Tensor, label: torch.Tensor, candidates: Sequence[Sequence[int]]
) -> torch.Tensor | None:
    """Return the cross-entropy of labelled pixels; None where there are none."""
    is_labelled = label != IGNORE_INDEX
    if not bool(is_labelled.any()):
        return None
    allowed = torch.full((len(candidates), logits.shape[1]), -torch.inf, device=logits.device)
    for index, classes in enumerate(candidates):
        allowed[index, list(classes)] = 0
    likelihoods = logits.log_softmax(dim=1).movedim(1, -1)[is_labelled]
    return -(likelihoods + allowed[label[is_labelled].long()]).logsumexp(dim=-1).mean()


class LayerCosts:
    """Multiply-accumulates of a network's layers, while channels are taken away from them.

    Args:
        network: In eval mode, on the processor.
        size: Rows and columns of a window.
    """

    def __init__(self, network: SegmentationNetwork, size: int) -> None:
        self._taps: dict[str, int] = {}
        self._channels: dict[str, list[int]] = {}
        hooks = [
            module.register_forward_hook(self._counting(name))
            for name, module in network.named_modules()
            if isinstance(module, _Layer)
        ]
        with torch.inference_mode():
            network(torch.zeros(1, network.bands, size, size))
        for hook in hooks:
            hook.remove()

    def _counting(self, name: str) -> Any:
        def count(module: _Layer, _inputs: Any, output: torch.Tensor) -> None:
            outputs, inputs = module.weight.shape[:2]
            self._channels[name] = [outputs, inputs]
            self._taps[name] = output.numel() // outputs * module.weight[0, 0].numel()

        return count

    @property
    def channels(self) -> dict[str, int]:
        """Channels that each layer gives."""
        return {name: outputs for name, (outputs, _) in self._channels.items()}

    @property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates of each layer."""
        return {name: self._taps[name] * a * b for name, (a, b) in self._channels.items()}

    @property
    def total(self) -> int:
        """Multiply-accumulates of all layers."""
        return sum(self.macs.values())

    def saved(self, coupled: CoupledChannels, units: int) -> int:
        """Return the multiply-accumulates that are saved by so many units less."""
        saved = 0
        for name, (output_cut, input_cut) in self._losses(coupled, units).items():
            outputs, inputs = self._channels[name]
            rest = (outputs - output_cut) * (inputs - input_cut)
            saved += self._taps[name] * (outputs * inputs - rest)
        return saved

    def remove(self, coupled: CoupledChannels, units: int) -> None:
        """Take so many units away."""
        for name, losses in self._losses(coupled, units).items():
            for side in (OUTPUT, INPUT):
                self._channels[name][side] -= losses[side]

    def _losses(self, coupled: CoupledChannels, units: int) -> dict[str, list[int]]:
        losses: dict[str, list[int]] = {}
        for (name, side), places in coupled.places.items():
            if name in self._channels:
                losses.setdefault(name, [0, 0])[side] += units * places.shape[1]
        return losses


def chosen_cuts(
    costs: LayerCosts,
    coupled: Sequence[CoupledChannels],
    importances: Sequence[Floats],
    macs: float,
    multiple: int,
) -> list[Places]:
    """Return the units to cut, until so many multiply-accumulates are left.

    Again and again those go that are worth least for each multiply-accumulate that they save: of
    one group its least important units, as many as leave a multiple of `multiple` of it.

    Args:
        costs: Those of the network; they are lowered.
        coupled: Units.
        importances: (units,) of each.
        macs: Multiply-accumulates to be left at most.
        multiple: What is left of a group is a multiple of it, and that at least; groups that
            have no more stay as they are.

    Returns:
        Units of each of `coupled`, and all that can go where `macs` can't be reached.
    """
    orders = [np.argsort(values, kind="stable") for values in importances]
    cut = [0] * len(coupled)
    layers = [{name for name, _ in group.places} for group in coupled]
    steps: dict[int, _Step] = {}
    changed = set(range(len(coupled)))
    while (excess := costs.total - macs) > 0:
        for number in changed:
            group = coupled[number]
            left = group.units - cut[number]
            units = left - (left - 1) // multiple * multiple
            saved = costs.saved(group, units) if left - units >= multiple else 0
            steps.pop(number, None)
            if saved:
                lost = importances[number][orders[number][cut[number] :][:units]].sum()
                steps[number] = _Step(lost / saved, float(lost), saved, number, units)
        if not steps:
            break
        best = min(steps.values())
        if best.saved > excess:  # the last one shall not take much more than is asked for
            enough = (step for step in steps.values() if step.saved >= excess)
            best = min(enough, key=lambda step: (step.lost, step.saved))
        costs.remove(coupled[best.group], best.units)
        cut[best.group] += best.units
        changed = {n for n, own in enumerate(layers) if own & layers[best.group]}
    return [order[:units] for order, units in zip(orders, cut, strict=True)]


class _Step(NamedTuple):
    """Units of a group that might go next: what they are worth, and what they save."""

    rate: float
    lost: float
    saved: int
    group: int
    units: int


def cut_tensors(
    network: nn.Module, coupled: Sequence[CoupledChannels], cuts: Sequence[Places]
) -> dict[str, torch.Tensor]:
    """Return the state dict of a network without some units of its channels."""
    tensors = dict(network.state_dict())
    for (name, side), gone in _gone(coupled, cuts).items():
        for part in ("weight", "bias", "running_mean", "running_var"):
            key = f"{name}.{part}"
            if key in tensors and tensors[key].ndim > side:
                channels = np.setdiff1d(np.arange(tensors[key].shape[side]), gone)
                tensors[key] = tensors[key].index_select(side, torch.from_numpy(channels))
    return tensors


def left_channels(
    coupled: Sequence[CoupledChannels], cuts: Sequence[Places]
) -> list[CoupledChannels]:
    """Return the units that are left of a network's, where they lie in what `cut_tensors` gives."""
    gone = _gone(coupled, cuts)
    channels = []
    for group, units in zip(coupled, cuts, strict=True):
        unit_indices = np.setdiff1d(np.arange(group.units), units)
        places = {
            place: rows[unit_indices] - np.searchsorted(gone[place], rows[unit_indices])
            for place, rows in group.places.items()
        }
        channels.append(CoupledChannels(len(unit_indices), places))
    return channels


def _gone(
    coupled: Sequence[CoupledChannels], cuts: Sequence[Places]
) -> dict[tuple[str, int], Places]:
    """Return the indices of all channels that are cut, sorted, by layer and side."""
    parts: dict[tuple[str, int], list[Places]] = {}
    for group, units in zip(coupled, cuts, strict=True):
        for place, rows in group.places.items():  # a layer may see what several groups give
            parts.setdefault(place, []).append(rows[units].ravel())
    return {place: np.sort(np.concatenate(channels)) for place, channels in parts.items()}
