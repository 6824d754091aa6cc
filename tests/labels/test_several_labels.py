"""Several files of labels for one scene, and layers of vector files."""

from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import yaml
from samples.made_weights import scene_pixels
from samples.one_ortho import error_of, tile, write_ortho, write_polygons
from samples.predicted_scenes import save_scene
from samples.raw_layouts import textured, utm, write_raster
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import app

SIDE = 64
Square = tuple[int, int, int]


def drawn(squares: list[tuple[Square, int]], fill: int = 255) -> np.ndarray:
    """Draw squares (first row, first column, side) one over the other."""
    classes = np.full((SIDE, SIDE), fill, dtype=np.uint8)
    for (row, col, side), index in squares:
        classes[row : row + side, col : col + side] = index
    return classes


def tiled(folder: Path, *arguments: object) -> tuple[list[str], np.ndarray, str]:
    """Tile ortho.tif as one patch: its classes, its label, and what was said."""
    more = ["--size", SIDE, "-q", "--overwrite", "--out", folder / "d"]
    result = tile(folder / "ortho.tif", *arguments, *more)
    assert result.exit_code == 0, result.output
    description = yaml.safe_load((folder / "d/dataset.yaml").read_text())
    (path,) = (folder / "d/train/label").iterdir()
    with rasterio.open(path) as opened:
        return description["classes"], opened.read(1), " ".join(result.output.split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_ortho(tmp_path, SIDE, SIDE)
    write_polygons(tmp_path / "a.gpkg", [A, B], {"class": ["Building", "Road"]})
    write_polygons(tmp_path / "b.gpkg", [C], {"class": ["road"]})
    return tmp_path


A, B, C = (0, 0, 40), (40, 40, 20), (20, 20, 30)


def test_the_class_of_the_last_file_counts_and_classes_join_by_name(folder: Path) -> None:
    files = ["--labels", folder / "a.gpkg", "--labels", folder / "b.gpkg"]
    classes, label, notes = tiled(folder, *files)
    assert classes == ["Building", "Road"]
    np.testing.assert_array_equal(label, drawn([(A, 0), (B, 1), (C, 1)]))
    assert "where several files have a class, that of the last counts" in notes
    _, other, _ = tiled(folder, "--labels", folder / "b.gpkg", "--labels", folder / "a.gpkg")
    np.testing.assert_array_equal(other == 0, drawn([(C, 0), (A, 1), (B, 0)]) == 0)
    # again with the scheme that was written, and with what lies outside of all of them
    (folder / "again.yaml").write_text((folder / "d/scheme.yaml").read_text())
    classes, label, _ = tiled(
        folder, *files, "--scheme", folder / "again.yaml", "--background", "rest"
    )
    assert sorted(classes[:2]) == ["Building", "road"]
    assert classes[2] == "rest"
    road = classes.index("road")
    expected = drawn([(A, 1 - road), (B, road), (C, road)], fill=2)
    np.testing.assert_array_equal(label, expected)


def test_what_a_file_ignores_is_no_background(folder: Path) -> None:
    write_polygons(folder / "c.gpkg", [(0, 44, 16), A], {"class": ["", "Building"]})
    files = ["--labels", folder / "c.gpkg", "--labels", folder / "b.gpkg", "--background", "rest"]
    _, label, _ = tiled(folder, *files)
    expected = drawn([((0, 44, 16), 255), (A, 0), (C, 1)], fill=2)
    np.testing.assert_array_equal(label, expected)


def test_rasters_and_polygons_of_one_scene(folder: Path) -> None:
    land = np.random.default_rng(0).integers(1, 3, (SIDE, SIDE)).astype(np.uint8)
    land[:10] = 0
    write_raster(folder / "land.tif", land, nodata=0, **utm())
    files = ["--labels", folder / "land.tif", "--labels", folder / "a.gpkg"]
    classes, label, _ = tiled(folder, *files)
    assert classes == ["class 1", "class 2", "Building", "Road"]
    expected = land - np.uint8(1)  # 0 becomes 255
    expected[:40, :40], expected[40:60, 40:60] = 2, 3
    np.testing.assert_array_equal(label, expected)


def test_a_scheme_of_files_knows_them_in_other_folders(folder: Path) -> None:
    mask = np.where(drawn([(A, 1)], fill=0), 255, 0).astype(np.uint8)
    write_raster(folder / "sheds.tif", mask, **utm())
    _, first, _ = tiled(folder, "--labels", folder / "sheds.tif", "--labels", folder / "b.gpkg")
    scheme = folder / "again.yaml"
    scheme.write_text((folder / "d/scheme.yaml").read_text())
    write_raster(folder / "other/sheds.tif", mask, **utm())
    files = ["--labels", folder / "other/sheds.tif", "--labels", folder / "b.gpkg"]
    _, again, _ = tiled(folder, *files, "--scheme", scheme)
    np.testing.assert_array_equal(again, first)
    write_raster(folder / "barns.tif", mask, **utm())
    arguments = ["--labels", folder / "barns.tif", "--scheme", scheme, "--out", folder / "e"]
    line = error_of(folder / "ortho.tif", *arguments)
    assert "the scheme sheds_b says what" in line
    assert line.endswith("or leave the scheme out to make another")


def test_polygons_without_attributes_are_a_class_of_their_name(folder: Path) -> None:
    _, _, wkb, _ = pyogrio.raw.read(folder / "b.gpkg", columns=[])
    place: dict[str, Any] = {"geometry_type": "Polygon", "crs": "EPSG:32632"}
    pyogrio.raw.write(folder / "sheds.gpkg", wkb, [], [], **place)
    classes, label, _ = tiled(folder, "--labels", folder / "sheds.gpkg", "--background", "rest")
    assert classes == ["sheds", "rest"]
    np.testing.assert_array_equal(label, drawn([(C, 0)], fill=1))


def layered(folder: Path) -> Path:
    for name, squares in (("houses", [A]), ("lakes", [C])):
        file = write_polygons(folder / f"{name}.gpkg", squares, {"class": [name]})
        _, _, wkb, columns = pyogrio.raw.read(file)
        pyogrio.raw.write(
            folder / "layers.gpkg",
            wkb,
            columns,
            ["class"],
            layer=name,
            geometry_type="Polygon",
            crs="EPSG:32632",
            append=name != "houses",
        )
    return folder / "layers.gpkg"


def test_layers_of_a_file_are_chosen(folder: Path) -> None:
    file = layered(folder)
    classes, label, _ = tiled(folder, "--labels", file, "--layer", "lakes")
    assert classes == ["lakes"]
    np.testing.assert_array_equal(label, drawn([(C, 0)]))
    both = ["--labels", file, "--layer", "lakes", "--layer", "houses"]
    classes, label, _ = tiled(folder, *both)
    assert classes == ["lakes", "houses"]
    np.testing.assert_array_equal(label, drawn([(C, 0), (A, 1)]))
    # beside one that names its own, and a format that holds one layer alone
    named = ["--labels", folder / "a.gpkg", "--aoi", f"{file}|layername=lakes", "--layer", "a"]
    _, label, _ = tiled(folder, *named)
    inside = drawn([(C, 0)]) == 0
    np.testing.assert_array_equal(label, np.where(inside, drawn([(A, 0), (B, 1)]), 255))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--labels", "a.gpkg", "--labels", "a.gpkg"], "--labels: a.gpkg is given twice"),
        (["--labels", "a.gpkg", "--labels", "x.gpkg"], "x.gpkg: no such file"),
        (["--labels", "."], ".: is a folder, not a file of labels; name a file in it, or say in"),
        (["--labels", "a.gpkg", "--layer", "x"], "a.gpkg: has no layer of shapes named 'x'; cho"),
    ],
)
def test_wrong_files_and_layers_end_in_a_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], line: str
) -> None:
    monkeypatch.chdir(folder)
    assert line in error_of("ortho.tif", *arguments, "--out", "d")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--labels", "land.tif", "--layer", "x"], "none is given (land.tif)"),
        (["--labels", "a.gpkg", "--aoi", "b.gpkg", "--layer", "x", "--layer", "y"], "b.gpkg sev"),
    ],
)
def test_a_layer_of_nothing_is_wrong_usage(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], line: str
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    result = tile("ortho.tif", *arguments, "--out", "d")
    assert result.exit_code == 2
    assert line in " ".join(result.stderr.split())


