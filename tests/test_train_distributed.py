"""Two processes on the CPU train as one would, and validate every patch once."""

import os
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch
from made_dataset import save_made_dataset
from test_train_resume import assert_same_run, quick, rows_of

from hrrsi.errors import HrrsiError
from hrrsi.networks.segmentation import build_network
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.training.checkpoints import LAST_CHECKPOINT
from hrrsi.training.first_network import convert_sync_batchnorm
from hrrsi.training.module import SegmentationTraining
from hrrsi.training.patch_batches import (
    EpochOrder,
    ProcessBatches,
    training_batches,
    validation_batches,
)
from hrrsi.training.processes import run_processes
from hrrsi.training.run_checks import check_run
from hrrsi.weights import load_model

ONE_PROCESS_EACH = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_made_dataset(tmp_path_factory.mktemp("data") / "dubai64", train=9, val=7)


def command(dataset: Path, out: Path, *arguments: str) -> list[str]:
    quick_run = "--model ued --epochs 1 --batch 4 --encoder-weights none --workers 0 --quiet"
    return [
        *("-m", "hrrsi", "train", str(dataset), "--out", str(out)),
        *("--device", "cpu", "--devices", "2", *quick_run.split(), *arguments),
    ]


def finished(program: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **ONE_PROCESS_EACH, **variables}
    return subprocess.run(program, capture_output=True, text=True, timeout=240, env=environment)


