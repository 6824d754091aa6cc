"""Labels that tell only some classes apart, from raw scenes to scores."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from rasterio.features import rasterize
from samples.raw_layouts import textured, utm, write_raster
from samples.training_runs import quick, quietly
from typer.testing import CliRunner

from hrrsi.cli import app

SIZE = 64
SCHEME = """
name: outlines
classes:
  - {name: building, colour: [200, 0, 0], code: B}
  - {name: road, colour: [90, 90, 90]}
  - {name: grass, colour: [0, 200, 0]}
partial:
  - {name: no building, classes: [road, grass], colour: [230, 220, 200]}
  - {name: paved, classes: [building, road], colour: [120, 0, 120], code: PV}
labels: ["labels/{scene}.geojson"]
label_format: polygons
outside: no building
"""
SQUARES = {"building": (4, 6, 20), "PV": (30, 34, 17)}  # first row, first column, side


def ring(first_row: float, first_column: float, side: float) -> list[list[float]]:
    place = utm()["transform"]
    corners = [(0, 0), (0, side), (side, side), (side, 0), (0, 0)]
    return [list(place @ (first_column + x, first_row + y)) for y, x in corners]


def write_outlines(path: Path, squares: dict[str, tuple[int, int, int]]) -> Path:
    features = [
        {
            "type": "Feature",
            "properties": {"class": name},
            "geometry": {"type": "Polygon", "coordinates": [ring(*square)]},
        }
        for name, square in squares.items()
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    scenes = {"town": SQUARES, "village": SQUARES, "desert": {}}
    for seed, (scene, squares) in enumerate(scenes.items()):
        write_raster(folder / "images" / f"{scene}.tif", textured(seed, (3, SIZE, SIZE)), **utm())
        write_outlines(folder / "labels" / f"{scene}.geojson", squares)
    (tmp_path / "scheme.yaml").write_text(SCHEME)
    return folder


def tiled(raw: Path, *options: str) -> Path:
    out = raw.parent / "tiled"
    arguments = ["tile", str(raw), "--scheme", str(raw.parent / "scheme.yaml"), "--out", str(out)]
    arguments += ["--size", "32", "--val-scenes", "village", "--workers", "1", *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return out


def expected(codes: dict[str, int], outside: int) -> np.ndarray:
    shapes = [
        ({"type": "Polygon", "coordinates": [ring(*square)]}, codes[name])
        for name, square in SQUARES.items()
    ]
    place = utm()["transform"]
    return rasterize(shapes, (SIZE, SIZE), transform=place, fill=outside, dtype="uint8")


def whole(dataset: Path, split: str, scene: str) -> np.ndarray:
    label = np.full((SIZE, SIZE), 254, np.uint8)
    for path in (dataset / split / "label").glob(f"{scene}_*.png"):
        row, column = map(int, path.stem.split("_")[-2:])
        with rasterio.open(path) as patch:
            label[row : row + 32, column : column + 32] = patch.read(1)
    return label


def test_land_outside_polygons_is_a_label(raw: Path) -> None:
    dataset = tiled(raw)
    codes = {"building": 0, "PV": 4}
    np.testing.assert_array_equal(whole(dataset, "train", "town"), expected(codes, 3))
    assert (whole(dataset, "train", "desert") == 3).all()
    description = yaml.safe_load((dataset / "dataset.yaml").read_text())
    assert description["classes"] == ["building", "road", "grass"]
    assert [label["name"] for label in description["partial"]] == ["no building", "paved"]
    assert description["partial"][1]["classes"] == ["building", "road"]
    train = description["splits"]["train"]
    building, paved = 20**2, 17**2
    outside = 2 * SIZE**2 - building - paved
    assert train["class_pixels"] == [building, 0, 0]
    assert train["partial_pixels"] == [outside, paved]
    shares = np.array([building + paved / 2, paved / 2 + outside / 2, outside / 2])
    np.testing.assert_allclose(description["class_frequencies"], shares / shares.sum(), atol=1e-7)


def test_palette_shows_partial_labels_in_their_colours(raw: Path) -> None:
    path = next((tiled(raw) / "train" / "label").glob("desert_*.png"))
    with rasterio.open(path) as patch:
        assert patch.colormap(1)[3][:3] == (230, 220, 200)


def test_joined_classes_narrow_partial_labels(raw: Path) -> None:
    dataset = tiled(raw, "--merge", "road+grass=open land")
    description = yaml.safe_load((dataset / "dataset.yaml").read_text())
    assert description["classes"] == ["building", "open land"]
    assert "partial" not in description
    label = whole(dataset, "train", "town")
    # "no building" is one class now, and "paved" any of the two: it says nothing
    np.testing.assert_array_equal(label, expected({"building": 0, "PV": 255}, 1))


def test_what_polygons_leave_out_is_ignored_without_outside(raw: Path) -> None:
    scheme = raw.parent / "scheme.yaml"
    scheme.write_text(SCHEME.replace("outside: no building\n", ""))
    (raw / "images" / "desert.tif").unlink()
    (raw / "labels" / "desert.geojson").unlink()
    dataset = tiled(raw)
    codes = {"building": 0, "PV": 4}
    labelled = whole(dataset, "train", "town")
    wanted = expected(codes, 255)
    np.testing.assert_array_equal(labelled[labelled != 254], wanted[labelled != 254])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("classes: [road, grass]", "classes: [road, gras]"), "no class is named 'gras'"),
        (("classes: [road, grass]", "classes: [road, grass, building]"), "stands for all classes"),
        (("classes: [road, grass]", "classes: [road]"), "at least 2 items"),
        (("outside: no building", "outside: sea"), "no class or partial label is named 'sea'"),
        (("name: paved", "name: road"), "class name road stands for two things"),
        (("[120, 0, 120]", "[90, 90, 90]"), "colour (90, 90, 90) stands for two things"),
    ],
)
def test_schemes_that_say_nothing_clear_are_refused(
    raw: Path, change: tuple[str, str], message: str
) -> None:
    scheme = raw.parent / "scheme.yaml"
    scheme.write_text(SCHEME.replace(*change))
    arguments = f"tile {raw} --scheme {scheme} --out {raw.parent / 'tiled'}".split()
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert str(scheme) in line
    assert message in line
    assert not (raw.parent / "tiled").exists()


@pytest.mark.slow
def test_outlines_train_and_score(raw: Path, tmp_path: Path) -> None:
    dataset = tiled(raw)
    run, _ = quietly(quick(dataset, tmp_path / "runs", model="ued_bes", epochs=1))
    weights = ["--weights", str(run.weights)]
    patches = ["eval", str(dataset), *weights, "--split", "val", "--format", "json"]
    result = CliRunner().invoke(app, patches)
    assert result.exit_code == 0, result.output
    matrix = json.loads(result.stdout)["confusion_matrix"]
    counted = np.sum(matrix["counts"]) + np.sum(list(matrix["partial"].values()))
    assert counted == SIZE**2
    scheme = str(raw.parent / "scheme.yaml")
    scenes = [
        "eval",
        str(raw),
        "--scheme",
        scheme,
        *weights,
        "--scenes",
        "village",
        "--window",
        "64",
    ]
    table = CliRunner().invoke(app, scenes)
    assert table.exit_code == 0, table.output
    assert "Partial labels: " in " ".join(table.stdout.split())
