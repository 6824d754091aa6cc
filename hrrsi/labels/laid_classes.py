"""Classes of one raster on the grid of another: laid over it by georeference, pixel by pixel."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform as transform_coordinates, transform_bounds

from hrrsi.classes import IGNORE_INDEX
from hrrsi.errors import InputError, one_line
from hrrsi.labels.scene_labels import Indices
from hrrsi.scenes.crs import warn_of_datums
from hrrsi.scenes.georeference import MapCoordinates, is_on_earth, map_coordinates
from hrrsi.scenes.raster_opening import unified_gdal_errors
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window

_SAME_PLACE = 1e-3  # of a pixel
_PARALLEL = 1e-4  # how far from parallel axes may be, as a slope
_TILE = 512  # rows and columns that are laid over the map at a time
_MOST_PIXELS = 1 << 22  # of the map, read for that
# Centres on the line between two pixels of the map belong to the one after it, whatever the
# rounding of coordinates; far more than that, far less than a pixel.
_ON_THE_LINE = 1e-6

Pixels = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]
_LOOKED_AT = 33  # places along each axis, to see how much of a grid is covered


class Classes(Protocol):
    """Classes of a raster on its own grid.

    Attributes:
        scene: The raster.
    """

    @property
    def scene(self) -> Scene:
        """The raster."""
        ...

    def read(self, window: Window) -> Indices:
        """Return the classes of a window, 255 where there is none."""
        ...


class GridClasses(Protocol):
    """Classes of a map in windows of its own or of another grid."""

    def read(self, window: Window) -> Indices:
        """Return the merged classes of a window, 255 where there is no prediction."""


class LaidMap:
    """A map's classes on another grid: each pixel has that of the map's pixel at its centre.

    Classes are sampled, not colours, and no place is approximated: so neither mixes, and windows
    agree whatever their size. GDAL's warper weighs colours by alpha, fills what it doesn't know
    with zeros, and approximates places in each window anew.

    Args:
        classes: The map.
        places: Where the pixels of the map lie.
        grid: Where the pixels of the other grid lie.
        crs: The CRS of both, the map's first; None where they are the same.
        noun: What the other grid is, for messages.
    """

    def __init__(
        self,
        classes: Classes,
        places: MapCoordinates,
        grid: MapCoordinates,
        crs: tuple[CRS, CRS] | None,
        noun: str = "label",
    ) -> None:
        self._classes = classes
        self._places = places
        self._grid = grid
        self._crs = crs
        self._noun = noun

    def read(self, window: Window) -> Indices:
        """Return the merged classes of a window, 255 where the map predicts nothing.

        Args:
            window: On the other grid.

        Returns:
            (height, width) uint8.

        Raises:
            InputError: As `MapClasses.read`, or the map's CRS does not reach there.
        """
        laid = np.empty((window.height, window.width), dtype=np.uint8)
        for row in range(0, window.height, _TILE):
            for col in range(0, window.width, _TILE):
                part = laid[row : row + _TILE, col : col + _TILE]
                self._fill(part, window.row + row, window.col + col)
        return laid

    def _fill(self, part: Indices, row: int, col: int) -> None:
        """Write the classes of a rectangle that begins at a pixel of the other grid."""
        rows, columns, inside = self._pixels(Window(row, col, *part.shape))
        if not inside.any():
            part[:] = IGNORE_INDEX
            return
        first_row, first_col = int(rows[inside].min()), int(columns[inside].min())
        height = int(rows[inside].max()) - first_row + 1
        width = int(columns[inside].max()) - first_col + 1
        if height * width > _MOST_PIXELS and part.size > 1:  # the map is much finer
            for half, at in _halves(part):
                self._fill(half, row + at[0], col + at[1])
            return
        read = self._classes.read(Window(first_row, first_col, height, width))
        part[~inside] = IGNORE_INDEX
        part[inside] = read[rows[inside] - first_row, columns[inside] - first_col]

    def _pixels(self, window: Window) -> Pixels:
        """Return the map's rows and columns at the centres of a window's pixels.

        And which of them lie on the map; (height, width) all.
        """
        shape = window.height, window.width
        rows, columns = np.indices(shape, dtype=np.float64) + 0.5
        positions, inside = self._positions(
            (columns + window.col).ravel(), (rows + window.row).ravel()
        )
        places = np.where(inside, positions, 0).astype(np.int64).reshape(2, *shape)
        return places[0], places[1], inside.reshape(shape)

    def _positions(
        self, columns: npt.NDArray[np.float64], rows: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Return rows and columns on the map of places on the grid, and which lie on it."""
        x, y = self._grid.of_pixels(columns, rows)
        if self._crs is not None:
            own, target = self._crs
            try:
                with unified_gdal_errors():
                    x, y = map(np.asarray, transform_coordinates(target, own, x, y))
            except RasterioError as error:
                raise _not_laid(self._classes, self._noun, error) from error
        positions = np.stack(self._places.pixels_of(x, y)[::-1]) + _ON_THE_LINE
        sizes = np.array(self._classes.scene.shape)[:, None]
        # False for NaN and infinity
        inside: npt.NDArray[np.bool_] = np.all((positions >= 0) & (positions < sizes), axis=0)
        return positions, inside

    def covered_share(self, height: int, width: int) -> float:
        """Return about how much of the other grid the map covers, 0 to 1.

        Args:
            height: Rows of the other grid.
            width: Columns of it.
        """
        along = (np.arange(_LOOKED_AT) + 0.5) / _LOOKED_AT
        rows, columns = np.meshgrid(along * height, along * width)
        return float(self._positions(columns.ravel(), rows.ravel())[1].mean())


