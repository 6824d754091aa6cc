"""Training through the command line, on small real patches."""

import csv
import errno
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from samples.command_results import assert_one_line_error
from samples.full_disk import largest_file
from samples.made_dataset import save_made_dataset
from samples.training_runs import SMALL
from typer.testing import CliRunner, Result

from hrrsi.cli import app
from hrrsi.files import check_unlocked, locked
from hrrsi.networks.weights_reading import load_model
from hrrsi.runs.folder import write_checkpoint
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.training.run_data import training_likeness

QUICK = [
    *("--recipe", "published", "--encoder-weights", "none", "--batch", "4", "--lr", "0.02"),
    *("--device", "cpu", "--workers", "0", "--quiet"),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiled dataset of real patches of 64 px: 16 for training, 8 for validation."""
    return save_made_dataset(tmp_path_factory.mktemp("data") / "dubai64", train=16, val=8)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def without_seconds(folder: Path) -> list[dict[str, str]]:
    clock = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in clock} for row in rows_of(folder)]


@pytest.fixture(scope="module")
def two_models(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("runs")
    return out, run(dataset, "--model", f"{SMALL},ued_bes_sfm", "--epochs", 2, "--out", out, *QUICK)


@pytest.mark.slow
def test_several_models_in_one_call(two_models: tuple[Path, Result]) -> None:
    out, result = two_models
    assert result.exit_code == 0, result.output
    for model in (SMALL, "ued_bes_sfm"):
        files = {p.name for p in (out / model).iterdir()}
        assert files == {
            "best.safetensors",
            "config.yaml",
            "curves.png",
            "environment.yaml",
            "last.ckpt",
            "metrics.csv",
            "samples",
            "tensorboard",
        }
        assert len(rows_of(out / model)) == 2
        assert f"weights in {out / model / 'best.safetensors'}" in result.output


def test_losses_are_logged_apart(two_models: tuple[Path, Result]) -> None:
    out, _ = two_models
    for row in rows_of(out / "ued_bes_sfm"):
        parts = [float(row[f"{name}_loss"]) for name in ("segmentation", "body", "edge")]
        assert float(row["loss"]) == pytest.approx(sum(parts), rel=1e-5)
    assert "body_loss" not in rows_of(out / SMALL)[0]


def test_learning_rate_decays_polynomially(two_models: tuple[Path, Result]) -> None:
    out, _ = two_models
    steps = 2 * (16 // 4)
    expected = [0.02 * (1 - done / steps) ** 0.9 for done in (4, 8)]
    assert [float(r["lr"]) for r in rows_of(out / SMALL)] == pytest.approx(expected, abs=1e-9)


def test_best_weights_score_what_the_metrics_say(
    two_models: tuple[Path, Result], dataset: Path, tmp_path: Path
) -> None:
    out, _ = two_models
    best = max(rows_of(out / "ued_bes_sfm"), key=lambda row: float(row["val_mIoU"]))
    weights = out / "ued_bes_sfm" / "best.safetensors"
    network = load_model(weights)
    assert network.meta["scores"]["validation"]["mIoU"] == float(best["val_mIoU"])
    assert network.meta["training"]["epoch"] == int(best["epoch"])
    assert network.meta["classes"] == ["Building", "Land", "Road", "Vegetation", "Water"]
    assert set(network.meta["training"]["scenes"]) == set(
        TiledDataset(dataset).description.splits["train"].scenes
    )
    evaluated = CliRunner().invoke(
        app,
        f"eval {dataset} --split val --weights {weights} --format json --quiet".split(),
    )
    assert evaluated.exit_code == 0, evaluated.output
    scores = json.loads(evaluated.stdout)
    matches = [v for v in _numbers(scores) if v == pytest.approx(float(best["val_mIoU"]), abs=1e-4)]
    assert matches


def _numbers(data: object) -> list[float]:
    if isinstance(data, dict):
        return [n for value in data.values() for n in _numbers(value)]
    if isinstance(data, list):
        return [n for value in data for n in _numbers(value)]
    return [float(data)] if isinstance(data, int | float) else []


@pytest.mark.slow
def test_same_seed_same_curve_for_any_number_of_workers(
    dataset: Path, two_models: tuple[Path, Result], tmp_path: Path
) -> None:
    arguments = ("--model", SMALL, "--epochs", 2, "--out", tmp_path, *QUICK, "--workers", 2)
    result = run(dataset, *arguments)
    assert result.exit_code == 0, result.output
    assert without_seconds(tmp_path / SMALL) == without_seconds(two_models[0] / SMALL)


@pytest.mark.slow  # runs/test_train_resume.py kills a run while it writes a checkpoint
def test_killed_run_resumes_on_the_undisturbed_curve(
    dataset: Path, two_models: tuple[Path, Result], tmp_path: Path
) -> None:
    undisturbed, _ = two_models
    command = [sys.executable, "-m", "hrrsi", "train", str(dataset), "--model", SMALL]
    command += ["--epochs", "2", "--out", str(tmp_path), *QUICK]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / SMALL / "last.ckpt"
    deadline = time.monotonic() + 240
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()
    result = run(dataset, "--model", SMALL, "--epochs", 2, "--out", tmp_path, *QUICK, "--resume")
    assert result.exit_code == 0, result.output
    assert without_seconds(tmp_path / SMALL) == without_seconds(undisturbed / SMALL)
    assert not [p for p in (tmp_path / SMALL).iterdir() if "partial" in p.name]


def test_interrupt_is_one_line_and_leaves_the_last_checkpoint(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(Programs that are stopped from outside: runs/test_train_resume.py, test_interruption.py.)"""

    def interrupted(*arguments: Any) -> None:
        write_checkpoint(*arguments)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("hrrsi.runs.loop.write_checkpoint", interrupted)
    result = run(dataset, "--model", SMALL, "--epochs", 500, "--out", tmp_path, *QUICK)
    assert_one_line_error(result, "error: interrupted")
    checkpoint = tmp_path / SMALL / "last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["position"] == {"epoch": 1, "batches": 0}


def test_config_takes_any_option_and_the_command_line_wins(
    dataset: Path, two_models: tuple[Path, Result], tmp_path: Path
) -> None:
    runs, _ = two_models
    config = tmp_path / "my.yaml"
    written = yaml.safe_load((runs / SMALL / "config.yaml").read_text())
    assert written["epochs"] == 2
    written["precision"] = 32  # a number, as people write it
    config.write_text(yaml.safe_dump({**written, "out": str(tmp_path / "from-config")}))
    result = run("--config", config, "--epochs", 1, "--quiet")
    assert result.exit_code == 0, result.output
    again = yaml.safe_load((tmp_path / "from-config" / SMALL / "config.yaml").read_text())
    assert again == {
        **written,
        "out": str(tmp_path / "from-config"),
        "epochs": 1,
        "precision": "32",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("!!python/object/apply:os.system ['true']", "tag that is not plain data"),
        ("epoch: 3", "unknown option 'epoch'"),
        ("epochs: [3", "not valid YAML"),
        ("- 3", "not a mapping"),
    ],
)
def test_bad_config(dataset: Path, tmp_path: Path, text: str, words: str) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text(text)
    assert_one_line_error(run(dataset, "--config", config), words, "bad.yaml")


