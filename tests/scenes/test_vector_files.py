"""Vector files as people have them: curves, heights, nulls, other degrees, odd attributes."""

import json
import math
import shutil
import sqlite3
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.transform import from_origin
from samples.made_weights import scene_pixels
from samples.one_ortho import error_of, tile, write_ortho, write_polygons
from samples.predicted_scenes import save_scene
from samples.raw_layouts import textured, utm, write_raster

from hrrsi.errors import FileWarning, InputError
from hrrsi.scenes.polygons import scene_polygons
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.windows import Window

SIDE = 96
PLACE = utm()["transform"]
A, B = (10, 20, 30), (50, 40, 25)


def box(row: int, col: int, side: int) -> Any:
    (left, top), (right, bottom) = PLACE @ (col, row), PLACE @ (col + side, row + side)
    return shapely.box(left, bottom, right, top)


def burned(path: Path, scene: Path, **more: Any) -> np.ndarray:
    """Pixels of a scene in a polygon of a file."""
    with open_scene(scene) as opened:
        polygons = scene_polygons(path, opened, **more)
        codes = np.ones(len(polygons.geometries), dtype=np.uint8)
        return polygons.burned(Window(0, 0, *opened.shape), codes, 0) > 0


def expected(*squares: tuple[int, int, int]) -> np.ndarray:
    inside = np.zeros((SIDE, SIDE), dtype=bool)
    for row, col, side in squares:
        inside[row : row + side, col : col + side] = True
    return inside


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_raster(tmp_path / "scene.tif", textured(1, (3, SIDE, SIDE)), **utm())


def written(path: Path, shapes: list[Any], kind: str = "Unknown") -> Path:
    wkb = [None if shape is None else shapely.to_wkb(shape) for shape in shapes]
    pyogrio.raw.write(
        path,
        np.array(wkb, dtype=object),
        [np.array([f"c{n}" for n in range(len(shapes))], dtype=object)],
        ["class"],
        layer=path.stem,
        geometry_type=kind,
        crs="EPSG:32632",
    )
    return path


@pytest.mark.parametrize("kind", ["heights", "nulls", "collection", "multi", "gml"])
def test_polygons_of_every_kind_count(tmp_path: Path, scene: Path, kind: str) -> None:
    first, second = box(*A), box(*B)
    line = shapely.LineString([first.centroid, second.centroid])
    shapes = {
        "heights": [shapely.force_3d(first, 5.0), shapely.force_3d(second, 7.0)],
        "nulls": [first, None, shapely.Polygon(), second],
        "collection": [shapely.GeometryCollection([first, line]), second],
        "multi": [shapely.MultiPolygon([first, second])],
        "gml": [first, second],
    }[kind]
    path = written(tmp_path / ("a.gml" if kind == "gml" else "a.gpkg"), shapes)
    np.testing.assert_array_equal(burned(path, scene), expected(A, B))


def curve(row: float, col: float, radius: float) -> bytes:
    """A circle as the WKB of a polygon of arcs."""
    x, y = PLACE @ (col, row)
    r = PLACE.a * radius
    places = [(x - r, y), (x, y + r), (x + r, y), (x, y - r), (x - r, y)]
    points = b"".join(struct.pack("<dd", *place) for place in places)
    return struct.pack("<BII", 1, 10, 1) + struct.pack("<BII", 1, 8, len(places)) + points


def with_shapes(path: Path, shapes: list[bytes], kind: str | None = None) -> None:
    """Put WKB that shapely can't write into a GeoPackage; declare its kind as another if given."""
    with sqlite3.connect(path) as opened:
        triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        for (name,) in opened.execute(triggers).fetchall():
            opened.execute(f'DROP TRIGGER "{name}"')
        opened.execute(f"DROP TABLE IF EXISTS rtree_{path.stem}_geom")
        opened.execute("DELETE FROM gpkg_extensions")
        if kind is not None:
            opened.execute("UPDATE gpkg_geometry_columns SET geometry_type_name = ?", (kind,))
        for fid, wkb in enumerate(shapes, start=1):
            blob = b"GP" + bytes([0, 1]) + struct.pack("<i", 32632) + wkb
            opened.execute(f'UPDATE "{path.stem}" SET geom = ? WHERE fid = ?', (blob, fid))
    opened.close()


