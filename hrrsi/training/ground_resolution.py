"""Training patches at a ground resolution that is drawn for each."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2  # comes with imgaug
import numpy as np
import numpy.typing as npt

_FINEST = 0.5  # of a patch's own pixel: what is finer would be made up
_SMALLEST = 0.5  # of a crop: the rest is made of mirror images


class GroundResolutions(NamedTuple):
    """Ground resolutions that a dataset's patches are seen at, from finest to coarsest.

    Attributes:
        low: The finest, in metres per pixel.
        high: The coarsest.
    """

    low: float
    high: float

    def draw(self, random: np.random.Generator) -> float:
        """Return one of them, all octaves alike."""
        return math.exp(random.uniform(math.log(self.low), math.log(self.high)))


def possible_resolutions(
    wanted: tuple[float, float], own: float, patch: int, crop: int
) -> GroundResolutions:
    """Return the part of a range of ground resolutions that a dataset can be seen at.

    No finer than half its own pixel, and no coarser than makes a patch half of a crop. Of a range
    beyond these, the limit nearest to it is left.

    Args:
        wanted: The finest and the coarsest, in metres per pixel.
        own: That of the patches.
        patch: Their rows and columns.
        crop: Rows and columns of what the network sees, at most as many.
    """
    finest, coarsest = _FINEST * own, own * patch / (_SMALLEST * crop)
    low, high = (min(max(value, finest), coarsest) for value in wanted)
    return GroundResolutions(low, high)


def middle_resolution(low: float, high: float) -> float:
    """Return the geometric middle of a range of ground resolutions, in metres per pixel."""
    return round(math.sqrt(low * high), 6)


def scaled_crop(
    image: npt.NDArray[Any],
    label: npt.NDArray[np.uint8],
    scale: float,
    crop: int,
    random: np.random.Generator,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """Return a random part of a patch at another scale, of which mirror images fill the rest.

    Pixels that get larger are averages, as a camera's are; smaller ones are interpolated. Labels
    are those of the nearest pixel.

    Args:
        image: (size, size, bands) uint8, uint16 or float32.
        label: (size, size).
        scale: Rows of the result for each row of the patch.
        crop: Rows and columns of the result.
        random: Decides where the part lies.

    Returns:
        Image (crop, crop, bands) in its type, and label (crop, crop).
    """
    size = len(label)
    side = min(size, max(1, round(crop / scale)))
    top, left = random.integers(0, size - side + 1, 2).tolist()
    part = (slice(top, top + side), slice(left, left + side))
    result = min(crop, max(1, round(side * scale))) if side == size else crop
    shape = (result, result)
    interpolation = cv2.INTER_AREA if result < side else cv2.INTER_LINEAR
    # OpenCV averages four bands at most, so each has its turn
    bands = [
        cv2.resize(np.ascontiguousarray(image[(*part, band)]), shape, interpolation=interpolation)
        for band in range(image.shape[2])
    ]
    pixels = np.stack(bands, axis=-1)
    classes = cv2.resize(
        np.ascontiguousarray(label[part]), shape, interpolation=cv2.INTER_NEAREST_EXACT
    )
    if result < crop:
        before = random.integers(0, crop - result + 1, 2).tolist()
        sides = [(b, crop - result - b) for b in before]
        mode: Any = "reflect" if result > 1 else "edge"
        pixels = np.pad(pixels, [*sides, (0, 0)], mode=mode)
        classes = np.pad(classes, sides, mode=mode)
    return pixels, classes.astype(np.uint8, copy=False)
