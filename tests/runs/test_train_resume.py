"""Runs that are stopped anywhere go on as if they had not been."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from samples.class_folders import make_class_folders
from samples.full_disk import largest_file
from samples.made_dataset import save_made_dataset
from samples.training_runs import SMALL, assert_same_run, quick, quietly, rows_of, say_nothing
from torch import nn
from typer.testing import CliRunner, Result

from hrrsi.cli import app
from hrrsi.errors import HrrsiError
from hrrsi.runs import loop
from hrrsi.runs.folder import FORMAT, Position, check_folder, write_checkpoint
from hrrsi.runs.options import LAST_CHECKPOINT
from hrrsi.training import initial_weights as first_network
from hrrsi.training.options import TrainOptions
from hrrsi.training.run import train
from hrrsi.training.run_checks import check_run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_made_dataset(tmp_path_factory.mktemp("data") / "dubai64", train=4, val=2)


def with_dropout(build: Callable[..., nn.Module], *arguments: Any) -> nn.Module:
    """Build a network that drops pixels, as some baselines drop features."""
    network = build(*arguments)
    network.register_forward_pre_hook(
        lambda module, inputs: (nn.functional.dropout(inputs[0], 0.1, module.training),)
    )
    return network


@pytest.mark.parametrize(
    "changes",
    [
        # (runs that are killed or stopped, below, have a moving average too)
        pytest.param({}, marks=pytest.mark.slow),
        {
            "recipe": "published",
            "sampling": "rare",
            "camera": "all",
            "freeze_encoder": 1,
            "workers": 1,
        },
    ],
    ids=["average", "published, rare, other cameras, frozen, a worker"],
)
def test_resumed_from_any_step_the_curve_is_the_undisturbed_one(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    build = functools.partial(with_dropout, first_network.build_network)
    monkeypatch.setattr(first_network, "build_network", build)
    kept: list[Path] = []

    def keep(position: Position, content: Any, path: Path) -> None:
        write_checkpoint(position, content, path)
        kept.append(tmp_path / f"{len(kept)}.ckpt")
        shutil.copy(path, kept[-1])

    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_checkpoint", keep)
        undisturbed, _ = quietly(
            quick(dataset, tmp_path / "whole", **changes), checkpoint_seconds=0
        )
    positions = [torch.load(path, weights_only=True)["position"] for path in kept]
    steps = [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
    assert sorted({(p["epoch"], p["batches"]) for p in positions}) == steps
    assert len(kept) > len(steps)  # and some within a validation
    # (after the last one nothing is left to do)
    for path in kept[:-1] if not changes else kept[1:-1:3]:
        options = quick(dataset, tmp_path / path.stem, **changes)
        shutil.copytree(undisturbed.folder, options.run_folder)
        (options.run_folder / "metrics.csv").unlink()
        path.replace(options.run_folder / LAST_CHECKPOINT)
        resumed, _ = quietly(options, resume=True)
        assert_same_run(resumed.folder, undisturbed.folder)
        assert resumed.best_epoch == undisturbed.best_epoch
        shutil.rmtree(options.out)


PROGRAM = """
import os, signal, sys
from pathlib import Path
from hrrsi.runs import loop
from hrrsi.training.options import TrainOptions
from hrrsi.training.options import RECIPE_FIELDS, recipe_named
from hrrsi.training.run import train
options = TrainOptions(
    data=Path(sys.argv[1]), out=Path(sys.argv[2]), model="ued-test_efficientnet",
    encoder_weights="none",
    recipe=recipe_named("default", epochs=3, batch=2), workers=1, device="cpu",
)
try:
    train(options, quiet=True, checkpoint_seconds=1000)
except KeyboardInterrupt as interruption:
    print(interruption, file=sys.stderr)

save, saved = loop.write_checkpoint, []

def save_or_die(position, *arguments):
    if saved:
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    saved.append(position)
    save(position, *arguments)
    print(position.epoch, position.batches, file=sys.stderr, flush=True)

loop.write_checkpoint = save_or_die
train(options, quiet=True, resume=True, checkpoint_seconds=0)
"""


def started(dataset: Path, out: Path) -> Any:
    """Start a run that goes on once it is stopped, and kills itself in its second checkpoint."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, dataset, out],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], process: Any) -> None:
    deadline = time.monotonic() + 240
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.fixture(scope="module")
def undisturbed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    return quietly(quick(dataset, out, epochs=3, workers=1))[0].folder


