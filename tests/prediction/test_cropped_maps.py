"""Maps as large as the area of interest, of files and of map services."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image
from rasterio.transform import from_origin
from rasterio.windows import Window
from samples.made_weights import scene_pixels
from samples.predicted_scenes import one_error_line, save_area, save_scene
from samples.range_server import serving

Run = Callable[..., Any]
HALF = 20037508.342789244
LEVEL = 19
SIZE = 2 * HALF / 2**LEVEL / 256  # of a pixel
# rows and columns of tiles in the United Arab Emirates
ROW, COL = 224_000, 345_000


def test_a_cropped_map_is_that_of_the_cropped_scene(run: Run, tmp_path: Path) -> None:
    place = from_origin(500000, 2790000, 0.3, 0.3)
    scene = save_scene(tmp_path / "scene.tif", crs="EPSG:32640", transform=place)
    # a triangle from column 20.4 to 120.7, and from row 30.5 to 100.1
    corners = [place @ corner for corner in ((20.4, 30.5), (120.7, 40.2), (77.7, 100.1))]
    aoi = save_area(tmp_path / "aoi.gpkg", shapely.Polygon(corners), "EPSG:32640")
    window = Window(20, 30, 101, 71)
    with rasterio.open(scene) as whole:
        pixels, corner = whole.read(window=window), whole.window_transform(window)
    part = save_scene(tmp_path / "part.tif", pixels, crs="EPSG:32640", transform=corner)
    picture = ("--preview", "png")
    assert run(part, "--aoi", aoi, "--out", "part_map.tif", *picture).exit_code == 0
    result = run(scene, "--aoi", aoi, "--crop", "--out", "map.tif", "--vector", "gpkg", *picture)
    assert result.exit_code == 0, result.output
    with rasterio.open("map.tif") as cropped, rasterio.open("part_map.tif") as expected:
        assert cropped.shape == (71, 101)
        assert cropped.transform == expected.transform
        assert cropped.crs == expected.crs
        np.testing.assert_array_equal(cropped.read(), expected.read())
        assert len(np.unique(cropped.read(1))) > 2
        assert json.loads(cropped.tags()["HRRSI_OPTIONS"])["crop"] is True
    # below the title, the sheet shows the part too
    sheets = [np.asarray(Image.open(name), dtype=float) for name in ("map.png", "part_map.png")]
    different = np.abs(sheets[0] - sheets[1])[105:].max(-1) > 1
    assert different.mean() < 0.005  # the rim is enlarged with what lies beyond it
    refused = one_error_line(run(scene, "--crop"))
    assert "--crop: there is no area of interest; name one with --aoi" in refused
    # nor is a map of the whole taken for one of a part
    assert run(scene, "--aoi", aoi, "--out", "map.tif", "--resume").exit_code == 1


def test_a_map_of_another_place_is_not_gone_on_with(run: Run, tmp_path: Path) -> None:
    place = from_origin(500000, 2790000, 0.3, 0.3)
    scene = save_scene(tmp_path / "scene.tif", crs="EPSG:32640", transform=place)
    for name, left in (("a", 20), ("b", 40)):
        (tmp_path / name).mkdir()
        box = shapely.box(*(place @ (left, 90)), *(place @ (left + 60, 30)))
        save_area(tmp_path / name / "aoi.gpkg", box, "EPSG:32640")
    line = (scene, "--crop", "--resume", "--out", "map.tif", "--aoi")
    assert run(*line, tmp_path / "a" / "aoi.gpkg").exit_code == 0
    assert run(*line, tmp_path / "a" / "aoi.gpkg").exit_code == 0
    refused = one_error_line(run(*line, tmp_path / "b" / "aoi.gpkg"))
    assert "map.tif: exists already, and was made otherwise, or of another scene" in refused


def test_without_a_place_nothing_is_cropped(run: Run, tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "plain.tif")
    aoi = save_area(tmp_path / "aoi.gpkg", shapely.box(60, 50, 160, 100), None)
    assert run(scene, "--aoi", aoi).exit_code == 0
    refused = one_error_line(run(scene, "--aoi", aoi, "--crop", "--overwrite"))
    assert "plain.tif: has no place on the map, so no part of it can be mapped" in refused
    assert "leave --crop out" in refused


def test_names_with_question_marks_are_cropped(run: Run, tmp_path: Path) -> None:
    place = from_origin(500000, 2790000, 0.3, 0.3)
    names = ("a.tif", "b.tif?size=3&c=1.tif")
    scenes = [save_scene(tmp_path / n, crs="EPSG:32640", transform=place) for n in names]
    box = shapely.box(*(place @ (20, 90)), *(place @ (120, 30)))
    aoi = save_area(tmp_path / "aoi.gpkg", box, "EPSG:32640")
    for number, scene in enumerate(scenes):
        result = run(scene, "--aoi", aoi, "--crop", "--out", f"{number}.tif")
        assert result.exit_code == 0, result.output
    with rasterio.open("0.tif") as plain, rasterio.open("1.tif") as cropped:
        assert plain.shape == cropped.shape == (60, 100)
        np.testing.assert_array_equal(plain.read(), cropped.read())
        assert plain.transform == cropped.transform


@pytest.fixture
def service(tmp_path: Path) -> Any:
    """A map service that knows 2 x 2 tiles of the world, less one, and the pixels of these."""
    pixels = np.tile(scene_pixels(), (4, 3, 1))[:512, :512]
    pixels = np.maximum(pixels, 1)  # black only where there is no tile
    tiles = tmp_path / "tiles"
    for row in range(2):
        for col in range(2):
            file = tiles / str(LEVEL) / str(COL + col) / f"{ROW + row}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            tile = pixels[256 * row :][:256, 256 * col :][:, :256]
            if (row, col) == (1, 1):
                tile[:] = 0
            else:
                Image.fromarray(tile).save(file)
    with serving(tiles) as port:
        (tmp_path / "xyz.xml").write_text(
            f'<GDAL_WMS><Service name="TMS"><ServerUrl>http://127.0.0.1:{port}/${{z}}/${{x}}/'
            f"${{y}}.png</ServerUrl></Service><DataWindow><UpperLeftX>{-HALF}</UpperLeftX>"
            f"<UpperLeftY>{HALF}</UpperLeftY><LowerRightX>{HALF}</LowerRightX><LowerRightY>{-HALF}"
            f"</LowerRightY><TileLevel>{LEVEL}</TileLevel><TileCountX>1</TileCountX><TileCountY>1"
            "</TileCountY><YOrigin>top</YOrigin></DataWindow><Projection>EPSG:3857</Projection>"
            "<BlockSizeX>256</BlockSizeX><BlockSizeY>256</BlockSizeY><BandsCount>3</BandsCount>"
            "<ZeroBlockHttpCodes>404</ZeroBlockHttpCodes></GDAL_WMS>"
        )
        yield tmp_path / "xyz.xml", pixels


def test_a_part_of_a_map_service_is_mapped(run: Run, tmp_path: Path, service: Any) -> None:
    source, pixels = service
    left, top = COL * 256 * SIZE - HALF, HALF - ROW * 256 * SIZE
    place = from_origin(left, top, SIZE, SIZE)
    box = shapely.box(*(place @ (150.5, 380.5)), *(place @ (399.5, 140.5)))
    aoi = save_area(tmp_path / "aoi.gpkg", box, "EPSG:3857")
    result = run(source, "--aoi", aoi, "--crop", "--out", "planned.tif", "--dry-run")
    assert result.exit_code == 0, result.output
    assert f"{source}: 250 x 241 px" in result.stdout
    corner = place @ (150, 140)
    part = save_scene(
        tmp_path / "part.tif",
        np.moveaxis(pixels[140:381, 150:400], -1, 0),
        crs="EPSG:3857",
        transform=from_origin(*corner, SIZE, SIZE),
    )
    options = ("--nodata", 0, "--aoi", aoi)
    assert run(part, *options, "--out", "expected.tif").exit_code == 0
    result = run(source, *options, "--crop", "--out", "map.tif")
    assert result.exit_code == 0, result.output
    with rasterio.open("map.tif") as class_map, rasterio.open("expected.tif") as expected:
        np.testing.assert_array_equal(class_map.read(), expected.read())
        assert class_map.transform.almost_equals(expected.transform, 1e-3)
        missing = int((class_map.read(1) == class_map.nodata).sum())
    assert missing >= (400 - 256) * (381 - 256)
    assert f"{missing:,}" in result.stdout  # counted as without data


def test_a_part_of_a_map_service_is_planned_without_a_request(
    run: Run, tmp_path: Path, service: Any
) -> None:
    text = service[0].read_text().replace("<BandsCount>3", "<BandsCount>4")
    port = int(text.split("127.0.0.1:")[1].split("/")[0])
    service[0].write_text(text.replace(f":{port}/", ":9/"))  # where nobody answers
    box = shapely.Point(6_000_000, 2_800_000).buffer(5_000)
    aoi = save_area(tmp_path / "aoi.gpkg", box, "EPSG:3857")
    result = run(service[0], "--aoi", aoi, "--crop", "--out", "m.tif", "--dry-run")
    assert result.exit_code == 0, result.output
    match = re.search(r"(\d+) x (\d+) px, ([\d,]+) windows", result.stdout)
    assert match is not None
    width, height, windows = (int(n.replace(",", "")) for n in match.groups())
    assert width == pytest.approx(10_000 / SIZE, abs=2)
    assert height == pytest.approx(10_000 / SIZE, abs=2)
    # those of 64 px, every 48 px, that a disc touches
    assert windows == pytest.approx(np.pi * ((5_000 / SIZE + 32) / 48) ** 2, rel=0.02)
    line = one_error_line(run(service[0], "--aoi", far_area(tmp_path), "--crop", "--dry-run"))
    assert "too many for one map; choose a smaller area of interest" in line


def far_area(folder: Path) -> Path:
    """Half of the world."""
    triangle = shapely.Polygon([(-9e6, 0), (9e6, 1e6), (0, 9e6)])
    return save_area(folder / "far.gpkg", triangle, "EPSG:3857")


def test_a_whole_map_service_is_refused(run: Run, service: Any) -> None:
    line = one_error_line(run(service[0], "--out", "map.tif"))
    assert "has 134217728 x 134217728 px, too many for one map" in line
    assert "name a part of it with --aoi, and give --crop" in line
