"""Several tiled datasets as one: classes by name, statistics, patches and draws of each."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from samples.drawn_dataset import save_drawn_dataset
from samples.training_runs import quick

from hrrsi.errors import HrrsiError, InputError, OptionError
from hrrsi.evaluation.scores import ConfusionMatrix
from hrrsi.labels.scheme import PartialLabel
from hrrsi.tiling.dataset import TiledDataset, read_image, read_label
from hrrsi.training.module import defined_mean, scores_of_shown_classes
from hrrsi.training.options import TrainOptions
from hrrsi.training.patch_batches import (
    EpochOrder,
    patch_weights,
    training_batches,
    validation_batches,
)
from hrrsi.training.run_checks import check_run, planned_run, training_warnings
from hrrsi.training.run_data import RunData, distinct_names, run_data

TOWN = ["Building", "Road", "Vegetation"]


@pytest.fixture
def town(tmp_path: Path) -> Path:
    return save_drawn_dataset(
        tmp_path / "town",
        TOWN,
        train=6,
        resolution=0.3,
        mean=[0.2, 0.3, 0.4],
        std=[0.1, 0.1, 0.1],
        class_frequencies=[0.5, 0.3, 0.2],
    )


@pytest.fixture
def outlines(tmp_path: Path) -> Path:
    """Names in another order and case, a class more, and what is no building."""
    return save_drawn_dataset(
        tmp_path / "outlines",
        ["vegetation", "road", "water", "building"],
        train=4,
        size=64,
        resolution=0.1,
        seed=1,
        mean=[0.6, 0.3, 0.2],
        std=[0.3, 0.1, 0.2],
        class_frequencies=[0.1, 0.2, 0.3, 0.4],
        partial={"no building": ["vegetation", "road", "water"]},
    )


def data_of(*folders: Path, mix: tuple[float, ...] = ()) -> RunData:
    return RunData([TiledDataset(folder) for folder in folders], mix)


def test_classes_are_matched_by_name(town: Path, outlines: Path) -> None:
    data = data_of(town, outlines)
    about = data.description
    assert about.classes == ["Building", "Road", "Vegetation", "water"]
    assert about.colours[:3] == TiledDataset(town).description.colours
    assert about.label_names[4:] == ["no building"]
    assert about.candidates[4:] == [[1, 2, 3]]
    own = TiledDataset(outlines)
    indices = {0: 2, 1: 1, 2: 3, 3: 0, 4: 4, 255: 255}
    seen = set()
    for patch, plain in zip(data.patches("train")[6:], own.patches("train"), strict=True):
        image, label = data.read(patch)
        before = read_label(plain, own.description)
        assert image.dtype == np.uint8
        assert (image == read_image(plain, own.description)).all()
        assert label.dtype == np.uint8
        assert (label == np.vectorize(indices.get)(before)).all()
        assert patch.name == f"outlines/{plain.name}"
        seen |= set(np.unique(before))
    assert seen >= {0, 4, 255}


def test_pixels_of_the_splits_add_up(town: Path, outlines: Path) -> None:
    data = data_of(town, outlines)
    counts = np.zeros(256, dtype=np.int64)
    for patch in data.patches("train"):
        counts += np.bincount(data.read_label(patch).ravel(), minlength=256)
    content = data.description.splits["train"]
    assert content.label_pixels == counts[:5].tolist()
    assert content.ignored_pixels == counts[255]
    assert content.patches == 10
    assert content.scenes == ["town/scene", "outlines/scene"]


@pytest.mark.parametrize(("mix", "shares"), [((), (0.6, 0.4)), ((1, 3), (0.25, 0.75))])
def test_statistics_are_those_of_the_draws(
    town: Path, outlines: Path, mix: tuple[float, ...], shares: tuple[float, float]
) -> None:
    about = data_of(town, outlines, mix=mix).description
    a, b = shares
    np.testing.assert_allclose(about.mean, [a * 0.2 + b * 0.6, 0.3, a * 0.4 + b * 0.2])
    second = a * (0.1**2 + 0.2**2) + b * (0.3**2 + 0.6**2)
    assert about.std[0] == pytest.approx((second - about.mean[0] ** 2) ** 0.5)
    a, b = a * (1 - 4 / 48**2), b * (1 - 4 / 64**2)  # four pixels of a patch have no label
    expected = np.array([a * 0.5 + b * 0.4, a * 0.3 + b * 0.2, a * 0.2 + b * 0.1, b * 0.3])
    np.testing.assert_allclose(about.class_frequencies, expected / expected.sum())
    assert about.resolution == pytest.approx(0.3**0.5 * 0.1**0.5, abs=1e-6)


def with_train(folder: Path, **changes: object) -> Path:
    """Make a dataset say something else of its training patches."""
    about = TiledDataset(folder).description
    train = about.splits["train"].model_copy(update=changes)
    about = about.model_copy(update={"splits": {**about.splits, "train": train}})
    (folder / "dataset.yaml").write_text(about.to_yaml())
    return folder


def test_few_labels_count_as_few(town: Path, outlines: Path) -> None:
    pixels = [100, 200, 300, 400]
    with_train(outlines, class_pixels=pixels, partial_pixels=[0], ignored_pixels=99_000)
    about = data_of(town, outlines, mix=(1, 1)).description
    town_share = 1 - 4 / 48**2
    expected = np.array([0.5, 0.3, 0.2, 0]) * town_share + 0.01 * np.array([0.4, 0.2, 0.1, 0.3])
    np.testing.assert_allclose(about.class_frequencies, expected / expected.sum())


def test_what_is_not_drawn_from_is_not_trained_on(town: Path, outlines: Path) -> None:
    about = data_of(town, outlines, mix=(1, 0)).description
    assert about.splits["train"].scenes == ["town/scene"]
    assert about.splits["train"].patches == 6
    assert about.splits["val"].scenes == ["town/scene", "outlines/scene"]
    assert about.resolution == 0.3
    assert about.classes == ["Building", "Road", "Vegetation", "water"]


def test_no_two_classes_or_partial_labels_have_one_colour(town: Path, outlines: Path) -> None:
    # the third class of either dataset is blue there
    about = data_of(town, outlines).description
    assert about.colours[:3] == TiledDataset(town).description.colours
    assert len({*about.colours, *about.label_colours}) == len(about.label_names) == 5


def test_values_are_brought_to_the_first_scale(tmp_path: Path, town: Path) -> None:
    other = save_drawn_dataset(
        tmp_path / "satellite", TOWN, dtype="uint16", scale=10000, mean=[0.1] * 3, std=[0.2] * 3
    )
    data = data_of(town, other)
    assert (data.description.dtype, data.description.scale) == ("uint8", 255)
    for patch in data.patches("val"):
        source = data.sources[data.source_index(patch)]
        plain = read_image(patch, source.description)
        image, _ = data.read(patch)
        assert image.dtype == np.float32
        np.testing.assert_allclose(image / 255, plain / source.description.scale, rtol=1e-6)
    assert data.description.mean == pytest.approx([0.6 * 0.2 + 0.4 * 0.1, 0.22, 0.28])


def test_heights_are_metres_in_all(tmp_path: Path) -> None:
    about = {"bands": 4, "dtype": "float32", "train": 2}
    heights = {"bands": [1, 2, 3], "height": "dsm"}
    folders = []
    for name, scale in (("low", 100.0), ("high", 200.0)):
        folder = save_drawn_dataset(tmp_path / name, TOWN, scale=scale, **about)
        description = TiledDataset(folder).description.model_copy(
            update={**heights, "mean": [0.5, 0.5, 0.5, 7 / scale], "dtype": "uint8"}
        )
        (folder / "dataset.yaml").write_text(description.to_yaml())
        folders.append(folder)
    data = data_of(*folders)
    assert data.description.mean == pytest.approx([0.5, 0.5, 0.5, 0.07])
    patch = data.patches("train")[-1]
    plain = read_image(patch, TiledDataset(folders[1]).description)
    image, _ = data.read(patch)
    np.testing.assert_allclose(image[:3], plain[:3] / 2)
    np.testing.assert_array_equal(image[3], plain[3])


def test_a_label_of_all_classes_of_the_union_can_not_be(town: Path, tmp_path: Path) -> None:
    other = save_drawn_dataset(
        tmp_path / "other", ["Road", "Building", "Sea"], partial={"land": ["Road", "Building"]}
    )
    third = save_drawn_dataset(
        tmp_path / "third", ["Road", "Building", "Ice"], partial={"built": ["Building", "Road"]}
    )
    about = data_of(town, other, third).description
    assert about.label_names == [*TOWN, "Sea", "Ice", "land"]  # one label, by what it stands for


def test_a_single_dataset_is_what_it_was(town: Path) -> None:
    tiled = TiledDataset(town)
    data = RunData([tiled])
    assert data.description is tiled.description
    assert data.patches("train") == tiled.patches("train")
    assert data.draws() is None
    options = quick(town, Path("unused"))
    for wrapped, plain in zip(
        training_batches(data, options), training_batches(tiled, options), strict=True
    ):
        assert all((a == b).all() for a, b in zip(wrapped, plain, strict=True))


def test_names_of_datasets_differ() -> None:
    folders = [Path("/a/tiled"), Path("/b/tiled")]
    assert distinct_names(folders) == ["a-tiled", "b-tiled"]
    assert distinct_names([Path("/a/dubai"), Path("/b/naip")]) == ["dubai", "naip"]


def test_a_mix_is_met_in_every_epoch() -> None:
    order = EpochOrder(30, seed=4, parts=[(20, 6), (10, 24)])
    epochs = []
    for epoch in (0, 1):
        order.set_epoch(epoch)
        draws = order.draws()
        counts = Counter(draw.patch for draw in draws)
        assert len(draws) == order.length == 30
        assert sum(n for patch, n in counts.items() if patch < 20) == 6
        assert max(counts[patch] for patch in range(20)) == 1
        assert {counts[patch] for patch in range(20, 30)} == {2, 3}
        assert len(set(draws)) == 30  # a patch drawn again is augmented otherwise
        assert draws == order.draws()
        epochs.append([draw.patch for draw in draws])
    assert epochs[0] != epochs[1]
    weights = np.append(np.ones(20), np.zeros(10))  # of what draws nothing, all may be 0
    order = EpochOrder(30, 4, weights, parts=[(20, 20), (10, 0)])
    assert {draw.patch for draw in order.draws()} <= set(range(20))
    firsts = [patch < 20 for patches in epochs for patch in patches[:10]]
    assert 0 < sum(firsts) < 12, "the parts are not shuffled"


def test_shares_are_met_to_a_draw(town: Path, outlines: Path) -> None:
    assert data_of(town, outlines, mix=(1, 2)).draws() == [(6, 3), (4, 7)]
    assert data_of(town, outlines, mix=(0, 2)).draws() == [(6, 0), (4, 4)]
    assert data_of(town, outlines).draws() is None


def test_rare_classes_and_mix_go_together(town: Path, outlines: Path) -> None:
    options = quick((town, outlines), Path("unused"), sampling="rare", mix=(4, 1), batch=10)
    data = run_data(options)
    weights = patch_weights(data)
    assert weights.shape == (10,)
    assert weights.sum() == pytest.approx(1)
    for _ in range(2):
        ((_, _, indices),) = training_batches(data, quick_crop(options))
        assert sum(int(i) < 6 for i in indices) == 8


def quick_crop(options: TrainOptions) -> TrainOptions:
    from dataclasses import replace

    return replace(options, recipe=replace(options.recipe, crop=32))


def test_training_batches_hold_patches_of_all(town: Path, outlines: Path) -> None:
    data = data_of(town, outlines)
    options = quick((town, outlines), Path("unused"), batch=5)
    batches = list(training_batches(data, options))
    indices = sorted(int(i) for _, _, own in batches for i in own)
    assert indices == list(range(10))
    for images, labels, _ in batches:
        assert images.shape == (5, 3, 48, 48)  # as much as the smallest patches have
        assert labels.shape == (5, 48, 48)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_validation_batches_hold_patches_of_one(town: Path, outlines: Path, processes: int) -> None:
    data = data_of(town, outlines)
    options = quick((town, outlines), Path("unused"), batch=3)
    patches: list[tuple[int, bytes]] = []
    lengths = set()
    for rank in range(processes):
        loader = validation_batches(data, options, rank=rank, processes=processes)
        lengths.add(len(loader))
        assert loader.images == 4
        for images, labels, numbers in loader:
            assert len(set(numbers.tolist())) == 1
            assert images.shape[-1] == (48, 64)[int(numbers[0])]
            for image, label in zip(images, labels, strict=True):
                if not bool((label == 255).all()):
                    patches.append((int(numbers[0]), image.numpy().tobytes()))
    assert len(lengths) == 1
    expected = [(data.source_index(p), data.read(p)[0].tobytes()) for p in data.patches("val")]
    assert sorted(patches) == sorted(expected)


def test_overfitting_takes_patches_of_all_in_turn(town: Path, outlines: Path) -> None:
    data = data_of(town, outlines)
    names = [patch.name for patch in data.patches("train", overfit=3)]
    assert names == ["town/scene_0", "town/scene_1", "outlines/scene_0"]
    assert len(data.patches("train", overfit=9)) == 9
    assert data.epoch_length(overfit=3) == 3


def test_overfitting_takes_patches_of_what_is_drawn_alone(town: Path, outlines: Path) -> None:
    patches = data_of(town, outlines, mix=(0, 1)).patches("train", 3)
    assert {patch.name.partition("/")[0] for patch in patches} == {"outlines"}


def test_a_dataset_that_draws_nothing_needs_no_patches(town: Path, tmp_path: Path) -> None:
    other = save_drawn_dataset(tmp_path / "other", TOWN, train=0)
    data = check_run(quick((town, other), tmp_path / "runs", mix=(1, 0)))
    assert len(data.patches("train")) == data.epoch_length() == 6
    with pytest.raises(InputError, match="other: has no train split"):
        check_run(quick((town, other), tmp_path / "runs"))


def without_labels(folder: Path) -> Path:
    """Make a dataset say that its training patches have no labels, and take its validation away."""
    about = TiledDataset(folder).description
    train = about.splits["train"].model_copy(
        update={"labels": "none", "class_pixels": [0] * len(about.classes)}
    )
    frequencies = [0.0] * len(about.classes)
    about = about.model_copy(update={"splits": {"train": train}, "class_frequencies": frequencies})
    (folder / "dataset.yaml").write_text(about.to_yaml())
    return folder


def test_imagery_without_labels_goes_with_teachers_only(town: Path, tmp_path: Path) -> None:
    other = without_labels(save_drawn_dataset(tmp_path / "other", TOWN, val=0))
    assert "other: has no labels to learn from" in refusal(town, other)
    data = data_of(town, other)
    assert len(data.patches("train")) == 10
    assert len(data.patches("val")) == 2
    assert data.description.class_frequencies == pytest.approx([0.5, 0.3, 0.2])
    batches = list(validation_batches(data, quick((town, other), Path("unused"))))
    assert {int(n) for _, _, numbers in batches for n in numbers} == {0}


def test_shares_are_what_is_drawn(town: Path, outlines: Path, tmp_path: Path) -> None:
    numbers = dict(enumerate(["town"] * 6 + ["outlines"] * 4))
    options = quick((town, outlines), tmp_path, sampling="rare", batch=1)
    data = check_run(options)
    batches = training_batches(data, options)
    for epoch in range(2):
        batches.set_epoch(epoch)
        drawn = Counter(numbers[int(n)] for _, _, index in batches for n in index)
        assert drawn == {"town": 6, "outlines": 4}
    assert data.drawn_shares() == [0.6, 0.4]
    of_three = quick((town, outlines), tmp_path, mix=(5, 1), overfit=3)
    assert check_run(of_three).drawn_shares(3) == pytest.approx([2 / 3, 1 / 3])
    assert "town 66.7% of the patches drawn" in str(planned_run(of_three))


def test_bands_that_show_something_else_are_told(town: Path, tmp_path: Path) -> None:
    other = save_drawn_dataset(tmp_path / "other", TOWN)
    for folder, names in ((town, "red,green,blue"), (other, "red,green,near infrared")):
        about = yaml.safe_load((folder / "dataset.yaml").read_text())
        about["band_meanings"] = names.split(",")
        (folder / "dataset.yaml").write_text(yaml.safe_dump(about))
    options = quick((town, other), tmp_path / "runs")
    (line,) = (line for line in training_warnings(options, check_run(options)) if "show" in line)
    assert line == (
        f"{other}: its patches show red, green, near infrared, those of {town} red, green, blue: "
        "the network sees them as the same, in this order"
    )


def test_imagery_without_labels_alone_is_drawn_evenly(town: Path, tmp_path: Path) -> None:
    other = without_labels(save_drawn_dataset(tmp_path / "other", TOWN, val=0))
    weights = patch_weights(data_of(other, town, mix=(1, 0)), taught=True)
    np.testing.assert_allclose(weights, np.full(10, 0.1))


def test_partial_labels_alone_choose_no_weights(town: Path, tmp_path: Path) -> None:
    for folder in (town, save_drawn_dataset(tmp_path / "other", TOWN)):
        about = TiledDataset(folder).description
        val = about.splits["val"]
        pixels = {"class_pixels": [0] * 3, "partial_pixels": [sum(val.class_pixels)]}
        train = about.splits["train"].model_copy(update={"partial_pixels": [0]})
        partial = {"name": "no building", "colour": (9, 9, 9), "classes": TOWN[1:]}
        splits = {"train": train, "val": val.model_copy(update=pixels)}
        about = about.model_copy(update={"splits": splits, "partial": [PartialLabel(**partial)]})
        (folder / "dataset.yaml").write_text(about.to_yaml())
    assert "the labels of its val split are partial" in refusal(town)
    assert "the labels of its val split are partial" in refusal(town, tmp_path / "other")


def test_processes_share_what_is_drawn(town: Path, tmp_path: Path) -> None:
    other = save_drawn_dataset(tmp_path / "other", TOWN, train=1)
    message = refusal(other, town, mix=(1, 0), batch=2, devices=2, device="cpu")
    assert "1 training patches can't be shared out among 2 processes" in message


def refusal(*folders: Path, **changes: object) -> str:
    with pytest.raises(HrrsiError) as caught:
        check_run(quick(folders, Path("unused"), **changes))
    return str(caught.value)


def test_datasets_that_do_not_go_together(town: Path, tmp_path: Path) -> None:
    four = save_drawn_dataset(tmp_path / "four", TOWN, bands=4)
    assert f"four: has 4 bands, where {town} has 3" in refusal(town, four)
    high = save_drawn_dataset(tmp_path / "high", TOWN, bands=4, dtype="float32")
    about = TiledDataset(high).description.model_copy(update={"bands": [1, 2, 3], "height": "dsm"})
    (high / "dataset.yaml").write_text(about.to_yaml())
    assert f"{town}: has no heights, which {high} has" in refusal(town, high)
    assert f"{town}: has no heights, which {high} has" in refusal(high, town)
    ships = save_drawn_dataset(tmp_path / "ships", ["Ship", "Sea"])
    assert "has no class in common with the other datasets" in refusal(town, ships)
    no_val = save_drawn_dataset(tmp_path / "no_val", TOWN, val=0)
    assert f"{no_val}: has no val split" in refusal(town, no_val)
    assert "is more than the 48 px of the patches" in refusal(
        town, save_drawn_dataset(tmp_path / "large", TOWN, size=64), crop=56
    )


def test_one_class_in_all_is_nothing_to_learn(tmp_path: Path) -> None:
    folders = [save_drawn_dataset(tmp_path / name, ["Road"]) for name in "ab"]
    assert "hold one class only (Road)" in refusal(*folders)


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ((1,), "`mix`: has 1 share for 2 datasets; give one for each, in their order"),
        ((0, 0), "`mix`: draws from no dataset"),
        ((1, -2), "`mix`: -2 is no share"),
        ((1, float("nan")), "`mix`: nan is no share"),
        ((1, float("inf")), "`mix`: inf is no share"),
    ],
)
def test_mixes_that_can_not_be(mix: tuple[float, ...], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        TrainOptions((Path("a"), Path("b")), mix=mix)
    assert message in str(caught.value)


def test_folders_that_can_not_be(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"`data`: holds .* twice; name each dataset once"):
        TrainOptions((tmp_path / "a", tmp_path / "b", tmp_path / "b" / ".." / "a"))
    with pytest.raises(OptionError, match="`data`: names no folder"):
        TrainOptions(())
    with pytest.raises(OptionError, match="`mix`: goes with several datasets"):
        TrainOptions(tmp_path, mix=(1,))


def test_classes_that_a_dataset_never_shows_have_no_score_there() -> None:
    classes = ["Building", "Road", "water"]
    shown = np.array([[5, 1, 0], [0, 6, 0], [3, 0, 0]])  # water is predicted, and never true
    for candidates in (None, [[0], [1], [2], [1, 2]]):
        columns = 3 if candidates is None else 4
        counts = np.zeros((3, columns), dtype=np.int64)
        counts[:, :3] = shown
        scores = scores_of_shown_classes(ConfusionMatrix(classes, counts, candidates))
        ious = {own.name: own.iou for own in scores.classes}
        assert ious["Building"] == pytest.approx(5 / 9)
        assert np.isnan(ious["water"])
        assert scores.mean_iou == pytest.approx((5 / 9 + 6 / 7) / 2)
    nothing = scores_of_shown_classes(ConfusionMatrix(classes))
    assert np.isnan(nothing.mean_iou)
    assert defined_mean([0.5, float("nan"), 0.7]) == pytest.approx(0.6)
    assert np.isnan(defined_mean([nothing.mean_iou]))
