"""What a run trains on: a tiled dataset or several presented as one, and what patches look like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hrrsi.scenes.likeness import (
    MOST_PATCHES,
    MOST_SQUARES,
    Likeness,
    patch_squares,
    square_numbers,
)
from hrrsi.tiling.dataset import DatasetDescription, Patch, TiledDataset, read_image, read_label
from hrrsi.training.dataset_union import DatasetUnion, band_gains
from hrrsi.training.options import TrainOptions

_MISSING_SHARE = 0.02


@dataclass(frozen=True)
class Source:
    """One of the datasets of a run.

    Attributes:
        name: What it is called in records, different from the other ones'.
        dataset: The dataset.
        share: Its share of the patches drawn, 0 to 1.
        labels: (256,) uint8, the run's index of each of its label indices; None: its own.
        gains: (bands, 1, 1) float32, what its values are multiplied by to be on the run's scale;
            None: they stay in their type, as those of all others do.
    """

    name: str
    dataset: TiledDataset
    share: float = 1.0
    labels: npt.NDArray[np.uint8] | None = None
    gains: npt.NDArray[np.float32] | None = None

    @property
    def description(self) -> DatasetDescription:
        """What its ``dataset.yaml`` says."""
        return self.dataset.description

    @property
    def resolution(self) -> float | None:
        """Metres per pixel of its patches, or None where that is unknown."""
        return self.description.metres_per_pixel

    def read(self, patch: Patch) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        """Return image (bands, size, size) and label (size, size) of a patch, as the run has them.

        Raises:
            InputError: A file can't be read, or is not what the dataset says.
        """
        image = read_image(patch, self.description)
        if self.gains is not None:
            image = image.astype(np.float32) * self.gains
        return image, self.read_label(patch)

    def read_label(self, patch: Patch) -> npt.NDArray[np.uint8]:
        """Return the label (size, size) of a patch, as the run has it.

        Raises:
            InputError: As `read`.
        """
        label = read_label(patch, self.description)
        return label if self.labels is None else self.labels[label]


class RunData:
    """The datasets of a run as one: its classes, statistics and patches.

    Of several datasets, classes are matched by name, whatever the case; they come in the order of
    their first appearance, with the name and the colour that they have there. Bands, type and
    scale of values are the first dataset's; means, deviations and frequencies of classes are
    those of the patches as they are drawn.

    Args:
        datasets: The datasets.
        mix: Shares of the patches drawn, in any unit; empty: as many as each dataset has.
        names: What records call each of several; empty: as its folder is called.

    Attributes:
        sources: The datasets, and how they are read.
        description: What ``dataset.yaml`` says of the only dataset, or would say of all of them.
        has_initial_statistics: Whether bands are normalised as for weights that a run starts from.

    Raises:
        InputError: They have other numbers of bands, heights in some only, or no class in common.
    """

    def __init__(
        self,
        datasets: Sequence[TiledDataset],
        mix: Sequence[float] = (),
        names: Sequence[str] = (),
    ) -> None:
        self.has_mix = bool(mix)
        self.has_initial_statistics = False
        if len(datasets) == 1:
            self.sources: tuple[Source, ...] = (Source(datasets[0].folder.name, datasets[0]),)
            self.description = datasets[0].description
            return
        union = DatasetUnion(datasets)
        sizes = [_train_patches(dataset) for dataset in datasets]
        weights = np.array(mix or sizes, dtype=np.float64)
        if not weights.sum():
            weights[:] = 1  # no patches at all: an error of its own
        shares = (weights / weights.sum()).tolist()
        names = names or distinct_names([dataset.folder for dataset in datasets])
        first = datasets[0].description
        is_same = len({(d.description.patch_dtype, d.description.scale) for d in datasets}) == 1
        self.sources = tuple(
            Source(
                name,
                dataset,
                share,
                union.table(dataset.description),
                None if is_same else band_gains(dataset.description, first)[:, None, None],
            )
            for name, dataset, share in zip(names, datasets, shares, strict=True)
        )
        parts = {source.name: source.description for source in self.sources}
        self.description = union.description(parts, shares)

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> RunData:
        """Return the same data, whose bands are normalised as for weights that the run starts from.

        Args:
            mean: Mean of each band, as `DatasetDescription.mean`.
            std: Standard deviation of each band, likewise.
        """
        other = copy(self)
        other.has_initial_statistics = True
        update = {"mean": list(mean), "std": list(std)}
        other.description = self.description.model_copy(update=update)
        return other

    @property
    def is_mixed(self) -> bool:
        """Whether there are several datasets."""
        return len(self.sources) > 1

    @property
    def place(self) -> str:
        """Where its datasets lie, for messages."""
        return ", ".join(str(source.dataset.folder) for source in self.sources)

    @property
    def folder(self) -> Path:
        """The folder of the only dataset, or of the first."""
        return self.sources[0].dataset.folder

    @property
    def pixel_dtype(self) -> str:
        """NumPy name of the type of images as they are read."""
        is_scaled = self.sources[0].gains is not None
        return "float32" if is_scaled else self.description.patch_dtype

    @property
    def smallest_patch(self) -> int:
        """Rows and columns of the smallest patches."""
        return min(source.description.patch_size for source in self.sources)

    @property
    def names(self) -> list[str]:
        """Names of the datasets."""
        return [source.name for source in self.sources]

    def patches(self, split: str, overfit: int = 0) -> list[Patch]:
        """Return the patches of a split, dataset by dataset, in the order of their names.

        Names of patches of several datasets begin with their dataset's.

        Args:
            split: ``train``, ``val`` or ``test``.
            overfit: Only this many, of all datasets in turn; 0: all.

        Raises:
            InputError: A dataset has no such patches, or files don't pair up.
        """
        lists = [self._source_patches(source, split) for source in self.sources]
        if not overfit:
            return [patch for patches in lists for patch in patches]
        if self.has_mix and split == "train":  # nothing is learned from what is not drawn from
            pairs = zip(lists, self.sources, strict=True)
            lists = [patches if source.share else [] for patches, source in pairs]
        counts = [0] * len(lists)
        for _ in range(min(overfit, sum(map(len, lists)))):
            open_lists = [i for i, patches in enumerate(lists) if counts[i] < len(patches)]
            counts[min(open_lists, key=lambda i: counts[i])] += 1
        return [p for count, patches in zip(counts, lists, strict=True) for p in patches[:count]]

    def source_index(self, patch: Patch) -> int:
        """Return the number of the dataset that a patch belongs to."""
        return self._index_of_folder[patch.image.parents[2]]

    def read(self, patch: Patch) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        """Return image (bands, size, size) and label (size, size) of a patch.

        Raises:
            InputError: A file can't be read, or is not what the dataset says.
        """
        return self.sources[self.source_index(patch)].read(patch)

    def read_label(self, patch: Patch) -> npt.NDArray[np.uint8]:
        """Return the label (size, size) of a patch.

        Raises:
            InputError: As `read`.
        """
        return self.sources[self.source_index(patch)].read_label(patch)

    def epoch_length(self, overfit: int = 0) -> int:
        """Return the draws of an epoch: patches to train on, or to overfit."""
        parts = None if overfit else self.draws()
        if parts is None:
            return len(self.patches("train", overfit))
        return sum(count for _, count in parts)

    def drawn_shares(self, overfit: int = 0) -> list[float]:
        """Return how much is drawn of each dataset: shares of an epoch's patches.

        Args:
            overfit: As for `patches`.
        """
        if not overfit:
            return [source.share for source in self.sources]
        numbers = [self.source_index(patch) for patch in self.patches("train", overfit)]
        return [numbers.count(index) / len(numbers) for index in range(len(self.sources))]

    def draws(self, *, weighted: bool = False) -> list[tuple[int, int]] | None:
        """Return patches to train on, and draws of them in an epoch, of each dataset.

        None where each patch is to be drawn once, or one dataset alone is drawn from. An epoch has
        as many draws as there are patches of datasets that are drawn from; shares are met to a
        draw.

        Args:
            weighted: Whether some patches of a dataset are drawn more often than others.
        """
        if not self.has_mix and not (weighted and self.is_mixed):
            return None
        sizes = [len(self._source_patches(source, "train")) for source in self.sources]
        total = sum(n for n, source in zip(sizes, self.sources, strict=True) if source.share)
        exact = [source.share * total for source in self.sources]
        counts = [math.floor(number) for number in exact]
        by_rest = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
        for index in by_rest[: total - sum(counts)]:
            counts[index] += 1
        return list(zip(sizes, counts, strict=True))

    @cached_property
    def _index_of_folder(self) -> dict[Path, int]:
        return {source.dataset.folder: i for i, source in enumerate(self.sources)}

    def _source_patches(self, source: Source, split: str) -> list[Patch]:
        content = source.description.split_content(split)
        if self.is_mixed and not (content and content.patches):
            is_left_out = self.has_mix and not source.share  # it is only validated on
            if is_left_out if split == "train" else source.description.is_unlabelled:
                return []
        patches = source.dataset.patches(split)
        if not self.is_mixed:
            return patches
        return [patch._replace(name=f"{source.name}/{patch.name}") for patch in patches]


def as_run_data(data: TiledDataset | RunData) -> RunData:
    """Return a dataset as what a run trains on, if it isn't that already."""
    return data if isinstance(data, RunData) else RunData([data])


