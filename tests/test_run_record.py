"""What a run leaves behind: metrics, curves, TensorBoard, sample pictures, its environment."""

import csv
import math
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from made_dataset import save_made_dataset
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner, Result

from hrrsi.cli import app
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.tiling.patch_reading import read_image, read_label
from hrrsi.training import epoch_progress
from hrrsi.training.curves import write_curves
from hrrsi.training.epoch_progress import EpochProgress
from hrrsi.training.options import TrainOptions
from hrrsi.training.recipes import RECIPE_FIELDS
from hrrsi.training.record import RunRecord
from hrrsi.training.run_environment import dataset_digest, hardware
from hrrsi.training.sample_pictures import dropped_epochs, shown_patches
from hrrsi.weights import load_model

QUICK = "--encoder-weights none --batch 4 --workers 0 --lr 0.01 --quiet --model ued_bes_sfm".split()
SIDE = 192  # patches of 64 px are magnified three times
IGNORED = 255


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_made_dataset(tmp_path_factory.mktemp("data") / "dubai64", train=8, val=7)


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three epochs."""
    out = tmp_path_factory.mktemp("runs")
    result = train(dataset, "--out", out, "--epochs", 3)
    assert result.exit_code == 0, result.output
    return out / "ued_bes_sfm"


def train(dataset: Path, *arguments: object) -> Result:
    return CliRunner().invoke(app, ["train", str(dataset), *QUICK, *map(str, arguments)])


def rows_of(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def events_of(folder: Path) -> EventAccumulator:
    events = EventAccumulator(
        str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0}
    )
    return events.Reload()


def tag_of(name: str) -> str:
    """Return the name in TensorBoard of a column of metrics.csv."""
    if name == "loss":
        return "loss/sum"
    if name.endswith("_loss"):
        return f"loss/{name[: -len('_loss')]}"
    if name.startswith("val_IoU_"):
        return f"validation IoU/{name[len('val_IoU_') :]}"
    return f"validation/{name[len('val_') :]}" if name.startswith("val_") else f"run/{name}"


def assert_tensorboard_shows(folder: Path) -> None:
    """Check that TensorBoard reads each number of metrics.csv once, and no others."""
    rows, events = rows_of(folder), events_of(folder)
    expected = {
        tag_of(name): {
            int(row["epoch"]): np.float32(row[name]) for row in rows if math.isfinite(row[name])
        }
        for name in rows[0]
        if name != "epoch"
    }
    expected = {tag: values for tag, values in expected.items() if values}
    found = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    assert set(found) == set(expected)
    for tag, values in found.items():
        assert [e.step for e in values] == list(expected[tag])
        assert [np.float32(e.value) for e in values] == list(expected[tag].values())


def test_metrics_of_each_epoch(run: Path) -> None:
    rows = rows_of(run)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["images_seen"] for row in rows] == [8, 16, 24]
    classes = ("Building", "Land", "Road", "Vegetation", "Water")
    for row in rows:
        parts = [row[f"{part}_loss"] for part in ("segmentation", "body", "edge")]
        assert row["loss"] == pytest.approx(sum(parts))
        ious = [row[f"val_IoU_{name}"] for name in classes]
        assert row["val_mIoU"] == pytest.approx(np.nanmean(ious))
        # the epoch's training alone, in which no more time passes than in the epoch
        assert row["images_per_second"] * (row["seconds"] + 0.1) > 8
        assert {"lr", "val_OA", "val_mF1"} < set(row)


def test_the_files_of_a_run(run: Path) -> None:
    assert {p.name for p in run.iterdir()} == {
        *("best.safetensors", "config.yaml", "curves.png", "environment.yaml", "last.ckpt"),
        *("metrics.csv", "samples", "tensorboard"),
    }


def test_the_best_weights_say_how_they_were_trained(run: Path, dataset: Path) -> None:
    rows = rows_of(run)
    best = max(rows, key=lambda row: row["val_mIoU"])
    training = load_model(run / "best.safetensors").meta["training"]
    config = yaml.safe_load((run / "config.yaml").read_text())
    for key in ("recipe", *RECIPE_FIELDS, "seed", "precision", "encoder_weights"):
        assert training[key] == config[key], key
    assert training["epoch"] == best["epoch"]
    assert training["images_seen"] == best["images_seen"]
    until = sum(row["seconds"] for row in rows if row["epoch"] <= best["epoch"])
    assert training["seconds"] == pytest.approx(until)
    assert training["hardware"] == hardware()
    assert training["patches"] == 8
    assert str(dataset) not in str(training)


def test_tensorboard_shows_the_metrics_and_the_pictures(run: Path) -> None:
    assert_tensorboard_shows(run)
    images = events_of(run).Images("samples")
    drawn = sorted((run / "samples").iterdir())
    assert [f"epoch_{image.step:04d}.png" for image in images] == [path.name for path in drawn]
    with Image.open(drawn[-1]) as picture:
        assert (images[-1].width, images[-1].height) == picture.size


def test_tensorboards_files_do_not_name_the_machine(run: Path) -> None:
    for path in (run / "tensorboard").iterdir():
        assert socket.gethostname() not in path.name
        assert socket.gethostname().encode() not in path.read_bytes()


def test_a_run_killed_after_an_epochs_record_has_one_curve(
    dataset: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hrrsi.training.checkpoints import Checkpoints

    save = Checkpoints._save

    def fail_in_the_second_epoch(self: Any, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("killed")
        save(self, trainer, module)

    arguments = ("--out", tmp_path, "--epochs", 3)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_save", fail_in_the_second_epoch)
        assert train(dataset, *arguments).exit_code == 1
    folder = tmp_path / "ued_bes_sfm"
    assert [row["epoch"] for row in rows_of(folder)] == [1, 2]  # the checkpoint knows of one
    result = train(dataset, *arguments, "--resume")
    assert result.exit_code == 0, result.output
    for row, undisturbed in zip(rows_of(folder), rows_of(run), strict=True):
        for name in set(row) - {"seconds", "images_per_second"}:
            np.testing.assert_equal(row[name], undisturbed[name])
    assert len(list((folder / "tensorboard").iterdir())) == 2
    assert_tensorboard_shows(folder)
    pictures = [sorted(p.name for p in (f / "samples").iterdir()) for f in (folder, run)]
    assert pictures[0] == pictures[1]
    for name in pictures[0]:
        assert (folder / "samples" / name).read_bytes() == (run / "samples" / name).read_bytes()
    environment = yaml.safe_load((folder / "environment.yaml").read_text())
    assert [start["resumed"] for start in environment["starts"]] == [False, True]


def test_the_clock_of_an_epoch_goes_on_after_a_resume(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("hrrsi.training.record.time.monotonic", lambda: now[0])
    options = TrainOptions(dataset)

    def later(seconds: float) -> None:
        now[0] += seconds

    first = RunRecord(options, TiledDataset(dataset), print)
    first.on_train_epoch_start()
    later(30)
    state = first.state_dict()
    now[0] = 50.0  # another machine, switched on a minute ago
    second = RunRecord(options, TiledDataset(dataset), print)
    second.load_state_dict(state)
    later(10)
    second.on_validation_start()
    later(5)
    second.on_validation_start()  # interrupted, and begun again
    matrix = SimpleNamespace(
        scores=lambda: SimpleNamespace(overall_accuracy=1, mean_f1=1, mean_iou=1, classes=())
    )
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    trainer = SimpleNamespace(
        current_epoch=0, global_step=1, num_training_batches=1, optimizers=[optimizer],
        is_global_zero=False,
    )  # fmt: skip
    second.on_train_epoch_end(trainer, SimpleNamespace(matrix=matrix, losses={"loss": 1.0}))
    assert second.rows[0]["seconds"] == 45
    assert second.rows[0]["images_per_second"] == 8 / 40


def panels_of(picture: Path, side: int, columns: int) -> list[list[npt.NDArray[np.uint8]]]:
    """Return the panels of each patch: rows of squares with white gaps of 4 px around them."""
    with Image.open(picture) as file:
        pixels = np.asarray(file.convert("RGB"))
    blank = (pixels[:, 8:] == 255).all((1, 2))
    starts = [
        row
        for row in range(1, len(pixels) - side + 1)
        if not blank[row : row + side].any() and blank[row - 1] | True
    ]
    rows: list[int] = []
    for row in starts:
        if not rows or row >= rows[-1] + side:
            rows.append(row)
    return [
        [pixels[r : r + side, 8 + c * (side + 4) : 8 + c * (side + 4) + side] for c in range(columns)]
        for r in rows
    ]
