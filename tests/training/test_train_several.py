"""A run on several datasets: what it says, writes and goes on from."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from samples.drawn_dataset import save_drawn_dataset
from samples.training_runs import SMALL, assert_same_run, quick, quietly, rows_of
from samples.undrawn_pictures import drawn_pictures
from typer.testing import CliRunner, Result

from hrrsi.cli import app
from hrrsi.errors import InputError
from hrrsi.networks.weights_reading import load_model
from hrrsi.runs import loop
from hrrsi.runs.folder import write_checkpoint
from hrrsi.runs.options import LAST_CHECKPOINT
from hrrsi.runs.record import tagged
from hrrsi.training.options import TrainOptions
from hrrsi.training.patch_batches import training_batches, validation_batches
from hrrsi.training.patch_pictures import input_patches
from hrrsi.training.run_checks import planned_run
from hrrsi.training.run_data import run_data

MODEL = "ued_bes-test_efficientnet"
RANGE = "0.15-0.6"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    town = save_drawn_dataset(folder / "town", ["Building", "Road"], train=6, resolution=0.3)
    outlines = save_drawn_dataset(
        folder / "outlines",
        ["road", "water", "building"],
        size=64,
        resolution=0.1,
        val=3,
        seed=1,
        partial={"no building": ["road", "water"]},
    )
    return town, outlines


def options_of(folders: tuple[Path, ...], out: Path, **changes: Any) -> TrainOptions:
    values = {"mix": (2, 1), "resolutions": (0.15, 0.6), "crop": 40, "batch": 4, **changes}
    return quick(folders, out, **values)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def command_line(
    folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A run of the command line: its folder, and what it printed."""
    out = tmp_path_factory.mktemp("runs")
    with drawn_pictures():
        result = invoke(
            *("train", *folders, "--mix", "2,1", "--resolutions", RANGE, "--crop", 40),
            *("--model", MODEL, "--encoder-weights", "none", "--epochs", 2, "--batch", 4),
            *("--lr", 0.01, "--device", "cpu", "--workers", 1, "--out", out, "--quiet"),
        )
    assert result.exit_code == 0, result.output
    return out / MODEL, result.output


@pytest.fixture(scope="module")
def run(command_line: tuple[Path, str]) -> Path:
    return command_line[0]


@pytest.mark.slow
def test_scores_of_each_dataset_and_their_mean_are_kept(run: Path) -> None:
    rows = rows_of(run)
    for row in rows:
        each = [float(row[f"val_mIoU_{name}"]) for name in ("town", "outlines")]
        assert float(row["val_mIoU"]) == pytest.approx(sum(each) / 2)
        for name in ("Building", "Road"):
            own = [float(row[f"val_IoU_{data}/{name}"]) for data in ("town", "outlines")]
            assert float(row[f"val_IoU_{name}"]) == pytest.approx(sum(own) / 2)
        assert row["val_IoU_town/water"] == "nan"
        assert row["val_IoU_water"] == row["val_IoU_outlines/water"] != "nan"
        assert row["images_seen"] == str(8 * int(row["epoch"]))  # two batches of four of ten
    tags = tagged({"val_mIoU_town": 0.5, "val_IoU_town/Road": 0.5})
    assert list(tags) == ["validation/mIoU_town", "validation IoU/town/Road"]


def test_the_best_weights_are_those_of_the_highest_mean(run: Path) -> None:
    meta = load_model(run / "best.safetensors").meta
    best = max(rows_of(run), key=lambda row: float(row["val_mIoU"]))
    assert meta.training["epoch"] == int(best["epoch"])
    assert meta.scores["validation"]["mIoU"] == float(best["val_mIoU"])
    assert meta.scores["validation"]["protocol"].endswith("mean of the datasets")
    for name in ("town", "outlines"):
        scores = meta.scores[f"validation, {name}"]
        assert scores["mIoU"] == float(best[f"val_mIoU_{name}"])
    assert meta.scores["validation, town"]["IoU"]["water"] is None