@pytest.mark.parametrize("surface", [False, True])
def test_arcs_are_as_round_as_they_are(tmp_path: Path, scene: Path, surface: bool) -> None:
    path = written(tmp_path / "a.gpkg", [box(*A)])
    wkb = curve(48, 48, 30)
    with_shapes(path, [struct.pack("<BII", 1, 12, 1) + wkb if surface else wkb])
    rows, columns = np.indices((SIDE, SIDE)) + 0.5
    inside = np.hypot(rows - 48, columns - 48) < 30
    assert (burned(path, scene) == inside).mean() > 0.999
    assert abs(burned(path, scene).sum() / (math.pi * 900) - 1) < 0.01


def test_what_gdal_says_comes_once_in_a_line(tmp_path: Path) -> None:
    write_ortho(tmp_path, SIDE, SIDE)
    path = written(tmp_path / "a.gpkg", [box(*A)], "Polygon")
    with_shapes(path, [curve(48, 48, 30)], "CURVEPOLYGON")
    with open_scene(tmp_path / "ortho.tif") as opened:
        with pytest.warns(FileWarning, match="is not consistent with type") as caught:
            scene_polygons(path, opened)
        assert len(caught) == 1
        scene_polygons(path, opened)  # warnings are errors here
    other = tmp_path / "other/a.gpkg"
    other.parent.mkdir()
    shutil.copy(path, other)
    result = tile(tmp_path / "ortho.tif", "--labels", other, "--size", 32, "--out", tmp_path / "d")
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stderr.splitlines() if "consistent" in line]
    assert line.startswith(f"warning: {other}: geometry column type")


def geojson(shapes: list[Any]) -> str:
    geometries = [shape.__geo_interface__ for shape in shapes]
    features = [{"type": "Feature", "properties": {}, "geometry": g} for g in geometries]
    return json.dumps({"type": "FeatureCollection", "features": features})


DEGREE = 2e-6


