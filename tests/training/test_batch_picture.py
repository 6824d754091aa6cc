"""`hrrsi train --show-batches`: the picture of what the network sees, checked pixel by pixel."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from PIL import Image
from samples.picture_panels import (
    SIDE,
    assert_striped,
    magnified,
    pixels_of,
    place_of,
    row_of_panels,
)
from typer.testing import CliRunner, Result

from hrrsi.cli import app
from hrrsi.tiling.dataset import (
    DatasetDescription,
    TiledDataset,
    image_bytes,
    label_bytes,
    patch_format,
)
from hrrsi.training.options import PUBLISHED, TrainOptions, recipe_named
from hrrsi.training.patch_pictures import (
    input_patches,
    natural_colours,
    panel_side,
    stretch_limits,
    write_batch_picture,
)

SIZE = 64
COLOURS = [(220, 20, 60), (0, 90, 200), (250, 200, 40)]
IGNORED = 255
PLAIN = ["--augmentation", "none", "--batch", "2"]


def made_dataset(
    folder: Path, *, bands: int = 3, dtype: str = "uint8", height: str | None = None, train: int = 4
) -> TiledDataset:
    """Write a dataset of noise, with labels of blobs whose left upper corner is ignored."""
    random = np.random.default_rng(5)
    channels = bands + (height is not None)
    suffix = patch_format(dtype, channels)
    splits = {}
    for split, count in (("train", train), ("val", 2)):
        for kind in ("image", "label"):
            (folder / split / kind).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(1, 256, (channels, SIZE, SIZE))
            if dtype != "uint8":
                pixels = pixels * 40 + 1000
            blobs = np.kron(random.integers(0, 3, (4, 4)), np.ones((16, 16))).astype(np.uint8)
            blobs[:20, :12] = IGNORED
            name = f"{split}_{number}.{suffix}"
            (folder / split / "image" / name).write_bytes(
                image_bytes(pixels.astype(dtype), suffix, None)
            )
            (folder / split / "label" / name).write_bytes(label_bytes(blobs, COLOURS, suffix, None))
        splits[split] = {
            "scenes": [f"{split}_scene"],
            "patches": count,
            "class_pixels": [1, 1, 1],
            "ignored_pixels": 240 * count,
        }
    content: dict[str, Any] = {
        "scheme": "mine",
        "classes": ["house", "water", "field"],
        "colours": COLOURS,
        "bands": list(range(1, bands + 1)),
        "height": height,
        "dtype": "uint16" if height else dtype,
        "scale": 255 if dtype == "uint8" else 12000,
        "mean": [0.5] * channels,
        "std": [0.2] * channels,
        "statistics": "measured",
        "class_frequencies": [0.3, 0.3, 0.4],
        "resolution": 0.1,
        "patch_size": SIZE,
        "stride": SIZE,
        "patch_format": suffix,
        "splits": splits,
    }
    description = DatasetDescription.model_validate(content)
    (folder / "dataset.yaml").write_text(description.to_yaml())
    return TiledDataset(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> TiledDataset:
    return made_dataset(tmp_path_factory.mktemp("data") / "noise")


def show(folder: Path, out: Path, *arguments: object) -> Result:
    words = ["train", folder, "--show-batches", out, *arguments]
    return CliRunner().invoke(app, [str(word) for word in words])


def slow_edges(label: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return where the 5x5 window around a pixel holds two classes, the slow way."""
    edges = np.zeros(label.shape, dtype=bool)
    for row, col in np.ndindex(*label.shape):
        window = label[max(0, row - 2) : row + 3, max(0, col - 2) : col + 3]
        edges[row, col] = len(set(window[window != IGNORED].tolist())) > 1
    return edges


def test_panels_show_image_label_edges_and_what_counts(
    dataset: TiledDataset, tmp_path: Path
) -> None:
    out = tmp_path / "batches.png"
    result = show(dataset.folder, out, *PLAIN)
    assert result.exit_code == 0, result.output
    assert str(out) in result.stdout
    picture = pixels_of(out)
    for patch in dataset.patches("train"):
        image = pixels_of(patch.image)
        with Image.open(patch.label) as file:
            label = np.asarray(file)
        ignored = magnified(label == IGNORED)
        expected = magnified(image)
        _, labelled, edges, counting = row_of_panels(picture, place_of(expected, picture), 4)
        for index, colour in enumerate(COLOURS):
            of_class = magnified(label == index)
            mixed = 0.8 * np.array(colour) + 0.2 * expected[of_class]
            assert np.abs(labelled[of_class] - mixed).max() <= 1
        assert_striped(labelled, ignored, COLOURS)
        is_edge = magnified(slow_edges(label))
        assert (edges[is_edge & ~ignored] == 255).all()
        assert (edges[~is_edge & ~ignored] == 0).all()
        assert_striped(edges, ignored, COLOURS)
        assert np.array_equal(counting[~ignored], expected[~ignored])
        assert_striped(counting, ignored, COLOURS)


def test_the_legend_shows_every_colour(dataset: TiledDataset, tmp_path: Path) -> None:
    out = tmp_path / "batches.png"
    assert show(dataset.folder, out, *PLAIN).exit_code == 0
    picture = pixels_of(out)
    images = [magnified(pixels_of(patch.image)) for patch in dataset.patches("train")]
    top = min(place_of(image, picture)[0] for image in images)
    head = picture[: top - 18].reshape(-1, 3)
    for colour in COLOURS:
        assert (head == colour).all(-1).sum() > 200, colour