def test_weights_say_what_they_learned_from(run: Path) -> None:
    meta = load_model(run / "best.safetensors").meta
    assert meta.classes == ["Building", "Road", "water"]
    # 0.15 m is half a pixel of the town, and 64 px of 0.1 m are half a crop of 0.32 m
    assert meta.resolutions == (0.15, 0.6)
    assert meta.training["resolutions"] == [0.15, 0.6]
    assert meta.resolution == 0.3
    assert meta.training["datasets"] == {
        "town": {"scheme": "town", "share": pytest.approx(2 / 3, abs=1e-6), "resolution": 0.3},
        "outlines": {
            "scheme": "outlines",
            "share": pytest.approx(1 / 3, abs=1e-6),
            "resolution": 0.1,
        },
    }


def test_the_run_says_how_each_dataset_does(command_line: tuple[Path, str]) -> None:
    folder, output = command_line
    best = max(rows_of(folder), key=lambda row: float(row["val_mIoU"]))
    town, outlines = (f"{100 * float(best[f'val_mIoU_{n}']):.2f}" for n in ("town", "outlines"))
    assert f"(town {town}, outlines {outlines}) OA" in output
    lines = [line.split() for line in output.splitlines()]
    assert ["|", "class", "|", "IoU", "town", "|", "IoU", "outlines", "|", "mean", "|"] in lines
    mean = f"{100 * float(best['val_mIoU']):.2f}"
    assert ["|", "mIoU", "|", town, "|", outlines, "|", mean, "|"] in lines
    assert (folder / "curves.png").stat().st_size > 10_000
    assert list((folder / "samples").iterdir())


