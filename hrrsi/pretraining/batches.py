"""The batches of a run, from either loader; torchvision's decodes with Pillow in processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from hrrsi.pretraining.epoch_images import (
    Corrupt,
    EncodedImage,
    EpochImages,
    EpochShares,
    ImageBatch,
    Share,
    View,
)
from hrrsi.pretraining.images import CorruptImage, ImageFolders, decoded_image
from hrrsi.pretraining.options import PretrainOptions
from hrrsi.runs.task import EpochBatches, leave_signals_to_the_run


def training_batches(
    folders: ImageFolders,
    options: PretrainOptions,
    device: torch.device,
    *,
    rank: int = 0,
    processes: int = 1,
    epoch: int = 0,
    first: int = 0,
) -> EpochBatches:
    """Return batches (`ImageBatch`) in epochs: every image once, in a seeded order.

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
) -> EpochBatches:
    """Return batches (`ImageBatch`): the centre of every validation image once.

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


class TorchvisionImages(Dataset[ImageBatch]):
    """Whole batches of images.

    Args:
        images: Reads the images.
    """

    def __init__(self, images: EpochImages) -> None:
        self._images = images

    def __getitem__(self, share: Share) -> ImageBatch:
        """Return the batch of a share."""
        seen: list[EncodedImage] = []
        pixels: list[npt.NDArray[np.uint8]] = []
        skipped: list[Corrupt] = []
        size = self._images.size
        for index in map(int, share.indices):
            encoded = self._images.encoded(share.epoch, index)
            if isinstance(encoded, EncodedImage):
                try:
                    image = decoded_image(encoded.content)
                    pixels.append(np.asarray(seen_part(image, encoded.view, size)))
                    seen.append(encoded)
                except CorruptImage as reason:
                    skipped.append(Corrupt(index, str(reason)))
            else:
                skipped.append(encoded)
        stacked = np.stack(pixels) if pixels else np.empty((0, size, size, 3), np.uint8)
        return self._images.batch(torch.from_numpy(stacked), seen, skipped)


def seen_part(image: Image.Image, view: View, size: int) -> Image.Image:
    """Return what a view shows of an image, of `size` rows and columns."""
    image = transforms.resized_crop(
        image,
        view.top,
        view.left,
        view.height,
        view.width,
        [view.rows, view.columns],
        interpolation=InterpolationMode.BILINEAR,
        antialias=True,
    )
    if (view.rows, view.columns) != (size, size):
        image = transforms.crop(image, view.skipped_rows, view.skipped_columns, size, size)
    return transforms.horizontal_flip(image) if view.mirrored else image


def _batches(
    images: EpochImages, shares: EpochShares, options: PretrainOptions, device: torch.device
) -> EpochBatches:
    # neither loader is imported for the other
    if options.loader == "dali":
        from hrrsi.pretraining.dali_batches import DaliBatches

        loader: Any = DaliBatches(images, shares, workers=options.workers, device=device)
    else:
        loader = _torchvision_loader(images, shares, options.workers)
    return EpochBatches(loader, shares.images, shares)


def _torchvision_loader(images: EpochImages, shares: EpochShares, workers: int) -> Any:
    return DataLoader(
        TorchvisionImages(images),
        sampler=shares,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=leave_signals_to_the_run,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # dropout's own stays as a checkpoint left it
    )