def test_patches_are_those_that_a_run_sees_first(dataset: TiledDataset) -> None:
    options = TrainOptions(dataset.folder, recipe=recipe_named("default", augmentation="none"))
    patches = list(input_patches(dataset, options))
    assert len(patches) == 4
    assert len({patch.name for patch in patches}) == 4
    files = {patch.name: patch.image for patch in dataset.patches("train")}
    for patch in patches:
        assert np.array_equal(patch.image.transpose(1, 2, 0), pixels_of(files[patch.name]))


def test_workers_and_devices_change_nothing_and_the_seed_does(
    dataset: TiledDataset, tmp_path: Path
) -> None:
    names = []
    for number, arguments in enumerate(
        [[], ["--workers", "0", "--devices", "2"], ["--seed", "1"], ["--recipe", "published"]]
    ):
        names.append(tmp_path / f"{number}.png")
        assert show(dataset.folder, names[-1], "--batch", "2", *arguments).exit_code == 0
    first, same, *others = (path.read_bytes() for path in names)
    assert same == first
    assert first not in others


def test_padding_is_drawn_as_ignored(dataset: TiledDataset) -> None:
    options = TrainOptions(dataset.folder, recipe=PUBLISHED)
    padded = 0
    for patch in input_patches(dataset, options):
        padding = (patch.image == 0).all(0)
        assert (patch.label[padding] == IGNORED).all()
        padded += int(padding.sum())
    assert padded > 0, "the published augmentation shrinks none of these patches"


@pytest.mark.parametrize(
    ("bands", "dtype", "height"),
    [(5, "uint16", None), (4, "float32", "dsm.tif"), (2, "uint16", None)],
)
def test_further_bands_follow_in_grey(
    bands: int, dtype: str, height: str | None, tmp_path: Path
) -> None:
    dataset = made_dataset(tmp_path / "data", bands=bands, dtype=dtype, height=height)
    channels = bands + (height is not None)
    options = TrainOptions(dataset.folder, recipe=recipe_named("default", augmentation="none"))
    out = tmp_path / "batches.png"
    write_batch_picture(options, out, patches=1)
    (patch,) = list(input_patches(dataset, options))[:1]
    limits = stretch_limits([patch.image])
    colours = natural_colours(patch.image, limits, SIDE)
    picture = pixels_of(out)
    place = place_of(colours, picture)
    first = 3 if channels >= 3 else 1
    below = row_of_panels(picture, (place[0] + SIDE + 4, place[1]), channels - first)
    for panel, band in zip(below, range(first, channels), strict=True):
        values = patch.image[band].astype(float)
        low, high = np.percentile(values, (2, 98))
        shade = np.clip((values - low) / (high - low), 0, 1) * 255
        assert np.abs(panel - magnified(shade)[..., None]).max() <= 0.51


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_stretch_leaves_out_padding_and_nodata(dtype: str) -> None:
    image = np.zeros((3, 100, 100), dtype=dtype)
    image[:, 50:] = np.linspace(1000, 2000, 15000).reshape(3, 50, 100)
    if dtype == "float32":
        image[0, 50, :50] = np.nan
    limits = stretch_limits([image])
    assert limits[2][0] == pytest.approx(np.percentile(image[2, 50:], 2), rel=0.01)
    assert limits[2][1] == pytest.approx(np.percentile(image[2, 50:], 98), rel=0.01)
    panel = natural_colours(image, limits, 100)
    assert (panel[:50] == 0).all()
    assert panel[-1, -1].tolist() == [255, 255, 255]


def test_a_constant_or_empty_image_is_drawn() -> None:
    for value in (0, 7):
        image = np.full((3, 8, 8), value, dtype=np.uint16)
        assert natural_colours(image, stretch_limits([image]), 8).shape == (8, 8, 3)


@pytest.mark.parametrize(("size", "side"), [(64, 192), (100, 200), (216, 216), (512, 216)])
def test_small_patches_are_magnified_evenly_and_large_ones_shrunk(size: int, side: int) -> None:
    assert panel_side(size) == side


@pytest.mark.long
def test_an_existing_picture_is_only_replaced_with_overwrite(
    dataset: TiledDataset, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "batches.png"
    assert show(dataset.folder, out, *PLAIN).exit_code == 0
    before = out.read_bytes()
    out.write_bytes(b"mine")
    result = show(dataset.folder, out, *PLAIN)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "exists already; give --overwrite" in result.stderr
    assert out.read_bytes() == b"mine"
    assert show(dataset.folder, out, *PLAIN, "--overwrite").exit_code == 0
    assert out.read_bytes() == before
    assert sorted(p.name for p in out.parent.iterdir()) == ["batches.png"]


def test_nothing_is_trained(
    dataset: TiledDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert show(dataset.folder, Path("batches.png"), *PLAIN).exit_code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["batches.png"]


@pytest.mark.parametrize("damage", ["no dataset", "no patches", "a folder"])
def test_bad_input_is_one_line(damage: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "data", tmp_path / "batches.png"
    if damage != "no dataset":
        made_dataset(folder)
    if damage == "no patches":
        content = yaml.safe_load((folder / "dataset.yaml").read_text())
        for path in (folder / "train" / "image").iterdir():
            path.unlink()
        (folder / "dataset.yaml").write_text(yaml.safe_dump(content))
    if damage == "a folder":
        out.mkdir()
    result = show(folder, out, *PLAIN)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert not out.is_file()
