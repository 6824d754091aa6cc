"""`hrrsi eval` of whole scenes: windows, splits, merged classes, bad scenes."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from samples.evaluated_data import (
    CLASSES,
    SCHEME,
    error_of,
    evaluated,
    naive_labels,
    naive_matrix,
    scored,
    write_scene,
    write_weights,
)
from samples.predicted_scenes import notices


@pytest.fixture
def scenes(tmp_path) -> dict:
    folder, scheme = tmp_path / "raw", tmp_path / "mine.yaml"
    scheme.write_text(SCHEME)
    sizes = {"b": (70, 64), "c": (100, 75), "d": (40, 50)}
    written = {
        name: write_scene(folder, name, seed, *size)
        for seed, (name, size) in enumerate(sizes.items())
    }
    return {"folder": folder, "options": ["--scheme", scheme], "written": written}


def stitched(weights: Path, image: np.ndarray, window: int) -> np.ndarray:
    """Predict windows one by one; pixels of two windows belong to the first."""
    height, width = image.shape[:2]
    whole = np.full((height, width), -1)
    for row in [*range(0, height - window, window), height - window]:
        for col in [*range(0, width - window, window), width - window]:
            part = np.s_[row : row + window, col : col + window]
            prediction = naive_labels(weights, image[part])
            whole[part] = np.where(whole[part] < 0, prediction, whole[part])
    return whole


def test_evaluating_training_scenes_warns(dataset, tmp_path):
    seen = write_weights(tmp_path / "w.safetensors", CLASSES, training={"scenes": ["val_scene"]})
    result = evaluated(dataset, "--weights", seen, "--split", "val")
    assert result.exit_code == 0
    assert "warning: the weights were trained on val_scene" in result.stderr
    assert "these scores flatter them" in result.stdout
    assert "warning" not in evaluated(dataset, "--weights", seen, "--split", "test").stderr


@pytest.mark.long
@pytest.mark.parametrize("kind", ["full", pytest.param("eroded", marks=pytest.mark.slow)])
def test_whole_scenes_agree_with_a_naive_loop(scenes, weights, kind):
    flags = ["--eroded"] if kind == "eroded" else []
    report = scored(
        scenes["folder"], *scenes["options"], *flags, "--weights", weights,
        "--scenes", "b,c", "--window", 48, "--overlap", 0,
    )  # fmt: skip
    pairs = [
        (stitched(weights, image, 48), eroded if kind == "eroded" else truth)
        for image, truth, eroded in (scenes["written"][name] for name in "bc")
    ]
    assert report["confusion_matrix"]["counts"] == naive_matrix(pairs)
    assert report["protocol"]["labels"] == kind
    assert report["protocol"]["scenes"] == ["b", "c"]
    assert (report["protocol"]["window"], report["protocol"]["overlap"]) == (48, 0)


def test_overlapping_windows_score_each_pixel_once(scenes, weights):
    report = scored(
        scenes["folder"], *scenes["options"], "--weights", weights, "--window", 64, "--overlap", 16
    )
    truth = np.concatenate([t.ravel() for _, t, _ in scenes["written"].values()])
    counts = np.array(report["confusion_matrix"]["counts"])
    assert counts.sum(axis=0).tolist() == np.bincount(truth, minlength=256)[:3].tolist()


@pytest.mark.long
@pytest.mark.parametrize(
    ("split", "name", "chosen"),
    [
        ("first:val", "first:val", ["b"]),
        ("val", "first:val", ["b"]),
        ("first", "first:test", ["c", "d"]),
        ("test", "first:test", ["c", "d"]),
    ],
)
def test_splits_of_the_scheme_choose_scenes(scenes, weights, split, name, chosen):
    report = scored(scenes["folder"], *scenes["options"], "--weights", weights, "--split", split)
    assert (report["protocol"]["split"], report["protocol"]["scenes"]) == (name, chosen)


@pytest.mark.long
def test_missing_labels_and_scenes_are_told(scenes, weights):
    (scenes["folder"] / "b_label.png").unlink()
    (scenes["folder"] / "d.tif").unlink()
    arguments = [scenes["folder"], *scenes["options"], "--weights", weights]
    everything = evaluated(*arguments)
    assert "warning: left out because they have no label: b" in everything.stderr
    test_part = evaluated(*arguments, "--split", "test")
    assert "warning: the split first:test also names d, not found here" in test_part.stderr
    alone = evaluated(*arguments, "--scenes", "b")
    assert "warning: the labels are eroded ones, there are no full ones" in alone.stderr
    assert "; eroded labels (as given); " in " ".join(alone.stdout.split())
    (scenes["folder"] / "b_eroded.png").unlink()
    assert "has no label" in error_of(*arguments, "--scenes", "b")


def test_pixels_without_data_are_counted_but_not_scored(scenes, weights):
    image, truth, _ = write_scene(scenes["folder"], "e", 7, 60, 50, nodata=0)
    image[:20] = 0
    with rasterio.open(scenes["folder"] / "e.tif", "r+") as raster:
        raster.write(image.transpose(2, 0, 1))
    report = scored(scenes["folder"], *scenes["options"], "--weights", weights, "--scenes", "e")
    labelled = truth != 255
    assert report["not_scored"]["labelled_pixels_without_data"] == int(labelled[:20].sum())
    assert report["scores"]["pixels"] == int(labelled[20:].sum())


@pytest.mark.long
def test_merged_classes_are_scored_as_one(scenes, tmp_path):
    merged = write_weights(tmp_path / "merged.safetensors", ["green", "water"])
    report = scored(
        scenes["folder"], *scenes["options"], "--weights", merged,
        "--merge", "tree+clutter=green",
    )  # fmt: skip
    truth = np.concatenate([t.ravel() for _, t, _ in scenes["written"].values()])
    assert report["confusion_matrix"]["classes"] == ["water", "green"]
    pixels = [int((truth == 0).sum()), int(((truth == 1) | (truth == 2)).sum())]
    assert [c["pixels"] for c in report["classes"]] == pixels


@pytest.mark.long
def test_predictions_of_separate_classes_are_merged_like_the_truth(scenes, weights):
    arguments = [scenes["folder"], *scenes["options"], "--weights", weights]
    apart = scored(*arguments)["confusion_matrix"]
    joined = scored(*arguments, "--merge", "tree+clutter=green")
    assert joined["confusion_matrix"]["classes"] == ["water", "green"]
    members = [[apart["classes"].index("water")], [1, 2]]
    assert {apart["classes"][i] for i in members[1]} == {"tree", "clutter"}
    counts = np.asarray(apart["counts"])
    expected = [[int(counts[np.ix_(p, t)].sum()) for t in members] for p in members]
    assert joined["confusion_matrix"]["counts"] == expected
    assert joined["protocol"]["reading"] == ["merged tree+clutter=green"]
    assert "merged tree+clutter=green" in joined["protocol"]["sentence"]


@pytest.mark.long
def test_real_scenes(examples, tmp_path):
    names = ["Building", "Land", "Road", "Vegetation", "Water"]
    weights = write_weights(tmp_path / "dubai.safetensors", names)
    report = scored(
        examples / "dubai", "--scheme", "dubai", "--split", "test", "--weights", weights
    )
    assert report["protocol"]["split"] == "standard:test"
    masks = sorted((examples / "dubai" / "tile1" / "masks").glob("*.png"))
    assert len(report["protocol"]["scenes"]) == len(masks)
    water = sum(
        int((np.asarray(Image.open(m).convert("RGB")) == (226, 169, 41)).all(-1).sum())
        for m in masks
    )
    assert report["classes"][4]["pixels"] == water > 0


def test_scenes_unlike_training_are_told_as_by_predict(scenes, tmp_path):
    fine = write_weights(tmp_path / "fine.safetensors", CLASSES, resolution=0.1, mean=[5.0] * 3)
    result = evaluated(scenes["folder"], *scenes["options"], "--weights", fine)
    assert result.exit_code == 0
    lines = notices(result)
    assert [line.startswith("warning: ") for line in lines] == [True, True, True]
    assert "imagery unlike what the weights were trained on" in lines[0]
    assert "has 50 cm a pixel where the weights were trained on 10 cm" in lines[1]
    assert lines[2].startswith("warning: 3 of 3 scenes: values unlike those")


@pytest.mark.long
def test_scenes_are_read_at_the_nearest_resolution_as_by_predict(scenes, tmp_path):
    ranged = write_weights(tmp_path / "r.safetensors", CLASSES, resolutions=(1.0, 2.0))
    line = [scenes["folder"], *scenes["options"], "--weights", ranged]
    lines = notices(evaluated(*line))
    assert "read at 1 m, since the weights were trained on 1 to 2 m; --resample off" in lines[0]
    assert lines[1:] == ["note: 3 of 3 scenes: read at a resolution of the weights' training"]
    reports = {
        name: scored(*line, *options)
        for name, options in (
            ("auto", []),
            ("1", ["--resample", "1"]),
            ("off", ["--resample", "off"]),
        )
    }
    assert reports["auto"]["confusion_matrix"] == reports["1"]["confusion_matrix"]
    assert reports["auto"]["confusion_matrix"] != reports["off"]["confusion_matrix"]
    readings = {name: report["protocol"]["reading"] for name, report in reports.items()}
    assert readings["auto"] == readings["1"] == ["read at 1 m where that is not the scenes' own"]
    assert readings["off"] == ["read at their own resolution"]


def test_label_of_another_size_than_its_scene_fails_before_any_prediction(scenes, weights):
    path = scenes["folder"] / "d_label.png"
    Image.open(path).resize((99, 40)).save(path)
    line = error_of(scenes["folder"], *scenes["options"], "--weights", weights)
    assert "the label has 40 rows and 99 columns" in line


@pytest.mark.long
def test_unknown_colours_fail_or_are_counted(scenes, weights):
    path = scenes["folder"] / "d_label.png"
    label = np.array(Image.open(path))
    label[3, 4] = (1, 2, 3)
    Image.fromarray(label).save(path)
    arguments = [scenes["folder"], *scenes["options"], "--weights", weights]
    assert "colour 1,2,3 at row 3, column 4" in error_of(*arguments)
    assert scored(*arguments, "--unknown", "ignore")["not_scored"]["unknown_label_pixels"] == 1


def test_unknown_scheme_split_and_scene(scenes, weights):
    arguments = [scenes["folder"], *scenes["options"], "--weights", weights]
    assert "knows no split 'paper'" in error_of(*arguments, "--split", "paper")
    assert "no part 'tset'" in error_of(*arguments, "--split", "first:tset")
    assert "none of the 3 scenes found" in error_of(*arguments, "--split", "train")
    assert "no scene fits 'x*'" in error_of(*arguments, "--scenes", "x*")
    assert "unknown scheme" in error_of(scenes["folder"], "--scheme", "nowhere", "-q")