def test_existing_run_is_kept(dataset: Path, two_models: tuple[Path, Result]) -> None:
    out, _ = two_models
    before = (out / SMALL / "best.safetensors").read_bytes()
    result = run(dataset, "--model", SMALL, "--epochs", 2, "--out", out, *QUICK)
    assert_one_line_error(result, "holds a run already", "--resume")
    result = run(dataset, "--model", SMALL, "--epochs", 3, "--out", out, *QUICK, "--resume")
    assert_one_line_error(result, "was started with epochs 2, not 3")
    assert (out / SMALL / "best.safetensors").read_bytes() == before


def test_overwrite_refuses_a_folder_that_is_no_run(dataset: Path, tmp_path: Path) -> None:
    precious = tmp_path / SMALL / "precious.txt"
    precious.parent.mkdir()
    precious.write_text("mine")
    result = run(dataset, "--model", SMALL, "--out", tmp_path, *QUICK, "--overwrite")
    assert_one_line_error(result, "is not a run folder")
    assert precious.read_text() == "mine"
    result = run(dataset, "--model", SMALL, "--out", precious, *QUICK)
    assert_one_line_error(result, f"{precious}: the folder cannot be created")


def with_split(dataset: Path, folder: Path, **changes: object) -> Path:
    shutil.copytree(dataset, folder)
    content = yaml.safe_load((folder / "dataset.yaml").read_text())
    for split, change in changes.items():
        if change is None:
            del content["splits"][split]
        else:
            content["splits"][split].update(change)
    (folder / "dataset.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"val": None}, "has no val split"),
        ({"train": {"class_pixels": [0, 9, 0, 0, 0]}}, "one class only (Land)"),
        ({"train": {"class_pixels": [0, 0, 0, 0, 0]}}, "no class at all"),
    ],
)
def test_datasets_that_cannot_be_trained_on(
    dataset: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    data = with_split(dataset, tmp_path / "data", **changes)
    result = run(data, "--model", SMALL, "--out", tmp_path / "runs", *QUICK)
    assert_one_line_error(result, words)
    assert not (tmp_path / "runs").exists()


def test_a_replacement_that_fails_leaves_the_run_as_it_was(
    dataset: Path, two_models: tuple[Path, Result], tmp_path: Path
) -> None:
    shutil.copytree(two_models[0] / SMALL, tmp_path / SMALL)
    before = {p.name: p.read_bytes() for p in (tmp_path / SMALL).iterdir() if p.is_file()}
    result = run(
        dataset, "--model", SMALL, "--epochs", 50, "--out", tmp_path, *QUICK, "--lr", "1e30",
        "--overwrite",
    )  # fmt: skip
    assert_one_line_error(result, "the loss is", "--lr")
    after = {p.name: p.read_bytes() for p in (tmp_path / SMALL).iterdir() if p.is_file()}
    assert after.pop("nan_batch.safetensors")
    assert after == before
    assert [p.name for p in tmp_path.iterdir()] == [SMALL]


def test_a_replacement_replaces(
    dataset: Path, two_models: tuple[Path, Result], tmp_path: Path
) -> None:
    shutil.copytree(two_models[0] / SMALL, tmp_path / SMALL)
    result = run(dataset, "--model", SMALL, "--epochs", 1, "--out", tmp_path, *QUICK, "--overwrite")
    assert result.exit_code == 0, result.output
    assert len(rows_of(tmp_path / SMALL)) == 1
    assert [p.name for p in tmp_path.iterdir()] == [SMALL]


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.mark.parametrize(
    "moment",
    ["hrrsi.training.run.content_digest", "hrrsi.runs.environment.write_environment"],
)
def test_a_replacement_that_is_interrupted_leaves_the_run_as_it_was(
    dataset: Path,
    two_models: tuple[Path, Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    shutil.copytree(two_models[0] / SMALL, tmp_path / SMALL)
    before = files_of(tmp_path / SMALL)
    monkeypatch.setattr(moment, interrupted)
    result = run(dataset, "--model", SMALL, "--epochs", 1, "--out", tmp_path, *QUICK, "--overwrite")
    assert_one_line_error(result, "interrupted; nothing half-written")
    assert files_of(tmp_path / SMALL) == before
    assert [p.name for p in tmp_path.iterdir()] == [SMALL]


def work(*arguments: str) -> None:
    """Train without end, before the first checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hrrsi.runs.loop.fit", lambda *_, **__: time.sleep(600))
        app(arguments)


# the process that works computes nothing
@pytest.mark.filterwarnings("ignore:.*is multi-threaded, use of fork:DeprecationWarning")
def test_a_run_that_works_is_left_alone(
    dataset: Path, two_models: tuple[Path, Result], tmp_path: Path
) -> None:
    folder, replaced = tmp_path / SMALL, tmp_path / f".{SMALL}.replaced"
    shutil.copytree(two_models[0] / SMALL, folder)
    before = files_of(folder)
    same = ["--model", SMALL, "--epochs", "2", "--out", str(tmp_path), *QUICK]
    working = multiprocessing.get_context("fork").Process(
        target=work, args=("train", str(dataset), *same, "--overwrite")
    )
    working.start()
    try:
        deadline = time.monotonic() + 240
        while not (replaced.exists() and (folder / "environment.yaml").exists()):
            assert working.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        held = files_of(folder)
        words = f"process {working.pid} on {socket.gethostname()} is working on this run"
        for more in ("", "--overwrite", "--resume", "--dry-run", "--dry-run --overwrite"):
            result = run(dataset, *same, *more.split())
            assert_one_line_error(result, f"{folder}: {words}")
        assert files_of(folder) == held
    finally:
        working.kill()
        working.join()
    planned = run(dataset, *same, "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert "holds a run already, so the run would be refused" in planned.stdout
    assert replaced.exists()  # to look changes nothing
    result = run(dataset, *same, "--resume")
    assert result.exit_code == 0, result.output
    assert {name: files_of(folder)[name] for name in before if name != "environment.yaml"} == {
        name: content for name, content in before.items() if name != "environment.yaml"
    }
    assert [p.name for p in tmp_path.iterdir()] == [SMALL]


def test_a_file_system_without_locks_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with locked(tmp_path / "out" / SMALL):
        check_unlocked(tmp_path / "out" / SMALL)
    assert not list((tmp_path / "out").iterdir())


def test_every_model_is_checked_before_the_first_is_trained(
    dataset: Path, two_models: tuple[Path, Result], tmp_path: Path
) -> None:
    shutil.copytree(two_models[0] / SMALL, tmp_path / "ued_bes")
    result = run(dataset, "--model", f"{SMALL},ued_bes", "--epochs", 1, "--out", tmp_path, *QUICK)
    assert_one_line_error(result, "ued_bes: holds a run already")
    assert not (tmp_path / SMALL).exists()


@pytest.mark.parametrize("models", ["", f"{SMALL},{SMALL}"])
def test_models_are_named_once(dataset: Path, models: str) -> None:
    assert run(dataset, "--model", models).exit_code == 2


def test_a_single_pixel_can_not_be_normalised(dataset: Path, tmp_path: Path) -> None:
    data = with_split(dataset, tmp_path / "data")
    description = (data / "dataset.yaml").read_text()
    (data / "dataset.yaml").write_text(description.replace("patch_size: 64", "patch_size: 32"))
    result = run(data, "--model", SMALL, "--out", tmp_path / "runs", *QUICK, "--batch", 1)
    assert_one_line_error(result, "BatchNorm", "--batch")
    assert not (tmp_path / "runs").exists()


def test_half_precision_needs_a_gpu(dataset: Path, tmp_path: Path) -> None:
    result = run(dataset, "--out", tmp_path, *QUICK, "--precision", "16", "--device", "cpu")
    assert_one_line_error(result, "needs a GPU", "bf16")


def test_a_crop_fits_the_patches(dataset: Path, tmp_path: Path) -> None:
    result = run(dataset, "--out", tmp_path / "runs", *QUICK, "--crop", "96")
    assert_one_line_error(result, "--crop 96: is more than the 64 px of the patches")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow  # what bf16 rounds: test_train_validation.py
def test_mixed_precision_trains_on_the_cpu(dataset: Path, tmp_path: Path) -> None:
    result = run(
        dataset, "--model", "ued_bes_sfm", "--epochs", 1, "--out", tmp_path, *QUICK,
        "--precision", "bf16", "--overfit", 4,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    stored = load_model(tmp_path / "ued_bes_sfm-overfit" / "best.safetensors").state_dict()
    assert {t.dtype for t in stored.values()} == {torch.float32, torch.int64}


def test_resuming_a_finished_run_changes_nothing(
    dataset: Path, two_models: tuple[Path, Result]
) -> None:
    out, _ = two_models
    kept = ("best.safetensors", "config.yaml", "last.ckpt", "metrics.csv")
    before = {name: (out / SMALL / name).read_bytes() for name in kept}
    result = run(dataset, "--model", SMALL, "--epochs", 2, "--out", out, *QUICK, "--resume")
    assert result.exit_code == 0, result.output
    assert {name: (out / SMALL / name).read_bytes() for name in kept} == before


def test_not_a_dataset(tmp_path: Path) -> None:
    assert_one_line_error(run(tmp_path, *QUICK), "is not a tiled dataset", "hrrsi tile")


def test_full_disk_is_one_line(dataset: Path, tmp_path: Path) -> None:
    with largest_file(200_000):
        result = run(dataset, "--model", SMALL, "--epochs", 1, "--out", tmp_path, *QUICK)
    assert_one_line_error(result, "disk is full")
    assert not (tmp_path / SMALL / "best.safetensors").exists()


@pytest.mark.slow
def test_weights_know_the_looks_and_the_resolutions_of_their_training(tmp_path: Path) -> None:
    folder = save_made_dataset(tmp_path / "data", train=40, val=2)
    content = yaml.safe_load((folder / "dataset.yaml").read_text())
    (folder / "dataset.yaml").write_text(yaml.safe_dump({**content, "resolution": 0.3}))
    line = [folder, "--model", SMALL, "--out", tmp_path / "runs", "--epochs", 1, *QUICK]
    line += ["--crop", 32, "--batch", 8]
    for recipe, expected in (("published", (0.15, 0.6)), ("default", (0.24, 0.375))):
        result = run(*line, "--recipe", recipe, "--overwrite")
        assert result.exit_code == 0, result.output
        meta = load_model(tmp_path / "runs" / SMALL / "best.safetensors").meta
        assert meta.resolution == 0.3
        assert meta.resolutions == expected
        likeness = training_likeness([TiledDataset(folder)])
        assert likeness is not None
        assert meta.likeness == likeness.to_plain()
        assert likeness.squares.shape[1] == 14
        assert 30 < len(likeness.squares) <= 40  # some are black in part
