"""Networks taught by others, with labels and without: teachers, runs, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from samples.made_dataset import save_made_dataset
from samples.made_weights import save_made_weights
from samples.training_runs import assert_same_run, quick, quietly, rows_of
from typer.testing import CliRunner, Result

from hrrsi.cli import app
from hrrsi.errors import InputError, OptionError, WeightsError
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.weights import load_network, save_weights
from hrrsi.networks.weights_reading import load_model
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.training.distillation import FeatureMatching, Teachers, Teaching
from hrrsi.training.module import SegmentationTraining
from hrrsi.training.options import TrainOptions, recipe_named
from hrrsi.training.patch_batches import patch_weights, training_batches
from hrrsi.training.run_checks import training_warnings


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_made_dataset(tmp_path_factory.mktemp("data") / "dubai64", train=4, val=2)


@pytest.fixture(scope="module")
def unlabelled(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same patches, of which those to train on have no labels."""
    folder = save_made_dataset(tmp_path_factory.mktemp("data") / "bare64", train=4, val=2)
    for path in (folder / "train" / "label").iterdir():
        with Image.open(path) as label:
            bare = label.point([255] * 256)
            bare.putpalette(label.getpalette() or [])
        bare.save(path)
    content = yaml.safe_load((folder / "dataset.yaml").read_text())
    train = content["splits"]["train"]
    train["ignored_pixels"] += sum(train["class_pixels"])
    train["class_pixels"], train["labels"] = [0] * 5, "none"
    content["class_frequencies"] = [0.0] * 5
    (folder / "dataset.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_made_weights(tmp_path_factory.mktemp("weights") / "large.safetensors")


def changed(teacher: Path, path: Path, seed: int = 0, **changes: object) -> Path:
    """Save a teacher with other words about itself, and weights that differ a little."""
    network, meta = load_network(teacher)
    torch.manual_seed(seed)
    with torch.no_grad():
        network.seg_out[-1].bias += torch.randn(len(meta.classes))
    save_weights(network.state_dict(), replace(meta, **changes), path)
    return path


def plain_probabilities(
    path: Path, pixels: torch.Tensor, scale: float, classes: list[str], temperature: float
) -> torch.Tensor:
    """A teacher's probabilities of pixels (N, bands, H, W), read from its file as predict would."""
    network = load_model(path)
    meta: ModelMeta = network.meta
    gain, offset = map(torch.from_numpy, meta.normalisation(scale))
    with torch.no_grad():
        logits = network(pixels * gain + offset)["lbl"][:, [meta.classes.index(c) for c in classes]]
    return (logits / temperature).softmax(1)


def test_teachers_see_pixels_by_their_own_normalisation_and_name_classes_in_any_order(
    dataset: Path, teacher: Path, tmp_path: Path
) -> None:
    description = TiledDataset(dataset).description.model_copy(
        # as a dataset of 11 bits has it, whose bands are normalised otherwise
        update={"dtype": "uint16", "scale": 2047.0, "mean": [0.3, 0.2, 0.4], "std": [0.1, 0.2, 0.3]}
    )
    names = load_model(teacher).meta["classes"]
    assert names == description.classes
    other = changed(
        teacher,
        tmp_path / "other.safetensors",
        classes=names[::-1],
        mean=[0.2, 0.5, 0.4],
        scale=1.0,
    )
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 2048, (2, 3, 64, 96))).float()
    options = quick(dataset, tmp_path)
    teachers = Teachers([teacher, other], description, options.recipe)
    student = SegmentationTraining(
        load_model(teacher), options, description, steps=1, teachers=teachers
    )
    teaching, maps = teachers.teaching(student.normalised(pixels))
    assert not maps
    expected = [plain_probabilities(path, pixels, 2047.0, names, 2.0) for path in (teacher, other)]
    assert (expected[0] - expected[1]).abs().max() > 0.1
    torch.testing.assert_close(teaching, (expected[0] + expected[1]) / 2, rtol=1e-3, atol=1e-4)
    assert not any("teach" in key for key in student.state_dict())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"classes": ["Building", "Land", "Tree", "Car", "Water"]},
            ["does not know Road, Vegetation and knows Tree, Car, which the dataset does not have"],
        ),
        ({"bands": [1, 2], "height": True}, ["sees band 1, band 2, height", "hold band 1, band 2"]),
    ],
)
def test_teachers_of_other_classes_or_bands_are_refused(
    changes: dict[str, object], words: list[str], dataset: Path, teacher: Path, tmp_path: Path
) -> None:
    other = changed(teacher, tmp_path / "other.safetensors", **changes)
    with pytest.raises(WeightsError) as raised:
        quietly(quick(dataset, tmp_path, teachers=(other,)))
    for word in words:
        assert word in str(raised.value)
    assert not (tmp_path / "ued").exists()


