"""Whether a map shows where its windows met: label changes on window borders and elsewhere.

A map made of windows has a seam where labels change more often across a window's border than
across other lines between pixels. Along a **joint** of two neighbouring windows these lines count
as seams: where the next window begins to count, where the two weigh the same, and where the
previous one ends; without overlap the three are one. A line's share is that of its pixel pairs,
both with data, whose labels differ.

What lies on the ground changes labels too, more on some lines than on others. So the share on the
seams is compared with that on the same set of lines shifted by every offset up to half a window
to either side, and the rank of the true set says how unusual it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rasterio.windows import Window as RasterioWindow

from hrrsi.classes import IGNORE_INDEX
from hrrsi.scenes.raster_opening import open_raster
from hrrsi.scenes.windows import window_starts

_STRIP_ROWS = 512


class Joint(NamedTuple):
    """Where two neighbouring windows meet, as lines: line n lies between pixels n - 1 and n.

    Attributes:
        begin: From here on the next window counts.
        middle: Here both weigh the same.
        end: Up to here the previous window counts.
    """

    begin: int
    middle: int
    end: int


class LineCounts(NamedTuple):
    """Pixel pairs across the lines between neighbouring rows, or between columns, of a map.

    Attributes:
        changed: (pixels + 1,) int64, pairs with different labels; entry n belongs to the line
            between pixels n - 1 and n, so the first and the last are 0.
        compared: (pixels + 1,) int64, pairs with data on both sides.
    """

    changed: npt.NDArray[np.int64]
    compared: npt.NDArray[np.int64]


class LabelChanges(NamedTuple):
    """Label changes across every line of a map.

    Attributes:
        rows: Lines between rows.
        columns: Lines between columns.
    """

    rows: LineCounts
    columns: LineCounts


@dataclass(frozen=True)
class SeamStatistic:
    """How often labels change on window seams and on other lines of the same maps.

    Attributes:
        joints: Joints of windows along both axes.
        seam_share: Share of pixel pairs on the seams whose labels differ.
        elsewhere_share: That share on all other lines of the axes that have joints.
        shifted_shares: That share on the seams' lines when shifted, one for each offset under
            which none falls on a seam.
        overlap_share: That share over all lines within overlaps; None without overlap.
        outside_share: That share over all lines outside overlaps; None without overlap.
        profile: That share by distance from the middle of the joints, over all joints:
            entry 0 is ``-len(profile) // 2`` pixels from it. NaN where there is no pair.
    """

    joints: int
    seam_share: float
    elsewhere_share: float
    shifted_shares: tuple[float, ...]
    overlap_share: float | None
    outside_share: float | None
    profile: npt.NDArray[np.float64]

    @property
    def ratio(self) -> float:
        """`seam_share` as a multiple of `elsewhere_share`: 1 where seams don't show."""
        return _ratio(self.seam_share, self.elsewhere_share)

    @property
    def overlap_ratio(self) -> float | None:
        """The share within overlaps as a multiple of that outside; None without overlap."""
        if self.overlap_share is None or self.outside_share is None:
            return None
        return _ratio(self.overlap_share, self.outside_share)

    @property
    def p_value(self) -> float:
        """How often a shifted set of lines has at least the seams' share, in (0, 1].

        A rank among shifts, the true position counted in. Near 0 the seams show.
        """
        at_least = sum(share >= self.seam_share for share in self.shifted_shares)
        return (1 + at_least) / (1 + len(self.shifted_shares))

    @property
    def noise(self) -> tuple[float, float]:
        """The ratios between which nine of ten shifted sets of lines lie."""
        if not self.shifted_shares:
            return (float("nan"), float("nan"))
        low, high = np.percentile(self.shifted_shares, (5, 95))
        return _ratio(float(low), self.elsewhere_share), _ratio(float(high), self.elsewhere_share)


