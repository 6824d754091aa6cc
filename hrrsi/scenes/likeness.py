"""How much a scene looks like a network's training data: distances between squares of imagery.

A square is described by a few numbers (brightness, colours, contrast at several scales), which are
compared with those of squares of training patches; a scene is unlike all of them where the nearest
ones are further away than training squares are from those of other scenes.

Measured with Dubai's training scenes: a normal distribution of the same numbers (Mahalanobis
distance) misses an orthophoto of the Netherlands, and says nothing of a training on several places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from hrrsi.scenes.windows import Window

if TYPE_CHECKING:
    from hrrsi.scenes.window_source import WindowSource

Numbers = npt.NDArray[np.float64]

SQUARE = 128  # px along a side, on the grid that the network sees
SMALLEST_SQUARE = 32
MOST_PATCHES = 500
MOST_SQUARES = 1000
QUANTILE = 0.99
_FEWEST_SQUARES = 20
_OF_A_PATCH = 2  # squares along each axis, at most
_SCALES = 4  # of contrast: between neighbours, then between means of 2, 4 and 8 px
_POSITIONS = (4, 9)  # of squares along each axis of a scene; more where the first hold no data
_SCENE_SQUARES = 16
_MOST_PIXELS = 1 << 22  # of a raster's that are read
_VALID_SHARE = 0.98


@dataclass(frozen=True, eq=False)
class Likeness:
    """What patches of a training look like.

    Attributes:
        centre: (numbers,) the mean of what `square_numbers` says of squares of them.
        spread: (numbers,) its standard deviation, above 0.
        squares: (squares, numbers) the same of each, as multiples of `spread` from `centre`.
        threshold: The distance that 99 % of them are within of the nearest square of other scenes.

    Raises:
        ValueError: They don't fit each other, or are no numbers.
    """

    centre: Numbers
    spread: Numbers
    squares: Numbers
    threshold: float

    def __post_init__(self) -> None:
        length = len(self.centre)
        if self.spread.shape != (length,) or self.squares.shape[1:] != (length,):
            raise ValueError("the description of the training has different lengths")
        if not len(self.squares) or not (self.spread > 0).all() or not self.threshold > 0:
            raise ValueError("nothing can be compared with such a training")
        if not all(np.isfinite(v).all() for v in (self.centre, self.squares, self.threshold)):
            raise ValueError("the description of the training has gaps")

    @classmethod
    def of_squares(cls, numbers: Numbers, scenes: Sequence[str]) -> Self | None:
        """Return what some squares look like.

        Distances are to squares of other scenes, since those of the same one overlap or touch.

        Args:
            numbers: (squares, numbers) what `square_numbers` says of each.
            scenes: The scene of each.

        Returns:
            None where there are fewer than 20 squares, or all of one scene.
        """
        names = np.asarray(scenes)
        if len(names) < _FEWEST_SQUARES or (names == names[0]).all():
            return None
        centre, spread = numbers.mean(axis=0), np.maximum(numbers.std(axis=0), 1e-3)
        # digits that a weights file keeps
        centre, spread = (np.round(values, 5) for values in (centre, spread))
        squares = np.round((numbers - centre) / spread, 1)
        distances = _distances(squares, squares)
        distances[names[:, None] == names] = np.inf
        threshold = round(float(np.quantile(distances.min(axis=1), QUANTILE)), 3)
        return cls(centre, spread, squares, threshold) if threshold else None

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_plain` returned.

        Raises:
            ValueError: It is something else.
        """
        try:
            centre, spread, squares = (
                np.array(values[key], dtype=np.float64) for key in ("centre", "spread", "squares")
            )
            return cls(centre, spread, squares, float(values["threshold"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"is no description of a training ({error})") from error

    def to_plain(self) -> dict[str, Any]:
        """Return it as lists and numbers."""
        return {
            "centre": self.centre.tolist(),
            "spread": self.spread.tolist(),
            "squares": self.squares.tolist(),
            "threshold": self.threshold,
        }

    def distance(self, squares: Numbers) -> float:
        """Return how far squares are from those of the training, as the median over them.

        It is the root mean square over the numbers, in standard deviations of the training, to the
        nearest one.

        Args:
            squares: (squares, numbers), at least one.
        """
        distances = _distances((squares - self.centre) / self.spread, self.squares)
        return float(np.median(distances.min(axis=1)))


def square_numbers(pixels: npt.NDArray[Any], scale: float) -> Numbers:
    """Return what a square of imagery looks like, in numbers.

    They are the deciles 1, 5 and 9 of the brightness (the mean of the bands); the mean of each
    band's difference to it, and the logarithm of that difference's deviation; the mean of the
    largest difference between two bands, as a logarithm; and the logarithm of the contrast (the
    mean difference between neighbours) of the brightness at four scales.

    Args:
        pixels: (bands, height, width) of at least 8 px a side.
        scale: The value that counts as full brightness.
    """
    values = pixels.astype(np.float32) / np.float32(scale)
    brightness = values.mean(axis=0)
    colours = values - brightness
    range_of_bands = float((values.max(axis=0) - values.min(axis=0)).mean())
    contrasts = []
    means = brightness
    for _ in range(_SCALES):
        across, down = (np.abs(np.diff(means, axis=axis)).mean() for axis in (1, 0))
        contrasts.append(float(across + down) / 2)
        height, width = (length // 2 * 2 for length in means.shape)
        if min(height, width) >= 4:
            halves = means[:height, :width].reshape(height // 2, 2, width // 2, 2)
            means = halves.mean(axis=(1, 3))
    return np.array(
        [
            *np.quantile(brightness[::2, ::2], (0.1, 0.5, 0.9)),
            *colours.mean(axis=(1, 2)),
            *np.log(colours.std(axis=(1, 2)) + 0.005),
            np.log(range_of_bands + 0.01),
            *np.log(np.array(contrasts) + 0.002),
        ],
        dtype=np.float64,
    )


def patch_squares(size: int) -> list[Window]:
    """Return squares of at most 128 px that are spread over a square patch, at most four.

    Args:
        size: Rows and columns of the patch.
    """
    side = min(SQUARE, size)
    number = min(_OF_A_PATCH, size // side)
    starts = [(size * (2 * i + 1) // number - side) // 2 for i in range(number)]
    return [Window(row, col, side, side) for row in starts for col in starts]


def scene_squares(source: WindowSource, scale: float) -> Numbers:
    """Return what up to 16 squares look like that are spread over a scene.

    They lie on the grid that the network sees, within the area of interest, and hold hardly any
    pixel without data. Fewer are read where many of the raster's pixels are in one of the
    network's.

    Args:
        source: The scene; nobody else may read it meanwhile.
        scale: The value that counts as full brightness.

    Returns:
        (squares, numbers); no square where the scene is smaller than 32 px, or holds too little.

    Raises:
        InputError: The file can't be read somewhere.
    """
    grid = source.network_grid
    side = min(SQUARE, *grid)
    read = side**2 * math.prod(max(step, 1) for step in source.steps)
    most = int(np.clip(_MOST_PIXELS / read, 3, _SCENE_SQUARES))
    squares: list[Numbers] = []
    for positions in _POSITIONS if side >= SMALLEST_SQUARE else ():
        if not squares:
            windows = _spread_windows(grid, side, positions, most)
            numbers = (_window_numbers(source, window, scale) for window in windows)
            squares = [values for values in numbers if values is not None]
    return np.array(squares)


def _window_numbers(source: WindowSource, window: Window, scale: float) -> Numbers | None:
    """Return what a window of a scene looks like, or None where it holds too little."""
    if source.area is not None and not source.area.touches(source.raster_window(window)):
        return None
    pixels, valid = source.read(window)
    if valid is not None and valid.mean() < _VALID_SHARE:
        return None
    image = pixels[:-1] if source.has_height else pixels
    if valid is not None:  # what is missing has any value
        image = np.where(valid, image, image[:, valid].mean(axis=1)[:, None, None])
    return square_numbers(image, scale)


def _spread_windows(grid: Sequence[int], side: int, positions: int, most: int) -> list[Window]:
    """Return squares on a grid, each once: from top to bottom, since formats are read so."""
    rows, columns = (
        sorted({round((length - side) * i / (positions - 1)) for i in range(positions)})
        for length in grid
    )
    places = [Window(row, col, side, side) for row in rows for col in columns]
    is_sampled = positions == _POSITIONS[0] and len(places) > most
    # (every fourth of sixteen would be a column)
    chosen = (
        np.linspace(0, len(places) - 1, most).round().astype(int)
        if is_sampled
        else range(len(places))
    )
    return [places[index] for index in chosen]


def _distances(squares: Numbers, references: Numbers) -> Numbers:
    """Return the (squares, references) root mean square of differences."""
    products = squares @ references.T
    lengths = (squares**2).sum(axis=1)[:, None] + (references**2).sum(axis=1)
    distances: Numbers = np.sqrt(np.maximum(lengths - 2 * products, 0) / references.shape[1])
    return distances
