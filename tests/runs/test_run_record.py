"""What a run leaves behind: metrics, TensorBoard, sample pictures, its environment."""

import csv
import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from samples.made_dataset import save_made_dataset
from samples.picture_panels import assert_striped, magnified, pixels_of, place_of, row_of_panels
from samples.undrawn_pictures import drawn_pictures
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner, Result

import hrrsi
from hrrsi.cli import app
from hrrsi.errors import HrrsiError
from hrrsi.networks.model_meta import hardware_text
from hrrsi.networks.weights_reading import load_model
from hrrsi.runs import loop
from hrrsi.runs.environment import hardware
from hrrsi.runs.folder import Position, write_checkpoint
from hrrsi.tiling.dataset import TiledDataset, read_image, read_label
from hrrsi.training.options import RECIPE_FIELDS, TrainOptions
from hrrsi.training.record import RunRecord
from hrrsi.training.run import dataset_digest
from hrrsi.training.sample_pictures import shown_patches

MODEL = "ued_bes_sfm-test_efficientnet"  # a fifth of the time with GhostNet
QUICK = [
    *("--batch", "4", "--workers", "0", "--lr", "0.01", "--quiet", "--model", MODEL),
]
UNTRAINED = ("--encoder-weights", "none")
MACHINE = "a-machine-with-a-name"
IGNORED = 255
SAMPLES = "_picture"  # what draws sample patches


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_made_dataset(tmp_path_factory.mktemp("data") / "dubai64", train=8, val=7)


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three epochs."""
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("socket.gethostname", "platform.node"):
            patch.setattr(name, lambda: MACHINE)
        with drawn_pictures(SAMPLES):
            result = train(dataset, "--out", out, "--epochs", 3)
    assert result.exit_code == 0, result.output
    (out / "said.txt").write_text(result.stdout)
    return out / MODEL


def train(dataset: Path, *arguments: object, start: tuple[object, ...] = UNTRAINED) -> Result:
    command = ["train", str(dataset), *QUICK, *map(str, (*start, *arguments))]
    return CliRunner().invoke(app, command)


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
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    assert set(scalars) == set(expected)
    for tag, values in scalars.items():
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
        assert {"lr", "val_seg_loss", "val_OA", "val_mF1"} < set(row)


def test_a_run_says_its_scores_and_ends_with_the_best_epoch_s_classes(run: Path) -> None:
    rows, lines = rows_of(run), (run.parent / "said.txt").read_text().splitlines()
    epochs = [line for line in lines if " epoch " in line and " | val mIoU " in line]
    for row, line in zip(rows, epochs, strict=True):
        scores = f"val mIoU {100 * row['val_mIoU']:.2f} OA {100 * row['val_OA']:.2f}"
        assert f" | {scores} segmentation {row['val_seg_loss']:.3f} | " in line
    best = max(rows, key=lambda row: row["val_mIoU"])
    title, *table = lines[lines.index(epochs[-1]) + 1 : -1]
    assert title == f"epoch {best['epoch']:.0f}, the best, validation, in percent:"
    shown = [line.strip("| ").split(" | ") for line in table if line.startswith("| ")]
    cells = [tuple(cell.strip() for cell in row) for row in shown]
    assert cells == [
        ("class", "IoU"),
        *(
            (key.removeprefix("val_IoU_"), "-" if math.isnan(iou) else f"{100 * iou:.2f}")
            for key, iou in best.items()
            if key.startswith("val_IoU_")
        ),
    ]


def test_a_checkpoint_is_no_weights_file(run: Path, dataset: Path, tmp_path: Path) -> None:
    best = run / "best.safetensors"
    words = f"last.ckpt: is the checkpoint that a run goes on from, not its weights; give {best}"
    with pytest.raises(HrrsiError, match=re.escape(words)):
        load_model(run / "last.ckpt")
    for option in ("--init", "--encoder-weights"):
        result = train(dataset, "--out", tmp_path, start=(option, run / "last.ckpt"))
        assert result.exit_code == 1
        assert words in result.stderr
    alone = shutil.copy(run / "last.ckpt", tmp_path)
    with pytest.raises(HrrsiError, match=r"give the best\.safetensors that the run leaves"):
        load_model(alone)


def test_weights_say_none_of_a_class_that_is_in_no_pixel(dataset: Path, tmp_path: Path) -> None:
    data = shutil.copytree(dataset, tmp_path / "data")
    described = yaml.safe_load((data / "dataset.yaml").read_text())
    more = range(20)  # so many that the network can't predict each of them somewhere
    described["classes"] += [f"absent {number}" for number in more]
    described["colours"] += [[250, 250, number] for number in more]
    described["class_frequencies"] += [0.0 for _ in more]
    for content in described["splits"].values():
        content["class_pixels"] += [0 for _ in more]
    (data / "dataset.yaml").write_text(yaml.safe_dump(described))
    result = train(data, "--out", tmp_path, "--epochs", 1, "--lr", 1e-9)
    assert result.exit_code == 0, result.output
    (weights,) = tmp_path.rglob("best.safetensors")
    with safe_open(weights, "pt") as file:
        text = file.metadata()["scores"]
    assert "NaN" not in text
    iou = json.loads(text)["validation"]["IoU"]
    assert None in iou.values()
    (row,) = rows_of(weights.parent)
    assert {name: math.isnan(row[f"val_IoU_{name}"]) for name in iou} == {
        name: value is None for name, value in iou.items()
    }


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
    assert training["patches"] == 8
    assert str(dataset) not in str(training)


def test_tensorboard_shows_the_metrics_and_the_pictures(run: Path) -> None:
    assert_tensorboard_shows(run)
    images = events_of(run).Images("samples")
    drawn = sorted((run / "samples").iterdir())
    assert [f"epoch_{image.step:04d}.png" for image in images] == [path.name for path in drawn]
    with Image.open(drawn[-1]) as picture:
        assert (images[-1].width, images[-1].height) == picture.size


def test_no_file_names_the_machine(run: Path) -> None:
    for path in run.rglob("*"):
        assert MACHINE not in path.name
        assert path.is_dir() or MACHINE.encode() not in path.read_bytes()


@pytest.mark.slow
def test_a_run_killed_after_an_epochs_record_has_one_curve(
    dataset: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_in_the_second_epoch(position: Position, content: Any, path: Path) -> None:
        if position.epoch == 2:
            raise RuntimeError("killed")
        write_checkpoint(position, content, path)

    arguments = ("--out", tmp_path, "--epochs", 3)
    with monkeypatch.context() as patch, drawn_pictures(SAMPLES):
        patch.setattr(loop, "write_checkpoint", fail_in_the_second_epoch)
        assert train(dataset, *arguments).exit_code == 1
    folder = tmp_path / MODEL
    # nothing that is read says more than the checkpoint, which knows of one epoch
    assert [row["epoch"] for row in rows_of(folder)] == [1]
    assert load_model(folder / "best.safetensors").meta["training"]["epoch"] == 1
    with drawn_pictures(SAMPLES):
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


def test_weights_that_a_killed_run_did_not_come_to_are_written_by_the_next(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise RuntimeError("killed")

    arguments = ("--out", tmp_path, "--epochs", 1)
    with monkeypatch.context() as patch:
        patch.setattr("hrrsi.training.record.save_weights", killed)
        assert train(dataset, *arguments).exit_code == 1
    folder = tmp_path / MODEL
    assert not (folder / "best.safetensors").exists()
    result = train(dataset, *arguments, "--resume")
    assert result.exit_code == 0, result.output
    assert [row["epoch"] for row in rows_of(folder)] == [1]
    assert (folder / "curves.png").is_file()
    trained = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    kept = load_model(folder / "best.safetensors").state_dict()
    assert all(
        torch.equal(trained[f"averaged_network.{key}"], value) for key, value in kept.items()
    )


def test_the_clock_of_an_epoch_goes_on_after_a_resume(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    options = TrainOptions(dataset)

    def later(seconds: float) -> None:
        now[0] += seconds

    first = RunRecord(options, TiledDataset(dataset), print, is_first=False)
    first.start_epoch()
    later(30)
    state = first.state()
    now[0] = 50.0  # another machine, switched on a minute ago
    second = RunRecord(options, TiledDataset(dataset), print, is_first=False)
    second.load_state(state)
    later(10)
    second.end_training()
    later(5)
    second.end_training()  # interrupted, and begun again
    matrix = SimpleNamespace(
        scores=lambda: SimpleNamespace(overall_accuracy=1, mean_f1=1, mean_iou=1, classes=())
    )
    task: Any = SimpleNamespace(
        dataset_scores=[matrix.scores()],
        mean_iou=1,
        losses={"loss": 1.0},
        validation_loss=1.0,
        epoch=0,
    )
    second.end_epoch(task, 0.1)
    assert second.rows[0]["seconds"] == 45
    assert second.rows[0]["images_per_second"] == 8 / 40


def test_sample_pictures_of_the_best_epochs_and_the_last(run: Path) -> None:
    best, expected = -1.0, []
    for row in rows_of(run):
        if row["val_mIoU"] > best:
            best = row["val_mIoU"]
            expected.append(int(row["epoch"]))
    names = [f"epoch_{epoch:04d}.png" for epoch in sorted({*expected, 3})]
    assert sorted(p.name for p in (run / "samples").iterdir()) == names


@pytest.mark.slow
def test_a_sample_picture_shows_what_the_best_weights_find(run: Path, dataset: Path) -> None:
    best = max(rows_of(run), key=lambda row: row["val_mIoU"])
    picture = pixels_of(run / "samples" / f"epoch_{best['epoch']:04.0f}.png")
    network = load_model(run / "best.safetensors")
    data = TiledDataset(dataset)
    meta, colours = network.meta, np.array(data.description.colours, dtype=np.uint8)
    mean, std = (torch.tensor(meta[key])[:, None, None] for key in ("mean", "std"))
    ignored_seen = 0
    for patch in shown_patches(data, TrainOptions(dataset)):
        image, label = read_image(patch, data.description), read_label(patch, data.description)
        with torch.inference_mode():
            normal = (torch.from_numpy(image.astype(np.float32)) / meta["scale"] - mean) / std
            maps = {k: v[0].numpy() for k, v in network(normal[None]).items()}
        classes = maps["lbl"].argmax(0)
        expected = magnified(image.transpose(1, 2, 0))
        place = place_of(expected, picture)
        _, truth, predicted, errors, edge, score = row_of_panels(picture, place, 6)
        ignored = magnified(label == IGNORED)
        ignored_seen += int(ignored.sum())
        is_labelled = ~ignored
        assert np.array_equal(
            truth[is_labelled], colours[magnified(np.where(label < 5, label, 0))][is_labelled]
        )
        assert (predicted == colours[magnified(classes)]).all(-1).mean() > 0.999
        wrong = magnified(label != classes) & is_labelled
        marked = (errors == (255, 0, 110)).all(-1)
        assert (marked == wrong).mean() > 0.999
        assert (np.ptp(errors[is_labelled & ~marked].astype(int), axis=-1) == 0).all()  # in grey
        if ignored.any():
            assert_striped(truth, ignored, colours)
            assert_striped(errors, ignored, colours)
        assert_brighter_where_higher(edge, magnified(1 / (1 + np.exp(-maps["edg"]))))
        assert_brighter_where_higher(score, maps["scr"].mean(0).repeat(12, 0).repeat(12, 1))
    assert ignored_seen, "no patch has ignored pixels"


def assert_brighter_where_higher(
    panel: npt.NDArray[np.uint8], values: npt.NDArray[np.floating[Any]]
) -> None:
    """Check a panel in a colour map whose lightness rises with the value."""
    lightness = panel.astype(float) @ (0.2126, 0.7152, 0.0722)
    order = np.argsort(values, axis=None)
    assert (np.diff(lightness.ravel()[order]) > -2).all()


def test_environment_holds_what_a_repeat_needs(run: Path, dataset: Path) -> None:
    content = yaml.safe_load((run / "environment.yaml").read_text())
    assert set(content) == {"dataset", "encoder_weights", "starts"}
    assert content["dataset"] == {"sha256": dataset_digest(TiledDataset(dataset)), "patches": 15}
    (start,) = content["starts"]
    assert set(start) == {
        *("resumed", "time", "command", "hrrsi", "versions", "system", "hardware", "threads"),
    }
    assert {"python", "torch", "timm", "lightning", "numpy", "imaug", "cuda"} <= set(
        start["versions"]
    )
    assert start["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"cpu", "cores", "memory_gb"} <= set(start["hardware"])
    assert start["threads"]["torch"] == torch.get_num_threads()
    assert start["hrrsi"]["version"] == hrrsi.__version__


def test_files_that_a_run_starts_from_are_digested(
    run: Path, dataset: Path, tmp_path: Path
) -> None:
    weights = run / "best.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    for name, option in (("init", "--init"), ("encoder_weights", "--encoder-weights")):
        out = tmp_path / name
        arguments = ("--out", out, "--epochs", 1, "--overfit", 4)
        result = train(dataset, *arguments, start=(option, weights))
        assert result.exit_code == 0, result.output
        content = yaml.safe_load((out / f"{MODEL}-overfit" / "environment.yaml").read_text())
        assert content[name] == {"name": "best.safetensors", "sha256": digest}
        first, second = result.output.splitlines()[:2]
        if name == "init":
            assert first.startswith(f"weights: best.safetensors ({weights}), {MODEL}, ")
            assert second.startswith("kept 100")
        else:
            assert first.startswith("encoder weights: ")
        training = load_model(out / f"{MODEL}-overfit" / "best.safetensors").meta["training"]
        named = {key: training[key] for key in ("init", "encoder_weights")}
        assert named == {"init": None, "encoder_weights": None, name: "best.safetensors"}


def changed_pixel(folder: Path) -> None:
    path = sorted((folder / "train" / "label").iterdir())[0]
    with Image.open(path) as image:
        image.putpixel((0, 0), (image.getpixel((0, 0)) + 1) % 5)
        image.save(path)


def renamed_patch(folder: Path) -> None:
    for kind in ("image", "label"):
        path = sorted((folder / "val" / kind).iterdir())[-1]
        path.rename(path.with_stem("zzz"))


def described_otherwise(folder: Path) -> None:
    path = folder / "dataset.yaml"
    path.write_text(path.read_text() + "\n")


@pytest.mark.parametrize("change", [changed_pixel, renamed_patch, described_otherwise])
def test_another_dataset_has_another_digest_and_is_not_resumed_on(
    change: Callable[[Path], None], dataset: Path, run: Path, tmp_path: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "runs"
    shutil.copytree(dataset, data)
    shutil.copytree(run, out / MODEL)
    (data / "train" / "image" / "viewer.png.aux.xml").write_text("<PAMDataset/>")
    before = dataset_digest(TiledDataset(data))
    assert before == dataset_digest(TiledDataset(dataset))
    change(data)
    assert dataset_digest(TiledDataset(data)) != before
    kept = (out / MODEL / "environment.yaml").read_bytes()
    result = train(data, "--out", out, "--epochs", 3, "--resume")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {data}: its content is not what the run in ")
    assert "--overwrite" in line
    assert (out / MODEL / "environment.yaml").read_bytes() == kept


def test_the_whole_run_can_be_repeated_from_its_folder(run: Path, tmp_path: Path) -> None:
    arguments = ["train", "--config", str(run / "config.yaml"), "--out", str(tmp_path), "--quiet"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    for row, before in zip(rows_of(tmp_path / MODEL), rows_of(run), strict=True):
        for name in set(row) - {"seconds", "images_per_second"}:
            np.testing.assert_equal(row[name], before[name])
    repeated = tmp_path / MODEL / "best.safetensors"
    assert repeated.read_bytes() == (run / "best.safetensors").read_bytes()


def test_a_run_folder_says_what_it_holds(run: Path, dataset: Path) -> None:
    result = CliRunner().invoke(app, ["info", str(run)])
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    best = max(rows_of(run), key=lambda row: row["val_mIoU"])
    for words in (
        f"{run}: training run",
        f"network {MODEL}",
        f"{dataset}, 15 patches",
        "done 3 of 3 epochs",
        f"best epoch {best['epoch']:.0f}: validation mIoU {best['val_mIoU']:.2%}",
        " ".join(f"on {hardware_text(hardware())}".split()),
        f"hrrsi {hrrsi.__version__}, python ",
        "weights best.safetensors",
    ):
        assert words in text
    document = json.loads(CliRunner().invoke(app, ["info", str(run), "--format", "json"]).stdout)
    assert document["epochs"][-1]["epoch"] == 3
    assert document["config"]["model"] == MODEL
