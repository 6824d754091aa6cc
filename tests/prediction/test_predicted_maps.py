"""The maps of `hrrsi predict`: polygons, zones, scores, pictures, and on which grid they lie."""

import csv
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from rasterio.transform import from_origin
from samples.made_weights import save_made_weights, scene_pixels
from samples.predicted_scenes import notices, one_error_line, save_scene
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import app
from hrrsi.errors import InputError
from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_file import packaged_weights
from hrrsi.networks.weights_reading import load_model
from hrrsi.prediction.engines.graph_engines import OpenVinoEngine

Run = Callable[..., Any]


@pytest.mark.long
def test_preview_shows_scene_map_and_legend(run: Run, tmp_path: Path) -> None:
    values = np.moveaxis(scene_pixels(), -1, 0)[:, :160, :200].copy()
    values[:, :, 150:] = 0
    scene = save_scene(tmp_path / "scene.tif", values)
    result = run(scene, "--nodata", "0", "--preview", "picture.png")
    assert result.exit_code == 0, result.output
    picture = np.asarray(Image.open("picture.png").convert("RGB"))
    labels = rasterio.open("scene_classes.tif").read(1)
    # two panels four times as large as the scene, beside each other
    height, width = 640, 800
    top = 140
    right = picture[top : top + height, 80 + width : 80 + 2 * width]
    colours = np.full((256, 3), (235, 237, 240), dtype=np.uint8)
    colours[:5] = load_colours()
    np.testing.assert_array_equal(right[2::4, 2::4], colours[labels])
    left = picture[top : top + height, 40 : 40 + width]
    shrunk = np.asarray(Image.fromarray(left).resize((200, 160), Image.Resampling.BOX), dtype=float)
    difference = np.abs(shrunk - np.moveaxis(values, 0, -1))[:, :145]
    assert difference.mean() < 6
    legend = picture[:, 120 + 2 * width :].reshape(-1, 3)
    for colour in colours[:5]:
        assert (legend == colour).all(-1).sum() > 500
    assert "exists already" in one_error_line(
        run(scene, "--out", "other.tif", "--preview", "picture.png")
    )
    assert "is one file for 2 scenes" in one_error_line(
        run(scene, save_scene(tmp_path / "b.tif"), "--preview", "p.png")
    )


def load_colours() -> list[tuple[int, int, int]]:
    return [(60, 16, 152), (132, 41, 246), (110, 193, 228), (254, 221, 58), (226, 169, 41)]


@pytest.mark.long
def test_an_area_of_interest_bounds_the_map(run: Run, tmp_path: Path) -> None:
    scene = save_scene(
        tmp_path / "scene.tif", crs="EPSG:28992", transform=from_origin(1000, 2000, 1, 1)
    )
    area = write_polygons(tmp_path / "area.gpkg", {"in": (1020, 1900, 1110, 1980)})
    assert run(scene, "--out", "all.tif").exit_code == 0
    result = run(scene, "--aoi", area, "--confidence", "uint8", "--out", "part.tif")
    assert result.exit_code == 0, result.output
    whole, part = rasterio.open("all.tif").read(1), rasterio.open("part.tif").read(1)
    inside = np.zeros(whole.shape, dtype=bool)
    inside[20:100, 20:110] = True
    np.testing.assert_array_equal(part == 255, ~inside)
    np.testing.assert_array_equal(part[inside], whole[inside])
    with rasterio.open("part_confidence.tif") as scores:
        np.testing.assert_array_equal(scores.read(1) == 255, ~inside)
    away = write_polygons(tmp_path / "away.gpkg", {"away": (9000, 9000, 9001, 9001)})
    assert "away.gpkg" in one_error_line(run(scene, "--aoi", away, "--out", "none.tif"))
    assert "no such file" in one_error_line(run(scene, "--aoi", "nothing.gpkg"))


def write_polygons(path: Path, boxes: dict[str, tuple[float, float, float, float]]) -> Path:
    shapes = shapely.box(*np.array(list(boxes.values())).T)
    names = np.array(list(boxes), dtype=object)
    pyogrio.raw.write(
        path,
        shapely.to_wkb(shapes),
        field_data=[names],
        fields=["name"],
        geometry_type="Polygon",
        crs="EPSG:28992",
    )
    return path


