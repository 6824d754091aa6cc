"""Changes of the camera: pixels only, whatever bands and types, and by the seed alone."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from samples.made_dataset import save_made_dataset
from samples.training_runs import quick

from hrrsi.errors import OptionError
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.training.augmentation import CameraChanges
from hrrsi.training.options import CAMERA_CHANGES, DEFAULT, PUBLISHED, recipe_named
from hrrsi.training.patch_batches import Draw, TrainingPatches, training_batches
from hrrsi.training.patch_pictures import input_patches

SIZE = 48
LABEL = np.zeros((SIZE, SIZE), np.uint8)


@pytest.fixture(scope="module")
def made_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_made_dataset(tmp_path_factory.mktemp("data") / "made", train=8, val=2)


def picture(bands: int = 3, dtype: str = "uint8") -> npt.NDArray[Any]:
    """Blobs of many colours with edges and texture, from 0.15 to 0.85 of full brightness."""
    random = np.random.default_rng(1)
    blobs = np.kron(random.uniform(0.2, 0.8, (6, 6, bands)), np.ones((8, 8, 1)))
    values = blobs + random.uniform(-0.05, 0.05, blobs.shape)
    if dtype == "float32":
        return values.astype(np.float32)
    return np.rint(values * scale_of(dtype)).astype(dtype)


def scale_of(dtype: str) -> float:
    return {"uint8": 255.0, "uint16": 12000.0, "float32": 1.0}[dtype]


def seeds_with(name: str, count: int) -> list[int]:
    camera = CameraChanges((name,), 255.0)
    return [seed for seed in range(200) if camera.names(seed)][:count]


@pytest.mark.parametrize("name", CAMERA_CHANGES)
@pytest.mark.parametrize(
    ("dtype", "bands"), [("uint8", 1), ("uint8", 3), ("uint16", 4), ("float32", 6)]
)
def test_each_change_in_every_type_and_number_of_bands(name: str, dtype: str, bands: int) -> None:
    image = picture(bands, dtype)
    camera = CameraChanges((name,), scale_of(dtype))
    for seed in seeds_with(name, 4):
        before = image.copy()
        changed = camera(image, LABEL, seed)
        assert np.array_equal(image, before), "the image itself was written to"
        assert (changed.shape, changed.dtype) == (image.shape, image.dtype)
        assert 0 <= changed.min() <= changed.max() <= scale_of(dtype)
        difference = np.abs(changed.astype(float) - image).mean(axis=(0, 1)) / scale_of(dtype)
        assert (difference > 0.0005).all(), "a band is as it was"
        assert (difference < 0.35).all()
        assert np.array_equal(camera(image, LABEL, seed), changed)


@pytest.mark.parametrize("name", CAMERA_CHANGES)
def test_eight_and_sixteen_bits_are_changed_alike(name: str) -> None:
    image = picture()
    (seed,) = seeds_with(name, 1)
    eight = CameraChanges((name,), 255.0)(image, LABEL, seed)
    sixteen = CameraChanges((name,), 65535.0)(image.astype(np.uint16) * 257, LABEL, seed)
    assert np.abs(sixteen / 257 - eight).max() <= 0.51


def test_the_signature_of_each_change() -> None:
    def changed(name: str) -> npt.NDArray[np.float64]:
        image = picture(dtype="float32")
        camera = CameraChanges((name,), 1.0)
        return np.array([camera(image, LABEL, seed) for seed in seeds_with(name, 8)], float)

    def detail(images: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        steps = np.abs(np.diff(images.astype(float), axis=-2)).mean(axis=(-3, -2, -1))
        return np.asarray(steps)

    image = picture(dtype="float32").astype(float)
    for name in ("blur", "resolution", "haze"):
        assert (detail(changed(name)) < 0.97 * detail(image)).all(), name
    for name in ("noise", "sharpening"):
        assert (detail(changed(name)) > 1.01 * detail(image)).all(), name
    for hazy in changed("haze"):  # a straight line per band, darks raised most
        for band in range(3):
            slope, offset = np.polyfit(image[..., band].ravel(), hazy[..., band].ravel(), 1)
            assert 0.6 <= slope <= 0.95
            assert 0.02 < offset < 0.4
    for other in changed("gamma"):
        exponents = np.log(other) / np.log(image)
        assert np.ptp(exponents) < 0.01
        assert 0.66 < exponents.mean() < 1.5
    ratios = np.log(changed("contrast") - image.mean() + 10)  # moved, in all bands alike
    assert np.ptp(ratios.mean(axis=(1, 2)), axis=1).max() < 0.03
    casts = changed("colour").mean(axis=(1, 2)) / image.mean(axis=(0, 1))
    assert np.ptp(casts, axis=1).max() > 0.1  # not in all bands alike


def test_padding_no_data_and_heights_stay_what_they_are() -> None:
    image = picture(4, "float32")
    image[..., 3] = 4711.5  # heights
    image[:9, :, :3] = 0  # padding, or no data, with the mean height
    image[20:23, 20:23, 1] = np.nan
    image[30, 30, 3] = np.nan  # a height alone
    label = LABEL.copy()
    label[:9] = 255
    label[40:] = 255  # ignored, with an image
    changes = 0
    for seed in range(40):
        changed = CameraChanges(CAMERA_CHANGES, 1.0, has_height=True)(image, label, seed)
        np.testing.assert_array_equal(changed[..., 3], image[..., 3])
        np.testing.assert_array_equal(changed[:9], image[:9])
        np.testing.assert_array_equal(changed[20:23, 20:23], image[20:23, 20:23])
        assert np.isfinite(changed[24:29, :, :3]).all(), "no data spread"
        changes += not np.array_equal(changed[40:], image[40:])
    assert changes > 30


def test_black_with_a_label_is_black_paint() -> None:
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    (seed,) = seeds_with("haze", 1)
    assert CameraChanges(("haze",), 255.0)(image, LABEL, seed).min() > 5
    ignored = np.full_like(LABEL, 255)
    assert CameraChanges(("haze",), 255.0)(image, ignored, seed) is image


def test_a_change_is_drawn_alike_beside_others() -> None:
    everything = CameraChanges(CAMERA_CHANGES, 255.0)
    counts = dict.fromkeys(CAMERA_CHANGES, 0)
    for seed in range(400):
        drawn = everything.names(seed)
        assert drawn == [n for n in CAMERA_CHANGES if CameraChanges((n,), 255.0).names(seed)]
        for name in drawn:
            counts[name] += 1
    for name, count in counts.items():
        expected = {"colour": 0.5, "contrast": 0.3, "gamma": 0.3, "resolution": 0.25, "jpeg": 0.25}
        assert abs(count / 400 - expected.get(name, 0.15)) < 0.07, name


def test_both_recipes_leave_the_camera_alone_and_names_are_checked() -> None:
    assert PUBLISHED.camera_changes == DEFAULT.camera_changes == ()
    assert recipe_named("default", camera="all").camera_changes == CAMERA_CHANGES
    some = recipe_named("default", camera="jpeg, haze,jpeg")
    assert (some.camera, some.camera_changes) == ("haze,jpeg", ("haze", "jpeg"))
    assert some == recipe_named("default", camera="haze,jpeg")
    for wrong in ("", "fog", "jpeg,", "all,jpeg"):
        with pytest.raises(OptionError) as raised:
            recipe_named("default", camera=wrong)
        assert raised.value.parameter == "camera"


@pytest.mark.long
def test_batches_change_pixels_and_no_label(made_dataset: Path, tmp_path: Path) -> None:
    dataset = TiledDataset(made_dataset)
    plain, changed = (
        list(training_batches(dataset, quick(made_dataset, tmp_path, camera=camera)))
        for camera in ("none", "all")
    )
    different = 0
    for (image, label, index), (image_before, label_before, index_before) in zip(
        changed, plain, strict=True
    ):
        assert (index == index_before).all()
        assert (label == label_before).all()
        different += int((image != image_before).flatten(1).any(1).sum())
    assert different > len(changed)
    overfit = quick(made_dataset, tmp_path, camera="all", overfit=4)
    alone = quick(made_dataset, tmp_path, overfit=4)
    draw = Draw(0, 1, 0)
    by_heart = (TrainingPatches(dataset, options)[draw][0] for options in (overfit, alone))
    assert (next(by_heart) == next(by_heart)).all()


def test_captions_name_what_was_changed(made_dataset: Path, tmp_path: Path) -> None:
    options = quick(made_dataset, tmp_path, camera="contrast", sampling="rare")
    patches = list(input_patches(TiledDataset(made_dataset), options))
    assert {tuple(patch.camera) for patch in patches} == {(), ("contrast",)}
    for patch in patches:
        assert np.array_equal(patch.image, patch.before) == (not patch.camera)
