"""Which rasters of a folder are scenes: not what hrrsi wrote, and no pixel twice."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from hrrsi.errors import InputError
from hrrsi.quantities import counted
from hrrsi.scenes.raster_opening import open_raster, opened_raster

TAG = "HRRSI_"  # what the tags of rasters that hrrsi writes begin with


class DistinctRasters(NamedTuple):
    """Rasters that show no place twice.

    Attributes:
        rasters: Those that are left.
        notes: What was left out and why, a line for each mosaic.
    """

    rasters: list[str]
    notes: list[str]


def is_product(path: str | Path) -> bool:
    """Return whether a raster is one of ours: a class map, its confidences, its probabilities.

    Raises:
        InputError: Not a readable raster.
    """
    with open_raster(path) as dataset:
        return any(key.startswith(TAG) for key in dataset.tags())


def may_be_scene(path: str) -> bool:
    """Return whether a raster is none that hrrsi wrote; of a damaged one, who opens it tells."""
    try:
        return not is_product(path)
    except InputError:
        return True


def distinct_rasters(rasters: Sequence[str], *, tiles: bool = False) -> DistinctRasters:
    """Return rasters without those that a mosaic (VRT) among them shows whole.

    Args:
        rasters: The rasters.
        tiles: Whether the mosaics are left out instead.
    """
    by_path = {Path(raster).resolve(): raster for raster in rasters}
    shown: set[str] = set()
    notes = []
    for raster in rasters:
        if not raster.lower().endswith(".vrt"):
            continue
        whole: set[str] = set()
        with suppress(InputError), opened_raster(raster) as mosaic:  # or who maps it says so
            files = {Path(file).resolve() for file in mosaic.files} - {Path(raster).resolve()}
            beside = [by_path[file] for file in files & by_path.keys()]
            whole = {tile for tile in beside if _is_within(tile, mosaic)}
        if whole - shown:
            shown |= {raster} if tiles else whole
            verb = "is" if len(whole) == 1 else "are"
            treatment = (
                "taken in its place" if tiles else "left out; name files one by one to have all"
            )
            notes.append(
                f"{raster}: shows {counted(len(whole), 'raster')} beside it, which {verb} "
                f"{treatment}"
            )
    return DistinctRasters([raster for raster in rasters if raster not in shown], notes)


def _is_within(path: str, mosaic: Any) -> bool:
    """Return whether all of a raster lies on a mosaic, to a pixel."""
    with opened_raster(path) as tile:
        pixel = max(map(abs, mosaic.res))
        inner, outer = tile.bounds, mosaic.bounds
        return tile.crs == mosaic.crs and bool(
            inner.left >= outer.left - pixel
            and inner.right <= outer.right + pixel
            and inner.bottom >= outer.bottom - pixel
            and inner.top <= outer.top + pixel
        )
