"""Where windows and patches lie on a scene."""

from typing import NamedTuple

DEFAULT_WINDOW = 512
LARGEST_WINDOW = 4096  # a thread takes about 4 GB for it


class Grid(NamedTuple):
    """Rows and columns of pixels."""

    height: int
    width: int


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


def spread_starts(length: int, size: int, count: int) -> list[int]:
    """Return where samples of one axis start, evenly from its first pixel to its last.

    Args:
        length: Pixels along the axis.
        size: Pixels of a sample; an axis shorter than that gets one sample at 0.
        count: Samples, at least 2; fewer where starts would coincide.
    """
    last = max(0, length - size)
    return sorted({round(last * i / (count - 1)) for i in range(count)})


def window_grid(height: int, width: int, size: int, stride: int) -> list[list[Window]]:
    """Return the windows that cover a scene, one list a row of windows, from top to bottom.

    Windows have `size` rows and columns, or the scene's where the scene is smaller.
    """
    h, w = min(size, height), min(size, width)
    return [
        [Window(row, col, h, w) for col in window_starts(width, size, stride)]
        for row in window_starts(height, size, stride)
    ]


def default_overlap(window: int) -> int:
    """Return the pixels that windows of a size share: 96 of 512.

    It is the narrowest overlap that was tried at which label changes are no more frequent where
    windows meet than elsewhere (``benchmarks/window_seams.py``).
    """
    return window * 3 // 16
