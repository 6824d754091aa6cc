"""What a map holds of each class: pixels, and the ground that they cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hrrsi.classes import Colour
from hrrsi.maps.rasters import map_strips
from hrrsi.maps.regions.components import Labels
from hrrsi.scenes.georeference import exact_areas, pixel_areas


@dataclass(frozen=True)
class MapSummary:
    """What a map holds of each class.

    Attributes:
        scene: The raster that it shows, as given.
        height: Rows of pixels.
        width: Columns of pixels.
        classes: Class names in the order of their indices.
        colours: Class colours (red, green, blue, 0 to 255), likewise.
        class_pixels: Pixels of each class.
        nodata_pixels: Pixels without data.
        pixel_area: Square metres of a pixel in the middle of the scene, or None where the ground
            resolution is not known.
        areas: Square metres of each class on the ground, or None where they are not known.
    """

    scene: str
    height: int
    width: int
    classes: list[str]
    colours: list[Colour]
    class_pixels: list[int]
    nodata_pixels: int
    pixel_area: float | None
    areas: list[float] | None

    @property
    def shares(self) -> list[float]:
        """Share of each class in the pixels that hold data, 0 to 1."""
        return [n / max(1, sum(self.class_pixels)) for n in self.class_pixels]


class ClassAreas:
    """Counts the pixels of each class, and the ground that they cover, strip by strip.

    Args:
        num_classes: Number of classes.
        areas: (height,) square metres of a pixel in each row (`pixel_areas`), or None.
    """

    def __init__(self, num_classes: int, areas: npt.NDArray[np.float64] | None) -> None:
        self._exact = None if areas is None else exact_areas(areas)
        self._same = areas is not None and bool((areas == areas[0]).all())
        self._counts = np.zeros(256, dtype=np.int64)
        self._units = np.zeros(num_classes, dtype=np.int64)
        self._row = 0

    def add(self, labels: Labels) -> None:
        """Count the next strip, (rows, width) class indices, 255 where there is no data."""
        # row by row: counting needs eight bytes a pixel
        rows = np.stack([np.bincount(row, minlength=256) for row in labels])
        self._counts += rows.sum(axis=0)
        if self._exact is not None and not self._same:
            units = self._exact.units[self._row : self._row + len(labels)]
            self._units += units @ rows[:, : len(self._units)]
        self._row += len(labels)

    @property
    def pixels(self) -> list[int]:
        """Pixels of each class."""
        return [int(n) for n in self._counts[: len(self._units)]]

    @property
    def nodata_pixels(self) -> int:
        """Pixels without data."""
        return int(self._counts.sum()) - sum(self.pixels)

    @property
    def areas(self) -> list[float] | None:
        """Square metres of each class, or None where they are not known."""
        if self._exact is None:
            return None
        if self._same:
            return [n * (2**30 * self._exact.unit) for n in self.pixels]
        return [int(n) * self._exact.unit for n in self._units]


def map_areas(path: Path, dataset: Any, class_pixels: Sequence[int]) -> list[float] | None:
    """Return the square metres of each class of a finished map, or None where they are not known.

    Args:
        path: The map.
        dataset: The rasterio dataset of its scene.
        class_pixels: Pixels of each class.
    """
    by_row = pixel_areas(dataset)
    if by_row is None:
        return None
    if (by_row == by_row[0]).all():
        return [pixels * float(by_row[0]) for pixels in class_pixels]
    areas = ClassAreas(len(class_pixels), by_row)
    for labels in map_strips(path):
        areas.add(labels)
    return areas.areas
