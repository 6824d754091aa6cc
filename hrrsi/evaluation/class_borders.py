"""Which classes lie near each pixel: what borders, tolerances and erosion need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hrrsi.classes import IGNORE_INDEX

Bits = npt.NDArray[Any]
Labels = npt.NDArray[np.uint8]
Footprint = Literal["disc", "square"]

EROSION_RADIUS = 3  # of the ISPRS benchmark's eroded reference
_WORDS = (np.uint8, np.uint16, np.uint32, np.uint64)
CLASSES_AT_ONCE = 64


def class_bits(labels: Labels, classes: int, first: int = 0) -> Bits:
    """Return class indices as bits: bit c is set where the class is ``first + c``.

    Args:
        labels: (rows, width) class indices; 255 (and any other class) has no bit.
        classes: Bits that are needed, at most `CLASSES_AT_ONCE`.
        first: The class of bit 0.

    Returns:
        (rows, width) of the smallest unsigned type that holds them.
    """
    word: Any = next(word for word in _WORDS if np.iinfo(word).bits >= classes)
    table = np.zeros(256, dtype=word)
    last = min(first + classes, IGNORE_INDEX)
    table[first:last] = word(1) << np.arange(last - first, dtype=word)
    return table[labels]


def groups_of_classes(classes: int) -> Iterator[tuple[int, int]]:
    """Yield first class and number of classes of each group that fits into one word."""
    for first in range(0, classes, CLASSES_AT_ONCE):
        yield first, min(CLASSES_AT_ONCE, classes - first)


def nearby_classes(bits: Bits, radius: int, footprint: Footprint = "disc") -> Bits:
    """Return the classes that lie within a radius of each pixel, its own included.

    Args:
        bits: (rows, width) as of `class_bits`.
        radius: Pixels, at least 0.
        footprint: ``disc``: pixels whose centres are at most `radius` away; ``square``: those at
            most `radius` rows and columns away.

    Returns:
        (rows, width) of the same type. Beyond the array there is no class.
    """
    nearby = np.zeros_like(bits)
    run, run_half = bits.copy(), 0
    # rows from far to near: the half width of the footprint's rows only grows
    for rows in range(radius, -1, -1):
        half = radius if footprint == "square" else int((radius**2 - rows**2) ** 0.5)
        while run_half < half:
            run_half += 1
            run[:, run_half:] |= bits[:, :-run_half]
            run[:, :-run_half] |= bits[:, run_half:]
        if rows == 0:
            nearby |= run
        elif rows < len(bits):
            nearby[rows:] |= run[:-rows]
            nearby[:-rows] |= run[rows:]
    return nearby


def near_other_class(
    labels: Labels, classes: int, radius: int, footprint: Footprint = "disc"
) -> npt.NDArray[np.bool_]:
    """Return where another class lies within a radius.

    Pixels without a class, and what lies beyond the array, are no class.

    Args:
        labels: (rows, width) class indices, 255 where there is none.
        classes: Number of classes.
        radius: As for `nearby_classes`.
        footprint: Likewise.

    Returns:
        (rows, width) bool, False where there is no class.
    """
    near_other = np.zeros(labels.shape, dtype=bool)
    for first, count in groups_of_classes(classes):
        near_other |= near_other_bits(class_bits(labels, count, first), radius, footprint)
    near: npt.NDArray[np.bool_] = near_other & (labels != IGNORE_INDEX)
    return near


def near_other_bits(
    bits: Bits, radius: int, footprint: Footprint = "disc"
) -> npt.NDArray[np.bool_]:
    """Return where one of some classes lies within a radius that is not the pixel's own.

    Args:
        bits: (rows, width) as of `class_bits`; pixels of none of these classes have no own one.
        radius: As for `nearby_classes`.
        footprint: Likewise.

    Returns:
        (rows, width) bool.
    """
    near: npt.NDArray[np.bool_] = (nearby_classes(bits, radius, footprint) & ~bits) != 0
    return near


def border_pixels(
    labels: Labels, disjoint: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.bool_]:
    """Return the pixels on the border of their class: those with a neighbour of another class.

    Neighbours are the four that share an edge. Pixels without a class (255) border nothing.

    Args:
        labels: (rows, width) class indices.
        disjoint: (256, 256) which pairs of labels can't be the same class; None: all that differ.

    Returns:
        (rows, width) bool.
    """
    valid = labels != IGNORE_INDEX
    borders = np.zeros(labels.shape, dtype=bool)
    for axis in (0, 1):
        near, far = (
            (slice(None),) * axis + (slice(1, None),),
            (slice(None),) * axis + (slice(None, -1),),
        )
        differs = (labels[near] != labels[far]) & valid[near] & valid[far]
        if disjoint is not None:
            differs &= disjoint[labels[near], labels[far]]
        borders[near] |= differs
        borders[far] |= differs
    return borders


def eroded_labels(
    labels: npt.NDArray[np.uint8], classes: int, radius: int = EROSION_RADIUS
) -> npt.NDArray[np.uint8]:
    """Return labels that are ignored wherever a disc around the pixel holds another class.

    So the border between two classes is ignored on both of its sides. Where a class meets pixels
    without a label, or the end of the array, it is not known to end and stays as it is.

    Args:
        labels: (rows, width) class indices, 255 where ignored; for the rows of a strip to be right,
            `radius` more on either side.
        classes: Number of classes.
        radius: Of the disc, in pixels; 3 in the ISPRS benchmark.

    Returns:
        (rows, width) uint8.
    """
    eroded = labels.copy()
    eroded[near_other_class(labels, classes, radius)] = IGNORE_INDEX
    return eroded


def distances_up_to(farthest: int, border: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Return the distance of each pixel's centre to the nearest border pixel's, rounded down.

    As scipy's Euclidean transform gives it, in half the time, since it ends at `farthest`; and it
    was all that needed scipy, 143 MB.

    Args:
        farthest: What is farther counts as this; at most 127 pixels.
        border: (rows, width).

    Returns:
        (rows, width), 0 to `farthest`.
    """
    rows = np.full(border.shape, farthest, dtype=np.int16)
    rows[border] = 0
    for row in range(1, len(rows)):
        np.minimum(rows[row], rows[row - 1] + np.int16(1), out=rows[row])
    for row in range(len(rows) - 2, -1, -1):
        np.minimum(rows[row], rows[row + 1] + np.int16(1), out=rows[row])
    along = rows * rows
    squares = along.copy()
    for columns in range(1, min(farthest, border.shape[1])):
        square = np.int16(columns * columns)
        np.minimum(squares[:, columns:], along[:, :-columns] + square, out=squares[:, columns:])
        np.minimum(squares[:, :-columns], along[:, columns:] + square, out=squares[:, :-columns])
    roots = np.sqrt(np.arange(farthest**2 + 1)).astype(np.intp)
    distances: npt.NDArray[np.intp] = roots[np.minimum(squares, farthest**2)]
    return distances
