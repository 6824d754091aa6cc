"""Where windows and patches lie on a scene, and how overlapping windows are weighted."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Window(NamedTuple):
    """A rectangle of pixels: first row, first column, height, width."""

    row: int
    col: int
    height: int
    width: int


def window_starts(length: int, size: int, stride: int) -> list[int]:
    """Return where windows start along one axis; the last one moves inward to end at the edge.

    Args:
        length: Pixels along the axis, at least 1.
        size: Pixels of a window; an axis shorter than that gets one window at 0.
        stride: Pixels from one window to the next, 1 to `size`.
    """
    if length <= size:
        return [0]
    starts = list(range(0, length - size, stride))
    return [*starts, length - size]


def window_grid(height: int, width: int, size: int, stride: int) -> list[list[Window]]:
    """Return the windows that cover a scene, one list a row of windows, from top to bottom.

    Windows have `size` rows and columns, or the scene's where the scene is smaller.
    """
    h, w = min(size, height), min(size, width)
    return [
        [Window(row, col, h, w) for col in window_starts(width, size, stride)]
        for row in window_starts(height, size, stride)
    ]


def blend_weights(length: int, *, before: int, after: int) -> npt.NDArray[np.float32]:
    """Return a window's weights along one axis for blending it with its neighbours.

    A raised cosine over each overlap: a pixel deep inside counts 1, and the weights of two
    neighbours add up to 1 where they overlap. Weights are never 0.

    Args:
        length: Pixels of the window along the axis.
        before: Pixels shared with the previous window, 0 at the scene's edge.
        after: Pixels shared with the next window, 0 at the scene's edge.

    Returns:
        (length,) float32 in (0, 1].
    """
    weights = np.ones(length, dtype=np.float64)
    if before:
        weights[:before] *= _rise(before)
    if after:
        weights[length - after :] *= _rise(after)[::-1]
    return weights.astype(np.float32)


def _rise(pixels: int) -> npt.NDArray[np.float64]:
    rise: npt.NDArray[np.float64] = np.sin((np.arange(pixels) + 0.5) * (np.pi / (2 * pixels))) ** 2
    return rise
