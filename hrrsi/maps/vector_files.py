"""Polygons of class maps, and vector files: GeoPackage, GeoJSON, FlatGeobuf and Shapefile."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

from hrrsi.class_styles import add_default_style, polygon_style
from hrrsi.classes import Colour
from hrrsi.errors import OutputError
from hrrsi.files import remove, replacing, scratch_folder
from hrrsi.maps.components import ClassPolygons, Labels, class_polygons
from hrrsi.maps.outputs import VECTOR_SUFFIXES, vector_parts
from hrrsi.maps.styles import CLASS_FIELD, qml_style
from hrrsi.quantities import byte_text
from hrrsi.scenes.crs import warn_of_longitudes
from hrrsi.scenes.georeference import (
    MapCoordinates,
    ground_resolution,
    map_coordinates,
    pixel_areas,
)
from hrrsi.scenes.vector_layers import undated_vector_files

_LAYER = "classes"
_FIELDS = (CLASS_FIELD, "class_index", "pixels", "area_m2")
_LONGEST_EDGE = 256  # pixels, where edges are curves in the coordinates written
SHAPEFILE_BYTES = 2**31  # many programs read no larger parts
_LARGEST_SHAPEFILE = 2**32  # its offsets reach no further
_SHAPEFILE_NAMES = {"class_index": "class_idx"}  # of fields, which have ten characters
# what programs keep of the polygons that a shapefile held before: never right for others
_SHAPEFILE_INDEXES = (".qix", ".sbn", ".sbx", ".fbn", ".fbx", ".ain", ".aih", ".ixs", ".mxs")
_FORMATS = {
    ".gpkg": ("GPKG", {}),
    ".geojson": ("GeoJSON", {}),
    ".fgb": ("FlatGeobuf", {}),
    # a time of writing would make every file another
    ".shp": ("ESRI Shapefile", {"ENCODING": "UTF-8", "DBF_DATE_LAST_UPDATE": "1970-01-01"}),
}
# 0.1 mm: the corners of pixels of 5 cm stay apart
_LONLAT = {"RFC7946": "YES", "COORDINATE_PRECISION": "9"}
_BATCH = 20_000  # features that are written at once


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

    Attributes are ``class`` (its name), ``class_index`` (in shapefiles ``class_idx``), ``pixels``
    and ``area_m2`` (on the ground, null where the scene has no CRS). Polygons have the scene's CRS,
    but GeoJSON holds WGS 84 longitudes and latitudes, as RFC 7946 has it. Without a CRS their
    coordinates are the scene's own: columns and rows where it has no transform either. Where a
    scene has ground control points instead, coordinates follow GDAL's polynomial through them.

    Memory holds a strip, and the corners of the polygons that are still open at its end; all of
    them where they are simplified. What is written doesn't depend on the heights of the strips.

    Args:
        path: A file that ends in ``.gpkg``, ``.geojson``, ``.fgb`` or ``.shp``; what is there is
            replaced.
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
    places = map_coordinates(dataset)
    crs = places.crs
    on_earth = crs is not None and bool(crs.is_geographic or crs.is_projected)
    lonlat = suffix == ".geojson" and on_earth
    if lonlat and crs is not None:
        warn_of_longitudes(crs)
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
    class_indices = [index for index, name in enumerate(classes) if only is None or name in only]
    placed = (
        part._replace(geometries=_placed(part.geometries, places, curved=curved))
        for part in (_of_classes(part, class_indices) for part in polygons)
    )
    in_file = polygon_style(classes, colours, CLASS_FIELD) if style else None
    crs_text = None if crs is None else crs.to_wkt()
    with vector_file(path, _LAYER, "Polygon", crs_text, lonlat=lonlat, style=in_file) as draft:
        names = np.array(classes, dtype=object)
        for geometries, indices, pixels, areas in placed:
            columns = [names[indices], indices.astype(np.int32), pixels, areas]
            draft.append(geometries, dict(zip(_FIELDS, columns, strict=True)))
    if style and suffix != ".gpkg":
        with replacing(path.with_suffix(".qml")) as style_file:
            style_file.write_text(qml_style(classes, colours), encoding="utf-8")
    return draft.features


class VectorDraft:
    """The features of a vector file that is being written, in a GeoPackage beside it.

    Args:
        file: The GeoPackage.
        suffix: How the name of the vector file ends.
        layer: The name of its layer.
        geometry_type: What its geometries are, e.g. ``Polygon``.
        crs: Their CRS as WKT, or None.

    Attributes:
        features: How many there are.
    """

    def __init__(
        self, file: Path, suffix: str, layer: str, geometry_type: str, crs: str | None
    ) -> None:
        self.features = 0
        self.file = file
        self.layer = layer
        self.geometry_type = geometry_type
        self.crs = crs
        self.fid_column, self.geometry_column = "fid", "geom"
        self._names = _SHAPEFILE_NAMES if suffix == ".shp" else {}
        self._waiting: list[tuple[npt.NDArray[Any], dict[str, npt.NDArray[Any]]]] = []
        self._shapefile_bytes = 100

    def append(
        self, geometries: npt.NDArray[Any], attributes: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        """Add features, which are written a batch at a time.

        Args:
            geometries: (features,) shapely geometries.
            attributes: (features,) values of each attribute, the same ones in each call; masked
                where numbers are missing.
        """
        self._waiting.append((geometries, dict(attributes)))
        self.features += len(geometries)
        if sum(len(shapes) for shapes, _ in self._waiting) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what waits for more."""
        if not self._waiting:
            return
        geometries = np.concatenate([shapes for shapes, _ in self._waiting])
        columns = {
            self._names.get(name, name): _concatenated([part[name] for _, part in self._waiting])
            for name in self._waiting[0][1]
        }
        self.fid_column = free_name("fid", columns)
        self.geometry_column = free_name("geom", columns)
        rings = shapely.get_num_interior_rings(geometries) + 1
        points = shapely.get_num_coordinates(geometries)
        self._shapefile_bytes += int((52 + 4 * rings + 16 * points).sum())
        pyogrio.raw.write(
            self.file,
            shapely.to_wkb(geometries),
            [np.asarray(column) for column in columns.values()],
            list(columns),
            [getattr(column, "mask", None) for column in columns.values()],
            layer=self.layer,
            driver="GPKG",
            geometry_type=self.geometry_type,
            crs=self.crs,
            append=self.file.exists(),
            layer_options={}
            if self.file.exists()
            else {"SPATIAL_INDEX": "NO", **self.column_options},
        )
        self._waiting.clear()

    @property
    def column_options(self) -> dict[str, str]:
        """GDAL's options of a GeoPackage for columns that no attribute may be called."""
        return {"FID": self.fid_column, "GEOMETRY_NAME": self.geometry_column}

    @property
    def shapefile_bytes(self) -> int:
        """Bytes that what is written takes in the largest part of a shapefile of polygons."""
        return self._shapefile_bytes


