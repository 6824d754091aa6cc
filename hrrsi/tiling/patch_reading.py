"""Patches of a tiled dataset, read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hrrsi.errors import HrrsiError
from hrrsi.labels.scheme import IGNORE_INDEX
from hrrsi.scenes.raster_opening import open_raster
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window
from hrrsi.tiling.dataset import DatasetDescription, Patch

_AGAIN = "run `hrrsi tile` again with --overwrite"


def read_image(patch: Patch, description: DatasetDescription) -> npt.NDArray[Any]:
    """Return a patch's image as (bands, size, size) in the type of the dataset's patches.

    Args:
        patch: The patch.
        description: What the dataset says of its patches.

    Raises:
        HrrsiError: The file can't be read, or has another size or other bands.
    """
    return _pixels(patch.image, description.patch_size, len(description.band_names))


def read_label(patch: Patch, description: DatasetDescription) -> npt.NDArray[np.uint8]:
    """Return a patch's label as (size, size) uint8: class indices, 255 where ignored.

    Args:
        patch: The patch.
        description: What the dataset says of its patches.

    Raises:
        HrrsiError: The file can't be read, has another size, or holds an index that is no class.
    """
    label: npt.NDArray[np.uint8] = _pixels(patch.label, description.patch_size, 1)[0]
    classes = len(description.classes)
    unknown = (label >= classes) & (label != IGNORE_INDEX)
    if unknown.any():
        row, col = np.argwhere(unknown)[0]
        raise HrrsiError(
            f"holds the class index {label[row, col]} at row {row}, column {col}, where the "
            f"dataset has {classes} classes",
            where=patch.label,
            fix=_AGAIN,
        )
    return label


def _pixels(path: Path, size: int, bands: int) -> npt.NDArray[Any]:
    try:
        with open_raster(path) as dataset:
            shape = (dataset.height, dataset.width, dataset.count)
            if shape == (size, size, bands):
                scene = Scene(str(path), dataset, tuple(range(1, bands + 1)))
                return scene.read(Window(0, 0, size, size))
    except HrrsiError as error:  # of a raster: what to do about a patch is another thing
        fix = f"copy the dataset again, or {_AGAIN}"
        raise HrrsiError(error.what, where=path, fix=fix) from error
    raise HrrsiError(
        f"has {shape[0]} rows, {shape[1]} columns and {shape[2]} bands, not {size}, {size} and "
        f"{bands}",
        where=path,
        fix=_AGAIN,
    )
