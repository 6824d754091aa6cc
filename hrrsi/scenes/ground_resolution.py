"""A raster's ground sampling distance."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.warp import transform as transform_coordinates

from hrrsi.scenes.map_coordinates import map_coordinates

# How far a projection's units may be from metres on the ground to count as them.
TRUE_TO_SCALE = 0.01


def ground_resolution(dataset: Any) -> float | None:
    """Return a rasterio dataset's ground sampling distance in metres per pixel, or None.

    It is taken at the raster's centre, on the WGS 84 ellipsoid: the map units of a Web Mercator
    are far from metres on the ground. Where a projection is true to within 1 %, as national grids
    and UTM are, its own units count, so that 25 cm stay 25 cm. Ground control points count where
    there is no transform.

    A raster without CRS, or with one that has no place on the Earth, has no known resolution.
    """
    places = map_coordinates(dataset)
    crs = places.crs
    if crs is None or not (crs.is_geographic or crs.is_projected):
        return None
    pixel_area = places.pixel_area()
    if not (pixel_area and np.isfinite(pixel_area)):
        return None
    columns = dataset.width / 2 + np.array([0.0, 1.0, 0.0])
    rows = dataset.height / 2 + np.array([0.0, 0.0, 1.0])
    x, y = places.of_pixels(columns, rows)
    try:
        longitudes, latitudes = transform_coordinates(crs, "EPSG:4326", x, y)
    except (RasterioError, CPLE_BaseError):  # the CRS does not reach there
        return None
    east, north = metres_per_degree(np.asarray(latitudes[0]))
    across, down = (
        float(
            np.hypot((longitudes[i] - longitudes[0]) * east, (latitudes[i] - latitudes[0]) * north)
        )
        for i in (1, 2)
    )
    on_the_ground = float(np.sqrt(across * down))
    if crs.is_projected:
        nominal = float(np.sqrt(pixel_area)) * float(crs.linear_units_factor[1])
        if abs(on_the_ground / nominal - 1) < TRUE_TO_SCALE:
            return nominal
    return on_the_ground if np.isfinite(on_the_ground) and on_the_ground else None


def metres_per_degree(
    latitudes: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the lengths of a degree of longitude and of latitude on the WGS 84 ellipsoid."""
    semi_major, eccentricity_squared = 6378137.0, 0.00669437999014
    curvature = 1 - eccentricity_squared * np.sin(np.radians(latitudes)) ** 2
    east = semi_major / np.sqrt(curvature) * np.cos(np.radians(latitudes))
    north = semi_major * (1 - eccentricity_squared) / curvature**1.5
    return np.radians(east), np.radians(north)
