"""Areas of classes, in zones and in all, against one zone after the other on the whole map."""

import csv
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.features import geometry_mask
from rasterio.transform import Affine, from_bounds, from_origin
from rasterio.warp import transform_geom

from hrrsi.errors import InputError
from hrrsi.maps.rasters import ClassAreas
from hrrsi.maps.zones import ZoneAreas, zone_areas
from hrrsi.scenes.georeference import pixel_areas
from hrrsi.scenes.raster_opening import open_raster
from hrrsi.scenes.scene import open_scene

NODATA = 255
CLASSES = ["Building", "Land", "Road"]
UTM = from_origin(500_000, 5_600_000, 0.5, 0.5)
SHAPE = (120, 160)


def strips(labels: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    return (labels[row : row + rows] for row in range(0, len(labels), rows))


@pytest.fixture
def labels() -> np.ndarray:
    rng = np.random.default_rng(3)
    labels = np.kron(rng.integers(0, 3, (24, 32)), np.ones((5, 5))).astype(np.uint8)
    labels[40:60, 90:] = NODATA
    return labels


def scene_file(
    path: Path,
    shape: tuple[int, int] = SHAPE,
    crs: str | None = "EPSG:32632",
    transform: Affine | None = UTM,
) -> Path:
    profile = {"height": shape[0], "width": shape[1], "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **profile):
        return path


def zone_file(path: Path, zones: list, crs: str | None = "EPSG:32632", **fields: list) -> Path:
    pyogrio.raw.write(
        path,
        shapely.to_wkb(np.array(zones, dtype=object)),
        [np.array(values) for values in fields.values()],
        list(fields),
        geometry_type="Unknown",
        crs=crs,
    )
    return path


def areas_of(zones: Path, scene: Path, labels: np.ndarray, rows: int = 64, **options) -> ZoneAreas:
    with open_scene(scene, expected_bands=1) as opened:
        return zone_areas(zones, opened, strips(labels, rows), CLASSES, **options)


def counted(labels: np.ndarray, zone, transform: Affine = UTM) -> list[int]:
    inside = geometry_mask([zone], labels.shape, transform, invert=True)
    return [int(((labels == c) & inside).sum()) for c in range(len(CLASSES))]


def blobs(number: int, transform: Affine = UTM) -> list:
    """Return round zones, many of which overlap, some beyond the scene's edge."""
    rng = np.random.default_rng(number)
    return [
        shapely.Point(transform @ tuple(rng.uniform((-5, -5), (165, 125)))).buffer(size)
        for size in rng.uniform(0.1, 15, number)
    ]


@pytest.mark.parametrize("transform", [UTM, UTM @ Affine.rotation(25) @ Affine.scale(1, 2)])
def test_overlapping_zones_count_each(tmp_path: Path, labels: np.ndarray, transform: Affine):
    scene = scene_file(tmp_path / "scene.tif", transform=transform)
    blob_zones = blobs(60, transform)
    zones = zone_file(tmp_path / "zones.gpkg", blob_zones, name=[f"z{i}" for i in range(60)])
    expected = [counted(labels, zone, transform) for zone in blob_zones]
    assert np.any(expected)
    for rows in (1, 7, 64, 120):
        zone_areas = areas_of(zones, scene, labels, rows)
        np.testing.assert_array_equal(zone_areas.pixels, expected)
        np.testing.assert_allclose(
            zone_areas.areas, np.array(expected) * abs(transform.determinant)
        )
        assert zone_areas.names == [f"z{i}" for i in range(60)]


def test_zones_cut_by_many_strips_are_whole(
    tmp_path: Path, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("hrrsi.maps.zones._STRIP_PIXELS", 7 * SHAPE[1])
    scene = scene_file(tmp_path / "scene.tif")
    fine = [shapely.segmentize(zone, 0.01) for zone in blobs(20)]  # over a thousand corners
    bow_tie = shapely.Polygon([UTM @ p for p in ((9, 9), (60, 70), (60, 9), (9, 70))])
    zones = zone_file(tmp_path / "zones.gpkg", [*fine, bow_tie])
    zone_areas = areas_of(zones, scene, labels)
    np.testing.assert_array_equal(zone_areas.pixels, [counted(labels, z) for z in [*fine, bow_tie]])


def test_a_grid_of_zones_adds_up(tmp_path: Path, labels: np.ndarray):
    """Zones that share borders, through pixel centres, don't count a pixel twice or never."""
    edges = [10.5, 20.5, 60.5, 61.5, 90.5]
    cells = [
        shapely.box(*(UTM @ (left, bottom)), *(UTM @ (right, top)))
        for left, right in pairwise(edges)
        for top, bottom in pairwise(edges)
    ]
    scene = scene_file(tmp_path / "scene.tif")
    zone_areas = areas_of(zone_file(tmp_path / "zones.fgb", cells), scene, labels)
    total = zone_areas.pixels.sum() + zone_areas.nodata_pixels.sum()
    assert total == 80 * 80


def test_zones_of_another_crs(tmp_path: Path, labels: np.ndarray):
    inside = shapely.Polygon(
        [UTM @ p for p in ((20.3, 15.1), (75.7, 33.2), (44.1, 97.6), (21, 60.8))]
    )
    shape = transform_geom("EPSG:32632", "EPSG:4326", shapely.geometry.mapping(inside))
    far = shapely.box(100, 10, 101, 11)
    beyond = shapely.box(-170, -91, -169, -90)
    zones = zone_file(
        tmp_path / "zones.gpkg",
        [far, shapely.geometry.shape(shape), beyond],
        "EPSG:4326",
        ZONE=["far", "here", "pole"],
    )
    zone_areas = areas_of(zones, scene_file(tmp_path / "scene.tif"), labels)
    assert zone_areas.names == ["far", "here", "pole"]
    np.testing.assert_array_equal(zone_areas.pixels[[0, 2]], 0)
    np.testing.assert_array_equal(zone_areas.nodata_pixels[[0, 2]], 0)
    np.testing.assert_array_equal(zone_areas.pixels[1], counted(labels, inside))


def test_names_of_zones(tmp_path: Path, labels: np.ndarray):
    boxes = [shapely.box(500_000, 5_599_950, 500_010, 5_600_000)] * 2
    scene = scene_file(tmp_path / "scene.tif")
    named = zone_file(
        tmp_path / "zones.gpkg", boxes, code=[7, 8], GEN_NAME=["Nord", ""], Name=["A", "Ö,b"]
    )
    assert areas_of(named, scene, labels).names == ["A", "Ö,b"]
    assert areas_of(named, scene, labels, attribute="code").names == ["7", "8"]
    assert areas_of(named, scene, labels, attribute="GEN_NAME").names == ["Nord", "2"]
    plain = zone_file(tmp_path / "plain.gpkg", boxes, code=[7, 8])
    zone_areas = areas_of(plain, scene, labels)
    assert zone_areas.names == ["1", "2"] == [str(f) for f in zone_areas.features]
    with pytest.raises(InputError, match=r"no attribute 'nme'.*code, GEN_NAME, Name"):
        areas_of(named, scene, labels, attribute="nme")


def test_csv_and_table(tmp_path: Path, labels: np.ndarray):
    boxes = [shapely.box(500_000, 5_599_940, 500_080, 5_600_000), shapely.box(0, 0, 1, 1)]
    zones = zone_file(tmp_path / "zones.gpkg", boxes, name=["all, of it", "none"])
    zone_areas = areas_of(zones, scene_file(tmp_path / "scene.tif"), labels)
    path = tmp_path / "areas.csv"
    zone_areas.write_csv(path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    counts = [int((labels == c).sum()) for c in range(3)]
    assert [r["zone"] for r in rows] == ["all, of it"] * 3 + ["none"] * 3
    assert [r["class"] for r in rows] == CLASSES * 2
    assert [int(r["pixels"]) for r in rows] == [*counts, 0, 0, 0]
    np.testing.assert_allclose(
        [float(r["share"]) for r in rows], [*(np.array(counts) / sum(counts)), 0, 0, 0], atol=1e-6
    )
    np.testing.assert_allclose(
        [float(r["area_m2"]) for r in rows], [*(np.array(counts) * 0.25), 0, 0, 0]
    )
    assert zone_areas.nodata_pixels.tolist() == [20 * 70, 0]
    text = zone_areas.text()
    assert "all, of it" in text
    assert f"{counts[0] / sum(counts):.2%}" in text
    assert zone_areas.text(most=1).endswith("... and 1 zone more")


def test_without_crs_zones_lie_on_pixels(tmp_path: Path, labels: np.ndarray):
    scene = scene_file(tmp_path / "plain.tif", crs=None, transform=None)
    box = shapely.box(10, 20, 50, 45)
    zone_areas = areas_of(zone_file(tmp_path / "zones.fgb", [box], None), scene, labels)
    np.testing.assert_array_equal(
        zone_areas.pixels[0], np.bincount(labels[20:45, 10:50].ravel(), minlength=3)
    )
    assert zone_areas.areas is None
    assert [row.area for row in zone_areas.rows()] == [None] * 3
    zone_areas.write_csv(tmp_path / "areas.csv")
    assert (tmp_path / "areas.csv").read_text().splitlines()[1].endswith(",")
    with pytest.raises(InputError, match="has no CRS"):
        areas_of(zone_file(tmp_path / "utm.fgb", [box]), scene, labels)


def ellipsoid_area(south: float, north: float, degrees: float) -> float:
    """Return the area between two latitudes over some degrees of longitude, in closed form."""
    a, e = 6378137.0, np.sqrt(0.00669437999014)

    def part(latitude: float) -> float:
        s = np.sin(np.radians(latitude))
        return s / (1 - (e * s) ** 2) + np.arctanh(e * s) / e

    return float(np.radians(degrees) * (a**2 * (1 - e**2) / 2) * (part(north) - part(south)))


def test_areas_of_degrees_are_those_of_the_ellipsoid(tmp_path: Path):
    labels = np.zeros((400, 300), dtype=np.uint8)
    labels[:100] = 1
    labels[100:130, 50:] = NODATA
    path = scene_file(
        tmp_path / "degrees.tif", labels.shape, "EPSG:4326", from_bounds(7, 46, 10, 50, 300, 400)
    )
    with open_raster(path) as dataset:
        areas = pixel_areas(dataset)
    assert areas is not None
    np.testing.assert_allclose(areas.sum() * 300, ellipsoid_area(46, 50, 3), rtol=1e-8)
    totals = []
    for rows in (1, 64, 400):
        counted_areas = ClassAreas(3, areas)
        for strip in strips(labels, rows):
            counted_areas.add(strip)
        totals.append(counted_areas.areas)
        assert counted_areas.pixels == [int((labels == c).sum()) for c in range(3)]
        assert counted_areas.nodata_pixels == 30 * 250
    assert totals[0] == totals[1] == totals[2]
    np.testing.assert_allclose(totals[0][1], ellipsoid_area(49, 50, 3), rtol=1e-8)
    zone = shapely.box(7, 49, 8.5, 49.5)
    zone_areas = areas_of(zone_file(tmp_path / "z.gpkg", [zone], "EPSG:4326"), path, labels)
    np.testing.assert_allclose(
        zone_areas.areas[0], [0, ellipsoid_area(49, 49.5, 1.5), 0], rtol=1e-8
    )


def test_pixels_of_projections_true_to_scale_have_their_own_area(tmp_path: Path):
    with open_raster(scene_file(tmp_path / "utm.tif")) as dataset:
        assert set(pixel_areas(dataset)) == {0.25}
    feet = scene_file(  # New York's grid, in feet
        tmp_path / "feet.tif", SHAPE, "EPSG:2263", from_origin(987_000, 212_000, 1, 1)
    )
    with open_raster(feet) as dataset:
        np.testing.assert_allclose(pixel_areas(dataset), 0.3048006096**2, rtol=1e-6)
    mercator = scene_file(
        tmp_path / "web.tif", SHAPE, "EPSG:3857", from_origin(1e6, 8_399_800, 1, 1)
    )
    with open_raster(mercator) as dataset:
        areas = pixel_areas(dataset)
    np.testing.assert_allclose(areas, 0.25, rtol=5e-3)
    assert (np.diff(areas) > 0).all()  # further south, a unit is more
    with open_raster(scene_file(tmp_path / "no.tif", SHAPE, None, None)) as dataset:
        assert pixel_areas(dataset) is None


def test_class_areas_of_a_national_grid_are_pixels_times_area():
    labels = np.array([[0, 1, 1, NODATA]] * 7, dtype=np.uint8)
    counted_areas = ClassAreas(3, np.full(7, 0.0081))
    counted_areas.add(labels)
    assert counted_areas.areas == [7 * 0.0081, 14 * 0.0081, 0.0]
    without = ClassAreas(3, None)
    without.add(labels)
    assert without.areas is None
    assert without.pixels == [7, 14, 0]


def test_zones_are_copied_with_a_column_for_each_class(tmp_path: Path, labels: np.ndarray):
    """Attributes keep their values and types, names that are taken get numbers."""
    first, second = (shapely.box(*(UTM @ (x, 50)), *(UTM @ (x + 20, 4))) for x in (3, 60))
    away = shapely.box(0, 0, 1, 1)
    shapes = [first, shapely.MultiPolygon([second, away]), away, None]
    properties = [
        {"fid": 7.5, "geom": 1, "Largest": True, "since": "2024-01-02", "tags": ["a", "ü"]},
        {"fid": None, "geom": 2**53 - 1, "Largest": False, "since": None, "tags": None},
        {"fid": 1.5, "geom": None, "Largest": None, "since": "2023-03-04", "tags": []},
        {"fid": 2.5, "geom": 4, "Largest": True, "since": None, "tags": None},
    ]
    features = [
        {"type": "Feature", "properties": p, "geometry": shapely.geometry.mapping(s) if s else None}
        for p, s in zip(properties, shapes, strict=True)
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
    content = {"type": "FeatureCollection", "crs": crs, "features": features}
    zones = tmp_path / "zones.geojson"
    zones.write_text(json.dumps(content), encoding="utf-8")
    path = tmp_path / "scene_zones.gpkg"
    areas_of(zones, scene_file(tmp_path / "scene.tif"), labels).write_polygons(
        path, zones, [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    )
    info = pyogrio.read_info(path, layer="zones")
    assert info["crs"] == "EPSG:32632"
    assert info["geometry_type"] == "MultiPolygon"
    kinds = dict(zip(info["fields"], info["dtypes"], strict=True))
    assert [kinds[name] for name in ("fid", "geom", "Largest", "since", "tags")] == [
        "float64", "int64", "bool", "datetime64[D]", "object"
    ]  # fmt: skip
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        rows = [dict(row) for row in database.execute("SELECT * FROM zones")]
        (style,) = database.execute("SELECT styleQML, f_geometry_column FROM layer_styles")
    assert [row["geom"] for row in rows] == [1, 2**53 - 1, None, 4]
    assert [row["Largest"] for row in rows] == [1, 0, None, 1]
    assert [row["since"] for row in rows] == ["2024-01-02", None, "2023-03-04", None]
    assert [row["tags"] for row in rows] == ['["a", "ü"]', None, "[]", None]
    for row, zone in zip(rows, (first, second), strict=False):
        pixels = np.array(counted(labels, zone))
        assert [row[f"{name}_m2"] for name in CLASSES] == (pixels / 4).tolist()
        assert [row[f"{name}_share"] for name in CLASSES] == (pixels / pixels.sum()).tolist()
        assert row["mapped_m2"] == pixels.sum() / 4
        assert row["largest_2"] == CLASSES[int(pixels.argmax())]
    for row in rows[2:]:  # beside the scene, or nowhere
        assert row["mapped_m2"] == 0
        assert row["largest_2"] is row["Road_share"] is None
    assert [row["feature"] for row in rows] == [0, 1, 2, 3]
    assert style["f_geometry_column"] == "geom_2"
    assert 'attr="largest_2"' in style["styleQML"]
    categories = [*ET.fromstring(style["styleQML"].split("\n", 1)[1]).iter("category")]
    assert [category.get("value") for category in categories] == [*CLASSES, ""]
    # a copy is as good as the zones
    again = areas_of(Path(f"{path}|layername=zones"), tmp_path / "scene.tif", labels)
    again.write_polygons(tmp_path / "again.gpkg", path, [(0, 0, 0)] * 3)
    fields = pyogrio.read_info(tmp_path / "again.gpkg", layer="zones")["fields"]
    assert {"Road_m2", "Road_m2_2", "largest_3"} <= set(fields)


def test_zones_without_crs_are_copied_with_pixels(tmp_path: Path, labels: np.ndarray):
    scene = scene_file(tmp_path / "plain.tif", crs=None, transform=None)
    zones = zone_file(tmp_path / "zones.fgb", [shapely.box(3, 4, 33, 44)], None, name=["süd"])
    areas_of(zones, scene, labels).write_polygons(tmp_path / "z.gpkg", zones, [(0, 0, 0)] * 3)
    meta, _, _, columns = pyogrio.raw.read(tmp_path / "z.gpkg", layer="zones")
    fields = dict(zip(meta["fields"], columns, strict=True))
    assert fields["name"][0] == "süd"
    assert fields["mapped_px"][0] == 1200
    assert [fields[f"{name}_px"][0] for name in CLASSES] == np.bincount(
        labels[4:44, 3:33].ravel(), minlength=3
    ).tolist()
