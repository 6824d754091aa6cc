"""Batches decoded and transformed by NVIDIA DALI, on a GPU or on processor threads.

The order, the crops and the labels are those of `hrrsi.pretraining.epoch_images`; DALI decodes
only the part of a JPEG that is seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hrrsi.errors import DependencyError
from hrrsi.pretraining.epoch_images import (
    Corrupt,
    EncodedImage,
    EpochImages,
    EpochShares,
    ImageBatch,
)
from hrrsi.pretraining.images import CorruptImage, decoded_image

_AHEAD = 2


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
        return [_for_dali(each) if isinstance(each, EncodedImage) else each for each in images]

    def _batch(self, parts: list[Future[list[EncodedImage | Corrupt]]]) -> ImageBatch:
        images_read = [each for part in parts for each in part.result()]
        skipped = [each for each in images_read if isinstance(each, Corrupt)]
        seen = [each for each in images_read if isinstance(each, EncodedImage)]
        try:
            images = self._decoded(seen)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            # One of them has the start and the end of a JPEG, and damage between. DALI does not
            # say which, and its pipeline is of no more use: Pillow decides, as for torchvision.
            self._pipeline = self._new_pipeline()
            checked = [_decoded_by_pillow(each) for each in seen]
            skipped += [each for each in checked if isinstance(each, Corrupt)]
            seen = [each for each in checked if isinstance(each, EncodedImage)]
            images = self._decoded(seen)
        return self._images.batch(images, seen, skipped)

    def _decoded(self, seen: list[EncodedImage]) -> torch.Tensor:
        """Return (N, size, size, 3) uint8 on the device."""
        if not seen:
            size = self._images.size
            return torch.empty((0, size, size, 3), dtype=torch.uint8, device=self._device)
        views = np.array([each.view for each in seen], dtype=np.int32)
        left, top, width, height, columns, rows, skipped_columns, skipped_rows, mirrored = views.T
        (decoded,) = self._pipeline.run(
            content=[np.frombuffer(each.content, dtype=np.uint8) for each in seen],
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
        dali = _dali()
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


def require_dali() -> None:
    """Raise unless DALI is installed.

    Raises:
        DependencyError: It is not, or does not run here.
    """
    try:
        _dali()
    except ImportError as error:
        missing = DependencyError(f"NVIDIA DALI can't be imported ({error})", extra="dali")
        hint = "or give `loader=torchvision`"
        raise missing.at("`loader=dali`").with_note(hint) from error


def has_dali() -> bool:
    """Return whether DALI is installed and runs here."""
    try:
        require_dali()
    except DependencyError:
        return False
    return True


def _dali() -> Any:
    """Return DALI, an extra, whose hints know little of what it has."""
    return import_module("nvidia.dali")


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
