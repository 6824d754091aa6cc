"""`hrrsi eval` of maps that are there, one or two: what is scored, and what is said of it."""

import html
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from samples.class_borders import blobs
from samples.evaluated_data import (
    COLOURS,
    SIZES,
    evaluated,
    map_of,
    matrix_of,
    predicted,
    scored,
    scores_of,
)
from typer.testing import CliRunner

from hrrsi.cli import app


@pytest.mark.long
def test_maps_that_are_there_score_as_the_weights_that_made_them(
    labelled_scenes, weights, tmp_path
):
    options = [*labelled_scenes["options"], "--scenes", "b"]
    predicted(labelled_scenes, weights, tmp_path / "maps")
    of_weights = scored(labelled_scenes["folder"], *options, "--weights", weights, "--window", 64)
    map_file, label = tmp_path / "maps" / "b_classes.tif", labelled_scenes["folder"] / "b_label.png"
    maps = ["--pred", map_file, "--label", label, *labelled_scenes["options"]]
    result = CliRunner().invoke(app, ["eval", *map(str, maps), "--format", "json"])
    assert result.exit_code == 0, result.output
    of_map = json.loads(result.stdout)
    for part in ("scores", "classes", "confusion_matrix", "boundaries", "intervals"):
        assert of_map[part] == of_weights[part], part
    assert of_map["protocol"]["maps"] == [str(map_file)]
    assert "map " in of_map["protocol"]["sentence"]
    two = ["eval", map_file, map_file, "--label", label, *labelled_scenes["options"], "--block", 32]
    compared = CliRunner().invoke(app, [*map(str, two)])
    assert "can't be told apart" in compared.stdout, compared.output


def test_a_map_that_leaves_out_what_is_hard_does_not_win(labelled_scenes, tmp_path):
    truth = labelled_scenes["truths"]["b"]
    indices = blobs(8, SIZES["b"], classes=3, ignored=0)
    hole = indices.copy()
    hole[40:90, 20:100] = 255
    common = [
        "--label",
        map_of(tmp_path / "gt.tif", truth),
        *labelled_scenes["options"],
        "--block",
        32,
    ]
    common += ["--label-format", "indices"]
    maps = [map_of(tmp_path / "a.tif", indices), map_of(tmp_path / "b.tif", hole)]
    scores = scored(*maps, *common)
    counted = np.where(hole == 255, 255, truth)
    oa, miou = scores_of(matrix_of(indices, counted))
    for which in ("first", "second"):
        assert scores[which]["scores"]["OA"] == pytest.approx(oa)
        assert scores[which]["scores"]["mIoU"] == pytest.approx(miou)
    assert all(d["difference"] == 0 for d in scores["differences"].values())
    text = " ".join(evaluated(*maps, *common).stdout.split())
    left_out = (truth[40:90, 20:100] != 255).sum()
    assert f"A leaves out 0 labelled pixels that B maps, and B {left_out:,} that A maps" in text
    lacking = scores["first"]["not_scored"]
    assert lacking["labelled_pixels_that_the_other_map_lacks"] == left_out
    assert lacking["unlabelled_pixels"] == (truth == 255).sum()
    # borders of the truth are where they were, so eroded labels are the same of both
    grids = [[row["pixels"] for row in scores[which]["grid"]] for which in ("first", "second")]
    assert grids[0] == grids[1]
    distances = [scores[which]["border_distance"]["pixels"] for which in ("first", "second")]
    assert distances[0] == distances[1]
    # areas are those of the whole maps
    mapped = [scores[which]["areas"]["mapped_pixels"] for which in ("first", "second")]
    assert mapped == [truth.size, truth.size - 50 * 80]


def test_scores_of_a_part_say_so(labelled_scenes, tmp_path):
    truth = blobs(9, SIZES["b"], classes=3)
    part = np.where(np.arange(truth.shape[1]) < 30, truth, 255).astype(np.uint8)
    page = tmp_path / "report.html"
    options = ["--label", map_of(tmp_path / "gt.tif", truth), "--label-format", "indices"]
    options += [*labelled_scenes["options"], "--map-format", "indices", "--report", page]
    result = evaluated("--pred", map_of(tmp_path / "part.tif", part), *options)
    share = f"{100 * 30 / truth.shape[1]:.2f} % of the labelled pixels only"
    assert f"Scored on {share}" in result.stdout
    assert f"Scored on {share}" in page.read_text(encoding="utf-8")
    whole = evaluated("--pred", map_of(tmp_path / "whole.tif", truth), *options, "--overwrite")
    assert whole.exit_code == 0, whole.output
    assert "Scored on" not in whole.stdout + page.read_text(encoding="utf-8")


def test_pictures_of_all_labels_say_so_beside_scores_of_eroded_ones(labelled_scenes, tmp_path):
    label = map_of(tmp_path / "gt.tif", blobs(9, SIZES["b"], classes=3))
    options = ["--label", label, "--label-format", "indices", "--map-format", "indices"]
    options += [*labelled_scenes["options"], "--overwrite", "--report", tmp_path / "report.html"]
    for protocol, is_said in (("isprs", True), ("all", False)):
        result = evaluated("--pred", label, *options, "--protocol", protocol)
        assert result.exit_code == 0, result.output
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert ("Pictures are of all labels" in page) == is_said


