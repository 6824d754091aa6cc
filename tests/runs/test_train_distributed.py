"""Two processes on the CPU train as one would, and validate every patch once."""

import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from samples.made_dataset import save_made_dataset
from samples.recorded_training import recording_methods
from samples.training_runs import assert_same_run, quick, quietly, rows_of, weights_of

from hrrsi.errors import HrrsiError
from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights_reading import load_model
from hrrsi.runs.options import LAST_CHECKPOINT
from hrrsi.runs.processes import run_processes
from hrrsi.tiling.dataset import TiledDataset, read_label
from hrrsi.training.initial_weights import convert_sync_batchnorm, first_network
from hrrsi.training.module import SegmentationTraining
from hrrsi.training.patch_batches import (
    EpochOrder,
    ProcessBatches,
    training_batches,
    validation_batches,
)
from hrrsi.training.run_checks import check_run

pytestmark = pytest.mark.slow

SAMPLES = Path(__file__).parents[1] / "samples"
ONE_PROCESS_EACH = {"OMP_NUM_THREADS": "1"}
QUICK = (
    "--device cpu --devices 2 --batch 4 --encoder-weights none --workers 0 --precision 32 --quiet"
)
PUBLISHED = {"augmentation": "none", "epochs": 1, "lr": 0.02}
DEFAULT = {"epochs": 2, "freeze_encoder": 1}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_made_dataset(tmp_path_factory.mktemp("data") / "dubai64", train=9, val=7)


def command(dataset: Path, out: Path, recipe: str, **options: Any) -> str:
    """Return a command line that trains in two processes."""
    more = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in options.items())
    return f"train {dataset} --out {out} --recipe {recipe} {QUICK} {more}"


def recorded(records: Path, *lines: str) -> list[str]:
    """Return the program that runs command lines and records their training."""
    return [str(SAMPLES / "recorded_training.py"), str(records), *lines]


def finished(program: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **ONE_PROCESS_EACH}
    return subprocess.run(program, capture_output=True, text=True, timeout=240, env=environment)


class TwoProcesses(NamedTuple):
    """What two processes left: runs, what was recorded of them, and what was printed.

    Attributes:
        truncated: The patch that the second process alone could not read, in the last run.
    """

    published: Path
    default: Path
    records: Path
    printed: subprocess.CompletedProcess[str]
    truncated: Path

    def counts(self, model: str, recipe: str, rank: int, epoch: int) -> npt.NDArray[np.int64]:
        counts: npt.NDArray[np.int64] = np.load(
            self.records / f"{model}-{recipe}-{rank}-{epoch}.npy"
        )
        return counts