def joined_folder(folder: Path, join: str) -> Path:
    """Two scenes with two labels each, and a scheme that joins them or not."""
    for number, name in enumerate("ab"):
        write_raster(folder / f"raw/images/{name}.tif", textured(number, (3, SIDE, SIDE)), **utm())
        for kind, squares in (("houses", [A]), ("roads", [C])):
            path = folder / f"raw/{kind}/{name}.gpkg"
            path.parent.mkdir(exist_ok=True)
            write_polygons(path, squares, {"class": [kind]})
    scheme = folder / "s.yaml"
    scheme.write_text(
        "{name: s, label_format: polygons, outside: land, "
        "labels: ['houses/{scene}.gpkg', 'roads/{scene}.gpkg'], classes: ["
        "{name: houses, colour: [1, 0, 0]}, {name: roads, colour: [2, 0, 0]}, "
        f"{{name: land, colour: [3, 0, 0]}}]{join}}}"
    )
    return scheme


def test_a_scheme_joins_the_labels_of_a_scene(tmp_path: Path) -> None:
    arguments = ["--val-scenes", "b", "--size", SIDE, "-q", "--overwrite", "--out", tmp_path / "d"]
    for join, squares in (("", [(A, 0)]), (", join_labels: true", [(A, 0), (C, 1)])):
        scheme = joined_folder(tmp_path, join)
        result = tile(tmp_path / "raw", "--scheme", scheme, *arguments)
        assert result.exit_code == 0, result.output
        with rasterio.open(next((tmp_path / "d/val/label").iterdir())) as opened:
            np.testing.assert_array_equal(opened.read(1), drawn(squares, fill=2))


