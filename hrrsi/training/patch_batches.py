"""Batches of patches: read and augmented, in an order that seed and epoch decide.

The processes of a run share that order among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from hrrsi.classes import IGNORE_INDEX
from hrrsi.progress import progress
from hrrsi.runs.task import EpochBatches, leave_signals_to_the_run
from hrrsi.tiling.dataset import Patch, TiledDataset
from hrrsi.training.augmentation import (
    Augmentation,
    CameraChanges,
    scaled_crop,
)
from hrrsi.training.network_input import input_resolutions, input_size, size_at_nearest
from hrrsi.training.options import TrainOptions
from hrrsi.training.run_data import RunData, as_run_data

Batch = tuple[torch.Tensor, ...]


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
        patches: Number of patches; an epoch has as many draws, where `parts` doesn't say it.
        seed: Decides the order, with the epoch.
        weights: (patches,) probability of each with every draw; None: each once.
        epoch: The epoch to begin with.
        parts: Number of patches of each part of them, one after the other, and of draws among
            these: all come equally often, to one, or by `weights`. None: all are one part.

    Attributes:
        length: Draws of an epoch.
        epoch: The epoch.
    """

    def __init__(
        self,
        patches: int,
        seed: int,
        weights: npt.NDArray[np.float64] | None = None,
        epoch: int = 0,
        parts: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.length = patches if parts is None else sum(count for _, count in parts)
        self.epoch = epoch
        self._patches = patches
        self._seed = seed
        self._weights = weights
        self._parts = parts

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch."""
        self.epoch = epoch

    def draws(self) -> list[Draw]:
        """Return the patches of the epoch in their order."""
        random = np.random.default_rng((self._seed, self.epoch))
        if self._parts is not None:
            order = self._mixed_order(random)
        elif self._weights is None:
            order = random.permutation(self._patches)
        else:
            order = random.choice(self._patches, self._patches, p=self._weights)
        times: Counter[int] = Counter()
        draws = []
        for index in map(int, order):
            draws.append(Draw(self.epoch, index, times[index]))
            times[index] += 1
        return draws

    def _mixed_order(self, random: np.random.Generator) -> npt.NDArray[np.int64]:
        first, drawn = 0, []
        for patches, count in self._parts or ():
            if self._weights is None:
                rounds = -(-count // patches) if patches else 0
                order = [random.permutation(patches) for _ in range(rounds)]
                chosen = np.concatenate([*order, np.zeros(0, dtype=np.int64)])[:count]
            elif not count:
                chosen = np.zeros(0, dtype=np.int64)
            else:
                weights = self._weights[first : first + patches]
                chosen = random.choice(patches, count, p=weights / weights.sum())
            drawn.append(first + chosen)
            first += patches
        return random.permutation(np.concatenate(drawn))


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
        self._batch = min(batch, sampler.length)
        self._share = self._batch // processes
        self._rank = rank
        self._resumed = (sampler.epoch, first)

    def __len__(self) -> int:
        return self.sampler.length // self._batch

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


def training_batches(
    dataset: TiledDataset | RunData,
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
    (N, crop, crop) uint8; and index (N,) int64 of each patch in ``dataset.patches("train")`` (to
    overfit, in those that are trained on).

    Args:
        dataset: A tiled dataset, or several as one.
        options: Batch, seed, augmentation, sampling, workers.
        rank: This process.
        processes: How many processes share each batch.
        epoch: The epoch to begin with.
        first: Batches of that epoch to leave out.
        quiet: No progress bar where labels have to be read first (sampling ``rare``).
    """
    whole = as_run_data(dataset)
    data = TrainingPatches(whole, options)
    rare = options.recipe.sampling == "rare" and not options.overfit
    weights = None
    if rare:
        weights = patch_weights(whole, taught=bool(options.teachers), quiet=quiet)
    parts = None if options.overfit else whole.draws(weighted=rare)
    order = EpochOrder(len(data), options.seed, weights, epoch, parts)
    batches = ProcessBatches(
        order, options.recipe.batch, rank=rank, processes=processes, first=first
    )
    loader = DataLoader(data, batch_sampler=batches, **_loading(options.workers))
    return EpochBatches(loader, batches.images, order)


def validation_batches(
    dataset: TiledDataset | RunData, options: TrainOptions, *, rank: int = 0, processes: int = 1
) -> EpochBatches:
    """Return (image, label) batches of the validation split, as the patches are.

    Patches whose ground resolution is outside of those trained at (``recipe.resolutions``) are read
    at the nearest of these, as `hrrsi.predict` does. Every patch is in one batch of one process.
    All processes have equally many: the last ones are filled up with patches whose labels are all
    ignored. Of several datasets, a batch has patches of one, and that one's number (N,) int64
    beside them.

    Args:
        dataset: A tiled dataset, or several as one.
        options: Batch, workers; to overfit, the patches are those trained on.
        rank: This process.
        processes: How many processes share the patches.
    """
    data = validation_patches(dataset, options)
    share = max(1, options.recipe.batch // processes)
    batches: list[list[int]] = []
    for source, indices in enumerate(data.indices):
        part = indices[rank::processes]
        part += [blank_index(source)] * (-(-len(indices) // processes) - len(part))
        batches += [part[start : start + share] for start in range(0, len(part), share)]
    loader = DataLoader(data, batch_sampler=batches, **_loading(options.workers))
    return EpochBatches(loader, len(data))


def validation_patches(dataset: TiledDataset | RunData, options: TrainOptions) -> PlainPatches:
    """Return the patches that are validated on, as `validation_batches` sees them."""
    if options.overfit:
        return PlainPatches(dataset, "train", options.overfit)
    return PlainPatches(dataset, "val", resolutions=options.recipe.resolutions)


class TrainingPatches(Dataset[Batch]):
    """Augmented patches of the training split.

    Args:
        dataset: A tiled dataset, or several as one.
        options: Augmentation, seed, and how many patches to overfit.
    """

    def __init__(self, dataset: TiledDataset | RunData, options: TrainOptions) -> None:
        self._data = as_run_data(dataset)
        self._patches = self._data.patches("train", options.overfit)
        self._views = input_resolutions(self._data, options)
        self._crop = input_size(self._data, options)
        name = "none" if options.overfit else options.recipe.augmentation  # by heart: as they are
        self._augmentations = [
            Augmentation(name, self._crop, scales=view is None) for view in self._views
        ]
        description = self._data.description
        self._camera = CameraChanges(
            () if options.overfit else options.recipe.camera_changes,
            description.scale,
            has_height=description.height is not None,
        )
        self._seed = options.seed

    def __len__(self) -> int:
        return len(self._patches)

    def __getitem__(self, draw: Draw) -> Batch:
        """Return image (crop, crop, bands), label (crop, crop) uint8, and the patch's index."""
        patch = self._patches[draw.patch]
        number = self._data.source_index(patch)
        source, view = self._data.sources[number], self._views[number]
        image, label = source.read(patch)
        image = image.transpose(1, 2, 0)
        seed = self._seed_of(draw)
        if view is not None and source.resolution is not None:
            random = np.random.default_rng(seed)
            scale = source.resolution / view.draw(random)
            image, label = scaled_crop(image, label, scale, self._crop, random)
        image, label = self._augmentations[number](image, label, seed)
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
    """Patches of a split as they are; a `blank_index` is a patch without any label.

    Args:
        dataset: A tiled dataset, or several as one.
        split: ``train``, ``val`` or ``test``.
        first: Only this many patches; 0: all.
        resolutions: The finest and the coarsest ground resolution that patches are read at, in
            metres per pixel; None: each at its own.

    Attributes:
        indices: Those of each dataset's patches.
    """

    def __init__(
        self,
        dataset: TiledDataset | RunData,
        split: str,
        first: int = 0,
        resolutions: tuple[float, float] | None = None,
    ) -> None:
        self._data = as_run_data(dataset)
        self._patches = self._data.patches(split, first)
        self.indices: list[list[int]] = [[] for _ in self._data.sources]
        for index, patch in enumerate(self._patches):
            self.indices[self._data.source_index(patch)].append(index)
        self._sizes = [
            size_at_nearest(source.description, resolutions) for source in self._data.sources
        ]

    def __len__(self) -> int:
        return len(self._patches)

    def __getitem__(self, index: int) -> Batch:
        """Return image (size, size, bands) and label (size, size) uint8.

        Of several datasets, the number of the patch's dataset comes third.
        """
        if index < 0:
            source = -1 - index
            image, label = self._blank(source)
        else:
            patch = self._patches[index]
            source = self._data.source_index(patch)
            image, label = self.read(patch)
        pixels = torch.from_numpy(image), torch.from_numpy(label)
        return (*pixels, torch.tensor(source)) if self._data.is_mixed else pixels

    def read(self, patch: Patch) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        """Return image (size, size, bands) and label (size, size) of one of the patches.

        Raises:
            InputError: A file can't be read, or is not what the dataset says.
        """
        source = self._data.source_index(patch)
        image, label = self._data.sources[source].read(patch)
        image = np.ascontiguousarray(image.transpose(1, 2, 0))
        size = self._sizes[source]
        if size != len(label):
            random = np.random.default_rng(0)  # the whole patch lies nowhere else
            image, label = scaled_crop(image, label, size / len(label), size, random)
        return image, label

    def _blank(self, source: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        size = self._sizes[source]
        bands = len(self._data.description.band_names)
        image = np.zeros((size, size, bands), dtype=self._data.pixel_dtype)
        return image, np.full((size, size), IGNORE_INDEX, dtype=np.uint8)


def blank_index(source: int) -> int:
    """Return the index of an item that is no patch, with the size of a dataset's.

    It fills up the share of a process, and no score counts it.

    Args:
        source: Number of the dataset.
    """
    return -1 - source


def patch_weights(
    dataset: TiledDataset | RunData, *, taught: bool = False, quiet: bool = True
) -> npt.NDArray[np.float64]:
    """Return the probability of each training patch under the sampling ``rare``.

    A pixel of a class weighs one over the square root of the class' frequency (of a partial label,
    the mean of its classes), and a patch the mean over its labelled pixels: patches of rare classes
    come more often, none never (the square root as in the sampling of Mahajan et al. 2018,
    "Exploring the Limits of Weakly Supervised Pretraining", section 2.2). Where no patch has a
    label, all are alike.

    Args:
        dataset: A tiled dataset, or several as one; their training labels are read once, by each
            process, since processes can't tell each other anything before the training starts.
        taught: Whether teachers say what patches without a label show: such a patch is as probable
            as the mean of the others.
        quiet: No progress bar.

    Returns:
        (patches,) in the order of ``dataset.patches("train")``; they add up to 1.

    Raises:
        HrrsiError: A label can't be read.
    """
    data = as_run_data(dataset)
    description = data.description
    patches = data.patches("train")
    frequencies = np.asarray(description.class_frequencies, dtype=np.float64)
    if not frequencies.any():
        return np.full(len(patches), 1 / len(patches))
    worth = 1 / np.sqrt(np.maximum(frequencies, frequencies[frequencies > 0].min()))
    worth = np.array([worth[classes].mean() for classes in description.candidates])
    weights = []
    with progress("counting classes", len(patches), " patches", enabled=not quiet) as bar:
        for patch in patches:
            label = data.read_label(patch)
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
    if get_worker_info() is not None:
        # here a full /dev/shm is an error; where torch does it, a batch is lost without a word
        for tensor in (image, *rest):
            tensor.share_memory_()  # type: ignore[no-untyped-call]  # torch has no types for it
    return (image.permute(0, 3, 1, 2), *rest)


def _settle_worker(_worker: int) -> None:
    import cv2  # comes with imgaug; its thread pool would fight the other workers

    cv2.setNumThreads(0)
    leave_signals_to_the_run()
