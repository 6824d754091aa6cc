"""What client and workers of a run share: what it is, its tasks, and strips that are finished.

Strips are files that all reach, named by their rows. They lie in the map's hidden folder, on a
shared disk or in object storage, until the map is whole. A file appears whole or not at all, and
says in its name which run's strips it belongs to: one that a worker writes late, for a run that was
stopped, is nobody else's.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import uuid
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from hrrsi.cluster.connection import DiskFolder, Folder, ObjectFolder, folder_of
from hrrsi.errors import ClusterError, HrrsiError, InputError
from hrrsi.graphs.graph import Floats
from hrrsi.maps.outputs import Outputs
from hrrsi.maps.partial_map import (
    STRIPS_FOLDER,
    partial_map_folder,
    refuse_differences,
    remove_strips,
)
from hrrsi.networks.architecture import LogitGrid, parsed_model
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.prediction.blending import Strip
from hrrsi.prediction.map_writer import AREA, SCENE_FILES, MapRecord, scene_file_states
from hrrsi.prediction.mapped_scene import MappedScene
from hrrsi.prediction.options import EngineOptions, MapOptions, OutputOptions
from hrrsi.prediction.scene_mapper import SceneFacts
from hrrsi.quantities import counted
from hrrsi.scenes.raster_opening import file_states, is_local, subdataset_parts
from hrrsi.scenes.window_source import SceneWindows

# what labels depend on beside the code; an engine's own is named by `EngineFacts.name`
_PACKAGES = ("hrrsi", "numpy", "rasterio", "openvino", "onnxruntime", "torch")
SceneState = list[tuple[str | int, ...]]
_RECORD = "map.json"  # what the map depends on
_NAME = re.compile(r"rows-(\d+)-(\d+)-([0-9a-f]+)\.npz")
_AGAIN = "check the disk, then go on with `resume`"
_LEVEL = 1  # of deflate: labels take a thirtieth of their bytes, at over 100 MB/s


@dataclass(frozen=True)
class Run:
    """What all tasks of a run share.

    Attributes:
        id: Its name.
        places: Folders that all reach, one beside the outputs of each folder, for what the run
            needs once; in the first lie the weights.
        weights: Names of the weights' files in it, the one that is opened first, and their
            SHA-256.
        options: How scenes are mapped; paths are absolute.
        outputs: What is written, likewise.
        engine: What runs the network.
        versions: The packages that the client runs with.
        polygons: Name, size and time of change of the files of areas and zones, as
            `polygon_state` returns them.
    """

    id: str
    places: tuple[str, ...]
    weights: tuple[tuple[str, str], ...]
    options: MapOptions
    outputs: OutputOptions
    engine: EngineOptions
    versions: tuple[tuple[str, str], ...]
    polygons: tuple[tuple[str | int, ...], ...] = ((), ())


def new_run_id() -> str:
    """Return a name for a run."""
    return uuid.uuid4().hex[:8]


@dataclass(frozen=True)
class WorkerFacts:
    """What a worker says of itself.

    Attributes:
        name: ``HOST (ADDRESS)``, for messages.
        engine: The engine that runs there: name, precision and device.
        processor: The processor's name.
        threads: Threads that the engine computes with.
        seconds: Wall time of a window, or None where it was not measured.
    """

    name: str
    engine: tuple[str, str, str]
    processor: str
    threads: int
    seconds: float | None


@dataclass
class EngineOfWorkers:
    """What workers compute with, for who does not compute. See `Engine`."""

    name: str
    precision: str
    device: str
    meta: ModelMeta
    side_by_side: int = 1

    def __post_init__(self) -> None:
        # of networks that only PyTorch runs, and of exported ones, workers tell where logits lie
        has_own_size = self.meta.window is not None or not parsed_model(self.meta.model).has_graph
        alignment = self.meta.logit_alignment
        self.logit_grid = LogitGrid(1) if has_own_size else LogitGrid(alignment=alignment)

    def prepare(self, height: int, width: int) -> None:
        """Do nothing: workers do."""

    def logits(
        self, windows: Any, gain: Floats, offset: Floats
    ) -> Generator[Floats | None, None, None]:
        """Raise, since workers compute."""
        raise NotImplementedError


@lru_cache(maxsize=1)
def own_versions() -> tuple[tuple[str, str], ...]:
    """Return the packages that labels depend on, with a digest of hrrsi's own code."""
    versions = {}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    import rasterio  # not at the top: its name there is that of many things

    versions["GDAL"] = rasterio.__gdal_version__
    code = hashlib.sha256()
    package = Path(__file__).parents[1]
    for file in sorted(package.rglob("*.py")):
        code.update(str(file.relative_to(package)).encode() + file.read_bytes())
    versions["hrrsi"] = f"{versions.get('hrrsi', '?')} (code {code.hexdigest()[:8]})"
    return tuple(versions.items())


def scene_state(source: SceneWindows) -> SceneState:
    """Return names, sizes and times of change of a scene's files.

    Folders may be mounted elsewhere on another machine, so that paths differ.
    """
    area = None if source.area is None else source.area.digest
    return states_of({**scene_file_states(source.scene), AREA: area})


