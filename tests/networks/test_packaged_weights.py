"""Weights inside the package have names, and say what they are for where nobody named them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rasterio
from samples.made_weights import meta as made_meta
from samples.predicted_scenes import SMALL, save_scene
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import app
from hrrsi.errors import MissingInputError, WeightsError
from hrrsi.evaluation.evaluation import scenes_seen_in_training
from hrrsi.networks import weights_file
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_file import (
    PACKAGED_FILES,
    is_weights_file,
    packaged_names,
    packaged_weights,
    weights_path,
)
from hrrsi.networks.weights_reading import load_model, read_meta


@pytest.fixture
def two_packaged(
    made_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """A package that holds default weights and light ones, which say what they are for."""
    folder = tmp_path / "package"
    folder.mkdir()
    shutil.copy(packaged_weights(), folder)
    network = load_model(made_weights)
    meta = replace(
        network.meta,
        resolutions=(0.25, 0.8),
        purpose="buildings in hot places",
        training={"places": ["Dubai", "Nepal"]},
    )
    save_weights(network.state_dict(), meta, folder / PACKAGED_FILES["light"])
    monkeypatch.setattr(weights_file, "PACKAGED_FOLDER", folder)
    monkeypatch.chdir(tmp_path)
    return packaged_weights(), folder / PACKAGED_FILES["light"]


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_names_of_weights(two_packaged: tuple[Path, Path], tmp_path: Path) -> None:
    default, light = two_packaged
    assert packaged_names() == ["default", "light"]
    assert weights_path(None) == weights_path("default") == default
    assert weights_path("light") == weights_path(Path("light")) == light
    assert load_model("light").meta.purpose == "buildings in hot places"
    assert hrrsi.Segmenter("light").meta.resolutions == (0.25, 0.8)
    assert is_weights_file(Path("light"))
    (tmp_path / "light").mkdir()  # what is there comes first
    assert weights_path("light") == Path("light")
    assert not is_weights_file(Path("light"))


def test_an_unknown_name_says_which_there_are(
    two_packaged: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingInputError, match=r"heavy.*name one of default, light"):
        weights_path("heavy")
    two_packaged[1].unlink()
    with pytest.raises(MissingInputError, match=r"name one of default$"):
        weights_path("light")
    with pytest.raises(MissingInputError, match="there are default"):
        packaged_weights("light")
    assert weights_path("runs/light") == Path("runs/light")  # a path: whoever opens it says so


def test_commands_take_names(two_packaged: tuple[Path, Path], tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    result = run("predict", scene, "--weights", "light", *SMALL)
    assert result.exit_code == 0, result.output
    network = "ued_bes_sfm, Building, Land, Road, Vegetation, Water"
    background = "trained on Dubai, Nepal; at 0.25 to 0.8 m a pixel; for buildings in hot places"
    light = f"weights: light (packaged), {network}; {background}"
    assert light in result.stderr.splitlines()
    with rasterio.open("scene_classes.tif") as dataset:
        assert dataset.tags()["HRRSI_WEIGHTS_PACKAGED"] == "light"
    assert "light (packaged), ued_bes_sfm, sha256 " in run("info", "scene_classes.tif").stdout
    copy = tmp_path / "mine.safetensors"
    shutil.copy(two_packaged[1], copy)
    result = run("predict", scene, "--weights", copy, *SMALL, "--overwrite")
    assert f"weights: mine.safetensors ({copy}), {network}" in result.stderr.splitlines()
    with rasterio.open("scene_classes.tif") as dataset:
        assert "HRRSI_WEIGHTS_PACKAGED" not in dataset.tags()
    content = json.loads(run("info", "light", "--format", "json").stdout)
    assert content["resolutions"] == [0.25, 0.8]
    assert content["purpose"] == "buildings in hot places"
    lines = run("info", "light").stdout
    assert "unknown; saw 0.25 to 0.8 m" in lines
    assert "buildings in hot places" in lines
    profiled = run("profile", "--weights", "light", "--format", "json")
    assert light in profiled.stderr.splitlines()
    profile = json.loads(profiled.stdout)
    assert profile[0]["weights"] == PACKAGED_FILES["light"]
    assert profile[0]["weights_packaged"] == "light"
    failed = run("predict", scene, "--weights", "heavy", "--out", "x.tif")
    assert failed.exit_code == 1
    assert "name one of default, light" in failed.stderr


def test_weights_that_nobody_named_say_what_they_are(
    two_packaged: tuple[Path, Path], tmp_path: Path
) -> None:
    default, light = two_packaged
    shutil.copy(light, default)
    scene = save_scene(tmp_path / "scene.tif")
    line = (
        "weights: default (packaged), ued_bes_sfm, Building, Land, Road, Vegetation, Water; "
        "trained on Dubai, Nepal; at 0.25 to 0.8 m a pixel; for buildings in hot places"
    )
    assert run("predict", scene, *SMALL).stderr.splitlines()[-1] == line
    quiet = run("predict", scene, *SMALL, "--overwrite", "--quiet")
    assert quiet.exit_code == 0, quiet.output
    assert "weights: " not in quiet.stderr
    planned = run("predict", scene, *SMALL, "--overwrite", "--dry-run")
    assert line in planned.stderr.splitlines()
    missing = run("predict", "none.tif", *SMALL)
    assert len(missing.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", list(PACKAGED_FILES))
def test_packaged_weights_know_published_scenes_that_they_saw(name: str) -> None:
    meta = read_meta(weights_path(name))
    scenes = ["tile1_part_001", "tile4_part001", "tile8_part006", "tile8_part007"]
    assert scenes_seen_in_training(meta, "dubai", scenes) == ("tile4_part001", "tile8_part006")
    assert meta.logit_alignment == "centres"


def test_what_is_not_said_has_no_name_in_the_description() -> None:
    meta = made_meta()
    assert not {"height", "resolutions", "purpose", "likeness"} & set(meta)
    again = ModelMeta.from_metadata(meta.to_metadata(), Path("x"))
    assert (again.resolutions, again.purpose, again.likeness) == (None, None, None)
    full = replace(meta, resolutions=(0.1, 0.5), purpose="roofs")
    again = ModelMeta.from_metadata(full.to_metadata(), Path("x"))
    assert (again.resolutions, again.purpose) == ((0.1, 0.5), "roofs")
    assert dict(again) == dict(full)


@pytest.mark.parametrize("resolutions", [[0.5, 0.1], [0, 1], [-1, 1], [0.1], [0.1, 0.2, 0.3], "x"])
def test_wrong_resolutions_are_a_damaged_description(
    resolutions: Any, made_weights: Path, tmp_path: Path
) -> None:
    metadata = read_meta(made_weights).to_metadata() | {"resolutions": json.dumps(resolutions)}
    with pytest.raises(WeightsError, match="description is damaged"):
        ModelMeta.from_metadata(metadata, tmp_path / "x.safetensors")
