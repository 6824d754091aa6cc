"""What a file or folder is: imagery, maps, polygons, weights, datasets and runs, in a few lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hrrsi.errors import HrrsiError, InputError
from hrrsi.file_info.geodata import (
    VECTOR_SUFFIXES,
    FileInfo,
    is_vector_file,
    raster_info,
    vector_info,
)
from hrrsi.file_info.networks import (
    dataset_info,
    weights_info,
)
from hrrsi.file_info.runs import compared_runs, is_run, run_info, run_table
from hrrsi.files import named_layer
from hrrsi.networks.weights_file import WEIGHTS_SUFFIXES, is_packaged_name, weights_path
from hrrsi.quantities import counted, counted_names, length_text
from hrrsi.scenes.georeference import ground_resolution
from hrrsi.scenes.raster_opening import NOT_A_RASTER, RASTER_SUFFIXES, is_local, open_raster
from hrrsi.scenes.scene_rasters import TAG
from hrrsi.tiling.dataset import DESCRIPTION

__all__ = ["FileInfo", "info"]

_DEEPEST = 3  # folders below the one that is asked for
_MOST_OPENED, _MOST_OF_FOLDER = 1000, 100  # rasters; the rest is counted
_LOOKED_INTO = 4  # rasters of a folder that are alike, by which it is told for all of them
_MOST_NAMES = 4  # files that are named one by one
_LOOKED_AT = 48  # rows and columns of the look that tells labels from scenes
_MOST_COLOURS = 32  # of labels in that look
# what belongs to files of other names
_SIDECARS = frozenset(
    {".qml", ".xml", ".prj", ".cpg", ".dbf", ".shx", ".qix", ".tfw", ".jgw", ".pgw", ".wld"}
    | {".ovr", ".msk", ".qpj", ".sbn", ".sbx"}
)
_KINDS = {
    "scenes": "raster",
    "labels": "raster",
    "maps": "map",
    "datasets": "tiled dataset",
    "runs": "run",
    "weights": "weights file",
    "vector files": "vector file",
    "unreadable": "raster",
    "other files": "file",
}


def info(path: str | Path) -> FileInfo:
    """Return what a file or folder is.

    Args:
        path: Weights (``.safetensors``, ``.pth``, ``.onnx``, ``.xml``, or a name of the
            package's, ``default`` or ``light``), those of an encoder (`hrrsi pretrain`), a tiled
            dataset (its folder or its ``dataset.yaml``), the folder of a run, any other folder,
            a vector file (or a layer, ``areas.gpkg|layername=parcels``), or whatever GDAL opens.

    Raises:
        InputError: It is none of these, or damaged.
        DependencyError: It holds a network that only PyTorch runs, and that is not installed.
    """
    local = Path(path)
    if is_packaged_name(path):
        return weights_info(weights_path(path))
    if local.name == DESCRIPTION and is_local(str(path)):
        return dataset_info(local.parent)
    if is_local(str(path)) and local.is_dir() and local.suffix.lower() not in VECTOR_SUFFIXES:
        if (local / DESCRIPTION).is_file():
            return dataset_info(local)
        return run_info(local) if is_run(local) else _folder_info(local)
    if is_local(str(path)) and _may_be_weights(local):
        return weights_info(local)
    file, layer = named_layer(path)
    if layer is not None:
        return vector_info(str(path))
    try:
        return raster_info(file)
    except InputError as error:
        if is_vector_file(file):
            return vector_info(file)
        if error.what == NOT_A_RASTER:
            raise InputError(
                f"{NOT_A_RASTER}, nor a vector file or weights", where=file, fix=error.fix
            ) from error
        raise


def _may_be_weights(path: Path) -> bool:
    """Return whether a file is named as weights are; one of XML may describe a raster to GDAL."""
    if path.suffix.lower() != ".xml" or path.with_suffix(".bin").exists() or not path.is_file():
        return path.suffix.lower() in WEIGHTS_SUFFIXES
    with path.open("rb") as file:
        return b"<net" in file.read(1000)


def _folder_info(folder: Path) -> FileInfo:
    """Return what a folder holds, of each kind how many and where.

    Raises:
        InputError: It holds nothing.
    """
    paths_by_kind: dict[str, list[Path]] = {kind: [] for kind in _KINDS}
    rasters = []
    for path in _contents(folder, _DEEPEST):
        suffix = path.suffix.lower()
        if path.is_dir() and suffix not in VECTOR_SUFFIXES:
            paths_by_kind["runs" if is_run(path) else "datasets"].append(path)
        elif suffix in RASTER_SUFFIXES:
            rasters.append(path)
        elif suffix in VECTOR_SUFFIXES:
            paths_by_kind["vector files"].append(path)
        else:
            paths_by_kind["weights" if suffix in WEIGHTS_SUFFIXES else "other files"].append(path)
    opened = list(_first_of_each(rasters))[:_MOST_OPENED]
    looks = _looks(opened)
    usual: dict[tuple[Path, str], Counter[str]] = {}
    for path, look in looks.items():
        usual.setdefault((path.parent, path.suffix), Counter())[look.kind] += 1
    for path in rasters:
        of_folder = usual.get((path.parent, path.suffix), Counter(["scenes"]))
        kind = looks[path].kind if path in looks else of_folder.most_common(1)[0][0]
        paths_by_kind[kind].append(path)
    if not any(paths_by_kind.values()):
        raise InputError(
            "holds no files, nor do its folders",
            where=folder,
            fix="name a folder of scenes, a tiled dataset, a run, or a file",
        )
    lines = []
    for kind, paths in paths_by_kind.items():
        if paths:
            text = _counted_places(folder, paths, _KINDS[kind])
            if kind == "scenes":
                text += f"; {_alike([looks[path] for path in paths if path in looks])}"
            elif kind in ("datasets", "runs"):
                text = counted_names([f"{_place(folder, p)} ({_state(p)})" for p in paths], 6)
            lines.append((kind, text))
    not_opened = len(rasters) - len(opened)
    if not_opened:
        text = f"{counted(not_opened, 'raster')}, which count as others of their folder do"
        lines.append(("not opened", text))
    data: dict[str, Any] = {
        kind: [_place(folder, path) for path in paths] for kind, paths in paths_by_kind.items()
    }
    runs = paths_by_kind["runs"]
    compared = compared_runs(folder, runs) if len(runs) > 1 else []
    data |= {"not_opened": not_opened, "compared_runs": [run._asdict() for run in compared]}
    if any("data" in run.settings for run in compared):
        text = "runs on other data are validated on other patches"
        lines.append(("note", f"{text}: compare their weights on the same data"))
    return FileInfo("folder", lines, data, run_table(compared) if len(compared) > 1 else ())


def _contents(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the files of a folder and of those in it; tiled datasets and runs as they are."""
    try:
        entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=folder) from error
    for path in entries:
        if not path.is_dir():
            if path.suffix.lower() not in _SIDECARS:
                yield path
        elif (path / DESCRIPTION).is_file() or is_run(path) or path.suffix.lower() == ".gdb":
            yield path
        elif depth and not path.is_symlink():
            with suppress(InputError):  # one that others own
                yield from _contents(path, depth - 1)


