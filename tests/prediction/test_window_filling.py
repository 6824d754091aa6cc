"""What fills a window where it holds no data."""

import numpy as np
import pytest

from hrrsi.prediction.sliding_window import mirror_filled


def naive_fill(pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Pixel by pixel, round by round, as the documentation has it."""
    filled, is_filled = pixels.copy(), valid.copy()
    height, width = valid.shape
    while not is_filled.all():
        nearest: dict[tuple[int, int], tuple[int, int]] = {}
        for row, col in zip(*np.nonzero(~is_filled), strict=True):
            best = None
            for down, across in ((0, -1), (0, 1), (-1, 0), (1, 0)):  # the order among equals
                for distance in range(1, max(height, width)):
                    r, c = row + down * distance, col + across * distance
                    if not (0 <= r < height and 0 <= c < width):
                        break
                    if is_filled[r, c]:
                        if best is None or distance < best[0]:
                            best = (distance, down, across)
                        break
            if best is not None:
                distance, down, across = best
                r, c = (row + down * (2 * distance - 1), col + across * (2 * distance - 1))
                if 0 <= r < height and 0 <= c < width and is_filled[r, c]:
                    nearest[row, col] = (r, c)
        for (row, col), (r, c) in nearest.items():
            filled[:, row, col] = filled[:, r, c]
        for place in nearest:
            is_filled[place] = True
    return filled


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_naive_implementation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 14, 2)
    valid = rng.random(shape) < (0.05, 0.5, 0.9)[seed % 3]
    valid[tuple(rng.integers(0, shape))] = True
    pixels = rng.integers(0, 256, (3, *shape)).astype(("uint8", "uint16", "float32")[seed % 3])
    filled = mirror_filled(pixels, valid)
    assert filled.dtype == pixels.dtype
    np.testing.assert_array_equal(filled, naive_fill(pixels, valid))
    np.testing.assert_array_equal(filled[:, valid], pixels[:, valid])


def test_half_a_window_mirrors_the_other_half() -> None:
    pixels = np.arange(2 * 4 * 6).reshape(2, 4, 6)
    valid = np.zeros((4, 6), dtype=bool)
    valid[:, 3:] = True
    np.testing.assert_array_equal(
        mirror_filled(np.where(valid, pixels, -1), valid)[:, :, :3], pixels[:, :, :2:-1]
    )


def test_what_is_not_a_number_never_stays() -> None:
    pixels = np.full((1, 8, 8), np.nan, dtype=np.float32)
    pixels[0, 5, 2] = 7
    assert (mirror_filled(pixels, np.isfinite(pixels[0])) == 7).all()
