"""Pixels and areas of the classes of a map."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hrrsi.maps.label_runs import Labels
from hrrsi.scenes.pixel_area import exact_areas


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
