"""Unfinished maps of made labels and probabilities, for tests and the processes that they start."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio

from hrrsi.maps.partial_map import PartialMap, open_partial_map, partial_map_folder
from hrrsi.maps.rasters import write_class_raster

HEIGHT, WIDTH, CLASSES = 1031, 601, 3
FINGERPRINT = {"version": "1.2.3", "weights": "a" * 64, "overlap": 64, "bands": (1, 2, 3)}
Labels = npt.NDArray[np.uint8]


def made_labels(height: int = HEIGHT, width: int = WIDTH) -> Labels:
    labels = np.random.default_rng(3).integers(0, CLASSES, (height, width)).astype(np.uint8)
    labels[: height // 4, : width // 3] = 255
    return labels


def made_probabilities(height: int = HEIGHT, width: int = WIDTH) -> npt.NDArray[np.float32]:
    scores = np.random.default_rng(4).random((CLASSES, height, width), dtype=np.float32)
    return scores / scores.sum(axis=0)


def opened(path: Path, *, resume: bool = False, **changed: Any) -> Any:
    options: dict[str, Any] = {
        "height": HEIGHT,
        "width": WIDTH,
        "num_classes": CLASSES,
        "fingerprint": FINGERPRINT,
        "resume": resume,
    }
    return open_partial_map(path, **(options | changed))


def append(partial: PartialMap, labels: Labels, stop: int, strip: int = 100) -> None:
    """Append the labels of the rows that are missing, up to `stop`."""
    probabilities = made_probabilities()
    for row in range(partial.rows_done, stop, strip):
        rows = slice(row, min(row + strip, stop))
        partial.append(
            row,
            labels[rows],
            confidence=None if partial.confidence is None else probabilities[:, rows].max(axis=0),
            probabilities=probabilities[:, rows] if partial.probabilities else None,
        )


def raw_files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in partial_map_folder(path).glob("*.raw")}


def finished(path: Path, partial: PartialMap) -> bytes:
    """Write the map, and return its bytes."""
    scene_file = path.with_name("scene.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shape = {"height": partial.labels.height, "width": partial.labels.width}
        with rasterio.open(scene_file, "w", driver="GTiff", count=1, dtype="uint8", **shape):
            pass
        with rasterio.open(scene_file) as scene:
            write_class_raster(
                path,
                scene,
                partial.labels,
                classes=["a", "b", "c"],
                colours=[(1, 2, 3)] * 3,
                has_nodata=True,
                provenance={},
            )
    return path.read_bytes()