def test_several_files_that_fit_one_pattern_name_the_way_out(tmp_path: Path) -> None:
    scheme = joined_folder(tmp_path, "")
    patterns = "'houses/{scene}.gpkg', 'roads/{scene}.gpkg'"
    scheme.write_text(scheme.read_text().replace(patterns, "'{kind}/{scene}.gpkg'"))
    arguments = ["--scheme", scheme, "--val-scenes", "b", "--size", SIDE, "--out", tmp_path / "d"]
    line = error_of(tmp_path / "raw", *arguments)
    assert "claim the same scene" in line
    assert line.endswith("or take all with `join_labels: true` in the scheme")
    scheme.write_text(scheme.read_text().replace("outside", "join_labels: true, outside"))
    assert tile(tmp_path / "raw", *arguments).exit_code == 0


@pytest.mark.long
def test_an_evaluation_scores_against_all_of_them_and_takes_layers(tmp_path: Path) -> None:
    scheme = joined_folder(tmp_path, ", join_labels: true")
    truth = drawn([(A, 0), (C, 1)], fill=2)
    place = utm()
    for name in "ab":
        save_scene(tmp_path / f"maps/{name}.tif", truth[None], **place)
    arguments = ["--pred", tmp_path / "maps", "--label", tmp_path / "raw", "--scheme", scheme]
    arguments += ["--map-format", "indices", "--format", "json"]
    result = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert '"OA": 1.0' in result.output or '"oa": 1.0' in result.output.lower()
    # layers of the area that predict maps, and of its zones
    file = layered(tmp_path)
    save_scene(tmp_path / "scene.tif", np.moveaxis(scene_pixels(), -1, 0)[:, :SIDE, :SIDE], **place)
    flags = ["--aoi", str(file), "--layer", "lakes", "--out", str(tmp_path / "m.tif"), "-q"]
    result = CliRunner().invoke(app, ["predict", str(tmp_path / "scene.tif"), *flags])
    assert result.exit_code == 0, result.output
    with rasterio.open(tmp_path / "m.tif") as mapped:
        np.testing.assert_array_equal(mapped.read(1) != 255, drawn([(C, 0)]) == 0)


def test_several_files_from_python(folder: Path) -> None:
    options = hrrsi.TileOptions(labels=[folder / "a.gpkg", folder / "b.gpkg"], size=SIDE, workers=1)
    result = hrrsi.tile(folder / "ortho.tif", None, folder / "d", options=options)
    assert result.description.classes == ["Building", "Road"]