def polygon_state(options: MapOptions, outputs: OutputOptions) -> SceneState:
    """Return name, size and time of change of the files of areas and zones, () for none here."""
    files = (str(path or "").partition("|")[0] for path in (options.aoi, outputs.zones))
    return [next(iter(named_states(file_states([file]))), ()) for file in files]


def named_states(states: Mapping[str, tuple[int, int]]) -> SceneState:
    """Return states of files by their names alone: other machines may have other folders."""
    return sorted((Path(file).name, *state) for file, state in states.items())


def states_of(identity: Mapping[str, Any]) -> SceneState:
    """Return the same of what a map depends on, and what tells its area of interest from others."""
    groups = [identity.get(name) or {} for name in SCENE_FILES]
    of_many: SceneState = [(group,) for group in groups if isinstance(group, str)]
    of_many += [(AREA, identity[AREA])] if identity.get(AREA) else []
    listed = (group for group in groups if not isinstance(group, str))
    return of_many + sorted((Path(name).name, *s) for group in listed for name, s in group.items())


def require_versions(client: dict[str, str], engine: EngineOptions, name: str) -> None:
    """Raise where packages differ from the client's.

    Raises:
        ClusterError: They do.
    """
    own = dict(own_versions())
    optional = {"onnxruntime", "torch"} - {engine.engine}
    for package in dict.fromkeys((*client, *own)):
        version, expected = own.get(package), client.get(package)
        if version == expected or (package in optional and None in (version, expected)):
            continue
        raise ClusterError(
            f"worker {name} runs {package} {version or '(none)'}, "
            f"the client {expected or '(none)'}",
            fix="install the same versions on both (`pip install -c constraints.txt`)",
        )


def answer_name(address: str) -> str:
    """Return the file that a worker writes to show that it reaches a folder."""
    return f"answer-{hashlib.sha256(address.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class SceneTask:
    """A scene that is mapped.

    Attributes:
        name: The scene, as all can open it.
        outputs: Its files: absolute, or names in `folder`.
        folder: The address of the object storage that they go to, or None.
        facts: What the client has found out: a file in the run's place, so that it does not pass
            through the scheduler with each task.
        mark: What tells the strips of the map from those of others.
    """

    name: str
    outputs: Outputs
    folder: str | None
    facts: str
    mark: str

    @property
    def strips(self) -> StripFiles:
        """Its finished strips."""
        path = self.outputs.classes
        place = str(path) if self.folder is None else f"{self.folder}/{path.name}"
        return StripFiles(place, self.mark)


@dataclass(frozen=True)
class Done:
    """What a task gives back.

    Attributes:
        pixels: Pixels that got their labels.
        scenes: What was mapped, where the task has finished a map, or those of a mosaic's tiles.
        said: Warnings on the way: their class, and what they say.
    """

    pixels: int
    scenes: tuple[MappedScene, ...]
    warnings: tuple[tuple[type[Warning], str], ...]


