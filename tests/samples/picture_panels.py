"""Pictures of patches of 64 px, taken apart again."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

SIZE = 64
SIDE = 192  # such small patches are magnified three times


def pixels_of(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def magnified(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return pixels.repeat(SIDE // SIZE, axis=0).repeat(SIDE // SIZE, axis=1)


def place_of(panel: npt.NDArray[Any], picture: npt.NDArray[Any]) -> tuple[int, int]:
    """Return row and column of the one place where a picture holds a panel."""
    side = len(panel)
    rows, cols = (length - side + 1 for length in picture.shape[:2])
    is_alike = np.ones((rows, cols), dtype=bool)
    for n in range(0, side, SIDE // SIZE * 8):  # some pixels first: whole panels take long
        is_alike &= (picture[n : n + rows, n : n + cols] == panel[n, n]).all(-1)
    places = [
        (int(r), int(c))
        for r, c in np.argwhere(is_alike)
        if np.array_equal(picture[r : r + side, c : c + side], panel)
    ]
    assert len(places) == 1
    return places[0]


def row_of_panels(picture: npt.NDArray[Any], place: tuple[int, int], count: int) -> list[Any]:
    """Return panels beside each other, which white gaps divide."""
    row, col = place
    step = SIDE + 4
    panels = [
        picture[row : row + SIDE, col + n * step : col + n * step + SIDE] for n in range(count)
    ]
    for n in range(count):
        assert (
            picture[row : row + SIDE, col + n * step + SIDE : col + (n + 1) * step] == 255
        ).all()
    return panels


def assert_striped(
    panel: npt.NDArray[np.uint8], ignored: npt.NDArray[np.bool_], colours: Any
) -> None:
    """Check that ignored pixels have two greys, neither the colour of any class, mixed evenly."""
    inside = panel[ignored]
    shades, counts = np.unique(inside, axis=0, return_counts=True)
    assert len(shades) == 2
    assert (shades == shades[:, :1]).all()
    assert counts.min() > 0.3 * counts.sum()
    for colour in colours:
        assert np.abs(shades.astype(int) - colour).max(axis=1).min() > 40
