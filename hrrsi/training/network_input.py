"""What a network sees of patches: how many pixels, and at which ground resolutions."""

from __future__ import annotations

from hrrsi.scenes.resampling import nearest_resolution
from hrrsi.tiling.dataset import DatasetDescription
from hrrsi.training.augmentation import (
    GroundResolutions,
    middle_resolution,
    possible_resolutions,
)
from hrrsi.training.options import ZOOMS, TrainOptions
from hrrsi.training.run_data import RunData


def input_size(data: RunData, options: TrainOptions) -> int:
    """Return rows and columns of what the network sees of a patch."""
    return data.smallest_patch if options.overfit else options.recipe.crop or data.smallest_patch


def input_resolutions(data: RunData, options: TrainOptions) -> list[GroundResolutions | None]:
    """Return the ground resolutions that each dataset's patches are scaled to.

    None where the augmentation scales them, or nothing does.
    """
    bounds, crop = options.recipe.resolutions, input_size(data, options)
    if bounds is None or options.overfit:
        return [None] * len(data.sources)
    return [
        None
        if source.resolution is None
        else possible_resolutions(bounds, source.resolution, source.description.patch_size, crop)
        for source in data.sources
    ]


def seen_resolutions(data: RunData, options: TrainOptions) -> tuple[float, float] | None:
    """Return the metres per pixel that a network sees, scaled patches included.

    None where those of a dataset are not known.
    """
    smallest, largest = (1.0, 1.0) if options.overfit else ZOOMS[options.recipe.augmentation]
    ends: list[float] = []
    for source, view in zip(data.sources, input_resolutions(data, options), strict=True):
        if not source.share:
            continue
        if source.resolution is None:
            return None
        ends += view or (source.resolution / largest, source.resolution / smallest)
    return float(f"{min(ends):.4g}"), float(f"{max(ends):.4g}")


def middle_input_resolution(data: RunData, options: TrainOptions) -> float | None:
    """Return the metres per pixel of patches, or the middle of those that are drawn for each."""
    resolutions = seen_resolutions(data, options)
    if options.recipe.resolutions and resolutions is not None:
        return middle_resolution(*resolutions)
    return data.description.metres_per_pixel


def size_at_nearest(
    description: DatasetDescription, resolutions: tuple[float, float] | None
) -> int:
    """Return rows and columns of a dataset's validation patches at the nearest of resolutions.

    Args:
        description: The dataset.
        resolutions: The finest and the coarsest that training draws, in metres per pixel, or None.
    """
    own = description.metres_per_pixel
    nearest = nearest_resolution(own, resolutions)
    if own is None or nearest is None:
        return description.patch_size
    return max(1, round(description.patch_size * own / nearest))
