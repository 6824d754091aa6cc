"""The batches of a run, from either loader, whose order, crops and labels are one.

Torchvision's decodes with Pillow in processes; NVIDIA's DALI on a GPU or on processor threads, and
only the part of a JPEG that is seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import InterpolationMode, functional as transforms

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
from hrrsi.pretraining.options import PretrainOptions, imported_dali, require_dali
from hrrsi.runs.task import EpochBatches, leave_signals_to_the_run

_AHEAD = 2


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
        encoded_images: list[EncodedImage] = []
        pixels: list[npt.NDArray[np.uint8]] = []
        skipped: list[Corrupt] = []
        size = self._images.size
        for index in map(int, share.indices):
            encoded = self._images.encoded(share.epoch, index)
            if isinstance(encoded, EncodedImage):
                try:
                    image = decoded_image(encoded.content)
                    pixels.append(np.asarray(image_view(image, encoded.view, size)))
                    encoded_images.append(encoded)
                except CorruptImage as reason:
                    skipped.append(Corrupt(index, str(reason)))
            else:
                skipped.append(encoded)
        stacked = np.stack(pixels) if pixels else np.empty((0, size, size, 3), np.uint8)
        return self._images.batch(torch.from_numpy(stacked), encoded_images, skipped)


def image_view(image: Image.Image, view: View, size: int) -> Image.Image:
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
    if options.loader == "dali":
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


class DaliBatches:
    """Yields `ImageBatch` after `ImageBatch` of an epoch.

    Threads read files ahead, and one thread runs DALI's pipeline, which has threads of its own.
    Images that are no plain JPEGs reach DALI as pixels that Pillow decoded.

    Args:
        images: Reads the images.
        shares: Their order.
        workers: Threads that read, and as many that decode.
        device: Device that decodes and holds the batches.

    Raises:
        DependencyError: DALI is not installed.
    """

    def __init__(
        self, images: EpochImages, shares: EpochShares, *, workers: int, device: torch.device
    ) -> None:
        require_dali()
        self._shares = shares
        self._images = images
        self._workers = max(1, workers)
        self._device = device
        cuda: Any = torch.cuda  # its stream has no hints
        self._stream = cuda.Stream(device) if device.type == "cuda" else None
        self._pipeline = self._new_pipeline()

    def __len__(self) -> int:
        return len(self._shares)

    def __iter__(self) -> Iterator[ImageBatch]:
        readers = ThreadPoolExecutor(self._workers, "read")
        decoder = ThreadPoolExecutor(1, "decode")
        ahead: deque[Future[ImageBatch]] = deque()
        try:
            for share in self._shares:
                parts = [
                    readers.submit(self._read, share.epoch, part)
                    for part in np.array_split(share.indices, self._workers)
                ]
                ahead.append(decoder.submit(self._batch, parts))
                if len(ahead) > _AHEAD:
                    yield self._handed_over(ahead.popleft().result())
            while ahead:
                yield self._handed_over(ahead.popleft().result())
        finally:
            readers.shutdown(cancel_futures=True)
            decoder.shutdown(cancel_futures=True)

    def _read(self, epoch: int, indices: npt.NDArray[np.int64]) -> list[EncodedImage | Corrupt]:
        images = (self._images.encoded(epoch, int(index)) for index in indices)
        return [_for_dali(image) if isinstance(image, EncodedImage) else image for image in images]

    def _batch(self, parts: list[Future[list[EncodedImage | Corrupt]]]) -> ImageBatch:
        images_read = [each for part in parts for each in part.result()]
        skipped = [each for each in images_read if isinstance(each, Corrupt)]
        encoded_images = [each for each in images_read if isinstance(each, EncodedImage)]
        try:
            images = self._decoded(encoded_images)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            # One of them has the start and the end of a JPEG, and damage between. DALI does not
            # say which, and its pipeline is of no more use: Pillow decides, as for torchvision.
            self._pipeline = self._new_pipeline()
            checked = [_decoded_by_pillow(each) for each in encoded_images]
            skipped += [each for each in checked if isinstance(each, Corrupt)]
            encoded_images = [each for each in checked if isinstance(each, EncodedImage)]
            images = self._decoded(encoded_images)
        return self._images.batch(images, encoded_images, skipped)

    def _decoded(self, encoded_images: list[EncodedImage]) -> torch.Tensor:
        """Return (N, size, size, 3) uint8 on the device."""
        if not encoded_images:
            size = self._images.size
            return torch.empty((0, size, size, 3), dtype=torch.uint8, device=self._device)
        views = np.array([encoded.view for encoded in encoded_images], dtype=np.int32)
        left, top, width, height, columns, rows, skipped_columns, skipped_rows, mirrored = views.T
        (decoded,) = self._pipeline.run(
            content=[np.frombuffer(encoded.content, dtype=np.uint8) for encoded in encoded_images],
            start=np.stack([top, left], axis=1),
            shape=np.stack([height, width], axis=1),
            resized=np.stack([rows, columns], axis=1).astype(np.float32),
            skipped=np.stack([skipped_rows, skipped_columns], axis=1),
            mirrored=np.ascontiguousarray(mirrored),
        )
        # copied, since DALI uses its memory again; not behind what the network is still to do
        with torch.cuda.stream(self._stream):
            images = torch.utils.dlpack.from_dlpack(decoded.as_tensor()).clone()
        if self._stream is not None:
            self._stream.synchronize()
        return images

    def _handed_over(self, batch: ImageBatch) -> ImageBatch:
        if self._stream is not None:
            # its memory is the other stream's, which must not use it again before the network did
            batch.images.record_stream(torch.cuda.current_stream(self._device))
        return batch

    def _new_pipeline(self) -> Any:
        dali = imported_dali()
        fn, types = dali.fn, dali.types
        on_gpu = self._device.type == "cuda"
        size = self._images.size

        def per_image(name: str, dtype: Any, dimensions: int) -> Any:
            return fn.external_source(name=name, dtype=dtype, ndim=dimensions)

        pipeline = dali.Pipeline(
            batch_size=self._shares.largest,
            num_threads=self._workers,
            device_id=(self._device.index or 0) if on_gpu else None,
            prefetch_queue_depth=1,  # `_AHEAD` batches are ahead already
        )
        with pipeline:
            images = fn.decoders.image_slice(
                per_image("content", types.UINT8, 1),
                start=per_image("start", types.INT32, 1),
                shape=per_image("shape", types.INT32, 1),
                axes=[0, 1],
                device="mixed" if on_gpu else "cpu",
                output_type=types.RGB,
                adjust_orientation=False,  # as Pillow, and as ImageNet is published
            )
            images = fn.resize(
                images,
                size=per_image("resized", types.FLOAT, 1),
                interp_type=types.INTERP_LINEAR,
                antialias=True,
            )
            skipped = per_image("skipped", types.INT32, 1)
            images = fn.slice(images, start=skipped, shape=[size, size], axes=[0, 1])
            images = fn.flip(images, horizontal=per_image("mirrored", types.INT32, 0))
            pipeline.set_outputs(images)
        pipeline.build()
        return pipeline


def _for_dali(image: EncodedImage) -> EncodedImage | Corrupt:
    return image if image.plain else _decoded_by_pillow(image)


def _decoded_by_pillow(image: EncodedImage) -> EncodedImage | Corrupt:
    """Return an image as an uncompressed one, which DALI reads without fail."""
    try:
        pixels = decoded_image(image.content)
    except CorruptImage as reason:
        return Corrupt(image.image, str(reason))
    header = f"P6 {pixels.width} {pixels.height} 255\n".encode()
    return image._replace(content=header + pixels.tobytes())
