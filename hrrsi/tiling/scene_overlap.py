"""Scenes of different splits that show the same ground: by georeference, or by their pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import shapely
from numpy.lib.stride_tricks import sliding_window_view
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.warp import transform

from hrrsi.labels.splits import Part
from hrrsi.scenes.georeference import is_on_earth
from hrrsi.scenes.windows import Window

_BLOCK = (8, 32)  # rows and columns of a fingerprinted block, powers of two
_SAMPLE = 1024  # one block in so many is kept, chosen by its content alone
_LEAST_VALUES = 16  # a block with fewer different pixels (water, a dark corner) says nothing
_LEAST_BLOCKS = 2
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Fingerprints = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Footprint:
    """Where a scene lies on the ground.

    Attributes:
        scene: The scene's name, or that of a block of it.
        part: The part of the split that it belongs to.
        image: Path of its image; blocks of one image never overlap.
        crs: Its CRS as WKT, or None.
        outline: Its corners in that CRS, or None where it has no georeference at all.
        pixel: The size of a pixel, in units of the CRS.
    """

    scene: str
    part: Part
    image: str
    crs: str | None
    outline: tuple[tuple[float, float], ...] | None
    pixel: float

    def of_window(
        self, name: str, part: Part, window: Window | None, shape: tuple[int, int]
    ) -> Footprint:
        """Return the footprint of a window of the scene, as one of another name and part.

        Args:
            name: The name.
            part: The part.
            window: The window; None: the whole scene.
            shape: Rows and columns of the scene.
        """
        outline = self.outline
        if outline is not None and window is not None:
            start, right, _, down = (np.array(corner) for corner in outline)
            across, along = (right - start) / shape[1], (down - start) / shape[0]
            rows = (window.row, window.row + window.height)
            columns = (window.col, window.col + window.width)
            corners = ((0, 0), (1, 0), (1, 1), (0, 1))
            placed = [start + columns[i] * across + rows[j] * along for i, j in corners]
            outline = tuple((float(x), float(y)) for x, y in placed)
        return replace(self, scene=name, part=part, outline=outline)

    def comparable(self, other: Footprint) -> bool:
        """Return whether it is known by the files or their georeference if they overlap."""
        if self.image == other.image:
            return True
        placed = self.outline is not None and other.outline is not None
        if not placed or self.crs is None or other.crs is None or self.crs == other.crs:
            return placed and self.crs == other.crs
        return all(is_on_earth(CRS.from_wkt(crs)) for crs in (self.crs, other.crs))


class SceneOverlap(NamedTuple):
    """Two scenes of different parts that show the same ground.

    Attributes:
        first: The one in the earlier part.
        second: The one in the later part.
        share: About which share of the second they have in common.
        evidence: ``"georeference"`` or ``"same pixels"``.
    """

    first: Footprint
    second: Footprint
    share: float
    evidence: str

    def __str__(self) -> str:
        """Return the overlap as a line of text."""
        return (
            f"{self.first.part} scene {self.first.scene} and {self.second.part} scene "
            f"{self.second.scene} overlap: {self.share:.0%} of the latter ({self.evidence})"
        )


def footprint(scene: str, part: Part, dataset: Any) -> Footprint:
    """Return the footprint of an open rasterio dataset."""
    place = dataset.transform
    if place == Affine.identity():
        return Footprint(scene, part, dataset.name, None, None, 1.0)
    width, height = dataset.width, dataset.height
    corners = ((0, 0), (width, 0), (width, height), (0, height))
    return Footprint(
        scene,
        part,
        dataset.name,
        dataset.crs.to_wkt() if dataset.crs else None,
        tuple(tuple(place @ corner) for corner in corners),
        float(np.sqrt(abs(place.determinant))),
    )


def overlaps_by_georeference(footprints: Sequence[Footprint]) -> list[SceneOverlap]:
    """Return the overlaps, wider than a pixel, of scenes of different parts."""
    overlaps = []
    for first, second in combinations(footprints, 2):
        is_same_part = first.part == second.part or first.image == second.image
        if is_same_part or not first.comparable(second):
            continue
        outline = shapely.Polygon(second.outline)
        common = shapely.intersection(_outline_in(first, second.crs), outline)
        if shapely.buffer(common, -second.pixel / 2).area > 0:
            share = common.area / outline.area
            overlaps.append(SceneOverlap(first, second, share, "georeference"))
    return overlaps


def _outline_in(scene: Footprint, crs: str | None) -> Any:
    corners = list(scene.outline or ())
    if scene.crs is not None and crs is not None and scene.crs != crs:
        xs, ys = transform(CRS.from_wkt(scene.crs), CRS.from_wkt(crs), *zip(*corners, strict=True))
        corners = list(zip(xs, ys, strict=True))
    return shapely.Polygon(corners)


def fingerprints(pixels: npt.NDArray[Any]) -> Fingerprints:
    """Return hashes of some blocks of 8 by 32 pixels, the same wherever the blocks lie.

    Blocks are chosen by their own hash (content-defined sampling, as in Manber, "Finding similar
    files in a large file system", 1994), so that two crops of one mosaic choose the same ones.

    Args:
        pixels: (bands, height, width), at least as large as a block.

    Returns:
        (blocks,) uint64, each once, in ascending order.
    """
    bits = pixels if pixels.dtype.kind in "iu" else pixels.view(f"u{pixels.dtype.itemsize}")
    values = np.zeros(pixels.shape[1:], dtype=np.uint64)
    for band in bits:
        values = _mixed(values * _MULTIPLIER + band.astype(np.uint64))
    hashes = values
    factor = int(_MULTIPLIER)
    for axis in (1, 0):
        step = 1
        while step < _BLOCK[axis]:
            if hashes.shape[axis] <= step:
                return np.zeros(0, dtype=np.uint64)
            near = hashes[:, :-step] if axis else hashes[:-step]
            far = hashes[:, step:] if axis else hashes[step:]
            hashes = near + far * np.uint64(factor)
            factor = factor * factor % 2**64
            step *= 2
    hashes = _mixed(hashes)
    rows, cols = np.nonzero(hashes % np.uint64(_SAMPLE) == 0)
    chosen, first = np.unique(hashes[rows, cols], return_index=True)
    rows, cols = rows[first], cols[first]  # one block a hash: flat areas may repeat one for ever
    blocks = sliding_window_view(values, _BLOCK)[rows, cols]
    blocks = blocks.reshape(len(rows), _BLOCK[0] * _BLOCK[1])
    different = (np.diff(np.sort(blocks, axis=1), axis=1) != 0).sum(axis=1) + 1
    telling: Fingerprints = chosen[different >= _LEAST_VALUES]
    return telling


def _mixed(values: Fingerprints) -> Fingerprints:
    """Return hashes whose low bits depend on all bits (the finaliser of MurmurHash3)."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    mixed: Fingerprints = values ^ (values >> np.uint64(33))
    return mixed


def overlaps_by_pixels(
    footprints: Sequence[Footprint], prints: Mapping[str, Fingerprints]
) -> list[SceneOverlap]:
    """Return the scenes of different parts that hold the same pixels.

    Args:
        footprints: The scenes; pairs whose georeference tells are left to that.
        prints: Fingerprints of each scene by its name, each once.
    """
    scenes = [f for f in footprints if f.scene in prints]
    if not scenes:
        return []
    hashes = np.concatenate([prints[f.scene] for f in scenes])
    owners = np.repeat(np.arange(len(scenes)), [len(prints[f.scene]) for f in scenes])
    order = np.argsort(hashes, kind="stable")
    hashes, owners = hashes[order], owners[order]
    starts = np.flatnonzero(np.r_[True, hashes[1:] != hashes[:-1]])
    ends = np.r_[starts[1:], len(hashes)]
    shared: Counter[tuple[int, int]] = Counter()
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
        shared.update(combinations(sorted(owners[start:end].tolist()), 2))
    overlaps = []
    for (i, j), count in sorted(shared.items()):
        first, second = scenes[i], scenes[j]
        if first.part == second.part or first.comparable(second) or count < _LEAST_BLOCKS:
            continue
        share = count / len(prints[second.scene])
        overlaps.append(SceneOverlap(first, second, share, "same pixels"))
    return overlaps