@pytest.mark.slow  # resuming from any step is tested above, stopping in test_train.py
def test_stopped_in_a_step_and_killed_while_it_writes_a_checkpoint(
    dataset: Path, undisturbed: Path, tmp_path: Path
) -> None:
    process = started(dataset, tmp_path)
    wait_for((tmp_path / SMALL / LAST_CHECKPOINT).exists, process)
    # as a terminal and SLURM do it: the loading processes, too
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == -signal.SIGKILL
    stopped, saved = errors.strip().splitlines()
    assert "continue it with `resume=True`" in stopped
    folder = tmp_path / SMALL
    position = torch.load(folder / LAST_CHECKPOINT, weights_only=True)["position"]
    assert f"{position['epoch']} {position['batches']}" == saved
    assert [p for p in folder.iterdir() if "partial" in p.name]
    resumed, _ = quietly(quick(dataset, tmp_path, epochs=3, workers=1), resume=True)
    assert_same_run(resumed.folder, undisturbed)
    assert not [p for p in folder.iterdir() if "partial" in p.name]


@pytest.mark.slow
def test_early_stopping_is_remembered_and_counts_on_after_a_resume(
    dataset: Path, tmp_path: Path
) -> None:
    def options(out: Path) -> TrainOptions:
        return quick(dataset, out, recipe="published", epochs=50, lr=0.0, patience=2)

    run, lines = quietly(options(tmp_path))
    epochs = len(rows_of(run.folder))
    assert run.stopped_early
    assert 3 <= epochs < 50
    assert "stopped early" in lines[-1]
    assert f"best epoch {epochs - 2}" in lines[-1]
    before = {p.name: p.read_bytes() for p in run.folder.iterdir() if p.suffix in (".ckpt", ".csv")}
    again, lines = quietly(options(tmp_path), resume=True)
    assert again == run
    assert f"has ended after epoch {epochs} of 50, 2 epochs without a better score" in lines[0]
    assert "stopped early" in lines[-1]
    assert {name: (run.folder / name).read_bytes() for name in before} == before

    reports: list[str] = []

    def report(line: str) -> None:
        reports.append(line)
        if len(reports) == 2:
            os.kill(os.getpid(), signal.SIGUSR1)  # which SLURM sends some time before it kills

    with pytest.raises(KeyboardInterrupt):
        train(options(tmp_path / "stopped"), quiet=True, report=report, warn=say_nothing)
    resumed, _ = quietly(options(tmp_path / "stopped"), resume=True)
    assert rows_of(resumed.folder) == rows_of(run.folder)