def run_data(options: TrainOptions, names: Sequence[str] = ()) -> RunData:
    """Return what a run trains on.

    Args:
        options: Its datasets and their shares.
        names: As for `RunData`.

    Raises:
        InputError: A folder is no tiled dataset, or they don't go together.
    """
    return RunData([TiledDataset(folder) for folder in options.folders], options.mix, names)


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each of several folders: its own, after its parents' where they are alike.

    Args:
        folders: All different.
    """
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["-".join(part.strip("/\\") for part in own[-depth:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{names[i]}-{i + 1}" for i in range(len(names))]


def _train_patches(dataset: TiledDataset) -> int:
    content = dataset.description.split_content("train")
    return content.patches if content else 0


def training_likeness(datasets: Sequence[TiledDataset], first: int = 0) -> Likeness | None:
    """Return what the training patches of datasets look like, by at most 1000 squares of them.

    Each dataset has the same share of the patches, at most 500, drawn at random, but always alike.
    Squares of which more than 2 % are black in all bands count as missing data.

    Args:
        datasets: The datasets, of the same number of bands; at least one.
        first: Only so many patches of each; 0: all.

    Returns:
        None where there are too few (`Likeness.of_squares` says when).

    Raises:
        InputError: A patch can't be read.
    """
    numbers, scenes = [], []
    for index, dataset in enumerate(datasets):
        description = dataset.description
        patches = dataset.patches("train")[: first or None]
        windows = patch_squares(description.patch_size)
        most = min(MOST_PATCHES, MOST_SQUARES // len(windows))
        share = min(len(patches), most // len(datasets))
        drawn = np.random.default_rng(0).choice(len(patches), share, replace=False)
        for patch in (patches[number] for number in sorted(drawn)):
            image = read_image(patch, description)[: len(description.bands)]
            for row, col, height, width in windows:
                square = image[:, row : row + height, col : col + width]
                if (square == 0).all(axis=0).mean() <= _MISSING_SHARE:
                    numbers.append(square_numbers(square, description.scale))
                    scenes.append(f"{index}/{patch.scene}")
    return Likeness.of_squares(np.array(numbers), scenes)
