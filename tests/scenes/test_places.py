"""Scenes and polygons around the world: the antimeridian, local CRS, orders of features."""

from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from PIL import Image
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.warp import transform
from samples.predicted_scenes import save_scene
from typer.testing import CliRunner

from hrrsi.cli import app
from hrrsi.errors import InputError, OptionError
from hrrsi.prediction.options import MapOptions
from hrrsi.scenes.polygons import scene_polygons
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.windows import Window

SIDE = 64
PLACE = {"crs": "EPSG:32640", "transform": from_origin(500000, 2790000, 0.3, 0.3)}
PIXELS = np.ones((3, SIDE, SIDE), np.uint8)
LOCAL = 'LOCAL_CS["site",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'


def write_polygons(
    path: Path, shapes: list[Any], values: list[int], crs: str, **options: Any
) -> Path:
    pyogrio.raw.write(
        path,
        np.array([shapely.to_wkb(shape) for shape in shapes], dtype=object),
        [np.array(values)],
        ["class"],
        geometry_type="Polygon",
        crs=crs,
        **options,
    )
    return path


def burned(scene_path: Path, polygons: Path) -> np.ndarray:
    with open_scene(scene_path) as scene:
        drawn = scene_polygons(polygons, scene, "class")
        codes = [int(str(value)) for value in drawn.values]
        return drawn.burned(Window(0, 0, SIDE, SIDE), codes, 255)


def test_pixels_across_the_antimeridian_have_their_size(tmp_path: Path) -> None:
    (x,), (y,) = transform("EPSG:4326", "EPSG:32760", [180], [-17])
    place = from_origin(x - 32.05 * 0.2, y + 6.4, 0.2, 0.2)
    path = save_scene(tmp_path / "a.tif", PIXELS, crs="EPSG:32760", transform=place)
    with open_scene(path) as scene:
        assert scene.resolution == pytest.approx(0.2)


@pytest.mark.parametrize("is_local", [True, False])
def test_a_local_crs_is_named(tmp_path: Path, is_local: bool) -> None:
    crs = CRS.from_wkt(LOCAL) if is_local else PLACE["crs"]
    path = save_scene(tmp_path / "a.tif", PIXELS, crs=crs, transform=from_origin(9, 9, 0.3, 0.3))
    shape = [shapely.box(0, 0, 99, 99)]
    own = "EPSG:32640" if is_local else LOCAL
    areas = write_polygons(tmp_path / "areas.gpkg", shape, [1], own)
    with (
        open_scene(path) as scene,
        pytest.raises(
            InputError, match="is in a local CRS without place on the Earth, so"
        ) as error,
    ):
        scene_polygons(areas, scene)
    assert str(error.value).startswith(str(path if is_local else areas))


@pytest.mark.parametrize("suffix", ["gpkg", "geojson"])
def test_the_last_polygon_of_the_file_counts(tmp_path: Path, suffix: str) -> None:
    path = save_scene(tmp_path / "a.tif", PIXELS, **PLACE)
    random = np.random.default_rng(0)
    corners = random.uniform((500000, 2789980), (500018, 2789998), (300, 2))
    shapes = [shapely.box(x, y, x + 3, y + 3) for x, y in corners]
    values = random.integers(0, 5, 300).tolist()
    options = {"SPATIAL_INDEX": "YES"} if suffix == "gpkg" else {}
    file = write_polygons(tmp_path / f"p.{suffix}", shapes, values, PLACE["crs"], **options)
    expected = np.full((SIDE, SIDE), 255)
    columns, rows = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5)
    xs, ys = 500000 + 0.3 * columns, 2790000 - 0.3 * rows
    for (x, y), value in zip(corners, values, strict=True):
        expected[(xs > x) & (xs < x + 3) & (ys > y) & (ys < y + 3)] = value
    np.testing.assert_array_equal(burned(path, file), expected)


def test_rings_that_cross_themselves_keep_their_area_in_another_crs(tmp_path: Path) -> None:
    path = save_scene(tmp_path / "a.tif", PIXELS, **PLACE)
    ring = [(500002, 2789998), (500017, 2789983), (500017, 2789998), (500002, 2789983)]
    same = write_polygons(tmp_path / "same.gpkg", [shapely.Polygon(ring)], [1], PLACE["crs"])
    xs, ys = transform(PLACE["crs"], "EPSG:32639", *zip(*ring, strict=True))
    other = shapely.Polygon(list(zip(xs, ys, strict=True)))
    moved = write_polygons(tmp_path / "moved.gpkg", [other], [1], "EPSG:32639")
    expected = burned(path, same)
    assert (expected == 1).sum() == pytest.approx(15 * 15 / 2 / 0.09, rel=0.03)
    assert (burned(path, moved) != expected).mean() < 0.01


