"""The images of an epoch in their order, as every loader is to show them to the network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Sampler

from hrrsi.errors import InputError
from hrrsi.files import require_regular
from hrrsi.pretraining.images import CorruptImage, ImageSplit, image_header

# Szegedy et al. 2015, "Going Deeper with Convolutions", section 6: crops of 8 to 100 % of the
# area, of an aspect ratio between 3/4 and 4/3.
_SHARES = (0.08, 1.0)
_LOG_RATIOS = (math.log(3 / 4), math.log(4 / 3))
_ATTEMPTS = 10
# Validation keeps the centre of an image: 224 of 256 px, or 256 of 293.
_CENTRE = 224 / 256
_LONGEST = 16


class View(NamedTuple):
    """A part of an image, and what becomes of it.

    Attributes:
        left: Its first column in the image.
        top: Its first row.
        width: Its columns.
        height: Its rows.
        columns: Columns that it is resized to (bilinear, antialiased).
        rows: Rows that it is resized to.
        skipped_columns: Columns of that before those that are seen.
        skipped_rows: Rows of that before those that are seen.
        mirrored: Whether left and right are swapped at last.
    """

    left: int
    top: int
    width: int
    height: int
    columns: int
    rows: int
    skipped_columns: int
    skipped_rows: int
    mirrored: bool


def training_view(width: int, height: int, size: int, seed: tuple[int, ...]) -> View:
    """Return a random resized crop, mirrored half of the time.

    Args:
        width: Columns of the image.
        height: Rows of the image.
        size: Rows and columns that the network sees.
        seed: All that decides the crop.
    """
    random = np.random.default_rng(seed)
    mirrored = bool(random.random() < 0.5)
    for share, log_ratio in zip(
        random.uniform(*_SHARES, _ATTEMPTS), random.uniform(*_LOG_RATIOS, _ATTEMPTS), strict=True
    ):
        area, ratio = share * width * height, math.exp(log_ratio)
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            left = int(random.integers(width - columns + 1))
            top = int(random.integers(height - rows + 1))
            return View(left, top, columns, rows, size, size, 0, 0, mirrored)
    # an image too long or too high for any crop: as much of its centre as the ratios allow
    columns = max(1, min(width, round(height * math.exp(_LOG_RATIOS[1]))))
    rows = max(1, min(height, round(width / math.exp(_LOG_RATIOS[0]))))
    left, top = (width - columns) // 2, (height - rows) // 2
    return View(left, top, columns, rows, size, size, 0, 0, mirrored)


def validation_view(width: int, height: int, size: int) -> View:
    """Return the centre of an image: its short side is resized to ``size * 256 / 224``.

    Args:
        width: Columns of the image.
        height: Rows of the image.
        size: Rows and columns that the network sees.
    """
    # the ends of a very long image, which nobody sees, could take more memory than there is
    longest = _LONGEST * min(width, height)
    seen_width, seen_height = min(width, longest), min(height, longest)
    short = round(size / _CENTRE)
    columns = short * seen_width // min(seen_width, seen_height)
    rows = short * seen_height // min(seen_width, seen_height)
    return View(
        (width - seen_width) // 2,
        (height - seen_height) // 2,
        seen_width,
        seen_height,
        columns,
        rows,
        round((columns - size) / 2),
        round((rows - size) / 2),
        False,
    )


class Share(NamedTuple):
    """The images of a batch that fall to one process.

    Attributes:
        epoch: The epoch, from 0.
        indices: (images,) int64, of images of the split.
    """

    epoch: int
    indices: npt.NDArray[np.int64]


class Corrupt(NamedTuple):
    """An image that was skipped.

    Attributes:
        image: The image, as its index in the split.
        reason: What is wrong with it.
    """

    image: int
    reason: str


class ImageBatch(NamedTuple):
    """A batch as every loader yields it.

    Attributes:
        images: (N, 3, size, size) uint8, red, green, blue; channels last in memory.
        labels: (N,) int64.
        indices: (N,) int64, of the images in the split.
        skipped: Images of this batch that could not be read; N is less by them.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    skipped: list[Corrupt]


