"""Ground resolution, against areas and lengths known from elsewhere."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import calculate_default_transform

from hrrsi.scenes.georeference import ground_pixel, ground_resolution
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


# 60 degrees north of Oslo's UTM zone, 2 degrees west of its central meridian; New York in feet
NORDIC, NEW_YORK = (7.0, 60.0), (-74.0, 40.7)


@pytest.mark.parametrize("turn", [0, 30, 200])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    ("crs", "place", "size"),
    [
        ("EPSG:32632", NORDIC, (0.5, 0.5)),
        ("EPSG:3857", NORDIC, (0.5, 0.25)),
        ("EPSG:4326", NORDIC, (4e-6, 4e-6)),
        ("EPSG:2263", NEW_YORK, (0.5, 1.0)),
    ],
)
def test_pixels_lie_on_the_ground_as_utm_says(
    tmp_path: Path,
    crs: str,
    place: tuple[float, float],
    size: tuple[float, float],
    mirrored: bool,
    turn: float,
) -> None:
    utm = "EPSG:32632" if place is NORDIC else "EPSG:32618"

    def moved(source: str, target: str, x: float, y: float) -> np.ndarray:
        return np.concatenate(rasterio.warp.transform(source, target, [x], [y]))

    middle = moved("EPSG:4326", crs, *place)
    sizes = (size[0], size[1] if mirrored else -size[1])
    # sheared where degrees are turned: no right angle stays one on the ground
    grid = (
        rasterio.Affine.translation(*middle)
        @ rasterio.Affine.rotation(turn)
        @ rasterio.Affine.scale(*sizes)
        @ rasterio.Affine.translation(-100, -50)
    )
    path = tmp_path / "a.tif"
    raster(path, crs, grid)
    with open_raster(path) as dataset:
        pixel = ground_pixel(dataset)
    assert pixel is not None
    there = moved(crs, utm, *middle)
    steps = [
        np.hypot(*(moved(crs, utm, *(grid @ (100 + c, 50 + r))) - there)) / 100
        for c, r in ((100, 0), (0, 100))
    ]
    # UTM's own scale there is within 0.04 % of 1
    assert (pixel.across, pixel.down) == pytest.approx(steps, rel=1e-3)
    assert pixel.resolution == pytest.approx(np.sqrt(steps[0] * steps[1]), rel=1e-3)
    # the pixel that is a little to the north
    column, row = ~grid @ tuple(moved("EPSG:4326", crs, place[0], place[1] + 1e-4))
    to_north = np.array([(column - 100) * steps[0], (row - 50) * steps[1]])
    assert pixel.north == pytest.approx((to_north / np.hypot(*to_north)).tolist(), abs=2e-3)
