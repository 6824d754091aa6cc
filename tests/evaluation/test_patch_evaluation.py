"""`hrrsi eval` of tiled datasets: scores of patches, what they say of themselves, bad data."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from samples.evaluated_data import (
    CLASSES,
    COLOURS,
    SIZE,
    error_of,
    evaluated,
    labels,
    naive_labels,
    naive_matrix,
    noise,
    scored,
    write_dataset,
    write_weights,
)
from samples.predicted_scenes import notices

import hrrsi


@pytest.mark.long
def test_patches_agree_with_a_naive_loop(dataset, weights):
    pairs = [(naive_labels(weights, noise(i, SIZE, SIZE)), labels(i, SIZE, SIZE)) for i in range(3)]
    report = scored(dataset, "--weights", weights)
    assert report["confusion_matrix"] == {
        "classes": CLASSES,
        "rows": "prediction",
        "columns": "truth",
        "counts": naive_matrix(pairs),
    }
    ignored = sum(int((truth == 255).sum()) for _, truth in pairs)
    assert report["not_scored"]["unlabelled_pixels"] == ignored
    right = sum(int((p == t).sum()) for p, t in pairs)
    assert report["scores"]["OA"] == right / (3 * SIZE * SIZE - ignored)
    # patches overlap and are padded: what of a scene they map is not known
    assert report["areas"] is None
    text = " ".join(evaluated(dataset, "--weights", weights).stdout.split())
    assert f"{ignored:,} pixels without a label, repeated where patches overlap, or padding" in text
    assert "Areas" not in text


def test_split_is_test_where_there_is_one_else_val(dataset, weights, tmp_path):
    assert scored(dataset, "--weights", weights)["protocol"]["split"] == "test"
    report = scored(dataset, "--weights", weights, "--split", "val")
    assert report["protocol"]["scenes"] == ["val_scene"]
    without_test = write_dataset(tmp_path / "other", {"train": 1, "val": 2})
    assert scored(without_test, "--weights", weights)["scores"] == report["scores"]


@pytest.mark.long
def test_patches_are_read_at_the_nearest_resolution_as_scenes_are(dataset, tmp_path):
    weights = write_weights(tmp_path / "ranged.safetensors", CLASSES, resolutions=(1.0, 2.0))
    line = [dataset, "--weights", weights, "--split", "val"]
    assert "its ground resolution is not known" in error_of(*line, "--resample", "1")
    text = (dataset / "dataset.yaml").read_text()
    (dataset / "dataset.yaml").write_text(text.replace("resolution: unknown", "resolution: 0.5"))
    result = evaluated(*line)
    assert notices(result) == [
        f"note: {dataset}: read at 1 m, since the weights were trained on 1 to 2 m; --resample off "
        "reads the scene's own 0.5 m"
    ]
    assert "; read at 1 m; weights" in " ".join(result.stdout.split())
    reports = {o: scored(*line, "--resample", o) for o in ("auto", "1", "off")}
    engine = hrrsi.EngineOptions(precision="32")  # as eval's
    segmenter = hrrsi.Segmenter(weights, window=32, overlap=0, resample=1.0, engine=engine)
    new = np.array([CLASSES.index(name) for name in segmenter.classes])
    pairs = [
        (new[segmenter(noise(i, SIZE, SIZE), resolution=0.5)], labels(i, SIZE, SIZE))
        for i in range(2)
    ]
    assert reports["auto"]["confusion_matrix"]["counts"] == naive_matrix(pairs)
    assert reports["1"]["confusion_matrix"] == reports["auto"]["confusion_matrix"]
    assert reports["off"]["confusion_matrix"] != reports["auto"]["confusion_matrix"]
    assert "far too coarse to be read at 0.01 m" in error_of(*line, "--resample", "0.01")


@pytest.mark.long
def test_batches_do_not_change_the_matrix(dataset, weights):
    by_patch, all_at_once = (
        scored(dataset, "--weights", weights, "--batch", n)["confusion_matrix"] for n in (1, 5)
    )
    assert by_patch == all_at_once


@pytest.mark.long
def test_published_protocol_drops_clutter_from_the_means_alone(dataset, weights):
    reports = {
        p: scored(dataset, "--weights", weights, "--protocol", p)
        for p in ("all", "no-clutter", "published")
    }
    counts = np.array(reports["all"]["confusion_matrix"]["counts"])
    kept = counts[np.ix_([0, 2], [0, 2])]
    iou = kept.diagonal() / (kept.sum(0) + kept.sum(1) - kept.diagonal())
    published = reports["published"]
    assert published["scores"]["OA"] == counts.trace() / counts.sum()
    assert published["scores"]["mIoU"] == pytest.approx(iou.mean())
    assert reports["no-clutter"]["scores"]["OA"] == kept.trace() / kept.sum()
    assert [c["name"] for c in published["classes"]] == ["water", "tree"]
    assert "clutter counts in OA and kappa" in published["protocol"]["sentence"]
    renamed = scored(dataset, "--weights", weights, "--protocol", "published", "--clutter", "TREE")
    assert renamed["protocol"]["dropped_from_means"] == ["tree"]


def test_table_states_its_protocol(dataset, weights):
    result = evaluated(dataset, "--weights", weights, "--split", "val")
    text = " ".join(result.stdout.split())
    for part in (
        "mine, val: patches of 64 px of 1 scene",
        "full labels",
        "every class counts in every score",
        "no test-time augmentation",
        f"weights {weights} (ued)",
        "Scenes: val_scene.",
        f"sha256 {hashlib.sha256(weights.read_bytes()).hexdigest()}, run by hrrsi",
        "openvino on cpu in precision 32",
    ):
        assert part in text
    report = scored(dataset, "--weights", weights, "--split", "val")
    for c in report["classes"]:
        shares = [f"{100 * c[key]:.2f}" for key in ("precision", "recall", "F1", "IoU")]
        assert re.search(rf"\| {c['name']} +\| +" + r" \| +".join(shares), result.stdout)


def test_json_says_what_predicted(dataset, weights):
    protocol = scored(dataset, "--weights", weights, "--engine", "torch")["protocol"]
    expected = {
        "weights": str(weights),
        "weights_packaged": None,
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "model": "ued",
        "hrrsi": hrrsi.__version__,
        "engine": "torch",
        "precision": "32",
        "device": "cpu",
    }
    assert {key: protocol[key] for key in expected} == expected


def test_dataset_says_its_split_and_whether_its_labels_were_eroded(dataset, weights):
    text = (dataset / "dataset.yaml").read_text()
    text = text.replace("labels: full", "labels: eroded").replace("split: null", "split: paper")
    (dataset / "dataset.yaml").write_text(text)
    protocol = scored(dataset, "--weights", weights)["protocol"]
    assert (protocol["split"], protocol["labels"]) == ("paper:test", "eroded")
    assert "mine, paper:test: " in protocol["sentence"]
    assert "; eroded labels (as given); " in protocol["sentence"]


@pytest.mark.long
def test_files_hold_what_is_printed_and_are_not_replaced_unasked(dataset, weights, tmp_path):
    json_file, picture = tmp_path / "out" / "scores.json", tmp_path / "out" / "matrix.png"
    arguments = [
        dataset, "--weights", weights, "--json", json_file, "--confusion-matrix", picture,
    ]  # fmt: skip
    printed = scored(*arguments)
    assert json.loads(json_file.read_text()) == printed
    pixels = np.asarray(Image.open(picture).convert("L"))
    assert min(pixels.shape) > 300
    assert pixels.std() > 10
    first = picture.read_bytes()
    assert "exists already" in error_of(*arguments)
    scored(*arguments, "--overwrite")
    assert picture.read_bytes() == first
    assert sorted(p.name for p in json_file.parent.iterdir()) == ["matrix.png", "scores.json"]


def test_undefined_scores_are_null_in_json(tmp_path, weights):
    dataset = write_dataset(tmp_path / "d", {"val": 1})
    only_water = np.zeros((SIZE, SIZE), np.uint8)
    Image.fromarray(only_water).save(dataset / "val" / "label" / "p0.png")
    result = evaluated(dataset, "--weights", weights, "--format", "json")
    assert "NaN" not in result.stdout
    recalls = {c["name"]: c["recall"] for c in json.loads(result.stdout)["classes"]}
    assert recalls["tree"] is recalls["clutter"] is None
    assert recalls["water"] is not None


def test_dataset_without_a_label_file(dataset, weights):
    (dataset / "test" / "label" / "p1.png").unlink()
    assert "p1.png: is missing" in error_of(dataset, "--weights", weights)


def test_dataset_whose_labels_are_all_ignored(tmp_path, weights):
    dataset = write_dataset(tmp_path / "d", {"val": 1})
    ignored = np.full((SIZE, SIZE), 255, np.uint8)
    Image.fromarray(ignored).save(dataset / "val" / "label" / "p0.png")
    assert "nothing to score" in error_of(dataset, "--weights", weights)


def test_label_with_an_index_that_is_no_class(dataset, weights):
    wrong = labels(0, SIZE, SIZE)
    wrong[5, 7] = 3
    Image.fromarray(wrong).save(dataset / "test" / "label" / "p0.png")
    line = error_of(dataset, "--weights", weights)
    assert "class index 3 at row 5, column 7" in line


@pytest.mark.parametrize("kind", ["image", "label"])
def test_patch_of_another_size(dataset, weights, kind):
    path = dataset / "test" / kind / "p2.png"
    Image.open(path).crop((0, 0, SIZE, SIZE - 1)).save(path)
    assert f"{kind}/p2.png: has 63 rows" in error_of(dataset, "--weights", weights)


@pytest.mark.parametrize("kind", ["image", "label"])
def test_truncated_patch(dataset, weights, kind):
    path = dataset / "test" / kind / "p2.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    line = error_of(dataset, "--weights", weights)
    assert f"{kind}/p2.png" in line
    assert "truncated or damaged" in line


def test_split_that_is_not_there(dataset, weights, tmp_path):
    assert "no patches in the split 'tset'" in error_of(
        dataset, "--weights", weights, "--split", "tset"
    )
    small = write_dataset(tmp_path / "small", {"train": 1})
    assert "neither test nor val" in error_of(small, "--weights", weights)
    assert "no patches in the split 'val'" in error_of(
        small, "--weights", weights, "--split", "val"
    )


def test_classes_that_do_not_match_are_named(dataset, tmp_path):
    other = write_weights(tmp_path / "w.safetensors", ["water", "tree", "car"])
    line = error_of(dataset, "--weights", other)
    assert "lack clutter and have besides car" in line
    assert "--merge" in line


def changed(dataset: Path, **values: object) -> Path:
    """Change what a dataset says of itself."""
    described = yaml.safe_load((dataset / "dataset.yaml").read_text())
    (dataset / "dataset.yaml").write_text(yaml.safe_dump({**described, **values}))
    return dataset


def test_bands_that_do_not_match(dataset, weights, tmp_path):
    two = changed(dataset, bands=[1, 2], mean=[0.1, 0.2], std=[1, 1])
    assert "2 bands where the weights expect 3" in error_of(two, "--weights", weights)
    three = changed(dataset, bands=[3, 2, 1], mean=[0.1] * 3, std=[1] * 3)
    line = error_of(three, "--weights", weights)
    assert "hold band 3, band 2, band 1 where the weights were trained on band 1, band 2" in line
    assert line.endswith("tile the scenes with --bands 1,2,3, or take other weights")
    other = write_weights(tmp_path / "other.safetensors", CLASSES, scheme="another")
    result = evaluated(three, "--weights", other)
    assert result.exit_code == 0
    (line,) = notices(result)
    assert line.startswith(f"warning: {dataset}: its patches hold band 3, band 2, band 1 where the")
    assert "band 3, band 2, band 1 for band 1, band 2" in " ".join(result.stdout.split())


def test_bands_that_show_something_else_are_told(dataset, tmp_path):
    infrared = ["near infrared", "red", "green"]
    other = write_weights(tmp_path / "other.safetensors", CLASSES, band_meanings=infrared)
    shown = changed(dataset, band_meanings=["red", "green", "blue"])
    (line,) = notices(evaluated(shown, "--weights", other))
    assert "hold red, green, blue where the weights were trained on near infrared, red" in line
    assert not notices(evaluated(changed(shown, band_meanings=infrared), "--weights", other))


@pytest.mark.long
def test_patches_are_divided_by_their_own_full_brightness(dataset, weights):
    report = scored(changed(dataset, scale=510.0), "--weights", weights)
    pairs = [
        (naive_labels(weights, noise(i, SIZE, SIZE) / 2), labels(i, SIZE, SIZE)) for i in range(3)
    ]
    assert report["confusion_matrix"]["counts"] == naive_matrix(pairs)
    assert report["protocol"]["reading"] == ["full brightness = 510"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"std": [0.1, 0.1]}, "mean has 3 bands and std 2"),
        ({"std": [0.1, 0.0, 0.1]}, "mean must be finite and std above 0, not 0"),
        ({"mean": [0.1, 0.2, float("nan")]}, "mean must be finite and std above 0, not nan"),
        ({"mean": [0.1], "std": [0.1]}, "mean and std have 1 entries for 3 bands"),
        ({"height": "dsm/"}, "mean and std have 3 entries for 4 bands"),
        ({"colours": COLOURS[:2]}, "colours has 2 entries for 3 classes"),
        ({"class_frequencies": [0.5, 0.5]}, "class_frequencies has 2 entries for 3 classes"),
    ],
)
def test_a_dataset_whose_description_does_not_add_up(dataset, weights, values, words):
    plain = {k: [list(c) for c in v] if k == "colours" else v for k, v in values.items()}
    line = error_of(changed(dataset, **plain), "--weights", weights)
    assert f"dataset.yaml: {words}; run `hrrsi tile` again" in line


def test_truncated_weights(dataset, weights, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights.read_bytes()[:-100])
    assert "cut.safetensors: is not a whole safetensors file" in error_of(dataset, "--weights", cut)


def test_folder_that_is_no_dataset(tmp_path, weights):
    line = error_of(tmp_path, "--weights", weights)
    assert "is not a tiled dataset" in line
    assert "--scheme" in line


def test_output_that_cannot_be_written(dataset, weights, tmp_path):
    (tmp_path / "file").write_text("")
    line = error_of(dataset, "--weights", weights, "--json", tmp_path / "file" / "scores.json")
    assert "cannot be created" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--window", "128"], "--window"),
        (["--eroded"], "--eroded"),
        (["--protocol", "best"], "--protocol"),
        (["--confusion-matrix", "matrix.jpg"], ".png"),
        (["second"], "--scheme"),
    ],
)
def test_usage_errors(dataset, weights, options, message):
    result = evaluated(dataset, *options, "--weights", weights)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
