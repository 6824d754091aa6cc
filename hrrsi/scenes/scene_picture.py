"""What pictures for people need: a raster in three bands of 8 bits, decimated, and a font."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ImageFont
from rasterio.enums import Resampling

from hrrsi.scenes.bands import colour_bands
from hrrsi.scenes.raster_opening import bounded_block_cache, open_raster

NO_DATA_COLOUR = (235, 237, 240)


@bounded_block_cache()
def scene_picture(
    name: str, bands: Sequence[int] | None, height: int, width: int
) -> npt.NDArray[np.uint8]:
    """Return a scene as (height, width, 3) uint8, white to grey where it holds no data.

    Values other than uint8 are stretched between their 2nd and 98th percentile. The raster is read
    decimated, so its size does not matter.

    Args:
        name: The raster, as GDAL opens it.
        bands: 1-based bands, of which the first three (or the first alone) are shown; by default
            all that are not alpha.
        height: Rows of the picture.
        width: Columns of the picture.

    Raises:
        InputError: The raster can't be opened.
    """
    with open_raster(name) as dataset:
        candidates = bands or colour_bands(dataset)
        triple = list(candidates[:3]) if len(candidates) >= 3 else [candidates[0]] * 3
        size = (3, height, width)
        enlarged = height > dataset.height
        resampling = Resampling.cubic if enlarged else Resampling.average
        values = dataset.read(triple, out_shape=size, resampling=resampling)
        valid = (dataset.read_masks(triple, out_shape=size) != 0).any(axis=0)
    valid &= np.isfinite(values).all(axis=0)
    pixels = values if values.dtype == np.uint8 else _stretched(values, valid)
    pixels = np.where(valid, pixels, np.asarray(NO_DATA_COLOUR, dtype=np.uint8)[:, None, None])
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))


def _stretched(values: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Return values as uint8, stretched between their 2nd and 98th percentile."""
    if not valid.any():
        return np.zeros(values.shape, dtype=np.uint8)
    low, high = np.percentile(values[:, valid], (2, 98))
    finite = np.where(valid, values, low).astype(np.float64)
    stretched: npt.NDArray[np.float64] = np.clip((finite - low) / max(high - low, 1e-12), 0, 1)
    return (stretched * 255).astype(np.uint8)


@cache
def text_font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which knows more letters than Pillow's own font.

    Args:
        size: In pixels.
        bold: Whether it is the bold one.
    """
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(resources.files("hrrsi") / "scenes" / "fonts" / name), size)
