"""Ground resolution, against areas and lengths known from elsewhere."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import calculate_default_transform

from hrrsi.scenes.georeference import ground_resolution
from hrrsi.scenes.raster_opening import open_raster


def raster(path: Path, crs: str | None, transform: rasterio.Affine) -> float | None:
    with rasterio.open(
        path, "w", driver="GTiff", width=200, height=100, count=1, dtype="uint8", crs=crs,
        transform=transform,
    ) as dataset:  # fmt: skip
        dataset.write(np.ones((1, 100, 200), np.uint8))
    with open_raster(path) as dataset:
        return ground_resolution(dataset)


@pytest.mark.parametrize("crs", ["EPSG:28992", "EPSG:32631", "EPSG:25832"])
def test_national_grids_keep_their_own_units(tmp_path: Path, crs: str) -> None:
    place = (155_000, 463_000) if crs == "EPSG:28992" else (500_000, 5_500_000)
    assert raster(tmp_path / "a.tif", crs, from_origin(*place, 0.25, 0.25)) == 0.25


def test_feet_become_metres(tmp_path: Path) -> None:
    resolution = raster(tmp_path / "a.tif", "EPSG:2263", from_origin(980_000, 200_000, 0.5, 0.5))
    assert resolution == pytest.approx(0.5 * 1200 / 3937, rel=1e-6)


def test_mercators_agree_with_utm(tmp_path: Path) -> None:
    utm = from_origin(500_000, 5_770_000, 0.1, 0.1)  # 52 degrees north, on the central meridian
    bounds = rasterio.transform.array_bounds(100, 200, utm)
    for crs in ("EPSG:3857", "EPSG:3395"):
        transform, _, _ = calculate_default_transform("EPSG:32631", crs, 200, 100, *bounds)
        # that transform keeps the number of pixels along the diagonal
        assert raster(tmp_path / "a.tif", crs, transform) == pytest.approx(0.1, rel=0.05)
    (x,), (y,) = rasterio.warp.transform("EPSG:4326", "EPSG:3857", [3], [52])
    mercator = raster(tmp_path / "b.tif", "EPSG:3857", from_origin(x, y, 0.1, 0.1))
    assert mercator == pytest.approx(0.1 * np.cos(np.radians(52)), rel=0.005)


def test_degrees_have_their_length_on_the_ellipsoid(tmp_path: Path) -> None:
    # lengths of a degree at 45 degrees north, from the tables of the WGS 84 ellipsoid
    pixel = from_origin(7, 45, 1e-6, 1e-6)
    expected = 1e-6 * np.sqrt(111_131.8 * 78_846.8)
    assert raster(tmp_path / "a.tif", "EPSG:4326", pixel) == pytest.approx(expected, rel=1e-4)


def test_rotation_changes_nothing(tmp_path: Path) -> None:
    turned = from_origin(155_000, 463_000, 0.25, 0.25) @ rasterio.Affine.rotation(30)
    assert raster(tmp_path / "a.tif", "EPSG:28992", turned) == pytest.approx(0.25)


def test_no_crs_no_resolution(tmp_path: Path) -> None:
    assert raster(tmp_path / "a.tif", None, from_origin(0, 0, 0.1, 0.1)) is None