def on_grid(classes: Classes, grid: Scene, noun: str = "label") -> GridClasses:
    """Return a raster's classes on the grid of another, as a map's on that of its labels.

    On the same grid they are read as they are; also where not both have a place on the map and
    they are of one size. Else they are laid over it, whatever the extents, resolutions, CRS and
    directions. Where only one says in which CRS on the Earth it is, the other is taken to be in the
    same.

    Args:
        classes: The map.
        grid: The other raster.
        noun: What that is called.

    Returns:
        Reads windows of the other grid; the map itself where that is its own.

    Raises:
        InputError: The two can't be laid on each other, or don't overlap.
    """
    scene = classes.scene
    is_same_size = scene.shape == grid.shape
    have_place = [has_place(raster) for raster in (scene, grid)]
    if not all(have_place):
        if is_same_size:
            return classes
        placeless = " and ".join(
            raster.path
            for raster, has_place in zip((scene, grid), have_place, strict=True)
            if not has_place
        )
        raise InputError(
            f"has {scene.height} rows and {scene.width} columns where its {noun} {grid.path} has "
            f"{grid.height} and {grid.width}, and no place on the map is known of {placeless}",
            where=scene.path,
            fix="give both a CRS and a transform, or put the one on the other's grid",
        )
    places, target = map_coordinates(scene.dataset), map_coordinates(grid.dataset)
    for coordinates, where in ((places, scene), (target, grid)):
        if not coordinates.pixel_area():
            raise InputError(
                "has a transform that puts all pixels on a line", where=where.path, fix="correct it"
            )
    crs = None
    are_on_earth = is_on_earth(places.crs) and is_on_earth(target.crs)
    if places.crs is not None and target.crs is not None and are_on_earth:
        crs = (places.crs, target.crs) if places.crs != target.crs else None
    if crs is None and is_same_size and _same_places(places, target, grid):
        return classes
    _require_overlap(classes, places, target, crs, grid, noun)
    if crs is not None:
        warn_of_datums(scene.path, *crs)
    return LaidMap(classes, places, target, crs, noun)


