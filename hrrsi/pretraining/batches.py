"""The batches of a run, from either loader."""

from __future__ import annotations

from typing import Any

import torch

from hrrsi.pretraining.epoch_images import EpochImages, EpochShares
from hrrsi.pretraining.image_folders import ImageFolders
from hrrsi.pretraining.options import PretrainOptions


def training_batches(
    folders: ImageFolders,
    options: PretrainOptions,
    device: torch.device,
    *,
    rank: int = 0,
    processes: int = 1,
    epoch: int = 0,
    first: int = 0,
) -> Any:
    """Return an iterable of `ImageBatch` for each epoch: every image once, in a seeded order.

    Order, crops and flips depend on the seed, the epoch and the image alone, whichever loader,
    process or thread reads them.

    Args:
        folders: The images.
        options: Batch, sizes, seed, loader, workers.
        device: Where DALI decodes.
        rank: This process.
        processes: How many processes share each batch.
        epoch: The epoch to begin with.
        first: Batches of that epoch to leave out.

    Raises:
        HrrsiError: The loader is not installed.
    """
    split, recipe = folders.splits["train"], options.recipe
    images = EpochImages(split, recipe.size, options.seed)
    shares = EpochShares(
        len(split),
        recipe.batch,
        seed=options.seed,
        rank=rank,
        processes=processes,
        epoch=epoch,
        first=first,
    )
    return _batches(images, shares, options, device)


def validation_batches(
    folders: ImageFolders,
    options: PretrainOptions,
    device: torch.device,
    *,
    rank: int = 0,
    processes: int = 1,
) -> Any:
    """Return an iterable of `ImageBatch`: the centre of every validation image once.

    Args:
        folders: The images.
        options: Batch, sizes, loader, workers.
        device: Where DALI decodes.
        rank: This process.
        processes: How many processes share each batch; some may get empty ones.

    Raises:
        HrrsiError: The loader is not installed.
    """
    split, recipe = folders.splits["val"], options.recipe
    images = EpochImages(split, recipe.val_size, None)
    shares = EpochShares(len(split), recipe.batch, seed=None, rank=rank, processes=processes)
    return _batches(images, shares, options, device)


def _batches(
    images: EpochImages, shares: EpochShares, options: PretrainOptions, device: torch.device
) -> Any:
    # neither loader is imported for the other
    if options.loader == "dali":
        from hrrsi.pretraining.dali_batches import DaliBatches

        return DaliBatches(images, shares, workers=options.workers, device=device)
    from hrrsi.pretraining.torchvision_batches import torchvision_batches

    return torchvision_batches(images, shares, workers=options.workers)
