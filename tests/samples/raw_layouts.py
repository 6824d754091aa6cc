"""Small raw scenes and labels in the layouts that users have."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin

ISPRS_COLOURS = np.array(
    [(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)],
    dtype=np.uint8,
)

OWN_SCHEME = """
name: own
classes:
  - {name: roof, colour: [200, 0, 0], code: RF}
  - {name: grass, colour: [0, 200, 0]}
  - {name: water, colour: [0, 0, 200]}
ignored:
  - {name: unsure, colour: [0, 0, 0]}
"""
OWN_COLOURS = np.array([(200, 0, 0), (0, 200, 0), (0, 0, 200)], dtype=np.uint8)


def textured(seed: int, shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
    """Return a random image, (bands, height, width)."""
    top = 1.0 if "float" in dtype else np.iinfo(dtype).max
    values = np.random.default_rng(seed).random(shape) * top
    return values.astype(dtype)


def class_map(seed: int, height: int, width: int, classes: int, block: int = 9) -> np.ndarray:
    """Return random class indices in square blocks, (height, width) uint8."""
    rows, cols = -(-height // block), -(-width // block)
    coarse = np.random.default_rng(seed).integers(0, classes, (rows, cols), dtype=np.uint8)
    return np.kron(coarse, np.ones((block, block), np.uint8))[:height, :width]


def write_raster(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    """Write (bands, height, width) or (height, width) with rasterio, by the path's suffix."""
    bands = pixels if pixels.ndim == 3 else pixels[np.newaxis]
    path.parent.mkdir(parents=True, exist_ok=True)
    driver = {".tif": "GTiff", ".png": "PNG"}[path.suffix]
    profile = {
        "driver": driver,
        "count": bands.shape[0],
        "height": bands.shape[1],
        "width": bands.shape[2],
        "dtype": bands.dtype.name,
        **options,
    }
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(bands)
    return path


def coloured(indices: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return class indices as colours, (3, height, width) uint8."""
    return colours[indices].transpose(2, 0, 1)


def utm(row: float = 0, col: float = 0, size: float = 0.5) -> dict[str, Any]:
    """Return CRS and transform of a scene that starts at a pixel of a common grid."""
    place = from_origin(500000 + col * size, 5500000 - row * size, size, size)
    return {"crs": "EPSG:32632", "transform": place}


def vaihingen_folder(
    root: Path, areas: Sequence[int], shape: tuple[int, int] = (90, 75)
) -> dict[str, np.ndarray]:
    """Write areas in Vaihingen's layout; return the class indices of each."""
    labels = {}
    for area in areas:
        labels[str(area)] = class_map(area, *shape, 6)
        name = f"top_mosaic_09cm_area{area}"
        write_raster(root / "top" / f"{name}.tif", textured(area, (3, *shape)))
        colours = coloured(labels[str(area)], ISPRS_COLOURS)
        write_raster(root / "gts_for_participants" / f"{name}.tif", colours)
        border = colours.copy()
        border[:, ::9, :] = 0
        write_raster(root / "eroded" / f"{name}_noBoundary.tif", border)
    return labels


def zipped(archive: Path, folder: Path, inside: str = "") -> Path:
    """Write the files of a folder to an archive."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                opened.write(path, inside + path.relative_to(folder).as_posix())
    return archive


def own_folder(
    root: Path,
    scenes: Sequence[str],
    shape: tuple[int, int] = (80, 70),
    *,
    dtype: str = "uint8",
    bands: int = 3,
    georeferenced: bool = False,
) -> dict[str, np.ndarray]:
    """Write scenes of `OWN_SCHEME` with labels of class indices; return these."""
    labels = {}
    for number, scene in enumerate(scenes):
        place = utm(col=1000 * number) if georeferenced else {}
        labels[scene] = class_map(number, *shape, 3)
        pixels = textured(number, (bands, *shape), dtype)
        write_raster(root / "images" / f"{scene}.tif", pixels, **place)
        write_raster(root / "labels" / f"{scene}.tif", labels[scene])
    return labels


def own_scheme(root: Path, text: str = "", label_format: str = "indices") -> Path:
    """Write `OWN_SCHEME` with more lines as a YAML file."""
    path = root / "own.yaml"
    path.write_text(f"{OWN_SCHEME}\nlabel_format: {label_format}\n{text}", encoding="utf-8")
    return path
