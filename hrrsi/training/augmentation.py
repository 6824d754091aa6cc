"""How training patches are changed each time they are seen."""

from __future__ import annotations

from typing import Any

import imgaug
import numpy as np
import numpy.typing as npt
from imgaug import augmenters as iaa
from imgaug.augmentables.segmaps import SegmentationMapsOnImage

from hrrsi.training.options import Augmentation as AugmentationName


class Augmentation:
    """Augments pairs of image and label.

    ``published`` flips, scales the short side to 0.5 to 2.0 of the patch, pads or crops, and
    blurs half of the time; it pads with zeros, also in bands whose values are far from zero
    (heights): the losses ignore them, the network sees a cliff. ``default`` flips and turns by
    quarters, scales by 0.8 to 1.25, and pads with mirror images of image and label. ``none`` only
    crops, at random.

    Geometry acts on image and label alike, labels by nearest neighbour. What is drawn depends on
    the seed given to each call alone, so a run can be resumed, and loading in any number of
    processes gives the same batches.

    Args:
        name: ``published``, ``default`` or ``none``.
        size: Rows and columns of a patch.
        crop: Rows and columns of the result, cut out of the scaled patch, so that a smaller crop
            leaves the ground resolution what it is; 0: those of the patch.
    """

    def __init__(self, name: AugmentationName, size: int, crop: int = 0) -> None:
        crop = crop or size
        if name == "published":
            augmenters = _published(size, crop)
        elif name == "default":
            augmenters = _default(crop)
        else:
            augmenters = [iaa.CropToFixedSize(crop, crop, position="uniform")]
        self._augmenter = iaa.Sequential(augmenters)

    def __call__(
        self, image: npt.NDArray[Any], label: npt.NDArray[np.uint8], seed: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        """Return an augmented pair.

        Args:
            image: (H, W, bands) uint8, uint16 or float32.
            label: (H, W) class indices, 255 where ignored.
            seed: Decides everything random.

        Returns:
            Image (crop, crop, bands) in its type, and label (crop, crop) of the same pixels, 255
            where it was ignored or padded.
        """
        self._augmenter.seed_(imgaug.random.RNG(seed))
        # imgaug pads label maps with 0: one is added so that 0 stands for "ignored" (255 + 1)
        shifted = SegmentationMapsOnImage((label + np.uint8(1))[..., None], shape=image.shape)
        augmented, labels = self._augmenter(image=image, segmentation_maps=shifted)
        return augmented, labels.get_arr()[..., 0].astype(np.uint8) - np.uint8(1)


def _published(size: int, crop: int) -> list[iaa.Augmenter]:
    return [
        iaa.Fliplr(0.5),
        iaa.Flipud(0.5),
        iaa.Resize(
            {"shorter-side": (size // 2, size * 2), "longer-side": "keep-aspect-ratio"},
            interpolation="linear",
        ),
        iaa.PadToFixedSize(crop, crop, position="uniform"),
        iaa.CropToFixedSize(crop, crop, position="uniform"),
        iaa.Sometimes(0.5, iaa.GaussianBlur(sigma=(0.0, 1.5))),
    ]


def _default(crop: int) -> list[iaa.Augmenter]:
    def mirrored(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        missing = [max(crop - length, 0) for length in values.shape[:2]]
        sides = [(length // 2, length - length // 2) for length in missing]
        return np.pad(values, [*sides, (0, 0)], mode="reflect")

    def mirrored_images(images: Any, *_: Any) -> Any:
        return [mirrored(image) for image in images]

    def mirrored_labels(labels: Any, *_: Any) -> Any:
        padded = [mirrored(label.get_arr()) for label in labels]
        return [SegmentationMapsOnImage(label, shape=label.shape) for label in padded]

    return [
        iaa.Fliplr(0.5),
        iaa.Rot90((0, 3)),
        iaa.Resize((0.8, 1.25), interpolation="linear"),
        # imgaug's own padding takes one way for images and another one for labels
        iaa.Lambda(func_images=mirrored_images, func_segmentation_maps=mirrored_labels),
        iaa.CropToFixedSize(crop, crop, position="uniform"),
    ]
