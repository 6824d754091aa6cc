"""Where a raster's pixels lie on the map, and how much of the ground they cover."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.transform import GCPTransformer, array_bounds as bounds_of_transform
from rasterio.warp import transform as transform_coordinates

from hrrsi.scenes.raster_opening import unified_gdal_errors

Numbers = npt.NDArray[np.float64]
_SAME_PLACE = 1e-3  # of a pixel
# How far a projection's units may be from metres on the ground to count as them.
_TRUE_TO_SCALE = 0.01


class GroundPixel(NamedTuple):
    """The pixel at a raster's centre, on the ground.

    Attributes:
        resolution: The ground sampling distance, in metres: that of a square of its area.
        across: Metres from it to the next column.
        down: Metres from it to the next row.
        north: Where true north is on a picture of the raster in which all directions have one
            scale: to the right and down, a vector of length 1.
    """

    resolution: float
    across: float
    down: float
    north: tuple[float, float]


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


@dataclass(frozen=True)
class RasterGrid:
    """Where pixels lie, as rasterio datasets say it of theirs.

    Attributes:
        name: As GDAL opens the raster.
        crs: The CRS, or None.
        transform: From columns and rows to the map.
        gcps: Ground control points, and their CRS.
        height: Rows.
        width: Columns.
    """

    name: str
    crs: CRS | None
    transform: Affine
    gcps: tuple[list[GroundControlPoint], CRS | None]
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.height, self.width


class ExactAreas(NamedTuple):
    """Areas of rows as whole numbers of a unit, whose sums are the same in any order.

    Attributes:
        units: (height,) int64, up to 2**30: no sum over 2**32 pixels overflows.
        unit: Square metres.
    """

    units: npt.NDArray[np.int64]
    unit: float


def map_coordinates(dataset: Any) -> MapCoordinates:
    """Return where the pixels of a rasterio dataset lie on the map.

    Ground control points count where the raster has no transform; at least three are needed.
    """
    points, _ = dataset.gcps
    if dataset.transform.is_identity and len(points) >= 3:
        # points on a line fix no polynomial: as if there were none
        with suppress(RasterioError), unified_gdal_errors():
            return _ByControlPoints(dataset)
    return _ByTransform(dataset)


def scaled_grid(dataset: Any, step: float) -> RasterGrid:
    """Return the grid that covers a rasterio dataset with pixels of another size.

    Both begin at one corner. Where the dataset has no place on the map, its columns and rows
    stand for one.

    Args:
        dataset: The dataset.
        step: How many of its pixels one of the grid is wide.
    """
    points, crs = dataset.gcps
    has_points_only = dataset.transform.is_identity and len(points) >= 3
    scaled = [
        GroundControlPoint(p.row / step, p.col / step, p.x, p.y, p.z, p.id, p.info) for p in points
    ]
    return RasterGrid(
        dataset.name,
        dataset.crs,
        dataset.transform if has_points_only else dataset.transform @ Affine.scale(step),
        (scaled, crs),
        *(max(1, math.ceil(n / step - 1e-6)) for n in dataset.shape),
    )


def pixel_coordinates(dataset: Any, step: float = 1.0) -> MapCoordinates:
    """Return where the pixels of `scaled_grid` lie in columns and rows of a rasterio dataset.

    Args:
        dataset: The dataset.
        step: As for `scaled_grid`.
    """
    grid = RasterGrid(dataset.name, None, Affine.identity(), ([], None), *dataset.shape)
    return _ByTransform(scaled_grid(grid, step))


def has_transform(dataset: Any) -> bool:
    """Return whether a rasterio dataset has a place on the map by its transform."""
    return not dataset.transform.is_identity


def is_on_earth(crs: CRS | None) -> bool:
    """Return whether a CRS has a place on the Earth: an engineering or local one has none."""
    return crs is not None and bool(crs.is_geographic or crs.is_projected)


def is_same_grid(first: Any, second: Any) -> bool:
    """Return whether two rasterio datasets lie on each other, pixel by pixel.

    Of those of one size, that is taken for granted where not both have a transform. A CRS without
    place on the Earth counts as none.
    """
    if first.shape != second.shape:
        return False
    if not (has_transform(first) and has_transform(second)):
        return True
    if is_on_earth(first.crs) and is_on_earth(second.crs) and first.crs != second.crs:
        return False
    corners = [(0, 0), (second.width, 0), (0, second.height)]
    places = [~second.transform @ (first.transform @ corner) for corner in corners]
    return bool(np.abs(np.subtract(places, corners)).max() < _SAME_PLACE)


def ground_resolution(dataset: Any) -> float | None:
    """Return a rasterio dataset's ground sampling distance in metres per pixel, or None.

    It is that of `ground_pixel`.
    """
    pixel = ground_pixel(dataset)
    return None if pixel is None else pixel.resolution


def ground_pixel(dataset: Any) -> GroundPixel | None:
    """Return how the pixel at a rasterio dataset's centre lies on the ground, or None.

    It is measured on the WGS 84 ellipsoid: the map units of a Web Mercator are far from metres on
    the ground. Where a projection is true to within 1 %, as national grids and UTM are, its own
    units count, so that 25 cm stay 25 cm. Ground control points count where there is no transform.

    A raster without CRS, or with one that has no place on the Earth, has no known resolution.
    """
    places = map_coordinates(dataset)
    crs = places.crs
    if crs is None or not is_on_earth(crs):
        return None
    pixel_area = places.pixel_area()
    if not (pixel_area and np.isfinite(pixel_area)):
        return None
    columns = dataset.width / 2 + np.array([0.0, 1.0, 0.0])
    rows = dataset.height / 2 + np.array([0.0, 0.0, 1.0])
    x, y = places.of_pixels(columns, rows)
    try:
        with unified_gdal_errors():
            longitudes, latitudes = transform_coordinates(crs, "EPSG:4326", x, y)
    except RasterioError:  # the CRS does not reach there
        return None
    longitudes, latitudes = _around(np.asarray(longitudes), longitudes[0]), np.asarray(latitudes)
    east, north = _metres_per_degree(latitudes[0])
    # metres to the east and to the north that a column and a row make
    steps = np.array(
        [(longitudes[1:] - longitudes[0]) * east, (latitudes[1:] - latitudes[0]) * north]
    )
    across, down = np.hypot(*steps)
    on_the_ground = float(np.sqrt(across * down))
    if not (np.isfinite(on_the_ground) and on_the_ground and np.linalg.det(steps)):
        return None
    resolution = on_the_ground
    if crs.is_projected:
        nominal = float(np.sqrt(pixel_area)) * float(crs.linear_units_factor[1])
        if abs(on_the_ground / nominal - 1) < _TRUE_TO_SCALE:
            resolution = nominal
    to_north = np.linalg.solve(steps, (0.0, 1.0)) * (across, down)
    right, below = (to_north / np.hypot(*to_north)).tolist()
    scale = resolution / on_the_ground
    return GroundPixel(resolution, float(across) * scale, float(down) * scale, (right, below))


def pixel_areas(dataset: Any) -> Numbers | None:
    """Return the ground area of a pixel in each row of a rasterio dataset, in square metres.

    Areas are taken on the WGS 84 ellipsoid, at the centre of each row: the square units of a Web
    Mercator or of degrees are far from square metres on the ground, and differ from row to row.
    Where a projection is true to within 1 % at the raster's centre, as national grids and UTM
    are, its own units count, in all rows. Ground control points count where there is no
    transform, in each row for itself: pixels of an oblique picture grow from row to row. Along a
    row all pixels count as the one in its middle.

    Returns:
        (height,) float64, or None where the raster has no CRS or one without place on the Earth.
    """
    places = map_coordinates(dataset)
    crs = places.crs
    if crs is None or not (crs.is_geographic or crs.is_projected):
        return None
    if crs.is_projected:
        nominal = places.pixel_area() * float(crs.linear_units_factor[1]) ** 2
        middle_areas = _ground_areas(places, dataset.width, np.array([dataset.height / 2]))
        if middle_areas is None or not nominal:
            return None
        if abs(np.sqrt(middle_areas[0] / nominal) - 1) < _TRUE_TO_SCALE:
            if has_transform(dataset):
                return np.full(dataset.height, nominal)
            unit = float(crs.linear_units_factor[1]) ** 2
            return _map_areas(places, dataset.width, np.arange(dataset.height) + 0.5) * unit
    return _ground_areas(places, dataset.width, np.arange(dataset.height) + 0.5)


def exact_areas(areas: Numbers) -> ExactAreas:
    """Return the areas of rows in units of 2**-30 of the largest one.

    Where all are equal, a sum times the unit is the number of pixels times the area.
    """
    unit = float(areas.max()) / 2**30
    return ExactAreas(np.rint(areas / unit).astype(np.int64), unit)


class _ByTransform:
    def __init__(self, dataset: Any) -> None:
        self.crs = dataset.crs
        self._transform = dataset.transform
        self._shape = (dataset.height, dataset.width)

    def of_pixels(self, columns: Numbers, rows: Numbers) -> tuple[Numbers, Numbers]:
        x, y = self._transform @ (columns, rows)
        return x, y

    def pixels_of(self, x: Numbers, y: Numbers) -> tuple[Numbers, Numbers]:
        columns, rows = ~self._transform @ (x, y)
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


def _around(longitudes: Numbers, middle: float) -> Numbers:
    """Return longitudes within 180 degrees of one, across the antimeridian where need be."""
    turned: Numbers = middle + (longitudes - middle + 180) % 360 - 180
    return turned


def _sides(places: MapCoordinates, width: int, rows: Numbers) -> tuple[Numbers, Numbers]:
    """Return where left, right, top and bottom of a pixel in the middle of the width lie.

    Returns:
        x and y of all left sides, at each of the rows, then of all right ones and so on.
    """
    columns = np.full_like(rows, width / 2)
    sides = ((-0.5, 0.0), (0.5, 0.0), (0.0, -0.5), (0.0, 0.5))
    return places.of_pixels(
        np.concatenate([columns + across for across, _ in sides]),
        np.concatenate([rows + down for _, down in sides]),
    )


def _map_areas(places: MapCoordinates, width: int, rows: Numbers) -> Numbers:
    """Return the area on the map of a pixel in the middle of the width at some rows."""
    xs, ys = (np.reshape(values, (4, -1)) for values in _sides(places, width, rows))
    across, down = (xs[1] - xs[0], ys[1] - ys[0]), (xs[3] - xs[2], ys[3] - ys[2])
    areas: Numbers = np.abs(across[0] * down[1] - across[1] * down[0])
    return areas


def _ground_areas(places: MapCoordinates, width: int, rows: Numbers) -> Numbers | None:
    """Return the ground area of a pixel in the middle of the width at some rows, or None."""
    xs, ys = _sides(places, width, rows)
    try:
        with unified_gdal_errors():
            coordinates = transform_coordinates(places.crs, "EPSG:4326", xs.tolist(), ys.tolist())
    except RasterioError:  # the CRS does not reach there
        return None
    longitudes, latitudes = np.reshape(coordinates, (2, 4, -1))
    east, north = _metres_per_degree(latitudes.mean(axis=0))
    degrees = longitudes[1::2] - longitudes[::2]
    degrees = np.where(np.abs(degrees) > 180, degrees - np.copysign(360, degrees), degrees)
    across_x, down_x = degrees * east
    across_y, down_y = (latitudes[1::2] - latitudes[::2]) * north
    areas: Numbers = np.abs(across_x * down_y - across_y * down_x)
    return areas if np.isfinite(areas).all() and areas.all() else None


def _metres_per_degree(latitudes: Numbers) -> tuple[Numbers, Numbers]:
    """Return the lengths of a degree of longitude and of latitude on the WGS 84 ellipsoid."""
    semi_major, eccentricity_squared = 6378137.0, 0.00669437999014
    curvature = 1 - eccentricity_squared * np.sin(np.radians(latitudes)) ** 2
    east = semi_major / np.sqrt(curvature) * np.cos(np.radians(latitudes))
    north = semi_major * (1 - eccentricity_squared) / curvature**1.5
    return np.radians(east), np.radians(north)
