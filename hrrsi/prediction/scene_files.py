"""Which scenes inputs name."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from hrrsi.errors import InputError
from hrrsi.maps.class_raster import is_product
from hrrsi.scenes.height_files import RASTER_SUFFIXES
from hrrsi.scenes.raster_opening import is_local


def scene_files(inputs: Sequence[str | Path]) -> list[str]:
    """Return the rasters that inputs name, each once, in the order given.

    Args:
        inputs: Files, folders (every raster in them but what hrrsi wrote, by name),
            patterns such as ``scenes/*.tif`` (likewise), or whatever GDAL opens
            (``/vsizip/...``).

    Raises:
        InputError: A pattern matches nothing, or a folder holds no raster.
    """
    rasters: dict[str, None] = {}
    for name in inputs:
        rasters.update(dict.fromkeys(_expanded(str(name))))
    return list(rasters)


def _expanded(name: str) -> list[str]:
    path = Path(name)
    if not is_local(name) or path.is_file():
        return [name]
    if path.is_dir():
        rasters = sorted(
            str(p)
            for p in path.iterdir()
            if p.suffix.lower() in RASTER_SUFFIXES and p.is_file() and not p.name.startswith(".")
        )
        scenes = [raster for raster in rasters if not _is_product(raster)]
        if not scenes:
            raise InputError("holds no rasters", where=name, fix="name a folder of scenes")
        return scenes
    if glob.has_magic(name):
        matches = sorted(m for m in glob.glob(name, recursive=True) if Path(m).is_file())
        scenes = [match for match in matches if not _is_product(match)]
        if not scenes:
            what = "matches class maps only" if matches else "matches no file"
            raise InputError(what, where=name, fix="check the pattern")
        return scenes
    return [name]


def _is_product(name: str) -> bool:
    try:
        return is_product(name)
    except InputError:
        return False  # a damaged file: whoever opens it as a scene says so
