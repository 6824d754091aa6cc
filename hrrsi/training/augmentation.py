"""How training patches are changed each time they are seen, their ground resolution among it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import cv2  # comes with imgaug
import imgaug
import numpy as np
import numpy.typing as npt
from imgaug import augmenters as iaa
from imgaug.augmentables.segmaps import SegmentationMapsOnImage

from hrrsi.classes import IGNORE_INDEX
from hrrsi.training.options import CAMERA_CHANGES, ZOOMS, Augmentation as AugmentationName

Pixels = npt.NDArray[np.float32]
_FINEST = 0.5  # of a patch's own pixel: what is finer would be made up
_SMALLEST = 0.5  # of a crop: the rest is made of mirror images


class Augmentation:
    """Augments pairs of image and label.

    ``published`` flips, scales the short side to 0.5 to 2.0 of the patch, pads or crops, and
    blurs half of the time; it pads with zeros, also in bands whose values are far from zero
    (heights): the losses ignore them, the network sees a cliff. ``default`` flips and turns by
    quarters, scales by 0.8 to 1.25, and pads with mirror images of image and label. ``none`` only
    crops, at random.

    Geometry acts on image and label alike, labels by the nearest centre of a pixel. What is drawn
    depends on the seed given to each call alone, so a run can be resumed, and loading in any number
    of processes gives the same batches.

    Args:
        name: ``published``, ``default`` or ``none``.
        crop: Rows and columns of the result, cut out of the scaled patch, so that a smaller crop
            than the patch leaves the ground resolution what it is.
        scales: Whether to scale; False where that is done before.
    """

    def __init__(self, name: AugmentationName, crop: int, *, scales: bool = True) -> None:
        if name == "published":
            augmenters = _published(crop, scales=scales)
        elif name == "default":
            augmenters = _default(crop, scales=scales)
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


class CameraChanges:
    """Makes patches look as if another camera had taken them; labels stay what they are.

    Each change is made with a probability and a strength of its own:

    - ``haze``: a share of the light comes from the air instead (Koschmieder's law, uniform);
    - ``blur``: Gaussian, standard deviation 0.4 to 1.4 pixels;
    - ``resolution``: averaged to pixels of 1.3 to 3 times the size, and interpolated again;
    - ``noise``: of a sensor, Gaussian in each band, more of it in bright pixels;
    - ``colour``: another gain of each band, and another saturation of the first three;
    - ``contrast``: around the patch's mean, which moves too;
    - ``gamma``: another exponent of all values;
    - ``sharpening``: an unsharp mask, with the halos that it leaves;
    - ``jpeg``: compressed at a quality of 25 to 85, with less resolution of colour.

    What is drawn for one of them depends on the seed alone, not on which others are there, nor
    on the patch. Values are taken as shares of full brightness, whatever their type.

    Args:
        names: Which, of `hrrsi.training.options.CAMERA_CHANGES`.
        scale: The value that is full brightness, as `dataset.yaml` says it.
        has_height: Whether the last band holds heights: no camera changes these.
    """

    def __init__(self, names: Sequence[str], scale: float, *, has_height: bool = False) -> None:
        self._names = [name for name in CAMERA_CHANGES if name in names]
        self._scale = scale
        self._has_height = has_height

    def __call__(
        self, image: npt.NDArray[Any], label: npt.NDArray[np.uint8], seed: int
    ) -> npt.NDArray[Any]:
        """Return a changed image, or the image itself where nothing is drawn.

        Pixels that are not a number in a band stay as they are, and so do those that are 0 in all
        bands and ignored, that is padding and pixels without data; their neighbours are changed
        as if they had the patch's mean.

        Args:
            image: (H, W, bands) uint8, uint16 or float32; it is not written to.
            label: (H, W), 255 where ignored.
            seed: Decides everything random.

        Returns:
            (H, W, bands) in its type, no darker than 0 and no brighter than `scale`, but where
            the image itself is.
        """
        drawn = self._draws(seed)
        if not drawn:
            return image
        colours = image[..., : image.shape[2] - self._has_height]
        is_empty = (label == IGNORE_INDEX) & (colours == 0).all(axis=-1)
        if image.dtype.kind == "f":
            is_empty |= ~np.isfinite(colours).all(axis=-1)
        if is_empty.all():
            return image
        scale = np.float32(self._scale)
        # band by band: two to four times as fast as pixel by pixel, and OpenCV takes any number
        values = np.ascontiguousarray(colours.transpose(2, 0, 1), dtype=np.float32)
        values /= scale
        if is_empty.any():
            values[:, is_empty] = values[:, ~is_empty].mean(axis=1, keepdims=True)
        low, high = min(0.0, float(values.min())), max(1.0, float(values.max()))
        for name, random in drawn:
            _CAMERA[name].change(values, random)
        values.clip(low, high, out=values)
        values *= scale
        if image.dtype.kind in "iu":
            limits = np.iinfo(image.dtype)
            np.rint(values, out=values).clip(limits.min, limits.max, out=values)
        changed = image.copy()
        changed[..., : colours.shape[2]] = values.transpose(1, 2, 0)
        changed[is_empty] = image[is_empty]
        return changed

    def names(self, seed: int) -> list[str]:
        """Return which changes a seed draws, in the order in which they are made."""
        return [name for name, _ in self._draws(seed)]

    def _draws(self, seed: int) -> list[tuple[str, np.random.Generator]]:
        """Return the changes of a seed, and what their strengths are drawn from."""
        drawn = []
        for name in self._names:
            random = np.random.default_rng((seed, CAMERA_CHANGES.index(name)))
            if random.random() < _CAMERA[name].probability:
                drawn.append((name, random))
        return drawn


def _published(crop: int, *, scales: bool) -> list[iaa.Augmenter]:
    return [
        iaa.Fliplr(0.5),
        iaa.Flipud(0.5),
        *([_scaling(*ZOOMS["published"])] if scales else []),
        iaa.PadToFixedSize(crop, crop, position="uniform"),
        iaa.CropToFixedSize(crop, crop, position="uniform"),
        iaa.Sometimes(0.5, iaa.GaussianBlur(sigma=(0.0, 1.5))),
    ]


def _default(crop: int, *, scales: bool) -> list[iaa.Augmenter]:
    # loading processes that are no forks are sent what they call
    mirrored_images = partial(_mirrored_images, crop)
    mirrored_labels = partial(_mirrored_labels, crop)
    return [
        iaa.Fliplr(0.5),
        iaa.Rot90((0, 3)),
        *([_scaling(*ZOOMS["default"])] if scales else []),
        # imgaug's own padding takes one way for images and another one for labels
        iaa.Lambda(func_images=mirrored_images, func_segmentation_maps=mirrored_labels),
        iaa.CropToFixedSize(crop, crop, position="uniform"),
    ]


def _scaling(low: float, high: float) -> iaa.Augmenter:
    """Return what makes patches some times as large.

    imgaug's own takes the upper left of the nearest pixels for labels and the centre for images:
    labels lie half a pixel off, and networks learn that.
    """
    scaled_images = partial(_scaled_images, low, high)
    scaled_labels = partial(_scaled_labels, low, high)
    return iaa.Lambda(func_images=scaled_images, func_segmentation_maps=scaled_labels)


def _scaled_images(low: float, high: float, images: Any, random: Any, *_: Any) -> Any:
    factor = _factor(low, high, random)
    return [
        _resized_image(image, _scaled_size(image, factor), cv2.INTER_LINEAR) for image in images
    ]


def _scaled_labels(low: float, high: float, labels: Any, random: Any, *_: Any) -> Any:
    factor = _factor(low, high, random)
    arrays = [label.get_arr()[..., 0].astype(np.uint8) for label in labels]
    scaled = [_resized_label(array, _scaled_size(array, factor))[..., None] for array in arrays]
    return [SegmentationMapsOnImage(array, shape=array.shape) for array in scaled]


def _factor(low: float, high: float, random: Any) -> float:
    """Return the factor of a call, the same one for its images and its labels."""
    return float(random.copy().uniform(low, high))


def _scaled_size(values: npt.NDArray[Any], factor: float) -> tuple[int, int]:
    height, width = values.shape[:2]
    return max(1, round(height * factor)), max(1, round(width * factor))


def _resized_image(
    image: npt.NDArray[Any], size: tuple[int, int], interpolation: int
) -> npt.NDArray[Any]:
    """Return an image (H, W, bands) with other numbers of rows and columns."""
    # OpenCV averages four bands at most, so each has its turn
    bands = [np.ascontiguousarray(image[..., band]) for band in range(image.shape[2])]
    resized = [cv2.resize(band, size[::-1], interpolation=interpolation) for band in bands]
    return np.stack(resized, axis=-1)


def _resized_label(label: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return a label (H, W) with other numbers of rows and columns."""
    pixels = np.ascontiguousarray(label)
    resized = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, dtype=np.uint8)


