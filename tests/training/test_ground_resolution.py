"""Patches scaled to a ground resolution that is drawn for each."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from samples.drawn_dataset import save_drawn_dataset
from samples.training_runs import quick

from hrrsi.errors import InputError, OptionError
from hrrsi.training.augmentation import (
    GroundResolutions,
    middle_resolution,
    possible_resolutions,
    scaled_crop,
)
from hrrsi.training.network_input import input_resolutions
from hrrsi.training.options import recipe_named
from hrrsi.training.patch_batches import training_batches, validation_batches
from hrrsi.training.run_checks import check_run, planned_run, training_warnings
from hrrsi.training.run_data import run_data

CLASSES = ["Building", "Road"]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (0.3, (0.25, 0.8)),
        (0.1, (0.25, 0.4)),  # coarser, and its 256 px are less than half a crop
        (0.6, (0.3, 0.8)),  # finer than half its pixel would be made up
        (2.0, (1.0, 1.0)),
        (0.05, (0.2, 0.2)),
    ],
)
def test_limits_of_a_dataset(own: float, expected: tuple[float, float]) -> None:
    assert possible_resolutions((0.25, 0.8), own, 256, 128) == pytest.approx(expected)


def test_all_octaves_are_alike() -> None:
    random = np.random.default_rng(0)
    drawn = [GroundResolutions(0.1, 0.8).draw(random) for _ in range(3000)]
    assert min(drawn) >= 0.1
    assert max(drawn) <= 0.8
    shares = np.histogram(drawn, [0.1, 0.2, 0.4, 0.8])[0] / len(drawn)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.04)
    assert middle_resolution(0.2, 0.8) == 0.4


def ramps(size: int, bands: int = 3, dtype: str = "float32") -> npt.NDArray[np.generic]:
    rows, cols = np.indices((size, size))
    return np.stack([rows, cols, *[rows + cols] * (bands - 2)], axis=-1).astype(dtype)


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.6, 2.0])
def test_a_crop_covers_the_ground_that_its_scale_says(scale: float) -> None:
    image = ramps(96)
    label = (image[..., 1] // 8).astype(np.uint8)
    pixels, classes = scaled_crop(image, label, scale, 32, np.random.default_rng(3))
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.float32
    assert classes.shape == (32, 32)
    covered = pixels[:, -3, 1] - pixels[:, 2, 1]
    np.testing.assert_allclose(covered, 27 / scale, rtol=0.03)
    # labels are those of the same ground
    assert (np.abs(pixels[..., 1] / 8 - classes - 0.5) <= 0.5 + 1 / (8 * scale)).all()


def test_larger_pixels_are_averages() -> None:
    random = np.random.default_rng(1)
    image = random.integers(0, 256, (64, 64, 5)).astype(np.uint8)
    label = np.zeros((64, 64), dtype=np.uint8)
    pixels, _ = scaled_crop(image, label, 0.5, 32, random)
    expected = image.reshape(32, 2, 32, 2, 5).mean((1, 3))
    assert np.abs(pixels - expected).max() <= 1
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("scale", [0.5, 0.05])
def test_what_lacks_is_made_of_mirror_images(scale: float) -> None:
    image, label = ramps(40), np.full((40, 40), 3, dtype=np.uint8)
    label[20:] = 255
    seen = set()
    for seed in range(5):
        pixels, classes = scaled_crop(image, label, scale, 32, np.random.default_rng(seed))
        assert pixels.shape == (32, 32, 3)
        assert np.isfinite(pixels).all()
        assert set(np.unique(classes)) <= {3, 255}
        seen.add(pixels.tobytes())
    assert len(seen) > 1
    side = 40 * scale
    if side > 10:
        assert len(np.unique(pixels[..., 0])) == side  # nothing but the patch


def test_uint16_and_one_band() -> None:
    image = ramps(50, dtype="uint16")[..., :1] * np.uint16(1000)
    pixels, _ = scaled_crop(image, np.zeros((50, 50), np.uint8), 1.3, 40, np.random.default_rng(0))
    assert pixels.dtype == np.uint16
    assert pixels.shape == (40, 40, 1)
    assert pixels.max() > 20_000


@pytest.mark.parametrize("augmentation", ["default", "published", "none"])
def test_patches_of_all_datasets_are_seen_at_the_same_resolutions(
    tmp_path: Path, augmentation: str
) -> None:
    fine = save_drawn_dataset(tmp_path / "fine", CLASSES, size=96, resolution=0.2, train=3)
    coarse = save_drawn_dataset(tmp_path / "coarse", CLASSES, size=48, resolution=0.4, train=3)
    options = quick(
        (fine, coarse),
        Path("unused"),
        resolutions=(0.4, 0.4),
        crop=40,
        batch=6,
        augmentation=augmentation,
    )
    data = run_data(options)
    assert input_resolutions(data, options) == [(0.4, 0.4), (0.4, 0.4)]
    first, again = (list(training_batches(data, options)) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first[0], again[0], strict=True))
    images, labels, _ = first[0]
    assert images.shape == (6, 3, 40, 40)
    assert set(labels.unique().tolist()) <= {0, 1, 255}
    scales = check_run(options).sources
    assert [source.resolution for source in scales] == [0.2, 0.4]


def test_a_dataset_whose_resolution_is_unknown(tmp_path: Path) -> None:
    data = save_drawn_dataset(tmp_path / "data", CLASSES)
    with pytest.raises(InputError) as caught:
        check_run(quick(data, tmp_path / "runs", resolutions=(0.2, 0.4)))
    assert str(caught.value) == (
        f"{data}: its ground resolution is unknown, so its patches can't be scaled to "
        "`resolutions`; tile it with a scheme that has a `resolution`, or georeferenced scenes"
    )


@pytest.mark.long
def test_a_dataset_outside_of_the_range_is_warned_of(tmp_path: Path) -> None:
    data = save_drawn_dataset(tmp_path / "data", CLASSES, resolution=2.0)
    options = quick(data, tmp_path / "runs", resolutions=(0.2, 0.4))
    (line,) = training_warnings(options, run_data(options))
    assert line == (
        "`resolutions=0.2-0.4`: the patches of data (2 m a pixel) are seen at 1 m, the nearest "
        "that they allow"
    )
    assert "data 100.0% of the patches drawn, 2 m a pixel seen at 1 to 1" in str(
        planned_run(options)
    )


@pytest.mark.parametrize("ends", [(0.4, 0.2), (0.0, 0.2), (-1.0, 1.0), (0.1, float("inf"))])
def test_ranges_that_are_none(ends: tuple[float, float]) -> None:
    with pytest.raises(OptionError, match=r"`resolutions`: .* is no range; give the finest"):
        recipe_named("default", resolutions=ends)


def test_validation_patches_are_read_at_the_nearest_resolution_trained_at(tmp_path: Path) -> None:
    fine = save_drawn_dataset(tmp_path / "fine", CLASSES, size=96, resolution=0.2, val=1)
    inside = save_drawn_dataset(tmp_path / "inside", CLASSES, size=64, resolution=0.5, val=1)
    options = quick((fine, inside), Path("unused"), resolutions=(0.4, 0.8))
    data = run_data(options)
    (finer, finer_label, _), (other, other_label, _) = validation_batches(data, options)
    image, label = data.read(data.patches("val")[0])
    means = image.reshape(3, 48, 2, 48, 2).astype(float).mean(axis=(2, 4))
    np.testing.assert_allclose(finer.numpy()[0], means, atol=0.5)
    # of four pixels, the nearest is one of those that meet in the middle
    of_four = label.reshape(48, 2, 48, 2).transpose(0, 2, 1, 3).reshape(48, 48, 4)
    assert (of_four == finer_label.numpy()[0][..., None]).any(axis=-1).all()
    whole, whole_label = data.read(data.patches("val")[1])
    np.testing.assert_array_equal(other.numpy()[0], whole)
    np.testing.assert_array_equal(other_label.numpy()[0], whole_label)
