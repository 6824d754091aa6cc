"""Polygons of a vector file, rasterised on a scene's grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.features import rasterize
from rasterio.transform import array_bounds
from rasterio.warp import transform, transform_bounds
from rasterio.windows import transform as window_transform

from hrrsi.errors import HrrsiError
from hrrsi.scenes.scene import Scene, rasterio_window
from hrrsi.scenes.windows import Window

_POLYGON_TYPES = (3, 6)  # shapely's numbers of Polygon and MultiPolygon


@dataclass(frozen=True)
class ScenePolygons:
    """The polygons of a file that lie on a scene, in the scene's CRS and the file's order.

    Attributes:
        path: The file, for messages.
        scene: The scene.
        geometries: (polygons,) shapely polygons and multipolygons.
        values: The attribute of each, empty where none was asked for.
    """

    path: str
    scene: Scene
    geometries: npt.NDArray[Any]
    values: list[object]

    def burned(
        self, window: Window, codes: Sequence[int] | npt.NDArray[np.uint8], fill: int
    ) -> npt.NDArray[np.uint8]:
        """Return the polygons' codes on a window's pixels.

        A pixel belongs to a polygon that holds its centre; where several do, the last in the file.

        Args:
            window: Lies within the scene.
            codes: A code for each polygon, 0 to 255.
            fill: Code of pixels in no polygon.

        Returns:
            (height, width) uint8.
        """
        dataset = self.scene.dataset
        place = window_transform(rasterio_window(window), dataset.transform)
        corners = [
            place * corner
            for corner in (
                (0, 0),
                (window.width, 0),
                (window.width, window.height),
                (0, window.height),
            )
        ]
        near = np.flatnonzero(shapely.intersects(self.geometries, shapely.Polygon(corners)))
        if not near.size:
            return np.full((window.height, window.width), fill, dtype=np.uint8)
        result: npt.NDArray[np.uint8] = rasterize(
            [(self.geometries[i], int(codes[i])) for i in near],
            out_shape=(window.height, window.width),
            transform=place,
            fill=fill,
            dtype="uint8",
        )
        return result


def scene_polygons(path: str | Path, scene: Scene, attribute: str | None = None) -> ScenePolygons:
    """Return the polygons of a vector file that lie on a scene.

    Args:
        path: Any vector file that GDAL reads, with one layer of polygons.
        scene: The open scene; polygons in another CRS are reprojected to its.
        attribute: The attribute to read along.

    Raises:
        HrrsiError: Not a readable vector file, not polygons, no such attribute, or file and scene
            can't be put on one another for want of a CRS.
    """
    layer = _layer(path)
    info = pyogrio.read_info(path, layer=layer)
    fields = [str(f) for f in info["fields"]]
    if attribute is not None and attribute not in fields:
        raise HrrsiError(
            f"has no attribute {attribute!r}",
            where=path,
            fix=f"choose one with --attribute: {', '.join(fields) or 'it has none'}",
        )
    crs = _crs(path, info["crs"], scene)
    dataset = scene.dataset
    box = array_bounds(scene.height, scene.width, dataset.transform)
    box = (min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3]))
    same = crs == dataset.crs
    if not same:
        box = transform_bounds(dataset.crs, crs, *box)
    try:
        _, fids, wkb, columns = pyogrio.raw.read(
            path,
            layer=layer,
            columns=[] if attribute is None else [attribute],
            bbox=box,
            force_2d=True,
            return_fids=True,
        )
        geometries = shapely.from_wkb(wkb)
    except (DataSourceError, DataLayerError, shapely.errors.ShapelyError, ValueError) as error:
        raise HrrsiError(f"cannot be read ({error})", where=path, fix="repair the file") from error
    present = ~shapely.is_missing(geometries) & ~shapely.is_empty(geometries)
    geometries = geometries[present]
    others = ~np.isin(shapely.get_type_id(geometries), _POLYGON_TYPES)
    if others.any():
        raise HrrsiError(
            f"feature {fids[present][others][0]} is a {geometries[others][0].geom_type}",
            where=path,
            fix="keep only polygons in it",
        )
    if not same:
        geometries = shapely.transform(
            geometries,
            lambda xy: np.column_stack(transform(crs, dataset.crs, xy[:, 0], xy[:, 1])),
        )
    values = [_plain(v) for v in columns[0][present]] if attribute is not None else []
    return ScenePolygons(str(path), scene, geometries, values)


def _layer(path: str | Path) -> str:
    if not str(path).startswith("/vsi") and not Path(path).exists():
        raise HrrsiError("no such file", where=path, fix="check the path")
    try:
        layers = pyogrio.list_layers(path)
    except DataSourceError as error:
        raise HrrsiError(
            "is not a vector file that GDAL can read", where=path, fix="check that it opens in QGIS"
        ) from error
    spatial = [str(name) for name, geometry in layers if geometry is not None]
    if len(spatial) != 1:
        raise HrrsiError(
            f"holds {len(spatial)} layers of shapes ({', '.join(spatial)})"
            if spatial
            else "holds no shapes",
            where=path,
            fix="give a file with one layer of polygons",
        )
    return spatial[0]


def _crs(path: str | Path, text: str | None, scene: Scene) -> CRS | None:
    """Return the file's CRS, or None where neither file nor scene has one."""
    if (text is None) != (scene.dataset.crs is None):
        lacking, other = (path, scene.path) if text is None else (scene.path, path)
        raise HrrsiError(f"has no CRS, but {other} has", where=lacking, fix="assign one")
    if text is None:
        return None
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise HrrsiError("has a CRS that is not known", where=path, fix="assign one") from error


def _plain(value: object) -> object:
    """Return a number without needless decimals: whole numbers beside nulls come as floats."""
    if isinstance(value, float | np.floating):
        return int(value) if float(value).is_integer() else float(value)
    return value