@pytest.fixture(scope="module")
def two_processes(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> TwoProcesses:
    """Two networks trained one after the other by two processes: starting them takes longest.

    A third training fails.
    """
    folder = tmp_path_factory.mktemp("runs")
    data = shutil.copytree(dataset, folder / "data")
    # validated by the second process: the first has the patches before and after it
    truncated = sorted((data / "val" / "image").iterdir())[1]
    truncated.write_bytes(truncated.read_bytes()[:700])
    lines = [
        command(dataset, folder / "published", "published", model="ued_bes_sfm", **PUBLISHED),
        command(dataset, folder / "default", "default", model="ued", **DEFAULT),
        command(data, folder / "failed", "default", model="ued", epochs=1),
    ]
    result = finished([sys.executable, *recorded(folder, *lines)])
    assert (folder / "default" / "ued" / "best.safetensors").is_file(), result.stderr
    return TwoProcesses(folder / "published", folder / "default", folder, result, truncated)


RUNS = [("ued_bes_sfm", "published"), ("ued", "default")]


@pytest.mark.parametrize(("model", "recipe"), RUNS)
def test_two_processes_count_what_one_does(
    dataset: Path, two_processes: TwoProcesses, model: str, recipe: str
) -> None:
    out = two_processes.published if recipe == "published" else two_processes.default
    rows = rows_of(out / model)
    best = max(range(len(rows)), key=lambda epoch: float(rows[epoch]["val_mIoU"]))
    options = quick(dataset, out, recipe=recipe, model=model, precision="32")
    tiled = TiledDataset(dataset)
    network = load_model(out / model / "best.safetensors")
    alone = SegmentationTraining(network, options, tiled.description, steps=1).eval()
    with torch.no_grad():
        for batch in validation_batches(tiled, options):
            alone.validate(batch)
    alone.end_validation()
    assert alone.matrix.pixels == 7 * 64 * 64 - ignored_pixels(tiled)
    for rank in (0, 1):
        counts = two_processes.counts(model, recipe, rank, best + 1)
        np.testing.assert_array_equal(counts, alone.matrix.counts)
    assert float(rows[best]["val_OA"]) == alone.matrix.scores().overall_accuracy
    assert float(rows[best]["val_seg_loss"]) == pytest.approx(alone.validation_loss, rel=1e-5)


def ignored_pixels(dataset: TiledDataset) -> int:
    labels = [read_label(patch, dataset.description) for patch in dataset.patches("val")]
    return sum(int((label == 255).sum()) for label in labels)


def test_two_processes_learn_what_one_does(
    dataset: Path,
    two_processes: TwoProcesses,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = "ued_bes_sfm"
    for name, method in recording_methods(tmp_path).items():
        monkeypatch.setattr(SegmentationTraining, name, method)
    options = quick(
        dataset, tmp_path, recipe="published", model=model, batch=4, precision="32", **PUBLISHED
    )
    quietly(options)
    alone, *both = (
        [set(line.split()) for line in path.read_text().splitlines()]
        for path in (
            tmp_path / f"{model}-published-0.txt",
            two_processes.records / f"{model}-published-0.txt",
            two_processes.records / f"{model}-published-1.txt",
        )
    )
    assert [len(seen) for seen in alone] == [4, 4]
    assert all(len(seen) == 2 for share in both for seen in share)
    assert [first | second for first, second in zip(*both, strict=True)] == alone
    # the same steps but for the order of sums: gradients are averaged, and edges are balanced
    # over the batches of both
    start = first_network(options, TiledDataset(dataset), resume=False, report=print).state_dict()
    expected = weights_of(options.run_folder / LAST_CHECKPOINT)
    tensors = weights_of(two_processes.published / model / LAST_CHECKPOINT)
    assert tensors.keys() == expected.keys()
    for key, value in start.items():
        if value.is_floating_point():
            moved = expected[f"network.{key}"] - value
            difference = tensors[f"network.{key}"] - expected[f"network.{key}"]
            assert difference.norm() <= 1e-3 * moved.norm() + 1e-7, key


def test_only_the_first_process_speaks(two_processes: TwoProcesses) -> None:
    result = two_processes.printed
    warned = [line for line in result.stderr.splitlines() if line and "error: " not in line]
    assert len(warned) == len(set(warned)) == result.stderr.count("--freeze-encoder"), warned
    for words in ("ued_bes_sfm epoch 1/1", "ued epoch 1/2", "ued epoch 2/2"):
        assert result.stdout.count(words) == 1, result.stdout
    assert result.stdout.count("weights in") == 2


def test_what_one_process_finds_alone_is_said_once(two_processes: TwoProcesses) -> None:
    result = two_processes.printed
    assert result.returncode == 1
    (error,) = (line for line in result.stderr.splitlines() if "error: " in line)
    assert result.stderr.splitlines()[-1] == error
    assert two_processes.truncated.name in error


def test_images_seen_are_those_of_all_processes(two_processes: TwoProcesses) -> None:
    # two steps of four an epoch
    assert rows_of(two_processes.published / "ued_bes_sfm")[0]["images_seen"] == "8"
    assert rows_of(two_processes.default / "ued")[1]["images_seen"] == "16"


def test_a_run_that_exists_is_refused_before_others_are_started(
    dataset: Path, two_processes: TwoProcesses
) -> None:
    with pytest.raises(HrrsiError, match="holds a run already"):
        check_run(quick(dataset, two_processes.default, model="ued", devices=2, batch=4))


@pytest.mark.slow  # errors of one process alone: above
def test_an_error_in_training_is_one_line(dataset: Path, tmp_path: Path) -> None:
    line = command(dataset, tmp_path, "published", model="ued", lr=1e30, epochs=50)
    result = finished([sys.executable, "-m", "hrrsi", *line.split()])
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "the loss is" in result.stderr
    assert (tmp_path / "ued" / "nan_batch.safetensors").is_file()


@pytest.mark.slow  # kills and resumes: test_train_resume.py; two processes: below
def test_killed_in_the_middle_of_an_epoch_and_resumed_by_torchrun(
    dataset: Path, two_processes: TwoProcesses, tmp_path: Path
) -> None:
    line = command(dataset, tmp_path, "default", model="ued", **DEFAULT)
    process = subprocess.Popen(
        [sys.executable, *recorded(tmp_path, line)],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, **ONE_PROCESS_EACH},
    )
    checkpoint = tmp_path / "ued" / LAST_CHECKPOINT
    deadline = time.monotonic() + 240
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    position = torch.load(checkpoint, weights_only=True)["position"]
    assert (position["epoch"], position["batches"]) < (2, 0)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    resumed = finished([sys.executable, *torchrun, *recorded(tmp_path, f"{line} --resume")])
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("ued epoch 2/2") == 1
    assert_same_run(tmp_path / "ued", two_processes.default / "ued")


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("rare", [False, True])
def test_processes_share_the_batches_of_one(processes: int, rare: bool) -> None:
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
    patches, lengths = [], set()
    for rank in range(processes):
        loader = validation_batches(tiled, options, rank=rank, processes=processes)
        lengths.add(len(loader))
        for images, labels in loader:
            for image, label in zip(images, labels, strict=True):
                if not bool((label == 255).all()):
                    patches.append((image.numpy().tobytes(), label.numpy().tobytes()))
    assert sorted(patches) == expected
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
        with pytest.raises(HrrsiError, match="give `devices=2` `nodes=2`"):
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
