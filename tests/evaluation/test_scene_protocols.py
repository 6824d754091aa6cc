"""Every protocol from one evaluation of whole scenes: intervals, borders, areas, comparisons.

References start from the maps that `hrrsi predict` writes.
"""

import json

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from samples.class_borders import naive_boundary
from samples.evaluated_data import (
    CLASSES,
    COLOURS,
    SIZES,
    eroded,
    evaluated,
    ious_of,
    matrix_of,
    noise,
    predicted,
    scored,
    scores_of,
    write_weights,
)
from torchmetrics.classification import MulticlassCalibrationError
from torchmetrics.functional.classification import multiclass_jaccard_index

from hrrsi.profiling.figures import Latency

PROTOCOLS = ("all", "no-clutter", "published", "isprs")


@pytest.mark.long
def test_one_run_gives_every_protocol_of_the_pool_and_of_each_scene(
    labelled_scenes, weights, tmp_path
):
    report = scored(
        labelled_scenes["folder"],
        *labelled_scenes["options"],
        "--weights",
        weights,
        "--window",
        64,
        "--tta",
        "flip",
    )
    maps = {
        "none": predicted(labelled_scenes, weights, tmp_path / "plain"),
        "flip": predicted(labelled_scenes, weights, tmp_path / "flip", "--tta", "flip"),
    }
    rows = {
        (row["scene"], row["labels"], row["protocol"], row["test_time_augmentation"]): row
        for row in report["grid"]
    }
    assert len(rows) == len(report["grid"]) == 3 * (3 + 4) * 2
    kept = [CLASSES.index(name) for name in CLASSES if name != "clutter"]
    for (scene, labels, protocol, augmentation), row in rows.items():
        counts = np.zeros((3, 3), dtype=np.int64)
        for name in [scene] if scene else SIZES:
            truth = labelled_scenes["truths"][name]
            counts += matrix_of(
                maps[augmentation][name], eroded(truth) if labels == "eroded" else truth
            )
        without_clutter = counts[np.ix_(kept, kept)]
        of_overall = without_clutter if protocol == "no-clutter" else counts
        of_means = without_clutter if protocol in ("no-clutter", "published") else counts
        averaged = kept if protocol == "isprs" else range(len(of_means))
        mean = np.mean([ious_of(of_means)[index] for index in averaged])
        assert (row["OA"], row["mIoU"]) == pytest.approx((scores_of(of_overall)[0], mean)), row
        assert row["pixels"] == of_overall.sum()
    assert len({(row["OA"], row["mIoU"]) for row in rows.values()}) == len(
        rows
    )  # no two protocols for one


def test_figures_of_the_pool_agree_with_torchmetrics(labelled_scenes, weights, tmp_path):
    report = scored(
        labelled_scenes["folder"], *labelled_scenes["options"], "--weights", weights, "--window", 64
    )
    maps = predicted(labelled_scenes, weights, tmp_path)
    prediction = torch.from_numpy(np.concatenate([maps[n].ravel() for n in SIZES])).long()
    truth = torch.from_numpy(
        np.concatenate([labelled_scenes["truths"][n].ravel() for n in SIZES])
    ).long()
    expected = multiclass_jaccard_index(prediction, truth, 3, ignore_index=255)
    assert report["scores"]["mIoU"] == pytest.approx(float(expected), abs=1e-6)


def test_isprs_counts_clutter_as_an_error_of_others_and_keeps_it_out_of_the_mean(
    labelled_scenes, weights
):
    options = [*labelled_scenes["options"], "--weights", weights, "--window", 64]
    isprs = scored(labelled_scenes["folder"], *options, "--protocol", "isprs")
    all_classes = scored(labelled_scenes["folder"], *options, "--protocol", "all", "--eroded")
    assert isprs["protocol"]["labels"] == "eroded"
    assert "eroded labels (by discs of 3 px around borders)" in isprs["protocol"]["sentence"]
    assert isprs["scores"]["OA"] == all_classes["scores"]["OA"]
    f1 = {c["name"]: c["F1"] for c in isprs["classes"]}
    assert isprs["scores"]["mF1"] == pytest.approx((f1["water"] + f1["tree"]) / 2)
    assert isprs["classes"] == all_classes["classes"]


