"""Augmentation: geometry acts on image and label alike, and nothing is invented."""

import pickle

import numpy as np
import pytest

from hrrsi.training.augmentation import Augmentation
from hrrsi.training.options import Augmentation as Name

SIZE = 64


@pytest.fixture(scope="module")
def augmentation() -> Augmentation:
    return Augmentation("published", SIZE)


def pair_that_shows_where_pixels_come_from() -> tuple[np.ndarray, np.ndarray]:
    """An image whose bands are row, column and class, never 0, and its label."""
    rows, cols = np.mgrid[0:SIZE, 0:SIZE]
    label = ((rows // 16 + cols // 16) % 4).astype(np.uint8)
    image = np.stack([rows * 2 + 40, cols * 2 + 40, label * 40 + 60], axis=-1).astype(np.uint8)
    return image, label


def test_same_seed_same_pair_and_another_seed_another(augmentation: Augmentation) -> None:
    image, label = pair_that_shows_where_pixels_come_from()
    first, again, sent_array = (augmentation(image, label, seed) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], sent_array[0])


def test_result_does_not_depend_on_what_was_drawn_before() -> None:
    image, label = pair_that_shows_where_pixels_come_from()
    used, fresh = Augmentation("published", SIZE), Augmentation("published", SIZE)
    for seed in range(5):
        used(image, label, seed)
    assert np.array_equal(used(image, label, 9)[0], fresh(image, label, 9)[0])


# what a loading process is sent that is no fork of the run's
@pytest.mark.parametrize("name", ["published", "default", "none"])
def test_sent_to_another_process_it_augments_alike(name: Name) -> None:
    image, label = pair_that_shows_where_pixels_come_from()
    augmentation = Augmentation(name, 48)
    sent = pickle.loads(pickle.dumps(augmentation))
    for array, sent_array in zip(augmentation(image, label, 3), sent(image, label, 3), strict=True):
        assert np.array_equal(array, sent_array)


def test_label_moves_with_the_image_and_padding_is_ignored(
    augmentation: Augmentation,
) -> None:
    image, label = pair_that_shows_where_pixels_come_from()
    agreeing, inside = 0, 0
    for seed in range(60):
        moved, labels = augmentation(image, label, seed)
        assert moved.shape == (SIZE, SIZE, 3)
        assert moved.dtype == np.uint8
        assert labels.shape == (SIZE, SIZE)
        assert set(np.unique(labels)) <= {0, 1, 2, 3, 255}
        is_labelled = labels != 255
        # padding is black; blur and interpolation reach a few pixels across its border
        assert moved[~is_labelled].mean() < 30 if (~is_labelled).sum() > 50 else True
        agreeing += (np.abs(moved[..., 2].astype(int) - (labels.astype(int) * 40 + 60)) < 20)[
            is_labelled
        ].sum()
        inside += is_labelled.sum()
    assert agreeing / inside > 0.85


def test_ignored_pixels_stay_ignored(augmentation: Augmentation) -> None:
    image, _ = pair_that_shows_where_pixels_come_from()
    nothing = np.full((SIZE, SIZE), 255, np.uint8)
    assert (augmentation(image, nothing, 1)[1] == 255).all()


@pytest.mark.parametrize("name", ["published", "default"])
@pytest.mark.parametrize("axis", [0, 1])
def test_labels_lie_on_their_pixels(name: Name, axis: int) -> None:
    # both bands and label hold where a pixel comes from, so that a shift shows in pixels
    place = np.indices((200, 200))[axis]
    image = np.stack([place, place[::-1]], axis=-1).astype(np.float32)
    augmentation = Augmentation(name, 200)
    shifts = []
    for seed in range(40):
        moved, labels = augmentation(image, place.astype(np.uint8), seed)
        middle = slice(70, 130), slice(70, 130)
        if (labels[middle] == 255).any():
            continue
        steps = [np.median(np.diff(moved[(*middle, 0)], axis=way)) for way in (0, 1)]
        step = max(steps, key=abs)
        shifts.append(float((labels[middle] - moved[(*middle, 0)]).mean() / step))
    assert len(shifts) > 20
    assert abs(np.mean(shifts)) < 0.03
    assert np.abs(shifts).max() < 0.2


@pytest.mark.long
def test_statistics_are_the_published_ones(augmentation: Augmentation) -> None:
    image, label = pair_that_shows_where_pixels_come_from()
    padded, flipped, upside_down, sizes = [], [], [], []
    for seed in range(300):
        moved, labels = augmentation(image, label, seed)
        is_labelled = labels != 255
        padded.append(not is_labelled.all())
        rows, cols = np.nonzero(is_labelled)
        core = moved[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1].astype(float)
        upside_down.append(core[0, :, 0].mean() > core[-1, :, 0].mean())
        flipped.append(core[:, 0, 1].mean() > core[:, -1, 1].mean())
        if not is_labelled.all():
            sizes.append(core.shape[0] / SIZE)
    assert 0.42 < np.mean(flipped) < 0.58
    assert 0.42 < np.mean(upside_down) < 0.58
    # the short side is uniform between 0.5 and 2.0 of the crop: a third of the draws is smaller
    assert 0.26 < np.mean(padded) < 0.41
    assert 0.49 <= min(sizes) < 0.55
    assert 0.70 < np.mean(sizes) < 0.80


@pytest.mark.parametrize("name", ["published", "default", "none"])
@pytest.mark.parametrize(
    ("dtype", "bands"), [("uint8", 1), ("uint8", 3), ("uint8", 5), ("uint16", 4), ("float32", 6)]
)
def test_every_type_and_number_of_bands(name: Name, dtype: str, bands: int) -> None:
    shown, label = pair_that_shows_where_pixels_come_from()
    unit = {"uint8": 1, "uint16": 8, "float32": 1 / 255}[dtype]
    image = (shown[..., [band % 3 for band in range(bands)]] * float(unit)).astype(dtype)
    for seed in range(30):
        moved, labels = Augmentation(name, SIZE)(image, label, seed)
        assert (moved.shape, moved.dtype) == ((SIZE, SIZE, bands), image.dtype)
        assert (labels.shape, labels.dtype) == ((SIZE, SIZE), np.uint8)
        assert np.isfinite(moved.astype(np.float64)).all()
        assert set(np.unique(labels)) <= {0, 1, 2, 3, 255}
        if name != "published":
            assert (labels != 255).all()  # nothing is lost to padding
        assert moved.max() <= 1.00001 * image.max()  # no colour is invented


def test_default_shows_the_label_s_class_wherever_it_is_mirrored_to() -> None:
    image, label = pair_that_shows_where_pixels_come_from()
    augmentation = Augmentation("default", SIZE)
    agreeing = []
    for seed in range(60):
        moved, labels = augmentation(image, label, seed)
        agreeing.append(np.abs(moved[..., 2].astype(int) - (labels.astype(int) * 40 + 60)) < 20)
    assert np.mean(agreeing) > 0.85


@pytest.mark.long
def test_default_turns_flips_and_scales_evenly() -> None:
    ramp = np.mgrid[0:SIZE, 0:SIZE][0]
    image = np.repeat((ramp + 100.0)[..., None], 2, -1).astype(np.float32)
    label = np.zeros((SIZE, SIZE), np.uint8)
    augmentation = Augmentation("default", SIZE)
    directions, scales = [], []
    for seed in range(400):
        moved, _ = augmentation(image, label, seed)
        assert 99.9 <= moved.min() <= moved.max() <= SIZE + 99.1
        middle = moved[16:48, 16:48, 1]
        down, right = np.diff(middle, axis=0).mean(), np.diff(middle, axis=1).mean()
        across = "left" if right < 0 else "right"
        directions.append(across if abs(right) > abs(down) else "up" if down < 0 else "down")
        scales.append(1 / max(abs(down), abs(right)))
    for direction in ("down", "up", "right", "left"):
        assert 0.17 < directions.count(direction) / 400 < 0.33
    assert 0.79 < min(scales) < 0.83
    assert 1.2 < max(scales) < 1.27


def test_none_is_the_pair_itself_or_a_part_of_it() -> None:
    image, label = pair_that_shows_where_pixels_come_from()
    same, labels = Augmentation("none", SIZE)(image, label, 1)
    np.testing.assert_array_equal(same, image)
    np.testing.assert_array_equal(labels, label)
    part, labels = Augmentation("none", 32)(image, label, 1)
    row, col = (part[0, 0, :2] - 40) // 2
    np.testing.assert_array_equal(part, image[row : row + 32, col : col + 32])
    np.testing.assert_array_equal(labels, label[row : row + 32, col : col + 32])


@pytest.mark.parametrize("name", ["published", "default"])
def test_a_crop_is_scaled_as_its_patch_is(name: Name) -> None:
    rows, cols = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    image = np.stack([rows + 100, cols + 100], axis=-1)
    label = np.zeros((SIZE, SIZE), np.uint8)
    augmentation = Augmentation(name, 32)
    scales = []
    for seed in range(120):
        moved, labels = augmentation(image, label, seed)
        assert moved.shape == (32, 32, 2)
        assert (labels == 0).all()  # a patch scaled by half fills the crop
        inner = moved[8:-8, 8:-8]
        slopes = [np.abs(np.diff(inner, axis=axis)).mean((0, 1)).max() for axis in (0, 1)]
        scales.append(1 / max(slopes))
    least, most = {"published": (0.5, 2.0), "default": (0.8, 1.25)}[name]
    assert 0.98 * least < min(scales) < 1.2 * least
    assert 0.9 * most < max(scales) < 1.03 * most
