"""Scenes of different splits that show the same ground are reported."""

from pathlib import Path

import numpy as np
import pytest
from samples.raw_layouts import class_map, own_scheme, textured, utm, write_raster
from typer.testing import CliRunner

from hrrsi.cli import app


def warnings_of(tmp_path: Path, *options: str) -> list[str]:
    arguments = ["tile", str(tmp_path / "raw"), "--scheme", str(own_scheme(tmp_path))]
    arguments += ["--val-scenes", "b", "--test-scenes", "c", "--size", "128", "--workers", "1"]
    result = CliRunner().invoke(app, [*arguments, *options, "--out", str(tmp_path / "d")])
    assert result.exit_code == 0, result.output
    return [line for line in result.stderr.splitlines() if "overlap" in line]


def write_scene(folder: Path, scene: str, pixels: np.ndarray, **place: object) -> None:
    write_raster(folder / "raw/images" / f"{scene}.tif", pixels, **place)
    labels = class_map(0, *pixels.shape[1:], 3)
    write_raster(folder / "raw/labels" / f"{scene}.tif", labels)


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_by_georeference(tmp_path: Path, options: tuple[str, ...]) -> None:
    # b touches a, which is no overlap; c lies on the lower right quarter of a and a bit of b
    for scene, row, col in (("a", 0, 0), ("b", 0, 200), ("c", 100, 120)):
        write_scene(tmp_path, scene, textured(row + col, (3, 200, 200)), **utm(row, col))
    assert warnings_of(tmp_path, *options) == [
        "warning: train scene a and test scene c overlap: 20% of the latter (georeference)",
        "warning: val scene b and test scene c overlap: 30% of the latter (georeference)",
    ]


def test_scenes_in_different_reference_systems(tmp_path: Path) -> None:
    write_scene(tmp_path, "a", textured(1, (3, 200, 200)), **utm())
    web = {"crs": "EPSG:3857"}
    from rasterio.transform import from_origin
    from rasterio.warp import transform

    xs, ys = transform("EPSG:32632", "EPSG:3857", [500010.0, 600000.0], [5499990.0, 5499990.0])
    for scene, x, y in zip("bc", xs, ys, strict=True):
        place = {**web, "transform": from_origin(x, y, 0.5, 0.5)}
        write_scene(tmp_path, scene, textured(ord(scene), (3, 200, 200)), **place)
    (line,) = warnings_of(tmp_path)
    assert line.startswith("warning: train scene a and val scene b overlap")


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_by_their_pixels(tmp_path: Path, dtype: str) -> None:
    mosaic = textured(5, (3, 400, 500), dtype)
    write_scene(tmp_path, "a", mosaic[:, :300, :301])
    write_scene(tmp_path, "b", mosaic[:, 117:387, 203:499])  # a corner, at an odd offset
    write_scene(tmp_path, "c", textured(6, (3, 300, 300), dtype))
    (line,) = warnings_of(tmp_path)
    assert line.startswith("warning: train scene a and val scene b overlap: ")
    assert "(same pixels)" in line
    share = int(line.split("overlap: ")[1].split("%")[0]) / 100
    assert share == pytest.approx((183 * 98) / (270 * 296), abs=0.12)


def test_flat_areas_are_no_overlap(tmp_path: Path) -> None:
    for number, scene in enumerate("abc"):
        pixels = textured(number, (3, 300, 300))
        pixels[:, :150] = 0  # the same black corner in all
        pixels[:, 150:200] = 255
        write_scene(tmp_path, scene, pixels)
    assert warnings_of(tmp_path) == []


@pytest.mark.long
def test_real_scenes_that_do_not_overlap(examples: Path, tmp_path: Path) -> None:
    arguments = ["tile", str(examples / "dubai"), "--scheme", "dubai", "--workers", "1"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "d")])
    assert result.exit_code == 0, result.output
    assert "overlap" not in result.stderr