def test_what_differs_in_reading_two_maps_is_said_of_each(labelled_scenes, tmp_path):
    indices = blobs(9, SIZES["b"], classes=3)
    maps = [
        map_of(tmp_path / "a.tif", indices),
        map_of(tmp_path / "b.tif", indices[4:], top=2_780_000 - 2),
    ]
    options = ["--label", maps[0], "--label-format", "indices", "--map-format", "indices"]
    options += [*labelled_scenes["options"], "--report", tmp_path / "report.html"]
    text = " ".join(evaluated(*maps, *options).stdout.split())
    first, second = text[text.index("of A:") :].split("of B:")
    assert "laid on the labels' grid" in second.split("Scenes:")[0]
    assert "laid on the labels' grid" not in first
    page = html.unescape((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.count("laid on the labels' grid by nearest pixel; b.tif.") == 1


def test_maps_on_other_grids_are_compared_on_one_against_polygons(labelled_scenes, tmp_path):
    """Polygons have no grid: both maps are laid on the first one's."""
    shape = SIZES["b"]
    indices = blobs(8, shape, classes=3, ignored=0)
    first = map_of(tmp_path / "a.tif", indices)
    shifted = map_of(tmp_path / "b.tif", indices[20:], top=2_780_000 - 10)
    ring = [[x, y] for x, y in ((0, 0), (64, 0), (64, -74), (0, -74), (0, 0))]
    polygon = {"type": "Polygon", "coordinates": [[[300_000 + x, 2_780_000 + y] for x, y in ring]]}
    feature = {"type": "Feature", "properties": {"class": "tree"}, "geometry": polygon}
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32640"}}
    label = tmp_path / "gt.geojson"
    label.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    options = [
        "--label",
        label,
        "--map-format",
        "indices",
        "--block",
        32,
        *labelled_scenes["options"],
    ]
    scores = scored(first, shifted, *options)
    assert scores["first"]["confusion_matrix"] == scores["second"]["confusion_matrix"]
    assert scores["first"]["scores"]["pixels"] == 128 * (148 - 20)
    assert all(d["difference"] in (0, None) for d in scores["differences"].values())


def test_two_maps_of_one_class_have_no_borders_to_compare(labelled_scenes, tmp_path):
    class_map = map_of(tmp_path / "a.tif", np.zeros((70, 80), np.uint8))
    options = ["--label", class_map, "--label-format", "indices", "--map-format", "indices"]
    scores = scored(class_map, class_map, *options, *labelled_scenes["options"])
    assert scores["boundary_differences"]["F1 at 3 px"]["difference"] is None


@pytest.mark.slow
@pytest.mark.long
def test_names_that_are_no_text_are_one_line_or_printed(labelled_scenes, weights, tmp_path):
    bad = os.fsdecode(b"m\xff")
    path = map_of(tmp_path / "m.tif", labelled_scenes["truths"]["b"]).rename(
        tmp_path / f"{bad}.tif"
    )
    label = map_of(tmp_path / "gt.tif", labelled_scenes["truths"]["b"])
    options = ["--label", label, "--label-format", "indices", *labelled_scenes["options"]]
    result = evaluated("--pred", path, *options)
    assert result.exit_code == 1
    assert "m?.tif: has a name that is not UTF-8; rename it" in result.stderr
    strange = tmp_path / f"{bad}.safetensors"
    strange.write_bytes(weights.read_bytes())
    command = [
        sys.executable,
        "-m",
        "hrrsi",
        "eval",
        labelled_scenes["folder"],
        "--weights",
        strange,
    ]
    command += [*labelled_scenes["options"], "--window", "64", "--json", tmp_path / "scores.json"]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"m?.safetensors" in done.stdout
    assert "m?.safetensors" in (tmp_path / "scores.json").read_text(encoding="utf-8")


def test_pixels_outside_of_the_area_are_counted_apart(labelled_scenes, tmp_path):
    truth = labelled_scenes["truths"]["b"]
    box = {"type": "Polygon", "coordinates": [[
        [300_010, 2_779_990], [300_040, 2_779_990], [300_040, 2_779_960], [300_010, 2_779_960],
        [300_010, 2_779_990],
    ]]}  # fmt: skip
    feature = {"type": "Feature", "properties": {}, "geometry": box}
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32640"}}
    aoi = tmp_path / "aoi.geojson"
    aoi.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    label = map_of(tmp_path / "gt.tif", truth)
    scores = scored(
        "--pred", label, "--label", label, "--label-format", "indices", "--map-format", "indices",
        "--aoi", aoi, *labelled_scenes["options"],
    )  # fmt: skip
    inside = truth[20:80, 20:80]
    assert scores["not_scored"]["pixels_outside_of_the_area_of_interest"] == truth.size - 3600
    assert scores["not_scored"]["unlabelled_pixels"] == (inside == 255).sum()


def test_an_attribute_is_of_polygons(labelled_scenes, tmp_path):
    label = map_of(tmp_path / "gt.tif", labelled_scenes["truths"]["b"])
    result = evaluated(
        "--pred", label, "--label", label, "--attribute", "kind", *labelled_scenes["options"]
    )
    assert result.exit_code == 1
    words = f"--attribute: is of polygons, and {label} is a raster; leave it out"
    assert words in " ".join(result.stderr.split())


def test_areas_of_a_class_in_few_blocks_have_no_interval(labelled_scenes, tmp_path):
    indices = np.zeros((160, 160), np.uint8)
    indices[:, 80:] = 1
    indices[:20, :20] = 2  # in one block
    truth = np.where(np.random.default_rng(0).random(indices.shape) < 0.9, indices, 0)
    label = map_of(tmp_path / "gt.tif", truth.astype(np.uint8))
    options = ["--label", label, "--label-format", "indices", "--map-format", "indices"]
    options += [*labelled_scenes["options"], "--block", 32]
    scores = scored("--pred", map_of(tmp_path / "a.tif", indices), *options)["areas"]["classes"]
    assert [c["interval_over_blocks"] for c in scores] == [[None, None]] * 3
    indices[:20, :20] = 0
    scores = scored("--pred", map_of(tmp_path / "b.tif", indices), *options)["areas"]["classes"]
    low, high = scores[0]["interval_over_blocks"]
    assert low < scores[0]["estimated"] < high


def test_a_verdict_says_why_there_is_none(labelled_scenes, tmp_path):
    truth = np.zeros((160, 160), np.uint8)
    truth[:, 80:] = 1
    truth[40:44, 40:44] = 2  # in one block of 25
    label = map_of(tmp_path / "gt.tif", truth)
    maps = [map_of(tmp_path / f"{n}.tif", np.roll(truth, n, axis=1)) for n in (3, 9)]
    options = ["--label", label, "--label-format", "indices", "--map-format", "indices"]
    options += labelled_scenes["options"]
    for block, words in (
        (32, "With fewer than 6 of 25 blocks of 32 px that hold the rarest class, A and B can't"),
        (256, "With 1 block of 256 px, A and B can't"),
    ):
        assert words in scored(*maps, *options, "--block", block)["verdict"]


def test_maps_of_several_scenes_against_full_and_eroded_labels(labelled_scenes, weights, tmp_path):
    maps = predicted(labelled_scenes, weights, tmp_path / "maps")
    palette = np.array([*COLOURS, *[[0, 0, 0]] * 253], dtype=np.uint8)
    labels, thick = [], {}
    for name, truth in labelled_scenes["truths"].items():
        thick[name] = truth.copy()
        thick[name][:, ::3] = 255  # not what discs would give
        path = tmp_path / f"{name}_eroded.png"
        Image.fromarray(palette[thick[name]]).save(path)
        labels += ["--label", labelled_scenes["folder"] / f"{name}_label.png", "--label", path]
    (folder := tmp_path / "only").mkdir()
    files = [
        (tmp_path / "maps" / f"{name}_classes.tif").rename(folder / f"{name}_classes.tif")
        for name in SIZES
    ]
    scores = scored("--pred", files[0], "--pred", files[1], *labels, *labelled_scenes["options"])
    for kind, truths in (("full", labelled_scenes["truths"]), ("eroded", thick)):
        counts = sum(matrix_of(maps[name], truths[name]) for name in SIZES)
        row = next(
            row
            for row in scores["grid"]
            if (row["scene"], row["labels"], row["protocol"]) == (None, kind, "all")
        )
        assert [row["OA"], row["mIoU"]] == pytest.approx(scores_of(counts))
        recall = [c["recall"] for c in row["classes"]]
        assert recall == pytest.approx(list(np.diag(counts) / counts.sum(axis=0)))
    assert scores["protocol"]["maps"] == [str(file) for file in files]
    of_folder = scored("--pred", folder, *labels, *labelled_scenes["options"])
    assert of_folder["protocol"] == scores["protocol"]  # names files, not their folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pred", "map.tif"], "needs --label"),
        (["a.tif", "--pred", "b.tif", "--label", "gt.tif", "--scheme", "dubai"], "goes without"),
        (["--label", "gt.tif", "--pred", "map.tif"], "needs --scheme"),
        (["--label", "gt.tif", "--scheme", "dubai"], "one map, or two"),
        (["--label", "gt.tif", "--scheme", "dubai", "--pred", "m.tif", "--tta", "d4"], "--tta"),
        (["data", "--scheme", "dubai", "--aoi", "area.gpkg"], "give --pred"),
        ([], "name what to evaluate"),
    ],
)
def test_options_of_maps_that_do_not_go_together(arguments, words):
    result = CliRunner().invoke(app, ["eval", *arguments])
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
