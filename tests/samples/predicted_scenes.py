"""Scenes to map, and what `hrrsi predict` says of them."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from pyogrio.raw import write as write_vectors
from samples.made_weights import scene_pixels

SMALL = ["--window", "64", "--overlap", "16"]


def save_scene(path: Path, values: np.ndarray | None = None, **profile: Any) -> Path:
    """Write real pixels (or the given (bands, height, width) ones) as a raster."""
    if values is None:
        values = np.moveaxis(scene_pixels(), -1, 0)[:, :150, :200]
    count, height, width = values.shape
    path.parent.mkdir(parents=True, exist_ok=True)
    form: dict[str, Any] = {"driver": "GTiff", "count": count, "dtype": values.dtype, **profile}
    with rasterio.open(path, "w", height=height, width=width, **form) as dataset:
        dataset.write(values)
    return path


def save_area(path: Path, shape: Any, crs: str) -> Path:
    """Write a polygon as an area of interest."""
    wkb = np.array([shapely.to_wkb(shape)], dtype=object)
    write_vectors(path, wkb, [], [], geometry_type="Polygon", crs=crs)
    return path


def notices(result: Any) -> list[str]:
    """What a command says beside its results, but for which weights it uses."""
    return [line for line in result.stderr.splitlines() if not line.startswith("weights: ")]


def one_error_line(result: Any) -> str:
    assert result.exit_code == 1
    lines = notices(result)
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return str(lines[0])
