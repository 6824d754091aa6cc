"""Batches of patches: read, augmented, and in an order that seed and epoch decide."""

from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hrrsi.tiling.dataset import TiledDataset
from hrrsi.tiling.patch_reading import read_image, read_label
from hrrsi.training.augmentation import PublishedAugmentation

Batch = tuple[torch.Tensor, torch.Tensor]


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index) pairs in a new random order each epoch.

    The epoch travels with the index, so that augmentation can depend on it in any process.

    Args:
        data: What is sampled.
        seed: Decides the order, with the epoch.
        first_epoch: The epoch to begin with. Loading starts before Lightning calls `set_epoch`.
    """

    def __init__(self, data: Sized, seed: int, first_epoch: int = 0) -> None:
        self._length = len(data)
        self._seed = seed
        self._epoch = first_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields (Lightning calls this)."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self._seed, self._epoch)).permutation(self._length)
        return iter([(self._epoch, int(i)) for i in order])


class TrainingPatches(Dataset[Batch]):
    """Augmented patches of the training split.

    Args:
        dataset: A tiled dataset.
        seed: Decides the augmentation, with epoch and index.
    """

    def __init__(self, dataset: TiledDataset, seed: int) -> None:
        self._patches = dataset.patches("train")
        self._description = dataset.description
        self._augmentation = PublishedAugmentation(dataset.description.patch_size)
        self._seed = seed

    def __len__(self) -> int:
        return len(self._patches)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        """Return image (bands, size, size), in the patch's values, and label (size, size) uint8."""
        epoch, index = key
        patch = self._patches[index]
        image, label = read_image(patch, self._description), read_label(patch, self._description)
        seed = int(np.random.SeedSequence((self._seed, epoch, index)).generate_state(1)[0])
        image, label = self._augmentation(image.transpose(1, 2, 0), label, seed)
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), torch.from_numpy(
            label
        )


class PlainPatches(Dataset[Batch]):
    """Patches of a split as they are.

    Args:
        dataset: A tiled dataset.
        split: ``train``, ``val`` or ``test``.
    """

    def __init__(self, dataset: TiledDataset, split: str) -> None:
        self._patches = dataset.patches(split)
        self._description = dataset.description

    def __len__(self) -> int:
        return len(self._patches)

    def __getitem__(self, index: int) -> Batch:
        """Return image (bands, size, size), in the patch's values, and label (size, size) uint8."""
        patch = self._patches[index]
        image, label = read_image(patch, self._description), read_label(patch, self._description)
        return torch.from_numpy(image), torch.from_numpy(label)


def training_batches(
    dataset: TiledDataset, *, batch: int, workers: int, seed: int, first_epoch: int = 0
) -> Any:
    """Return a DataLoader of augmented (image, label) batches of the training split.

    A last batch that is not full is left out, unless it is the only one: BatchNorm can't
    estimate its statistics from a single small map.
    """
    data = TrainingPatches(dataset, seed)
    return DataLoader(
        data,
        batch_size=batch,
        sampler=EpochSampler(data, seed, first_epoch),
        drop_last=len(data) >= batch,
        **_loading(workers),
    )


def validation_batches(dataset: TiledDataset, *, batch: int, workers: int) -> Any:
    """Return a DataLoader of (image, label) batches of the validation split."""
    return DataLoader(PlainPatches(dataset, "val"), batch_size=batch, **_loading(workers))


def _loading(workers: int) -> dict[str, Any]:
    return {
        "num_workers": workers,
        "worker_init_fn": _use_one_thread,
        "persistent_workers": workers > 0,
        "pin_memory": torch.cuda.is_available(),
    }


def _use_one_thread(_worker: int) -> None:
    import cv2  # comes with imgaug; its thread pool would fight the other workers

    cv2.setNumThreads(0)
