"""Batches of patches: read, augmented, and in an order that seed and epoch decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hrrsi.classes import IGNORE_INDEX
from hrrsi.progress import progress
from hrrsi.runs.task import EpochBatches, leave_signals_to_the_run
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.tiling.patch_files import read_image, read_label
from hrrsi.training.augmentation import Augmentation, CameraChanges
from hrrsi.training.options import TrainOptions

Batch = tuple[torch.Tensor, ...]

# An item that is no patch: it fills up the share of a process, and no score counts it.
_BLANK = -1


def training_batches(
    dataset: TiledDataset,
    options: TrainOptions,
    *,
    rank: int = 0,
    processes: int = 1,
    epoch: int = 0,
    first: int = 0,
    quiet: bool = True,
) -> EpochBatches:
    """Return augmented batches of the training split, in epochs.

    A batch is image (N, bands, crop, crop), channels last, in the patches' type; label
    (N, crop, crop) uint8; and index (N,) int64 of each patch in ``dataset.patches("train")``.

    Args:
        dataset: A tiled dataset.
        options: Batch, seed, augmentation, sampling, workers.
        rank: This process.
        processes: How many processes share each batch.
        epoch: The epoch to begin with.
        first: Batches of that epoch to leave out.
        quiet: No progress bar where labels have to be read first (sampling ``rare``).
    """
    data = TrainingPatches(dataset, options)
    rare = options.recipe.sampling == "rare" and not options.overfit
    weights = None
    if rare:
        weights = patch_weights(dataset, taught=bool(options.teachers), quiet=quiet)
    order = EpochOrder(len(data), options.seed, weights, epoch)
    batches = ProcessBatches(
        order, options.recipe.batch, rank=rank, processes=processes, first=first
    )
    loader = DataLoader(data, batch_sampler=batches, **_loading(options.workers))
    return EpochBatches(loader, batches.images, order)


def validation_batches(
    dataset: TiledDataset, options: TrainOptions, *, rank: int = 0, processes: int = 1
) -> EpochBatches:
    """Return (image, label) batches of the validation split.

    Every patch is in one batch of one process. All processes have equally many: the last ones
    are filled up with patches whose labels are all ignored.

    Args:
        dataset: A tiled dataset.
        options: Batch, workers; to overfit, the patches are those trained on.
        rank: This process.
        processes: How many processes share the patches.
    """
    data = PlainPatches(dataset, "train" if options.overfit else "val", options.overfit)
    mine = list(range(rank, len(data), processes))
    mine += [_BLANK] * (-(-len(data) // processes) - len(mine))
    share = max(1, options.recipe.batch // processes)
    loader = DataLoader(data, sampler=mine, batch_size=share, **_loading(options.workers))
    return EpochBatches(loader, len(data))


class TrainingPatches(Dataset[Batch]):
    """Augmented patches of the training split.

    Args:
        dataset: A tiled dataset.
        options: Augmentation, seed, and how many patches to overfit.
    """

    def __init__(self, dataset: TiledDataset, options: TrainOptions) -> None:
        self._patches = dataset.patches("train")[: options.overfit or None]
        self._description = dataset.description
        recipe = options.recipe
        description = dataset.description
        self._augmentation = (
            Augmentation("none", description.patch_size)  # by heart: patches as they are
            if options.overfit
            else Augmentation(recipe.augmentation, description.patch_size, recipe.crop)
        )
        self._camera = CameraChanges(
            () if options.overfit else recipe.camera_changes,
            description.scale,
            has_height=description.height is not None,
        )
        self._seed = options.seed

    def __len__(self) -> int:
        return len(self._patches)

    def __getitem__(self, draw: Draw) -> Batch:
        """Return image (crop, crop, bands), label (crop, crop) uint8, and the patch's index."""
        patch = self._patches[draw.patch]
        image, label = read_image(patch, self._description), read_label(patch, self._description)
        seed = self._seed_of(draw)
        image, label = self._augmentation(image.transpose(1, 2, 0), label, seed)
        image = self._camera(image, label, seed)
        return (
            torch.from_numpy(np.ascontiguousarray(image)),
            torch.from_numpy(np.ascontiguousarray(label)),
            torch.tensor(draw.patch),
        )

    def camera_changes(self, draw: Draw) -> list[str]:
        """Return which changes of the camera a patch gets, in their order."""
        return self._camera.names(self._seed_of(draw))

    def _seed_of(self, draw: Draw) -> int:
        source = (self._seed, draw.epoch, draw.patch) + ((draw.repeat,) if draw.repeat else ())
        return int(np.random.SeedSequence(source).generate_state(1)[0])


class PlainPatches(Dataset[Batch]):
    """Patches of a split as they are; index -1 is a patch without any label.

    Args:
        dataset: A tiled dataset.
        split: ``train``, ``val`` or ``test``.
        first: Only this many patches; 0: all.
    """

    def __init__(self, dataset: TiledDataset, split: str, first: int = 0) -> None:
        self._patches = dataset.patches(split)[: first or None]
        self._description = dataset.description

    def __len__(self) -> int:
        return len(self._patches)

    def __getitem__(self, index: int) -> Batch:
        """Return image (size, size, bands), and label (size, size) uint8."""
        size = self._description.patch_size
        if index == _BLANK:
            bands = len(self._description.band_names)
            blank = np.zeros((size, size, bands), dtype=self._description.patch_dtype)
            return torch.from_numpy(blank), torch.full(
                (size, size), IGNORE_INDEX, dtype=torch.uint8
            )
        patch = self._patches[index]
        image = read_image(patch, self._description).transpose(1, 2, 0)
        label = read_label(patch, self._description)
        return torch.from_numpy(np.ascontiguousarray(image)), torch.from_numpy(label)


