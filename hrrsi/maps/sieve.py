"""Sieving: small components of a class map go over to the class that surrounds them most."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from hrrsi.classes import IGNORE_INDEX
from hrrsi.errors import OptionError
from hrrsi.maps.components import Integers, Labels, StripRuns, even_strips, strip_components
from hrrsi.scenes.georeference import pixel_areas

_STRIP_PIXELS = 2**19


def smallest_component(dataset: Any, min_area: float) -> int:
    """Return how many pixels make up an area, rounded up: what has fewer is smaller.

    Args:
        dataset: The scene as a rasterio dataset; the ground area of the pixels in its middle row
            counts.
        min_area: Square metres on the ground, or pixels for a scene without CRS.

    Raises:
        OptionError: The area is negative or not a number.
    """
    if not 0 <= min_area < math.inf:
        raise OptionError(f"{min_area:g} is no area", parameter="min_area", fix="give 0 or more")
    areas = pixel_areas(dataset)
    pixel = 1.0 if areas is None else float(areas[len(areas) // 2])
    return math.ceil(round(min_area / pixel, 6))


def sieved_strips(
    strips: Iterable[Labels], width: int, height: int, min_pixels: int, *, rows: int | None = None
) -> Iterator[Labels]:
    """Yield strips of labels in which no component has fewer than `min_pixels` pixels.

    Components are 4-connected pixels of one class. In the order of their last pixels (by rows),
    each that is too small takes the class along which most of its border lies; of classes with
    as much border, the one with the lower index. It is one component with its neighbours of that
    class from then on. Pixels without data stay what they are, and count as no neighbour: a small
    component that only they surround stays.

    So nothing depends on how the map is cut into strips, and no more than `min_pixels` rows, and
    a strip, have to be held: what is not decided yet is connected, reaches the last row, and has
    fewer pixels than that.

    Args:
        strips: (any, width) uint8 class indices each, 255 where there is no data, from top to
            bottom.
        width: Columns.
        height: Rows of all strips together.
        min_pixels: Pixels that a component has at least; up to 1 changes nothing.
        rows: Rows to deal with at once, which changes nothing but the strips' heights.

    Returns:
        (any, width) uint8 each, from top to bottom, `height` rows in all.

    Raises:
        ValueError: The strips don't make up `height` rows of `width`.
    """
    cut = even_strips(strips, height, width, rows or max(1, _STRIP_PIXELS // width))
    if min_pixels <= 1:
        yield from cut
        return
    sieve = _Sieve(width, min_pixels)
    for strip in cut:
        yield from sieve.decided_by(strip)
    yield from sieve.rest()


class _HeldStrip:
    """A strip some of whose components may still get another class.

    Attributes:
        classes: (components,) the class of each so far.
        undecided: How many of them may still change.
    """

    def __init__(
        self, strip: Labels, runs: StripRuns, component: Integers, classes: Labels
    ) -> None:
        self._strip = strip
        self._labels = runs.labels[runs.above :]
        self._starts = (runs.rows * strip.shape[1] + runs.columns)[runs.above :]
        self._lengths = runs.lengths[runs.above :]
        self._component = component[runs.above :]
        self.classes = classes
        self.undecided = 0

    def sieved(self) -> Labels:
        """Return the strip with the classes of its components."""
        classes = self.classes[self._component]
        changed = np.flatnonzero(classes != self._labels)
        if not changed.size:
            return self._strip
        lengths = self._lengths[changed]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        result = self._strip.copy()
        result.ravel()[np.repeat(self._starts[changed], lengths) + within] = np.repeat(
            classes[changed], lengths
        )
        return result


class _Region:
    """A connected part of the sieved map that is too small so far.

    Attributes:
        label: Its class.
        pixels: How many it has.
        last: Its last pixel, counted by rows through the scene.
        is_open: Whether it reaches the last row, so that it may still grow.
        decided: Whether its class is final.
        merged_into: The region that it is part of now, None where it is one of its own.
        border: Pixels of border with each class where the class there is final.
        neighbours: Pixels of border with the other regions around it.
        parts: The strips and components that it is made of.
    """

    __slots__ = (
        "border",
        "decided",
        "is_open",
        "label",
        "last",
        "merged_into",
        "neighbours",
        "parts",
        "pixels",
    )

    def __init__(self, label: int) -> None:
        self.label = label
        self.pixels = 0
        self.last = -1
        self.is_open = False
        self.decided = False
        self.merged_into: _Region | None = None
        self.border: dict[int, int] = {}
        self.neighbours: dict[_Region, int] = {}
        self.parts: list[tuple[_HeldStrip, int]] = []

    def current(self) -> _Region:
        """Return the region that this one is part of now."""
        region = self
        while region.merged_into is not None:
            region = region.merged_into
        return region

    def absorb(self, other: _Region) -> None:
        """Make another region of the same class part of this one."""
        self.neighbours.pop(other, None)
        other.neighbours.pop(self, None)
        for neighbour, length in other.neighbours.items():
            self.neighbours[neighbour] = self.neighbours.get(neighbour, 0) + length
            del neighbour.neighbours[other]
            neighbour.neighbours[self] = self.neighbours[neighbour]
        for label, length in other.border.items():
            self.border[label] = self.border.get(label, 0) + length
        self.pixels += other.pixels
        self.last = max(self.last, other.last)
        self.is_open |= other.is_open
        self.parts += other.parts
        other.merged_into = self
        other.parts, other.neighbours = [], {}

    def decide(self) -> None:
        """Make the class final."""
        self.decided = True
        for neighbour, length in self.neighbours.items():
            del neighbour.neighbours[self]
            neighbour.border[self.label] = neighbour.border.get(self.label, 0) + length
        self.neighbours = {}
        for held, component in self.parts:
            held.classes[component] = self.label
            held.undecided -= 1
        self.parts = []

    def most_common_neighbour(self) -> int | None:
        """Return the class along which most of the border lies, None where there is none."""
        border = dict(self.border)
        for neighbour, length in self.neighbours.items():
            border[neighbour.label] = border.get(neighbour.label, 0) + length
        return min(border, key=lambda label: (-border[label], label)) if border else None


class _Sieve:
    """Follows regions from strip to strip, and gives the strips that are decided."""

    def __init__(self, width: int, min_pixels: int) -> None:
        self._width = width
        self._min_pixels = min_pixels
        self._row = 0
        self._last_row: Labels | None = None
        # of components that touch the last row: the one of each of its runs, and the region that
        # each is part of, None where that is decided
        self._open: Integers = np.zeros(0, dtype=np.int64)
        self._open_regions: list[_Region | None] = []
        self._held: deque[_HeldStrip] = deque()

    def decided_by(self, strip: Labels) -> Iterator[Labels]:
        """Take the next strip, and yield those that can't change any more."""
        self._held.append(self._taken(strip))
        while self._held and not self._held[0].undecided:
            yield self._held.popleft().sieved()

    def rest(self) -> Iterator[Labels]:
        """Yield the strips that are left once all have been taken."""
        self._taken(np.full((1, self._width), IGNORE_INDEX, dtype=np.uint8))
        while self._held:
            yield self._held.popleft().sieved()

    def _taken(self, strip: Labels) -> _HeldStrip:
        runs = StripRuns(strip, self._last_row)
        count, component = strip_components(runs, self._open)
        pixels = np.zeros(count, dtype=np.int64)
        np.add.at(pixels, component[runs.above :], runs.lengths[runs.above :])
        classes = np.zeros(count, dtype=np.uint8)
        classes[component] = runs.labels
        held = _HeldStrip(strip, runs, component, classes.copy())
        in_last_row = np.unique(component[runs.last :])

        regions, decided = self._from_above(component[: runs.above], pixels)
        self._add_borders(runs, component, classes, pixels, in_last_row, decided, regions, held)
        last = np.zeros(count, dtype=np.int64)
        # runs are in order, so that the last pixel stays
        last[component] = (self._row + runs.rows) * self._width + runs.columns + runs.lengths - 1
        for number, region in regions.items():
            region.last = max(region.last, int(last[number]))
            region.parts.append((held, number))
            region.is_open = False
        held.undecided = len(regions)
        for number in in_last_row.tolist():
            if number in regions:
                regions[number].is_open = True
        self._judge(regions.values())

        self._open = np.searchsorted(in_last_row, component[runs.last :])
        self._open_regions = [_undecided(regions.get(n)) for n in in_last_row.tolist()]
        self._last_row = strip[-1].copy()
        self._row += len(strip)
        return held

    def _from_above(
        self, component: Integers, pixels: Integers
    ) -> tuple[dict[int, _Region], npt.NDArray[np.bool_]]:
        """Return the regions of components that go on from above, and which ones are decided.

        Args:
            component: (runs,) those of the runs in the row above.
            pixels: (components,) how many each has in the strip.
        """
        decided = pixels >= self._min_pixels
        regions: dict[int, _Region] = {}
        of_open = np.zeros(len(self._open_regions), dtype=np.int64)
        of_open[self._open] = component
        for number, open_region in zip(of_open.tolist(), self._open_regions, strict=True):
            if open_region is None:
                decided[number] = True
                continue
            region = open_region.current()
            if number in regions:
                region = _merged(regions[number].current(), region)
            regions[number] = region
        for number, region in regions.items():
            region.current().pixels += int(pixels[number])
        for number, region in regions.items():
            region = region.current()
            if not region.decided and (decided[number] or region.pixels >= self._min_pixels):
                region.decide()
        undecided = {}
        for number, region in regions.items():
            if region.current().decided:
                decided[number] = True
            else:
                undecided[number] = region.current()
        return undecided, decided

    def _add_borders(
        self,
        runs: StripRuns,
        component: Integers,
        classes: Labels,
        pixels: Integers,
        in_last_row: Integers,
        decided: npt.NDArray[np.bool_],
        regions: dict[int, _Region],
        held: _HeldStrip,
    ) -> None:
        """Give components new regions and all regions their borders.

        Components that only decided ones surround need no region: they get their class at once.
        """
        first_run, second_run, length = runs.borders()
        first, second = component[first_run], component[second_run]
        length = np.concatenate((length, length))
        near, far = np.concatenate((first, second)), np.concatenate((second, first))
        to_decided = ~decided[near] & decided[far]
        among = ~decided[near] & ~decided[far]
        needs_region = np.zeros(len(decided), dtype=bool)
        needs_region[near[among]] = True
        needs_region[in_last_row] = True
        needs_region &= ~decided
        for number in np.flatnonzero(needs_region).tolist():
            if number not in regions:
                regions[number] = _Region(int(classes[number]))
                regions[number].pixels = int(pixels[number])
        has_region = np.zeros(len(decided), dtype=bool)
        has_region[list(regions)] = True

        number, label, total = _totals(
            near[to_decided], classes[far[to_decided]].astype(np.int64), 256, length[to_decided]
        )
        slow = has_region[number]
        for n, c, t in zip(*(a[slow].tolist() for a in (number, label, total)), strict=True):
            border = regions[n].border
            border[c] = border.get(c, 0) + t
        number, label, total = number[~slow], label[~slow], total[~slow]
        best = np.lexsort((label, -total, number))
        _, foremost = np.unique(number[best], return_index=True)
        held.classes[number[best][foremost]] = label[best][foremost]

        number, beside, total = _totals(near[among], far[among], len(decided), length[among])
        for n, m, t in zip(number.tolist(), beside.tolist(), total.tolist(), strict=True):
            neighbours, neighbour = regions[n].neighbours, regions[m]
            neighbours[neighbour] = neighbours.get(neighbour, 0) + t

    def _judge(self, regions: Iterable[_Region]) -> None:
        """Decide the regions that have ended, in the order of their last pixels."""
        ended = sorted({(r.last, id(r)): r for r in regions if not r.is_open}.items())
        for (last, _), listed in ended:
            region = listed.current()
            if region.decided or region.is_open or region.last != last:
                continue  # decided already, or its turn is still to come
            label = region.most_common_neighbour()
            if label is None:
                region.decide()
                continue
            region.label = label
            reaches_decided = label in region.border
            for neighbour in [n for n in region.neighbours if n.label == label]:
                region = _merged(region, neighbour)
            if reaches_decided or region.pixels >= self._min_pixels:
                region.decide()


def _merged(first: _Region, second: _Region) -> _Region:
    """Return the region that two of one class make up."""
    if first is second:
        return first
    small, large = sorted((first, second), key=lambda r: len(r.neighbours) + len(r.parts))
    large.absorb(small)
    return large


def _undecided(region: _Region | None) -> _Region | None:
    if region is None or region.current().decided:
        return None
    return region.current()


def _totals(
    first: Integers, second: Integers, second_stop: int, lengths: Integers
) -> tuple[Integers, Integers, Integers]:
    """Return the distinct pairs, in order, and the sum of lengths of each.

    Args:
        first: (pairs,) one number of each.
        second: (pairs,) the other, below `second_stop`.
        second_stop: The end of the other's range.
        lengths: (pairs,) of each.
    """
    pairs, position = np.unique(first * second_stop + second, return_inverse=True)
    total = np.zeros(len(pairs), dtype=np.int64)
    np.add.at(total, position, lengths)
    return pairs // second_stop, pairs % second_stop, total
