"""The bands that patches hold or a network sees, and whether they are the same as others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class InputBands(NamedTuple):
    """The bands that patches hold, or that a network sees, in their order.

    Attributes:
        numbers: The 1-based bands of scenes that don't name theirs.
        meanings: What each of these shows, as `hrrsi.scenes.bands.band_meanings` calls it; None
            where that is not known.
        has_height: Whether heights come after them.
    """

    numbers: tuple[int, ...]
    meanings: tuple[str | None, ...] | None
    has_height: bool

    @property
    def names(self) -> list[str]:
        """What they are, as `band_names` calls it."""
        return band_names(self.numbers, has_height=self.has_height)

    def difference(self, others: InputBands) -> tuple[list[str], list[str]] | None:
        """Return the names of these and of other bands, or None where they are the same.

        They are named by what they show where that is known of all, else by their numbers.
        """
        own, other = self.meanings, others.meanings
        if own is None or other is None or None in own or None in other:
            names = self.names, others.names
        else:
            names = self._with_height(own), others._with_height(other)
        return None if names[0] == names[1] else names

    def _with_height(self, names: Sequence[str | None]) -> list[str]:
        return [*map(str, names), *["height"] * self.has_height]


def band_names(bands: Sequence[int], *, has_height: bool) -> list[str]:
    """Return what bands are: ``band 4`` of the scenes, or ``height``, the last one.

    Args:
        bands: The 1-based bands of the scenes.
        has_height: Whether heights come after them.
    """
    return [f"band {band}" for band in bands] + ["height"] * has_height
