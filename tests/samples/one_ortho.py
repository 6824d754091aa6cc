"""One orthophoto with one file of labels: the commonest that users have."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from samples.raw_layouts import class_map, textured, utm, write_raster
from typer.testing import CliRunner, Result

from hrrsi.cli import app

NAMES = ("grass", "road", "water")


def write_ortho(folder: Path, height: int = 400, width: int = 500, **place: Any) -> Path:
    place = place or utm()
    return write_raster(folder / "ortho.tif", textured(1, (3, height, width)), **place)


def write_polygons(
    path: Path, squares: Sequence[tuple[int, int, int]], attributes: dict[str, list[Any]]
) -> Path:
    """Write squares: first row, first column, side, in the pixels of `utm()`."""
    place = utm()["transform"]
    corners = [(place @ (c, r), place @ (c + side, r + side)) for r, c, side in squares]
    shapes = [shapely.box(left, bottom, right, top) for (left, top), (right, bottom) in corners]
    columns = [
        np.array(values, dtype=object if isinstance(values[0], str | None) else None)
        for values in attributes.values()
    ]
    pyogrio.raw.write(
        path,
        shapely.to_wkb(np.array(shapes)),
        columns,
        list(attributes),
        layer=path.stem,
        geometry_type="Polygon",
        crs="EPSG:32632",
    )
    return path


def write_areas(folder: Path, height: int = 400, width: int = 500, side: int = 20) -> np.ndarray:
    """Write squares of three classes all over as areas.gpkg; return the class of each pixel."""
    labels = class_map(7, height, width, 3, block=side)
    squares = [(r, c, side) for r in range(0, height, side) for c in range(0, width, side)]
    names = [NAMES[labels[r, c]] for r, c, _ in squares]
    write_polygons(folder / "areas.gpkg", squares, {"class": names})
    return labels


def tile(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["tile", *map(str, arguments), "--workers", "1"])


def error_of(*arguments: object) -> str:
    result = tile(*arguments)
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()
    return str(line)
