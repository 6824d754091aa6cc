"""Connected components of class maps that come in strips: runs, what touches, and polygons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hrrsi.classes import IGNORE_INDEX
from hrrsi.scenes.georeference import exact_areas

Integers = npt.NDArray[np.int64]
Labels = npt.NDArray[np.uint8]
# A corner's code: whether its horizontal edge goes right, its vertical edge down, and whether
# who walks around the component clockwise, as seen on the screen, leaves it horizontally.
_RIGHT, _DOWN, _LEAVES_HORIZONTALLY = 4, 2, 1
_BITS = 3
_STRIP_PIXELS = 2**19  # at a time; what a strip takes beside its pixels stays in the CPU's cache


class StripRuns:
    """The runs of a strip of labels, together with the row above it.

    A run is a stretch of one row with one label. Pixels without data belong to none. Whatever
    concerns shapes then works on runs and on the places where they end, of which a map has a
    hundred times fewer than pixels.

    Attributes:
        labels: (runs,) uint8 class indices; runs are in the order of their pixels.
        rows: (runs,) row in the strip, -1 for the row above.
        columns: (runs,) first column.
        lengths: (runs,) pixels.
        above: How many of the runs lie in the row above; they come first.
        last: The first run of the strip's last row.
        contact_rows: (contacts,) row in the strip above whose upper edge the contact lies. A
            contact is a stretch of an edge between two rows along which the labels on both sides
            stay the same, no data included.
        contact_columns: (contacts,) first column; `width` for what begins right of the strip.
        contact_lengths: (contacts,) pixels, of which those right of the strip don't count.
        upper: (contacts,) run above the contact, -1 for no data.
        lower: (contacts,) run below it, likewise.
        upper_left: (contacts,) run of the pixel left of the first one above, likewise.
        lower_left: (contacts,) run of the pixel left of the first one below, likewise.

    Args:
        strip: (rows, width) uint8 class indices, 255 where there is no data.
        above: (width,) the row above it; None at the top of a scene.
    """

    def __init__(self, strip: Labels, above: Labels | None) -> None:
        rows, columns = strip.shape
        width = columns + 2  # no data left and right, so that no run goes on in the next row
        padded = np.full((rows + 1, width), IGNORE_INDEX, dtype=np.uint8)
        padded[1:, 1:-1] = strip
        if above is not None:
            padded[0, 1:-1] = above
        flat = padded.ravel()
        starts_here = np.empty(flat.size, dtype=bool)
        starts_here[0] = True
        np.not_equal(flat[1:], flat[:-1], out=starts_here[1:])
        starts = np.flatnonzero(starts_here)
        labels = flat[starts]
        real = labels != IGNORE_INDEX
        number = np.where(real, np.cumsum(real) - 1, -1)
        places = starts[real]
        self.labels = labels[real]
        self.lengths: Integers = np.diff(starts, append=flat.size)[real]
        self.rows, self.columns = places // width - 1, places % width - 1
        self.above, self.last = (int(n) for n in np.searchsorted(places, (width, rows * width)))

        at = np.flatnonzero(starts_here[:-width] | starts_here[width:])
        starts_above, starts_below = starts_here[at], starts_here[at + width]
        upper = np.cumsum(starts_above) - 1
        lower = int(np.searchsorted(starts, width)) + np.cumsum(starts_below) - 1
        self.contact_rows, self.contact_columns = at // width, at % width - 1
        self.contact_lengths: Integers = np.diff(at, append=at[-1:] + 1)
        self.upper, self.lower = number[upper], number[lower]
        self.upper_left = number[upper - starts_above]  # -1 picks the last: no data, as wanted
        self.lower_left = number[lower - starts_below]

    def joins(self) -> tuple[Integers, Integers]:
        """Return the pairs of runs (upper, lower) that belong to one component."""
        between = self._between_runs()
        upper, lower = self.upper[between], self.lower[between]
        is_joined = self.labels[upper] == self.labels[lower]
        return upper[is_joined], lower[is_joined]

    def borders(self) -> tuple[Integers, Integers, Integers]:
        """Return the borders between runs of different classes: (first, second, length in pixels).

        Those within the row above are left out: they belong to the strip above.
        """
        between = self._between_runs()
        upper, lower = self.upper[between], self.lower[between]
        across = self.labels[upper] != self.labels[lower]
        left = np.arange(self.above, max(self.above, len(self.labels) - 1))
        beside = (self.rows[left] == self.rows[left + 1]) & (
            self.columns[left] + self.lengths[left] == self.columns[left + 1]
        )
        left = left[beside]
        return (
            np.concatenate((upper[across], left)),
            np.concatenate((lower[across], left + 1)),
            np.concatenate((self.contact_lengths[between][across], np.ones_like(left))),
        )

    def _between_runs(self) -> Integers:
        return np.flatnonzero((self.upper >= 0) & (self.lower >= 0))


def strip_components(runs: StripRuns, open_component: Integers) -> tuple[int, Integers]:
    """Return how many components a strip and the row above it show, and the one of each run.

    Args:
        runs: The strip.
        open_component: (runs above,) which component each run of the row above is known to be
            part of, numbered from 0; what is connected further up has one number.
    """
    first_run = np.zeros(int(open_component.max(initial=-1)) + 1, dtype=np.int64)
    first_run[open_component[::-1]] = np.arange(runs.above)[::-1]
    upper, lower = runs.joins()
    return connected_components(
        len(runs.labels),
        np.concatenate((upper, np.arange(runs.above))),
        np.concatenate((lower, first_run[open_component])),
    )


def connected_components(count: int, first: Integers, second: Integers) -> tuple[int, Integers]:
    """Return how many connected components a graph has, and the component of each node.

    Components are numbered by their first nodes.

    Args:
        count: Number of nodes.
        first: (edges,) a node of each edge.
        second: (edges,) the other.
    """
    parent = np.arange(count)
    while first.size:
        low, high = np.minimum(first, second), np.maximum(first, second)
        np.minimum.at(parent, high, low)  # both are roots, so this hangs trees below lower ones
        while not np.array_equal(grandparent := parent[parent], parent):
            parent = grandparent
        first, second = parent[low], parent[high]
        differs = first != second
        first, second = first[differs], second[differs]
    is_root = parent == np.arange(count)
    number = np.cumsum(is_root) - 1
    return int(is_root.sum()), number[parent]


def even_strips(strips: Iterable[Labels], height: int, width: int, rows: int) -> Iterator[Labels]:
    """Yield the rows of strips of any heights in strips of `rows` rows; the last may have fewer.

    Args:
        strips: (any, width) uint8 each, from top to bottom.
        height: Rows of all together.
        width: Columns.
        rows: Rows of a strip.

    Raises:
        ValueError: The strips don't make up `height` rows of `width`.
    """
    parts: list[Labels] = []
    waiting = row = 0
    for strip in strips:
        if strip.ndim != 2 or strip.shape[1] != width or row + waiting + len(strip) > height:
            raise ValueError(f"a strip of {strip.shape} at row {row + waiting} of {height}")
        start = 0
        while start < len(strip):
            part = strip[start : start + rows - waiting]
            parts.append(part)
            waiting += len(part)
            start += len(part)
            if waiting == rows:
                yield parts[0] if len(parts) == 1 else np.concatenate(parts)
                row += rows
                parts, waiting = [], 0
    if row + waiting != height:
        raise ValueError(f"strips end at row {row + waiting} of {height}")
    if parts:
        yield np.concatenate(parts)


def corners(runs: StripRuns, first_row: int, width: int) -> tuple[Integers, Integers]:
    """Return the corners of components at the upper edges of a strip's rows.

    A corner is where the outline of a component turns. Where two of its pixels touch by their
    corners only, it has two there.

    Args:
        runs: The strip.
        first_row: The strip's first row in the scene.
        width: Columns of the scene.

    Returns:
        (corners,) the place and kind of each, for `outlines`, and (corners,) a run of its
        component.
    """
    # the four pixels around the place where a contact begins
    a, b, c, d = runs.upper_left, runs.upper, runs.lower_left, runs.lower
    # labels of neighbours are equal just where they belong to one component; -1 is no data
    labels = np.append(runs.labels.astype(np.int16), -1)
    la, lb, lc, ld = labels[a], labels[b], labels[c], labels[d]
    top, bottom, left, right = la == lb, lc == ld, la == lc, lb == ld
    place = (first_row + runs.contact_rows) * (width + 1) + runs.contact_columns
    codes, owners = [], []
    for pixel, across, along, code, clockwise in (
        (a, top, left, 0, True),
        (b, top, right, _RIGHT, False),
        (c, bottom, left, _DOWN, False),
        (d, bottom, right, _RIGHT + _DOWN, True),
    ):
        outer = np.flatnonzero(~across & ~along & (pixel >= 0))
        codes.append((place[outer] << _BITS) + code + clockwise)
        owners.append(pixel[outer])
    for missing, across, along, owner, code, clockwise in (
        (a, bottom, right, d, 0, False),
        (b, bottom, left, c, _RIGHT, True),
        (c, top, right, b, _DOWN, True),
        (d, top, left, a, _RIGHT + _DOWN, False),
    ):
        inner = np.flatnonzero(across & along & (labels[missing] != labels[owner]) & (owner >= 0))
        codes.append((place[inner] << _BITS) + code + clockwise)
        owners.append(owner[inner])
    return np.concatenate(codes), np.concatenate(owners)


def outlines(
    component: Integers, corner: Integers, height: int, width: int, *, clockwise: bool
) -> npt.NDArray[Any]:
    """Return the polygons of whole components, holes included.

    Components are 4-connected: where only the corners of its pixels touch, a component's outline
    does not cross over, so that rings touch in points and polygons are valid.

    Args:
        component: (corners,) number of the component that each belongs to, from 0 without gaps.
        corner: (corners,) what `corners` returned, in any order.
        height: Rows of the scene.
        width: Columns of the scene.
        clockwise: How exterior rings run, as seen on the screen; holes run the other way.

    Returns:
        (components,) shapely polygons whose coordinates are columns and rows.
    """
    import shapely  # which sieving does without

    order = np.argsort((component * ((width + 1) * (height + 1)) << _BITS) + corner)
    component, corner = component[order], corner[order]
    place = corner >> _BITS
    y, x = np.divmod(place, width + 1)
    # along a row of corners, every second stretch is an edge; along a column likewise
    along_column = ((component * (width + 1) + x) * (height + 1) + y) * 2 + (corner & _DOWN != 0)
    by_column = np.argsort(along_column)
    following = np.empty_like(by_column)
    following[by_column[0::2]] = by_column[1::2]
    following[by_column[1::2]] = by_column[0::2]
    horizontal = (corner & _LEAVES_HORIZONTALLY != 0) == clockwise
    leaving = np.flatnonzero(horizontal)
    following[leaving] = leaving ^ 1
    # where a component touches itself, its outline goes on around the other component
    twice = np.flatnonzero((place[1:] == place[:-1]) & (component[1:] == component[:-1]))
    following[twice], following[twice + 1] = following[twice + 1], following[twice]

    number = np.cumsum(horizontal) - 1
    ordered, ring_starts = _cycles(number[following[following[leaving]]])
    first = leaving[ordered]
    corner_order = np.column_stack((first, following[first])).ravel()
    ring = np.repeat(np.arange(len(ring_starts)), 2 * np.diff(np.append(ring_starts, len(ordered))))
    coordinates = np.column_stack((x[corner_order], y[corner_order])).astype(np.float64)
    rings = shapely.linearrings(coordinates, indices=ring)
    # a component's topmost corners lie on its exterior, so that this is its first ring
    polygons: npt.NDArray[Any] = shapely.polygons(rings, indices=component[first[ring_starts]])
    return polygons


def _cycles(following: Integers) -> tuple[Integers, Integers]:
    """Return the nodes of a permutation cycle by cycle, and where each cycle begins.

    Cycles come in the order of their lowest nodes, with which they begin.
    """
    count = len(following)
    successor = np.ascontiguousarray(following).data
    is_visited = bytearray(count)
    order = np.empty(count, dtype=np.int64)
    places = order.data
    starts = []
    filled = 0
    for start in range(count):
        if is_visited[start]:
            continue
        starts.append(filled)
        node = start
        while not is_visited[node]:
            is_visited[node] = 1
            places[filled] = node
            filled += 1
            node = successor[node]
    return order, np.array(starts, dtype=np.int64)


class ClassPolygons(NamedTuple):
    """Some polygons of a class map.

    Attributes:
        geometries: (polygons,) shapely polygons whose coordinates are columns and rows.
        class_indices: (polygons,) their classes.
        pixels: (polygons,) how many pixels each covers.
        areas: (polygons,) square metres on the ground, NaN where they are not known.
    """

    geometries: npt.NDArray[Any]
    class_indices: npt.NDArray[np.uint8]
    pixels: Integers
    areas: npt.NDArray[np.float64]


def class_polygons(
    strips: Iterable[Labels],
    height: int,
    width: int,
    areas: npt.NDArray[np.float64] | None = None,
    *,
    clockwise: bool = True,
    rows: int | None = None,
) -> Iterator[ClassPolygons]:
    """Yield the polygons of a class map as they are complete, in an order of their own.

    Args:
        strips: (any, width) uint8 class indices each, 255 where there is no data.
        height: Rows of all strips together.
        width: Columns.
        areas: (height,) square metres of a pixel in each row, None where they are not known.
        clockwise: How exterior rings run, as seen on the screen; holes run the other way.
        rows: Rows to deal with at once, which changes nothing but the order; by default so many
            that memory stays small.

    Raises:
        ValueError: The strips don't make up `height` rows of `width`.
    """
    rows = rows or max(1, _STRIP_PIXELS // width)
    tracer = _Tracer(height, width, areas, clockwise=clockwise)
    for strip in even_strips(strips, height, width, rows):
        yield tracer.closed_by(strip)
    yield tracer.closed_by(np.full((1, width), 255, dtype=np.uint8))


class _Tracer:
    """Follows components from strip to strip, and returns those that end."""

    def __init__(
        self,
        height: int,
        width: int,
        areas: npt.NDArray[np.float64] | None,
        *,
        clockwise: bool,
    ) -> None:
        self._clockwise = clockwise
        self._height = height
        self._width = width
        self._exact = None if areas is None else exact_areas(areas)
        self._row = 0
        self._last_row: Labels | None = None
        # of components that touch the last row: the one of each of its runs, their sums, corners
        self._open: Integers = np.zeros(0, dtype=np.int64)
        self._open_pixels = np.zeros(0, dtype=np.int64)
        self._open_units = np.zeros(0, dtype=np.int64)
        self._open_corners: list[list[Integers]] = []

    def closed_by(self, strip: Labels) -> ClassPolygons:
        """Return the polygons that don't touch the last row of the next strip."""
        runs = StripRuns(strip, self._last_row)
        count, component = strip_components(runs, self._open)
        of_open = np.zeros(len(self._open_corners), dtype=np.int64)
        of_open[self._open] = component[: runs.above]
        pixels, units = self._sums(runs, count, component, of_open)

        last = component[runs.last :]
        stays = np.zeros(count, dtype=bool)
        stays[last] = True
        number = np.where(stays, np.cumsum(stays) - 1, np.cumsum(~stays) - 1)
        corner, corner_run = corners(runs, self._row, self._width)
        corner_component = component[corner_run]

        open_corners: list[list[Integers]] = [[] for _ in range(int(stays.sum()))]
        ended, ended_component = [], []
        for parts, into in zip(self._open_corners, of_open.tolist(), strict=True):
            if stays[into]:
                open_corners[number[into]] += parts
            else:
                ended += parts
                ended_component += [np.full(len(part), number[into]) for part in parts]
        going_on = stays[corner_component]
        ended.append(corner[~going_on])
        ended_component.append(number[corner_component[~going_on]])
        for target, part in _grouped(number[corner_component[going_on]], corner[going_on]):
            open_corners[target].append(part)

        closing = ~stays
        classes = np.zeros(count, dtype=np.uint8)
        classes[component] = runs.labels
        result = ClassPolygons(
            outlines(
                np.concatenate(ended_component),
                np.concatenate(ended),
                self._height,
                self._width,
                clockwise=self._clockwise,
            ),
            classes[closing],
            pixels[closing],
            np.full(int(closing.sum()), np.nan)
            if self._exact is None
            else units[closing] * self._exact.unit,
        )
        self._open, self._open_corners = number[last], open_corners
        self._open_pixels, self._open_units = pixels[stays], units[stays]
        self._last_row = strip[-1].copy()
        self._row += len(strip)
        return result

    def _sums(
        self, runs: StripRuns, count: int, component: Integers, of_open: Integers
    ) -> tuple[Integers, Integers]:
        """Return pixels and units of area of each component."""
        new = slice(runs.above, None)
        pixels = np.zeros(count, dtype=np.int64)
        units = np.zeros(count, dtype=np.int64)
        np.add.at(pixels, of_open, self._open_pixels)
        np.add.at(pixels, component[new], runs.lengths[new])
        if self._exact is not None:
            of_row = self._exact.units[self._row + runs.rows[new]]
            np.add.at(units, of_open, self._open_units)
            np.add.at(units, component[new], runs.lengths[new] * of_row)
        return pixels, units


def _grouped(keys: Integers, values: Integers) -> Iterator[tuple[int, Integers]]:
    """Yield each key with its values."""
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    bounds = [*np.flatnonzero(np.diff(keys, prepend=-1)).tolist(), len(keys)]
    for start, stop in pairwise(bounds):
        yield int(keys[start]), values[start:stop].copy()
