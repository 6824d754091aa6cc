"""The classes of a map that any tool may have made, read on the grid of its labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.warp import transform as transform_coordinates
from rasterio.warp import transform_bounds

from hrrsi.classes import IGNORE_INDEX, UnknownLabels
from hrrsi.errors import InputError
from hrrsi.evaluation.evaluation import class_lookup
from hrrsi.evaluation.options import MapFormat
from hrrsi.labels.label_reading import ColourLabels, IndexLabels
from hrrsi.labels.scene_labels import Indices
from hrrsi.labels.scheme import MergedClasses, Scheme
from hrrsi.maps.rasters import read_class_raster
from hrrsi.scenes.bands import colour_bands
from hrrsi.scenes.georeference import MapCoordinates, map_coordinates
from hrrsi.scenes.raster_opening import open_raster, unified_gdal_errors
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window

_SAME_PLACE = 1e-3  # of a pixel
_TILE = 512  # rows and columns that are laid over the map at a time
_MOST_PIXELS = 1 << 22  # of the map, read for that
# Centres on the line between two pixels of the map belong to the one after it, whatever the
# rounding of coordinates; far more than that, far less than a pixel.
_ON_THE_LINE = 1e-6

Pixels = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]


class MapClasses:
    """The classes of an open map on its own grid. Use `open_map`.

    Args:
        scene: The map as a raster.
        values: Reads the classes that its values stand for.
        index: (256,) uint8, the merged class of each of those.
        model: The network that made it, where it says so.
    """

    def __init__(
        self, scene: Scene, values: _ColourMap | _IndexMap, index: Indices, model: str | None
    ) -> None:
        self.scene = scene
        self.model = model
        self._values = values
        self._index = index

    def read(self, window: Window) -> Indices:
        """Return the merged classes of a window, 255 where there is no prediction.

        Args:
            window: Lies within the map.

        Returns:
            (height, width) uint8.

        Raises:
            InputError: The map can't be read there, or holds what the scheme doesn't know.
        """
        classes: Indices = self._index[self._values.read(window)]
        return classes


@contextmanager
def open_map(
    path: str,
    scheme: Scheme,
    merged: MergedClasses,
    *,
    name: str,
    unknown: UnknownLabels = "error",
    map_format: MapFormat | None = None,
) -> Iterator[MapClasses]:
    """Open a map, whatever tool made it.

    Three bands are colours, and so is a palette; one band without palette holds class indices; a
    class map of ours says itself what its indices mean. Alpha, masks, values declared as no data,
    255 among indices, and what the scheme ignores are no prediction.

    Args:
        path: A raster.
        scheme: Says what colours and indices mean.
        merged: The classes that are left of the scheme's.
        name: The scene's name, for messages.
        unknown: ``"error"`` fails on values that the scheme doesn't know, ``"ignore"`` takes them
            for no prediction.
        map_format: What it holds, if not what it looks like.

    Raises:
        InputError: Not a readable raster, not a map of classes, one of other classes, or one
            whose value for no data is a class too.
    """
    scheme = scheme.model_copy(update={"partial": ()})  # a map tells all classes apart
    with open_raster(path) as dataset:
        scene = Scene(path, dataset, tuple(colour_bands(dataset)))
        content = None if map_format is not None else read_class_raster(path)
        index, model = merged.new_index, None
        values: _ColourMap | _IndexMap
        if content is not None:
            index = _named_classes(path, content.classes, scheme, merged)
            model = content.provenance.get("MODEL")
            count = len(content.classes)
            values = _NamedMap(path, dataset, scene, scheme, name, unknown, count)
        elif (map_format or _format_of(path, scene)) == "indices":
            values = _IndexMap(path, dataset, scene, scheme, name, unknown)
        else:
            values = _ColourMap(path, dataset, scene, scheme, name, unknown)
        yield MapClasses(scene, values, index, model)


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
    """

    def __init__(
        self,
        classes: MapClasses,
        places: MapCoordinates,
        grid: MapCoordinates,
        crs: tuple[CRS, CRS] | None,
    ) -> None:
        self._classes = classes
        self._places = places
        self._grid = grid
        self._crs = crs

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
        x, y = self._grid.of_pixels((columns + window.col).ravel(), (rows + window.row).ravel())
        if self._crs is not None:
            own, target = self._crs
            try:
                with unified_gdal_errors():
                    x, y = map(np.asarray, transform_coordinates(target, own, x, y))
            except RasterioError as error:
                raise _not_laid(self._classes, error) from error
        positions = np.stack(self._places.pixels_of(x, y)[::-1]) + _ON_THE_LINE
        map_shape = self._classes.scene.shape
        sizes = np.array(map_shape)[:, None]
        # False for NaN and infinity
        inside: npt.NDArray[np.bool_] = np.all((positions >= 0) & (positions < sizes), axis=0)
        places = np.where(inside, positions, 0).astype(np.int64).reshape(2, *shape)
        return places[0], places[1], inside.reshape(shape)


