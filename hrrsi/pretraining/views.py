"""Which part of an image the network sees, and how: the same for every loader."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

# Szegedy et al. 2015, "Going Deeper with Convolutions", section 6: crops of 8 to 100 % of the
# area, of an aspect ratio between 3/4 and 4/3.
_SHARES = (0.08, 1.0)
_LOG_RATIOS = (math.log(3 / 4), math.log(4 / 3))
_ATTEMPTS = 10
# Validation keeps the centre of an image: 224 of 256 px, or 256 of 293.
_CENTRE = 224 / 256
_LONGEST = 16


class View(NamedTuple):
    """A part of an image, and what becomes of it.

    Attributes:
        left: Its first column in the image.
        top: Its first row.
        width: Its columns.
        height: Its rows.
        columns: Columns that it is resized to (bilinear, antialiased).
        rows: Rows that it is resized to.
        skipped_columns: Columns of that before those that are seen.
        skipped_rows: Rows of that before those that are seen.
        mirrored: Whether left and right are swapped at last.
    """

    left: int
    top: int
    width: int
    height: int
    columns: int
    rows: int
    skipped_columns: int
    skipped_rows: int
    mirrored: bool


def training_view(width: int, height: int, size: int, seed: tuple[int, ...]) -> View:
    """Return a random resized crop, mirrored half of the time.

    Args:
        width: Columns of the image.
        height: Rows of the image.
        size: Rows and columns that the network sees.
        seed: All that decides the crop.
    """
    random = np.random.default_rng(seed)
    mirrored = bool(random.random() < 0.5)
    for share, log_ratio in zip(
        random.uniform(*_SHARES, _ATTEMPTS), random.uniform(*_LOG_RATIOS, _ATTEMPTS), strict=True
    ):
        area, ratio = share * width * height, math.exp(log_ratio)
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            left = int(random.integers(width - columns + 1))
            top = int(random.integers(height - rows + 1))
            return View(left, top, columns, rows, size, size, 0, 0, mirrored)
    # an image too long or too high for any crop: as much of its centre as the ratios allow
    columns = max(1, min(width, round(height * math.exp(_LOG_RATIOS[1]))))
    rows = max(1, min(height, round(width / math.exp(_LOG_RATIOS[0]))))
    left, top = (width - columns) // 2, (height - rows) // 2
    return View(left, top, columns, rows, size, size, 0, 0, mirrored)


def validation_view(width: int, height: int, size: int) -> View:
    """Return the centre of an image: its short side is resized to ``size * 256 / 224``.

    Args:
        width: Columns of the image.
        height: Rows of the image.
        size: Rows and columns that the network sees.
    """
    # the ends of a very long image, which nobody sees, could take more memory than there is
    longest = _LONGEST * min(width, height)
    seen_width, seen_height = min(width, longest), min(height, longest)
    short = round(size / _CENTRE)
    columns = short * seen_width // min(seen_width, seen_height)
    rows = short * seen_height // min(seen_width, seen_height)
    return View(
        (width - seen_width) // 2,
        (height - seen_height) // 2,
        seen_width,
        seen_height,
        columns,
        rows,
        round((columns - size) / 2),
        round((rows - size) / 2),
        False,
    )