def save_world_file_scene(folder: Path, prj: str | None) -> Path:
    """Write a picture whose place a world file says, and perhaps its CRS in another file."""
    path = folder / "a.png"
    Image.fromarray(np.moveaxis(PIXELS * 90, 0, -1)).save(path)
    (folder / "a.pgw").write_text("0.3\n0\n0\n-0.3\n500000.15\n2789999.85\n")
    if prj is not None:
        (folder / "a.prj").write_text(prj)
    return path


@pytest.mark.parametrize("version", ["WKT1_ESRI", "WKT2_2019"])
def test_the_prj_file_beside_a_world_file_counts(tmp_path: Path, version: str) -> None:
    text = CRS.from_epsg(32640).to_wkt(version=version)
    with open_scene(save_world_file_scene(tmp_path, text)) as scene:
        assert scene.dataset.crs.to_epsg() == 32640
        assert scene.resolution == pytest.approx(0.3)
        assert scene.dataset.transform.almost_equals(PLACE["transform"])
        np.testing.assert_array_equal(scene.read(Window(0, 0, SIDE, SIDE)), PIXELS * 90)
    shown = CliRunner().invoke(app, ["info", str(tmp_path / "a.png")]).stdout
    assert "EPSG:32640" in shown
    assert "PNG" in shown


def test_the_crs_of_scenes_without_one_can_be_named(tmp_path: Path, made_weights: Path) -> None:
    path = save_world_file_scene(tmp_path, None)
    inside = shapely.box(500003, 2789985, 500012, 2789997)  # 30 x 40 px
    aoi = write_polygons(tmp_path / "aoi.gpkg", [inside], [1], "EPSG:32640")
    line = ["predict", path, "--weights", made_weights, "--aoi", aoi, "--out", tmp_path / "map.tif"]
    refused = CliRunner().invoke(app, list(map(str, line)))
    assert refused.exit_code == 1
    assert "a.png: has no CRS, but" in refused.stderr
    assert "name it with --crs" in refused.stderr
    result = CliRunner().invoke(app, [*map(str, line), "--crs", "EPSG:32640"])
    assert result.exit_code == 0, result.output
    with rasterio.open(tmp_path / "map.tif") as written:
        assert written.crs.to_epsg() == 32640
        assert written.transform.almost_equals(PLACE["transform"])
        assert int((written.read(1) != written.nodata).sum()) == 30 * 40
        assert '"crs": "EPSG:32640"' in written.tags()["HRRSI_OPTIONS"]


def test_a_crs_that_can_not_be_assigned_is_one_line(tmp_path: Path) -> None:
    placed = save_scene(tmp_path / "placed.tif", PIXELS, **PLACE)
    with open_scene(placed, crs="EPSG:32640"):
        pass  # what it says of itself
    with pytest.raises(InputError, match="is in EPSG:32640, not in EPSG:25832; leave `crs` out"):
        open_scene(placed, crs="EPSG:25832").__enter__()
    placeless = tmp_path / "b.png"
    Image.fromarray(np.moveaxis(PIXELS, 0, -1)).save(placeless)
    with open_scene(placeless) as scene:
        assert scene.dataset.crs is None
    with pytest.raises(InputError, match=r"b\.png: has neither a transform nor a world file"):
        open_scene(placeless, crs="EPSG:25832").__enter__()
    with pytest.raises(InputError, match=r"a\.prj: holds no coordinate reference system"):
        open_scene(save_world_file_scene(tmp_path, "nonsense")).__enter__()
    with pytest.raises(OptionError, match="`crs`: 'EPSG:nine' is no coordinate reference system"):
        MapOptions(crs="EPSG:nine")


def test_an_unknown_code_is_one_error_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionError, match="'EPSG:999999' is no coordinate reference system"):
        MapOptions(crs="EPSG:999999")
    assert capfd.readouterr().err == ""  # PROJ writes to the descriptor