def test_boundary_scores_are_those_of_the_maps(labelled_scenes, weights, tmp_path):
    options = [*labelled_scenes["options"], "--weights", weights, "--window", 64, "--block", 32]
    report = scored(labelled_scenes["folder"], *options)
    maps, truths = predicted(labelled_scenes, weights, tmp_path), labelled_scenes["truths"]
    for at in report["boundaries"]:
        for index, entry in enumerate(at["classes"]):
            parts = np.array([
                naive_boundary(maps[n], truths[n], index, at["tolerance"]) for n in SIZES
            ]).sum(axis=0)  # fmt: skip
            expected = [part / whole for part, whole in parts]
            values = [entry["precision"], entry["recall"], entry["IoU"]]
            assert values == pytest.approx(expected)
        low, high = at["intervals"]["mF1"]
        assert low <= at["mF1"] <= high


def test_intervals_areas_and_calibration_are_part_of_the_report(labelled_scenes, weights, tmp_path):
    report = scored(
        labelled_scenes["folder"],
        *labelled_scenes["options"],
        "--weights",
        weights,
        "--window",
        64,
        "--block",
        32,
    )
    low, high = report["intervals"]["mIoU"]
    assert low < report["scores"]["mIoU"] < high
    areas = report["areas"]
    pixels = sum(height * width for height, width in SIZES.values())
    assert areas["mapped_pixels"] == pixels
    assert areas["mapped_square_metres"] == pytest.approx(pixels / 4)
    assert sum(c["mapped"] for c in areas["classes"]) == pytest.approx(1)
    assert sum(c["estimated"] for c in areas["classes"]) == pytest.approx(1)
    truth = np.concatenate([labelled_scenes["truths"][n].ravel() for n in SIZES])
    shares = np.bincount(truth[truth != 255], minlength=3) / (truth != 255).sum()
    # nearly all pixels are labelled, so the estimate is nearly their share
    assert [c["estimated"] for c in areas["classes"]] == pytest.approx(shares, abs=0.01)
    maps = predicted(labelled_scenes, weights, tmp_path, "--confidence", "float32")
    calibration = MulticlassCalibrationError(3, n_bins=20, norm="l1")
    for name in SIZES:
        with rasterio.open(tmp_path / f"{name}_confidence.tif") as raster:
            confidence = torch.from_numpy(raster.read(1))
        is_labelled = labelled_scenes["truths"][name] != 255
        # as probabilities of the predicted class, and the rest shared by the others
        index = torch.from_numpy(maps[name]).long()[..., None]
        shares = ((1 - confidence) / 2)[..., None].repeat(1, 1, 3)
        shares = shares.scatter(2, index, confidence[..., None])[torch.from_numpy(is_labelled)]
        calibration.update(
            shares, torch.from_numpy(labelled_scenes["truths"][name][is_labelled]).long()
        )
    assert report["calibration"]["ECE"] == pytest.approx(float(calibration.compute()), abs=1e-5)
    assert sum(report["calibration"]["pixels"]) == report["scores"]["pixels"]
    assert sum(report["border_distance"]["pixels"]) == report["scores"]["pixels"]


@pytest.mark.long
def test_two_weights_are_compared_over_the_same_blocks(labelled_scenes, weights, tmp_path):
    torch.manual_seed(5)
    other = write_weights(tmp_path / "other.safetensors", CLASSES)  # another order of classes
    options = [*labelled_scenes["options"], "--window", 64, "--block", 32]
    scores = scored(weights, other, labelled_scenes["folder"], *options)
    alone = [scored(labelled_scenes["folder"], *options, "--weights", w) for w in (weights, other)]
    for which, report in zip(("first", "second"), alone, strict=True):
        assert scores[which]["scores"] == report["scores"]
    for name in ("OA", "mIoU", "mF1", "kappa"):
        difference = scores["differences"][name]
        expected = alone[1]["scores"][name] - alone[0]["scores"][name]
        assert difference["difference"] == pytest.approx(expected)
        assert difference["interval"][0] <= expected <= difference["interval"][1]
        assert 0 < difference["p"] <= 1
    table = evaluated(weights, weights, labelled_scenes["folder"], *options).stdout
    assert "A and B can't be told apart on these scenes (p = 1.0000, 43 blocks of 32 px)" in table


