"""Polygons of a vector file on a scene's grid, and the area of interest that they are."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.features import rasterize
from rasterio.warp import transform, transform_bounds

from hrrsi.errors import InputError
from hrrsi.scenes.crs import warn_of_datums
from hrrsi.scenes.georeference import MapCoordinates, has_transform, is_on_earth, map_coordinates
from hrrsi.scenes.raster_opening import (
    unified_gdal_errors,
    vector_warnings_once,
)
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.vector_layers import chosen_layer, features_in_box, plain_value
from hrrsi.scenes.windows import Window

_POLYGON_TYPES = (3, 6)  # shapely's numbers of Polygon and MultiPolygon
_COLLECTION = 7  # and of GeometryCollection
_LARGE = 1000  # polygons of more corners are cut to a window before they are burned
_WINDOW_MARGIN = 8  # pixels around a window in which polygons are read
_MOST_DEGREES = 540  # of longitude, of what goes around the world
_EDGE_PIECES = 200  # so many along the scene, where its CRS bends the edges of polygons


@dataclass(frozen=True)
class ScenePolygons:
    """The polygons of a file that lie on a scene, in the file's order.

    Attributes:
        path: The file, for messages.
        geometries: (polygons,) shapely polygons and multipolygons, in the pixels of the scene's
            own grid: x is the column, y the row, (0, 0) the first pixel's outer corner.
        values: The attribute of each, empty where none was asked for.
        fids: (polygons,) the numbers of their features in the file.
        is_ordered: Whether these numbers are in the order in which the features were written.
            FlatGeobuf with a spatial index keeps them in the index's order alone.
    """

    path: str
    geometries: npt.NDArray[Any]
    values: list[object]
    fids: npt.NDArray[np.int64]
    is_ordered: bool = True

    @cached_property
    def _tree(self) -> Any:
        tree = shapely.STRtree(self.geometries)
        tree.query(shapely.Point(0, 0))  # builds it, which no two threads may do at once
        return tree

    @cached_property
    def _large(self) -> npt.NDArray[np.bool_]:
        large: npt.NDArray[np.bool_] = shapely.get_num_coordinates(self.geometries) > _LARGE
        large[large] = shapely.is_valid(self.geometries[large])
        return large

    def near(self, window: Window) -> npt.NDArray[np.int64]:
        """Return the numbers of the polygons that touch a window, in the file's order."""
        numbers: npt.NDArray[np.int64] = self._tree.query(_box(window), predicate="intersects")
        return np.sort(numbers)

    def reached(self, shapes: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Return the numbers of those shapes in the pixels of the scene that a polygon touches."""
        numbers: npt.NDArray[np.int64] = np.unique(
            self._tree.query(shapes, predicate="intersects")[0]
        )
        return numbers

    def overlap_of_others(self, codes: npt.NDArray[np.uint8]) -> bool:
        """Return whether two polygons of different codes share an area.

        Args:
            codes: (polygons,) the code of each.
        """
        shapes = shapely.make_valid(self.geometries)
        first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
        differ = (first < second) & (codes[first] != codes[second])
        pairs = shapes[first[differ]], shapes[second[differ]]
        return bool(shapely.relate_pattern(*pairs, "T********").any())

    def burned(
        self, window: Window, codes: Sequence[int] | npt.NDArray[np.uint8], fill: int
    ) -> npt.NDArray[np.uint8]:
        """Return the polygons' codes on a window's pixels.

        A pixel belongs to a polygon that holds its centre; where several do, the last in the file.

        Args:
            window: Lies within the scene, on its own grid.
            codes: A code for each polygon, 0 to 255.
            fill: Code of pixels in no polygon.

        Returns:
            (height, width) uint8.
        """
        near = self.near(window)
        if not near.size:
            return np.full((window.height, window.width), fill, dtype=np.uint8)
        around = _box(window, margin=1).bounds
        shapes = [
            shapely.clip_by_rect(shape, *around) if large else shape
            for shape, large in zip(self.geometries[near], self._large[near], strict=True)
        ]
        burned = [(s, int(codes[i])) for s, i in zip(shapes, near, strict=True) if not s.is_empty]
        if not burned:
            return np.full((window.height, window.width), fill, dtype=np.uint8)
        result: npt.NDArray[np.uint8] = rasterize(
            burned,
            out_shape=(window.height, window.width),
            transform=Affine.translation(window.col, window.row),
            fill=fill,
            dtype="uint8",
        )
        return result


class AreaOfInterest:
    """Which pixels of a scene lie in a polygon.

    Args:
        polygons: The polygons; without any, no pixel lies in it.
        whole: The scene's window.
    """

    def __init__(self, polygons: ScenePolygons, whole: Window) -> None:
        self._polygons = polygons
        self._whole = whole
        self._codes = np.ones(len(polygons.geometries), dtype=np.uint8)

    @cached_property
    def digest(self) -> str:
        """A digest of the polygons' corners on the scene, by which two areas are told apart."""
        content = b"".join(shapely.to_wkb(self._polygons.geometries))
        return hashlib.sha256(content).hexdigest()

    @property
    def extent(self) -> Window:
        """The smallest window of the scene that holds the polygons' parts on it."""
        near = self._polygons.near(self._whole)
        left, top, right, bottom = shapely.total_bounds(self._polygons.geometries[near])
        col, row = max(0, math.floor(left)), max(0, math.floor(top))
        return Window(
            row,
            col,
            min(self._whole.height, math.ceil(bottom)) - row,
            min(self._whole.width, math.ceil(right)) - col,
        )

    def touches(self, window: Window) -> bool:
        """Return whether a polygon touches a window of the raster's own grid."""
        return bool(self._polygons.near(window).size)

    def touched(self, windows: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Return which of some windows polygons touch.

        Args:
            windows: (windows, 4) row, column, height and width of each.

        Returns:
            (windows,) bool.
        """
        row, col, height, width = np.asarray(windows, dtype=np.int64).reshape(-1, 4).T
        touched = np.zeros(len(row), dtype=bool)
        touched[self._polygons.reached(shapely.box(col, row, col + width, row + height))] = True
        return touched

    def inside(self, window: Window) -> npt.NDArray[np.bool_]:
        """Return which pixels of a window have their centre in a polygon.

        Args:
            window: On the raster's own grid.

        Returns:
            (height, width) bool.
        """
        return self._polygons.burned(window, self._codes, 0).view(np.bool_)


def scene_polygons(
    path: str | Path, scene: Scene, attribute: str | None = None, within: Window | None = None
) -> ScenePolygons:
    """Return the polygons of a vector file that lie on a scene.

    Where neither file nor scene has a CRS, the coordinates are those of the scene's transform:
    columns and rows where it has none.

    Args:
        path: Any vector file that GDAL reads, with one layer of shapes, or with
            ``|layername=NAME`` after it. Collections count as the polygons in them.
        scene: The open scene; polygons in another CRS are reprojected to its.
        attribute: The attribute to read along.
        within: A window of the scene; polygons that don't reach it may be left out.

    Raises:
        InputError: Not a readable vector file, not polygons, no such attribute, or file and scene
            can't be put on one another for want of a CRS.
    """
    path, layer = chosen_layer(path)
    with vector_warnings_once(path, muted=within is not None):
        info = pyogrio.read_info(path, layer=layer)
    fields = [str(f) for f in info["fields"]]
    if not info["features"]:
        attribute = None  # GeoJSON without features has no attributes either
    if attribute is not None and attribute not in fields:
        raise InputError(
            f"has no attribute {attribute!r}",
            where=path,
            fix=f"choose one with `attribute`: {', '.join(fields) or 'it has none'}",
        )
    places = map_coordinates(scene.dataset)
    if not places.pixel_area():
        raise InputError(
            "has a transform that puts all pixels on a line", where=scene.path, fix="correct it"
        )
    crs = _crs(path, info["crs"], scene, places.crs)
    box, read_box = places.bounds(), _bounds(places, scene, within)
    is_same_crs = crs == places.crs
    if not is_same_crs:
        assert crs is not None
        assert places.crs is not None
        warn_of_datums(path, crs, places.crs)
        try:
            with unified_gdal_errors():
                box = transform_bounds(places.crs, crs, *box)
                read_box = transform_bounds(places.crs, crs, *read_box)
        except RasterioError as error:
            raise InputError(
                f"its CRS does not reach {scene.path}", where=path, fix="assign the right one"
            ) from error
    turns = _turns(path, layer, crs, read_box)
    parts = [
        features_in_box(path, layer, attribute, read_box, turn, within is not None)
        for turn in turns
    ]
    geometries = np.concatenate([part.geometries for part in parts])
    fids = np.concatenate([part.fids for part in parts])
    values: npt.NDArray[Any] = np.concatenate([part.values for part in parts])
    # spatial indices (GeoPackage, FlatGeobuf) give features in an order of their own
    order = np.argsort(fids, kind="stable")
    geometries, fids, values = geometries[order], fids[order], values[order]
    in_collections = np.flatnonzero(shapely.get_type_id(geometries) == _COLLECTION)
    geometries[in_collections] = [_areas_or_all(shape) for shape in geometries[in_collections]]
    present = ~shapely.is_missing(geometries) & ~shapely.is_empty(geometries)
    not_polygons = present & ~np.isin(shapely.get_type_id(geometries), _POLYGON_TYPES)
    if not_polygons.any():
        raise InputError(
            f"feature {fids[not_polygons][0]} is a {geometries[not_polygons][0].geom_type}",
            where=path,
            fix="keep only polygons in it",
        )
    geometries = geometries[present]
    if not len(geometries) and crs is not None and crs.is_geographic:
        _require_degrees(path, layer, info["crs"], places.crs)
    if not is_same_crs:
        geometries = _reprojected(geometries, box, crs, places.crs)
    geometries = shapely.transform(
        geometries, lambda xy: np.column_stack(places.pixels_of(xy[:, 0], xy[:, 1]))
    )
    plain = [plain_value(v, path) for v in values[present]] if attribute is not None else []
    is_ordered = info["driver"] != "FlatGeobuf" or not info["capabilities"]["fast_spatial_filter"]
    return ScenePolygons(path, geometries, plain, fids[present], is_ordered)


def _turns(
    path: str, layer: str, crs: CRS | None, box: tuple[float, float, float, float]
) -> list[float]:
    """Return by how much polygons are moved east to lie in a box: by nothing, or whole turns.

    Longitudes may be of -180 to 180 or of 0 to 360, or go on beyond the antimeridian.
    """
    if crs is None or not crs.is_geographic or box[0] > box[2]:
        return [0.0]
    extent = _extent(path, layer, os.stat(path).st_mtime_ns if Path(path).exists() else 0)
    if extent is None or max(abs(extent[0]), abs(extent[2])) > _MOST_DEGREES:
        return [0.0]
    turns = (0.0, 360.0, -360.0)
    return [t for t in turns if extent[0] + t < box[2] and extent[2] + t > box[0]] or [0.0]


@cache
def _extent(path: str, layer: str, changed: int) -> tuple[float, float, float, float] | None:
    """Return the bounds of a layer, None of one without shapes.

    Args:
        path: The file.
        layer: Its layer.
        changed: When it was changed, by which files of one name are told apart.
    """
    try:
        with vector_warnings_once(path, muted=True):
            bounds = pyogrio.read_info(path, layer=layer, force_total_bounds=True)["total_bounds"]
    except (DataSourceError, DataLayerError, ValueError):  # who reads the features says so
        return None
    return None if bounds is None or not np.isfinite(bounds).all() else tuple(bounds)


def _require_degrees(path: str, layer: str, crs: str, scene_crs: CRS | None) -> None:
    """Raise where coordinates that should be degrees can be none.

    Raises:
        InputError: They are, as those of a GeoJSON file in metres that doesn't say its CRS.
    """
    extent = _extent(path, layer, os.stat(path).st_mtime_ns if Path(path).exists() else 0)
    if extent is not None and max(abs(extent[0]), abs(extent[2])) > _MOST_DEGREES:
        raise InputError(
            f"holds coordinates such as {extent[0]:.0f}, {extent[1]:.0f}, which are no degrees, "
            f"though its CRS is {crs}",
            where=path,
            fix=f"say in which they are, e.g. {_assignment(path, scene_crs)} (GeoJSON that says "
            "none is in WGS 84)",
        )


def _bounds(
    places: MapCoordinates, scene: Scene, within: Window | None
) -> tuple[float, float, float, float]:
    """Return the bounds of a window on the map and a bit more; of the scene where it has none."""
    whole = places.bounds()
    if within is None or not has_transform(scene.dataset):
        return whole
    margin = _WINDOW_MARGIN + max(within.height, within.width) // 50
    columns = np.array([within.col - margin, within.col + within.width + margin], dtype=float)
    rows = np.array([within.row - margin, within.row + within.height + margin], dtype=float)
    x, y = places.of_pixels(columns[[0, 1, 1, 0]], rows[[0, 0, 1, 1]])
    return (
        max(whole[0], float(x.min())),
        max(whole[1], float(y.min())),
        min(whole[2], float(x.max())),
        min(whole[3], float(y.max())),
    )


def area_of_interest(path: str | Path, scene: Scene) -> AreaOfInterest:
    """Return the polygons of a vector file as a scene's area of interest.

    Args:
        path: As for `scene_polygons`.
        scene: The open scene; polygons in another CRS are reprojected to its.

    Raises:
        InputError: As `scene_polygons`, or no polygon lies on the scene.
    """
    polygons = scene_polygons(path, scene)
    whole = Window(0, 0, *scene.shape)
    if not len(polygons.geometries) or not polygons.near(whole).size:
        raise InputError(
            f"no polygon lies on {scene.path}",
            where=path,
            fix="check its CRS, or leave the scene out",
        )
    return AreaOfInterest(polygons, whole)


def _reprojected(
    geometries: npt.NDArray[Any],
    box: tuple[float, float, float, float],
    crs: CRS | None,
    scene_crs: CRS | None,
) -> npt.NDArray[Any]:
    """Return polygons in the scene's CRS, as far as they lie near the scene.

    Long edges get more corners, to bend with the map.

    Args:
        geometries: The polygons.
        box: Bounds of the scene in their CRS.
        crs: Their CRS.
        scene_crs: That of the scene.
    """
    geometries = _near_box(geometries, box)
    extents = shapely.bounds(geometries)
    spans = np.maximum(extents[:, 2] - extents[:, 0], extents[:, 3] - extents[:, 1])
    # of a map of the world, polygons are a small part: pieces of it would not bend with them
    largest = min(max(box[2] - box[0], box[3] - box[1]), np.nanmax(spans, initial=0.0))
    piece = largest / _EDGE_PIECES
    longer = np.flatnonzero(spans > piece)
    geometries = geometries.copy()
    # corners between those of rings that cross themselves would lose parts of them
    crossing = longer[~shapely.is_valid(geometries[longer])]
    geometries[crossing] = [_untangled(shape) for shape in geometries[crossing]]
    geometries[longer] = shapely.segmentize(geometries[longer], piece)
    moved: npt.NDArray[Any] = shapely.transform(
        geometries, lambda xy: np.column_stack(transform(crs, scene_crs, xy[:, 0], xy[:, 1]))
    )
    return moved


def _near_box(
    geometries: npt.NDArray[Any], box: tuple[float, float, float, float]
) -> npt.NDArray[Any]:
    """Return polygons cut off where they go far beyond a box: corners there serve nothing.

    What goes to the ends of the Earth may lie nowhere in another CRS.
    """
    margin = max(box[2] - box[0], box[3] - box[1])
    if box[0] > box[2] or not 0 < margin < math.inf:  # across the antimeridian, or without bounds
        return geometries
    left, bottom, right, top = box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin
    extents = shapely.bounds(geometries)
    beyond = (extents < (left, bottom, -math.inf, -math.inf)) | (
        extents > (math.inf, math.inf, right, top)
    )
    far = np.flatnonzero(beyond.any(axis=1))
    near = geometries.copy()
    frame = shapely.box(left, bottom, right, top)
    near[far] = [
        shapely.multipolygons(_areas(shapely.intersection(_untangled(shape), frame)))
        for shape in geometries[far]
    ]
    return near


def _untangled(shape: Any) -> Any:
    """Return a polygon whose rings cross themselves as those parts that are burned of it."""
    return shapely.multipolygons(_areas(shapely.make_valid(shape)))


def _areas_or_all(collection: Any) -> Any:
    """Return the polygons of a collection, or itself where it has none."""
    areas = _areas(collection)
    return shapely.multipolygons(areas) if len(areas) else collection


def _areas(shape: Any) -> npt.NDArray[Any]:
    """Return the single polygons in a shape, also in collections of collections."""
    parts = shapely.get_parts(shape)
    while np.isin(shapely.get_type_id(parts), (*_POLYGON_TYPES[1:], _COLLECTION)).any():
        parts = shapely.get_parts(parts)
    polygons: npt.NDArray[Any] = parts[shapely.get_type_id(parts) == _POLYGON_TYPES[0]]
    return polygons


def _crs(path: str | Path, text: str | None, scene: Scene, scene_crs: CRS | None) -> CRS | None:
    """Return the file's CRS, or None where neither file nor scene has one."""
    if (text is None) != (scene_crs is None):
        without_crs, other = (path, scene.path) if text is None else (scene.path, path)
        fix = "name it with `crs`"
        if text is not None and not has_transform(scene.own_grid.dataset):
            fix = "it has no transform either: put its world file beside it, and name its CRS"
        if text is not None and scene.own_grid.dataset.tags(ns="RPC"):
            fix = "bring it onto the map by its rational polynomials first: `gdalwarp -rpc`"
        if text is None:
            fix = f"assign one, e.g. {_assignment(path, scene_crs)}"
        raise InputError(f"has no CRS, but {other} has", where=without_crs, fix=fix)
    if text is None:
        return None
    try:
        crs = CRS.from_user_input(text)
    except CRSError as error:
        raise InputError("has a CRS that is not known", where=path, fix="assign one") from error
    if crs != scene_crs and is_on_earth(crs) != is_on_earth(scene_crs):
        local, other = (scene.path, path) if is_on_earth(crs) else (path, scene.path)
        raise InputError(
            f"is in a local CRS without place on the Earth, so {other} can't be put on it",
            where=local,
            fix="assign the CRS in which its coordinates are",
        )
    return crs


def _assignment(path: str | Path, crs: CRS | None) -> str:
    """Return the command that assigns a vector file the CRS of a scene, or another."""
    epsg = None if crs is None else crs.to_epsg()
    code = "EPSG:25832" if epsg is None else f"EPSG:{epsg}"
    return f"`ogr2ogr -a_srs {code} new.gpkg {Path(path).name}`"


def _box(window: Window, margin: int = 0) -> Any:
    return shapely.box(
        window.col - margin,
        window.row - margin,
        window.col + window.width + margin,
        window.row + window.height + margin,
    )
