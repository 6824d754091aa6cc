"""`hrrsi eval` on whole scenes: every protocol from one run, intervals, boundaries, comparisons.

References start from the maps that `hrrsi predict` writes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from scipy import ndimage
from test_boundary_scores import blobs, disc, naive_boundary
from test_eval import CLASSES, COLOURS, SCHEME, evaluated, noise, scored, write_weights
from torchmetrics.classification import MulticlassCalibrationError
from torchmetrics.functional.classification import multiclass_jaccard_index
from typer.testing import CliRunner

from hrrsi.cli import app

SIZES = {"b": (150, 130), "c": (90, 170)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "random.safetensors", sorted(CLASSES))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> dict:
    """Two scenes with labels in patches, and the scheme that reads them."""
    folder = tmp_path_factory.mktemp("raw")
    scheme = folder.parent / "mine.yaml"
    scheme.write_text(SCHEME)
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[:3] = COLOURS
    truths = {}
    for seed, (name, size) in enumerate(SIZES.items()):
        truths[name] = blobs(seed, size, classes=3, ignored=0.05)
        profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "EPSG:32640"}
        transform = rasterio.Affine(0.5, 0, 300_000, 0, -0.5, 2_780_000)
        height, width = size
        with rasterio.open(
            folder / f"{name}.tif", "w", height=height, width=width, transform=transform, **profile
        ) as raster:
            raster.write(noise(seed, *size).transpose(2, 0, 1))
        Image.fromarray(palette[truths[name]]).save(folder / f"{name}_label.png")
    return {"folder": folder, "options": ["--scheme", scheme], "truths": truths}


def predicted(scenes: dict, weights: Path, folder: Path, *options: str) -> dict[str, np.ndarray]:
    """Return the maps of `hrrsi predict`, in the indices of CLASSES."""
    arguments = ["predict", str(scenes["folder"]), "--weights", str(weights), "--out", str(folder)]
    arguments += ["--window", "64", "--precision", "32", "--device", "cpu", "--quiet", *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    lookup = np.full(256, 255, dtype=np.uint8)
    lookup[:3] = [CLASSES.index(name) for name in sorted(CLASSES)]
    maps = {}
    for name in SIZES:
        with rasterio.open(folder / f"{name}_classes.tif") as raster:
            maps[name] = lookup[raster.read(1)]
    return maps


def eroded(truth: np.ndarray) -> np.ndarray:
    found = truth.copy()
    for index in range(3):
        other = (truth != index) & (truth != 255)
        found[(truth == index) & ndimage.binary_dilation(other, disc(3))] = 255
    return found


def matrix_of(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    counts = np.zeros((3, 3), dtype=np.int64)
    known = truth != 255
    np.add.at(counts, (prediction[known], truth[known]), 1)
    return counts


def scores_of(counts: np.ndarray) -> tuple[float, float]:
    """Return OA and mIoU."""
    hits = np.diag(counts)
    ious = hits / (counts.sum(axis=0) + counts.sum(axis=1) - hits)
    return hits.sum() / counts.sum(), ious.mean()


def test_one_run_gives_every_protocol_of_the_pool_and_of_each_scene(scenes, weights, tmp_path):
    report = scored(
        scenes["folder"], *scenes["options"], "--weights", weights, "--window", 64, "--tta", "flip"
    )
    maps = {
        "none": predicted(scenes, weights, tmp_path / "plain"),
        "flip": predicted(scenes, weights, tmp_path / "flip", "--tta", "flip"),
    }
    rows = {
        (row["scene"], row["labels"], row["clutter"], row["test_time_augmentation"]): row
        for row in report["grid"]
    }
    assert len(rows) == len(report["grid"]) == 3 * 2 * 2 * 2
    kept = [CLASSES.index(name) for name in CLASSES if name != "clutter"]
    for (scene, labels, clutter, augmentation), row in rows.items():
        counts = np.zeros((3, 3), dtype=np.int64)
        for name in [scene] if scene else SIZES:
            truth = scenes["truths"][name]
            counts += matrix_of(
                maps[augmentation][name], eroded(truth) if labels == "eroded" else truth
            )
        if clutter == "out":
            counts = counts[np.ix_(kept, kept)]
        assert (row["OA"], row["mIoU"]) == pytest.approx(scores_of(counts)), row
        assert row["pixels"] == counts.sum()
    assert len({row["OA"] for row in rows.values()}) > 12  # no two protocols for one


def test_figures_of_the_pool_agree_with_torchmetrics(scenes, weights, tmp_path):
    report = scored(scenes["folder"], *scenes["options"], "--weights", weights, "--window", 64)
    maps = predicted(scenes, weights, tmp_path)
    prediction = torch.from_numpy(np.concatenate([maps[n].ravel() for n in SIZES])).long()
    truth = torch.from_numpy(np.concatenate([scenes["truths"][n].ravel() for n in SIZES])).long()
    expected = multiclass_jaccard_index(prediction, truth, 3, ignore_index=255)
    assert report["scores"]["mIoU"] == pytest.approx(float(expected), abs=1e-6)


def test_isprs_counts_clutter_as_an_error_of_others_and_keeps_it_out_of_the_mean(scenes, weights):
    options = [*scenes["options"], "--weights", weights, "--window", 64]
    isprs = scored(scenes["folder"], *options, "--protocol", "isprs")
    all_classes = scored(scenes["folder"], *options, "--protocol", "all", "--eroded")
    assert isprs["protocol"]["labels"] == "eroded"
    assert "eroded labels (by discs of 3 px around borders)" in isprs["protocol"]["sentence"]
    assert isprs["scores"]["OA"] == all_classes["scores"]["OA"]
    f1 = {c["name"]: c["F1"] for c in isprs["classes"]}
    assert isprs["scores"]["mF1"] == pytest.approx((f1["water"] + f1["tree"]) / 2)
    assert isprs["classes"] == all_classes["classes"]


def test_boundary_scores_are_those_of_the_maps(scenes, weights, tmp_path):
    options = [*scenes["options"], "--weights", weights, "--window", 64, "--block", 32]
    report = scored(scenes["folder"], *options)
    maps = predicted(scenes, weights, tmp_path)
    for at in report["boundaries"]:
        for index, found in enumerate(at["classes"]):
            parts = np.array([
                naive_boundary(maps[n], scenes["truths"][n], index, at["tolerance"]) for n in SIZES
            ]).sum(axis=0)  # fmt: skip
            expected = [part / whole for part, whole in parts]
            values = [found["precision"], found["recall"], found["IoU"]]
            assert values == pytest.approx(expected)
        low, high = at["intervals"]["mF1"]
        assert low <= at["mF1"] <= high


def test_intervals_areas_and_calibration_are_part_of_the_report(scenes, weights, tmp_path):
    report = scored(
        scenes["folder"], *scenes["options"], "--weights", weights, "--window", 64, "--block", 32
    )
    low, high = report["intervals"]["mIoU"]
    assert low < report["scores"]["mIoU"] < high
    areas = report["areas"]
    pixels = sum(height * width for height, width in SIZES.values())
    assert areas["mapped_pixels"] == pixels
    assert areas["mapped_square_metres"] == pytest.approx(pixels / 4)
    assert sum(c["mapped"] for c in areas["classes"]) == pytest.approx(1)
    assert sum(c["estimated"] for c in areas["classes"]) == pytest.approx(1)
    truth = np.concatenate([scenes["truths"][n].ravel() for n in SIZES])
    shares = np.bincount(truth[truth != 255], minlength=3) / (truth != 255).sum()
    # nearly all pixels are labelled, so the estimate is nearly their share
    assert [c["estimated"] for c in areas["classes"]] == pytest.approx(shares, abs=0.01)
    maps = predicted(scenes, weights, tmp_path, "--confidence", "float32")
    found = MulticlassCalibrationError(3, n_bins=20, norm="l1")
    for name in SIZES:
        with rasterio.open(tmp_path / f"{name}_confidence.tif") as raster:
            confidence = torch.from_numpy(raster.read(1))
        known = scenes["truths"][name] != 255
        # as probabilities of the predicted class, and the rest shared by the others
        index = torch.from_numpy(maps[name]).long()[..., None]
        shares = ((1 - confidence) / 2)[..., None].repeat(1, 1, 3)
        shares = shares.scatter(2, index, confidence[..., None])[torch.from_numpy(known)]
        found.update(shares, torch.from_numpy(scenes["truths"][name][known]).long())
    assert report["calibration"]["ECE"] == pytest.approx(float(found.compute()), abs=1e-5)
    assert sum(report["calibration"]["pixels"]) == report["scores"]["pixels"]
    assert sum(report["border_distance"]["pixels"]) == report["scores"]["pixels"]


def test_two_weights_are_compared_over_the_same_blocks(scenes, weights, tmp_path):
    torch.manual_seed(5)
    other = write_weights(tmp_path / "other.safetensors", CLASSES)  # another order of classes
    options = [*scenes["options"], "--window", 64, "--block", 32]
    found = scored(weights, other, scenes["folder"], *options)
    alone = [scored(scenes["folder"], *options, "--weights", w) for w in (weights, other)]
    for which, report in zip(("first", "second"), alone, strict=True):
        assert found[which]["scores"] == report["scores"]
    for name in ("OA", "mIoU", "mF1", "kappa"):
        difference = found["differences"][name]
        expected = alone[1]["scores"][name] - alone[0]["scores"][name]
        assert difference["difference"] == pytest.approx(expected)
        assert difference["interval"][0] <= expected <= difference["interval"][1]
        assert 0 < difference["p"] <= 1
    table = evaluated(weights, weights, scenes["folder"], *options).stdout
    assert "A and B can't be told apart on these scenes (p = 1.0000, 43 blocks of 32 px)" in table


def test_what_cannot_be_compared(scenes, weights, tmp_path):
    options = [*scenes["options"], "--window", 64]
    one = evaluated(weights, scenes["folder"], *options)
    assert one.exit_code == 2
    assert "two weights to compare" in " ".join(one.output.split())
    both = evaluated(weights, weights, scenes["folder"], *options, "--weights", weights)
    assert both.exit_code == 2
    other = write_weights(tmp_path / "other.safetensors", [*CLASSES, "car"])
    result = evaluated(weights, other, scenes["folder"], *options)
    assert result.exit_code == 1
    assert "have besides car" in result.stderr


def test_eroded_labels_without_any_pixel_left_are_an_error(scenes, weights, tmp_path):
    stripes = np.zeros((40, 40, 3), dtype=np.uint8)
    stripes[::2] = COLOURS[0]
    stripes[1::2] = COLOURS[2]
    Image.fromarray(stripes).save(tmp_path / "b_label.png")
    (tmp_path / "b.tif").write_bytes(b"")
    with rasterio.open(
        tmp_path / "b.tif", "w", driver="GTiff", count=3, dtype="uint8", height=40, width=40
    ) as raster:
        raster.write(noise(0, 40, 40).transpose(2, 0, 1))
    result = evaluated(tmp_path, *scenes["options"], "--weights", weights, "--protocol", "isprs")
    assert result.exit_code == 1
    assert "nothing to score" in result.stderr
    assert "eroded labels" in result.stderr


def test_tables_name_the_protocol_of_each_figure(scenes, weights):
    result = evaluated(scenes["folder"], *scenes["options"], "--weights", weights, "--window", 64)
    text = " ".join(result.stdout.split())
    for words in (
        "| full | in | none |",
        "| eroded | out | none |",
        "boundary F1 and boundary IoU within 1, 3 and 5 px",
        "px from the nearest border",
        "adjusted for the map's errors",
        "Calibration (full labels): ECE",
        "95 %: bootstrap over 2 blocks of 256 px; - of what fewer than 6 blocks hold",
        "full labels; every class counts in every score; no test-time augmentation",
    ):
        assert words in text, result.stdout
    document = json.dumps(scored(scenes["folder"], *scenes["options"], "--weights", weights))
    assert "NaN" not in document


def test_the_report_is_one_page_with_the_figures_of_the_run(scenes, weights, tmp_path):
    options = [*scenes["options"], "--weights", weights, "--window", 64]
    page = tmp_path / "report.html"
    result = evaluated(scenes["folder"], *options, "--report", page, "--format", "json")
    assert result.exit_code == 0, result.output
    text, found = page.read_text(), json.loads(result.stdout)
    assert f"{100 * found['scores']['mIoU']:.2f}" in text
    assert "parameters" in text  # the model card
    assert text.count("data:image/") >= 2 * 4  # scene, truth, map and errors of both scenes
    again = evaluated(scenes["folder"], *options, "--report", page)
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    wrong = evaluated(scenes["folder"], *options, "--report", tmp_path / "report.pdf")
    assert wrong.exit_code == 2


def test_the_report_of_two_weights_holds_their_differences(scenes, weights, tmp_path):
    other = write_weights(tmp_path / "other.safetensors", CLASSES)
    page = tmp_path / "report.html"
    options = [*scenes["options"], "--window", 64, "--block", 32, "--report", page]
    found = scored(weights, other, scenes["folder"], *options)
    text = page.read_text()
    assert "random.safetensors" in text
    assert "other.safetensors" in text
    difference = 100 * found["differences"]["OA"]["difference"]
    assert f"{abs(difference):.2f}" in text


def test_maps_that_are_there_score_as_the_weights_that_made_them(scenes, weights, tmp_path):
    options = [*scenes["options"], "--scenes", "b"]
    predicted(scenes, weights, tmp_path / "maps")
    of_weights = scored(scenes["folder"], *options, "--weights", weights, "--window", 64)
    map_file, label = tmp_path / "maps" / "b_classes.tif", scenes["folder"] / "b_label.png"
    maps = ["--pred", map_file, "--label", label, *scenes["options"]]
    result = CliRunner().invoke(app, ["eval", *map(str, maps), "--format", "json"])
    assert result.exit_code == 0, result.output
    of_map = json.loads(result.stdout)
    for part in ("scores", "classes", "confusion_matrix", "boundaries", "intervals"):
        assert of_map[part] == of_weights[part], part
    assert of_map["protocol"]["maps"] == [str(map_file)]
    assert "map " in of_map["protocol"]["sentence"]
    two = ["eval", map_file, map_file, "--label", label, *scenes["options"], "--block", 32]
    compared = CliRunner().invoke(app, [*map(str, two)])
    assert "can't be told apart" in compared.stdout, compared.output


def map_of(path: Path, indices: np.ndarray, top: float = 2_780_000) -> Path:
    """Write class indices as a map with the place of the first scene."""
    transform = rasterio.Affine(0.5, 0, 300_000, 0, -0.5, top)
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:32640"}
    height, width = indices.shape
    with rasterio.open(
        path, "w", height=height, width=width, transform=transform, **profile
    ) as raster:
        raster.write(indices, 1)
    return path


def test_a_map_that_leaves_out_what_is_hard_does_not_win(scenes, tmp_path):
    truth = scenes["truths"]["b"]
    indices = blobs(8, SIZES["b"], classes=3, ignored=0)
    hole = indices.copy()
    hole[40:90, 20:100] = 255
    common = ["--label", map_of(tmp_path / "gt.tif", truth), *scenes["options"], "--block", 32]
    common += ["--label-format", "indices"]
    maps = [map_of(tmp_path / "a.tif", indices), map_of(tmp_path / "b.tif", hole)]
    found = scored(*maps, *common)
    counted = np.where(hole == 255, 255, truth)
    oa, miou = scores_of(matrix_of(indices, counted))
    for which in ("first", "second"):
        assert found[which]["scores"]["OA"] == pytest.approx(oa)
        assert found[which]["scores"]["mIoU"] == pytest.approx(miou)
    assert all(d["difference"] == 0 for d in found["differences"].values())
    text = " ".join(evaluated(*maps, *common).stdout.split())
    left_out = (truth[40:90, 20:100] != 255).sum()
    assert f"A leaves out 0 labelled pixels that B maps, and B {left_out:,} that A maps" in text
    lacking = found["first"]["not_scored"]
    assert lacking["labelled_pixels_that_the_other_map_lacks"] == left_out
    assert lacking["unlabelled_pixels"] == (truth == 255).sum()
    # borders of the truth are where they were, so eroded labels are the same of both
    grids = [[row["pixels"] for row in found[which]["grid"]] for which in ("first", "second")]
    assert grids[0] == grids[1]
    distances = [found[which]["border_distance"]["pixels"] for which in ("first", "second")]
    assert distances[0] == distances[1]
    # areas are those of the whole maps
    mapped = [found[which]["areas"]["mapped_pixels"] for which in ("first", "second")]
    assert mapped == [truth.size, truth.size - 50 * 80]


def test_scores_of_a_part_say_so(scenes, tmp_path):
    truth = blobs(9, SIZES["b"], classes=3)
    part = np.where(np.arange(truth.shape[1]) < 30, truth, 255).astype(np.uint8)
    page = tmp_path / "report.html"
    options = ["--label", map_of(tmp_path / "gt.tif", truth), "--label-format", "indices"]
    options += [*scenes["options"], "--map-format", "indices", "--report", page]
    result = evaluated("--pred", map_of(tmp_path / "part.tif", part), *options)
    share = f"{100 * 30 / truth.shape[1]:.2f} % of the labelled pixels only"
    assert f"Scored on {share}" in result.stdout
    assert f"Scored on {share}" in page.read_text(encoding="utf-8")
    whole = evaluated("--pred", map_of(tmp_path / "whole.tif", truth), *options, "--overwrite")
    assert whole.exit_code == 0, whole.output
    assert "Scored on" not in whole.stdout + page.read_text(encoding="utf-8")


def test_pictures_of_all_labels_say_so_beside_scores_of_eroded_ones(scenes, tmp_path):
    label = map_of(tmp_path / "gt.tif", blobs(9, SIZES["b"], classes=3))
    options = ["--label", label, "--label-format", "indices", "--map-format", "indices"]
    options += [*scenes["options"], "--overwrite", "--report", tmp_path / "report.html"]
    for protocol, is_said in (("isprs", True), ("all", False)):
        result = evaluated("--pred", label, *options, "--protocol", protocol)
        assert result.exit_code == 0, result.output
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert ("Pictures are of all labels" in page) == is_said


def test_what_differs_in_reading_two_maps_is_said_of_each(scenes, tmp_path):
    indices = blobs(9, SIZES["b"], classes=3)
    maps = [
        map_of(tmp_path / "a.tif", indices),
        map_of(tmp_path / "b.tif", indices[4:], top=2_780_000 - 2),
    ]
    options = ["--label", maps[0], "--label-format", "indices", "--map-format", "indices"]
    options += [*scenes["options"], "--report", tmp_path / "report.html"]
    text = " ".join(evaluated(*maps, *options).stdout.split())
    first, second = text[text.index("of A:") :].split("of B:")
    assert "laid on the labels' grid" in second.split("Scenes:")[0]
    assert "laid on the labels' grid" not in first
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("laid on the labels&#x27; grid by nearest pixel; b.tif.") == 1


def test_maps_on_other_grids_are_compared_on_one_against_polygons(scenes, tmp_path):
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
    options = ["--label", label, "--map-format", "indices", "--block", 32, *scenes["options"]]
    found = scored(first, shifted, *options)
    assert found["first"]["confusion_matrix"] == found["second"]["confusion_matrix"]
    assert found["first"]["scores"]["pixels"] == 128 * (148 - 20)
    assert all(d["difference"] in (0, None) for d in found["differences"].values())


def test_two_maps_of_one_class_have_no_borders_to_compare(scenes, tmp_path):
    one = map_of(tmp_path / "a.tif", np.zeros((70, 80), np.uint8))
    options = ["--label", one, "--label-format", "indices", "--map-format", "indices"]
    found = scored(one, one, *options, *scenes["options"])
    assert found["boundary_differences"]["F1 at 3 px"]["difference"] is None


def test_boundary_means_are_of_the_protocol_s_classes(scenes, weights):
    options = [*scenes["options"], "--weights", weights, "--window", 64]
    every = scored(scenes["folder"], *options)
    without = scored(scenes["folder"], *options, "--protocol", "no-clutter")
    for at, all_of_them in zip(without["boundaries"], every["boundaries"], strict=True):
        assert at["classes"] == all_of_them["classes"]
        f1 = [c["F1"] for c in at["classes"] if c["name"] != "clutter"]
        assert at["mF1"] == pytest.approx(np.mean(f1))
        assert at["mF1"] != pytest.approx(all_of_them["mF1"])
    text = evaluated(scenes["folder"], *options, "--protocol", "no-clutter").stdout
    assert "| mean without clutter |" in text


def test_two_maps_are_compared_under_every_protocol(scenes, weights, tmp_path):
    options = [*scenes["options"], "--window", 64, "--tta", "flip", "--block", 32]
    text = evaluated(weights, weights, scenes["folder"], *options).stdout
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    starts = [number for number, cells in enumerate(lines) if cells[:1] in (["full"], ["eroded"])]
    assert [lines[number][:3] for number in starts] == [
        [labels, clutter, augmentation]
        for augmentation in ("none", "flip")
        for labels in ("full", "eroded")
        for clutter in ("in", "out")
    ]
    alone = scored(scenes["folder"], *options, "--weights", weights)
    grid = {
        (r["labels"], r["clutter"], r["test_time_augmentation"]): r
        for r in alone["grid"]
        if r["scene"] is None
    }
    for number in starts:
        row = grid[tuple(lines[number][:3])]
        of_both = [f"{100 * row[name]:.2f}" for name in ("OA", "mF1", "mIoU")]
        assert lines[number][3:] == ["A", *of_both]
        assert lines[number + 1] == ["", "", "", "B", *of_both]
        assert lines[number + 2] == ["", "", "", "B - A", *["+0.00"] * 3]
    assert max(map(len, text.splitlines())) <= 100  # sentences are wrapped at 98


def test_names_that_are_no_text_are_one_line_or_printed(scenes, weights, tmp_path):
    bad = os.fsdecode(b"m\xff")
    path = map_of(tmp_path / "m.tif", scenes["truths"]["b"]).rename(tmp_path / f"{bad}.tif")
    label = map_of(tmp_path / "gt.tif", scenes["truths"]["b"])
    options = ["--label", label, "--label-format", "indices", *scenes["options"]]
    result = evaluated("--pred", path, *options)
    assert result.exit_code == 1
    assert "m?.tif: has a name that is not UTF-8; rename it" in result.stderr
    strange = tmp_path / f"{bad}.safetensors"
    strange.write_bytes(weights.read_bytes())
    command = [sys.executable, "-m", "hrrsi", "eval", scenes["folder"], "--weights", strange]
    command += [*scenes["options"], "--window", "64", "--json", tmp_path / "scores.json"]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"m?.safetensors" in done.stdout
    assert "m?.safetensors" in (tmp_path / "scores.json").read_text(encoding="utf-8")


def test_pixels_outside_of_the_area_are_counted_apart(scenes, tmp_path):
    truth = scenes["truths"]["b"]
    box = {"type": "Polygon", "coordinates": [[
        [300_010, 2_779_990], [300_040, 2_779_990], [300_040, 2_779_960], [300_010, 2_779_960],
        [300_010, 2_779_990],
    ]]}  # fmt: skip
    feature = {"type": "Feature", "properties": {}, "geometry": box}
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32640"}}
    aoi = tmp_path / "aoi.geojson"
    aoi.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    label = map_of(tmp_path / "gt.tif", truth)
    found = scored(
        "--pred", label, "--label", label, "--label-format", "indices", "--map-format", "indices",
        "--aoi", aoi, *scenes["options"],
    )  # fmt: skip
    inside = truth[20:80, 20:80]
    assert found["not_scored"]["pixels_outside_of_the_area_of_interest"] == truth.size - 3600
    assert found["not_scored"]["unlabelled_pixels"] == (inside == 255).sum()


def test_outputs_are_different_files(scenes, weights, tmp_path):
    both = tmp_path / "a.json"
    result = evaluated(scenes["folder"], *scenes["options"], "--report", both)
    assert result.exit_code == 2
    assert "name a .html file" in result.output
    (tmp_path / "link.html").symlink_to(tmp_path / "a.png")
    result = evaluated(
        scenes["folder"], *scenes["options"], "--overwrite",
        "--confusion-matrix", tmp_path / "a.png", "--report", tmp_path / "link.html",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "names the file of --confusion-matrix" in " ".join(result.output.split())


def test_areas_of_a_class_in_few_blocks_have_no_interval(scenes, tmp_path):
    indices = np.zeros((160, 160), np.uint8)
    indices[:, 80:] = 1
    indices[:20, :20] = 2  # in one block
    truth = np.where(np.random.default_rng(0).random(indices.shape) < 0.9, indices, 0)
    label = map_of(tmp_path / "gt.tif", truth.astype(np.uint8))
    options = ["--label", label, "--label-format", "indices", "--map-format", "indices"]
    options += [*scenes["options"], "--block", 32]
    found = scored("--pred", map_of(tmp_path / "a.tif", indices), *options)["areas"]["classes"]
    assert [c["interval_over_blocks"] for c in found] == [[None, None]] * 3
    indices[:20, :20] = 0
    found = scored("--pred", map_of(tmp_path / "b.tif", indices), *options)["areas"]["classes"]
    low, high = found[0]["interval_over_blocks"]
    assert low < found[0]["estimated"] < high


def test_a_verdict_says_why_there_is_none(scenes, tmp_path):
    truth = np.zeros((160, 160), np.uint8)
    truth[:, 80:] = 1
    truth[40:44, 40:44] = 2  # in one block of 25
    label = map_of(tmp_path / "gt.tif", truth)
    maps = [map_of(tmp_path / f"{n}.tif", np.roll(truth, n, axis=1)) for n in (3, 9)]
    options = ["--label", label, "--label-format", "indices", "--map-format", "indices"]
    options += scenes["options"]
    for block, words in (
        (32, "With fewer than 6 of 25 blocks of 32 px that hold the rarest class, A and B can't"),
        (256, "With 1 block of 256 px, A and B can't"),
    ):
        assert words in scored(*maps, *options, "--block", block)["verdict"]


def test_clutter_is_named_among_the_merged_classes(scenes, weights):
    options = [*scenes["options"], "--weights", weights, "--window", 64, "--scenes", "c"]
    options += ["--merge", "tree+clutter=other"]
    found = scored(scenes["folder"], *options, "--clutter", "other", "--protocol", "no-clutter")
    assert [c["name"] for c in found["classes"]] == ["water"]
    result = evaluated(scenes["folder"], *options, "--protocol", "no-clutter")
    assert result.exit_code == 1
    assert "no class is named 'clutter'" in result.stderr


def test_a_misspelt_clutter_is_refused(scenes, weights):
    options = [*scenes["options"], "--weights", weights, "--window", 64]
    for protocol in ("all", "isprs", "published"):
        result = evaluated(
            scenes["folder"], *options, "--clutter", "tree,cluttr", "--protocol", protocol
        )
        assert result.exit_code == 1
        assert "--clutter: 'cluttr' is no class; name some of" in " ".join(result.output.split())


def test_maps_of_several_scenes_against_full_and_eroded_labels(scenes, weights, tmp_path):
    maps = predicted(scenes, weights, tmp_path / "maps")
    palette = np.array([*COLOURS, *[[0, 0, 0]] * 253], dtype=np.uint8)
    labels, thick = [], {}
    for name, truth in scenes["truths"].items():
        thick[name] = truth.copy()
        thick[name][:, ::3] = 255  # not what discs would give
        path = tmp_path / f"{name}_eroded.png"
        Image.fromarray(palette[thick[name]]).save(path)
        labels += ["--label", scenes["folder"] / f"{name}_label.png", "--label", path]
    (folder := tmp_path / "only").mkdir()
    files = [
        (tmp_path / "maps" / f"{name}_classes.tif").rename(folder / f"{name}_classes.tif")
        for name in SIZES
    ]
    found = scored("--pred", files[0], "--pred", files[1], *labels, *scenes["options"])
    for kind, truths in (("full", scenes["truths"]), ("eroded", thick)):
        counts = sum(matrix_of(maps[name], truths[name]) for name in SIZES)
        row = next(
            row
            for row in found["grid"]
            if (row["scene"], row["labels"], row["clutter"]) == (None, kind, "in")
        )
        assert [row["OA"], row["mIoU"]] == pytest.approx(scores_of(counts))
        recall = [c["recall"] for c in row["classes"]]
        assert recall == pytest.approx(list(np.diag(counts) / counts.sum(axis=0)))
    assert found["protocol"]["maps"] == [str(file) for file in files]
    of_folder = scored("--pred", folder, *labels, *scenes["options"])
    assert of_folder["protocol"] == found["protocol"]  # names files, not their folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pred", "map.tif"], "needs --label"),
        (["a.tif", "--pred", "b.tif", "--label", "gt.tif", "--scheme", "dubai"], "goes without"),
        (["--label", "gt.tif", "--pred", "map.tif"], "needs --scheme"),
        (["--label", "gt.tif", "--scheme", "dubai"], "one map, or two"),
        (["--label", "gt.tif", "--scheme", "dubai", "--pred", "m.tif", "--tta", "d4"], "--tta"),
        (["data", "--scheme", "dubai", "--aoi", "area.gpkg"], "give --pred and --label"),
        ([], "name what to evaluate"),
    ],
)
def test_options_of_maps_that_do_not_go_together(arguments, words):
    result = CliRunner().invoke(app, ["eval", *arguments])
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