def test_what_cannot_be_compared(labelled_scenes, weights, tmp_path):
    options = [*labelled_scenes["options"], "--window", 64]
    outcome = evaluated(weights, labelled_scenes["folder"], *options)
    assert outcome.exit_code == 2
    assert "two weights to compare" in " ".join(outcome.output.split())
    both = evaluated(weights, weights, labelled_scenes["folder"], *options, "--weights", weights)
    assert both.exit_code == 2
    other = write_weights(tmp_path / "other.safetensors", [*CLASSES, "car"])
    result = evaluated(weights, other, labelled_scenes["folder"], *options)
    assert result.exit_code == 1
    assert "have besides car" in result.stderr


def test_eroded_labels_without_any_pixel_left_are_an_error(labelled_scenes, weights, tmp_path):
    stripes = np.zeros((40, 40, 3), dtype=np.uint8)
    stripes[::2] = COLOURS[0]
    stripes[1::2] = COLOURS[2]
    Image.fromarray(stripes).save(tmp_path / "b_label.png")
    (tmp_path / "b.tif").write_bytes(b"")
    with rasterio.open(
        tmp_path / "b.tif", "w", driver="GTiff", count=3, dtype="uint8", height=40, width=40
    ) as raster:
        raster.write(noise(0, 40, 40).transpose(2, 0, 1))
    result = evaluated(
        tmp_path, *labelled_scenes["options"], "--weights", weights, "--protocol", "isprs"
    )
    assert result.exit_code == 1
    assert "nothing to score" in result.stderr
    assert "eroded labels" in result.stderr


def test_tables_name_the_protocol_of_each_figure(labelled_scenes, weights):
    result = evaluated(
        labelled_scenes["folder"], *labelled_scenes["options"], "--weights", weights, "--window", 64
    )
    text = " ".join(result.stdout.split())
    for words in (
        "| all | full | none |",
        "| isprs | eroded | none |",
        "boundary F1 and boundary IoU within 1, 3 and 5 px",
        "px from the nearest border",
        "adjusted for the map's errors",
        "Calibration (full labels): ECE",
        "95 %: bootstrap over 2 blocks of 256 px; - of what fewer than 6 blocks hold",
        "full labels; every class counts in every score; no test-time augmentation",
    ):
        assert words in text, result.stdout
    document = json.dumps(
        scored(labelled_scenes["folder"], *labelled_scenes["options"], "--weights", weights)
    )
    assert "NaN" not in document


def measure_nothing(monkeypatch):
    """(what is measured: profiling/test_profile.py)"""
    latency = Latency("a board", "openvino", 1, 2.0, 3.0, 10**8)
    monkeypatch.setattr("hrrsi.profiling.profile.weights_latency", lambda *_, **__: latency)


@pytest.mark.slow
@pytest.mark.long
def test_the_report_is_one_page_with_the_figures_of_the_run(
    labelled_scenes, weights, tmp_path, monkeypatch
):
    measure_nothing(monkeypatch)
    options = [*labelled_scenes["options"], "--weights", weights, "--window", 64]
    page = tmp_path / "report.html"
    result = evaluated(labelled_scenes["folder"], *options, "--report", page, "--format", "json")
    assert result.exit_code == 0, result.output
    text, scores = page.read_text(), json.loads(result.stdout)
    assert f"{100 * scores['scores']['mIoU']:.2f}" in text
    assert "parameters" in text  # the model card
    assert text.count("data:image/") >= 2 * 4  # scene, truth, map and errors of both scenes
    again = evaluated(labelled_scenes["folder"], *options, "--report", page)
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    wrong = evaluated(labelled_scenes["folder"], *options, "--report", tmp_path / "report.pdf")
    assert wrong.exit_code == 2


