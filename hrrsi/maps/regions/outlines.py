"""The outlines of connected components as polygons, from the corners that strips show."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from hrrsi.maps.regions.runs import Integers, StripRuns

# A corner's code: whether its horizontal edge goes right, its vertical edge down, and whether
# who walks around the component clockwise, as seen on the screen, leaves it horizontally.
_RIGHT, _DOWN, _LEAVES_HORIZONTALLY = 4, 2, 1
_BITS = 3


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
    found_codes, found_runs = [], []
    for pixel, across, along, code, clockwise in (
        (a, top, left, 0, True),
        (b, top, right, _RIGHT, False),
        (c, bottom, left, _DOWN, False),
        (d, bottom, right, _RIGHT + _DOWN, True),
    ):
        outer = np.flatnonzero(~across & ~along & (pixel >= 0))
        found_codes.append((place[outer] << _BITS) + code + clockwise)
        found_runs.append(pixel[outer])
    for missing, across, along, owner, code, clockwise in (
        (a, bottom, right, d, 0, False),
        (b, bottom, left, c, _RIGHT, True),
        (c, top, right, b, _DOWN, True),
        (d, top, left, a, _RIGHT + _DOWN, False),
    ):
        inner = np.flatnonzero(across & along & (labels[missing] != labels[owner]) & (owner >= 0))
        found_codes.append((place[inner] << _BITS) + code + clockwise)
        found_runs.append(owner[inner])
    return np.concatenate(found_codes), np.concatenate(found_runs)


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
    seen = bytearray(count)
    order = np.empty(count, dtype=np.int64)
    places = order.data
    starts = []
    filled = 0
    for start in range(count):
        if seen[start]:
            continue
        starts.append(filled)
        node = start
        while not seen[node]:
            seen[node] = 1
            places[filled] = node
            filled += 1
            node = successor[node]
    return order, np.array(starts, dtype=np.int64)
