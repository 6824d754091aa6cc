"""The published augmentation, on imgaug: flips, scale, crop and blur of image and label."""

from typing import Any

import imgaug
import numpy as np
import numpy.typing as npt
from imgaug import augmenters as iaa
from imgaug.augmentables.segmaps import SegmentationMapsOnImage


class PublishedAugmentation:
    """Flips, scales the short side to 0.5 to 2.0 of the crop, pads or crops, blurs half the time.

    What is drawn depends on the seed given to each call alone, so a run can be resumed and
    loading in any number of processes gives the same batches.

    Args:
        size: Rows and columns of the result.
    """

    def __init__(self, size: int) -> None:
        shortest, longest = size // 2, size * 2
        self._augmenter = iaa.Sequential(
            [
                iaa.Fliplr(0.5),
                iaa.Flipud(0.5),
                iaa.Resize(
                    {"shorter-side": (shortest, longest), "longer-side": "keep-aspect-ratio"},
                    interpolation="linear",
                ),
                iaa.PadToFixedSize(size, size, position="uniform"),
                iaa.CropToFixedSize(size, size, position="uniform"),
                iaa.Sometimes(0.5, iaa.GaussianBlur(sigma=(0.0, 1.5))),
            ]
        )

    def __call__(
        self, image: npt.NDArray[Any], label: npt.NDArray[np.uint8], seed: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        """Return an augmented pair.

        Args:
            image: (H, W, bands) uint8, uint16 or float32.
            label: (H, W) class indices, 255 where ignored.
            seed: Decides everything random.

        Returns:
            Image (size, size, bands) padded with zeros, and label (size, size) of the same
            pixels, resampled by nearest neighbour and padded with 255.
        """
        self._augmenter.seed_(imgaug.random.RNG(seed))
        # imgaug pads label maps with 0: one is added so that 0 stands for "ignored" (255 + 1)
        shifted = SegmentationMapsOnImage((label + np.uint8(1))[..., None], shape=image.shape)
        augmented, labels = self._augmenter(image=image, segmentation_maps=shifted)
        return augmented, labels.get_arr()[..., 0].astype(np.uint8) - np.uint8(1)
