"""Test-time augmentation: windows seen flipped and turned, and their logits turned back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hrrsi.graphs.graph import Floats
from hrrsi.prediction.options import Augmentation


class Symmetry(NamedTuple):
    """A symmetry of the square.

    Attributes:
        turns: Quarter turns, counter-clockwise.
        flipped: Whether columns are reversed first.
    """

    turns: int
    flipped: bool

    def seen(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return (bands, height, width) pixels as the network shall see them."""
        turned = np.rot90(pixels[:, :, ::-1] if self.flipped else pixels, self.turns, axes=(1, 2))
        return np.ascontiguousarray(turned)

    def undone(self, logits: Floats) -> Floats:
        """Return (classes, rows, columns) logits of what was `seen` in the scene's orientation."""
        turned = np.rot90(logits, -self.turns, axes=(1, 2))
        return turned[:, :, ::-1] if self.flipped else turned


_SYMMETRIES: dict[Augmentation, tuple[Symmetry, ...]] = {
    "none": (Symmetry(0, False),),
    "flip": (Symmetry(0, False), Symmetry(0, True)),
    "d4": tuple(Symmetry(turns, flipped) for flipped in (False, True) for turns in range(4)),
}


def symmetries(name: Augmentation) -> tuple[Symmetry, ...]:
    """Return the symmetries of a test-time augmentation, by its name."""
    return _SYMMETRIES[name]


def mean_logits(
    logits: Iterator[Floats | None], symmetry_group: Sequence[Symmetry]
) -> Iterator[Floats | None]:
    """Yield the mean over symmetries of each window's logits, turned back.

    Args:
        logits: Those of each window under each symmetry, window by window.
        symmetry_group: The symmetries.
    """
    if len(symmetry_group) == 1:
        yield from logits
        return
    for first in logits:
        views = [first, *islice(logits, len(symmetry_group) - 1)]
        upright = [
            symmetry.undone(each)
            for symmetry, each in zip(symmetry_group, views, strict=True)
            if each is not None
        ]
        if upright:
            yield np.ascontiguousarray(np.mean(upright, axis=0, dtype=np.float32))
        else:
            yield None
