"""Teachers: networks whose probabilities or encoder's maps another one learns, labels or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hrrsi.errors import WeightsError
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.network import SegmentationNetwork
from hrrsi.networks.weights import load_network
from hrrsi.networks.weights_file import weights_line
from hrrsi.networks.weights_reading import read_meta
from hrrsi.quantities import length_text
from hrrsi.runs.environment import file_source
from hrrsi.tiling.dataset import DatasetDescription
from hrrsi.training.options import Recipe, TrainOptions

_RESOLUTION_FACTOR = 1.5  # beyond which maps, too, are warned of


class _Teacher(NamedTuple):
    """A network in eval mode, and how it is shown what the student is shown.

    Attributes:
        network: The network.
        gain: (1, bands, 1, 1), by which the student's normalised bands are multiplied.
        offset: (1, bands, 1, 1), what is added then.
        order: (classes,) index of each of the student's classes among the network's.
    """

    network: SegmentationNetwork
    gain: torch.Tensor
    offset: torch.Tensor
    order: torch.Tensor


class Teaching(NamedTuple):
    """What teachers say of a batch.

    Attributes:
        probabilities: (N, classes, H, W) float32, the mean of theirs; None where nothing of it is
            learned.
        maps: The maps of each one's encoder at strides 4, 8, 16 and 32, (N, channels, h, w); empty
            where nothing of them is learned.
    """

    probabilities: torch.Tensor | None
    maps: list[list[torch.Tensor]]


class Teachers:
    """Networks that say what they make of what another one, the student, sees.

    They are no part of the module that is trained: checkpoints don't hold them. They compute where
    the pixels are, in the precision of the step around them.

    Args:
        paths: Their weights files, one or more.
        description: Classes, bands and normalisation of what they are shown.
        recipe: What is learned of them, and at which temperature.

    Attributes:
        sources: Name and SHA-256 of each file.
        names: Each file's name, with its network and the number of parameters.
        words: Which weights each file holds, as every command says it (`weights_line`).
        channels: Channels of the maps of each one's encoder; empty where they are not learned.

    Raises:
        WeightsError: As `check_teacher`.
        MissingInputError: Likewise.
    """

    def __init__(
        self, paths: Sequence[Path], description: DatasetDescription, recipe: Recipe
    ) -> None:
        self.sources = [file_source(path) for path in paths]
        self.channels: list[tuple[int, ...]] = []
        self._recipe = recipe
        self.names: list[str] = []
        self.words: list[str] = []
        self._teachers: list[_Teacher] = []
        for path in paths:
            meta = check_teacher(path, description, recipe)
            network = load_network(path)[0].requires_grad_(False)
            network = network.to(memory_format=torch.channels_last)
            if recipe.features:
                self.channels.append(map_channels(network, path))
            gain, offset = _gain_and_offset(meta, description)
            positions = _folded(meta.classes)
            order = torch.tensor([positions.get(name, 0) for name in _folded(description.classes)])
            self._teachers.append(_Teacher(network, gain, offset, order))
            parameters = sum(p.numel() for p in network.parameters())
            self.words.append(weights_line(path, meta))
            self.names.append(f"{path.name} ({meta.model}, {parameters:,} parameters)")

    @torch.no_grad()
    def teaching(self, pixels: torch.Tensor) -> Teaching:
        """Return what the teachers say, in the order of the student's classes.

        Args:
            pixels: (N, bands, H, W) float32, normalised as the student's.
        """
        self._move_to(pixels.device)
        total: torch.Tensor | None = None
        maps: list[list[torch.Tensor]] = []
        for network, gain, offset, order in self._teachers:
            shown = pixels * gain + offset
            if not self._recipe.distillation:
                maps.append(network.encoder(shown))
                continue
            with EncoderMaps(network) as encoder:
                coarse = network.coarse_logits(shown)
            if self._recipe.features:
                maps.append(encoder.maps)
            with torch.autocast(pixels.device.type, enabled=False):
                logits = network.resized(coarse.float()[:, order], shown)
                probabilities = logits.div_(self._recipe.temperature).softmax(1)
                total = probabilities if total is None else total.add_(probabilities)
        return Teaching(None if total is None else total.div_(len(self._teachers)), maps)

    def _move_to(self, device: torch.device) -> None:
        if self._teachers[0].order.device != device:
            self._teachers = [
                _Teacher(network.to(device), *(tensor.to(device) for tensor in tensors))
                for network, *tensors in self._teachers
            ]


def run_teachers(options: TrainOptions, description: DatasetDescription) -> Teachers | None:
    """Return the teachers of a run, or None where it has none.

    Raises:
        WeightsError: As `check_teacher`.
        MissingInputError: Likewise.
    """
    if not options.teachers:
        return None
    return Teachers(options.teachers, description, options.recipe)


class EncoderMaps:
    """Keeps the maps that a network's encoder returns while it computes.

    Args:
        network: The network.

    Attributes:
        maps: The maps of the last time, at strides 4, 8, 16 and 32.
    """

    def __init__(self, network: SegmentationNetwork) -> None:
        self.maps: list[torch.Tensor] = []
        self._network = network

    def __enter__(self) -> Self:
        self._handle = self._network.encoder.register_forward_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _keep(self, _encoder: nn.Module, _inputs: object, maps: list[torch.Tensor]) -> None:
        self.maps = maps


class FeatureMatching(nn.Module):
    """How far the maps of a network's encoder are from those of teachers', a convolution between.

    Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", at strides 4, 8, 16 and 32: the mean
    squared difference of 1x1 convolutions of the network's maps from the teachers', whose channels
    are brought to mean 0 and variance 1 over the batch, so that strides and teachers count alike: a
    network that tells nothing costs 1. The convolutions are trained, and forgotten.

    Args:
        channels: Channels of the network's maps.
        teachers: Those of each teacher's.
    """

    def __init__(self, channels: Sequence[int], teachers: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            nn.ModuleList(
                nn.Conv2d(inputs, outputs, 1)
                for inputs, outputs in zip(channels, teacher, strict=True)
            )
            for teacher in teachers
        )

    def forward(
        self, maps: Sequence[torch.Tensor], teachers: Sequence[Sequence[torch.Tensor]]
    ) -> torch.Tensor:
        """Return the mean over teachers and strides.

        Args:
            maps: The network's maps, (N, channels, h, w).
            teachers: Those of each teacher, likewise.
        """
        losses = []
        for projections, teacher_maps in zip(self.projections, teachers, strict=True):
            assert isinstance(projections, nn.ModuleList)
            for projection, features, target in zip(projections, maps, teacher_maps, strict=True):
                projected = projection(features)
                with torch.autocast(target.device.type, enabled=False):
                    normalised = F.batch_norm(target.float(), None, None, training=True)
                    losses.append(F.mse_loss(projected.float(), normalised))
        return torch.stack(losses).mean()


def map_channels(network: SegmentationNetwork, where: object) -> tuple[int, ...]:
    """Return the channels of the maps of a network's encoder at strides 4, 8, 16 and 32.

    Args:
        network: The network.
        where: What it is called in a message.

    Raises:
        WeightsError: It is a baseline, whose encoder has no such maps.
    """
    channels: tuple[int, ...] | None = getattr(network.encoder, "channels", None)
    if channels is None:
        raise WeightsError(
            "its encoder does not yield the maps that `features` compares",
            where=where,
            fix="take a network of the `ued` family, or leave out `features`",
        )
    return channels


def check_teacher(path: Path, description: DatasetDescription, recipe: Recipe) -> ModelMeta:
    """Return what the weights of a teacher say of themselves, having checked that it can teach.

    Its classes have the names of the dataset's, in any order and case, unless its maps alone are
    learned; it sees as many bands.

    Args:
        path: A weights file of hrrsi, or a published checkpoint.
        description: The dataset whose classes are taught.
        recipe: What is learned of it.

    Raises:
        WeightsError: The file can't be used, or its network has other classes or bands.
        MissingInputError: There is no such file.
    """
    meta = read_meta(path)
    teacher_classes, dataset_classes = _folded(meta.classes), _folded(description.classes)
    absent_classes = [n for n in description.classes if n.casefold() not in teacher_classes]
    beyond = [n for n in meta.classes if n.casefold() not in dataset_classes]
    if recipe.distillation and (absent_classes or beyond):
        parts = [f"does not know {', '.join(absent_classes)}"] if absent_classes else []
        parts += [f"knows {', '.join(beyond)}, which the dataset does not have"] if beyond else []
        raise WeightsError(
            f"can't teach the dataset's classes: it {' and '.join(parts)}",
            where=path,
            fix="give weights of the same classes, in any order, or tile the dataset with the "
            "teacher's",
        )
    bands, patch_bands = meta.input_bands, description.input_bands
    has_other_count = len(bands.names) != len(patch_bands.names)
    if has_other_count or bands.has_height != patch_bands.has_height:
        raise WeightsError(
            f"sees {', '.join(bands.names)}, where the patches hold {', '.join(patch_bands.names)}",
            where=path,
            fix="give a teacher that sees as many bands, or tile the dataset with `bands`",
        )
    return meta


def teacher_warnings(
    paths: Sequence[Path], description: DatasetDescription, resolution: float | None
) -> list[str]:
    """Return what is odd about teachers, though they can teach a dataset, a line each.

    Args:
        paths: Files of weights.
        description: The dataset, or what several are as one.
        resolution: Metres per pixel at which its patches are seen, the middle where it is drawn
            for each; None where unknown.
    """
    lines = []
    for path in paths:
        meta = read_meta(path)
        difference = meta.input_bands.difference(description.input_bands)
        if difference is not None:
            saw, hold = (", ".join(names) for names in difference)
            lines.append(
                f"`teachers`: {path} saw {saw} where the patches hold {hold}, taken in this order"
            )
        trained = meta.resolutions or (meta.resolution and (meta.resolution, meta.resolution))
        if not trained or resolution is None:
            continue
        nearest = min(max(resolution, trained[0]), trained[1])
        if max(nearest / resolution, resolution / nearest) > _RESOLUTION_FACTOR:
            learned = meta.resolutions_text if meta.resolutions else length_text(nearest)
            lines.append(
                f"`teachers`: {path} learned from {learned} a pixel where the "
                f"patches are seen at about {length_text(resolution)}, so it may be wrong there"
            )
    return lines


def _folded(names: Sequence[str]) -> dict[str, int]:
    """Return the index of each class by its name in lower case."""
    return {name.casefold(): index for index, name in enumerate(names)}


def _gain_and_offset(
    meta: ModelMeta, description: DatasetDescription
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what makes bands normalised for the dataset those normalised for a teacher.

    Both count in shares of a scene's full brightness; heights in shares of a scale of each one's.
    """
    ratio = np.ones(len(meta.mean))
    if meta.height:
        ratio[-1] = description.scale / meta.scale
    std = np.asarray(meta.std)
    gain = ratio * np.asarray(description.std) / std
    offset = (ratio * np.asarray(description.mean) - np.asarray(meta.mean)) / std
    values = [torch.from_numpy(v.astype(np.float32)).reshape(1, -1, 1, 1) for v in (gain, offset)]
    return values[0], values[1]
