"""What every room knows of classes: their colours, what labels hold, what has no class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # the command line imports this module for its types
    import numpy as np
    import numpy.typing as npt

IGNORE_INDEX = 255
"""Index of pixels that have no class."""

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

LabelFormat = Literal["colours", "indices", "polygons"]
"""What labels hold."""

ScoreType = Literal["uint8", "float32"]
"""Of stored confidences and class probabilities: steps of 0.004, or the numbers themselves."""

UnknownLabels = Literal["error", "ignore"]
"""What to do about labels that the scheme doesn't know: fail, or ignore their pixels."""

# What people expect, by words of a class' name; those of the packaged weights among them.
_EXPECTED: dict[Colour, str] = {
    (227, 26, 28): "building buildings roof house built",
    (120, 120, 120): "road street asphalt pavement paved impervious",
    (51, 140, 60): "vegetation green greenery",
    (20, 90, 40): "tree forest wood woodland canopy",
    (150, 205, 95): "grass grassland lawn meadow low",
    (110, 150, 50): "shrub bush scrub hedge",
    (225, 190, 60): "crop field agriculture agricultural farmland arable cropland",
    (38, 115, 200): "water river lake pond sea stream",
    (80, 195, 230): "pool",
    (235, 214, 170): "sand land beach ground",
    (170, 125, 80): "soil bare dirt",
    (255, 200, 0): "car vehicle",
    (95, 65, 115): "rail railway track",
    (100, 165, 160): "wetland marsh swamp",
    (220, 220, 220): "other clutter background rest unknown",
}
_STEPS = (0, 51, 102, 153, 204, 255)  # of red, green and blue of colours that are free to choose
_DARKEST, _LIGHTEST = 30, 85  # of these, in CIELAB


def chosen_colours(names: Sequence[str], colours: Sequence[Colour | None]) -> list[Colour]:
    """Return a colour for each class, no two the same.

    A colour that is given stays, at the first class that has it; a name that speaks for itself gets
    what people expect (water is blue), and the rest are as far from all others as can be.

    Args:
        names: Names of the classes.
        colours: Their own colours, None where there is none.
    """
    chosen: list[Colour | None] = []
    for colour in colours:
        chosen.append(colour if colour not in chosen else None)
    for number, name in enumerate(names):
        if chosen[number] is None:
            expected = _expected_colour(name)
            chosen[number] = expected if expected not in chosen else None
    palette = [colour for colour in chosen if colour is not None]
    free = _distant_colours(palette, len(chosen) - len(palette))
    return [free.pop(0) if colour is None else colour for colour in chosen]


def _expected_colour(name: str) -> Colour | None:
    words = re.findall(r"[^\W\d_]+", name.casefold())
    for word in [*words, *(word.removesuffix("s") for word in words)]:
        for colour, terms in _EXPECTED.items():
            if word in terms.split():
                return colour
    return None


def _distant_colours(palette: Sequence[Colour], count: int) -> list[Colour]:
    """Return colours that are, one after the other, the furthest in CIELAB from all before them."""
    import numpy as np

    if not count:
        return []
    axes = np.meshgrid(_STEPS, _STEPS, _STEPS, indexing="ij")
    grid: npt.NDArray[Any] = np.stack(axes, axis=-1).reshape(-1, 3)
    places = _lab(grid)
    usable = (places[:, 0] >= _DARKEST) & (places[:, 0] <= _LIGHTEST)
    grid, places = grid[usable], places[usable]
    before = _lab(np.array([*palette, (0, 0, 0), (255, 255, 255)]))
    distance = np.linalg.norm(places[:, None] - before, axis=2).min(axis=1)
    colours: list[Colour] = []
    for _ in range(count):
        furthest = int(distance.argmax())
        red, green, blue = map(int, grid[furthest])
        colours.append((red, green, blue))
        distance = np.minimum(distance, np.linalg.norm(places - places[furthest], axis=1))
    return colours


def _lab(colours: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return sRGB colours, (n, 3) of 0 to 255, in CIELAB under D65 (IEC 61966-2-1, CIE 15)."""
    import numpy as np

    values = np.asarray(colours, dtype=np.float64) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = linear @ to_xyz.T / to_xyz.sum(axis=1)
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = root.T
    lab: npt.NDArray[np.float64] = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
    return lab


def class_palette(colours: Sequence[Colour], no_class: Colour = (0, 0, 0)) -> npt.NDArray[np.uint8]:
    """Return a palette: indexed by a map of classes (H, W), it is a picture (H, W, 3).

    Args:
        colours: Class colours in the order of their indices.
        no_class: The colour of every other index.

    Returns:
        (256, 3) uint8.
    """
    import numpy as np

    palette = np.full((256, 3), no_class, dtype=np.uint8)
    palette[: len(colours)] = colours
    return palette
