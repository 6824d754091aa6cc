"""Weights files that are damaged, foreign or dangerous end in one line; sound ones say all."""

import json
import os
import pickle
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from samples.network_contract import meta_of
from samples.predicted_scenes import one_error_line
from samples.published_networks import filled_weights, published_checkpoint
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import app
from hrrsi.errors import HrrsiError
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_reading import load_model, read_meta
from hrrsi.training.encoder_weights import check_encoder_source


class Attack:
    """What a pickle with code in it does when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def described(weights: Path, path: Path, **changes: Any) -> None:
    """The same tensors under another description."""
    meta = replace(read_meta(weights), **changes)
    save_weights(load_model(weights).state_dict(), meta, path)


@pytest.fixture
def bad_weights(tmp_path: Path, made_weights: Path, request: pytest.FixtureRequest) -> Path:
    whole = made_weights.read_bytes()
    kind = request.param
    path = tmp_path / f"bad{'.pth' if 'pth' in kind else '.safetensors'}"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut header":
        path.write_bytes(whole[:500])
    elif kind == "cut tensors":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "text":
        path.write_text("weights go here")
    elif kind == "foreign":
        save_file({"conv.weight": torch.zeros(3)}, path)
    elif kind == "other network":
        described(made_weights, path, model="ued")
    elif kind == "newer network":
        described(made_weights, path, model="ued_2027")
    elif kind == "unknown encoder":
        described(made_weights, path, model="ued-resnet17")
    elif kind == "other encoder":
        described(made_weights, path, model="ued_bes_sfm-resnet18")
    elif kind == "other classes":
        two = {"classes": ["one", "two"], "colours": [(1, 1, 1), (2, 2, 2)]}
        described(made_weights, path, **two)
    elif kind == "pth with code":
        path.write_bytes(pickle.dumps(Attack(tmp_path / "attacked")))
    elif kind == "torch pth with code":
        torch.save({"model_state_dict": Attack(tmp_path / "attacked")}, path)
    elif kind == "cut pth":
        torch.save({"model_state_dict": {"a": torch.zeros(10_000)}}, path)
        path.write_bytes(path.read_bytes()[:9_000])
    elif kind == "pth of another network":
        torch.save({"model_state_dict": {"layer.weight": torch.zeros(3)}}, path)
    elif kind == "page pth":
        path.write_text("<!DOCTYPE html><html><title>Sign in</title></html>")
    elif kind == "noise pth":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif kind == "encoder":
        about = json.dumps({"encoder": "resnet18"})
        save_file({"conv1.weight": torch.zeros(3)}, path, {"hrrsi_encoder": about})
    elif kind == "pth without state":
        torch.save([torch.zeros(3)], path)
    return path


@pytest.mark.long
@pytest.mark.parametrize(
    ("bad_weights", "words"),
    [
        ("empty", "is empty"),
        ("cut header", "not a whole safetensors file"),
        ("cut tensors", "not a whole safetensors file"),
        ("text", "not a whole safetensors file"),
        ("foreign", "does not say which network"),
        ("other network", "tensors are not those"),
        ("newer network", "update hrrsi"),
        ("unknown encoder", "has no encoder 'resnet17'"),
        ("other encoder", "wrong shapes for the network it names"),
        ("other classes", "tell 5 classes apart, not 2"),
        ("pth with code", "it was not run"),
        ("torch pth with code", "it was not run"),
        ("cut pth", "not a whole weights file"),
        ("pth of another network", "another network"),
        ("pth without state", "no model_state_dict"),
        ("page pth", "neither a .safetensors nor a PyTorch file; give another file; download"),
        ("noise pth", "neither a .safetensors nor a PyTorch file; give another file; download"),
        (
            "encoder",
            "holds the encoder resnet18 alone, as `hrrsi pretrain` writes it; train a network that "
            "starts from it: `hrrsi train --encoder-weights`",
        ),
        ("missing", "no such weights file"),
    ],
    indirect=["bad_weights"],
)
def test_bad_weights_are_one_line(
    bad_weights: Path, words: str, tmp_path: Path, examples: Path
) -> None:
    result = CliRunner().invoke(
        app,
        f"predict {examples / 'dubai_tile1.tif'} --weights {bad_weights}".split()
        + f"--out {tmp_path / 'out' / 'map.tif'}".split(),
    )
    assert result.exit_code == 1, result.output
    line = one_error_line(result)
    assert words in line
    assert bad_weights.name in line
    assert not (tmp_path / "attacked").exists()
    assert not list(tmp_path.glob("out/*"))


def test_wrong_name_does_not_hide_a_safetensors_file(made_weights: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "weights.pth"
    renamed.write_bytes(made_weights.read_bytes())
    assert read_meta(renamed) == read_meta(made_weights)


def test_saving_replaces_whole_files_only(made_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    meta = read_meta(made_weights)
    save_weights({"a": torch.zeros(2)}, meta, path)
    before = path.read_bytes()
    twice = torch.zeros(2)  # safetensors refuses to write a tensor under two names
    broken = {"a": twice, "b": twice}
    with pytest.raises(RuntimeError, match="share memory"):
        save_weights(broken, meta, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]


def test_meta_is_a_frozen_mapping_of_what_it_says() -> None:
    meta = meta_of("ued", 2, bands=4)
    assert meta["classes"] == meta.classes == ["class 0", "class 1"]
    assert meta == dict(meta)
    assert {"model", "classes", "colours", "mean", "std", "resolution"} <= meta.keys()
    assert "height" not in meta
    assert meta.get("height") is None
    with pytest.raises(KeyError):
        _ = meta["keys"]
    with pytest.raises(FrozenInstanceError):
        meta.model = "unet"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(meta)) == meta
    assert (meta.band_count, meta.image_bands) == (4, 4)
    seen = replace(meta, height=True)
    assert (seen["height"], seen.band_count, seen.image_bands) == (True, 4, 3)
    assert seen != meta
    metadata = seen.to_metadata()
    assert ModelMeta.from_metadata(metadata, Path("weights.safetensors")) == seen


def test_heights_are_normalised_as_in_training_whatever_full_brightness_is() -> None:
    meta = replace(meta_of("ued", 2, bands=4), height=True, mean=[0.5, 0.5, 0.5, 1.0])
    pixels = np.array([2000, 2000, 2000, 510]).reshape(1, 4, 1, 1)
    gain, offset = meta.normalisation(4000)
    np.testing.assert_allclose((pixels * gain + offset).ravel(), [0, 0, 0, 5], atol=1e-5)
    assert gain.dtype == offset.dtype == np.float32
    own, _ = meta.normalisation()
    np.testing.assert_allclose(own, 1 / (255 * 0.2))


def test_a_score_that_is_not_defined_is_none(made_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "older.safetensors"
    meta = read_meta(made_weights)
    scores = {"validation": {"protocol": "patches", "mIoU": 0.5, "mF1": float("nan")}}
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_weights({}, replace(meta, scores=scores), path)
    assert not path.exists()
    stored = {key: json.dumps(value) for key, value in {**meta, "scores": scores}.items()}
    save_file(load_file(made_weights), path, {"hrrsi_format": "1", **stored})  # as once written
    assert read_meta(path).scores["validation"]["mF1"] is None
    result = CliRunner().invoke(app, ["info", str(path), "--format", "json"])
    assert result.exit_code == 0, result.output
    assert "NaN" not in result.stdout
    text = CliRunner().invoke(app, ["info", str(path)]).stdout
    assert "mIoU 50.00%, mF1 - (patches)" in text


@pytest.mark.long
def test_finished_weights_do_not_need_what_their_encoder_started_from(tmp_path: Path) -> None:
    network = build_network("ued-resnet18", 2)
    path = tmp_path / "tagged.safetensors"
    meta = replace(meta_of("ued-resnet18", 2), model="ued-resnet18.dropped_in1k")
    save_weights(network.state_dict(), meta, path)
    loaded = load_model(path)
    assert loaded.meta.model == "ued-resnet18.dropped_in1k"
    for key, value in network.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key])
    with pytest.raises(HrrsiError, match="has no weights 'dropped_in1k' of resnet18"):
        check_encoder_source("ued-resnet18.dropped_in1k", "none")


def test_published_checkpoint_with_a_parallel_prefix(tmp_path: Path) -> None:
    state = {f"module.{k}": v for k, v in filled_weights("ued_bes").items()}
    path = tmp_path / "parallel.pth"
    torch.save({"epoch": 1, "model_state_dict": state, "optimizer_state_dict": {}}, path)
    assert load_model(path).meta.model == "ued_bes"


@pytest.mark.long
def test_published_checkpoint_maps_a_scene(tmp_path: Path, examples: Path) -> None:
    import rasterio

    weights = published_checkpoint("ued_bes_sfm", tmp_path)
    out = tmp_path / "map.tif"
    scene = examples / "dubai" / "tile1" / "images" / "image_part_007.jpg"
    result = CliRunner().invoke(
        app, f"predict {scene} --weights {weights} --out {out} --quiet".split()
    )
    assert result.exit_code == 0, result.output
    with rasterio.open(out) as raster:
        assert raster.colormap(1)[0][:3] == (0, 0, 255)
        assert int(raster.read(1).max()) < 6


def test_unknown_attribute_of_the_package() -> None:
    with pytest.raises(AttributeError, match="no attribute 'predct'"):
        _ = hrrsi.predct  # type: ignore[attr-defined]


def test_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(HrrsiError("broke", where="x.tif", fix="mend it")))
    assert str(error) == "x.tif: broke; mend it"