def _mirrored_images(crop: int, images: Any, *_: Any) -> Any:
    return [_mirrored(crop, image) for image in images]


def _mirrored_labels(crop: int, labels: Any, *_: Any) -> Any:
    padded = [_mirrored(crop, label.get_arr()) for label in labels]
    return [SegmentationMapsOnImage(label, shape=label.shape) for label in padded]


def _mirrored(crop: int, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return values (H, W, bands) that mirror images make as large as a crop."""
    margins = [max(crop - length, 0) for length in values.shape[:2]]
    sides = [(length // 2, length - length // 2) for length in margins]
    return np.pad(values, [*sides, (0, 0)], mode="reflect")


class _CameraChange(NamedTuple):
    """A change of (bands, H, W) float32 values in place, of which 1 is full brightness."""

    probability: float
    change: Callable[[Pixels, np.random.Generator], None]


# imgaug's own operators for colour, haze and JPEG take three bands of 8 bits only.


def _add_haze(values: Pixels, random: np.random.Generator) -> None:
    share = random.uniform(0.05, 0.4)
    air = random.uniform(0.6, 0.95) + random.uniform(-0.04, 0.04, len(values))
    values *= np.float32(1 - share)
    values += (share * air).astype(np.float32)[:, None, None]


def _blur(values: Pixels, random: np.random.Generator) -> None:
    deviation = random.uniform(0.4, 1.4)
    for band in values:
        cv2.GaussianBlur(band, (0, 0), deviation, dst=band)


def _make_coarser(values: Pixels, random: np.random.Generator) -> None:
    height, width = values.shape[1:]
    factor = random.uniform(1.3, 3)
    coarse = (max(1, round(width / factor)), max(1, round(height / factor)))
    interpolation = cv2.INTER_CUBIC if random.random() < 0.5 else cv2.INTER_LINEAR
    for band in values:
        means = cv2.resize(band, coarse, interpolation=cv2.INTER_AREA)
        cv2.resize(means, (width, height), dst=band, interpolation=interpolation)


def _add_noise(values: Pixels, random: np.random.Generator) -> None:
    deviation = np.exp(random.uniform(np.log(0.01), np.log(0.05)))
    # OpenCV's normal numbers, a tenth of the time of NumPy's; they are drawn for each band
    noise = np.empty_like(values)
    cv2.setRNGSeed(int(random.integers(2**31)))
    for band in noise:
        cv2.randn(band, np.zeros(1), np.full(1, deviation))
    # photons and electronics: the variance grows with the light, from one that is always there
    noise *= np.sqrt(values.clip(0) + np.float32(0.1))
    values += noise


def _change_colour(values: Pixels, random: np.random.Generator) -> None:
    saturation = np.float32(random.uniform(0.5, 1.5))
    if len(values) >= 3:
        grey = values[:3].mean(axis=0)
        values[:3] *= saturation
        values[:3] += (1 - saturation) * grey
    # after it: saturation would make a cast of more than the gains
    values *= np.exp(random.uniform(-0.18, 0.18, len(values))).astype(np.float32)[:, None, None]


def _change_contrast(values: Pixels, random: np.random.Generator) -> None:
    factor, shift = np.exp(random.uniform(-0.35, 0.35)), random.uniform(-0.12, 0.12)
    shift += float(values.mean()) * (1 - factor)
    values *= np.float32(factor)
    values += np.float32(shift)


def _change_gamma(values: Pixels, random: np.random.Generator) -> None:
    exponent = np.float32(np.exp(random.uniform(-0.4, 0.4)))
    np.power(values, exponent, out=values, where=values > 0)


def _sharpen(values: Pixels, random: np.random.Generator) -> None:
    deviation, amount = random.uniform(0.7, 1.5), random.uniform(0.3, 1.5)
    for band in values:
        smooth = cv2.GaussianBlur(band, (0, 0), deviation)
        cv2.addWeighted(band, 1 + amount, smooth, -amount, 0, dst=band)


def _compress(values: Pixels, random: np.random.Generator) -> None:
    options = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(25, 86))]
    # three bands share luminance and colour, as in files; further ones are compressed alone
    first = 3 if len(values) >= 3 else 0
    groups = [values[:first]] * bool(first) + [values[b : b + 1] for b in range(first, len(values))]
    for group in groups:
        # OpenCV's order is blue, green, red
        pixels = np.rint(group[::-1].clip(0, 1) * np.float32(255)).astype(np.uint8)
        before = np.ascontiguousarray(pixels.transpose(1, 2, 0))
        content = cv2.imencode(".jpg", before, options)[1]
        after = np.asarray(cv2.imdecode(content, cv2.IMREAD_UNCHANGED)).reshape(before.shape)
        # the difference alone, so that finer values than 8 bits stay finer
        difference = (after.astype(np.float32) - before) / np.float32(255)
        group += difference[..., ::-1].transpose(2, 0, 1)


_CAMERA = {
    "haze": _CameraChange(0.15, _add_haze),
    "blur": _CameraChange(0.15, _blur),
    "resolution": _CameraChange(0.25, _make_coarser),
    "noise": _CameraChange(0.15, _add_noise),
    "colour": _CameraChange(0.5, _change_colour),
    "contrast": _CameraChange(0.3, _change_contrast),
    "gamma": _CameraChange(0.3, _change_gamma),
    "sharpening": _CameraChange(0.15, _sharpen),
    "jpeg": _CameraChange(0.25, _compress),
}


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
    bounds: tuple[float, float], own: float, patch: int, crop: int
) -> GroundResolutions:
    """Return the part of a range of ground resolutions that a dataset can be seen at.

    No finer than half its own pixel, and no coarser than makes a patch half of a crop. Of a range
    beyond these, the limit nearest to it is left.

    Args:
        bounds: The finest and the coarsest, in metres per pixel.
        own: That of the patches.
        patch: Their rows and columns.
        crop: Rows and columns of what the network sees, at most as many.
    """
    finest, coarsest = _FINEST * own, own * patch / (_SMALLEST * crop)
    low, high = (min(max(value, finest), coarsest) for value in bounds)
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
    interpolation = cv2.INTER_AREA if result < side else cv2.INTER_LINEAR
    pixels = _resized_image(image[part], (result, result), interpolation)
    classes = _resized_label(label[part], (result, result))
    if result < crop:
        before = random.integers(0, crop - result + 1, 2).tolist()
        sides = [(b, crop - result - b) for b in before]
        mode: Any = "reflect" if result > 1 else "edge"
        pixels = np.pad(pixels, [*sides, (0, 0)], mode=mode)
        classes = np.pad(classes, sides, mode=mode)
    return pixels, classes