@pytest.mark.parametrize(
    ("numbers", "shown", "words"),
    [
        (
            [1, 2, 3],
            ["near infrared", "red", "green"],
            "saw near infrared, red, green where the patches hold red, green, blue, taken in",
        ),
        ([4, 1, 2], ["red", "green", "blue"], None),
        ([4, 1, 2], None, "saw band 4, band 1, band 2 where the patches hold band 1, band 2"),
    ],
)
def test_bands_of_teachers_are_compared_by_what_they_show(
    numbers: list[int],
    shown: list[str] | None,
    words: str | None,
    dataset: Path,
    teacher: Path,
    tmp_path: Path,
) -> None:
    about = {"bands": numbers, "band_meanings": shown, "scheme": "town"}
    other = changed(teacher, tmp_path / "other.safetensors", **about)
    tiled = TiledDataset(dataset)
    colours = {"band_meanings": ("red", "green", "blue")}
    tiled.description = tiled.description.model_copy(update=colours)
    lines = training_warnings(quick(dataset, tmp_path, teachers=(other,)), tiled)
    assert len(lines) == (words is not None)
    assert words is None or words in lines[0]


@pytest.mark.parametrize(("resolution", "is_warned"), [(0.25, False), (0.8, False), (0.1, True)])
def test_teachers_of_a_range_of_resolutions_know_all_of_it(
    resolution: float, is_warned: bool, dataset: Path, teacher: Path, tmp_path: Path
) -> None:
    about = {"resolution": 0.45, "resolutions": [0.25, 0.8]}
    other = changed(teacher, tmp_path / "other.safetensors", **about)
    tiled = TiledDataset(dataset)
    tiled.description = tiled.description.model_copy(update={"resolution": resolution})
    lines = training_warnings(quick(dataset, tmp_path, teachers=(other,)), tiled)
    assert [line for line in lines if "learned from" in line] == (lines if is_warned else [])
    assert bool(lines) == is_warned


def test_teachers_that_saw_other_ground_are_warned_of(
    dataset: Path, teacher: Path, tmp_path: Path
) -> None:
    other = changed(teacher, tmp_path / "other.safetensors", bands=[3, 2, 1], resolution=0.05)
    tiled = TiledDataset(dataset)
    tiled.description = tiled.description.model_copy(update={"resolution": 0.3})
    lines = training_warnings(quick(dataset, tmp_path, teachers=(teacher, other)), tiled)
    assert len(lines) == 2
    assert "saw blue, green, red where the patches hold red, green, blue, taken in" in lines[0]
    assert "learned from 5 cm a pixel where the patches are seen at about 30 cm" in lines[1]
    # drawn at what the second one saw, the patches are like its own
    scaled = quick(dataset, tmp_path, teachers=(other,), resolutions=(0.04, 0.06))
    tiled.description = tiled.description.model_copy(update={"resolution": 0.08})
    assert training_warnings(scaled, tiled) == [lines[0]]


def stop_in_second_epoch(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = SegmentationTraining.forward

    def stop(task: SegmentationTraining, batch: object) -> torch.Tensor:
        if task.epoch == 1:
            raise KeyboardInterrupt
        return forward(task, batch)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationTraining, "forward", stop)
        with pytest.raises(KeyboardInterrupt):
            quietly(options)