def on_grid(classes: MapClasses, grid: Scene) -> GridClasses:
    """Return a map's classes on the grid of a raster of labels.

    On the same grid they are read as they are; also where not both have a place on the map and
    they are of one size. Else they are laid over it, whatever the extents, resolutions, CRS and
    directions. Where only one says in which CRS it is, the other is taken to be in the same.

    Args:
        classes: The map.
        grid: The raster of labels.

    Returns:
        Reads windows of the labels' grid; the map itself where that is its own.

    Raises:
        InputError: The two can't be laid on each other, or don't overlap.
    """
    scene = classes.scene
    is_same_size = scene.shape == grid.shape
    have_place = [_has_place(raster) for raster in (scene, grid)]
    if not all(have_place):
        if is_same_size:
            return classes
        lacking = " and ".join(
            raster.path
            for raster, has_place in zip((scene, grid), have_place, strict=True)
            if not has_place
        )
        raise InputError(
            f"has {scene.height} rows and {scene.width} columns where its label {grid.path} has "
            f"{grid.height} and {grid.width}, and no place on the map is known of {lacking}",
            where=scene.path,
            fix="give both a CRS and a transform, or put the map on the label's grid",
        )
    places, target = map_coordinates(scene.dataset), map_coordinates(grid.dataset)
    for coordinates, where in ((places, scene), (target, grid)):
        if not coordinates.pixel_area():
            raise InputError(
                "has a transform that puts all pixels on a line", where=where.path, fix="correct it"
            )
    crs = None
    if places.crs is not None and target.crs is not None and places.crs != target.crs:
        crs = places.crs, target.crs
    elif is_same_size and _same_places(places, target, grid):
        return classes
    _require_overlap(classes, places, target, crs, grid)
    return LaidMap(classes, places, target, crs)


def _format_of(path: str, scene: Scene) -> MapFormat:
    """Return what a raster that is no class map of ours looks like it holds.

    Raises:
        InputError: No classes.
    """
    dataset, bands = scene.dataset, scene.bands
    types = {dataset.dtypes[band - 1] for band in bands}
    is_palette = bool(bands) and dataset.colorinterp[bands[0] - 1] == ColorInterp.palette
    if types == {"uint8"} and (len(bands) == 3 or (len(bands) == 1 and is_palette)):
        return "colours"
    if len(bands) == 1 and np.dtype(dataset.dtypes[bands[0] - 1]).kind in "iuf":
        return "indices"
    many = "band" if len(bands) == 1 else "bands"
    raise InputError(
        f"is no map of classes: it has {len(bands)} {many} of {' and '.join(sorted(types))}, "
        "not three of colours (uint8), a palette, or one of class indices",
        where=path,
        fix="score the classes, not what they were made from",
    )


def _named_classes(
    path: str, names: list[str], scheme: Scheme, merged: MergedClasses
) -> npt.NDArray[np.uint8]:
    """Return the merged class of each class that a map of ours names, (256,) uint8."""
    separate = {name.casefold() for name in scheme.class_names}
    is_separate = {name.casefold() for name in names} == separate
    expected = scheme.class_names if is_separate else merged.names
    try:
        lookup = class_lookup(names, expected, path)
    except InputError as error:
        raise InputError(
            f"its classes ({', '.join(names)}) are not those of the scheme {scheme.name} "
            f"({', '.join(expected)})",
            where=path,
            fix="give the map's own scheme, or `merges` the scheme's classes into the map's",
        ) from error
    return merged.new_index[lookup] if is_separate else lookup


class _ColourMap(ColourLabels):
    """A map whose colours, or those of its palette, stand for classes."""

    noun = "map"

    def _describe(self, value: int) -> tuple[str, str]:
        text, nearest = super()._describe(value)
        if self._palette is not None:
            text += " (of a palette; if its numbers are class indices, give `map_format=indices`)"
        return text, nearest


class _IndexMap(IndexLabels):
    """A map whose values are class indices."""

    noun = "map"


class _NamedMap(_IndexMap):
    """A map of ours, whose indices are those of the classes that it names.

    Args:
        classes: How many it names.
    """

    def __init__(
        self,
        path: str,
        dataset: Any,
        scene: Scene,
        scheme: Scheme,
        name: str,
        unknown: UnknownLabels,
        classes: int,
    ) -> None:
        self._classes = classes
        super().__init__(path, dataset, scene, scheme, name, unknown)

    def _codes(self) -> dict[int, int]:
        return {position: position for position in range(self._classes)}


def _has_place(scene: Scene) -> bool:
    dataset = scene.dataset
    return not dataset.transform.is_identity or len(dataset.gcps[0]) >= 3


def _same_places(first: MapCoordinates, second: MapCoordinates, grid: Scene) -> bool:
    columns = np.array([0, 1, 0, 1, 0.5]) * grid.width
    rows = np.array([0, 0, 1, 1, 0.5]) * grid.height
    offsets = np.subtract(first.of_pixels(columns, rows), second.of_pixels(columns, rows))
    return bool(np.hypot(*offsets).max() < _SAME_PLACE * second.pixel_area() ** 0.5)


def _require_overlap(
    classes: MapClasses,
    places: MapCoordinates,
    target: MapCoordinates,
    crs: tuple[CRS, CRS] | None,
    grid: Scene,
) -> None:
    left, bottom, right, top = places.bounds()
    bounds = target.bounds()
    if crs is not None:
        try:
            with unified_gdal_errors():
                bounds = transform_bounds(crs[1], crs[0], *bounds)
        except RasterioError as error:
            raise _not_laid(classes, error) from error

    def overlaps(x1: float, y1: float, x2: float, y2: float) -> bool:
        return x1 < right and x2 > left and y1 < top and y2 > bottom

    if overlaps(*bounds):
        return
    swapped = overlaps(bounds[1], bounds[0], bounds[3], bounds[2])
    raise InputError(
        f"does not lie on its label {grid.path}",
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


def _not_laid(classes: MapClasses, error: Exception) -> InputError:
    reason = " ".join(str(error).split())
    return InputError(
        f"can't be laid over its label ({reason})",
        where=classes.scene.path,
        fix="check the CRS of both",
    )