def test_want_of_memory_is_no_fault_of_the_checkpoint(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = quietly(quick(dataset, tmp_path, epochs=1))

    def too_large(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(loop.Loop, "_restore", too_large)
    with pytest.raises(HrrsiError, match="out of memory"):
        quietly(quick(dataset, tmp_path, epochs=1), resume=True)
    assert (run.folder / LAST_CHECKPOINT).is_file()


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    dataset: Path, tmp_path: Path
) -> None:
    options = quick(dataset, tmp_path, epochs=1)
    options.run_folder.mkdir()
    (options.run_folder / "config.yaml").write_text("epochs: 1\n")
    run, _ = quietly(options, resume=True)
    assert len(rows_of(run.folder)) == 1
    assert [p.name for p in tmp_path.iterdir()] == [SMALL]


@pytest.mark.parametrize(("number", "number_text"), [(None, "no format number"), (1, "format 1")])
def test_a_checkpoint_of_another_version_is_not_continued(
    dataset: Path, undisturbed: Path, tmp_path: Path, number: int | None, number_text: str
) -> None:
    folder = shutil.copytree(undisturbed, tmp_path / SMALL)
    checkpoint = torch.load(folder / LAST_CHECKPOINT, weights_only=True)
    assert checkpoint.pop("hrrsi_checkpoint") == FORMAT
    if number is not None:
        checkpoint["hrrsi_checkpoint"] = number
    torch.save(checkpoint, folder / LAST_CHECKPOINT)
    words = (
        f"{folder / LAST_CHECKPOINT}: has {number_text} where .* the version that environment.yaml"
    )
    with pytest.raises(HrrsiError, match=words):
        quietly(quick(dataset, tmp_path, epochs=3, workers=1), resume=True)
    assert rows_of(folder) == rows_of(undisturbed)


def _with_code(content: dict[str, Any]) -> None:
    content["score"] = Path  # a class, which torch's reader of tensors does not build


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["position"].update(epoch=-1),
        lambda c: c["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
        lambda c: c["record"]["rows"][0].update(val_mIoU="high"),
        lambda c: c["schedule"].update(step=3),
        lambda c: c["state_dict"].popitem(),
        _with_code,
    ],
)
def test_a_checkpoint_of_another_shape_is_not_continued(
    dataset: Path, undisturbed: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    folder = shutil.copytree(undisturbed, tmp_path / SMALL)
    checkpoint = torch.load(folder / LAST_CHECKPOINT, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, folder / LAST_CHECKPOINT)
    words = (
        f"{folder / LAST_CHECKPOINT}: is (not a checkpoint of this run|a pickle that .* not run)"
    )
    with pytest.raises(HrrsiError, match=words):
        quietly(quick(dataset, tmp_path, epochs=3, workers=0), resume=True)
    assert rows_of(folder) == rows_of(undisturbed)


def test_a_bit_of_a_checkpoint_that_was_flipped_is_noticed(
    dataset: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(undisturbed, tmp_path / SMALL)
    content = bytearray((folder / LAST_CHECKPOINT).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / LAST_CHECKPOINT).write_bytes(content)
    with pytest.raises(HrrsiError, match=r"last.ckpt: is not a whole weights file"):
        quietly(quick(dataset, tmp_path, epochs=3, workers=0), resume=True)


def test_a_run_killed_after_its_last_checkpoint_gets_its_last_picture(
    dataset: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(undisturbed, tmp_path / SMALL)
    picture = sorted((folder / "samples").iterdir())[-1]
    drawn = picture.read_bytes()
    picture.unlink()
    checkpoint = torch.load(folder / LAST_CHECKPOINT, weights_only=True)
    samples = checkpoint["record"]["samples"]
    if samples["drawn"] == 3:  # the last epoch was the best, so it was drawn before
        samples["drawn"] = 0
        torch.save(checkpoint, folder / LAST_CHECKPOINT)
    quietly(quick(dataset, tmp_path, epochs=3, workers=0), resume=True)
    assert picture.read_bytes() == drawn


STARTED_OTHERWISE = """
import multiprocessing, sys

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    from hrrsi.__main__ import main

    for line in sys.argv[2:]:
        sys.argv = ["hrrsi", *line.split(), "--epochs=1", "--workers=1", "--device=cpu", "--quiet"]
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise
"""


@pytest.mark.slow  # each process loads torch; test_augmentation.py sends them what they run
@pytest.mark.parametrize("method", ["forkserver", "spawn"])  # of Python 3.14, and of Windows
def test_loading_processes_start_by_any_method(dataset: Path, tmp_path: Path, method: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(STARTED_OTHERWISE)
    images = make_class_folders(tmp_path / "images", train=2, val=1)
    lines = (
        f"train {dataset} --model {SMALL} --encoder-weights none --batch 2 --out {tmp_path}/runs",
        f"pretrain --data {images} --encoder mobilenetv3_small_050 --batch 8 --size 32 "
        f"--val-size 32 --loader torchvision --out {tmp_path}/encoders",
    )
    done = subprocess.run(
        [sys.executable, program, method, *lines], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / SMALL / "best.safetensors").is_file()
    assert list((tmp_path / "encoders").rglob("encoder.safetensors"))


def test_a_run_from_before_an_option_had_its_default(tmp_path: Path) -> None:
    options = quick(tmp_path / "data", tmp_path / "runs")
    config = options.to_config()
    del config["camera"]
    options.run_folder.mkdir(parents=True)
    (options.run_folder / "config.yaml").write_text(yaml.safe_dump(config))
    (options.run_folder / LAST_CHECKPOINT).touch()
    check_folder(options, resume=True, overwrite=False)
    other = quick(tmp_path / "data", tmp_path / "runs", camera="jpeg")
    with pytest.raises(HrrsiError, match="was started with camera none, not jpeg"):
        check_folder(other, resume=True, overwrite=False)


def test_what_was_edited_in_its_config_is_not_what_a_run_was_started_with(
    dataset: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(undisturbed, tmp_path / SMALL)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    own = config["lr"]
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "lr": own / 10, "epochs": 5}))
    words = rf"started with epochs 3, not 5; lr {own}, not {own / 10}.*put epochs, lr back in "
    with pytest.raises(HrrsiError, match=words + str(folder / "config.yaml")):
        quietly(quick(dataset, tmp_path, epochs=5, lr=own / 10, workers=1), resume=True)


def resumed_by_its_config(folder: Path, *more: str) -> Result:
    return CliRunner().invoke(
        app, ["train", "--config", str(folder / "config.yaml"), "--resume", "--quiet", *more]
    )


def test_a_run_that_was_moved_goes_on_where_it_lies(undisturbed: Path, tmp_path: Path) -> None:
    before = (undisturbed / "environment.yaml").read_bytes()
    moved = shutil.copytree(undisturbed, tmp_path / "elsewhere" / SMALL)
    result = resumed_by_its_config(moved)
    assert result.exit_code == 0, result.output
    assert f"{moved}: is finished (3 epochs)" in result.stdout
    assert (undisturbed / "environment.yaml").read_bytes() == before
    renamed = moved.rename(moved.with_name("mine"))
    result = resumed_by_its_config(renamed)
    assert result.exit_code == 1
    assert (
        f"{renamed}: is called mine, where a run of these options is called {SMALL}"
        in (result.stderr.splitlines()[-1])
    )
    result = resumed_by_its_config(renamed, "--out", str(tmp_path / "new"), "--dry-run")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in renamed.parent.iterdir()) == ["mine"]


def test_weights_that_are_gone_are_written_again_or_missed(
    dataset: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(undisturbed, tmp_path / SMALL)
    checkpoint = torch.load(folder / LAST_CHECKPOINT, weights_only=True)
    rows, weights = checkpoint["record"]["rows"], folder / "best.safetensors"
    weights.unlink()
    rows[-1]["val_mIoU"] = 0.98
    torch.save(checkpoint, folder / LAST_CHECKPOINT)
    run, _ = quietly(quick(dataset, tmp_path, epochs=3, workers=1), resume=True)
    assert (run.best_epoch, run.weights) == (3, weights)
    assert weights.is_file()
    weights.unlink()
    quietly(quick(dataset, tmp_path, epochs=3, workers=1), resume=True)
    assert weights.is_file()
    weights.unlink()
    rows[0]["val_mIoU"] = 0.99
    torch.save(checkpoint, folder / LAST_CHECKPOINT)
    with pytest.raises(HrrsiError, match="the weights of epoch 1, the best, are no longer there"):
        quietly(quick(dataset, tmp_path, epochs=3, workers=1), resume=True)


@pytest.mark.parametrize("start", ["init", "encoder_weights"])
def test_what_a_run_started_from_is_not_needed_again(
    dataset: Path, undisturbed: Path, tmp_path: Path, start: str
) -> None:
    config = yaml.safe_load((undisturbed / "config.yaml").read_text())
    gone = tmp_path / "gone.safetensors"
    (tmp_path / SMALL).mkdir()
    (tmp_path / SMALL / "config.yaml").write_text(yaml.safe_dump({**config, start: str(gone)}))
    value = gone if start == "init" else str(gone)
    options = quick(dataset, tmp_path, epochs=3, workers=1, **{start: value})
    with pytest.raises(HrrsiError, match="no such file"):
        check_run(options, resume=True)  # it has no checkpoint yet
    checkpoint = torch.load(undisturbed / LAST_CHECKPOINT, weights_only=True)
    checkpoint["options"][start] = str(gone)
    torch.save(checkpoint, tmp_path / SMALL / LAST_CHECKPOINT)
    with pytest.raises(HrrsiError, match="no such file"):
        check_run(options, overwrite=True)
    resumed, _ = quietly(options, resume=True)
    assert rows_of(resumed.folder) == rows_of(undisturbed)


def test_full_disk_keeps_the_checkpoint_before(
    dataset: Path, undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed, tmp_path / SMALL)
    folder = tmp_path / SMALL
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "epochs": 9}))
    checkpoint = torch.load(folder / LAST_CHECKPOINT, weights_only=True)
    checkpoint["options"]["epochs"] = 9
    torch.save(checkpoint, folder / LAST_CHECKPOINT)
    before = {name: (folder / name).read_bytes() for name in (LAST_CHECKPOINT, "metrics.csv")}
    options = quick(dataset, tmp_path, epochs=9, workers=1)
    with (
        pytest.raises(
            HrrsiError, match="the disk is full; the checkpoint before is whole"
        ) as error,
        largest_file(1_000_000),
    ):
        quietly(options, resume=True, checkpoint_seconds=0)
    assert "`resume=True`" in str(error.value)
    assert "\n" not in str(error.value)
    assert {name: (folder / name).read_bytes() for name in before} == before


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
def test_a_gpu_stops_and_goes_on(dataset: Path, tmp_path: Path, precision: str) -> None:
    options = quick(dataset, tmp_path, device="cuda", precision=precision, workers=1)
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        if len(lines) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        train(options, quiet=True, report=report, checkpoint_seconds=0)
    assert len(lines) == 1
    resumed, _ = quietly(options, resume=True)
    assert [row["epoch"] for row in rows_of(resumed.folder)] == ["1", "2"]
    assert (
        torch.load(resumed.folder / LAST_CHECKPOINT, weights_only=True)["schedule"]["last_epoch"]
        == 4
    )