def missing_rows(kept: dict[int, int], rows: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the parts of some rows that no strip has.

    Args:
        kept: The row after the last one of each strip, by its first.
        rows: Where they begin and end.
    """
    parts, row = [], rows[0]
    for first, stop in sorted(kept.items()):
        if stop <= row or first >= rows[1]:
            continue
        if row < first:
            parts.append((row, first))
        row = stop
    return [*parts, (row, rows[1])] if row < rows[1] else parts


def moved(outputs: Outputs, place: Callable[[Any], Path]) -> Outputs:
    """Return outputs elsewhere.

    Args:
        outputs: Files of a scene, or of a mosaic's tiles.
        place: Where each of them is to be.
    """
    files = {k: place(v) for k, v in vars(outputs).items() if isinstance(v, PurePath)}
    tiles = (
        replace(t, raster=absolute(t.raster), outputs=moved(t.outputs, place))
        for t in outputs.tiles
    )
    return replace(outputs, **files, tiles=tuple(tiles))


def absolute(name: str) -> str:
    """Return the name of a scene or file as a program in another folder has to call it."""
    archive = re.fullmatch(r"(/vsi(?:zip|tar|gzip)/)([^/{].*)", name)
    if archive is not None:
        return archive[1] + os.path.abspath(archive[2])
    parts = subdataset_parts(name) if is_local(name) else None
    if parts is not None and is_local(parts[0]):
        return name.replace(parts[0], os.path.abspath(parts[0]), 1)
    return os.path.abspath(name) if is_local(name) else name


def facts_bytes(facts: SceneFacts) -> bytes:
    """Return what was found out of a scene as JSON, for `facts_of`."""
    return json.dumps([facts.scale, vars(facts.record)]).encode()


@lru_cache(maxsize=16)
def facts_of(run: Run, scene: SceneTask) -> SceneFacts:
    """Return what the client has found out of a scene.

    Raises:
        StripsMissingError: It is not there any more.
    """
    content = folder_of(run.places[0]).read(scene.facts)
    if content is None:
        raise StripsMissingError(
            f"what the run keeps of it, {scene.facts}, was removed",
            where=scene.name,
            fix="leave hidden folders beside maps alone, and go on with `resume`",
        )
    scale, record = json.loads(content)
    return SceneFacts(scale, MapRecord(**record))


def require_unchanged(source: SceneWindows, facts: SceneFacts) -> None:
    """Raise where a scene is not as the client has found it.

    Raises:
        InputError: It was changed.
    """
    if scene_state(source) != states_of(facts.record.identity):
        raise InputError(
            "was changed while it was mapped",
            where=source.path,
            fix="wait until nothing writes to it, then map it again",
        )


class StripsMissingError(HrrsiError, RuntimeError):
    """Strips of a map are not there, or damaged: they have to be made again."""


def identity_mark(identity: Mapping[str, Any]) -> str:
    """Return what tells strips of a map from those of another one, of all that these depend on."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class StripFiles:
    """The finished strips of one map.

    Attributes:
        map: The map: a path that all see, or an address such as ``s3://bucket/maps/a.tif``.
        mark: What tells its strips from those of another one, `identity_mark`.
    """

    map: str
    mark: str

    @property
    def _folder(self) -> Folder:
        if "://" in self.map:
            parent, _, name = self.map.rpartition("/")
            return ObjectFolder(f"{parent}/.{name}.unfinished/{STRIPS_FOLDER}")
        return DiskFolder(partial_map_folder(Path(self.map)) / STRIPS_FOLDER)

    def begin(self, identity: Mapping[str, Any], *, resume: bool) -> dict[int, int]:
        """Take up the strips that are there, or remove them; return the rows of those kept.

        Args:
            identity: All that the map depends on.
            resume: Whether those that are there count.

        Raises:
            OutputError: They are of a map that was begun otherwise, or can't be written.
        """
        folder = self._folder
        identity = json.loads(json.dumps(identity))
        record = folder.read(_RECORD) if resume else None
        if record is not None:
            before = identity
            with suppress(ValueError, TypeError):  # damaged: what is of this map has its mark
                before = dict(json.loads(record))
            refuse_differences(self.map, before, identity)
        if not resume:
            self.remove()
        folder.write(_RECORD, json.dumps(identity).encode())
        return self.rows()

    def rows(self) -> dict[int, int]:
        """Return the strips that are there: the row after the last one by the first."""
        matches = map(_NAME.fullmatch, self._folder.names())
        return {int(m[1]): int(m[2]) for m in matches if m and m[3] == self.mark}

    def write(self, strip: Strip) -> None:
        """Write a strip.

        Raises:
            OutputError: It can't be written.
        """
        stop = strip.first_row + len(strip.labels)
        self._folder.write(self._name(strip.first_row, stop), _packed(strip))

    def read(self, first_row: int, height: int) -> Iterator[Strip]:
        """Yield the strips from a row on to the last one, from top to bottom.

        Args:
            first_row: Where the first one begins.
            height: Rows of the map.

        Raises:
            StripsMissingError: One is not there, or damaged; it is removed then.
        """
        folder, rows, row = self._folder, self.rows(), first_row
        missing = height - first_row - sum(b - a for a, b in rows.items() if a >= first_row)
        if missing:
            raise StripsMissingError(
                f"{counted(missing, 'row')} of it are not there", where=self.map, fix=_AGAIN
            )
        while row < height:
            stop = rows.get(row, 0)
            content = folder.read(self._name(row, stop)) if stop else None
            strip = None if content is None else _unpacked(row, stop, content)
            if strip is None:
                if stop:
                    folder.remove(self._name(row, stop))
                raise StripsMissingError(
                    f"its rows from {row} on are damaged", where=self.map, fix=_AGAIN
                )
            yield strip
            row = stop

    def remove(self) -> None:
        """Remove all strips of the map, of whatever run."""
        if "://" not in self.map:
            remove_strips(partial_map_folder(Path(self.map)) / STRIPS_FOLDER)
            return
        folder = self._folder
        for name in folder.names():
            if _NAME.fullmatch(name) or name == _RECORD:
                folder.remove(name)

    def _name(self, first_row: int, stop_row: int) -> str:
        return f"rows-{first_row:08d}-{stop_row:08d}-{self.mark}.npz"


def _packed(strip: Strip) -> bytes:
    """Return a strip as NumPy's .npz, deflated; its parts carry checksums."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        for name in ("labels", "confidence", "probabilities"):
            values = getattr(strip, name)
            if values is not None:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as part:
                    np.save(part, np.ascontiguousarray(values), allow_pickle=False)
    return content.getvalue()


def _unpacked(first_row: int, stop_row: int, content: bytes) -> Strip | None:
    """Return a strip from its file, or None where it is damaged."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as parts:
            labels = parts["labels"]
            confidence = parts.get("confidence")
            probabilities = parts.get("probabilities")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    if len(labels) != stop_row - first_row:
        return None
    return Strip(first_row, labels, confidence, probabilities)
