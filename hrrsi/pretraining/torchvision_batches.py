"""Batches decoded by Pillow and transformed by torchvision, in processes of PyTorch's loader."""

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
)
from hrrsi.pretraining.image_files import CorruptImage, decoded_image
from hrrsi.pretraining.views import View
from hrrsi.training.loading_processes import leave_signals_to_the_run


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
            found = self._images.encoded(share.epoch, index)
            if isinstance(found, EncodedImage):
                try:
                    image = decoded_image(found.content)
                    pixels.append(np.asarray(seen_part(image, found.view, size)))
                    seen.append(found)
                except CorruptImage as reason:
                    skipped.append(Corrupt(index, str(reason)))
            else:
                skipped.append(found)
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


def torchvision_batches(images: EpochImages, shares: EpochShares, *, workers: int) -> Any:
    """Return a DataLoader of `ImageBatch`.

    Args:
        images: Reads the images.
        shares: Their order.
        workers: Processes that read and decode; 0: this one.
    """
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