def _first_of_each(rasters: Sequence[Path]) -> Iterator[Path]:
    """Yield so many rasters of each folder as are opened."""
    number: Counter[Path] = Counter()
    for path in rasters:
        number[path.parent] += 1
        if number[path.parent] <= _MOST_OF_FOLDER:
            yield path


class _Look(NamedTuple):
    """What a raster seems to be."""

    kind: str
    bands: int
    dtype: str
    crs: str
    resolution: float | None


def _looks(rasters: Sequence[Path]) -> dict[Path, _Look]:
    """Return what rasters seem to be: those of a folder with like bands are of one kind."""
    looks: dict[Path, _Look] = {}
    looks_alike: dict[tuple[Path, str, int, str], list[bool]] = {}
    for path in rasters:
        try:
            with open_raster(path) as dataset:
                is_ours = [tag for tag in dataset.tags() if tag.startswith(TAG)]
                bands, dtype = dataset.count, dataset.dtypes[0]
                resolution = ground_resolution(dataset)
                crs = "no CRS" if dataset.crs is None else str(dataset.crs)
                alike = looks_alike.setdefault((path.parent, path.suffix, bands, dtype), [])
                if not is_ours and len(alike) < _LOOKED_INTO:
                    alike.append(_seems_labels(dataset))
                is_label = bool(alike) and 2 * sum(alike) > len(alike)
        except HrrsiError:
            looks[path] = _Look("unreadable", 0, "", "", None)
            continue
        kind = "maps" if is_ours else "labels" if is_label else "scenes"
        looks[path] = _Look(kind, bands, dtype, crs if len(crs) < 30 else "own CRS", resolution)
    return looks


def _seems_labels(dataset: Any) -> bool:
    """Return whether a raster holds few colours, as labels do."""
    if dataset.dtypes[0] not in ("uint8", "int16", "uint16", "int32"):
        return False
    shape = (min(_LOOKED_AT, dataset.height), min(_LOOKED_AT, dataset.width))
    pixels = dataset.read(out_shape=(dataset.count, *shape)).reshape(dataset.count, -1)
    return 2 <= len(np.unique(pixels, axis=1).T) <= _MOST_COLOURS


def _alike(looks: Sequence[_Look]) -> str:
    """Return what scenes have in common, and how they differ."""
    kinds = Counter((look.bands, look.dtype) for look in looks)
    texts = [f"{counted(bands, 'band')} of {dtype}" for (bands, dtype), _ in kinds.most_common(3)]
    crs = [name for name, _ in Counter(look.crs for look in looks).most_common(4)]
    lengths = sorted({look.resolution for look in looks if look.resolution is not None})
    ends = list(dict.fromkeys(length_text(length) for length in (*lengths[:1], *lengths[-1:])))
    pixel = [f"{' to '.join(ends)} a pixel"] if ends else []
    return ", ".join([" or ".join(texts), " or ".join(crs), *pixel])


def _state(path: Path) -> str:
    """Return how far a run has come, or how many patches a tiled dataset holds."""
    try:
        if is_run(path):
            return dict(run_info(path).lines)["done"]
        splits = dataset_info(path).data["splits"].items()
    except HrrsiError:
        return "damaged"
    return ", ".join(f"{name} {content['patches']:,}" for name, content in splits)


def _counted_places(folder: Path, paths: Sequence[Path], noun: str) -> str:
    """Return a few files by name, more by their number in each folder."""
    if len(paths) <= _MOST_NAMES:
        return ", ".join(_place(folder, path) for path in paths)
    where = Counter(_place(folder, path.parent) for path in paths)
    if list(where) == ["."]:
        return counted(len(paths), noun)
    places = [f"{number:,} in {'it' if place == '.' else place}" for place, number in where.items()]
    return f"{counted(len(paths), noun)}: {counted_names(places, 6)}"


def _place(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()