class EncodedImage(NamedTuple):
    """An image file, and what the network is to see of it.

    Attributes:
        image: The image, as its index in the split.
        content: The file.
        view: The part that is seen.
        plain: Whether it is a JPEG that every decoder reads alike.
    """

    image: int
    content: bytes
    view: View
    plain: bool


class EpochShares(Sampler[Share]):
    """A process' share of each batch of an epoch.

    Each image is in one batch of one process, and there is no small batch at the end: batches
    differ by one image at most, and so do the shares of the processes. Every process has as many
    batches; a share may be empty where there are fewer images than processes.

    Args:
        images: Images of the split.
        batch: Images of a batch at most, over all processes.
        seed: Decides the order, with the epoch; None: the order of the split.
        rank: This process.
        processes: How many share each batch.
        epoch: The epoch to begin with.
        first: Batches of that epoch to leave out.
    """

    def __init__(
        self,
        images: int,
        batch: int,
        *,
        seed: int | None,
        rank: int = 0,
        processes: int = 1,
        epoch: int = 0,
        first: int = 0,
    ) -> None:
        self._images = images
        self._batches = math.ceil(images / batch)
        self._seed = seed
        self._rank = rank
        self._processes = processes
        self._epoch = epoch
        self._resumed = (epoch, first)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._batches

    @property
    def images(self) -> int:
        """Images of an epoch, over all processes."""
        return self._images

    @property
    def largest(self) -> int:
        """The most images that a share has."""
        batch = math.ceil(self._images / self._batches)
        return math.ceil(batch / self._processes)

    def __iter__(self) -> Iterator[Share]:
        epoch = self._epoch
        order: npt.NDArray[np.int64] = np.arange(self._images)
        if self._seed is not None:
            order = np.random.default_rng((self._seed, epoch)).permutation(self._images)
        resumed, first = self._resumed
        batches = np.array_split(order, self._batches)
        for batch in batches[first if epoch == resumed else 0 :]:
            yield Share(epoch, np.array_split(batch, self._processes)[self._rank])


class EpochImages:
    """Reads the images of a split.

    Args:
        split: The images.
        size: Rows and columns that the network sees.
        seed: Decides the random crops, with epoch and image; None: the centre, as validation.

    Attributes:
        size: Rows and columns that the network sees.
    """

    def __init__(self, split: ImageSplit, size: int, seed: int | None) -> None:
        self.size = size
        self._split = split
        self._seed = seed

    def __len__(self) -> int:
        return len(self._split)

    def encoded(self, epoch: int, index: int) -> EncodedImage | Corrupt:
        """Return an image, or why it is none.

        Args:
            epoch: The epoch, from 0.
            index: The image.

        Raises:
            HrrsiError: The file can't be read at all, which is the disk's fault, not its, or it
                is a pipe or a device.
        """
        path = self._split.path(index)
        require_regular(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(
                f"cannot be read ({error.strerror})", where=path, fix="check the disk it is on"
            ) from error
        try:
            width, height, plain = image_header(content)
        except CorruptImage as reason:
            return Corrupt(index, str(reason))
        if self._seed is None:
            view = validation_view(width, height, self.size)
        else:
            view = training_view(width, height, self.size, (self._seed, epoch, index))
        return EncodedImage(index, content, view, plain)

    def batch(
        self, images: torch.Tensor, encoded_images: list[EncodedImage], skipped: list[Corrupt]
    ) -> ImageBatch:
        """Return a batch of decoded images.

        Args:
            images: (N, size, size, 3) uint8.
            encoded_images: What the images are, likewise.
            skipped: What could not be read.
        """
        indices = np.array([encoded.image for encoded in encoded_images], dtype=np.int64)
        return ImageBatch(
            images.permute(0, 3, 1, 2),
            torch.from_numpy(self._split.labels[indices]),
            torch.from_numpy(indices),
            skipped,
        )
