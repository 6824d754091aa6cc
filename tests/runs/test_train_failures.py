"""What goes wrong in a run, and what a run leaves when it does."""

import gc
import os
import re
import shutil
import signal
import subprocess
import sys
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from samples.made_dataset import save_made_dataset
from samples.training_runs import SMALL, quick, quietly, rows_of, weights_of
from typer.testing import CliRunner

from hrrsi.cli import app
from hrrsi.errors import HrrsiError
from hrrsi.runs.failures import run_error
from hrrsi.runs.options import LAST_CHECKPOINT
from hrrsi.tiling.dataset import TiledDataset, read_image, read_label
from hrrsi.training import run_data
from hrrsi.training.initial_weights import first_network
from hrrsi.training.module import MovingAverage, SegmentationTraining, decay_at
from hrrsi.training.patch_batches import training_batches, validation_batches
from hrrsi.training.run_checks import check_run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_made_dataset(tmp_path_factory.mktemp("data") / "dubai64", train=6, val=3)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_batch_whose_loss_is_no_number_is_saved(
    dataset: Path, tmp_path: Path, device: str
) -> None:
    options = quick(dataset, tmp_path, recipe="published", lr=1e30, epochs=50, device=device)
    with pytest.raises(HrrsiError) as caught:
        quietly(options)
    path = options.run_folder / "nan_batch.safetensors"
    assert str(path) in str(caught.value)
    assert "lower `lr`" in str(caught.value)
    with safe_open(path, "pt") as file:
        about = file.metadata()
        image, label, index = (file.get_tensor(key) for key in ("image", "label", "index"))
    tiled = TiledDataset(dataset)
    names = [patch.name for patch in tiled.patches("train")]
    assert about["patches"] == ", ".join(names[i] for i in index)
    assert about["patches"] in str(caught.value)
    assert about["loss"] in ("nan", "inf")
    epoch, step = int(about["epoch"]), int(about["step"])
    assert f"epoch {epoch}, step {step}" in str(caught.value)
    batches = list(training_batches(tiled, options, epoch=epoch - 1))
    for stored, drawn in zip((image, label, index), batches[step - 1], strict=True):
        assert torch.equal(stored, drawn)


def kill_a_loading_process(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def no_memory(*_: Any) -> torch.Tensor:
    return torch.empty(10**15)


# the end of a loading process interrupts whatever is going on, be it a lock's own function
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("failure", "workers", "words"),
    [
        (kill_a_loading_process, 1, "a process that reads patches was killed.*`workers`"),
        (no_memory, 0, "out of memory.*`batch`"),
        pytest.param(no_memory, 1, "out of memory.*`batch`", marks=pytest.mark.slow),
    ],
    ids=["killed", "memory", "memory of a worker"],
)
def test_memory_that_is_too_small_says_what_to_lower(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Any,
    workers: int,
    words: str,
) -> None:
    monkeypatch.setattr(run_data, "read_image", failure)
    with pytest.raises(HrrsiError, match=words) as caught:
        quietly(quick(dataset, tmp_path, workers=workers))
    assert "\n" not in str(caught.value)
    del caught
    gc.collect()  # loading processes that the error holds end here, and not in the next test


def test_a_full_gpu_says_what_to_lower(dataset: Path) -> None:
    options = quick(dataset, Path("runs"), precision="32")
    error = run_error(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), options)
    assert "lower `batch` (2 now), or give `precision=bf16`" in str(error)


