"""Which bands of a raster a network sees, and which ones pictures for people show."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp, Resampling

from hrrsi.errors import InputError
from hrrsi.scenes.raster_opening import bounded_block_cache, open_raster

if TYPE_CHECKING:
    from PIL import ImageFont

NO_DATA_COLOUR = (235, 237, 240)  # in pictures for people


def colour_bands(dataset: Any) -> list[int]:
    """Return the 1-based bands of a rasterio dataset that are not alpha."""
    return [
        band
        for band, meaning in enumerate(dataset.colorinterp, start=1)
        if meaning != ColorInterp.alpha
    ]


def alpha_bands(dataset: Any) -> list[int]:
    """Return the 1-based bands of a rasterio dataset that it calls alpha."""
    colours = colour_bands(dataset)
    return [band for band in range(1, dataset.count + 1) if band not in colours]


def chosen_bands(
    path: str | Path,
    dataset: Any,
    bands: Sequence[int] | None,
    expected_bands: int,
    trained_bands: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """Return the 1-based bands of a raster that a network sees.

    Args:
        path: The raster's name, for messages.
        dataset: Its rasterio dataset.
        bands: Those that the user names. Without any it is all bands but alpha where
            `trained_bands` are just the first ones and these are as many; else `trained_bands`
            where the raster has them all; else all bands but alpha.
        expected_bands: How many the network sees.
        trained_bands: Those of the scenes that the network was trained on.

    Raises:
        InputError: The raster lacks one, they are too many or too few, or of several types.
    """
    chosen = list(bands or _unnamed_bands(dataset, trained_bands))
    wrong = [b for b in chosen if not 1 <= b <= dataset.count]
    if wrong:
        raise InputError(
            f"has no band {wrong[0]} (it has {dataset.count})",
            where=path,
            fix="correct `bands`",
        )
    if len(chosen) != expected_bands:
        many = "band" if len(chosen) == 1 else "bands"
        example = ",".join(str(b) for b in range(1, expected_bands + 1))
        fix = (
            f"choose {expected_bands} with `bands`, e.g. `bands={example}`"
            if dataset.count >= expected_bands
            else f"use a raster with at least {expected_bands} bands"
        )
        raise InputError(
            f"has {len(chosen)} {many} where {expected_bands} are needed", where=path, fix=fix
        )
    types = {dataset.dtypes[b - 1] for b in chosen}
    if len(types) > 1:
        raise InputError(
            f"its bands have different types ({', '.join(sorted(types))})",
            where=path,
            fix="convert them to one type",
        )
    if "complex" in next(iter(types)):
        raise InputError("holds complex numbers", where=path, fix="use a raster of real values")
    return tuple(chosen)


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


@cache
def text_font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which knows more letters than Pillow's own font.

    Args:
        size: In pixels.
        bold: Whether it is the bold one.
    """
    from PIL import ImageFont  # which maps do without

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(resources.files("hrrsi") / "scenes" / "fonts" / name), size)


def _unnamed_bands(dataset: Any, trained: Sequence[int] | None) -> Sequence[int]:
    colours = colour_bands(dataset)
    if not trained or max(trained) > dataset.count:
        return colours
    are_first = list(trained) == list(range(1, len(trained) + 1))
    # an alpha that comes first doesn't make the colours others
    return colours if are_first and len(colours) == len(trained) else trained


def _stretched(values: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Return values as uint8, stretched between their 2nd and 98th percentile."""
    if not valid.any():
        return np.zeros(values.shape, dtype=np.uint8)
    low, high = np.percentile(values[:, valid], (2, 98))
    finite = np.where(valid, values, low).astype(np.float64)
    stretched: npt.NDArray[np.float64] = np.clip((finite - low) / max(high - low, 1e-12), 0, 1)
    return (stretched * 255).astype(np.uint8)