@pytest.fixture(scope="module")
def two_processes(
    dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Two networks trained one after the other by two processes."""
    out = tmp_path_factory.mktemp("runs")
    models = ["--model", "ued,ued_bes", "--recipe", "published", "--lr", "0.02"]
    result = finished([sys.executable, *command(dataset, out, *models)])
    assert result.returncode == 0, result.stderr
    return out, result


def test_two_processes_count_what_one_does(
    dataset: Path, two_processes: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    out, _ = two_processes
    for model in ("ued", "ued_bes"):
        (row,) = rows_of(out / model)
        options = quick(dataset, out, model=model)
        tiled = TiledDataset(dataset)
        network = load_model(out / model / "best.safetensors")
        alone = SegmentationTraining(network, options, tiled.description, steps=1)
        alone.eval()
        with torch.no_grad():
            for batch in validation_batches(tiled, options):
                alone.validation_step(batch, 0)
        alone.on_validation_epoch_end()
        assert alone.matrix.pixels == 7 * 64 * 64 - ignored_pixels(tiled)
        scores = alone.matrix.scores()
        # ratios of whole numbers: equal only where every count is
        assert float(row["val_OA"]) == scores.overall_accuracy
        for score in scores.classes:
            assert row[f"val_IoU_{score.name}"] == str(score.iou)


def ignored_pixels(dataset: TiledDataset) -> int:
    from hrrsi.tiling.patch_reading import read_label

    labels = [read_label(patch, dataset.description) for patch in dataset.patches("val")]
    return sum(int((label == 255).sum()) for label in labels)


def test_only_the_first_process_speaks(
    two_processes: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, result = two_processes
    assert result.stderr == ""
    for model in ("ued", "ued_bes"):
        lines = [line for line in result.stdout.splitlines() if f"{model}:" in line]
        assert len(lines) == 1, result.stdout
        assert result.stdout.count(f"{model} epoch 1/1") == 1


def test_images_seen_are_those_of_all_processes(
    two_processes: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, _ = two_processes
    assert rows_of(out / "ued")[0]["images_seen"] == "8"  # two steps of four


def test_torchrun_starts_both(dataset: Path, tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = finished([sys.executable, *torchrun, *command(dataset, tmp_path)])
    assert result.returncode == 0, result.stderr
    assert len(rows_of(tmp_path / "ued")) == 1
    assert result.stdout.count("ued epoch 1/1") == 1


def test_a_run_that_exists_is_refused_before_others_are_started(
    dataset: Path, two_processes: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    out, _ = two_processes
    with pytest.raises(HrrsiError, match="holds a run already"):
        check_run(quick(dataset, out, devices=2, batch=4))


def test_an_error_in_training_is_one_line(dataset: Path, tmp_path: Path) -> None:
    endless = ["--recipe", "published", "--lr", "1e30", "--epochs", "50"]
    result = finished([sys.executable, *command(dataset, tmp_path, *endless)])
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "the loss is" in result.stderr
    assert (tmp_path / "ued" / "nan_batch.safetensors").is_file()


PROGRAM = """
import sys
from pathlib import Path
from hrrsi.training.options import TrainOptions
from hrrsi.training.recipes import recipe_named
from hrrsi.training.run import train
options = TrainOptions(
    data=Path(sys.argv[1]), out=Path(sys.argv[2]), model="ued", encoder_weights="none",
    recipe=recipe_named("default", epochs=2, batch=4), workers=0, device="cpu", devices=2,
    freeze_encoder=1,
)
train(options, resume=True, quiet=True, checkpoint_seconds=0)
"""


def test_killed_in_the_middle_of_an_epoch(dataset: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    whole = finished([sys.executable, str(program), str(dataset), str(tmp_path / "whole")])
    assert whole.returncode == 0, whole.stderr
    arguments = [sys.executable, str(program), str(dataset), str(tmp_path / "killed")]
    environment = {**os.environ, **ONE_PROCESS_EACH}
    process = subprocess.Popen(arguments, start_new_session=True, env=environment)
    checkpoint = tmp_path / "killed" / "ued" / LAST_CHECKPOINT
    deadline = time.monotonic() + 240
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    position = torch.load(checkpoint, weights_only=True)["position"]
    assert (position["epoch"], position["batches"]) < (2, 0)
    resumed = finished(arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(tmp_path / "killed" / "ued", tmp_path / "whole" / "ued")


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("rare", [False, True])
def test_processes_share_the_batches_of_one(processes: int, rare: bool) -> None:
    import numpy as np

    weights = np.arange(1, 12) / np.arange(1, 12).sum() if rare else None
    for epoch, first in ((0, 0), (3, 1)):
        alone = list(ProcessBatches(EpochOrder(11, 5, weights, epoch), 4, first=first))
        shared = [
            list(
                ProcessBatches(
                    EpochOrder(11, 5, weights, epoch), 4, rank=r, processes=processes, first=first
                )
            )
            for r in range(processes)
        ]
        assert len(alone) == 2 - first
        together = [list(chain(*parts)) for parts in zip(*shared, strict=True)]
        assert together == alone


def test_an_epoch_has_every_patch_once_and_the_next_in_another_order() -> None:
    order = EpochOrder(12, seed=1)
    batches = ProcessBatches(order, 4, first=2)
    order.set_epoch(1)
    draws = list(chain(*batches))
    assert sorted(draw.patch for draw in draws) == list(range(12))
    order.set_epoch(2)
    assert [d.patch for d in chain(*batches)] != [d.patch for d in draws]


@pytest.mark.parametrize("processes", [1, 2, 3, 5, 9])
def test_every_validation_patch_comes_once(dataset: Path, processes: int) -> None:
    tiled = TiledDataset(dataset)
    options = quick(dataset, Path("unused"))
    expected = sorted(
        (image.numpy().tobytes(), label.numpy().tobytes())
        for images, labels in validation_batches(tiled, options)
        for image, label in zip(images, labels, strict=True)
    )
    assert len(expected) == 7
    found, lengths = [], set()
    for rank in range(processes):
        loader = validation_batches(tiled, options, rank=rank, processes=processes)
        lengths.add(len(loader))
        for images, labels in loader:
            for image, label in zip(images, labels, strict=True):
                if not bool((label == 255).all()):
                    found.append((image.numpy().tobytes(), label.numpy().tobytes()))
    assert sorted(found) == expected
    assert len(lengths) == 1  # or a process would wait for others that are done


def test_a_batch_that_can_not_be_shared(dataset: Path) -> None:
    with pytest.raises(HrrsiError, match=r"can't be shared out .* give a multiple of 2"):
        run_processes(quick(dataset, Path("runs"), devices=2, batch=3))


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "3"}
SLURM = {
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "4",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_PROCID": "3",
}


@pytest.mark.parametrize("variables", [TORCHRUN, SLURM], ids=["torchrun", "SLURM"])
def test_the_options_agree_with_who_started_the_processes(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    processes = run_processes(quick(dataset, Path("runs"), devices=2, nodes=2, batch=4))
    assert (processes.count, processes.rank) == (4, 3)
    assert not processes.is_first
    for devices, nodes in ((1, 1), (4, 1), (2, 1)):
        with pytest.raises(HrrsiError, match="give --devices 2 --nodes 2"):
            run_processes(quick(dataset, Path("runs"), devices=devices, nodes=nodes, batch=4))


def test_several_nodes_need_somebody_to_start_them(dataset: Path) -> None:
    with pytest.raises(HrrsiError, match="torchrun"):
        run_processes(quick(dataset, Path("runs"), nodes=2))


def test_synchronised_batchnorm_has_the_same_tensors() -> None:
    network = build_network("ued", 5)
    before = {key: value.shape for key, value in network.state_dict().items()}
    converted = convert_sync_batchnorm(network)
    assert {key: value.shape for key, value in converted.state_dict().items()} == before
    assert any(isinstance(m, torch.nn.SyncBatchNorm) for m in converted.modules())


def test_augmentation_depends_on_seed_epoch_and_patch_alone(dataset: Path) -> None:
    tiled = TiledDataset(dataset)
    options = quick(dataset, Path("unused"), batch=4)

    def images(**share: int) -> dict[int, bytes]:
        return {
            int(index): image.numpy().tobytes()
            for batch in training_batches(tiled, options, **share)
            for image, index in zip(batch[0], batch[2], strict=True)
        }

    alone = images(epoch=2)
    shared = images(epoch=2, processes=2) | images(epoch=2, processes=2, rank=1)
    assert shared == alone
    later = images(epoch=3)
    assert all(later[index] != alone[index] for index in later.keys() & alone.keys())