@contextmanager
def vector_file(
    path: Path,
    layer: str,
    geometry_type: str,
    crs: str | None,
    *,
    lonlat: bool = False,
    style: str | None = None,
) -> Iterator[VectorDraft]:
    """Yield what gets the features of a vector file, which is written at the end of the block.

    It appears whole, with all of its parts, or not at all.

    Args:
        path: A file that ends in one of `VECTOR_SUFFIXES`; what is there is replaced.
        layer: The name of its layer; that of GeoJSON and FlatGeobuf too, not of a shapefile.
        geometry_type: What its geometries are, e.g. ``Polygon``.
        crs: Their CRS as WKT, or None.
        lonlat: Whether GeoJSON holds longitudes and latitudes, as RFC 7946 has it.
        style: The style with which QGIS opens it, which a GeoPackage alone can hold.

    Raises:
        OutputError: The name has another ending, the folder is not writable, the disk is full, or
            a shapefile can't hold so much.
    """
    suffix = path.suffix.lower()
    if suffix not in VECTOR_SUFFIXES:
        raise OutputError(
            f"is none of the vector formats {', '.join(VECTOR_SUFFIXES)}",
            where=path,
            fix="choose one by the ending of the name",
        )
    with scratch_folder(path) as folder, undated_vector_files():
        draft = VectorDraft(folder / "all.gpkg", suffix, layer, geometry_type, crs)
        finished = folder / f"finished{suffix}"
        try:
            yield draft
            draft.flush()
            if suffix == ".shp" and draft.shapefile_bytes > _LARGEST_SHAPEFILE:
                raise OutputError(
                    f"would take {byte_text(draft.shapefile_bytes)}, and shapefiles end at "
                    f"{byte_text(_LARGEST_SHAPEFILE)}",
                    where=path,
                    fix="give `vector=gpkg`, or fewer corners with `simplify` or `min_area`",
                )
            _convert(draft, finished, _LONLAT if lonlat else {})
            if pyogrio.read_info(finished, force_feature_count=True)["features"] != draft.features:
                raise OutputError("cannot be written whole", where=path, fix="free disk space")
            if style is not None and suffix == ".gpkg":
                add_default_style(finished, layer, draft.geometry_column, style)
        except (DataSourceError, DataLayerError, FeatureError, sqlite3.Error) as error:
            raise OutputError(
                f"cannot be written ({error})", where=path, fix="free disk space"
            ) from error
        _name(finished, path)


def free_name(name: str, names: Iterable[str]) -> str:
    """Return a name for a column, with a number where it is taken, in whatever case."""
    folded = {other.casefold() for other in names}
    numbered = (name if number == 1 else f"{name}_{number}" for number in count(1))
    return next(candidate for candidate in numbered if candidate.casefold() not in folded)


def _concatenated(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    masked = any(isinstance(part, np.ma.MaskedArray) for part in parts)
    joined: npt.NDArray[Any] = (np.ma.concatenate if masked else np.concatenate)(parts)
    return joined


def _convert(draft: VectorDraft, target: Path, options: Mapping[str, str]) -> None:
    """Write the features of a draft to another file, a batch at a time."""
    driver, own_options = _FORMATS[target.suffix]
    columns = draft.column_options if target.suffix == ".gpkg" else {}
    source = pyogrio.raw.open_arrow(draft.file, layer=draft.layer, batch_size=_BATCH)
    with source as (meta, reader):
        pyogrio.raw.write_arrow(
            reader,
            target,
            layer=target.stem if target.suffix == ".shp" else draft.layer,
            driver=driver,
            geometry_name=meta["geometry_name"],
            geometry_type=draft.geometry_type,
            crs=draft.crs,
            layer_options={**own_options, **options, **columns},
        )


def _name(finished: Path, path: Path) -> None:
    """Give a finished file its name, and its parts theirs, the one that programs open last."""
    parts = {part: finished.with_suffix(part.suffix.lower()) for part in vector_parts(path)}
    with ExitStack() as stack:
        for part in [part for part in parts if parts[part].exists()]:  # left in reverse order
            parts.pop(part).replace(stack.enter_context(replacing(part)))
        if path.suffix.lower() == ".shp":
            # what was there before goes first: its parts must never stand beside these
            for old in (path, *parts, *map(path.with_suffix, _SHAPEFILE_INDEXES)):
                remove(old)


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


def _of_classes(polygons: ClassPolygons, class_indices: Sequence[int]) -> ClassPolygons:
    chosen = np.isin(polygons.class_indices, class_indices)
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