def window_joints(length: int, size: int, overlap: int) -> list[Joint]:
    """Return the joints of the windows along one axis, in order.

    The last window, which moves inward, hands over `overlap` pixels before its neighbour ends, as
    every other does.

    Args:
        length: Pixels along the axis.
        size: Pixels of a window.
        overlap: Pixels that neighbouring windows share.
    """
    ends = [start + size for start in window_starts(length, size, size - overlap)[:-1]]
    return [Joint(end - overlap, end - overlap // 2, end) for end in ends]


def label_changes(
    strips: Iterable[tuple[int, npt.NDArray[np.uint8]]], height: int, width: int
) -> LabelChanges:
    """Count label changes across every line of a map, given strip by strip.

    Memory grows with a strip, not with the map.

    Args:
        strips: First row and labels (rows, width) of each strip, from top to bottom; 255 is no
            data.
        height: Rows of the map.
        width: Columns of the map.

    Raises:
        ValueError: The strips don't cover the map once, from top to bottom.
    """
    rows, columns = _no_counts(height), _no_counts(width)
    last: npt.NDArray[np.uint8] = np.empty((0, width), dtype=np.uint8)
    done = 0
    for first, labels in strips:
        if first != done or labels.shape[1] != width:
            raise ValueError(f"strip of {labels.shape} at row {first}, not at {done}")
        above = np.concatenate((last, labels))
        changed, compared = _differing(above[:-1], above[1:])
        lines = slice(done + len(labels) - len(changed), done + len(labels))
        rows.changed[lines] += changed.sum(axis=1)
        rows.compared[lines] += compared.sum(axis=1)
        changed, compared = _differing(labels[:, :-1], labels[:, 1:])
        columns.changed[1:-1] += changed.sum(axis=0)
        columns.compared[1:-1] += compared.sum(axis=0)
        last = labels[-1:].copy()
        done += len(labels)
    if done != height:
        raise ValueError(f"strips of {done} rows where the map has {height}")
    return LabelChanges(rows, columns)


def map_label_changes(path: str | Path) -> LabelChanges:
    """Count label changes across every line of a class raster, 255 being no data.

    Raises:
        HrrsiError: Not a readable raster.
    """
    with open_raster(path) as dataset:

        def strips() -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
            for first in range(0, dataset.height, _STRIP_ROWS):
                rows = min(_STRIP_ROWS, dataset.height - first)
                yield first, dataset.read(1, window=RasterioWindow(0, first, dataset.width, rows))

        return label_changes(strips(), dataset.height, dataset.width)


def seam_statistic(*changes: LabelChanges, window: int, overlap: int) -> SeamStatistic | None:
    """Return how often labels change on the seams of maps' windows and elsewhere.

    Several maps count as one: what lies on the ground averages out over many joints.

    Args:
        changes: The label changes of each map.
        window: Rows and columns of their windows.
        overlap: Pixels that neighbouring windows share, below `window`.

    Returns:
        The statistic; None where no windows meet, or where they meet only without data.
    """
    # an axis without joints says nothing of seams, and rows may differ from columns by nature
    axes = [
        (counts, joints)
        for one_map in changes
        for counts in one_map
        if (joints := window_joints(len(counts.changed) - 1, window, overlap))
    ]
    half = (window - overlap) // 2
    seams = [sorted({line for joint in joints for line in joint}) for _, joints in axes]
    on_seams = _pooled((c, lines) for (c, _), lines in zip(axes, seams, strict=True))
    seam_share = _share(*on_seams)
    everywhere = _pooled((c, np.arange(len(c.changed))) for c, _ in axes)
    elsewhere_share = _share(*(a - b for a, b in zip(everywhere, on_seams, strict=True)))
    if seam_share is None or elsewhere_share is None:
        return None
    shifted = []
    for offset in range(-half, half + 1):
        moved = [[line + offset for line in lines] for lines in seams]
        if not any(set(m) & set(lines) for m, lines in zip(moved, seams, strict=True)):
            share = _share(*_pooled((c, m) for (c, _), m in zip(axes, moved, strict=True)))
            shifted += [] if share is None else [share]
    overlaps = _pooled((c, _lines_within(joints)) for c, joints in axes)
    outside = tuple(a - b for a, b in zip(everywhere, overlaps, strict=True))
    profile = [
        _share(*_pooled((c, [joint.middle + offset for joint in joints]) for c, joints in axes))
        for offset in range(-half, half)
    ]
    return SeamStatistic(
        joints=sum(len(joints) for _, joints in axes),
        seam_share=seam_share,
        elsewhere_share=elsewhere_share,
        shifted_shares=tuple(shifted),
        overlap_share=_share(*overlaps) if overlap else None,
        outside_share=_share(*outside) if overlap else None,
        profile=np.array([np.nan if share is None else share for share in profile]),
    )


def _no_counts(length: int) -> LineCounts:
    return LineCounts(np.zeros(length + 1, dtype=np.int64), np.zeros(length + 1, dtype=np.int64))


def _differing(
    first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which pairs of pixels differ, and which hold data on both sides."""
    compared = (first != IGNORE_INDEX) & (second != IGNORE_INDEX)
    return (first != second) & compared, compared


def _lines_within(joints: Iterable[Joint]) -> npt.NDArray[np.int64]:
    lines = {line for joint in joints for line in range(joint.begin, joint.end + 1)}
    return np.array(sorted(lines), dtype=np.int64)


def _pooled(
    sets: Iterable[tuple[LineCounts, Iterable[int] | npt.NDArray[np.int64]]],
) -> tuple[int, int]:
    """Return changed and compared pairs over sets of lines; lines off the map hold none."""
    changed = compared = 0
    for counts, lines in sets:
        chosen = np.asarray(list(lines), dtype=np.int64)
        chosen = chosen[(chosen > 0) & (chosen < len(counts.changed))]
        changed += int(counts.changed[chosen].sum())
        compared += int(counts.compared[chosen].sum())
    return changed, compared


def _share(changed: int, compared: int) -> float | None:
    return changed / compared if compared else None


def _ratio(share: float, other: float) -> float:
    if other:
        return share / other
    return float("inf") if share else 1.0
