"""What every room knows of classes: their colours, what labels hold, what has no class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

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