def test_the_folder_repeats_the_run(run: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"] == [str(folder) for folder in folders]
    assert (config["mix"], config["resolutions"]) == ([2, 1], [0.15, 0.6])
    again = invoke("train", "--config", run / "config.yaml", "--out", tmp_path, "--quiet")
    assert again.exit_code == 0, again.output
    assert rows_of(tmp_path / MODEL) == rows_of(run)
    environment = yaml.safe_load((run / "environment.yaml").read_text())
    assert environment["dataset"]["patches"] == 6 + 2 + 4 + 3
    assert set(environment["dataset"]["datasets"]) == {"town", "outlines"}


def test_info_of_run_and_weights(run: Path, folders: tuple[Path, Path]) -> None:
    text = " ".join(invoke("info", run).output.split())
    assert f"{folders[0]}, {folders[1]}, 15 patches" in text
    assert "mix [2.0, 1.0]" in text
    described = json.loads(invoke("info", run / "best.safetensors", "--format", "json").stdout)
    assert described["training"]["datasets"]["town"]["resolution"] == 0.3
    assert "validation, town" in invoke("info", run / "best.safetensors").output


# whatever it learns from, a run is the same in test_train_resume.py; this draws of two
@pytest.mark.slow
def test_a_step_and_a_kill_later_it_is_the_same_run(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[tuple[int, int], Path] = {}

    def keep(position: Any, content: Any, path: Path) -> None:
        write_checkpoint(position, content, path)
        step = position.epoch, position.batches
        kept[step] = tmp_path / f"{len(kept)}.ckpt"
        shutil.copy(path, kept[step])

    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_checkpoint", keep)
        whole, _ = quietly(options_of(folders, tmp_path / "whole"), checkpoint_seconds=0)
    options = options_of(folders, tmp_path / "resumed")
    shutil.copytree(whole.folder, options.run_folder)
    shutil.copy(kept[(1, 1)], options.run_folder / LAST_CHECKPOINT)
    (options.run_folder / "metrics.csv").unlink()
    assert torch.load(options.run_folder / LAST_CHECKPOINT, weights_only=True)["position"] == {
        "epoch": 1,
        "batches": 1,
    }
    # the datasets have moved meanwhile, into folders of other names
    moved = tuple(tmp_path / name for name in ("first", "second"))
    for folder, place in zip(folders, moved, strict=True):
        shutil.copytree(folder, place)
    resumed, _ = quietly(replace(options, data=moved), resume=True)
    assert_same_run(resumed.folder, whole.folder)


def test_a_run_is_resumed_on_its_own_datasets_and_mix_alone(
    run: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / MODEL)
    own = {"model": MODEL, "lr": 0.01}
    with pytest.raises(InputError, match=r"mix \[2.0, 1.0\], not \[1.0, 1.0\]"):
        quietly(options_of(folders, tmp_path, mix=(1, 1), **own), resume=True)
    moved = tmp_path / "other" / "town"
    shutil.copytree(folders[0], moved)
    label = next((moved / "val" / "label").iterdir())
    image = next((moved / "val" / "image").iterdir())
    shutil.copy(label, image)
    with pytest.raises(InputError, match=f"{moved}, {folders[1]}: its content is not what"):
        quietly(options_of((moved, folders[1]), tmp_path, **own), resume=True)


def test_a_dry_run_says_what_is_drawn_of_each(folders: tuple[Path, Path], tmp_path: Path) -> None:
    lines = [
        " ".join(line.split())
        for line in str(planned_run(options_of(folders, tmp_path))).splitlines()
    ]
    assert (
        "datasets town 66.7% of the patches drawn, 0.3 m a pixel seen at 0.15 to 0.6; outlines "
        "33.3% of the patches drawn, 0.1 m a pixel seen at 0.15 to 0.32"
    ) in lines
    assert "classes Building, Road, water, no building" in lines
    (patches,) = (line for line in lines if line.startswith("patches"))
    assert patches == "patches 10 to train on, 5 to validate on; 4 a step"
    assert not list(tmp_path.iterdir())


def test_pictures_of_batches_name_the_dataset(folders: tuple[Path, Path], tmp_path: Path) -> None:
    options = options_of(folders, tmp_path)
    patches = list(input_patches(run_data(options), options))
    assert {patch.name.partition("/")[0] for patch in patches} == {"town", "outlines"}
    assert {patch.image.shape for patch in patches} == {(3, 40, 40)}
    picture = tmp_path / "batches.png"
    result = invoke(
        *("train", *folders, "--mix", "2,1", "--resolutions", RANGE, "--crop", 40),
        *("--show-batches", picture),
    )
    assert result.exit_code == 0, result.output
    with Image.open(picture) as image:
        assert min(image.size) > 400


def test_overfitting_learns_from_all_and_scores_each(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    options = options_of(folders, tmp_path, overfit=4, epochs=1)
    result, _ = quietly(options)
    (row,) = rows_of(result.folder)
    assert row["images_seen"] == "4"
    assert row["val_mIoU_town"] != "nan" != row["val_mIoU_outlines"]


@pytest.mark.slow
def test_two_processes_see_the_same_and_score_all(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    options = options_of(folders, tmp_path, epochs=1)
    line = shlex.join(
        [
            *("train", *map(str, folders), "--mix", "2,1", "--resolutions", RANGE, "--crop", "40"),
            *("--model", SMALL, "--encoder-weights", "none", "--epochs", "1", "--batch", "4"),
            *("--device", "cpu", "--devices", "2", "--workers", "0", "--out", str(tmp_path)),
            "--quiet",
        ]
    )
    program = Path(__file__).parent.parent / "samples" / "recorded_training.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, program, tmp_path, line],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    data = run_data(options)
    shares = [
        (tmp_path / f"{SMALL}-default-{rank}.txt").read_text().splitlines() for rank in (0, 1)
    ]
    together = [list(map(int, " ".join(own).split())) for own in zip(*shares, strict=True)]
    assert together == [indices.tolist() for _, _, indices in training_batches(data, options)]
    counts = np.load(tmp_path / f"{SMALL}-default-0-1.npy")
    # at the resolutions at which they are validated
    labels = [labels for _, labels, *_ in validation_batches(data, options)]
    classes = len(data.description.classes)
    for index in range(classes):  # partial labels are counted apart
        assert counts[:, index].sum() == sum(int((label == index).sum()) for label in labels)
