"""Pre-training through the command line, on a small folder of real JPEGs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from samples.class_folders import CLASSES, EXAMPLES
from samples.command_results import assert_one_line_error
from samples.pretraining_runs import QUICK, rows_of, run, scores_of
from samples.undrawn_pictures import drawn_pictures
from timm.models.ghostnet import GhostNet
from typer.testing import CliRunner, Result

from hrrsi.cli import app
from hrrsi.networks.segmentation import build_network
from hrrsi.pretraining.batches import training_batches
from hrrsi.pretraining.classification import (
    ClassifierTraining,
    PretrainRecord,
    classifier,
    write_pretraining_curves,
)
from hrrsi.pretraining.images import image_folders
from hrrsi.pretraining.options import PretrainOptions, PretrainRecipe, learning_rate_share
from hrrsi.pretraining.run import pretrain
from hrrsi.training.encoder_weights import load_encoder_weights


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run of two epochs: the folder it is in, and what it said."""
    out = tmp_path_factory.mktemp("runs")
    with drawn_pictures():
        return out, run(folder, "--epochs", 2, "--out", out, *QUICK)


def without_time(folder: Path) -> list[dict[str, str]]:
    timed = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows_of(folder)]


def about(path: Path) -> dict[str, object]:
    with safe_open(path, "pt") as file:
        described: dict[str, object] = json.loads(file.metadata()["hrrsi_encoder"])
        return described


def test_a_run_leaves_an_encoder_and_its_record(finished: tuple[Path, Result]) -> None:
    out, result = finished
    assert result.exit_code == 0, result.output
    names = {p.name for p in (out / "ghostnet_100").iterdir()}
    assert names == {
        *("config.yaml", "curves.png", "encoder.safetensors", "environment.yaml", "last.ckpt"),
        "metrics.csv",
    }
    encoder = out / "ghostnet_100" / "encoder.safetensors"
    assert f"encoder in {encoder}" in result.stdout
    rows = rows_of(out / "ghostnet_100")
    best = max(rows, key=lambda row: float(row["val_top1"]))
    described = about(encoder)
    assert described["encoder"] == "ghostnet_100"
    assert described["width"] == 1.0
    assert described["bands"] == 3
    assert described["classes"] == list(CLASSES)
    assert described["top1"] == float(best["val_top1"])
    assert described["top5"] == float(best["val_top5"]) == 1.0
    assert [row["images_seen"] for row in rows] == ["32", "64"]


def test_timm_scores_the_encoder_as_the_metrics_say(
    folder: Path, finished: tuple[Path, Result]
) -> None:
    out, _ = finished
    network = timm.create_model("ghostnet_100", num_classes=len(CLASSES))
    network.load_state_dict(load_file(out / "ghostnet_100" / "encoder.safetensors"))
    loss, top1, _ = scores_of(network, folder, 64)
    best = max(rows_of(out / "ghostnet_100"), key=lambda row: float(row["val_top1"]))
    assert float(best["val_loss"]) == pytest.approx(loss, rel=1e-4)
    assert float(best["val_top1"]) == top1


