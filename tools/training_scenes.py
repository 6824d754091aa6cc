"""Scenes and schemes as the training of the packaged weights reads them.

A set is a folder with ``images/``, ``labels/`` and ``scheme.yaml``; its labels are the five classes
of the packaged weights, or several of these together where nobody knows more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2  # comes with imgaug
import numpy as np
import numpy.typing as npt
import rasterio
import yaml

IGNORED = 255
# metres over which colours are averaged before their green counts: leaves and JPEG are noisy
GREEN_BLUR = 0.2
# the mean of the bands below which a colour says nothing
DARK = 30
# the share of all light by which blue leads red in water and in blue roofs
TURQUOISE = 0.05
CLASSES = {
    "Building": (227, 26, 28),
    "Land": (235, 214, 170),
    "Road": (120, 120, 120),
    "Vegetation": (51, 140, 60),
    "Water": (38, 115, 200),
}


def label_index(labels: list[list[str]], classes: list[str]) -> int:
    """Return the value of a label in label rasters: a class' own, or one after the classes."""
    if len(classes) == 1:
        return list(CLASSES).index(classes[0])
    together = [label for label in labels if len(label) > 1]
    return len(CLASSES) + together.index(classes)


def write_scheme(out: Path, name: str, labels: list[list[str]]) -> None:
    """Write the scheme of a set, ``scheme.yaml``."""
    together = [label for label in labels if len(label) > 1]
    scheme = {
        "name": name,
        "classes": [{"name": each, "colour": list(CLASSES[each])} for each in CLASSES],
        "partial": [
            {
                "name": " or ".join(label),
                "classes": label,
                # of no meaning, but distinct: the mean of the classes' colours, and a number
                "colour": [*np.mean([CLASSES[c][:2] for c in label], 0).astype(int).tolist(), n],
            }
            for n, label in enumerate(together)
        ],
        "images": ["images/{scene}.tif"],
        "labels": ["labels/{scene}.tif"],
        "label_format": "indices",
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "scheme.yaml").write_text(yaml.safe_dump(scheme, sort_keys=False), encoding="utf-8")


def write_scene(
    out: Path,
    name: str,
    image: npt.NDArray[np.uint8],
    label: npt.NDArray[np.uint8],
    crs: Any,
    transform: Any,
    nodata: int | None = None,
) -> None:
    """Write a scene (3, height, width), and its label (height, width)."""
    place = {"crs": crs, "transform": transform, "compress": "deflate"}
    for kind, pixels, missing in (("images", image, nodata), ("labels", label[None], IGNORED)):
        path = out / kind / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        bands, height, width = pixels.shape
        shape = {"count": bands, "height": height, "width": width, "dtype": "uint8"}
        with rasterio.open(path, "w", driver="GTiff", nodata=missing, **shape, **place) as dataset:
            dataset.write(pixels)


def green_excess(image: npt.NDArray[np.uint8], metres_per_pixel: float) -> npt.NDArray[np.float32]:
    """Return by how much green leads: what tells vegetation where no near infrared was taken.

    Source: Woebbecke et al. 1995, "Color indices for weed identification under various soil,
    residue, and lighting conditions": 2g - r - b of the bands' shares of their sum.

    Args:
        image: (3, height, width): red, green, blue.
        metres_per_pixel: Its ground resolution.

    Returns:
        (height, width), -1 to 2; 0 for greys. Not a number where it tells nothing: in the dark, and
        of turquoise, which pools have.
    """
    values = image.transpose(1, 2, 0).astype(np.float32)
    values = cv2.GaussianBlur(values, (0, 0), max(0.3, GREEN_BLUR / metres_per_pixel))
    red, green, blue = values.transpose(2, 0, 1)
    total = np.maximum(red + green + blue, 1)
    excess = (2 * green - red - blue) / total
    excess[(total < 3 * DARK) | (blue - red > TURQUOISE * total)] = np.nan
    return np.asarray(excess, np.float32)