@pytest.mark.slow
def test_a_run_without_labels_learns_from_teachers_and_resumes_bit_for_bit(
    unlabelled: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = quick(unlabelled, tmp_path / "whole", teachers=(teacher,), sampling="rare")
    run, lines = quietly(options)
    rows = rows_of(run.folder)
    assert [float(row["segmentation_loss"]) for row in rows] == [0, 0]
    assert [row["loss"] for row in rows] == [row["distillation_loss"] for row in rows]
    assert float(rows[0]["distillation_loss"]) > 0
    assert lines[0].startswith(f"weights: teacher large.safetensors ({teacher}), ued_bes_sfm, ")
    assert "distillation" in lines[1]
    meta = load_model(run.weights).meta
    environment = yaml.safe_load((run.folder / "environment.yaml").read_text())
    assert meta["training"]["teachers"] == environment["teachers"]
    assert environment["teachers"][0]["name"] == "large.safetensors"
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert config["teachers"] == [str(teacher)]
    info = CliRunner().invoke(app, ["info", str(run.weights)])
    assert "large.safetensors; distillation 1, temperature 2" in info.output

    stopped = replace(options, out=tmp_path / "stopped")
    stop_in_second_epoch(stopped, monkeypatch)
    other = changed(teacher, tmp_path / "large.safetensors")
    with pytest.raises(InputError, match="was started with large"):
        quietly(replace(stopped, teachers=(other,)), resume=True)
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(teacher.read_bytes())
    resumed, _ = quietly(replace(stopped, teachers=(moved,)), resume=True)
    assert_same_run(resumed.folder, run.folder)


def test_labels_and_teachers_teach_together(dataset: Path, teacher: Path, tmp_path: Path) -> None:
    options = quick(dataset, tmp_path, teachers=(teacher,), distillation=0.5, epochs=1)
    run, _ = quietly(options)
    (row,) = rows_of(run.folder)
    parts = [float(row[f"{name}_loss"]) for name in ("segmentation", "distillation")]
    assert min(parts) > 0
    assert float(row["loss"]) == pytest.approx(sum(parts), rel=1e-6)


def train(*arguments: object) -> Result:
    quickly = ["--encoder-weights", "none", "--device", "cpu", "--workers", "0", "--quiet"]
    return CliRunner().invoke(app, ["train", *map(str, arguments), *quickly])


def test_data_without_labels_and_teachers_are_refused_in_one_line(
    unlabelled: Path, tmp_path: Path
) -> None:
    result = train(unlabelled, "--out", tmp_path)
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"error: {unlabelled}: has no labels to learn from; ")
    assert "--teacher" in line


def test_a_dry_run_says_the_teachers_and_what_they_cost(
    unlabelled: Path, teacher: Path, tmp_path: Path
) -> None:
    result = train(
        unlabelled, "--model", "ued", "--teacher", teacher, "--out", tmp_path, "--dry-run"
    )
    assert result.exit_code == 0, result.output
    (line,) = [s for s in result.output.splitlines() if s.startswith("teachers ")]
    assert "large.safetensors (ued_bes_sfm, " in line
    assert "distillation 1, temperature 2, features 0; " in line
    assert line.endswith(" s of a step")
    assert "0 % of the pixels of train" in result.output


def test_no_distillation_leaves_nothing_to_learn_from_teachers(teacher: Path) -> None:
    recipe = recipe_named("default", distillation=0.0)
    with pytest.raises(OptionError, match="`distillation`: 0 leaves nothing to learn"):
        TrainOptions(Path("dataset"), recipe=recipe, teachers=(teacher,))
    with pytest.raises(OptionError, match="`temperature`: 0 is not possible"):
        recipe_named("default", temperature=0.0)


def test_distillation_without_teachers_is_warned_of(dataset: Path, tmp_path: Path) -> None:
    options = quick(dataset, tmp_path, temperature=3.0)
    (line,) = training_warnings(options, TiledDataset(dataset))
    assert line == "`temperature=3`: has no effect without `teachers`"


