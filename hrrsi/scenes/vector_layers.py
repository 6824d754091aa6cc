"""Layers of vector files: which one is read, its features and their attributes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError

from hrrsi.errors import InputError, MissingInputError
from hrrsi.files import named_layer, require_regular
from hrrsi.scenes.raster_opening import (
    is_local,
    require_vector_path,
    vector_warnings_once,
)

_FIXED_DATE = {"OGR_CURRENT_DATE": "1970-01-01T00:00:00.000Z"}


class Features(NamedTuple):
    """Features of a file: their shapes, their numbers, and an attribute, None where not asked for.

    All are (features,) arrays.
    """

    geometries: npt.NDArray[Any]
    fids: npt.NDArray[np.int64]
    values: npt.NDArray[Any]


def features_in_box(
    path: str,
    layer: str,
    attribute: str | None,
    box: tuple[float, float, float, float],
    turn: float,
    muted: bool,
) -> Features:
    """Return the features that a box reaches after they are moved.

    Args:
        path: The file.
        layer: Its layer.
        attribute: An attribute that is read with them, or None.
        box: West, south, east and north, in the file's coordinates.
        turn: How far they are moved east, in the same, before they meet the box.
        muted: Whether GDAL's warnings are left out: they were said already.

    Raises:
        InputError: The file can't be read.
    """
    try:
        with vector_warnings_once(path, muted=muted):
            _, fids, wkb, columns = pyogrio.raw.read(
                path,
                layer=layer,
                columns=[] if attribute is None else [attribute],
                bbox=(box[0] - turn, box[1], box[2] - turn, box[3]),
                force_2d=True,
                return_fids=True,
            )
        geometries = shapely.from_wkb(wkb)
    except (DataSourceError, DataLayerError, shapely.errors.ShapelyError, ValueError) as error:
        raise InputError(f"cannot be read ({error})", where=path, fix="repair the file") from error
    if turn:
        geometries = shapely.transform(geometries, lambda xy: xy + np.array([turn, 0.0]))
    values = np.full(len(fids), None, dtype=object) if attribute is None else columns[0]
    return Features(geometries, fids, values)


def attribute_values(source: str | Path) -> dict[str, list[object]]:
    """Return the attributes of a vector file, with the value of each feature.

    Args:
        source: As for `chosen_layer`.

    Raises:
        InputError: Not a readable vector file.
    """
    path, layer = chosen_layer(source)
    try:
        with vector_warnings_once(path):
            meta, _, _, columns = pyogrio.raw.read(path, layer=layer, read_geometry=False)
    except (DataSourceError, DataLayerError, ValueError) as error:
        raise InputError(f"cannot be read ({error})", where=path, fix="repair the file") from error
    return {
        str(name): [plain_value(value, path) for value in column]
        for name, column in zip(meta["fields"], columns, strict=True)
    }


@contextmanager
def undated_vector_files() -> Iterator[None]:
    """Keep the time of writing out of vector files, and warnings of no CRS off the screen."""
    before = {key: pyogrio.get_gdal_config_option(key) for key in _FIXED_DATE}
    pyogrio.set_gdal_config_options(_FIXED_DATE)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="'crs' was not provided")
            yield
    finally:
        pyogrio.set_gdal_config_options(before)


def chosen_layer(source: str | Path) -> tuple[str, str]:
    """Return a vector file and the name of the layer that is to be read.

    Args:
        source: A file with one layer of shapes, or with ``|layername=NAME`` after it.

    Raises:
        InputError: Not a readable vector file, no such layer, or several and none is chosen.
    """
    path, layer_name = named_layer(source)
    require_vector_path(path)
    if is_local(str(path)) and not Path(path).exists():
        raise MissingInputError("no such file", where=path, fix="check the path")
    if is_local(str(path)):
        require_regular(Path(path), folders=True)
    try:
        with vector_warnings_once(path, muted=True):
            layers = pyogrio.list_layers(path)
    except DataSourceError as error:
        raise InputError(
            "is not a vector file that GDAL can read", where=path, fix="check that it opens in QGIS"
        ) from error
    spatial = [str(name) for name, geometry in layers if geometry is not None]
    if layer_name is not None and layer_name not in spatial:
        raise InputError(
            f"has no layer of shapes named {layer_name!r}",
            where=path,
            fix=f"choose from {', '.join(spatial) or 'none: it holds no shapes'}",
        )
    if layer_name is None and len(spatial) != 1:
        raise InputError(
            f"holds {len(spatial)} layers of shapes ({', '.join(spatial)})"
            if spatial
            else "holds no shapes",
            where=path,
            fix=f"choose one: '{path}|layername={spatial[0]}'"
            if spatial
            else "give a file with a layer of polygons",
        )
    return path, layer_name or spatial[0]


def plain_value(value: object, path: str | Path) -> object:
    """Return a number without needless decimals: whole numbers beside nulls come as floats.

    Texts of shapefiles that don't say their encoding are read as Latin-1, also those in UTF-8.
    """
    if isinstance(value, float | np.floating):
        if np.isnan(value):
            return None  # a null among them
        return int(value) if float(value).is_integer() else float(value)
    if isinstance(value, str) and not value.isascii() and Path(path).suffix.lower() == ".shp":
        with suppress(UnicodeError):
            return value.encode("latin-1").decode("utf-8")
    return value
