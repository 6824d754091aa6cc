"""Where a raster's pixels lie on the map: by its transform, or by ground control points."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.transform import GCPTransformer
from rasterio.transform import array_bounds as bounds_of_transform

Numbers = npt.NDArray[np.float64]

_SAME_PLACE = 1e-3  # of a pixel


class MapCoordinates(Protocol):
    """Between pixels and map coordinates; (0, 0) is the first pixel's outer corner.

    Attributes:
        crs: The map's CRS, or None.
    """

    crs: CRS | None

    def of_pixels(self, columns: Numbers, rows: Numbers) -> tuple[Numbers, Numbers]:
        """Return the map coordinates x, y of places in pixels."""

    def pixels_of(self, x: Numbers, y: Numbers) -> tuple[Numbers, Numbers]:
        """Return the columns and rows of places on the map."""

    def bounds(self) -> tuple[float, float, float, float]:
        """Return the raster's least x and y, and its largest."""

    def pixel_area(self) -> float:
        """Return the area of the pixel at the centre, in square map units; 0 without a place."""


class _ByTransform:
    def __init__(self, dataset: Any) -> None:
        self.crs = dataset.crs
        self._transform = dataset.transform
        self._shape = (dataset.height, dataset.width)

    def of_pixels(self, columns: Numbers, rows: Numbers) -> tuple[Numbers, Numbers]:
        x, y = self._transform * (columns, rows)
        return x, y

    def pixels_of(self, x: Numbers, y: Numbers) -> tuple[Numbers, Numbers]:
        columns, rows = ~self._transform * (x, y)
        return columns, rows

    def bounds(self) -> tuple[float, float, float, float]:
        left, bottom, right, top = bounds_of_transform(*self._shape, self._transform)
        return min(left, right), min(bottom, top), max(left, right), max(bottom, top)

    def pixel_area(self) -> float:
        return abs(float(self._transform.determinant))


class _ByControlPoints:
    """The polynomial through ground control points that GDAL uses too, of a degree up to 3."""

    def __init__(self, dataset: Any) -> None:
        points, self.crs = dataset.gcps
        self._transformer = GCPTransformer(points)
        self._height, self._width = dataset.height, dataset.width

    def of_pixels(self, columns: Numbers, rows: Numbers) -> tuple[Numbers, Numbers]:
        x, y = self._transformer.xy(rows, columns, offset="ul")
        return np.asarray(x), np.asarray(y)

    def pixels_of(self, x: Numbers, y: Numbers) -> tuple[Numbers, Numbers]:
        rows, columns = self._transformer.rowcol(x, y, op=np.asarray)
        return np.asarray(columns), np.asarray(rows)

    def bounds(self) -> tuple[float, float, float, float]:
        along = np.linspace(0, 1, 33)
        columns = np.concatenate([along, along, along * 0, along * 0 + 1]) * self._width
        rows = np.concatenate([along * 0, along * 0 + 1, along, along]) * self._height
        x, y = self.of_pixels(columns, rows)
        return float(x.min()), float(y.min()), float(x.max()), float(y.max())

    def pixel_area(self) -> float:
        column, row = self._width / 2, self._height / 2
        x, y = self.of_pixels(np.array([0, 1, 0]) + column, np.array([0, 0, 1]) + row)
        return abs(float((x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])))


def map_coordinates(dataset: Any) -> MapCoordinates:
    """Return where the pixels of a rasterio dataset lie on the map.

    Ground control points count where the raster has no transform; at least three are needed.
    """
    points, _ = dataset.gcps
    if dataset.transform.is_identity and len(points) >= 3:
        with suppress(CPLE_BaseError):  # points on a line fix no polynomial: as if there were none
            return _ByControlPoints(dataset)
    return _ByTransform(dataset)


def has_transform(dataset: Any) -> bool:
    """Return whether a rasterio dataset has a place on the map by its transform."""
    return not dataset.transform.is_identity


def is_same_grid(first: Any, second: Any) -> bool:
    """Return whether two rasterio datasets lie on each other, pixel by pixel.

    Of those of one size, that is taken for granted where not both have a transform.
    """
    if first.shape != second.shape:
        return False
    if not (has_transform(first) and has_transform(second)):
        return True
    if first.crs and second.crs and first.crs != second.crs:
        return False
    corners = [(0, 0), (second.width, 0), (0, second.height)]
    places = [~second.transform * (first.transform * corner) for corner in corners]
    return bool(np.abs(np.subtract(places, corners)).max() < _SAME_PLACE)
