"""Writes the polygons of a class map: GeoPackage, FlatGeobuf or GeoJSON."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

from hrrsi.class_styles import add_default_style, polygon_style
from hrrsi.classes import Colour
from hrrsi.errors import OutputError
from hrrsi.files import replacing, scratch_folder
from hrrsi.maps.components import (
    Integers,
    Labels,
    StripRuns,
    corners,
    even_strips,
    outlines,
    strip_components,
)
from hrrsi.maps.outputs import VECTOR_SUFFIXES
from hrrsi.scenes.georeference import (
    MapCoordinates,
    exact_areas,
    ground_resolution,
    map_coordinates,
    pixel_areas,
)
from hrrsi.scenes.polygons import undated_vector_files

_DRIVERS = dict(zip(VECTOR_SUFFIXES, ("GPKG", "GeoJSON", "FlatGeobuf"), strict=True))
_LAYER = "classes"
_FIELDS = ("class", "class_index", "pixels", "area_m2")
_STRIP_PIXELS = 2**19  # at a time; what a strip takes beside its pixels stays in the CPU's cache
_BATCH = 20_000  # polygons that are written at once
_LONGEST_EDGE = 256  # pixels, where edges are curves in the coordinates written


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


def write_class_polygons(
    path: Path,
    dataset: Any,
    strips: Iterable[Labels],
    *,
    classes: Sequence[str],
    colours: Sequence[Colour],
    style: bool = True,
    simplify: float = 0,
    only: Sequence[str] | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> int:
    """Write the polygons of a class map, one for each 4-connected component of a class.

    Attributes are ``class`` (its name), ``class_index``, ``pixels`` and ``area_m2`` (on the
    ground, null where the scene has no CRS). Polygons have the scene's CRS, but GeoJSON holds
    WGS 84 longitudes and latitudes, as RFC 7946 has it. Without a CRS their coordinates are the
    scene's own: columns and rows where it has no transform either. Where a scene has ground
    control points instead, coordinates follow GDAL's polynomial through them.

    Memory holds a strip, and the corners of the polygons that are still open at its end; all of
    them where they are simplified. What is written doesn't depend on the heights of the strips.

    Args:
        path: A file that ends in ``.gpkg``, ``.geojson`` or ``.fgb``; what is there is replaced.
        dataset: The rasterio dataset whose grid the labels have.
        strips: (rows, width) uint8 class indices each, 255 where there is no data, from top to
            bottom.
        classes: Class names in the order of their indices.
        colours: Class colours, likewise.
        style: Whether to write a style for QGIS: into a GeoPackage, or as ``NAME.qml`` beside the
            others.
        simplify: Size of the steps along pixels that polygons leave out, in metres on the ground
            (pixels without CRS): corners whose triangle with the ones beside them is smaller than
            its square go, the smallest first (Visvalingam and Whyatt, 1993). Neighbours keep one
            border, no polygon crosses another, and none goes. `pixels` and `area_m2` stay the
            map's.
        only: Names of the classes to write; by default all.
        on_rows: Called with the number of rows that have been dealt with since the last call.

    Returns:
        The number of polygons.

    Raises:
        OutputError: The name has another ending, the folder is not writable, or the disk is full.
    """
    suffix = path.suffix.lower()
    if suffix not in _DRIVERS:
        raise OutputError(
            f"is none of the vector formats {', '.join(VECTOR_SUFFIXES)}",
            where=path,
            fix="choose one by the ending of the name",
        )
    places = map_coordinates(dataset)
    crs = places.crs
    on_earth = crs is not None and bool(crs.is_geographic or crs.is_projected)
    lonlat = suffix == ".geojson" and on_earth
    by_points = dataset.transform.is_identity and bool(dataset.gcps[0])
    # edges that are straight in pixels are curves there
    curved = by_points or (lonlat and crs is not None and crs.is_projected)
    polygons = class_polygons(
        _counted(strips, on_rows),
        dataset.height,
        dataset.width,
        pixel_areas(dataset),
        clockwise=_keeps_orientation(places, dataset),
    )
    if simplify:
        polygons = _simplified(polygons, simplify / (ground_resolution(dataset) or 1))
    wanted = [index for index, name in enumerate(classes) if only is None or name in only]
    placed = (
        part._replace(geometries=_placed(part.geometries, places, curved=curved))
        for part in (_of_classes(part, wanted) for part in polygons)
    )
    qml = polygon_style(classes, colours, _FIELDS[0])
    with scratch_folder(path) as folder, undated_vector_files(), replacing(path) as partial:
        try:
            crs_text = None if crs is None else crs.to_wkt()
            count = _append_all(folder / "all.gpkg", placed, classes, crs_text)
            finished = folder / f"finished{suffix}"
            _convert(folder / "all.gpkg", finished, crs_text, lonlat=lonlat)
            written = pyogrio.read_info(finished, layer=_LAYER, force_feature_count=True)
            if written["features"] != count:
                raise OutputError("cannot be written whole", where=path, fix="free disk space")
            if style and suffix == ".gpkg":
                add_default_style(finished, _LAYER, "geom", qml)
        except (DataSourceError, DataLayerError, FeatureError, sqlite3.Error) as error:
            raise OutputError(
                f"cannot be written ({error})", where=path, fix="free disk space"
            ) from error
        if style and suffix != ".gpkg":
            with replacing(path.with_suffix(".qml")) as style_file:
                style_file.write_text(qml, encoding="utf-8")
        finished.replace(partial)
    return count


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

        kept: list[list[Integers]] = [[] for _ in range(int(stays.sum()))]
        ended, ended_component = [], []
        for parts, into in zip(self._open_corners, of_open.tolist(), strict=True):
            if stays[into]:
                kept[number[into]] += parts
            else:
                ended += parts
                ended_component += [np.full(len(part), number[into]) for part in parts]
        going_on = stays[corner_component]
        ended.append(corner[~going_on])
        ended_component.append(number[corner_component[~going_on]])
        for target, part in _grouped(number[corner_component[going_on]], corner[going_on]):
            kept[target].append(part)

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
        self._open, self._open_corners = number[last], kept
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


def _counted(strips: Iterable[Labels], on_rows: Callable[[int], None] | None) -> Iterator[Labels]:
    for strip in strips:
        yield strip
        if on_rows:
            on_rows(len(strip))


def _keeps_orientation(places: MapCoordinates, dataset: Any) -> bool:
    """Return whether what runs clockwise on the screen runs counter-clockwise in coordinates."""
    x, y = places.of_pixels(
        dataset.width / 2 + np.array([0.0, 1.0, 0.0]),
        dataset.height / 2 + np.array([0.0, 0.0, 1.0]),
    )
    return bool((x[1] - x[0]) * (y[2] - y[0]) > (x[2] - x[0]) * (y[1] - y[0]))


def _of_classes(polygons: ClassPolygons, wanted: Sequence[int]) -> ClassPolygons:
    chosen = np.isin(polygons.class_indices, wanted)
    geometries, indices, pixels, areas = polygons
    return ClassPolygons(geometries[chosen], indices[chosen], pixels[chosen], areas[chosen])


def _simplified(polygons: Iterable[ClassPolygons], tolerance: float) -> Iterator[ClassPolygons]:
    """Yield polygons without the steps along their pixels, all at once.

    Args:
        polygons: Those of a whole map.
        tolerance: The size of steps, in pixels.
    """
    geometries, indices, pixels, areas = (
        np.concatenate(parts) for parts in zip(*polygons, strict=True)
    )
    # a corner at each pixel: those of neighbours are the same only then
    geometries = shapely.coverage_simplify(shapely.segmentize(geometries, 1.0), tolerance)
    yield ClassPolygons(geometries, indices, pixels, areas)


def _placed(
    geometries: npt.NDArray[Any], places: MapCoordinates, *, curved: bool
) -> npt.NDArray[Any]:
    """Return polygons in map coordinates; if `curved`, long edges get more corners."""
    if curved:
        geometries = shapely.segmentize(geometries, _LONGEST_EDGE)
    placed: npt.NDArray[Any] = shapely.transform(
        geometries, lambda xy: np.column_stack(places.of_pixels(xy[:, 0], xy[:, 1]))
    )
    return placed


def _append_all(
    path: Path, polygons: Iterable[ClassPolygons], classes: Sequence[str], crs: str | None
) -> int:
    """Write polygons to a GeoPackage in batches, and return how many there are."""
    names = np.array(classes, dtype=object)
    waiting: list[ClassPolygons] = []
    count = 0

    def write() -> None:
        geometries, indices, pixels, areas = (
            np.concatenate(parts) for parts in zip(*waiting, strict=True)
        )
        pyogrio.raw.write(
            path,
            shapely.to_wkb(geometries),
            [names[indices], indices.astype(np.int32), pixels, areas],
            list(_FIELDS),
            layer=_LAYER,
            driver="GPKG",
            geometry_type="Polygon",
            crs=crs,
            append=path.exists(),
            layer_options={} if path.exists() else {"SPATIAL_INDEX": "NO"},
        )
        waiting.clear()

    for part in polygons:
        waiting.append(part)
        count += len(part.geometries)
        if sum(len(p.geometries) for p in waiting) >= _BATCH:
            write()
    if waiting:
        write()
    return count


def _convert(source: Path, target: Path, crs: str | None, *, lonlat: bool) -> None:
    """Write the polygons of a file to another, a batch at a time."""
    options = {}
    if lonlat:
        # 0.1 mm: the corners of pixels of 5 cm stay apart
        options = {"RFC7946": "YES", "COORDINATE_PRECISION": "9"}
    with pyogrio.raw.open_arrow(source, layer=_LAYER, batch_size=_BATCH) as (meta, reader):
        pyogrio.raw.write_arrow(
            reader,
            target,
            layer=_LAYER,
            driver=_DRIVERS[target.suffix],
            geometry_name=meta["geometry_name"],
            geometry_type="Polygon",
            crs=crs,
            layer_options=options,
        )
