"""Ways to fill pixels without data, for `window_fill.py`; each leaves the other pixels alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from hrrsi.prediction.sliding_window import mirror_filled

Pixels = npt.NDArray[np.float32]  # (bands, height, width) in the file's values
Mask = npt.NDArray[np.bool_]  # (height, width), True where there is data
Filling = Callable[[Pixels, Mask], Pixels]


def black(pixels: Pixels, valid: Mask) -> Pixels:
    return pixels * valid


def mean_of_valid(pixels: Pixels, valid: Mask) -> Pixels:
    mean = pixels[:, valid].mean(axis=1)
    return np.where(valid, pixels, mean[:, None, None])


def noise(pixels: Pixels, valid: Mask) -> Pixels:
    values = pixels[:, valid]
    drawn = np.random.default_rng(0).standard_normal(pixels.shape, dtype=np.float32)
    drawn = drawn * values.std(axis=1)[:, None, None] + values.mean(axis=1)[:, None, None]
    return np.where(valid, pixels, drawn)


def blurred_with_noise(pixels: Pixels, valid: Mask) -> Pixels:
    """Blurred pixels, and noise as strong as the valid pixels' difference from their blur."""
    smooth = blurred(pixels, valid)
    detail = (pixels - _box_blurred(pixels, valid))[:, valid].std(axis=1)
    drawn = np.random.default_rng(0).standard_normal(pixels.shape, dtype=np.float32)
    return np.where(valid, pixels, smooth + drawn * detail[:, None, None])


def _box_blurred(pixels: Pixels, valid: Mask, size: int = 31) -> Pixels:
    weight = ndimage.uniform_filter(valid.astype(np.float32), size)
    return ndimage.uniform_filter(pixels * valid, (0, size, size)) / np.maximum(weight, 1e-6)


def nearest(pixels: Pixels, valid: Mask) -> Pixels:
    rows, columns = ndimage.distance_transform_edt(
        ~valid, return_distances=False, return_indices=True
    )
    return pixels[:, rows, columns]


def mirror_about_nearest(pixels: Pixels, valid: Mask) -> Pixels:
    """Reflect about the nearest valid pixel; what lies outside stays that nearest pixel."""
    rows, columns = ndimage.distance_transform_edt(
        ~valid, return_distances=False, return_indices=True
    )
    here = np.indices(valid.shape)
    across = [2 * edge - own for edge, own in zip((rows, columns), here, strict=True)]
    inside = np.ones(valid.shape, dtype=bool)
    for axis, length in enumerate(valid.shape):
        inside &= (across[axis] >= 0) & (across[axis] < length)
    clipped = [np.clip(a, 0, n - 1) for a, n in zip(across, valid.shape, strict=True)]
    inside &= valid[clipped[0], clipped[1]]
    source_rows = np.where(inside, clipped[0], rows)
    source_columns = np.where(inside, clipped[1], columns)
    return pixels[:, source_rows, source_columns]


def blurred(pixels: Pixels, valid: Mask) -> Pixels:
    """Normalised convolution over a pyramid: means of ever larger blocks of valid pixels."""
    return _pulled_and_pushed(pixels * valid, valid.astype(np.float32))


def _pulled_and_pushed(weighted: Pixels, weight: npt.NDArray[np.float32]) -> Pixels:
    has_value = weight > 0
    own = weighted / np.maximum(weight, 1e-9)
    if has_value.all() or max(weight.shape) == 1:
        return own
    height, width = weight.shape
    padding = ((0, height % 2), (0, width % 2))
    coarse_weighted = np.pad(weighted, ((0, 0), *padding))
    coarse_weight = np.pad(weight, padding)
    coarse = _pulled_and_pushed(_pair_sums(coarse_weighted), _pair_sums(coarse_weight))
    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(coarse)[None],
        size=(coarse.shape[1] * 2, coarse.shape[2] * 2),
        mode="bilinear",
        align_corners=False,
    )[0].numpy()
    return np.where(has_value, own, smooth[:, :height, :width])


def _pair_sums(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the sums over blocks of 2x2 of the last two axes."""
    rows = values[..., ::2, :] + values[..., 1::2, :]
    return rows[..., ::2] + rows[..., 1::2]


def fillings(training_mean: npt.NDArray[np.float32]) -> dict[str, Filling]:
    def mean_of_training(pixels: Pixels, valid: Mask) -> Pixels:
        return np.where(valid, pixels, training_mean[:, None, None])

    return {
        "black (0)": black,
        "training mean": mean_of_training,
        "mean of valid pixels": mean_of_valid,
        "white noise": noise,
        "nearest pixel": nearest,
        "mirror about nearest": mirror_about_nearest,
        "mirror along axes": mirror_filled,
        "blurred": blurred,
        "blurred, with noise": blurred_with_noise,
    }
