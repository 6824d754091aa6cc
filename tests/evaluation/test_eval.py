import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import app
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights import load_model, save_weights
from hrrsi.tiling.dataset import DatasetDescription, SplitContent

CLASSES = ["water", "clutter", "tree"]
COLOURS = [(0, 0, 255), (255, 0, 0), (0, 255, 0)]
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
SIZE = 64
SCHEME = """
name: mine
classes:
  - {name: water, colour: [0, 0, 255]}
  - {name: clutter, colour: [255, 0, 0]}
  - {name: tree, colour: [0, 255, 0]}
ignored:
  - {name: border, colour: [0, 0, 0]}
images: ["{scene}.tif"]
labels: ["{scene}_label.png"]
eroded_labels: ["{scene}_eroded.png"]
splits:
  first: {train: [a], val: [b], test: [c, d]}
"""


def evaluated(*arguments: object):
    return CliRunner().invoke(app, ["eval", *map(str, arguments), "--device", "cpu"])


def scored(*arguments: object) -> dict:
    result = evaluated(*arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def error_of(*arguments: object) -> str:
    result = evaluated(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def write_weights(path: Path, classes: list[str], **changes: object) -> Path:
    torch.manual_seed(3)
    network = build_network("ued", len(classes))
    with torch.no_grad():
        # classes alternate over an image of noise instead of one winning everywhere
        network(torch.randn(4, 3, SIZE, SIZE))
        last = network.final_out[-1].weight
        last -= last.mean(dim=0, keepdim=True)
        last[1:] -= last[1:].mean(dim=1, keepdim=True)
    meta = ModelMeta(
        model="ued",
        classes=classes,
        colours=[COLOURS[i % 3] for i in range(len(classes))],
        bands=[1, 2, 3],
        dtype="uint8",
        scale=255.0,
        mean=MEAN,
        std=STD,
        resolution=None,
        scheme="mine",
        training={"scenes": ["a"]},
        scores={},
        licence="",
    )
    save_weights(network.state_dict(), replace(meta, **changes), path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Weights that order the classes as published ones do: alphabetically."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    return write_weights(path, sorted(CLASSES))


def naive_labels(weights: Path, image: np.ndarray) -> np.ndarray:
    """Predict (H, W, 3) uint8 as indices of CLASSES, one window of the image's size."""
    network = load_model(weights)
    values = (image / 255.0 - np.array(MEAN)) / np.array(STD)
    with torch.no_grad():
        logits = network(torch.from_numpy(values.transpose(2, 0, 1)[None]).float())["lbl"][0]
    names = [network.meta["classes"][i] for i in logits.argmax(0).ravel().tolist()]
    return np.array([CLASSES.index(n) for n in names]).reshape(image.shape[:2])


def naive_matrix(pairs) -> list[list[int]]:
    counts = [[0] * len(CLASSES) for _ in CLASSES]
    for prediction, truth in pairs:
        for p, t in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
            if t != 255:
                counts[p][t] += 1
    assert sum(any(row) for row in counts) > 1, "the test proves little if one class always wins"
    return counts


def noise(seed: int, height: int, width: int) -> np.ndarray:
    """Coarse random blocks with fine noise: (height, width, 3) uint8."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 200, (height // 8 + 1, width // 8 + 1, 3))
    coarse = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return (coarse + random.integers(0, 56, (height, width, 3))).astype(np.uint8)


def labels(seed: int, height: int, width: int) -> np.ndarray:
    values = np.array([0, 1, 2, 255], dtype=np.uint8)
    return np.random.default_rng(seed + 100).choice(values, (height, width))


def write_dataset(folder: Path, splits: dict[str, int], *, classes: list[str] = CLASSES) -> Path:
    contents = {}
    for split, patches in splits.items():
        for kind in ("image", "label"):
            (folder / split / kind).mkdir(parents=True)
        for i in range(patches):
            Image.fromarray(noise(i, SIZE, SIZE)).save(folder / split / "image" / f"p{i}.png")
            label = Image.fromarray(labels(i, SIZE, SIZE), mode="P")
            label.putpalette([v for colour in COLOURS for v in colour] + [0] * 759)
            label.save(folder / split / "label" / f"p{i}.png")
        contents[split] = SplitContent(
            scenes=[f"{split}_scene"],
            patches=patches,
            class_pixels=[0] * len(classes),
            ignored_pixels=0,
        )
    description = DatasetDescription(
        scheme="mine",
        classes=classes,
        colours=COLOURS,
        bands=[1, 2, 3],
        dtype="uint8",
        scale=255.0,
        mean=[0.1, 0.2, 0.3],  # the weights' normalisation counts, not the dataset's
        std=[1.0, 1.0, 1.0],
        statistics="measured",
        class_frequencies=[0.4, 0.3, 0.3],
        resolution="unknown",
        patch_size=SIZE,
        stride=SIZE,
        patch_format="png",
        splits=contents,
    )
    (folder / "dataset.yaml").write_text(description.to_yaml())
    return folder


@pytest.fixture
def dataset(tmp_path) -> Path:
    return write_dataset(tmp_path / "dataset", {"train": 1, "val": 2, "test": 3})


def write_scene(folder: Path, name: str, seed: int, height: int, width: int, **profile: object):
    """Write image, label and eroded label; return the image and the indices of both labels."""
    image, truth = noise(seed, height, width), labels(seed, height, width)
    eroded = truth.copy()
    eroded[::2] = 255
    folder.mkdir(exist_ok=True)
    with rasterio.open(
        folder / f"{name}.tif", "w", driver="GTiff", count=3, height=height, width=width,
        dtype="uint8", crs="EPSG:32640", transform=rasterio.Affine(0.5, 0, 0, 0, -0.5, 0),
        **profile,
    ) as raster:  # fmt: skip
        raster.write(image.transpose(2, 0, 1))
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[:3] = COLOURS
    for suffix, indices in (("label", truth), ("eroded", eroded)):
        Image.fromarray(palette[indices]).save(folder / f"{name}_{suffix}.png")
    return image, truth, eroded


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


# Patches


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


def test_batches_do_not_change_the_matrix(dataset, weights):
    one, all_at_once = (
        scored(dataset, "--weights", weights, "--batch", n)["confusion_matrix"] for n in (1, 5)
    )
    assert one == all_at_once


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


def test_evaluating_training_scenes_warns(dataset, tmp_path):
    seen = write_weights(tmp_path / "w.safetensors", CLASSES, training={"scenes": ["val_scene"]})
    result = evaluated(dataset, "--weights", seen, "--split", "val")
    assert result.exit_code == 0
    assert "warning: the weights were trained on val_scene" in result.stderr
    assert "these scores flatter them" in result.stdout
    assert "warning" not in evaluated(dataset, "--weights", seen, "--split", "test").stderr


# Whole scenes


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


@pytest.mark.parametrize("kind", ["full", "eroded"])
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


# Outputs


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


# Bad input


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
    assert "hold bands 3,2,1 where the weights were trained on bands 1,2,3; tile the scenes" in line
    other = write_weights(tmp_path / "other.safetensors", CLASSES, scheme="another")
    result = evaluated(three, "--weights", other)
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"warning: {dataset}: its patches hold bands 3,2,1 where the weights")
    assert "bands 3,2,1 for 1,2,3" in " ".join(result.stdout.split())


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


def test_scenes_unlike_training_are_told_as_by_predict(scenes, tmp_path):
    fine = write_weights(tmp_path / "fine.safetensors", CLASSES, resolution=0.1, mean=[5.0] * 3)
    result = evaluated(scenes["folder"], *scenes["options"], "--weights", fine)
    assert result.exit_code == 0
    lines = result.stderr.splitlines()
    assert [line.startswith("warning: ") for line in lines] == [True, True]  # for three scenes
    assert "imagery unlike what the weights were trained on" in lines[0]
    assert "has 50 cm a pixel where the weights were trained on 10 cm" in lines[1]


def test_truncated_weights(dataset, weights, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights.read_bytes()[:-100])
    assert "cut.safetensors: is not a whole safetensors file" in error_of(dataset, "--weights", cut)


def test_folder_that_is_no_dataset(tmp_path, weights):
    line = error_of(tmp_path, "--weights", weights)
    assert "is not a tiled dataset" in line
    assert "--scheme" in line


def test_label_of_another_size_than_its_scene_fails_before_any_prediction(scenes, weights):
    path = scenes["folder"] / "d_label.png"
    Image.open(path).resize((99, 40)).save(path)
    line = error_of(scenes["folder"], *scenes["options"], "--weights", weights)
    assert "the label has 40 rows and 99 columns" in line


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
