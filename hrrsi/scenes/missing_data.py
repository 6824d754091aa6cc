"""Finds what holds no data without saying so: collars, empty blocks, marks such as -9999."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rasterio.errors import RasterioError

from hrrsi.scenes.raster_opening import is_local, opened_raster
from hrrsi.scenes.windows import Window, spread_starts

if TYPE_CHECKING:
    from hrrsi.scenes.polygons import AreaOfInterest
    from hrrsi.scenes.scene import Scene

_LONGEST = 2048  # pixels along the longer side of what is looked at whole
_CELLS = 32  # along the longer side; a cell that holds a single value may hold no data
_SMALLEST_CELL = 8
_PIECES, _PIECE = 12, 64  # of scenes that are larger, without overviews: along each axis, px
_LEAST = 0.005  # of the cells
_BLOCKS_READ, _BLOCK_PIXELS = 4, 1 << 22
_LOWEST, _HIGHEST = -999.0, 1e20  # beyond them, values mark missing data
# Lossy compression blurs the edge of missing data within blocks of up to 16 px.
RIM = 16
_SOLID = 2  # pixels around one that all hold the value, where missing data is solid
RIM_MARGIN = RIM + _SOLID
_NEAR = 16.0


@dataclass(frozen=True)
class UndeclaredGap:
    """What is likely to hold no data.

    Attributes:
        value: What all bands hold there.
        share: About how much of the scene it is.
    """

    value: float
    share: float


@dataclass(frozen=True)
class _Look:
    """A coarse look at a scene.

    Attributes:
        cells: (rows, columns) float64, the value that all bands hold in all pixels of a cell; NaN
            where there is none.
        shares: Of each value, in all pixels that were looked at.
        places: Row and column of each cell's centre in the raster, along each axis.
    """

    cells: npt.NDArray[np.float64]
    shares: dict[float, float]
    places: tuple[Sequence[int], Sequence[int]]


def undeclared_gap(scene: Scene, area: AreaOfInterest | None = None) -> UndeclaredGap | None:
    """Return what is likely to hold no data, though nothing says so, or None.

    It is one value in all bands, in pieces that touch the scene's rim or are whole blocks of the
    file, which sparse files leave out: 0, the type's largest value, or one that no imagery holds
    (-9999). Up to 2048 px a side (or an overview of such a size) are looked at, else 144 squares
    of 64 px.

    Args:
        scene: The scene; nobody else may read it meanwhile.
        area: Where the squares lie; None: all over the scene.

    Raises:
        InputError: The file can't be read somewhere.
    """
    look = _look(scene, area)
    gaps: list[UndeclaredGap] = []
    for value, share in look.shares.items():
        is_value = look.cells == value
        at_rim = _touching_rim(is_value)
        enough = at_rim.sum() >= max(1, _LEAST * is_value.size)
        is_marker = value <= _LOWEST or value >= _HIGHEST
        if is_marker or enough or _holds_block(scene, look, is_value & ~at_rim, value):
            gaps.append(UndeclaredGap(value, share))
    return max(gaps, key=lambda gap: gap.share, default=None)


def without_undeclared_gap(scene: Scene) -> Scene:
    """Return a scene in which what is likely to hold no data counts as missing."""
    gap = undeclared_gap(scene)
    return scene if gap is None else replace(scene, nodata=gap.value)


def lossy_rim(values: npt.NDArray[Any], nodata: float) -> npt.NDArray[np.bool_]:
    """Return which pixels lossy compression made of missing data: near its value, and beside it.

    Args:
        values: (bands, height, width), with a margin of `RIM_MARGIN` where the raster goes on.
        nodata: The value of missing data.

    Returns:
        (height, width) bool.
    """
    exact: npt.NDArray[np.bool_] = (values == nodata).all(axis=0)
    if not exact.any():
        return exact
    near = (np.abs(values.astype(np.float32) - np.float32(nodata)) <= _NEAR).all(axis=0)
    solid = ~_widened(~exact, _SOLID)
    rim: npt.NDArray[np.bool_] = near & _widened(solid, RIM)
    return rim


def _widened(mask: npt.NDArray[np.bool_], radius: int) -> npt.NDArray[np.bool_]:
    """Return which pixels have one of a mask in the square of so many pixels around them."""
    for axis in (0, 1):
        sums = np.cumsum(mask, axis=axis, dtype=np.int32)
        length = mask.shape[axis]
        last = np.minimum(np.arange(length) + radius, length - 1)
        before = np.arange(length) - radius - 1
        high = np.take(sums, last, axis=axis)
        low = np.take(sums, np.maximum(before, 0), axis=axis)
        shape = (-1, 1) if axis == 0 else (1, -1)
        mask = high - np.where(before.reshape(shape) >= 0, low, 0) > 0
    return mask


def is_lossy(dataset: Any) -> bool:
    """Return whether a rasterio dataset's compression changes values, as JPEG does.

    A virtual raster is where it says so, else where its first file is.
    """
    own = dataset.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION")
    if dataset.driver == "VRT" and own is None:
        sources = [name for name in dataset.files if name != dataset.name]
        if not (sources and is_local(sources[0]) and Path(sources[0]).exists()):
            return False
        try:
            with opened_raster(sources[0]) as first:
                return is_lossy(first)
        except RasterioError:
            return False
    tags = dataset.tags(ns="IMAGE_STRUCTURE")
    if "LOSSLESS" in tags.get("COMPRESSION_REVERSIBILITY", ""):
        return False
    compression = tags.get("COMPRESSION", "").upper()
    is_picture = dataset.driver in ("JPEG", "WEBP", "ECW", "MrSID") or "JP2" in dataset.driver
    return is_picture or any(name in compression for name in ("JPEG", "WEBP", "JXL"))


def _look(scene: Scene, area: AreaOfInterest | None) -> _Look:
    longest = max(scene.shape)
    if longest <= _LONGEST:
        return _whole_look(scene, scene.shape)
    with scene.reduced(_LONGEST // 4, _LONGEST) as overview:
        if overview is not None:
            return _whole_look(overview, scene.shape)
    rows, columns = (spread_starts(length, _PIECE, _PIECES) for length in scene.shape)
    counts: dict[float, int] = {}
    cells = np.full((len(rows), len(columns)), np.nan)
    pixels = 0
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            window = Window(row, column, *(min(n, _PIECE) for n in scene.shape))
            if area is not None and not area.touches(window):
                continue
            values = _single_values(scene, window)
            cells[i, j] = values[0, 0] if (values == values[0, 0]).all() else np.nan
            _count(values, counts)
            pixels += values.size
    return _Look(
        cells,
        {value: counts[value] / pixels for value in np.unique(cells[np.isfinite(cells)]).tolist()},
        ([row + _PIECE // 2 for row in rows], [column + _PIECE // 2 for column in columns]),
    )


def _whole_look(scene: Scene, shape: tuple[int, int]) -> _Look:
    values = _single_values(scene, Window(0, 0, *scene.shape))
    side = max(_SMALLEST_CELL, -(-max(scene.shape) // _CELLS))
    starts = [np.arange(0, length, side) for length in scene.shape]
    least, most = (
        function.reduceat(function.reduceat(values, starts[0], axis=0), starts[1], axis=1)
        for function in (np.minimum, np.maximum)
    )
    cells = np.where(least == most, least, np.nan)  # NaN spreads over its cell
    counts: dict[float, int] = {}
    _count(values, counts)
    places = [
        [int((start + side / 2) * whole / own) for start in first]
        for first, whole, own in zip(starts, shape, scene.shape, strict=True)
    ]
    shares = {v: counts[v] / values.size for v in np.unique(cells[np.isfinite(cells)]).tolist()}
    return _Look(cells, shares, (places[0], places[1]))


def _single_values(scene: Scene, window: Window) -> npt.NDArray[np.float64]:
    """Return what all bands hold in each pixel, NaN where they differ or no data is declared.

    Also NaN where imagery may hold that value.
    """
    pixels = scene.read(window)
    image = pixels[: len(scene.bands)]
    valid = (image == image[0]).all(axis=0) & scene.read_valid(window, pixels)
    values = np.where(valid, image[0].astype(np.float64), np.nan)
    kind = np.dtype(scene.dtype)
    largest = float(np.iinfo(kind).max) if kind.kind in "iu" else np.inf
    is_mark = (values == 0) | (values == largest) | (values <= _LOWEST) | (values >= _HIGHEST)
    return np.where(is_mark, values, np.nan)


def _count(values: npt.NDArray[np.float64], counts: dict[float, int]) -> None:
    finite = values[np.isfinite(values)]
    for value, count in zip(*np.unique(finite, return_counts=True), strict=True):
        counts[float(value)] = counts.get(float(value), 0) + int(count)


def _touching_rim(cells: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which of some cells are at the rim, or next to others that are."""
    reached = np.zeros_like(cells)
    reached[[0, -1]], reached[:, [0, -1]] = True, True
    reached &= cells
    while True:
        wider = reached.copy()
        wider[1:] |= reached[:-1]
        wider[:-1] |= reached[1:]
        wider[:, 1:] |= reached[:, :-1]
        wider[:, :-1] |= reached[:, 1:]
        wider &= cells
        if (wider == reached).all():
            return reached
        reached = wider


def _holds_block(scene: Scene, look: _Look, cells: npt.NDArray[np.bool_], value: float) -> bool:
    """Return whether the block of the file in which one of some cells lies holds one value."""
    rows, columns = scene.dataset.block_shapes[scene.bands[0] - 1]
    if rows * columns > _BLOCK_PIXELS or min(rows, columns) < _SMALLEST_CELL:
        return False
    for i, j in np.argwhere(cells)[:: max(1, int(cells.sum()) // _BLOCKS_READ)]:
        row, column = (look.places[0][i] // rows * rows, look.places[1][j] // columns * columns)
        size = min(rows, scene.height - row), min(columns, scene.width - column)
        if (_single_values(scene, Window(row, column, *size)) == value).all():
            return True
    return False
