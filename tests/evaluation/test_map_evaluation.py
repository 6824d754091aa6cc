"""What of maps counts: areas of interest, merged classes, eroded and unknown labels, scenes."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import shapely
from rasterio import Affine
from samples.raw_layouts import class_map, utm, write_raster
from samples.scored_rasters import (
    GRIDS,
    MAP,
    PLACE,
    SHAPE,
    SHAPES,
    TRUTH,
    UTM,
    ClassRaster,
    assert_counted,
    burned,
    inside,
    label_file,
    laid,
    matrix_of,
    polygon_file,
    scheme_of,
    scored,
)
from typer.testing import CliRunner

from hrrsi.cli import app
from hrrsi.errors import HrrsiError
from hrrsi.evaluation.map_evaluation import evaluate_maps, map_pixels
from hrrsi.evaluation.options import MapReading
from hrrsi.labels.labelled_scenes import SceneFiles
from hrrsi.labels.scheme import load_scheme
from hrrsi.report.sentences import extent


def test_what_lies_outside_of_the_area_of_interest_does_not_count(tmp_path: Path) -> None:
    aoi = polygon_file(tmp_path / "aoi.gpkg", SHAPES[1:2])
    near = inside(SHAPE, PLACE, PLACE, SHAPES[1][1])
    truth, prediction = np.where(near, TRUTH, 255), np.where(near, MAP, 255)
    path = write_raster(tmp_path / "map.tif", MAP, **UTM)
    evaluation = scored(
        path, label_file(tmp_path), scheme_of(tmp_path), reading=MapReading(aoi=aoi)
    )
    assert_counted(evaluation, prediction, truth)
    assert evaluation.reading == ("only inside of aoi.gpkg",)
    np.testing.assert_array_equal(
        evaluation.counts.mapped_pixels, np.bincount(MAP[near], minlength=3)
    )
    # of polygons as labels, and of a map on another grid
    label = polygon_file(tmp_path / "label.gpkg", SHAPES)
    evaluation = scored(path, label, scheme_of(tmp_path), reading=MapReading(aoi=aoi))
    assert_counted(evaluation, prediction, np.where(near, burned(SHAPE, PLACE, PLACE), 255))
    grid = GRIDS["turned"]
    path = write_raster(tmp_path / "map.tif", MAP, crs="EPSG:32632", transform=grid)
    expected = laid(MAP, grid, "EPSG:32632", SHAPE, PLACE, "EPSG:32632")
    evaluation = scored(
        path, label_file(tmp_path), scheme_of(tmp_path), reading=MapReading(aoi=aoi)
    )
    assert_counted(evaluation, np.where(near, expected, 255), truth)


def test_an_area_of_interest_may_lie_on_some_of_the_scenes(tmp_path: Path) -> None:
    aoi = polygon_file(tmp_path / "aoi.gpkg", SHAPES[:1])
    files = []
    for name, col in (("a", 0), ("b", 5000)):
        place = utm(col=col)
        path = write_raster(tmp_path / f"{name}.tif", MAP, **place)
        label = write_raster(tmp_path / f"{name}_label.tif", TRUTH, **place)
        files.append(SceneFiles(name, str(path), str(label)))
    scheme = scheme_of(tmp_path)
    counts = evaluate_maps(files, scheme, reading=MapReading(aoi=aoi)).counts
    near, far = (s.matrices["full"].matrix.pixels for s in counts.scenes)
    assert near > 0
    assert far == 0
    with pytest.raises(HrrsiError, match=r"aoi.gpkg: no polygon lies on .*b.tif; check its CRS"):
        evaluate_maps(files[1:], scheme, reading=MapReading(aoi=aoi))
    aoi = polygon_file(tmp_path / "far.gpkg", [("roof", shapely.box(9000, 0, 9010, 10))])
    with pytest.raises(HrrsiError, match=r"far.gpkg: no polygon lies on any of the maps"):
        evaluate_maps(files, scheme, reading=MapReading(aoi=aoi))


def test_classes_are_merged_in_both(tmp_path: Path) -> None:
    lookup = np.array([0, 1, 0] + [255] * 253, dtype=np.uint8)  # roof and water are one
    label, scheme = label_file(tmp_path), scheme_of(tmp_path)
    merges = ("roof+water=dark",)
    path = write_raster(tmp_path / "map.tif", MAP, **UTM)
    evaluation = scored(path, label, scheme, merges=merges)
    assert evaluation.counts.scenes[0].classes == ("dark", "grass")
    assert_counted(evaluation, lookup[MAP], lookup[TRUTH])
    # a map of ours may have the scheme's classes, or the merged ones, in any order
    path = ClassRaster(tmp_path, ("roof", "grass", "water")).write(MAP, **UTM)
    assert_counted(scored(path, label, scheme, merges=merges), lookup[MAP], lookup[TRUTH])
    path = ClassRaster(tmp_path, ("grass", "DARK")).write((1 - lookup[MAP]), **UTM)
    assert_counted(scored(path, label, scheme, merges=merges), lookup[MAP], lookup[TRUTH])


def test_eroded_labels_of_their_own_count(tmp_path: Path) -> None:
    path, full = write_raster(tmp_path / "map.tif", MAP, **UTM), label_file(tmp_path)
    cut = TRUTH.copy()
    cut[:, ::5] = 255
    eroded = write_raster(tmp_path / "eroded.tif", cut, **UTM)
    scheme = scheme_of(tmp_path)
    both = evaluate_maps([SceneFiles("s", str(path), str(full), str(eroded))], scheme)
    assert_counted(both, MAP, TRUTH)
    np.testing.assert_array_equal(
        both.counts.matrix("eroded").counts, matrix_of(MAP, cut)[:3], strict=True
    )
    alone = evaluate_maps([SceneFiles("s", str(path), None, str(eroded))], scheme)
    assert alone.labels == "eroded"
    assert alone.counts.matrix("eroded").pixels == (cut != 255).sum()


def test_scenes_are_pooled_and_strips_come_in_order(tmp_path: Path) -> None:
    files = []
    for name, shape in (("a", (530, 40)), ("b", (20, 60))):
        path = write_raster(tmp_path / f"{name}.tif", class_map(1, *shape, 3))
        label = write_raster(tmp_path / f"{name}_label.tif", class_map(2, *shape, 3))
        files.append(SceneFiles(name, str(path), str(label)))
    predictions: dict[str, list[np.ndarray]] = {"a": [], "b": []}
    pixels: list[int] = []
    scheme = scheme_of(tmp_path)
    evaluation = evaluate_maps(
        files,
        scheme,
        split="paper:val",
        on_strip=lambda file, strip: predictions[file.name].append(strip.prediction),
        on_pixels=pixels.append,
    )
    assert len(predictions["a"]) > 1
    np.testing.assert_array_equal(np.concatenate(predictions["a"]), class_map(1, 530, 40, 3))
    assert sum(pixels) == map_pixels(files, scheme) == 530 * 40 + 20 * 60
    assert evaluation.counts.matrix("full").pixels == sum(pixels)
    assert (evaluation.scenes, evaluation.split) == (("a", "b"), "paper:val")
    assert extent(evaluation) == "2 scenes, whole, maps as given"


def test_unknown_values_on_request_are_no_prediction(tmp_path: Path) -> None:
    indices, truth = MAP.copy(), TRUTH.copy()
    indices[5:9, 100:] = 7
    truth[1, 60:70] = 8
    path = write_raster(tmp_path / "map.tif", indices, **UTM)
    label = write_raster(tmp_path / "label.tif", truth, **UTM)
    evaluation = scored(path, label, scheme_of(tmp_path), unknown="ignore")
    assert_counted(
        evaluation, np.where(indices == 7, 255, indices), np.where(truth == 8, 255, truth)
    )
    assert evaluation.unknown_pixels == 10
    assert evaluation.reading == ("unknown labels ignored",)


def test_unknown_labels_are_said_to_lie_on_both_sides_of_the_area(tmp_path: Path) -> None:
    truth = TRUTH.copy()
    near = inside(SHAPE, PLACE, PLACE, SHAPES[1][1])
    for side in (near, ~near):
        truth[tuple(np.argwhere(side)[0])] = 8
    path = write_raster(tmp_path / "map.tif", MAP, **UTM)
    label = write_raster(tmp_path / "label.tif", truth, **UTM)
    aoi = polygon_file(tmp_path / "aoi.gpkg", SHAPES[1:2])
    scheme_of(tmp_path)
    words = ["eval", "--pred", path, "--label", label, "--scheme", tmp_path / "own.yaml"]
    words += ["--unknown", "ignore"]
    result = CliRunner().invoke(app, [*map(str, words), "--aoi", str(aoi)])
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert "(2 in and outside of the area with one that the scheme doesn't know)" in text
    result = CliRunner().invoke(app, list(map(str, words)))
    assert "(2 of them with one that the scheme doesn't know)" in " ".join(result.stdout.split())


def test_bad_labels_are_one_line(tmp_path: Path) -> None:
    path, scheme = write_raster(tmp_path / "map.tif", MAP, **UTM), scheme_of(tmp_path)
    strange = TRUTH.copy()
    strange[12, 60] = 9
    label = write_raster(tmp_path / "label.tif", strange, **UTM)
    with pytest.raises(HrrsiError, match=r"label.tif: scene s: unknown index 9 at row 12, col"):
        scored(path, label, scheme)
    flat = polygon_file(tmp_path / "flat.gpkg", SHAPES, crs=None)
    with pytest.raises(HrrsiError, match=r"flat.gpkg: has no CRS, but .*map.tif has; assign one"):
        scored(path, flat, scheme)
    with pytest.raises(HrrsiError, match=r"scene s: has no label"):
        evaluate_maps([SceneFiles("s", str(path))], scheme)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rasters_height(tmp_path: Path) -> None:
    def peak(height: int, **place: object) -> int:
        # one class: what is found near borders is another matter
        truth = np.zeros((height, 64), dtype=np.uint8)
        label = write_raster(tmp_path / "label.tif", truth, **UTM)
        path = write_raster(tmp_path / "map.tif", truth, **{**UTM, **place})
        scheme = scheme_of(tmp_path)
        tracemalloc.start()
        try:
            scored(path, label, scheme, block=100_000)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    grid = PLACE @ Affine.translation(0.3, 0.4)
    for place in ({}, {"transform": grid}):
        peak(300, **place)  # what is imported and kept once
        assert peak(6000, **place) < 1.2 * peak(1500, **place)


@pytest.mark.long
def test_a_predicted_map_scores_as_its_weights_do(
    examples: Path, made_weights: Path, tmp_path: Path
) -> None:
    tile = examples / "dubai" / "tile1"
    image = tile / "images" / "image_part_008.jpg"
    options = ["--weights", made_weights, "--window", "256", "--device", "cpu", "--quiet"]
    options += ["--precision", "32"]
    evaluated = run("eval", tile.parent, "--scheme", "dubai", "--scenes", "tile1_part008",
                    "--format", "json", *options)  # fmt: skip
    run("predict", image, "--out", tmp_path / "map.tif", *options)
    mask = tile / "masks" / "image_part_008.png"
    matrix = scored(tmp_path / "map.tif", mask, load_scheme("dubai")).counts.matrix("full")
    expected = json.loads(evaluated)["confusion_matrix"]
    assert list(matrix.classes) == expected["classes"]
    assert matrix.pixels > 0
    assert matrix.counts.tolist() == expected["counts"]


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.stdout
