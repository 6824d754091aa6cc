"""Which scenes inputs name, and where the maps of scenes go."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from hrrsi.errors import InputError, OutputError
from hrrsi.maps.class_raster import is_product
from hrrsi.scenes.height_files import RASTER_SUFFIXES
from hrrsi.scenes.raster_opening import is_local

_MAP_SUFFIX = "_classes.tif"


def scene_files(inputs: Sequence[str | Path]) -> list[str]:
    """Return the rasters that inputs name, each once, in the order given.

    Args:
        inputs: Files, folders (every raster in them but what hrrsi wrote, by name),
            patterns such as ``scenes/*.tif`` (likewise), or whatever GDAL opens
            (``/vsizip/...``).

    Raises:
        InputError: A pattern matches nothing, or a folder holds no raster.
    """
    found: dict[str, None] = {}
    for given in inputs:
        found.update(dict.fromkeys(_expanded(str(given))))
    return list(found)


def _expanded(given: str) -> list[str]:
    path = Path(given)
    if not is_local(given) or path.is_file():
        return [given]
    if path.is_dir():
        rasters = sorted(
            str(p)
            for p in path.iterdir()
            if p.suffix.lower() in RASTER_SUFFIXES and p.is_file() and not p.name.startswith(".")
        )
        scenes = [name for name in rasters if not _is_product(name)]
        if not scenes:
            raise InputError("holds no rasters", where=given, fix="name a folder of scenes")
        return scenes
    if glob.has_magic(given):
        matches = sorted(m for m in glob.glob(given, recursive=True) if Path(m).is_file())
        scenes = [name for name in matches if not _is_product(name)]
        if not scenes:
            what = "matches class maps only" if matches else "matches no file"
            raise InputError(what, where=given, fix="check the pattern")
        return scenes
    return [given]


def _is_product(name: str) -> bool:
    try:
        return is_product(name)
    except InputError:
        return False  # a damaged file: whoever opens it as a scene says so


def map_paths(scenes: Sequence[str], out: str | Path | None) -> list[Path]:
    """Return where the map of each scene goes.

    Maps are named ``SCENE_classes.tif``. Where scenes of different folders have the same name,
    the names of their folders come before it, as many as tell them apart.

    Args:
        scenes: From `scene_files`.
        out: A ``.tif`` file for one scene, or a folder; by default the current folder.

    Raises:
        OutputError: `out` is one file for several scenes or not a GeoTIFF, two maps would get the
            same name, or a map would replace one of the scenes.
    """
    text = "" if out is None else str(out)
    folder = Path(text)
    is_folder = folder.is_dir() or text.endswith("/") or not folder.suffix
    if is_folder:
        paths = [folder / name for name in _map_names(scenes)]
    elif folder.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(
            "a class map is a GeoTIFF", where=text, fix="let its name end in .tif, or name a folder"
        )
    elif len(scenes) > 1:
        raise OutputError(
            f"is one file for {len(scenes)} scenes", where=text, fix="let `out` be a folder"
        )
    else:
        paths = [folder]
    inputs = {Path(s).resolve(): s for s in scenes if is_local(s)}
    for path in paths:
        if path.resolve() in inputs:
            raise OutputError(
                "is one of the scenes, and a map would replace it",
                where=path,
                fix="leave out maps that were made before, or choose another `out`",
            )
    return paths


def _map_names(scenes: Sequence[str]) -> list[str]:
    names = [PurePosixPath(s).stem for s in scenes]
    parents = [PurePosixPath(_absolute(s)).parent.parts[1:] for s in scenes]
    for depth in range(1, 1 + max(len(p) for p in parents)):
        twice = {name for name, count in Counter(names).items() if count > 1}
        names = [
            "_".join((*folders[-depth:], PurePosixPath(scene).stem)) if name in twice else name
            for scene, folders, name in zip(scenes, parents, names, strict=True)
        ]
    for name, count in Counter(names).items():
        if count > 1:
            first, second = [s for s, n in zip(scenes, names, strict=True) if n == name][:2]
            raise OutputError(
                f"and {second} would both be mapped to {name}{_MAP_SUFFIX}",
                where=first,
                fix="map them in two calls with different `out`",
            )
    return [name + _MAP_SUFFIX for name in names]


def _absolute(scene: str) -> str:
    return str(Path(scene).resolve()) if is_local(scene) else scene
