"""Pre-training on what it can't learn from: folders and options it refuses, broken images."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import yaml
from safetensors.torch import load_file
from samples.class_folders import CLASSES
from samples.command_results import assert_one_line_error
from samples.pretraining_runs import QUICK, rows_of, run, scores_of

from hrrsi.errors import InputError
from hrrsi.pretraining.epoch_images import EpochImages
from hrrsi.pretraining.images import ImageSplit
from hrrsi.pretraining.options import has_dali

LOADERS = [
    "torchvision",
    pytest.param(
        "dali",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(
                not has_dali(), reason="NVIDIA DALI is not installed: pip install 'hrrsi[dali]'"
            ),
        ],
    ),
]


@pytest.mark.parametrize("loader", LOADERS)
def test_corrupt_images_are_named_counted_and_not_fatal(
    folder: Path, tmp_path: Path, loader: str
) -> None:
    data = Path(shutil.copytree(folder, tmp_path / "data"))
    images = sorted((data / "train").glob("*/*"))
    whole = images[0].read_bytes()
    images[3].write_bytes(whole[: len(whole) // 2])
    images[20].write_bytes(b"")
    (data / "val" / CLASSES[1] / "page.jpg").write_text("404 not found")
    arguments = [*QUICK, "--encoder", "resnet10t", "--loader", loader, "--batch", 3]
    result = run(data, "--epochs", 2, "--out", tmp_path, *arguments)
    assert result.exit_code == 0, result.output
    warnings = result.stderr.strip().splitlines()
    assert len(warnings) == 3, result.stderr
    assert all(line.startswith("warning: ") and "it is skipped" in line for line in warnings)
    for name, reason in (
        (images[3], "is truncated"),
        (images[20], "is empty"),
        (data / "val" / CLASSES[1] / "page.jpg", "is not an image"),
    ):
        assert [line for line in warnings if f"{name}: {reason}" in line]
    assert result.stdout.count("3 corrupt images skipped") == 2
    rows = rows_of(tmp_path / "resnet10t")
    assert [(r["skipped"], r["val_skipped"]) for r in rows] == [("2", "1")] * 2
    assert rows[1]["images_seen"] == str(2 * 30)
    network = timm.create_model("resnet10t", num_classes=len(CLASSES))
    network.load_state_dict(load_file(tmp_path / "resnet10t" / "encoder.safetensors"))
    (data / "val" / CLASSES[1] / "page.jpg").unlink()
    best = max(rows, key=lambda row: float(row["val_top1"]))
    assert float(best["val_top1"]) == scores_of(network, data, 64)[1]


def test_a_split_without_a_single_readable_image_is_an_error(folder: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(folder, tmp_path / "data"))
    for image in (data / "val").glob("*/*"):
        image.write_bytes(b"")
    result = run(data, "--epochs", 1, "--out", tmp_path, *QUICK)
    assert result.exit_code == 1
    assert result.stderr.strip().splitlines()[-1].startswith(f"error: {data / 'val'}: no image")


def remove(data: Path, *names: str) -> None:
    for name in names:
        shutil.rmtree(data / name)


def without_images(data: Path) -> None:
    for image in (data / "train" / CLASSES[2]).iterdir():
        image.rename(image.with_suffix(".txt"))


def as_scenes_and_labels(data: Path) -> None:
    for split in ("train", "val"):
        remove(data, *(f"{split}/{name}" for name in CLASSES))
        for name in ("images", "masks"):
            (data / split / name).mkdir()


def as_a_file(data: Path) -> None:
    shutil.rmtree(data)
    data.touch()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: remove(data, "train"), ("data: holds no folder train", "hrrsi tile")),
        (lambda data: remove(data, "val"), ("data: holds no folder val",)),
        (lambda data: remove(data, "train", "val"), ("data: holds no folder train",)),
        (lambda data: remove(data, *(f"train/{c}" for c in CLASSES)), ("train: holds no class",)),
        (lambda data: remove(data, *(f"val/{c}" for c in CLASSES)), ("val: holds no class",)),
        (lambda data: remove(data, *(f"train/{c}" for c in CLASSES[1:])), ("one class only",)),
        (lambda data: remove(data, "train/tile4"), ("val: holds class tile4, which train lacks",)),
        (lambda data: remove(data, "val/tile5"), ("train: holds class tile5, which val lacks",)),
        (lambda data: (data / "dataset.yaml").touch(), ("data: is a tiled dataset", "hrrsi train")),
        (as_scenes_and_labels, ("train: holds the folders images and masks", "hrrsi tile")),
        (as_a_file, ("data: is a file, not a folder",)),
        (without_images, ("holds no image in class tile5",)),
        (lambda data: (data / "val" / "new").mkdir(), ("val: holds class new, which train lacks",)),
        (lambda data: shutil.rmtree(data), ("data: no such folder",)),
    ],
)
def test_folders_that_cannot_be_trained_on(
    folder: Path, tmp_path: Path, spoil: object, words: tuple[str, ...]
) -> None:
    data = Path(shutil.copytree(folder, tmp_path / "data"))
    spoil(data)  # type: ignore[operator]
    assert_one_line_error(run(data, "--out", tmp_path / "runs", *QUICK), *words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--encoder", "ghostnet_10"], ("no encoder 'ghostnet_10'", "did you mean")),
        (["--encoder", "ghostnet_000"], ("has no width",)),
        (["--encoder", "vit_tiny_patch16_224"], ("does not take images of 32 px", "--size")),
        (["--precision", "16"], ("needs a GPU",)),
        (["--device", "tpu"], ("unknown device",)),
        (["--devices", "40", "--batch", "40"], ("32 images can't be shared out",)),
        (["--nodes", "2"], ("torchrun",)),
    ],
)
def test_options_that_cannot_be(
    folder: Path, tmp_path: Path, arguments: list[str], words: tuple[str, ...]
) -> None:
    result = run(folder, "--out", tmp_path / "runs", *QUICK, *arguments)
    assert_one_line_error(result, *words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("epochs: 0", "--epochs: is less than 1"),
        ("momentum: 2", "--momentum: 2.0 is no share"),
        ("seed: -1", "--seed: is less than 0"),
    ],
)
def test_a_number_out_of_range_is_of_the_file_that_holds_it(
    tmp_path: Path, line: str, words: str
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"{line}\n")
    assert_one_line_error(run(tmp_path, "--config", config), f"{config}: {words}")


def test_dali_that_is_not_installed_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    arguments = ["--out", tmp_path, *QUICK, "--encoder", "resnet10t", "--epochs", 1, "--loader"]
    assert_one_line_error(run(folder, *arguments, "dali"), "pip install 'hrrsi[dali]'")
    assert run(folder, *arguments, "auto").exit_code == 0
    config = yaml.safe_load((tmp_path / "resnet10t" / "config.yaml").read_text())
    assert config["loader"] == "torchvision"


def test_a_loss_that_is_no_number_stops_the_run(folder: Path, tmp_path: Path) -> None:
    result = run(folder, "--epochs", 9, "--out", tmp_path, *QUICK, "--lr", "1e30")
    assert_one_line_error(result, "the loss is", "lower --lr", "broken pixels in those images")


def test_an_image_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    split = ImageSplit(tmp_path, np.array([b"pipe.jpg"]), np.array([0]))
    with pytest.raises(InputError, match=r"pipe.jpg: is a pipe or device, not a file"):
        EpochImages(split, 32, None).encoded(0, 0)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_step_may_have_no_image_at_all(tmp_path: Path, folder: Path, loader: str) -> None:
    for split in ("train", "val"):
        for name in CLASSES[:2]:
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for path in sorted((folder / split / name).iterdir())[:2]:
                shutil.copy(path, tmp_path / "data" / split / name)
    (tmp_path / "data" / "train" / CLASSES[0] / "page.jpg").write_text("404 not found")
    arguments = [*QUICK, "--batch", 1, "--size", 64, "--encoder", "resnet10t", "--loader", loader]
    result = run(tmp_path / "data", "--epochs", 1, "--out", tmp_path, *arguments)
    assert result.exit_code == 0, result.output
    (row,) = rows_of(tmp_path / "resnet10t")
    assert (row["images_seen"], row["skipped"]) == ("4", "1")


def test_one_pixel_of_one_image_cannot_be_normalised(folder: Path, tmp_path: Path) -> None:
    result = run(folder, "--encoder", "resnet10t", "--out", tmp_path, *QUICK, "--batch", 1)
    assert_one_line_error(result, "BatchNorm needs several images", "raise --batch")
