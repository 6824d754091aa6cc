"""Scenes without labels as a dataset, for a training with teachers."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from samples.raw_layouts import textured, write_raster
from typer.testing import CliRunner, Result

from hrrsi.cli import app
from hrrsi.labels.scheme import load_scheme
from hrrsi.labels.splits import scene_split
from hrrsi.tiling.dataset import TiledDataset, read_image, read_label

SCHEME = """
name: town
classes:
  - {name: roof, colour: [200, 0, 0]}
  - {name: rest, colour: [90, 90, 90]}
label_format: indices
"""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    for seed, scene in enumerate(("east", "north", "west")):
        pixels = textured(seed, (3, 64, 96))
        if scene == "west":
            pixels[:, :, 32:64] = 0  # a gap in the scene: one patch of three without data
        write_raster(folder / "images" / f"{scene}.tif", pixels, nodata=0)
    (tmp_path / "town.yaml").write_text(SCHEME)
    return folder


def add_label(raw: Path, scene: str) -> None:
    label = np.zeros((1, 64, 96), dtype=np.uint8)
    label[:, :40], label[:, :, 64:] = 1, 255  # the last two patches have no label
    write_raster(raw / "labels" / f"{scene}.tif", label)


def tile(raw: Path, *options: str) -> Result:
    arguments = ["tile", str(raw), "--scheme", str(raw.parent / "town.yaml"), "--size", "32"]
    arguments += ["--out", str(raw.parent / "tiled"), "--workers", "1", *options]
    return CliRunner().invoke(app, arguments)


def test_scenes_without_labels_all_train(raw: Path) -> None:
    result = tile(raw, "--unlabelled")
    assert result.exit_code == 0, result.output
    assert "note: no scene has a label: all of them train" in result.stderr
    assert "warning" not in result.stderr
    assert "train (no labels)" in result.output
    dataset = TiledDataset(raw.parent / "tiled")
    description = dataset.description
    assert description.is_unlabelled
    assert list(description.splits) == ["train"]
    train = description.splits["train"]
    assert train.scenes == ["east", "north", "west"]
    assert (train.class_pixels, train.ignored_pixels) == ([0, 0], 16 * 32 * 32)
    assert description.class_frequencies == [0, 0]
    assert description.classes == ["roof", "rest"]
    patches = dataset.patches("train")
    assert len(patches) == 16  # of 18, but for the gap
    assert all((read_label(patch, description) == 255).all() for patch in patches)
    pixels = np.concatenate(
        [read_image(patch, description).reshape(3, -1) for patch in patches], axis=1
    )
    assert np.allclose(description.mean, pixels.mean(1) / 255, atol=1e-6)
    written = yaml.safe_load((raw.parent / "tiled" / "dataset.yaml").read_text())
    assert written["splits"]["train"]["labels"] == "none"


def test_scenes_with_labels_validate_those_without(raw: Path) -> None:
    add_label(raw, "north")
    result = tile(raw, "--unlabelled", "--val-scenes", "north")
    assert result.exit_code == 0, result.output
    description = TiledDataset(raw.parent / "tiled").description
    assert description.is_unlabelled
    assert description.splits["val"].labels == "full"
    assert description.splits["val"].patches == 4  # patches to score have labels
    assert description.splits["train"].scenes == ["east", "west"]


def test_patches_without_labels_stay_beside_those_with(raw: Path) -> None:
    for scene in ("east", "north"):
        add_label(raw, scene)
    result = tile(raw, "--unlabelled", "--val-scenes", "north")
    assert result.exit_code == 0, result.output
    description = TiledDataset(raw.parent / "tiled").description
    assert not description.is_unlabelled
    train = description.splits["train"]
    assert (train.labels, train.patches) == ("full", 6 + 4)
    assert sum(train.class_pixels) == 64 * 64
    assert sum(description.class_frequencies) == pytest.approx(1)


def test_scenes_to_validate_need_labels(raw: Path) -> None:
    result = tile(raw, "--unlabelled", "--val-scenes", "north")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: scene north: has no label")
    assert tile(raw).exit_code == 1  # and all do, unless they may lack them


def test_validation_scenes_are_taken_from_those_with_labels() -> None:
    names = [f"tile1_{n}" for n in range(6)]
    scheme = load_scheme("dubai").model_copy(update={"splits": {}})
    bare = scene_split(names, scheme, unlabelled=names)
    assert (bare.train, bare.val) == (tuple(names), ())
    scheme = load_scheme("dubai").model_copy(
        update={"splits": {"mine": load_scheme("dubai").splits["standard"].model_copy(
            update={"train": ("*",), "val": (), "test": ()}
        )}}
    )  # fmt: skip
    some = scene_split(names, scheme, unlabelled=names[:5])
    assert some.val == some.val_from_train == ("tile1_5",)
    assert some.train == tuple(names[:5])


def test_unlabelled_patches_are_not_scored(raw: Path, tmp_path: Path) -> None:
    from samples.made_weights import save_made_weights

    assert tile(raw, "--unlabelled").exit_code == 0
    weights = save_made_weights(tmp_path / "w.safetensors")
    folder = raw.parent / "tiled"
    content = yaml.safe_load((folder / "dataset.yaml").read_text())
    scheme = load_scheme("dubai")
    content["classes"], content["colours"] = scheme.class_names, [*map(list, scheme.colours)]
    content["class_frequencies"] = [0.0] * 5
    content["splits"]["train"]["class_pixels"] = [0] * 5
    (folder / "dataset.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(content))))
    result = CliRunner().invoke(
        app, ["eval", str(folder), "--weights", str(weights), "--split", "train", "--quiet"]
    )
    assert result.exit_code == 1
    assert "its train split has no labels, so there is nothing to score" in result.stderr
