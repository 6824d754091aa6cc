"""How much ground the pixels of a raster cover."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.warp import transform as transform_coordinates

from hrrsi.scenes.ground_resolution import TRUE_TO_SCALE, metres_per_degree
from hrrsi.scenes.map_coordinates import MapCoordinates, map_coordinates

Areas = npt.NDArray[np.float64]


class ExactAreas(NamedTuple):
    """Areas of rows as whole numbers of a unit, whose sums are the same in any order.

    Attributes:
        units: (height,) int64, up to 2**30: no sum over 2**32 pixels overflows.
        unit: Square metres.
    """

    units: npt.NDArray[np.int64]
    unit: float


def pixel_areas(dataset: Any) -> Areas | None:
    """Return the ground area of a pixel in each row of a rasterio dataset, in square metres.

    Areas are taken on the WGS 84 ellipsoid, at the centre of each row: the square units of a Web
    Mercator or of degrees are far from square metres on the ground, and differ from row to row.
    Where a projection is true to within 1 % at the raster's centre, as national grids and UTM
    are, its own units count, in all rows. Ground control points count where there is no
    transform.

    Returns:
        (height,) float64, or None where the raster has no CRS or one without place on the Earth.
    """
    places = map_coordinates(dataset)
    crs = places.crs
    if crs is None or not (crs.is_geographic or crs.is_projected):
        return None
    if crs.is_projected:
        nominal = places.pixel_area() * float(crs.linear_units_factor[1]) ** 2
        there = _ground_areas(places, dataset.width, np.array([dataset.height / 2]))
        if there is None or not nominal:
            return None
        if abs(np.sqrt(there[0] / nominal) - 1) < TRUE_TO_SCALE:
            return np.full(dataset.height, nominal)
    return _ground_areas(places, dataset.width, np.arange(dataset.height) + 0.5)


def exact_areas(areas: Areas) -> ExactAreas:
    """Return the areas of rows in units of 2**-30 of the largest one.

    Where all are equal, a sum times the unit is the number of pixels times the area.
    """
    unit = float(areas.max()) / 2**30
    return ExactAreas(np.rint(areas / unit).astype(np.int64), unit)


def _ground_areas(places: MapCoordinates, width: int, rows: Areas) -> Areas | None:
    """Return the ground area of a pixel in the middle of the width at some rows, or None."""
    columns = np.full_like(rows, width / 2)
    # left, right, top and bottom of each pixel
    sides = ((-0.5, 0.0), (0.5, 0.0), (0.0, -0.5), (0.0, 0.5))
    xs, ys = places.of_pixels(
        np.concatenate([columns + across for across, _ in sides]),
        np.concatenate([rows + down for _, down in sides]),
    )
    try:
        coordinates = transform_coordinates(places.crs, "EPSG:4326", xs.tolist(), ys.tolist())
    except (RasterioError, CPLE_BaseError):  # the CRS does not reach there
        return None
    longitudes, latitudes = np.reshape(coordinates, (2, 4, -1))
    east, north = metres_per_degree(latitudes.mean(axis=0))
    degrees = longitudes[1::2] - longitudes[::2]
    degrees = np.where(np.abs(degrees) > 180, degrees - np.copysign(360, degrees), degrees)
    across_x, down_x = degrees * east
    across_y, down_y = (latitudes[1::2] - latitudes[::2]) * north
    areas: Areas = np.abs(across_x * down_y - across_y * down_x)
    return areas if np.isfinite(areas).all() and areas.all() else None