@pytest.mark.parametrize(
    ("left", "squares"),
    [
        (185, [(-175, 20)]),
        (-175, [(185, 20)]),
        (185, [(185, 20)]),
        (180 - 48 * DEGREE, [(180 - 40 * DEGREE, 0), (-180 + 8 * DEGREE, 0)]),
        (-180 - 48 * DEGREE, [(180 - 40 * DEGREE, 0), (-180 + 8 * DEGREE, 0)]),
    ],
)
def test_longitudes_count_round_the_earth(
    tmp_path: Path, left: float, squares: list[tuple[float, int]]
) -> None:
    """Of 0 to 360 and of -180 to 180 alike, and on both sides of the antimeridian."""
    pixels = textured(1, (3, SIDE, SIDE))
    place = {"crs": "EPSG:4326", "transform": from_origin(left, 10, DEGREE, DEGREE)}
    scene = write_raster(tmp_path / "scene.tif", pixels, **place)
    shapes = []
    inside = np.zeros((SIDE, SIDE), dtype=bool)
    for longitude, columns in squares:
        west, north = longitude + columns * DEGREE, 10 - 30 * DEGREE
        shapes.append(shapely.box(west, north - 25 * DEGREE, west + 25 * DEGREE, north))
        first = round(((west - left + 180) % 360 - 180) / DEGREE)
        inside[30:55, first : first + 25] = True
    path = tmp_path / "a.geojson"
    features = [
        {"type": "Feature", "properties": {}, "geometry": s.__geo_interface__} for s in shapes
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    np.testing.assert_array_equal(burned(path, scene), inside)
    np.testing.assert_array_equal(burned(path, scene, within=Window(30, 0, 25, SIDE)), inside)


def test_metres_that_are_called_degrees_are_refused(tmp_path: Path, scene: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(geojson([box(*A)]))
    with pytest.raises(InputError, match="which are no degrees, though its CRS is EPSG:4326"):
        burned(path, scene)
    with pytest.raises(InputError, match=r"-a_srs EPSG:32632 new\.gpkg a\.geojson"):
        burned(path, scene)


def test_a_scene_of_rational_polynomials_is_to_be_brought_onto_the_map(tmp_path: Path) -> None:
    ones = " ".join(["1", *["0"] * 19])
    coefficients = [f"{name}_{part}_COEFF" for name in ("LINE", "SAMP") for part in ("NUM", "DEN")]
    axes = ("LINE", "SAMP", "LAT", "LONG", "HEIGHT")
    tags = dict.fromkeys([f"{axis}_{part}" for axis in axes for part in ("OFF", "SCALE")], "10")
    scene = write_raster(tmp_path / "scene.tif", textured(1, (3, SIDE, SIDE)))
    with rasterio.open(scene, "r+") as opened:
        opened.update_tags(ns="RPC", **tags, **dict.fromkeys(coefficients, ones))
    with pytest.raises(InputError, match=r"has no CRS, but .*areas\.gpkg has; .*gdalwarp -rpc"):
        burned(written(tmp_path / "areas.gpkg", [box(*A)]), scene)


def test_a_shapefile_without_prj_names_the_way_out(tmp_path: Path) -> None:
    write_ortho(tmp_path, SIDE, SIDE)
    path = written(tmp_path / "a.shp", [box(*A)], "Polygon")
    path.with_suffix(".prj").unlink()
    line = error_of(tmp_path / "ortho.tif", "--labels", path, "--out", tmp_path / "d")
    assert "has no CRS, but" in line
    assert line.endswith("assign one, e.g. `ogr2ogr -a_srs EPSG:32632 new.gpkg a.shp`")


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([3, 7], ["class 3", "class 7"]),
        ([1.0, float("nan")], ["class 1"]),
        ([2**40, 2**53 + 1], [f"class {2**40}", f"class {2**53 + 1}"]),
        ([True, False], ["False", "True"]),
        (["2020-01-01", "2021-05-05"], ["2020-01-01", "2021-05-05"]),
        ([" roof", None], ["roof"]),
        ([-1, 5], ["class -1", "class 5"]),
    ],
)
def test_attributes_of_every_type_make_classes(
    tmp_path: Path, values: list[Any], classes: list[str]
) -> None:
    write_ortho(tmp_path, SIDE, SIDE)
    column = values
    if values[0] == "2020-01-01":
        column = list(np.array(values, dtype="datetime64[D]"))
    path = write_polygons(tmp_path / "a.gpkg", [A, B], {"class": column})
    arguments = ["--labels", path, "--size", 32, "--out", tmp_path / "d"]
    result = tile(tmp_path / "ortho.tif", *arguments)
    assert result.exit_code == 0, result.output
    with rasterio.open(next((tmp_path / "d/train/label").iterdir())) as opened:
        assert opened.count == 1
    text = (tmp_path / "d/dataset.yaml").read_text()
    assert all(f"{name}" in text for name in classes)
    counted = len(classes)
    noun = "class" if counted == 1 else "classes"
    assert f"note: {counted} {noun} by the attribute 'class'" in result.stderr


def test_outlines_of_one_class_name_the_option(tmp_path: Path) -> None:
    scheme = tmp_path / "s.yaml"
    scheme.write_text(
        "{name: s, label_format: polygons, classes: [{name: land, colour: [1, 0, 0]}, "
        "{name: roof, colour: [2, 0, 0]}]}"
    )
    write_ortho(tmp_path, SIDE, SIDE)
    path = write_polygons(tmp_path / "a.gpkg", [A, B], {"class": ["roof", "roof"]})
    arguments = ["--labels", path, "--scheme", scheme, "--size", 32, "--out", tmp_path / "d"]
    result = tile(tmp_path / "ortho.tif", *arguments)
    assert result.exit_code == 0, result.output
    assert (
        "warning: the training labels hold one class only (roof), and what lies outside of their "
        "polygons is ignored; --background NAME makes a class of it"
    ) in " ".join(result.stderr.split())