@pytest.mark.slow
@pytest.mark.long
def test_the_report_of_two_weights_holds_their_differences(
    labelled_scenes, weights, tmp_path, monkeypatch
):
    measure_nothing(monkeypatch)
    other = write_weights(tmp_path / "other.safetensors", CLASSES)
    page = tmp_path / "report.html"
    options = [*labelled_scenes["options"], "--window", 64, "--block", 32, "--report", page]
    scores = scored(weights, other, labelled_scenes["folder"], *options)
    text = page.read_text()
    assert "random.safetensors" in text
    assert "other.safetensors" in text
    difference = 100 * scores["differences"]["OA"]["difference"]
    assert f"{abs(difference):.2f}" in text


def test_boundary_means_are_of_the_protocol_s_classes(labelled_scenes, weights):
    options = [*labelled_scenes["options"], "--weights", weights, "--window", 64]
    every = scored(labelled_scenes["folder"], *options)
    without = scored(labelled_scenes["folder"], *options, "--protocol", "no-clutter")
    for at, all_of_them in zip(without["boundaries"], every["boundaries"], strict=True):
        assert at["classes"] == all_of_them["classes"]
        f1 = [c["F1"] for c in at["classes"] if c["name"] != "clutter"]
        assert at["mF1"] == pytest.approx(np.mean(f1))
        assert at["mF1"] != pytest.approx(all_of_them["mF1"])
    text = evaluated(labelled_scenes["folder"], *options, "--protocol", "no-clutter").stdout
    assert "| mean without clutter |" in text


@pytest.mark.long
def test_two_maps_are_compared_under_every_protocol(labelled_scenes, weights, tmp_path):
    options = [*labelled_scenes["options"], "--window", 64, "--tta", "flip", "--block", 32]
    text = evaluated(weights, weights, labelled_scenes["folder"], *options).stdout
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    starts = [number for number, cells in enumerate(lines) if cells[1:2] in (["full"], ["eroded"])]
    assert [lines[number][:3] for number in starts] == [
        [protocol, labels, augmentation]
        for augmentation in ("none", "flip")
        for labels, protocols in (("full", PROTOCOLS[:3]), ("eroded", PROTOCOLS))
        for protocol in protocols
    ]
    alone = scored(labelled_scenes["folder"], *options, "--weights", weights)
    grid = {
        (r["protocol"], r["labels"], r["test_time_augmentation"]): r
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


def test_outputs_are_different_files(labelled_scenes, weights, tmp_path):
    both = tmp_path / "a.json"
    result = evaluated(labelled_scenes["folder"], *labelled_scenes["options"], "--report", both)
    assert result.exit_code == 2
    assert "name a .html file" in result.output
    (tmp_path / "link.html").symlink_to(tmp_path / "a.png")
    result = evaluated(
        labelled_scenes["folder"], *labelled_scenes["options"], "--overwrite",
        "--confusion-matrix", tmp_path / "a.png", "--report", tmp_path / "link.html",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "names the file of --confusion-matrix" in " ".join(result.output.split())


def test_clutter_is_named_among_the_merged_classes(labelled_scenes, weights):
    options = [*labelled_scenes["options"], "--weights", weights, "--window", 64, "--scenes", "c"]
    options += ["--merge", "tree+clutter=other"]
    scores = scored(
        labelled_scenes["folder"], *options, "--clutter", "other", "--protocol", "no-clutter"
    )
    assert [c["name"] for c in scores["classes"]] == ["water"]
    result = evaluated(labelled_scenes["folder"], *options, "--protocol", "no-clutter")
    assert result.exit_code == 1
    assert "no class is named 'clutter'" in result.stderr


def test_a_misspelt_clutter_is_refused(labelled_scenes, weights):
    options = [*labelled_scenes["options"], "--weights", weights, "--window", 64]
    for protocol in ("all", "isprs", "published"):
        result = evaluated(
            labelled_scenes["folder"], *options, "--clutter", "tree,cluttr", "--protocol", protocol
        )
        assert result.exit_code == 1
        assert "--clutter: 'cluttr' is no class; name some of" in " ".join(result.output.split())