def test_patches_without_labels_are_sampled_as_the_others_where_teachers_know_them(
    dataset: Path, unlabelled: Path, tmp_path: Path
) -> None:
    assert patch_weights(TiledDataset(unlabelled)).tolist() == [0.25] * 4
    partly = save_made_dataset(tmp_path / "partly", train=4, val=2)
    first, *_ = TiledDataset(partly).patches("train")
    Image.new("L", (64, 64), 255).save(first.label)
    assert patch_weights(TiledDataset(partly))[0] < 0.01
    taught = patch_weights(TiledDataset(partly), taught=True)
    assert taught[0] == pytest.approx(taught[1:].mean())
    assert taught.sum() == pytest.approx(1)


def test_teachers_see_the_very_crop_that_the_network_sees(
    dataset: Path, teacher: Path, tmp_path: Path
) -> None:
    options = quick(dataset, tmp_path, teachers=(teacher,), crop=32)
    tiled = TiledDataset(dataset)
    teachers = Teachers(options.teachers, tiled.description, options.recipe)
    task = SegmentationTraining(
        load_model(teacher), options, tiled.description, steps=1, teachers=teachers
    )
    network_inputs: list[torch.Tensor] = []
    task.network.register_forward_pre_hook(lambda _, inputs: network_inputs.append(inputs[0]))
    shown: list[torch.Tensor] = []
    inner = teachers.teaching

    def spy(pixels: torch.Tensor) -> Teaching:
        shown.append(pixels)
        return inner(pixels)

    teachers.teaching = spy  # type: ignore[method-assign]  # to look at what it gets
    with training_batches(tiled, options) as batches:
        task(next(iter(batches)))
    assert network_inputs[0].shape[-2:] == (32, 32)
    assert torch.equal(network_inputs[0], shown[0])


def test_feature_matching_against_its_plain_reading() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, c, 4, 3, dtype=torch.float64) for c in (2, 3)]
    targets = [torch.randn(2, c, 4, 3, dtype=torch.float64) * 5 + 2 for c in (4, 1)]
    matching = FeatureMatching((2, 3), [(4, 1)]).double()
    strides = []
    for convolution, ours, theirs in zip(matching.projections[0], maps, targets, strict=True):
        differences = []
        for channel in range(theirs.shape[1]):
            values = theirs[:, channel]
            target = (values - values.mean()) / values.std(correction=0)
            weight, bias = convolution.weight[channel, :, 0, 0], convolution.bias[channel]
            mapped = sum(w * ours[:, i] for i, w in enumerate(weight)) + bias
            differences.append((mapped - target) ** 2)
        strides.append(torch.stack(differences).mean())
    expected = torch.stack(strides).mean()
    # in single precision, as targets are normalised
    torch.testing.assert_close(matching(maps, [targets]).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_an_encoder_learns_the_maps_of_a_teacher_of_other_classes(
    dataset: Path, teacher: Path, tmp_path: Path
) -> None:
    run, _ = quietly(taught_by_maps(dataset, teacher, tmp_path))
    rows = rows_of(run.folder)
    assert 0 < float(rows[1]["feature_loss"]) < float(rows[0]["feature_loss"])
    assert "distillation_loss" not in rows[0]
    assert load_model(run.weights).meta["training"]["features"] == 2  # and no tensor beside


def taught_by_maps(dataset: Path, teacher: Path, folder: Path) -> TrainOptions:
    other = changed(teacher, folder / "other.safetensors", classes=list("abcde"))
    return quick(dataset, folder / "whole", teachers=(other,), distillation=0.0, features=2.0)


@pytest.mark.slow  # resumed with a teacher: above
def test_a_run_taught_by_maps_is_resumed_bit_for_bit(
    dataset: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = taught_by_maps(dataset, teacher, tmp_path)
    run, _ = quietly(options)
    stopped = replace(options, out=tmp_path / "stopped")
    stop_in_second_epoch(stopped, monkeypatch)
    resumed, _ = quietly(stopped, resume=True)
    assert_same_run(resumed.folder, run.folder)


def test_baselines_have_no_maps_to_learn(dataset: Path, teacher: Path, tmp_path: Path) -> None:
    options = quick(dataset, tmp_path, model="unet", teachers=(teacher,), features=1.0)
    with pytest.raises(WeightsError, match="`model=unet`: its encoder does not yield the maps"):
        quietly(options)
