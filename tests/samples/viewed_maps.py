"""Made scenes, class maps and confidences for the viewer, and requests to it."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import rasterio
from affine import Affine
from PIL import Image

from hrrsi.maps.rasters import write_class_raster

CLASSES = ("building", "land", "road", "water")
COLOURS = ((227, 26, 28), (235, 214, 170), (120, 120, 120), (38, 115, 200))
CRS = "EPSG:25832"
RESOLUTION = 0.5
ORIGIN = Affine(RESOLUTION, 0, 450_000, 0, -RESOLUTION, 5_500_000)
MADE_BY = {
    "VERSION": "0",
    "MODEL": "ued",
    "WEIGHTS": "made.safetensors",
    "WEIGHTS_SHA256": "0" * 64,
    "ENGINE": "none",
    "OPTIONS": "{}",
}


@dataclass(frozen=True)
class MadeMap:
    """A class map on disk, and what went into it."""

    path: Path
    scene: Path
    labels: np.ndarray
    pixels: np.ndarray
    confidence: np.ndarray | None


def blobs(height: int, width: int, seed: int, classes: int = len(CLASSES)) -> np.ndarray:
    """Return class indices in blobs of some tens of pixels."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 255, (classes, height // 24 + 2, width // 24 + 2), dtype=np.uint8)
    smooth = [
        np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC))
        for one in coarse
    ]
    return np.argmax(smooth, axis=0).astype(np.uint8)


def write_scene(path: Path, pixels: np.ndarray, **profile: Any) -> Path:
    """Write bands (bands, height, width) as a GeoTIFF, in `CRS` unless told otherwise."""
    count, height, width = pixels.shape
    form = {"crs": CRS, "transform": ORIGIN, "dtype": pixels.dtype.name, **profile}
    form = {key: value for key, value in form.items() if value is not None}
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, **form
    ) as file:
        file.write(pixels)
    return path


def made_map(
    folder: Path,
    name: str = "scene",
    *,
    height: int = 300,
    width: int = 420,
    seed: int = 0,
    labels: np.ndarray | None = None,
    with_confidence: bool = False,
    tiles: Sequence[Path] = (),
    **profile: Any,
) -> MadeMap:
    """Write a scene, a class map of it that knows it or its tiles, and confidences if asked for."""
    labels = blobs(height, width, seed) if labels is None else labels
    height, width = labels.shape
    random = np.random.default_rng(seed + 1)
    hues = np.array([(170, 90, 80), (190, 175, 140), (130, 130, 135), (40, 80, 120)])
    shown = hues[np.minimum(labels, len(hues) - 1)] + random.integers(-14, 14, (height, width, 3))
    pixels = np.moveaxis(np.clip(shown, 0, 255).astype(np.uint8), -1, 0)
    scene = write_scene(folder / f"{name}.tif", pixels, **profile)
    path = folder / f"{name}_classes.tif"
    confidence, beside = None, []
    if with_confidence:
        confidence = random.integers(60, 251, labels.shape, dtype=np.uint8)
        confidence[labels == 255] = 255
        beside = [folder / f"{name}_confidence.tif"]
        write_scene(beside[0], confidence[None], nodata=255, **profile)
        with rasterio.open(beside[0], "r+") as file:
            tags = {"CONTENT": "confidence", **MADE_BY}
            file.update_tags(**{f"HRRSI_{key}": value for key, value in tags.items()})
    with rasterio.open(scene) as dataset:
        write_class_raster(
            path,
            dataset,
            [labels],
            classes=CLASSES,
            colours=COLOURS,
            has_nodata=bool((labels == 255).any()),
            provenance=MADE_BY,
            beside=beside,
            scene_path=[str(tile) for tile in tiles] or str(scene),
        )
    return MadeMap(path, scene, labels, pixels, confidence)


def asked(viewer: Any, path: str) -> Any:
    """Return what the viewer answers to a request: JSON, or a picture."""
    with urlopen(viewer.address + path, timeout=20) as answer:
        content = answer.read()
    if answer.headers["Content-Type"] == "image/png":
        return Image.open(io.BytesIO(content))
    return json.loads(content)


def described(viewer: Any, place: int = 0) -> dict[str, Any]:
    """Return what the page knows of a place."""
    return asked(viewer, "view.json")["places"][place]


def counted(viewer: Any, place: int = 0) -> dict[str, Any]:
    """Return what has been counted, once all has."""
    for _ in range(400):
        counts = asked(viewer, f"counts/{place}.json")
        if counts["done"] == 1 or counts["failure"]:
            return counts
    raise AssertionError("counting never ended")


def layer_named(viewer: Any, label: str, place: int = 0) -> int:
    """Return the number of a layer."""
    return [layer["label"] for layer in described(viewer, place)["layers"]].index(label)


def whole_layer(viewer: Any, number: int, level: int = 0, place: int = 0) -> np.ndarray:
    """Return a level of a layer, put together from its tiles: indices, or RGBA of a scene."""
    description = described(viewer, place)
    height, width = (-(-description[side] >> level) for side in ("height", "width"))
    is_scene = description["layers"][number]["kind"] == "scene"
    rows = []
    for row in range(-(-height // 256)):
        tiles = [
            asked(viewer, f"tile/{place}/{number}/{level}/{row}/{column}.png")
            for column in range(-(-width // 256))
        ]
        arrays = [np.asarray(tile.convert("RGBA") if is_scene else tile) for tile in tiles]
        rows.append(np.concatenate(arrays, axis=1))
    return np.concatenate(rows)[:height, :width]
