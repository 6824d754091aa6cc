"""Polygons of class maps, against rasterio's on the whole map at once."""

import json
import sqlite3
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.control import GroundControlPoint
from rasterio.features import shapes
from rasterio.transform import Affine, from_origin
from rasterio.warp import transform_geom
from samples.repository import REPOSITORY

from hrrsi.errors import HrrsiError, OutputError
from hrrsi.maps import vector_files
from hrrsi.maps.components import class_polygons
from hrrsi.maps.outputs import vector_parts
from hrrsi.maps.vector_files import write_class_polygons
from hrrsi.scenes.raster_opening import open_raster

NODATA = 255
CLASSES = ["Building", "Land", "Road", "Végétation & <co>", "Water"]
COLOURS = [(60, 16, 152), (132, 41, 246), (110, 193, 228), (254, 221, 58), (226, 169, 41)]
UTM = from_origin(500_000, 5_600_000, 0.1, 0.1)


def strips(labels: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    return (labels[row : row + rows] for row in range(0, len(labels), rows))


def scene_file(
    path: Path,
    shape: tuple[int, int],
    *,
    crs: str | None = "EPSG:32632",
    transform: Affine | None = UTM,
    points: list[GroundControlPoint] | None = None,
) -> Path:
    profile = {"height": shape[0], "width": shape[1], "count": 1, "dtype": "uint8"}
    if points:
        profile |= {"gcps": points, "crs": crs}
    else:
        profile |= {"transform": transform, "crs": crs}
    with rasterio.open(path, "w", driver="GTiff", **profile):
        return path


def written(path: Path, scene: Path, labels: np.ndarray, rows: int = 64, **options):
    with open_raster(scene) as dataset:
        count = write_class_polygons(
            path, dataset, strips(labels, rows), classes=CLASSES, colours=COLOURS, **options
        )
    layer = path.stem if path.suffix == ".shp" else "classes"
    meta, _, wkb, columns = pyogrio.raw.read(path, layer=layer)
    fields = dict(zip(meta["fields"], columns, strict=True))
    geometries = shapely.from_wkb(wkb)
    assert count == len(geometries)
    return geometries, fields, meta


def as_set(geometries: np.ndarray, values: np.ndarray) -> set[tuple[str, int]]:
    texts = shapely.to_wkb(shapely.normalize(geometries), hex=True)
    return set(zip(texts.tolist(), [int(v) for v in values], strict=True))


def expected(labels: np.ndarray, transform: Affine = UTM) -> set[tuple[str, int]]:
    polygons = list(shapes(labels, mask=labels != NODATA, connectivity=4, transform=transform))
    return as_set(
        np.array([shapely.geometry.shape(s) for s, _ in polygons], dtype=object),
        np.array([value for _, value in polygons]),
    )


@pytest.fixture(scope="module")
def textured() -> np.ndarray:
    """Labels as ragged as a real scene's brightness, with a corner without data."""
    with open_raster(REPOSITORY / "examples" / "dubai_tile1.tif") as dataset:
        labels = dataset.read(1)[300:460, 300:520] // 52
    labels[:60, 150:] = NODATA
    return labels


@pytest.fixture(scope="module")
def stepped(textured: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The polygons of `textured` as its pixels are."""
    folder = tmp_path_factory.mktemp("stepped")
    scene = scene_file(folder / "scene.tif", textured.shape)
    return written(folder / "stepped.gpkg", scene, textured)[0]


@pytest.mark.parametrize("number", range(30))
def test_polygons_are_rasterios_whatever_the_strips(number: int):
    rng = np.random.default_rng(number)
    height, width = rng.integers(1, 40, 2)
    labels = rng.integers(0, 3, (height, width)).astype(np.uint8)
    if number % 3:
        labels = np.kron(labels, np.ones((3, 2), dtype=np.uint8))
    if number % 2:
        labels[labels == 2] = NODATA
    reference = expected(labels, Affine.identity())
    for rows in (1, 2, 7, 64, 1000):
        parts = list(class_polygons(strips(labels, 5), *labels.shape, rows=rows))
        geometries = np.concatenate([part.geometries for part in parts])
        assert shapely.is_valid(geometries).all()
        assert as_set(geometries, np.concatenate([p.class_indices for p in parts])) == reference
        pixels = np.concatenate([part.pixels for part in parts])
        np.testing.assert_array_equal(pixels, shapely.area(geometries))


@pytest.mark.long
def test_files_hold_the_same_polygons_and_attributes(tmp_path: Path, textured: np.ndarray):
    scene = scene_file(tmp_path / "scene.tif", textured.shape)
    reference = expected(textured)
    for name in ("map.gpkg", "map.fgb"):
        geometries, fields, meta = written(tmp_path / name, scene, textured)
        assert meta["crs"] == "EPSG:32632"
        assert as_set(geometries, fields["class_index"]) == reference
        assert shapely.is_valid(geometries).all()
        assert shapely.is_ccw(shapely.get_exterior_ring(geometries)).all()
        assert fields["class"].tolist() == [CLASSES[i] for i in fields["class_index"]]
        np.testing.assert_allclose(fields["area_m2"], shapely.area(geometries), rtol=1e-6)
        np.testing.assert_allclose(fields["area_m2"], fields["pixels"] * 0.01, rtol=1e-12)
        assert fields["pixels"].sum() == (textured != NODATA).sum()


@pytest.mark.long
@pytest.mark.parametrize(
    ("suffix", "strips"),
    # formats differ in how the same polygons are written
    [
        (".gpkg", (1, 7, 64, None)),
        (".geojson", (7, None)),
        (".fgb", (7, None)),
        (".shp", (7, None)),
    ],
)
def test_files_are_the_same_bytes_whatever_the_strips(
    tmp_path: Path, textured: np.ndarray, suffix: str, strips: tuple[int | None, ...]
):
    scene = scene_file(tmp_path / "scene.tif", textured.shape)
    contents = set()
    for rows in strips:
        path = tmp_path / f"map{suffix}"
        written(path, scene, textured, rows or len(textured))
        contents.add(b"".join(part.read_bytes() for part in vector_parts(path)))
    assert len(contents) == 1
    assert not list(tmp_path.glob(".*"))


def test_geojson_is_in_longitude_and_latitude(tmp_path: Path):
    labels = np.zeros((600, 900), dtype=np.uint8)
    labels[100:200, 100:200] = 1
    scene = scene_file(tmp_path / "scene.tif", labels.shape, transform=UTM @ Affine.rotation(20))
    path = tmp_path / "map.geojson"
    geometries, fields, _ = written(path, scene, labels)
    content = json.loads(path.read_text())
    assert "crs" not in content
    assert shapely.is_ccw(shapely.get_exterior_ring(geometries)).all()
    polygons = shapes(labels, connectivity=4, transform=UTM @ Affine.rotation(20))
    for shape, value in polygons:
        there = shapely.geometry.shape(transform_geom("EPSG:32632", "EPSG:4326", shape))
        own = geometries[list(fields["class_index"]).index(value)]
        assert shapely.area(there.symmetric_difference(own)) < 1e-5 * there.area
    np.testing.assert_allclose(sorted(fields["area_m2"]), [100.0, 5300.0])


@pytest.mark.long
def test_rotated_transforms_place_polygons(tmp_path: Path, textured: np.ndarray):
    transform = UTM @ Affine.rotation(30) @ Affine.scale(1, 2)
    scene = scene_file(tmp_path / "scene.tif", textured.shape, transform=transform)
    geometries, fields, _ = written(tmp_path / "map.gpkg", scene, textured)
    assert shapely.is_valid(geometries).all()
    reference = expected(textured, transform)
    assert {value for _, value in as_set(geometries, fields["class_index"])} == {
        value for _, value in reference
    }
    assert len(geometries) == len(reference)
    total = shapely.union_all(geometries).area
    np.testing.assert_allclose(total, (textured != NODATA).sum() * 0.02, rtol=1e-6)
    np.testing.assert_allclose(fields["area_m2"], shapely.area(geometries), rtol=1e-6)


def test_ground_control_points_place_polygons(tmp_path: Path):
    labels = np.zeros((300, 400), dtype=np.uint8)
    labels[50:100, 60:200] = 2
    corners = [(0, 0), (0, 400), (300, 0), (300, 400)]
    points = [GroundControlPoint(r, c, *(UTM @ (c, r)), 0) for r, c in corners]
    scene = scene_file(tmp_path / "points.tif", labels.shape, points=points)
    geometries, fields, meta = written(tmp_path / "map.gpkg", scene, labels)
    assert meta["crs"] == "EPSG:32632"
    inner = geometries[list(fields["class_index"]).index(2)]
    left, top = UTM @ (60, 50)
    right, bottom = UTM @ (200, 100)
    np.testing.assert_allclose(inner.bounds, (left, bottom, right, top), atol=1e-4)
    np.testing.assert_allclose(sorted(fields["area_m2"]), [70.0, 1130.0], rtol=1e-4)


def test_areas_of_an_oblique_picture_are_those_of_its_polygons(tmp_path: Path):
    labels = np.repeat(np.arange(4, dtype=np.uint8) % 3, 75)[:, None].repeat(400, axis=1)
    points = []
    for row in np.linspace(0, 300, 7):
        for column in np.linspace(0, 400, 9):
            nearness = 1 - 0.4 * row / 300  # pixels are larger at the top
            x, y = UTM @ (200 + (column - 200) * nearness, row - 0.2 * row**2 / 300)
            points.append(GroundControlPoint(row, column, x, y, 0))
    scene = scene_file(tmp_path / "oblique.tif", labels.shape, points=points)
    geometries, fields, _ = written(tmp_path / "map.gpkg", scene, labels)
    areas = np.array([shape.area for shape in geometries])
    assert areas.max() > 1.8 * areas.min()
    np.testing.assert_allclose(fields["area_m2"], areas, rtol=0.01)


@pytest.mark.long
@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb"])
def test_without_crs_coordinates_are_pixels(tmp_path: Path, textured: np.ndarray, suffix: str):
    scene = scene_file(tmp_path / "plain.tif", textured.shape, crs=None, transform=None)
    geometries, fields, meta = written(tmp_path / f"map{suffix}", scene, textured)
    assert suffix == ".geojson" or meta["crs"] is None
    assert as_set(geometries, fields["class_index"]) == expected(textured, Affine.identity())
    assert all(area is None or np.isnan(area) for area in fields["area_m2"])


def test_areas_are_those_on_the_ground(tmp_path: Path):
    """On the Web Mercator of 60° north, a square unit is a quarter of a square metre."""
    labels = np.zeros((100, 100), dtype=np.uint8)
    labels[:, 50:] = 1
    transform = from_origin(1_000_000, 8_399_737.89, 0.5, 0.5)
    scene = scene_file(tmp_path / "web.tif", labels.shape, crs="EPSG:3857", transform=transform)
    _, fields, _ = written(tmp_path / "map.gpkg", scene, labels)
    shape = shapely.geometry.mapping(shapely.box(1_000_000, 8_399_687.89, 1_000_025, 8_399_737.89))
    in_utm = shapely.geometry.shape(transform_geom("EPSG:3857", "EPSG:32632", shape))
    assert fields["area_m2"][0] == fields["area_m2"][1]
    np.testing.assert_allclose(fields["area_m2"], in_utm.area, rtol=2e-3)


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".shp"])
def test_a_map_without_data_has_no_polygons(tmp_path: Path, suffix: str):
    labels = np.full((30, 40), NODATA, dtype=np.uint8)
    scene = scene_file(tmp_path / "scene.tif", labels.shape)
    geometries, _, _ = written(tmp_path / f"map{suffix}", scene, labels)
    assert len(geometries) == 0


def test_styles_show_class_colours(tmp_path: Path):
    labels = np.arange(5, dtype=np.uint8).repeat(20).reshape(10, 10)
    scene = scene_file(tmp_path / "scene.tif", labels.shape)
    written(tmp_path / "map.gpkg", scene, labels)
    with closing(sqlite3.connect(tmp_path / "map.gpkg")) as database:
        query = "SELECT styleQML FROM layer_styles WHERE f_table_name = 'classes' AND useAsDefault"
        ((inside,),) = database.execute(query).fetchall()
        ((check,),) = database.execute("PRAGMA integrity_check").fetchall()
    assert check == "ok"
    assert {name for name, _ in pyogrio.list_layers(tmp_path / "map.gpkg")} == {
        "classes",
        "layer_styles",
    }
    written(tmp_path / "map.fgb", scene, labels)
    # one file beside map and polygons shows both
    style = ET.fromstring((tmp_path / "map.qml").read_text(encoding="utf-8").split("\n", 1)[1])
    entries = [(e.get("value"), e.get("label")) for e in style.iter("paletteEntry")]
    assert entries == [(str(index), name) for index, name in enumerate(CLASSES)]
    beside = (tmp_path / "map.qml").read_text(encoding="utf-8")
    for text in (inside, beside):
        root = ET.fromstring(text.split("\n", 1)[1])
        assert [c.get("value") for c in root.iter("category")] == CLASSES
        fills = [o.get("value") for o in root.iter("Option") if o.get("name") == "color"]
        assert fills == [f"{r},{g},{b},255" for r, g, b in COLOURS]
    written(tmp_path / "other.fgb", scene, labels, style=False)
    assert not (tmp_path / "other.qml").exists()


def test_a_shapefile_is_read_by_what_knows_no_other_format(
    tmp_path: Path, textured: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    part = textured[50:150, 70:220]
    scene = scene_file(tmp_path / "scene.tif", part.shape)
    path = tmp_path / "map.shp"
    for ending in ("qix", "sbn", "dbf"):  # of other polygons, which were there before
        (tmp_path / f"map.{ending}").write_bytes(b"other")
    geometries, fields, meta = written(path, scene, part)
    endings = {"cpg", "dbf", "prj", "qml", "shp", "shx"}
    assert {p.name for p in tmp_path.glob("map.*")} == {f"map.{ending}" for ending in endings}
    assert as_set(geometries, fields["class_idx"]) == expected(part)
    assert list(fields) == ["class", "class_idx", "pixels", "area_m2"]
    assert fields["class"].tolist() == [CLASSES[i] for i in fields["class_idx"]]
    np.testing.assert_allclose(fields["area_m2"], fields["pixels"] * 0.01, rtol=1e-12)
    assert meta["crs"] == "EPSG:32632"
    assert (tmp_path / "map.prj").read_text().startswith('PROJCS["WGS_1984_UTM_Zone_32N"')
    assert (tmp_path / "map.cpg").read_text() == "UTF-8"
    assert "Végétation & <co>".encode() in (tmp_path / "map.dbf").read_bytes()
    # without a CRS, that of before is gone
    plain = scene_file(tmp_path / "plain.tif", part.shape, crs=None, transform=None)
    assert written(path, plain, part)[2]["crs"] is None
    assert not (tmp_path / "map.prj").exists()
    before = [p.read_bytes() for p in vector_parts(path) if p.exists()]
    monkeypatch.setattr(vector_files, "_LARGEST_SHAPEFILE", path.stat().st_size - 1)
    with pytest.raises(OutputError, match=r"map.shp: would take .* `vector=gpkg`"):
        written(path, scene, part)
    assert [p.read_bytes() for p in vector_parts(path) if p.exists()] == before
    monkeypatch.setattr(vector_files, "_LARGEST_SHAPEFILE", path.stat().st_size)
    written(path, scene, part)


def test_a_failure_leaves_what_was_there(tmp_path: Path, textured: np.ndarray):
    scene = scene_file(tmp_path / "scene.tif", textured.shape)
    path = tmp_path / "map.gpkg"
    path.write_text("before")
    killed = tmp_path / ".map.gpkg.partial-4194305.scratch"  # no process has that number
    killed.mkdir()
    (killed / "all.gpkg").write_text("half")

    def broken() -> Iterator[np.ndarray]:
        yield textured[:100]
        raise HrrsiError("the scene ends here")

    with open_raster(scene) as dataset, pytest.raises(HrrsiError, match="ends here"):
        write_class_polygons(path, dataset, broken(), classes=CLASSES, colours=COLOURS)
    assert path.read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.gpkg", "scene.tif"]
    with open_raster(scene) as dataset, pytest.raises(OutputError, match=r"\.gpkg.*\.geojson"):
        write_class_polygons(tmp_path / "map.kml", dataset, [], classes=CLASSES, colours=COLOURS)


@pytest.mark.long
def test_closed_polygons_are_not_held(textured: np.ndarray):
    labels = textured.copy()
    labels[::40] = NODATA  # so that no polygon stays open for long

    def peak(times: int) -> int:
        tracemalloc.start()
        tall = (labels for _ in range(times))
        for _ in class_polygons(tall, times * len(labels), labels.shape[1], rows=100):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(1)
    assert peak(6) < 1.2 * peak(2)


@pytest.mark.long
@pytest.mark.parametrize("metres", [0.1, 0.4])  # a pixel, and far more
def test_simplified_polygons_share_their_borders(
    tmp_path: Path, textured: np.ndarray, stepped: Any, metres: float
):
    scene = scene_file(tmp_path / "scene.tif", textured.shape)
    geometries, fields, _ = written(tmp_path / "map.gpkg", scene, textured, simplify=metres)
    assert len(geometries) == len(stepped)
    assert shapely.is_valid(geometries).all()
    # the map's own, whatever the outlines
    np.testing.assert_array_equal(fields["pixels"], np.rint(shapely.area(stepped) / 0.01))
    corners = shapely.get_num_coordinates(geometries).sum()
    assert corners < (0.75 if metres > 0.1 else 0.95) * shapely.get_num_coordinates(stepped).sum()
    # no polygon lies on another, and none leaves a gap: they cover what they did
    assert shapely.area(geometries).sum() == pytest.approx(
        shapely.area(shapely.union_all(geometries)), rel=1e-9
    )
    moved = shapely.area(
        shapely.symmetric_difference(shapely.union_all(geometries), shapely.union_all(stepped))
    )
    assert moved <= 0.02 * shapely.area(stepped).sum()
    # and each stays where it was, for most of its area
    changed = shapely.area(shapely.symmetric_difference(geometries, stepped))
    large = shapely.area(stepped) > 100 * metres**2
    assert (changed[large] < 0.5 * shapely.area(stepped)[large]).all()


def test_a_stair_becomes_a_line(tmp_path: Path):
    labels = np.tri(64, dtype=np.uint8)  # two triangles along a stair of single pixels
    scene = scene_file(tmp_path / "scene.tif", labels.shape)
    geometries, _, _ = written(tmp_path / "map.gpkg", scene, labels, simplify=0.1)
    assert max(shapely.get_num_coordinates(geometries)) < 10
    assert max(shapely.get_num_coordinates(written(tmp_path / "s.gpkg", scene, labels)[0])) > 100


def test_only_some_classes(tmp_path: Path, textured: np.ndarray):
    part = textured[:100, :100]
    scene = scene_file(tmp_path / "scene.tif", part.shape)
    for options in ({}, {"simplify": 0.2}):
        every, fields, _ = written(tmp_path / "all.gpkg", scene, part, **options)
        some, chosen, _ = written(
            tmp_path / "some.gpkg", scene, part, only=["Road", "Land"], **options
        )
        kept = np.isin(fields["class"], ["Road", "Land"])
        assert 0 < kept.sum() < len(every)
        assert list(chosen["class"]) == list(fields["class"][kept])
        assert shapely.equals_exact(some, every[kept]).all()
    none, _, _ = written(tmp_path / "none.gpkg", scene, np.minimum(part, 3), only=["Water"])
    assert not len(none)


def test_a_map_without_any_data_has_no_polygons_to_simplify(tmp_path: Path):
    empty = np.full((8, 9), NODATA, dtype=np.uint8)
    scene = scene_file(tmp_path / "scene.tif", empty.shape)
    assert not len(written(tmp_path / "map.gpkg", scene, empty, simplify=1.0)[0])