class Draw(NamedTuple):
    """A patch of an epoch; all that decides its augmentation, whichever process reads it.

    Attributes:
        epoch: The epoch, from 0.
        patch: The patch.
        repeat: How often the epoch had this patch before.
    """

    epoch: int
    patch: int
    repeat: int


class EpochOrder:
    """The order in which an epoch sees the patches.

    Args:
        patches: Number of patches; an epoch has as many draws.
        seed: Decides the order, with the epoch.
        weights: (patches,) probability of each with every draw; None: each once.
        epoch: The epoch to begin with.
    """

    def __init__(
        self,
        patches: int,
        seed: int,
        weights: npt.NDArray[np.float64] | None = None,
        epoch: int = 0,
    ) -> None:
        self.patches = patches
        self.epoch = epoch
        self._seed = seed
        self._weights = weights

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch."""
        self.epoch = epoch

    def draws(self) -> list[Draw]:
        """Return the patches of the epoch in their order."""
        random = np.random.default_rng((self._seed, self.epoch))
        if self._weights is None:
            order = random.permutation(self.patches)
        else:
            order = random.choice(self.patches, self.patches, p=self._weights)
        seen: Counter[int] = Counter()
        draws = []
        for index in map(int, order):
            draws.append(Draw(self.epoch, index, seen[index]))
            seen[index] += 1
        return draws


class ProcessBatches(Sampler[list[Draw]]):
    """A process' share of each batch; all processes together see what one alone would.

    A last batch that is not full is left out, unless it is the only one: BatchNorm can't
    estimate its statistics from a single small map.

    Args:
        sampler: The order of the epochs.
        batch: Patches of a step, over all processes.
        rank: This process.
        processes: How many share a batch; they divide it.
        first: Batches of the first epoch that were trained on before.
    """

    def __init__(
        self, sampler: EpochOrder, batch: int, *, rank: int = 0, processes: int = 1, first: int = 0
    ) -> None:
        self.sampler = sampler
        self._batch = min(batch, sampler.patches)
        self._share = self._batch // processes
        self._rank = rank
        self._resumed = (sampler.epoch, first)

    def __len__(self) -> int:
        return self.sampler.patches // self._batch

    @property
    def images(self) -> int:
        """Patches of an epoch, over all processes."""
        return len(self) * self._batch

    def __iter__(self) -> Iterator[list[Draw]]:
        draws = self.sampler.draws()
        epoch, first = self._resumed
        for number in range(first if self.sampler.epoch == epoch else 0, len(self)):
            start = number * self._batch + self._rank * self._share
            yield draws[start : start + self._share]


def patch_weights(
    dataset: TiledDataset, *, taught: bool = False, quiet: bool = True
) -> npt.NDArray[np.float64]:
    """Return the probability of each training patch under the sampling ``rare``.

    A pixel of a class weighs one over the square root of the class' frequency (of a partial label,
    the mean of its classes), and a patch the mean over its labelled pixels: patches of rare classes
    come more often, none never (the square root as in the sampling of Mahajan et al. 2018,
    "Exploring the Limits of Weakly Supervised Pretraining", section 2.2). Where no patch has a
    label, all are alike.

    Args:
        dataset: A tiled dataset; its training labels are read once, by each process, since
            processes can't tell each other anything before the training starts.
        taught: Whether teachers say what patches without a label show: such a patch is as probable
            as the mean of the others.
        quiet: No progress bar.

    Returns:
        (patches,) in the order of ``dataset.patches("train")``; they add up to 1.

    Raises:
        HrrsiError: A label can't be read.
    """
    description = dataset.description
    patches = dataset.patches("train")
    if description.is_unlabelled:
        return np.full(len(patches), 1 / len(patches))
    frequencies = np.asarray(description.class_frequencies, dtype=np.float64)
    worth = 1 / np.sqrt(np.maximum(frequencies, frequencies[frequencies > 0].min()))
    worth = np.array([worth[classes].mean() for classes in description.candidates])
    weights = []
    with progress("counting classes", len(patches), " patches", enabled=not quiet) as bar:
        for patch in patches:
            label = read_label(patch, description)
            counts = np.bincount(label[label != IGNORE_INDEX], minlength=len(worth))
            weights.append(float(counts @ worth) / max(1, int(counts.sum())))
            bar.update()
    # a patch without any label teaches nothing, but "never" is no probability to resume with
    if taught:
        raised = np.where(weights, weights, np.mean([w for w in weights if w]))
    else:
        raised = np.maximum(weights, 1e-3 * max(weights))
    probabilities: npt.NDArray[np.float64] = raised / raised.sum()
    return probabilities


def _loading(workers: int) -> dict[str, Any]:
    return {
        "num_workers": workers,
        "collate_fn": _collated,
        "worker_init_fn": _settle_worker,
        "persistent_workers": workers > 0,
        "pin_memory": torch.cuda.is_available(),
        # Loading must not draw from the generator that dropout draws from: a resumed run would
        # draw once more.
        "generator": torch.Generator(),
    }


def _collated(items: list[Batch]) -> Batch:
    """Return a batch; its images are (N, bands, H, W) as views of (N, H, W, bands)."""
    image, *rest = (torch.stack(parts) for parts in zip(*items, strict=True))
    return (image.permute(0, 3, 1, 2), *rest)


def _settle_worker(_worker: int) -> None:
    import cv2  # comes with imgaug; its thread pool would fight the other workers

    cv2.setNumThreads(0)
    leave_signals_to_the_run()
