"""`--dry-run`: what is checked and tried before a run, and what is said of it."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from samples.class_folders import make_class_folders
from samples.made_dataset import save_made_dataset
from samples.training_runs import SMALL, quick, quietly
from typer.testing import CliRunner, Result

from hrrsi.cli import app
from hrrsi.errors import HrrsiError
from hrrsi.runs import steps
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.training.initial_weights import first_network
from hrrsi.training.run import TrainedRun
from hrrsi.training.run_checks import check_run, planned_run, training_warnings

QUICK = f"--encoder-weights none --device cpu --workers 0 --quiet --model {SMALL} --batch 4"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_made_dataset(tmp_path_factory.mktemp("data") / "dubai64", train=6, val=3)


@pytest.fixture(scope="module")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    return quietly(quick(dataset, tmp_path_factory.mktemp("runs"), epochs=1))[0]


def command(name: str, *arguments: object) -> Result:
    return CliRunner().invoke(app, " ".join(map(str, (name, *arguments))).split())


def lines_of(plan: object) -> dict[str, str]:
    """Return the lines of a plan by their titles."""
    parted = [line.partition("  ") for line in str(plan).splitlines()]
    return {title: text.strip() for title, _, text in parted if text}


def test_everything_is_tried_and_nothing_written(dataset: Path, tmp_path: Path) -> None:
    options = quick(dataset, tmp_path / "runs", model="ued_bes_sfm", epochs=7)
    plan = planned_run(options)
    assert not (tmp_path / "runs").exists()
    assert (plan.steps_per_epoch, plan.steps) == (3, 21)
    assert (plan.images, plan.left_out, plan.validation_images) == (6, 0, 3)
    network = first_network(options, TiledDataset(dataset), resume=False, report=print)
    assert plan.parameters == sum(p.numel() for p in network.parameters())
    assert plan.seconds > plan.steps * plan.trial.step_seconds > 0
    run, _ = quietly(quick(dataset, tmp_path, model="ued_bes_sfm", epochs=1))
    written = {p.name + "/" * p.is_dir() for p in run.folder.iterdir()}
    assert set(plan.files) == written
    text = str(plan)
    for words in (f"{plan.parameters:,} parameters", "21 in all", "nothing was written"):
        assert words in text


def test_memory_is_kept_as_the_run_does(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def step(*_: Any) -> torch.Tensor:
        called.append("step")
        return torch.zeros(())

    monkeypatch.setattr(steps, "keep_freed_memory", lambda: called.append("kept"))
    monkeypatch.setattr(steps.Steps, "train", step)
    planned_run(quick(dataset, tmp_path))
    assert called == ["kept", "step", "step"]


def test_what_is_changed_of_the_recipe_is_said(dataset: Path, tmp_path: Path) -> None:
    options = quick(dataset, tmp_path, epochs=1, batch=4, lr=0.01, augmentation="none")
    lines = lines_of(planned_run(replace(options, workers=1, freeze_encoder=1)))
    changed = "default with epochs 1, batch 4, lr 0.01, augmentation none"
    assert lines["recipe"] == changed
    assert lines["optimiser"].startswith("adamw, learning rate up to 0.01 (cosine, warm-up 0.05)")
    assert lines["starts from"] == "random weights; encoder frozen for 1 epoch"
    assert "augmentation none" in lines["seen as"]
    assert lines["steps"] == "1 epoch of 1 step, 1 in all"
    assert lines["a step"].endswith("with 1 worker")
    assert lines_of(planned_run(quick(dataset, tmp_path)))["recipe"] == (
        "default with epochs 2, batch 2"
    )


def test_patches_that_fill_no_step_are_counted(dataset: Path, tmp_path: Path) -> None:
    plan = planned_run(quick(dataset, tmp_path, batch=4))
    assert (plan.images, plan.steps_per_epoch, plan.left_out) == (6, 1, 2)
    assert "6 to train on (2 of them left out of each epoch, others each time" in str(plan)
    # drawn at random, none is left out more than another one
    assert planned_run(quick(dataset, tmp_path, batch=4, sampling="rare")).left_out == 0


def test_the_share_of_labelled_pixels_is_said(dataset: Path, tmp_path: Path) -> None:
    data = shutil.copytree(dataset, tmp_path / "data")
    described = yaml.safe_load((data / "dataset.yaml").read_text())
    described["splits"]["train"] |= {"class_pixels": [10, 4, 0, 0, 0], "ignored_pixels": 86}
    described["splits"]["val"] |= {"class_pixels": [10, 4, 0, 0, 0], "ignored_pixels": 0}
    (data / "dataset.yaml").write_text(yaml.safe_dump(described))
    lines = lines_of(planned_run(quick(data, tmp_path)))
    assert (
        lines["labelled"]
        == "14 % of the pixels of train, 100 % of the pixels of val; the others are ignored"
    )


def test_a_bad_source_is_said_as_the_run_does(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(HrrsiError, match="no such file"):
        planned_run(quick(dataset, tmp_path, encoder_weights="missing.pth"))
    with pytest.raises(HrrsiError, match="unknown model"):
        planned_run(quick(dataset, tmp_path, model="you"))
    with pytest.raises(HrrsiError, match="names weights, no model; give `init=w"):
        planned_run(quick(dataset, tmp_path, model="w.safetensors"))


def with_a_nan(weights: Path, path: Path) -> Path:
    with safe_open(weights, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        metadata = file.metadata()
    tensors["base_network.features.conv_stem.weight"][0, 0, 0, 0] = float("nan")
    save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize("option", ["init", "encoder_weights"])
@pytest.mark.parametrize("do", [planned_run, quietly])
def test_weights_that_are_no_numbers_are_no_start(
    do: Callable[..., object], option: str, dataset: Path, finished: TrainedRun, tmp_path: Path
) -> None:
    path = with_a_nan(finished.weights, tmp_path / "bad.safetensors")
    source = path if option == "init" else str(path)
    options = quick(dataset, tmp_path / "runs", **{option: source})
    with pytest.raises(HrrsiError, match=r"bad\.safetensors`?: holds values that are not finite"):
        do(options)
    assert not options.run_folder.exists()


def test_a_loss_that_is_no_number_is_an_error(dataset: Path, tmp_path: Path) -> None:
    options = quick(dataset, tmp_path / "runs", recipe="published", lr=1e30)
    with pytest.raises(HrrsiError, match=r"the loss is (nan|inf) in epoch 1, step 2.*lower `lr`"):
        planned_run(options)
    assert not (tmp_path / "runs").exists()


def test_a_run_that_is_there_is_said(dataset: Path, finished: TrainedRun) -> None:
    before = {p: p.read_bytes() for p in finished.folder.rglob("*") if p.is_file()}
    arguments = [dataset, QUICK, "--batch 2 --out", finished.folder.parent, "--dry-run --epochs"]
    for more, words in (
        ("1", "so the run would be refused; with --resume it is finished (1 epoch)"),
        ("2", "with --resume it is refused, too: it was started with epochs 1, not 2"),
        ("1 --resume", "holds a run already; with --resume it is finished (1 epoch)"),
        ("2 --overwrite", "holds a run already, which --overwrite replaces"),
    ):
        result = command("train", *arguments, more)
        assert result.exit_code == 0, result.output
        assert words in result.stdout
    result = command("train", *arguments, "2 --lr 1 --resume")
    assert result.exit_code == 1
    for words in (
        "was started with epochs 1, not 2; lr 0.003, not 1.0; a run's length stays",
        f"--config {finished.folder / 'config.yaml'} --resume",
        f"--init {finished.weights}",
    ):
        assert words in result.stderr
    assert {p: p.read_bytes() for p in finished.folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("more", ["", "--dry-run"])
def test_a_file_can_not_hold_a_run(more: str, dataset: Path, tmp_path: Path) -> None:
    file = tmp_path / "afile"
    file.touch()
    for out in (file, file / "deeper" / "still"):
        result = command("train", dataset, QUICK, "--out", out, more)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: {file}: the folder cannot be created (a file")
        assert len(result.stderr.splitlines()) == 1


def test_odd_options_are_warned_of(dataset: Path, tmp_path: Path) -> None:
    odd = quick(dataset, tmp_path, lr=0.0, batch=9, epochs=2, freeze_encoder=2)
    messages: list[str] = []
    quietly(odd, warn=messages.append)
    assert messages == training_warnings(odd, TiledDataset(dataset))
    assert [line.partition(":")[0] for line in messages] == [
        "`lr=0`",
        "`batch=9`",
        "`freeze_encoder=2`",
        "`freeze_encoder=2`",
    ]
    assert set(planned_run(replace(odd, out=tmp_path / "b")).notes) == {
        f"warning: {line}" for line in messages
    }
    assert not training_warnings(
        quick(dataset, tmp_path, overfit=2, batch=8), TiledDataset(dataset)
    )


def test_overfitting_has_a_folder_of_its_own(dataset: Path, finished: TrainedRun) -> None:
    options = quick(dataset, finished.folder.parent, epochs=1, overfit=2)
    run, lines = quietly(options)
    assert run.folder == finished.folder.with_name(f"{SMALL}-overfit")
    assert "training mIoU" in lines[-1]
    assert "val" not in "".join(lines)
    with pytest.raises(HrrsiError, match="`overfit=7`: there are 6 patches to train on"):
        check_run(quick(dataset, finished.folder.parent, overfit=7))


def test_a_resumed_run_says_where_it_goes_on(dataset: Path, tmp_path: Path) -> None:
    options = quick(dataset, tmp_path, epochs=1)
    _, lines = quietly(options, resume=True)
    assert lines[0] == f"{options.run_folder}: there is no checkpoint to go on from, so it starts"
    _, lines = quietly(options, resume=True)
    weights = options.run_folder / "best.safetensors"
    assert lines[0] == (
        f"{options.run_folder}: is finished (1 epoch); to train longer, start another run with "
        f"`init={weights}` and another `out`"
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_class_folders(tmp_path_factory.mktemp("images"))


@pytest.mark.slow
def test_pre_training_is_planned_alike(dataset: Path, images: Path, tmp_path: Path) -> None:
    arguments = "--size 32 --val-size 64 --batch 9 --epochs 1 --lr 0.1 --workers 1"
    arguments += f" --loader torchvision --device cpu --quiet --out {tmp_path / 'runs'} --dry-run"
    result = command("pretrain --data", images, arguments)
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "runs").exists()
    lines = lines_of(result.stdout)
    assert lines["images"] == "32 to train on, 16 to validate on; 9 a step"
    assert lines["steps"] == "1 epoch of 4 steps, 4 in all"
    assert lines["recipe"] == "published with epochs 1, batch 9, size 32, val size 64"
    titles = [*lines_of(planned_run(quick(dataset, tmp_path)))]
    alike = ["images" if t == "patches" else t for t in titles if t not in ("data", "labelled")]
    assert [*lines] == alike
    nan = command("pretrain --data", images, arguments, "--lr 1e30")
    assert nan.exit_code == 1
    assert "the loss is" in nan.stderr
    assert not (tmp_path / "runs").exists()
