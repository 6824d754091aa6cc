"""Which files mapping a scene writes, and where."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from hrrsi.errors import OutputError
from hrrsi.files import refuse_existing
from hrrsi.maps.partial_map import partial_map_folder
from hrrsi.maps.styles import files_beside
from hrrsi.scenes.raster_opening import (
    NOT_IN_VECTOR_PATHS,
    is_local,
    require_vector_path,
    subdataset_parts,
)
from hrrsi.scenes.windows import Window

VECTOR_SUFFIXES = (".gpkg", ".geojson", ".fgb", ".shp")
SHAPEFILE_TEXT_BYTES = 254  # of a value
_SHAPEFILE_PARTS = (".shx", ".dbf", ".prj", ".cpg")  # beside the .shp
_MAP_ENDING = "_classes"
_MEANWHILE = 40  # bytes that are added to a name until the file is whole
_MAP_SUFFIX = f"{_MAP_ENDING}.tif"


@dataclass(frozen=True)
class Outputs:
    """The files of one scene.

    Attributes:
        classes: The class map.
        confidence: The raster of confidences, or None.
        probabilities: The raster of class probabilities, or None.
        vector: The polygons, or None.
        zones: The table of zones, or None.
        zone_polygons: The zones with what is in them, a GeoPackage, or None.
        preview: The picture, or None.
        tiles: Where a mosaic gets a map for each of its tiles, these; none of the files above is
            written then, and the unfinished map lies beside `classes`.
    """

    classes: Path
    confidence: Path | None = None
    probabilities: Path | None = None
    vector: Path | None = None
    zones: Path | None = None
    zone_polygons: Path | None = None
    preview: Path | None = None
    tiles: tuple[TileOutputs, ...] = ()

    @property
    def maps(self) -> list[Outputs]:
        """The files of each map: itself, or those of the tiles."""
        return [tile.outputs for tile in self.tiles] or [self]

    @property
    def files(self) -> list[Path]:
        """The files that were asked for, each class map first."""
        if self.tiles:
            return [path for outputs in self.maps for path in outputs.files]
        paths = (
            self.classes,
            self.confidence,
            self.probabilities,
            self.vector,
            self.zones,
            self.zone_polygons,
            self.preview,
        )
        return [path for path in paths if path is not None]

    @property
    def sidecars(self) -> list[Path]:
        """What GDAL and QGIS find beside them."""
        if self.tiles:
            return [path for outputs in self.maps for path in outputs.sidecars]
        paths = [
            self.classes.with_suffix(".qml"),
            self.classes.with_name(self.classes.name + ".aux.xml"),
        ]
        if self.vector is not None and self.vector.suffix.lower() != ".gpkg":
            paths += [*vector_parts(self.vector)[1:], self.vector.with_suffix(".qml")]
        return list(dict.fromkeys(paths))


@dataclass(frozen=True)
class TileOutputs:
    """The map of a tile of a mosaic.

    Attributes:
        raster: The tile, as GDAL opens it.
        window: Where it lies on the mosaic.
        outputs: Its files.
    """

    raster: str
    window: Window
    outputs: Outputs


def vector_parts(path: Path) -> list[Path]:
    """Return the files that make up a vector file, itself first: a shapefile has several."""
    more = _SHAPEFILE_PARTS if path.suffix.lower() == ".shp" else ()
    return [path, *map(path.with_suffix, more)]


def map_paths(scenes: Sequence[str], out: str | Path | None) -> list[Path]:
    """Return where the map of each scene goes.

    Maps are named ``SCENE_classes.tif``. Where scenes of different folders have the same name,
    the names of their folders come before it, as many as tell them apart.

    Args:
        scenes: The rasters.
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
    stems = [_stem(s) for s in scenes]
    names = [NOT_IN_VECTOR_PATHS.sub("_", stem) for stem in stems]
    parents = [PurePosixPath(_absolute(s)).parent.parts[1:] for s in scenes]
    for depth in range(1, 1 + max(len(p) for p in parents)):
        twice = {name for name, count in Counter(names).items() if count > 1}
        names = [
            NOT_IN_VECTOR_PATHS.sub("_", "_".join((*folders[-depth:], stem)))
            if name in twice
            else name
            for stem, folders, name in zip(stems, parents, names, strict=True)
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


def _stem(scene: str) -> str:
    """Return the name that a scene's maps begin with: of a part of a file, that of both."""
    file, *part = subdataset_parts(scene) or (scene,)
    return "_".join((PurePosixPath(file).stem, *(p.strip("/").replace("/", "_") for p in part)))


def _absolute(scene: str) -> str:
    file = (subdataset_parts(scene) or (scene,))[0]
    return str(Path(file).resolve()) if is_local(file) else file


def scene_outputs(
    maps: Sequence[Path],
    *,
    confidence: bool = False,
    probabilities: bool = False,
    vector: str | Path | None = None,
    zones: bool = False,
    preview: str | Path | None = None,
) -> list[Outputs]:
    """Return the files of each scene.

    What has no name of its own is named after the map: ``SCENE_confidence.tif``,
    ``SCENE_probabilities.tif``, ``SCENE_classes.gpkg``, ``SCENE_zones.csv`` and
    ``SCENE_zones.gpkg`` beside ``SCENE_classes.tif``.

    Args:
        maps: The class map of each scene.
        confidence: Whether to write confidences.
        probabilities: Whether to write class probabilities.
        vector: A file of polygons for one scene; or ``gpkg``, ``geojson``, ``fgb`` or ``shp`` for
            one beside each map.
        zones: Whether to write a table of zones, and the zones themselves.
        preview: A PNG or PDF for one scene; or ``png`` or ``pdf`` for one beside each map.

    Raises:
        OutputError: One file for several scenes, or one of an unknown kind, or two outputs with
            the same name.
    """
    outputs = []
    for path in maps:
        stem = path.stem.removesuffix(_MAP_ENDING)

        def beside(ending: str, path: Path = path, stem: str = stem) -> Path:
            return path.with_name(f"{stem}_{ending}")

        outputs.append(
            Outputs(
                path,
                beside("confidence.tif") if confidence else None,
                beside("probabilities.tif") if probabilities else None,
                _file_beside(vector, path, VECTOR_SUFFIXES, len(maps)),
                beside("zones.csv") if zones else None,
                beside("zones.gpkg") if zones else None,
                _file_beside(preview, path, (".png", ".pdf"), len(maps)),
            )
        )
    for files in outputs:
        names = files.files + files.sidecars
        duplicate = next((name for name in names if names.count(name) > 1), None)
        if duplicate is not None:
            raise OutputError(
                "would be written twice by one scene", where=duplicate, fix="choose another name"
            )
    return outputs


def check_outputs(
    outputs: Sequence[Outputs], inputs: Sequence[Path], *, overwrite: bool, resume: bool
) -> None:
    """Raise before any work where an output can't be written.

    Args:
        outputs: The files of each scene.
        inputs: Files that are read, which no output may replace.
        overwrite: Whether files may be replaced.
        resume: Whether files of a run that was stopped, or is finished, may be there already.

    Raises:
        OutputError: An output exists, or is a folder or an input.
        InputError: A path that a vector file can't have.
    """
    input_paths = {path.resolve() for path in inputs}
    for output in (path for files in outputs for path in (*files.files, *files.sidecars)):
        _check_length(output)
        if output.is_dir():
            raise OutputError("is a folder", where=output, fix="name a file")
        if output.resolve() in input_paths:
            raise OutputError(
                "is read, and would be replaced", where=output, fix="choose another output"
            )
    for whole in outputs:
        has_partial = partial_map_folder(whole.classes).exists()
        for files in whole.maps:
            if files.vector is not None:
                require_vector_path(files.vector)
            # what a run that was stopped has left is its own; a finished map says whose it is
            is_begun = resume and (has_partial or files.classes.exists())
            own = _files_of_runs(files) if is_begun else []
            for output in (*files.files, *files.sidecars):
                if output not in own:
                    refuse_existing(output, overwrite=overwrite)


def _files_of_runs(files: Outputs) -> list[Path]:
    """Return those files of a map that runs can have left: others may be a user's own.

    These are its rasters, and what is made of them as far as its sidecar names it.
    """
    rasters = (files.classes, files.confidence, files.probabilities)
    recorded = set(files_beside(files.classes))
    own = [path for path in files.files if path in rasters or path.name in recorded]
    sidecars = replace(files, vector=files.vector if files.vector in own else None).sidecars
    return [*own, *sidecars]


def _check_length(path: Path) -> None:
    """Raise where a file's name, or the longer one that it has meanwhile, is too long."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        longest = os.pathconf(folder, "PC_NAME_MAX") - _MEANWHILE
    except (OSError, ValueError, AttributeError):
        return
    length = len(os.fsencode(path.name))
    if length > longest:
        raise OutputError(
            f"has a name of {length} bytes, where {longest} are possible",
            where=path,
            fix="choose a shorter name with `out`",
        )


def _file_beside(
    value: str | Path | None, path: Path, suffixes: Sequence[str], scenes: int
) -> Path | None:
    """Return the file that a value names: by its name, or by its kind alone beside a map."""
    if value is None:
        return None
    if f".{value}".lower() in suffixes:
        return path.with_suffix(f".{value}".lower())
    file = Path(value)
    if file.suffix.lower() not in suffixes:
        raise OutputError(
            f"is none of {', '.join(suffixes)}",
            where=file,
            fix="choose one by the ending of the name",
        )
    if scenes > 1:
        kind = file.suffix[1:]
        raise OutputError(
            f"is one file for {scenes} scenes",
            where=file,
            fix=f"give {kind} alone: each map gets one beside it",
        )
    return file
