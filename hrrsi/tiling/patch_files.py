"""Files of patches, written and read: images, and labels with a palette of the scheme's colours."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from hrrsi.classes import IGNORE_INDEX, Colour, class_palette
from hrrsi.errors import HrrsiError, InputError
from hrrsi.scenes.raster_opening import open_raster
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window
from hrrsi.tiling.dataset import TILE_AGAIN, DatasetDescription, Patch

PatchFormat = Literal["png", "tif"]


@dataclass(frozen=True)
class Georeference:
    """Where a patch lies: a CRS as WKT where there is one, and the transform of its pixels."""

    crs: str | None
    transform: Affine


def patch_format(dtype: str, bands: int) -> PatchFormat:
    """Return ``"png"`` where PNG holds such patches without calling a band alpha."""
    return "png" if dtype == "uint8" and bands in (1, 3) else "tif"


def image_bytes(
    pixels: npt.NDArray[Any],
    file_format: PatchFormat,
    georeference: Georeference | None,
    names: Sequence[str] = (),
) -> bytes:
    """Return an image patch as the content of a file.

    Args:
        pixels: (bands, height, width).
        file_format: PNG takes one or three bands of uint8.
        georeference: Written to TIFF only.
        names: What the bands are, written to TIFF only.
    """
    if file_format == "tif":
        predictor = 3 if np.issubdtype(pixels.dtype, np.floating) else 2
        return _tiff_bytes(
            pixels, georeference, names=names, predictor=predictor, photometric="MINISBLACK"
        )
    array = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    # Photographs hardly shrink further at higher levels.
    return _png_bytes(Image.fromarray(array), compress_level=3)


def label_bytes(
    indices: npt.NDArray[np.uint8],
    colours: Sequence[Colour],
    file_format: PatchFormat,
    georeference: Georeference | None,
) -> bytes:
    """Return a label patch as the content of a single-band file with a palette.

    Args:
        indices: (height, width) class indices, 255 where ignored (black in the palette).
        colours: Colour of each class, then of each partial label.
        file_format: PNG or TIFF.
        georeference: Written to TIFF only.
    """
    if file_format == "tif":
        palette = {i: (*c, 255) for i, c in enumerate(colours)}
        palette[IGNORE_INDEX] = (0, 0, 0, 255)
        return _tiff_bytes(indices[np.newaxis], georeference, palette=palette)
    height, width = indices.shape
    image = Image.frombytes("P", (width, height), indices.tobytes())
    image.putpalette(class_palette(colours).tobytes())
    return _png_bytes(image, compress_level=6)


def read_image(patch: Patch, description: DatasetDescription) -> npt.NDArray[Any]:
    """Return a patch's image as (bands, size, size) in the type of the dataset's patches.

    Args:
        patch: The patch.
        description: What the dataset says of its patches.

    Raises:
        InputError: The file can't be read, or has another size or other bands.
    """
    return _pixels(patch.image, description.patch_size, len(description.band_names))


def read_label(patch: Patch, description: DatasetDescription) -> npt.NDArray[np.uint8]:
    """Return a patch's label as (size, size) uint8: class indices, 255 where ignored.

    Args:
        patch: The patch.
        description: What the dataset says of its patches.

    Raises:
        InputError: The file can't be read, has another size, or holds an index that is no class.
    """
    label: npt.NDArray[np.uint8] = _pixels(patch.label, description.patch_size, 1)[0]
    labels = len(description.label_names)
    unknown = (label >= labels) & (label != IGNORE_INDEX)
    if unknown.any():
        row, col = np.argwhere(unknown)[0]
        raise InputError(
            f"holds the class index {label[row, col]} at row {row}, column {col}, where the "
            f"dataset has {labels} classes",
            where=patch.label,
            fix=TILE_AGAIN,
        )
    return label


def _png_bytes(image: Image.Image, *, compress_level: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=compress_level)
    return buffer.getvalue()


def _tiff_bytes(
    pixels: npt.NDArray[Any],
    georeference: Georeference | None,
    *,
    palette: dict[int, tuple[int, int, int, int]] | None = None,
    names: Sequence[str] = (),
    **options: Any,
) -> bytes:
    bands, height, width = pixels.shape
    place = (
        {}
        if georeference is None
        else {"crs": georeference.crs, "transform": georeference.transform}
    )
    with MemoryFile() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(
            driver="GTiff",
            count=bands,
            height=height,
            width=width,
            dtype=pixels.dtype.name,
            compress="deflate",
            **place,
            **options,
        ) as dataset:
            dataset.write(pixels)
            for band, name in enumerate(names, start=1):
                dataset.set_band_description(band, name)
            if palette is not None:
                dataset.write_colormap(1, palette)
        content: bytes = memory.read()
    return content


def _pixels(path: Path, size: int, bands: int) -> npt.NDArray[Any]:
    try:
        with open_raster(path) as dataset:
            shape = (dataset.height, dataset.width, dataset.count)
            if shape == (size, size, bands):
                scene = Scene(str(path), dataset, tuple(range(1, bands + 1)))
                return scene.read(Window(0, 0, size, size))
    except HrrsiError as error:  # of a raster: what to do about a patch is another thing
        fix = f"copy the dataset again, or {TILE_AGAIN}"
        raise InputError(error.what, where=path, fix=fix) from error
    raise InputError(
        f"has {shape[0]} rows, {shape[1]} columns and {shape[2]} bands, not {size}, {size} and "
        f"{bands}",
        where=path,
        fix=TILE_AGAIN,
    )