@pytest.mark.slow
def test_a_compiler_that_fails_is_one_line(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler here\nand more")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: compile_(f, backend=broken))
    with pytest.raises(HrrsiError, match="`compile`: the network could not be compiled"):
        quietly(quick(dataset, tmp_path, model="ued-resnet18", compile=True))


@pytest.mark.slow  # compiling takes longest; a compiler that fails is tried above
def test_compiled_weights_have_the_same_names(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: compile_(f, backend="eager"))
    # a network of few layers: to look into each takes a while
    options = quick(dataset, tmp_path, model="ued-resnet18", epochs=1, overfit=2, compile=True)
    network = first_network(options, TiledDataset(dataset), resume=True, report=print)
    expected = {f"network.{key}" for key in network.state_dict()}
    keys = set(weights_of(quietly(options)[0].folder / LAST_CHECKPOINT))
    assert {key for key in keys if key.startswith("network.")} == expected
    assert {key.replace("averaged_network.", "network.") for key in keys} == expected


def test_a_frozen_encoder_keeps_its_weights_and_is_released(dataset: Path, tmp_path: Path) -> None:
    options = quick(dataset, tmp_path / "one", epochs=1, freeze_encoder=1)
    start = first_network(options, TiledDataset(dataset), resume=False, report=print).state_dict()
    frozen = weights_of(quietly(options)[0].folder / LAST_CHECKPOINT)
    encoder = [key for key in start if key.startswith("base_network.")]
    assert encoder
    assert all(torch.equal(frozen[f"network.{key}"], start[key]) for key in encoder)
    others = [k for k in start if k not in encoder and k.endswith("weight")]
    assert not any(torch.equal(frozen[f"network.{key}"], start[key]) for key in others)
    two = quick(dataset, tmp_path / "two", epochs=2, freeze_encoder=1)
    released = weights_of(quietly(two)[0].folder / LAST_CHECKPOINT)
    moved = [k for k in encoder if k.endswith(("conv_stem.weight", "running_mean"))]
    assert not any(torch.equal(released[f"network.{key}"], start[key]) for key in moved)


def test_overfitting_sees_the_first_patches_as_they_are(dataset: Path) -> None:
    tiled = TiledDataset(dataset)
    options = quick(dataset, Path("unused"), overfit=3, batch=8, sampling="rare")
    (trained,) = training_batches(tiled, options)
    (validated,) = validation_batches(tiled, options)
    assert sorted(trained[2].tolist()) == [0, 1, 2]
    for images, labels, indices in (trained, (*validated, torch.arange(3))):
        for image, label, index in zip(images, labels, indices, strict=True):
            patch = tiled.patches("train")[int(index)]
            assert (image.numpy() == read_image(patch, tiled.description)).all()
            assert (label.numpy() == read_label(patch, tiled.description)).all()


def test_a_dataset_without_validation_can_be_overfitted(dataset: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    description = yaml.safe_load((data / "dataset.yaml").read_text())
    del description["splits"]["val"]
    (data / "dataset.yaml").write_text(yaml.safe_dump(description))
    with pytest.raises(HrrsiError, match="has no val split"):
        quietly(quick(data, tmp_path))
    assert len(rows_of(quietly(quick(data, tmp_path, overfit=2, epochs=1))[0].folder)) == 1


def without_labels(dataset: Path, folder: Path, split: str, *, is_told: bool) -> Path:
    """Return a copy of a dataset in which no pixel of a split has a label, told or not."""
    data = shutil.copytree(dataset, folder)
    for path in (data / split / "label").iterdir():
        with Image.open(path) as image:
            image.paste(255, (0, 0, *image.size))
            image.save(path)
    if is_told:
        described = yaml.safe_load((data / "dataset.yaml").read_text())
        pixels = described["splits"][split]["class_pixels"]
        described["splits"][split]["class_pixels"] = [0 for _ in pixels]
        (data / "dataset.yaml").write_text(yaml.safe_dump(described))
    return data


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_that_are_all_ignored_are_no_data(dataset: Path, tmp_path: Path, split: str) -> None:
    honest = without_labels(dataset, tmp_path / "told", split, is_told=True)
    with pytest.raises(HrrsiError, match=f"the labels of its {split} split hold no class at all"):
        check_run(quick(honest, tmp_path / "runs"))
    data = without_labels(dataset, tmp_path / "data", split, is_told=False)
    verb = {"train": "trained", "val": "validated"}[split]
    words = f"{data / split}: no pixel {verb} on has a label"
    with pytest.raises(HrrsiError, match=re.escape(words)):
        quietly(quick(data, tmp_path / "runs"))
    assert not list((tmp_path / "runs").rglob("metrics.csv"))


def test_patches_without_labels_are_not_overfitted(dataset: Path, tmp_path: Path) -> None:
    data = without_labels(dataset, tmp_path / "data", "train", is_told=False)
    with pytest.raises(HrrsiError, match=r"no pixel validated on has a label.*higher `overfit`"):
        quietly(quick(data, tmp_path / "runs", overfit=2))


def in_two_processes(
    program: list[str], dataset: Path, out: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    arguments = f"--model {SMALL} --batch 4 --encoder-weights none --workers 0 --quiet --device cpu"
    arguments += f" --devices 2 --out {out}"
    return subprocess.run(
        [sys.executable, "-m", *program, "train", str(dataset), *arguments.split(), *options],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow  # test_train_distributed.py has an error of one process alone
def test_what_all_processes_find_is_said_once(dataset: Path, tmp_path: Path) -> None:
    """Under torchrun, where no process ends the others before they speak."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hrrsi"]
    endless = ("--recipe", "published", "--lr", "1e30", "--epochs", "50")
    result = in_two_processes(torchrun, dataset, tmp_path, *endless)
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert "the loss is" in errors[0]
    assert (tmp_path / SMALL / "nan_batch.safetensors").is_file()


@pytest.mark.parametrize(("split", "workers"), [("train", 1), ("train", 0), ("val", 1), ("val", 0)])
def test_a_truncated_patch_is_named(
    split: str, workers: int, dataset: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(dataset, tmp_path / "data")
    patch = sorted((data / split / "image").iterdir())[1]
    patch.write_bytes(patch.read_bytes()[:700])
    arguments = (
        f"train {data} --out {tmp_path} --model {SMALL} --encoder-weights none --epochs 1 -q"
    )
    arguments += f" --batch 3 --device cpu --workers {workers}"
    before = set(active_children())
    result = CliRunner().invoke(app, arguments.split())
    assert result.exit_code == 1
    assert not set(active_children()) - before, "the program would wait for it forever"
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {patch}: cannot be read")
    assert line.endswith("; copy the dataset again, or tile it again: `hrrsi tile --overwrite`")


def test_the_average_is_that_of_the_steps(dataset: Path) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    average = MovingAverage(network, 0.6)
    expected = {k: v.clone().double() for k, v in network.state_dict().items()}
    for step in range(30):
        network(torch.rand(2, 3, 4, 4))
        with torch.no_grad():
            network[0].weight.normal_()
        decay = decay_at(step, 0.6)
        assert decay == min(0.6, (1 + step) / (10 + step))
        average.move(network, step)
        for key, value in network.state_dict().items():
            expected[key] = decay * expected[key] + (1 - decay) * value.double()
    for key, value in average.network.state_dict().items():
        if key == "1.num_batches_tracked":
            assert value == 30
        else:
            torch.testing.assert_close(value.double(), expected[key], rtol=1e-5, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


def test_the_average_is_what_is_validated_and_kept(dataset: Path, tmp_path: Path) -> None:
    from hrrsi.networks.weights_reading import load_model

    run, _ = quietly(quick(dataset, tmp_path, epochs=1, average=0.5))
    trained = weights_of(run.folder / LAST_CHECKPOINT)
    kept = load_model(run.weights).state_dict()
    assert all(
        torch.equal(trained[f"averaged_network.{key}"], value) for key, value in kept.items()
    )
    assert not torch.equal(trained["network.dec_c1.up.0.weight"], kept["dec_c1.up.0.weight"])


@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_pixels_are_normalised_whatever_their_type(dataset: Path, kind: str) -> None:
    import numpy as np

    description = TiledDataset(dataset).description.model_copy(
        update={"scale": 1000.0, "mean": [0.2, 0.3, 0.4], "std": [0.1, 0.2, 0.3]}
    )
    options = quick(dataset, Path("unused"))
    network = first_network(options, TiledDataset(dataset), resume=True, report=print)
    module = SegmentationTraining(network, options, description, steps=1)
    values = np.random.default_rng(0).integers(0, 1200, (2, 3, 8, 8)).astype(kind)
    expected = (values / 1000 - np.reshape([0.2, 0.3, 0.4], (3, 1, 1))) / np.reshape(
        [0.1, 0.2, 0.3], (3, 1, 1)
    )
    if kind == "float32":
        values[0, 1, 2, 3] = np.nan
        expected[0, 1, 2, 3] = 0
    pixels = module.normalised(torch.from_numpy(values))
    np.testing.assert_allclose(pixels.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
