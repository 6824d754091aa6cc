"""Augmentation of image and label, on imgaug: what a seed draws, and nothing else."""

from collections.abc import Sequence
from typing import Any

import imgaug
import numpy as np
import numpy.typing as npt
from imgaug import augmenters as iaa
from imgaug.augmentables.segmaps import SegmentationMapsOnImage

from hrrsi.training import recipes


class Augmentation:
    """Augments pairs of image and label.

    ``published`` flips, scales the short side to 0.5 to 2.0 of the crop, pads with zeros
    (ignored) or crops, and blurs half of the time. ``default`` flips and turns by quarters,
    scales by 0.5 to 2.0, pads with mirror images of image and label, multiplies brightness by 0.8
    to 1.25 and moves it by up to a tenth of the scale (bands alike or each its own way), and blurs
    a quarter of the time. ``none`` only crops, at random.

    Geometry acts on image and label alike, labels by nearest neighbour. What is drawn depends on
    the seed given to each call alone, so a run can be resumed, and loading in any number of
    processes gives the same batches.

    Args:
        name: ``published``, ``default`` or ``none``.
        size: Rows and columns of the result.
        scale: The value that counts as full brightness.
        photometric: The bands, from 0, whose brightness may change; all by default. A height
            model is no photograph.
    """

    def __init__(
        self,
        name: recipes.Augmentation,
        size: int,
        scale: float,
        photometric: Sequence[int] | None = None,
    ) -> None:
        if name == "published":
            augmenters = _published(size)
        elif name == "default":
            augmenters = _default(size, scale, photometric)
        else:
            augmenters = [iaa.CropToFixedSize(size, size, position="uniform")]
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
            Image (size, size, bands) in its type, and label (size, size) of the same pixels, 255
            where it was ignored or padded.
        """
        self._augmenter.seed_(imgaug.random.RNG(seed))
        # imgaug pads label maps with 0: one is added so that 0 stands for "ignored" (255 + 1)
        shifted = SegmentationMapsOnImage((label + np.uint8(1))[..., None], shape=image.shape)
        augmented, labels = self._augmenter(image=image, segmentation_maps=shifted)
        return augmented, labels.get_arr()[..., 0].astype(np.uint8) - np.uint8(1)


def _published(size: int) -> list[iaa.Augmenter]:
    return [
        iaa.Fliplr(0.5),
        iaa.Flipud(0.5),
        iaa.Resize(
            {"shorter-side": (size // 2, size * 2), "longer-side": "keep-aspect-ratio"},
            interpolation="linear",
        ),
        iaa.PadToFixedSize(size, size, position="uniform"),
        iaa.CropToFixedSize(size, size, position="uniform"),
        iaa.Sometimes(0.5, iaa.GaussianBlur(sigma=(0.0, 1.5))),
    ]


def _default(size: int, scale: float, photometric: Sequence[int] | None) -> list[iaa.Augmenter]:
    padding = iaa.PadToFixedSize(size, size, position="uniform", pad_mode="reflect")
    # None: as the image. imgaug 0.4 pads labels as it does heatmaps, by default with a constant.
    padding._pad_mode_heatmaps = padding._pad_mode_segmentation_maps = None
    colours = [
        iaa.Multiply((0.8, 1.25), per_channel=0.5),
        iaa.Add((-0.1 * scale, 0.1 * scale), per_channel=0.5),
    ]
    return [
        iaa.Fliplr(0.5),
        iaa.Rot90((0, 3)),
        iaa.Resize((0.5, 2.0), interpolation="linear"),
        padding,
        iaa.CropToFixedSize(size, size, position="uniform"),
        iaa.Sometimes(0.8, iaa.WithChannels(photometric, iaa.Sequential(colours))),
        iaa.Sometimes(0.25, iaa.GaussianBlur(sigma=(0.0, 1.5))),
    ]