@pytest.mark.long
def test_polygons_zones_and_sieving_agree_with_the_map(run: Run, tmp_path: Path) -> None:
    scene = save_scene(
        tmp_path / "scene.tif", crs="EPSG:28992", transform=from_origin(1000, 2000, 0.5, 0.5)
    )
    zones = write_polygons(
        tmp_path / "zones.gpkg",
        {"west": (1000, 1925, 1050, 2000), "all": (900, 1900, 1200, 2100)},
    )
    result = run(
        scene, "--min-area", "10", "--vector", "map.gpkg", "--zones", zones, "--out", "m.tif"
    )
    assert result.exit_code == 0, result.output
    labels = rasterio.open("m.tif").read(1)
    _, _, _, fields = pyogrio.raw.read(
        "map.gpkg", layer="classes", columns=["class_index", "pixels", "area_m2"]
    )
    for index in range(5):
        of_class = fields[0] == index
        assert fields[1][of_class].sum() == (labels == index).sum()
        assert fields[2][of_class].sum() == pytest.approx((labels == index).sum() / 4)
    assert fields[1].min() >= 40  # 10 m² are 40 pixels of 0.5 m
    with Path("m_zones.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["zone"] for row in rows} == {"west", "all"}
    for row in rows:
        part = labels if row["zone"] == "all" else labels[:, :100]
        index = load_model().meta["classes"].index(row["class"])
        assert int(row["pixels"]) == (part == index).sum()
        assert float(row["area_m2"]) == pytest.approx((part == index).sum() / 4)
    assert "west" in result.stdout
    assert "also: map.gpkg" in result.stdout
    assert "also: m_zones.gpkg" in result.stdout
    wide = pyogrio.raw.read("m_zones.gpkg", layer="zones", columns=["name", "Land_m2"])[3]
    of_land = {r["zone"]: float(r["area_m2"]) for r in rows if r["class"] == "Land"}
    assert dict(zip(*wide, strict=True)) == pytest.approx(of_land)
    line = one_error_line(run(scene, "--vector", "map.kml", "--out", "other.tif"))
    assert "map.kml: is none of .gpkg, .geojson, .fgb, .shp" in line
    line = one_error_line(run(scene, "--min-area", "-1", "--out", "other.tif"))
    assert "--min-area: -1 is no area" in line
    assert not Path("other.tif").exists()


def test_scores_read_as_probabilities(run: Run, tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    result = run(scene, "--confidence", "float32", "--probabilities", "uint8")
    assert result.exit_code == 0, result.output
    labels = rasterio.open("scene_classes.tif").read(1)
    with rasterio.open("scene_probabilities.tif") as dataset:
        assert dataset.descriptions == tuple(load_model().meta["classes"])
        scores = dataset.read() * np.array(dataset.scales)[:, None, None]
    np.testing.assert_allclose(scores.sum(0), 1, atol=0.011)
    with rasterio.open("scene_confidence.tif") as dataset:
        confidence = dataset.read(1)
    np.testing.assert_allclose(confidence, scores.max(0), atol=0.0021)
    best = np.take_along_axis(scores, labels[None].astype(int), 0)[0]
    np.testing.assert_allclose(best, scores.max(0), atol=0.0041)


@pytest.mark.long
def test_resampled_maps_are_on_the_scenes_grid(run: Run, tmp_path: Path) -> None:
    weights = save_made_weights(tmp_path / "half.safetensors", resolution=0.5)
    values = np.moveaxis(scene_pixels(), -1, 0)[:, :128, :160]
    coarse = save_scene(
        tmp_path / "coarse.tif", values, crs="EPSG:28992", transform=from_origin(0, 99, 0.5, 0.5)
    )
    fine = save_scene(
        tmp_path / "fine.tif",
        values.repeat(2, 1).repeat(2, 2),
        crs="EPSG:28992",
        transform=from_origin(0, 99, 0.25, 0.25),
    )
    for scene in (coarse, fine):
        result = run(scene, "--resample", 0.5, "--precision", "32", weights=weights)
        assert result.exit_code == 0, result.output
        assert notices(result) == []
    with rasterio.open("fine_classes.tif") as dataset, rasterio.open(fine) as source:
        assert dataset.transform == source.transform
        labels = dataset.read(1)
    expected = rasterio.open("coarse_classes.tif").read(1)
    assert labels.shape == (256, 320)
    # between the coarse pixels' centres, borders between classes run more finely; away from them
    # the labels are the same
    around = sliding_window_view(np.pad(expected, 1, "edge"), (3, 3)).reshape(*expected.shape, 9)
    inside = (around == expected[..., None]).all(-1)
    assert 0.3 < inside.mean() < 1
    same = labels == expected.repeat(2, 0).repeat(2, 1)
    assert same[inside.repeat(2, 0).repeat(2, 1)].mean() > 0.998


@pytest.mark.long
def test_the_map_is_a_valid_cloud_optimised_geotiff(run: Run, tmp_path: Path) -> None:
    from rio_cogeo.cogeo import cog_validate

    values = np.tile(np.moveaxis(scene_pixels(), -1, 0), (1, 4, 3))
    scene = save_scene(
        tmp_path / "scene.tif", values, crs="EPSG:28992", transform=from_origin(0, 99, 1, 1)
    )
    line = ["predict", scene, "--out", "map.tif", "--probabilities", "uint8", "--min-area", "9"]
    assert CliRunner().invoke(app, [str(word) for word in line]).exit_code == 0
    for name in ("map.tif", "map_probabilities.tif"):
        assert cog_validate(name, strict=True) == (True, [], []), name
    with rasterio.open("map.tif") as dataset:
        tags = dataset.tags()
        assert dataset.overviews(1) == [2, 4]
    assert tags["HRRSI_WEIGHTS"] == packaged_weights().name
    assert tags["HRRSI_VERSION"] == hrrsi.__version__
    assert json.loads(tags["HRRSI_OPTIONS"]) == {"window": 512, "overlap": 96}
    assert tags["HRRSI_MIN_AREA"] == "9"


@pytest.mark.long
def test_resampled_maps_keep_holes_to_the_pixel(run: Run, tmp_path: Path) -> None:
    weights = save_made_weights(tmp_path / "coarse.safetensors", resolution=0.6)
    values = np.maximum(np.moveaxis(scene_pixels(), -1, 0), 1)
    values[:, 40:97, 30:141] = 0
    values[:, 200:203] = 0
    scene = save_scene(
        tmp_path / "scene.tif",
        values,
        nodata=0,
        crs="EPSG:28992",
        transform=from_origin(0, 99, 0.25, 0.25),
    )
    result = run(scene, "--resample", 0.6, weights=weights)
    assert result.exit_code == 0, result.output
    labels = rasterio.open("scene_classes.tif").read(1)
    np.testing.assert_array_equal(labels == 255, (values == 0).all(0))


def test_zones_that_lie_elsewhere_are_told(run: Run, tmp_path: Path) -> None:
    place = {"crs": "EPSG:28992", "transform": from_origin(1000, 2000, 1, 1)}
    scene = save_scene(tmp_path / "scene.tif", **place)
    away = write_polygons(tmp_path / "away.gpkg", {"a": (5000, 1900, 5050, 2000)})
    result = run(scene, "--zones", away)
    assert result.exit_code == 0, result.output
    told = f"warning: {scene}: no zone of {away} lies on it, so all of them are empty"
    assert told in result.stderr
    here = write_polygons(tmp_path / "here.gpkg", {"a": (1000, 1900, 1050, 2000)})
    assert "lies on it" not in run(scene, "--zones", here, "--overwrite").stderr


def test_longitudes_on_another_figure_of_the_earth_are_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hrrsi.scenes.crs._datum_messages", set())
    for epsg, is_told in ((28992, True), (25832, False)):
        scene = save_scene(
            tmp_path / f"{epsg}.tif", crs=f"EPSG:{epsg}", transform=from_origin(2e5, 5e5, 1, 1)
        )
        result = run(scene, "--vector", "geojson")
        assert result.exit_code == 0, result.output
        words = "GeoJSON holds WGS 84 longitudes and latitudes where scenes are in EPSG:28992"
        assert (words in result.stderr) is is_told
        assert ("--vector gpkg keeps the scenes' CRS" in result.stderr) is is_told
        assert words not in run(scene, "--vector", "geojson", "--overwrite").stderr  # once


def test_wrong_zones_fail_before_the_network_runs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = save_scene(
        tmp_path / "scene.tif", crs="EPSG:28992", transform=from_origin(1000, 2000, 1, 1)
    )
    zones = write_polygons(tmp_path / "zones.gpkg", {"a": (1000, 1900, 1050, 2000)})
    planned = run(scene, "--zones", zones, "--zone-name", "nome", "--dry-run")
    assert "has no attribute 'nome'" in planned.output
    monkeypatch.setattr(OpenVinoEngine, "logits", None)
    line = one_error_line(run(scene, "--zones", zones, "--zone-name", "nome"))
    assert "has no attribute 'nome'" in line
    assert "give --zones" in one_error_line(run(scene, "--zone-name", "name"))

    def damaged(path: Path) -> None:
        raise InputError("cannot be read (a ring is cut off)", where=path, fix="repair the file")

    # what only the copy of the zones with their classes reads
    monkeypatch.setattr("hrrsi.maps.zones._zone_features", damaged)
    assert "a ring is cut off" in one_error_line(run(scene, "--zones", zones))
    assert os.listdir() == []


@pytest.mark.long
def test_what_shapefiles_can_not_hold_is_said(
    run: Run, made_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    monkeypatch.setattr("hrrsi.maps.vector_files.SHAPEFILE_BYTES", 1000)
    result = run(scene, "--vector", "shp")
    assert result.exit_code == 0, result.output
    (line,) = (line for line in notices(result) if "shp" in line)
    assert line.startswith("warning: scene_classes.shp: takes ")
    assert line.endswith("read shapefiles up to 0.0 MB alone: --vector gpkg has no such limit")
    names = ["Building", "Land", "Road", "Vegetation", "Wasser und " * 30]
    network, long = load_model(made_weights), tmp_path / "long.safetensors"
    save_weights(network.state_dict(), replace(network.meta, classes=names), long)
    line = one_error_line(run(scene, "--vector", "shp", "--overwrite", weights=long))
    assert "--vector: a shapefile holds names of 254 bytes, and the class 'Wasser und" in line