def test_a_label_picture_takes_the_crs_of_its_prj(tmp_path: Path) -> None:
    """One of another zone lies elsewhere, though its numbers are those of the image."""
    pixels = np.moveaxis(scene_pixels(), -1, 0)[:, :SIDE, :SIDE]
    image = save_scene(tmp_path / "image.tif", pixels, **utm())
    label = np.random.default_rng(0).integers(0, 3, (SIDE, SIDE)).astype(np.uint8)
    write_raster(tmp_path / "label.png", label)
    centre = PLACE @ (0.5, 0.5)
    lines = (PLACE.a, 0, 0, PLACE.e, *centre)
    (tmp_path / "label.pgw").write_text("\n".join(map(str, lines)))
    flags = [
        "--labels",
        tmp_path / "label.png",
        "--size",
        32,
        "--overwrite",
        "--out",
        tmp_path / "d",
    ]
    for code in (32632, 32633):
        (tmp_path / "label.prj").write_text(rasterio.CRS.from_epsg(code).to_wkt())
        if code == 32632:
            result = tile(image, *flags)
            assert result.exit_code == 0, result.output
            assert "counts as lying on it" not in result.output
        else:
            assert "does not lie on its image" in error_of(image, *flags)


def test_a_label_upside_down_is_said_to_be(tmp_path: Path) -> None:
    write_ortho(tmp_path, SIDE, SIDE)
    label = np.random.default_rng(0).integers(0, 3, (SIDE, SIDE)).astype(np.uint8)
    turned = rasterio.Affine(PLACE.a, 0, PLACE.c, 0, -PLACE.e, PLACE.f + SIDE * PLACE.e)
    write_raster(tmp_path / "l.tif", label[::-1], crs="EPSG:32632", transform=turned)
    arguments = ["--labels", tmp_path / "l.tif", "--size", SIDE, "--out", tmp_path / "d"]
    result = tile(tmp_path / "ortho.tif", *arguments)
    assert "has rows and columns in other directions than its image" in result.stderr
    with rasterio.open(next((tmp_path / "d/train/label").iterdir())) as opened:
        np.testing.assert_array_equal(opened.read(1), label)


def test_names_of_a_shapefile_in_utf_8_that_does_not_say_so(tmp_path: Path) -> None:
    write_ortho(tmp_path, SIDE, SIDE)
    for encoding in ("UTF-8", "ISO-8859-1"):
        path = tmp_path / "a.shp"
        pyogrio.raw.write(
            path,
            shapely.to_wkb(np.array([box(*A), box(*B)])),
            [np.array(["Gebäude", "Straße"], dtype=object)],
            ["Klasse"],
            geometry_type="Polygon",
            crs="EPSG:32632",
            encoding=encoding,
        )
        path.with_suffix(".cpg").unlink()
        arguments = ["--labels", path, "--size", 32, "--overwrite", "--out", tmp_path / "d"]
        result = tile(tmp_path / "ortho.tif", *arguments)
        assert result.exit_code == 0, result.output
        assert "Gebäude (" in result.stderr
        assert "Straße (" in result.stderr


def test_one_crs_in_other_words_is_said_so(tmp_path: Path) -> None:
    write_raster(
        tmp_path / "i.tif", textured(1, (3, SIDE, SIDE)), crs="EPSG:25832", transform=PLACE
    )
    label = np.random.default_rng(0).integers(0, 3, (SIDE, SIDE)).astype(np.uint8)
    words = rasterio.CRS.from_proj4("+proj=utm +zone=32 +ellps=GRS80 +units=m +no_defs")
    write_raster(tmp_path / "l.tif", label, crs=words, transform=PLACE)
    arguments = ["--labels", tmp_path / "l.tif", "--size", SIDE, "--out", tmp_path / "d"]
    result = tile(tmp_path / "i.tif", *arguments)
    assert "where its image is in EPSG:25832" not in result.stderr
    with rasterio.open(next((tmp_path / "d/train/label").iterdir())) as opened:
        np.testing.assert_array_equal(opened.read(1), label)
