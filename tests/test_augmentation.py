"""The published augmentation: geometry acts on both alike, and nothing is invented."""

import numpy as np
import pytest

from hrrsi.training.augmentation import PublishedAugmentation

SIZE = 64


@pytest.fixture(scope="module")
def augmentation() -> PublishedAugmentation:
    return PublishedAugmentation(SIZE)


def pair_that_shows_where_pixels_come_from() -> tuple[np.ndarray, np.ndarray]:
    """An image whose bands are row, column and class, never 0, and its label."""
    rows, cols = np.mgrid[0:SIZE, 0:SIZE]
    label = ((rows // 16 + cols // 16) % 4).astype(np.uint8)
    image = np.stack([rows * 2 + 40, cols * 2 + 40, label * 40 + 60], axis=-1).astype(np.uint8)
    return image, label


def test_same_seed_same_pair_and_another_seed_another(augmentation: PublishedAugmentation) -> None:
    image, label = pair_that_shows_where_pixels_come_from()
    first, again, other = (augmentation(image, label, seed) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_result_does_not_depend_on_what_was_drawn_before() -> None:
    image, label = pair_that_shows_where_pixels_come_from()
    used, fresh = PublishedAugmentation(SIZE), PublishedAugmentation(SIZE)
    for seed in range(5):
        used(image, label, seed)
    assert np.array_equal(used(image, label, 9)[0], fresh(image, label, 9)[0])


def test_label_moves_with_the_image_and_padding_is_ignored(
    augmentation: PublishedAugmentation,
) -> None:
    image, label = pair_that_shows_where_pixels_come_from()
    agreeing, inside = 0, 0
    for seed in range(60):
        moved, labels = augmentation(image, label, seed)
        assert moved.shape == (SIZE, SIZE, 3)
        assert moved.dtype == np.uint8
        assert labels.shape == (SIZE, SIZE)
        assert set(np.unique(labels)) <= {0, 1, 2, 3, 255}
        known = labels != 255
        # padding is black; blur and interpolation reach a few pixels across its border
        assert moved[~known].mean() < 30 if (~known).sum() > 50 else True
        agreeing += (np.abs(moved[..., 2].astype(int) - (labels.astype(int) * 40 + 60)) < 20)[
            known
        ].sum()
        inside += known.sum()
    assert agreeing / inside > 0.85


def test_ignored_pixels_stay_ignored(augmentation: PublishedAugmentation) -> None:
    image, _ = pair_that_shows_where_pixels_come_from()
    nothing = np.full((SIZE, SIZE), 255, np.uint8)
    assert (augmentation(image, nothing, 1)[1] == 255).all()


def test_statistics_are_the_published_ones(augmentation: PublishedAugmentation) -> None:
    image, label = pair_that_shows_where_pixels_come_from()
    padded, flipped, upside_down, sizes = [], [], [], []
    for seed in range(300):
        moved, labels = augmentation(image, label, seed)
        known = labels != 255
        padded.append(not known.all())
        rows, cols = np.nonzero(known)
        core = moved[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1].astype(float)
        upside_down.append(core[0, :, 0].mean() > core[-1, :, 0].mean())
        flipped.append(core[:, 0, 1].mean() > core[:, -1, 1].mean())
        if not known.all():
            sizes.append(core.shape[0] / SIZE)
    assert 0.42 < np.mean(flipped) < 0.58
    assert 0.42 < np.mean(upside_down) < 0.58
    # the short side is uniform between 0.5 and 2.0 of the crop: a third of the draws is smaller
    assert 0.26 < np.mean(padded) < 0.41
    assert 0.49 <= min(sizes) < 0.55
    assert 0.70 < np.mean(sizes) < 0.80