def placement(raster: Scene, grid: Scene) -> str:
    """Return in words how a raster lies on another one's grid, where that is not pixel by pixel.

    Args:
        raster: The raster.
        grid: The other one.
    """
    own, other = raster.dataset, grid.dataset
    if is_on_earth(own.crs) and is_on_earth(other.crs) and own.crs != other.crs:
        names = own.crs.to_string(), other.crs.to_string()
        if names[0] == names[1]:  # as PROJ knows them, with other parameters
            return f"describes {names[0]} in another way than its image"
        return f"is in {names[0]} where its image is in {names[1]}"
    by_points = own.transform.is_identity or other.transform.is_identity
    axes = Affine.identity() if by_points else ~other.transform @ own.transform
    if min(axes.a, axes.e) <= 0 or max(abs(axes.b), abs(axes.d)) > _PARALLEL * min(axes.a, axes.e):
        return "has rows and columns in other directions than its image"
    areas = [map_coordinates(dataset).pixel_area() for dataset in (own, other)]
    if abs(areas[0] / areas[1] - 1) > 2 * _SAME_PLACE:
        ratio = (areas[0] / areas[1]) ** 0.5
        return f"has pixels {ratio:.3g} times as wide as its image"
    column, row = ~other.transform @ (own.transform @ (0, 0))
    offsets = [
        f"{abs(pixels):.3g} px {names[pixels > 0]}"
        for pixels, names in ((column, ("west", "east")), (row, ("north", "south")))
        if abs(pixels) > _SAME_PLACE
    ]
    if raster.shape != grid.shape or not offsets:
        return f"has {raster.height} rows and {raster.width} columns of its own"
    return f"lies {' and '.join(offsets)} of its image"


def unsaid_place(raster: Scene, grid: Scene) -> str | None:
    """Return in words why a raster only seems to lie on another one's grid, or None.

    Both have the same transform, but one does not say in which CRS on the Earth.
    """
    own, other = raster.dataset, grid.dataset
    if is_on_earth(own.crs) == is_on_earth(other.crs) or not has_place(raster):
        return None
    placeless = raster if is_on_earth(other.crs) else grid
    owner = "its" if placeless is raster else "its image's"
    crs = "no CRS" if placeless.dataset.crs is None else "a CRS without place on the Earth"
    return f"has its image's transform and size, and counts as lying on it ({owner}: {crs})"


def has_place(scene: Scene) -> bool:
    """Return whether a raster has a place on the map, by a transform or control points."""
    dataset = scene.dataset
    return not dataset.transform.is_identity or len(dataset.gcps[0]) >= 3


def _same_places(first: MapCoordinates, second: MapCoordinates, grid: Scene) -> bool:
    columns = np.array([0, 1, 0, 1, 0.5]) * grid.width
    rows = np.array([0, 0, 1, 1, 0.5]) * grid.height
    offsets = np.subtract(first.of_pixels(columns, rows), second.of_pixels(columns, rows))
    return bool(np.hypot(*offsets).max() < _SAME_PLACE * second.pixel_area() ** 0.5)


def _require_overlap(
    classes: Classes,
    places: MapCoordinates,
    target: MapCoordinates,
    crs: tuple[CRS, CRS] | None,
    grid: Scene,
    noun: str,
) -> None:
    left, bottom, right, top = places.bounds()
    bounds = target.bounds()
    if crs is not None:
        try:
            with unified_gdal_errors():
                bounds = transform_bounds(crs[1], crs[0], *bounds)
        except RasterioError as error:
            raise _not_laid(classes, noun, error) from error

    def overlaps(x1: float, y1: float, x2: float, y2: float) -> bool:
        return x1 < right and x2 > left and y1 < top and y2 > bottom

    if overlaps(*bounds):
        return
    swapped = overlaps(bounds[1], bounds[0], bounds[3], bounds[2])
    raise InputError(
        f"does not lie on its {noun} {grid.path}",
        where=classes.scene.path,
        fix="one of them has x and y swapped: correct its transform"
        if swapped
        else "check the CRS and the transform of both, and that they are of one place",
    )


def _halves(part: Indices) -> list[tuple[Indices, tuple[int, int]]]:
    """Return the halves of a rectangle along its longer side, and where they begin in it."""
    height, width = part.shape
    if height >= width:
        return [(part[: height // 2], (0, 0)), (part[height // 2 :], (height // 2, 0))]
    return [(part[:, : width // 2], (0, 0)), (part[:, width // 2 :], (0, width // 2))]


def _not_laid(classes: Classes, noun: str, error: Exception) -> InputError:
    reason = one_line(error)
    return InputError(
        f"can't be laid over its {noun} ({reason})",
        where=classes.scene.path,
        fix="check the CRS of both",
    )