@pytest.mark.slow
def test_the_loss_is_the_smoothed_cross_entropy(folder: Path, tmp_path: Path) -> None:
    """Without a learning rate, a network that draws nothing at random stays what it was."""
    arguments = ["--encoder", "resnet18", "--epochs", 1, "--out", tmp_path, *QUICK, "--lr", 0]
    result = run(folder, *arguments, "--label-smoothing", 0.3)
    assert result.exit_code == 0, result.output
    torch.manual_seed(369)
    network = classifier("resnet18", len(CLASSES)).train()
    recipe = PretrainRecipe(batch=8, size=32)
    losses = []
    mean, std = (
        torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    options = PretrainOptions(data=folder, recipe=recipe, workers=0, loader="torchvision")
    for batch in training_batches(image_folders(folder), options, torch.device("cpu")):
        with torch.no_grad():
            logits = network((batch.images / 255 - mean) / std)
        logs = logits - logits.logsumexp(1, keepdim=True)
        target = torch.full_like(logs, 0.3 / 4)
        target[range(len(logs)), batch.labels] += 0.7
        losses += (-(target * logs).sum(1)).tolist()
    assert float(rows_of(tmp_path / "resnet18")[0]["loss"]) == pytest.approx(np.mean(losses), 1e-4)


def test_learning_rate_falls_after_epochs_30_60_and_90_of_120() -> None:
    steps = 7
    rates = [learning_rate_share(step, 120 * steps) for step in range(120 * steps)]
    for epoch in range(120):
        expected = 10.0 ** -(epoch // 30)
        assert rates[epoch * steps : (epoch + 1) * steps] == pytest.approx([expected] * steps)


def test_learning_rate_falls_in_proportion(finished: tuple[Path, Result]) -> None:
    out, _ = finished
    rates = [float(row["lr"]) for row in rows_of(out / "ghostnet_100")]
    assert rates == pytest.approx([0.02 * 0.1, 0.02 * 0.001])


@pytest.mark.slow
@pytest.mark.parametrize("rates", [[0.1], [0.1, 0.01, 0.001]])
def test_curves_are_drawn_of_any_epochs(rates: list[float], tmp_path: Path) -> None:
    rows = [
        {
            "epoch": n + 1, "lr": rate, "loss": 2 / (n + 1), "val_loss": 1.8 / (n + 1),
            "top1": 0.3, "val_top1": 0.4, "val_top5": 1.0,
        }
        for n, rate in enumerate(rates)
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_pretraining_curves(rows, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.slow
def test_a_network_learns(folder: Path, tmp_path: Path) -> None:
    result = run(
        folder, "--encoder", "resnet10t", "--epochs", 8, "--out", tmp_path, *QUICK, "--lr", 0.01
    )
    assert result.exit_code == 0, result.output
    losses = [float(row["loss"]) for row in rows_of(tmp_path / "resnet10t")]
    assert np.mean(losses[-2:]) < np.mean(losses[:2]) - 0.1


def test_top_5_counts_the_best_five(tmp_path: Path) -> None:
    """Eight classes of which every image looks alike: five of eight are among the best five."""
    image = Image.effect_noise((48, 48), 60)
    for split in ("train", "val"):
        for number in range(8):
            (tmp_path / "data" / split / f"class{number}").mkdir(parents=True)
            image.save(tmp_path / "data" / split / f"class{number}" / "image.png")
    result = run(
        tmp_path / "data", "--encoder", "resnet10t", "--epochs", 1, "--out", tmp_path, *QUICK
    )
    assert result.exit_code == 0, result.output
    (row,) = rows_of(tmp_path / "resnet10t")
    assert float(row["val_top1"]) == 1 / 8
    assert float(row["val_top5"]) == 5 / 8


@pytest.mark.slow  # batches of any number of workers: test_pretrain_loaders.py
def test_same_seed_same_run_for_any_number_of_workers(
    folder: Path, finished: tuple[Path, Result], tmp_path: Path
) -> None:
    out, _ = finished
    result = run(folder, "--epochs", 2, "--out", tmp_path, *QUICK, "--workers", 2)
    assert result.exit_code == 0, result.output
    assert without_time(tmp_path / "ghostnet_100") == without_time(out / "ghostnet_100")
    first, second = (o / "ghostnet_100" / "encoder.safetensors" for o in (out, tmp_path))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_a_run_killed_in_an_epoch_resumes_on_the_undisturbed_curve(
    folder: Path, finished: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[object] = []
    step = ClassifierTraining.forward

    def killed_at_the_seventh(*arguments: Any) -> torch.Tensor:
        steps.append(arguments)
        if len(steps) == 7:  # the third of the second epoch
            raise RuntimeError("killed")
        return step(*arguments)

    recipe = PretrainRecipe(epochs=2, batch=8, lr=0.02, size=32, val_size=64)
    options = PretrainOptions(
        data=folder, out=tmp_path, recipe=recipe, device="cpu", workers=0, loader="torchvision"
    )
    with monkeypatch.context() as patch:
        patch.setattr(ClassifierTraining, "forward", killed_at_the_seventh)
        with pytest.raises(RuntimeError, match="killed"):
            pretrain(options, quiet=True, checkpoint_seconds=0)
    run_folder = tmp_path / "ghostnet_100"
    assert len(rows_of(run_folder)) == 1
    kept = torch.load(run_folder / "last.ckpt", weights_only=True)
    assert kept["schedule"]["last_epoch"] == 6
    result = run(folder, "--epochs", 2, "--out", tmp_path, *QUICK, "--resume")
    assert result.exit_code == 0, result.output
    undisturbed = finished[0] / "ghostnet_100"
    assert without_time(run_folder) == without_time(undisturbed)
    ends = [torch.load(f / "last.ckpt", weights_only=True) for f in (run_folder, undisturbed)]
    assert ends[0]["state_dict"].keys() == ends[1]["state_dict"].keys()
    for key, tensor in ends[0]["state_dict"].items():
        assert torch.equal(tensor, ends[1]["state_dict"][key]), key
    assert not [p for p in run_folder.iterdir() if "partial" in p.name]


@pytest.mark.slow  # the loop is that of `hrrsi train`, which training/test_train.py interrupts
def test_ctrl_c_is_one_line_and_keeps_the_run(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hrrsi", "pretrain", "--data", str(folder)]
    command += ["--encoder", "resnet10t", "--epochs", "9999", "--out", str(tmp_path), *QUICK]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    checkpoint = tmp_path / "resnet10t" / "last.ckpt"
    deadline = time.monotonic() + 240
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert len(errors.strip().splitlines()) == 1, errors
    assert errors.startswith("error: interrupted")
    assert "--resume" in errors
    assert "state_dict" in torch.load(checkpoint, weights_only=True)


@pytest.mark.slow
def test_existing_runs_are_kept(
    folder: Path, finished: tuple[Path, Result], tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    shutil.copytree(finished[0], out)
    before = {p.name: p.read_bytes() for p in (out / "ghostnet_100").iterdir()}
    arguments = ["--out", out, *QUICK]
    assert_one_line_error(run(folder, "--epochs", 2, *arguments), "holds a run already")
    result = run(folder, "--epochs", 3, *arguments, "--resume")
    assert_one_line_error(result, "was started with epochs 2, not 3")
    result = run(folder, "--epochs", 2, *arguments, "--resume")
    assert result.exit_code == 0, result.output
    after = {p.name: p.read_bytes() for p in (out / "ghostnet_100").iterdir()}
    starts = [yaml.safe_load(f.pop("environment.yaml"))["starts"] for f in (before, after)]
    assert [[s["resumed"] for s in each] for each in starts] == [[False], [False, True]]
    assert after == before
    result = run(folder, "--epochs", 1, *arguments, "--overwrite")
    assert result.exit_code == 0, result.output
    assert len(rows_of(out / "ghostnet_100")) == 1
    assert run(folder, *arguments, "--resume", "--overwrite").exit_code == 2


@pytest.mark.slow
def test_a_dry_run_says_what_the_run_would(folder: Path, finished: tuple[Path, Result]) -> None:
    arguments = ["--out", finished[0], *QUICK, "--dry-run"]
    result = run(folder, "--epochs", 3, *arguments, "--resume")
    assert_one_line_error(result, "was started with epochs 2, not 3")
    for more, words in (
        (["--epochs", 2], "so the run would be refused; with --resume it is finished"),
        (["--epochs", 2, "--resume"], "with --resume it is finished (2 epochs)"),
        (["--epochs", 3, "--overwrite"], "which --overwrite replaces"),
    ):
        result = run(folder, *arguments, *more)
        assert result.exit_code == 0, result.output
        assert words in result.stdout


def renamed_class(data: Path) -> None:
    for split in ("train", "val"):
        (data / split / CLASSES[0]).rename(data / split / "tile0")


def one_class_less(data: Path) -> None:
    for split in ("train", "val"):
        shutil.rmtree(data / split / CLASSES[0])


def another_image(data: Path) -> None:
    image = next((data / "val" / CLASSES[0]).iterdir())
    image.write_bytes(image.read_bytes() + b"\0")


@pytest.mark.slow
@pytest.mark.parametrize("change", [renamed_class, one_class_less, another_image])
def test_other_images_are_not_resumed_on(
    folder: Path,
    finished: tuple[Path, Result],
    tmp_path: Path,
    change: Callable[[Path], None],
) -> None:
    data = Path(shutil.copytree(folder, tmp_path / "data"))
    out = Path(shutil.copytree(finished[0], tmp_path / "runs"))
    arguments = ["--epochs", 2, "--out", out, *QUICK, "--resume"]
    assert run(data, *arguments).exit_code == 0  # wherever they lie
    change(data)
    before = (out / "ghostnet_100" / "environment.yaml").read_bytes()
    assert_one_line_error(run(data, *arguments), f"{data}: its content is not what the run in")
    assert (out / "ghostnet_100" / "environment.yaml").read_bytes() == before


@pytest.mark.slow
def test_an_encoder_that_a_killed_run_did_not_come_to_is_written_by_the_next(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise RuntimeError("killed")

    arguments = ["--encoder", "resnet10t", "--epochs", 1, "--out", tmp_path, *QUICK]
    with monkeypatch.context() as patch:
        patch.setattr("hrrsi.pretraining.classification.save", killed)
        assert run(folder, *arguments).exit_code == 1
    result = run(folder, *arguments, "--resume")
    assert result.exit_code == 0, result.output
    trained = torch.load(tmp_path / "resnet10t" / "last.ckpt", weights_only=True)["state_dict"]
    kept = load_file(tmp_path / "resnet10t" / "encoder.safetensors")
    assert kept
    assert all(torch.equal(trained[f"network.{key}"], value) for key, value in kept.items())
    assert len(rows_of(tmp_path / "resnet10t")) == 1


def test_images_per_second_are_those_of_the_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    record = PretrainRecord(PretrainOptions(data=folder), image_folders(folder), print, print)
    record.start_epoch()
    now[0] += 16
    record.end_training()
    now[0] += 4
    metrics = {"images": 32, "val_images": 16, "skipped": 0, "val_skipped": 0}
    metrics |= {"loss": 1.5, "val_top1": 0.5, "val_top5": 1.0}
    task: Any = SimpleNamespace(metrics=metrics, last_learning_rate=0.1, epoch=0)
    record.end_epoch(task, 0.1)
    assert record.best["seconds"] == 20
    assert record.best["images_per_second"] == 32 / 16


@pytest.mark.slow  # the loop and its processes are those of `hrrsi train`
def test_two_processes_validate_every_image_once(folder: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(folder, tmp_path / "data"))
    next((data / "val" / CLASSES[0]).iterdir()).unlink()  # 15: no two processes have as many
    damaged = next((data / "train" / CLASSES[0]).iterdir())
    damaged.write_bytes(damaged.read_bytes()[:300])
    command = [sys.executable, "-m", "hrrsi", "pretrain", "--data", str(data)]
    command += ["--epochs", "1", "--devices", "2", "--out", str(tmp_path), *QUICK]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/1") == 1
    assert done.stderr.count(damaged.name) == 1
    (row,) = rows_of(tmp_path / "ghostnet_100")
    assert (row["images_seen"], row["skipped"]) == ("31", "1")
    network = timm.create_model("ghostnet_100", num_classes=len(CLASSES))
    network.load_state_dict(load_file(tmp_path / "ghostnet_100" / "encoder.safetensors"))
    loss, top1, _ = scores_of(network, data, 64)
    assert float(row["val_loss"]) == pytest.approx(loss, rel=1e-4)
    assert float(row["val_top1"]) == pytest.approx(top1)


@pytest.mark.parametrize(
    ("model", "encoder"), [("ued_1p3", "ghostnet_130"), ("ued_bes_sfm_1p5", "ghostnet_150")]
)
def test_an_encoder_of_any_width_starts_a_segmentation_network(
    finished: tuple[Path, Result], tmp_path: Path, model: str, encoder: str
) -> None:
    of_run = finished[0] / "ghostnet_100" / "encoder.safetensors"
    path = tmp_path / "encoder.safetensors"
    described = {**about(of_run), "encoder": encoder, "width": int(encoder[-3:]) / 100}
    tensors = classifier(encoder, len(CLASSES)).state_dict()
    save_file(tensors, path, {"hrrsi_encoder": json.dumps(described)})
    assert_starts(model, path)


def test_the_encoder_of_a_run_starts_a_segmentation_network(
    folder: Path, finished: tuple[Path, Result], tmp_path: Path
) -> None:
    assert_starts("ued", finished[0] / "ghostnet_100" / "encoder.safetensors")
    encoder = "mobilenetv4_conv_small"
    result = run(folder, "--encoder", encoder, "--epochs", 1, "--out", tmp_path, *QUICK)
    assert result.exit_code == 0, result.output
    path = tmp_path / encoder / "encoder.safetensors"
    assert about(path)["encoder"] == encoder
    assert_starts(f"ued-{encoder}", path)


def assert_starts(model: str, encoder: Path) -> None:
    network = build_network(model, 5)
    load_encoder_weights(network, model, str(encoder))
    kernels = load_file(encoder)["conv_stem.weight"]
    assert [t for t in network.state_dict().values() if torch.equal(t, kernels)]


def test_ghostnet_of_any_width_is_timms_class() -> None:
    for encoder, width in (("ghostnet_150", 1.5), ("ghostnet_050", 0.5)):
        network = classifier(encoder, 10)
        assert isinstance(network, GhostNet)
        stem = timm.create_model("ghostnet_100").conv_stem.weight.shape[0]
        assert network.state_dict()["conv_stem.weight"].shape[0] == stem * width
    for name in ("ghostnet_100", "ghostnet_130"):
        expected = timm.create_model(name, num_classes=7).state_dict()
        actual = classifier(name, 7).state_dict()
        assert {k: v.shape for k, v in actual.items()} == {k: v.shape for k, v in expected.items()}


@pytest.mark.slow  # the loop is that of `train`
def test_mixed_precision_trains_on_the_cpu(folder: Path, tmp_path: Path) -> None:
    arguments = ["--epochs", 1, "--out", tmp_path, *QUICK, "--precision", "bf16"]
    assert run(folder, "--encoder", "resnet10t", *arguments).exit_code == 0
    stored = load_file(tmp_path / "resnet10t" / "encoder.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float32, torch.int64}


def test_an_image_that_changes_meanwhile_is_told_of(folder: Path, tmp_path: Path) -> None:
    images = shutil.copytree(folder, tmp_path / "images")
    changed, gone = sorted((images / "val").rglob("*.JPEG"))[1:3]

    def change(_line: str) -> None:
        os.utime(changed, ns=(1, 1))
        gone.unlink(missing_ok=True)

    recipe = PretrainRecipe(epochs=1, batch=8, size=32, val_size=32)
    options = PretrainOptions(
        images, "mobilenetv3_small_050", tmp_path, recipe, loader="torchvision", device="cpu"
    )
    lines: list[str] = []
    pretrain(replace(options, workers=0), quiet=True, report=change, warn=lines.append)
    assert lines == [
        f"{changed} was changed while the run read it, as were 1 more: what environment.yaml says "
        "of the data is not all that was trained on"
    ]


@pytest.mark.slow
def test_a_run_repeats_from_its_configuration(
    finished: tuple[Path, Result], tmp_path: Path
) -> None:
    config = finished[0] / "ghostnet_100" / "config.yaml"
    arguments = ["pretrain", "--config", str(config), "--out", str(tmp_path), "--quiet"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert without_time(tmp_path / "ghostnet_100") == without_time(config.parent)


def test_a_segmentation_run_starts_from_the_encoder(
    finished: tuple[Path, Result], tmp_path: Path
) -> None:
    tiled, runs = tmp_path / "tiled", tmp_path / "segmentation"
    command = f"tile {EXAMPLES} --scheme dubai --out {tiled} --size 128 --workers 1 --quiet"
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 0, result.output
    encoder = finished[0] / "ghostnet_100" / "encoder.safetensors"
    arguments = ["train", str(tiled), "--model", "ued", "--encoder-weights", str(encoder)]
    arguments += ["--overfit", "4", "--epochs", "1", "--batch", "2", "--lr", "0", "--workers", "0"]
    arguments += ["--recipe", "published", "--device", "cpu", "--out", str(runs), "--quiet"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    trained = load_file(runs / "ued-overfit" / "best.safetensors")
    kernels = load_file(encoder)["blocks.8.0.ghost1.primary_conv.0.weight"]
    name = "base_network.blocks.8.0.ghost1.primary_conv.0.weight"
    assert torch.equal(trained[name], kernels), "with a learning rate of 0 it stays what it was"
