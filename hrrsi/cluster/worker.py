"""What workers of a cluster do: check that they fit, map bands of scenes, finish maps.

A worker opens its engine once, and does one task of hrrsi at a time with all its threads, whatever
number of tasks Dask sends it.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from hrrsi.cluster.readiness import (
    Run,
    ended,
    one_at_a_time,
    ready_for,
    scene_state,
    scratch_folder,
    states_of,
)
from hrrsi.cluster.strip_files import (
    ObjectFolder,
    StripFiles,
    StripsMissingError,
    folder_of,
)
from hrrsi.errors import (
    FileWarning,
    HrrsiError,
    InputError,
    OutputExistsError,
)
from hrrsi.maps.outputs import Outputs
from hrrsi.prediction.blending import Strip
from hrrsi.prediction.map_writer import MapRecord, is_finished
from hrrsi.prediction.mapped_scene import MappedScene
from hrrsi.prediction.scene_checks import SceneWarning
from hrrsi.prediction.scene_mapper import SceneFacts
from hrrsi.scenes.raster_opening import bounded_block_cache, is_local, many_files, subdataset_parts
from hrrsi.scenes.window_source import SceneWindows

if TYPE_CHECKING:
    from hrrsi.evaluation.options import EvaluationOptions
    from hrrsi.evaluation.weights_evaluation import CountedScene, SceneReading
    from hrrsi.labels.scheme import Scheme

_TELL_SECONDS = 1.0  # how often a task says how far it is
_WEIGHTS = "weights"


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
    said: tuple[tuple[type[Warning], str], ...]


class RunEndedError(HrrsiError, RuntimeError):
    """The run that a task belongs to was stopped."""


def map_band(run: Run, scene: SceneTask, rows: tuple[int, int], key: str) -> Done:
    """Map the rows of a scene that no strip has yet, and write their strips.

    Args:
        run: The run.
        scene: The scene.
        rows: Where to begin and to end.
        key: The task, as progress is told.
    """
    ready = ready_for(run)
    facts = _facts(run, scene)
    with _working(run, key) as work, ready.mapper.open(scene.name) as source:
        _check_scene(source, facts)
        width, strips = source.raster_grid.width, scene.strips
        kept = strips.rows()
        work.add(sum(kept[row] - row for row in kept if rows[0] <= row < rows[1]) * width)
        for first, stop in missing_rows(kept, rows):
            made = ready.mapper.strips(source, facts.scale, (first, stop), work.add)
            with closing(made):
                for strip in made:
                    strips.write(strip)
        _check_scene(source, facts)
    return Done(work.pixels, (), tuple(work.said))


def map_scene(run: Run, scene: SceneTask, key: str) -> Done:
    """Map a scene that is small enough for one task, as one process does."""
    ready, facts = ready_for(run), _facts(run, scene)
    with _working(run, key) as work, _local_outputs(scene, resume=run.outputs.resume) as outputs:
        with ready.mapper.open(scene.name) as source:
            _check_scene(source, facts)

        def strips(source: SceneWindows, scale: float, row: int) -> Generator[Strip, None, None]:
            yield from ready.mapper.strips(source, scale, (row, None), work.add)
            work.tell(is_watched=False)  # files may take long

        mapped = ready.mapper.map(scene.name, outputs, facts=facts, strips=strips)
    return Done(work.pixels, tuple(mapped), tuple(work.said))


def evaluate_scene(
    run: Run, reading: SceneReading, scheme: Scheme, options: EvaluationOptions, key: str
) -> CountedScene:
    """Count a scene that the client has looked at."""
    # libraries of labels, which maps don't need
    from hrrsi.evaluation.weights_evaluation import count_scene

    ready = ready_for(run)
    with _working(run, key) as work:
        return count_scene(reading, scheme, ready.engine, options, on_pixels=work.add)


def finish_scene(run: Run, scene: SceneTask, key: str) -> Done:
    """Make the files of a scene from its strips.

    Raises:
        StripsMissingError: Some are not there, or damaged.
    """
    ready, facts = ready_for(run), _facts(run, scene)

    def strips(source: SceneWindows, _scale: float, row: int) -> Generator[Strip, None, None]:
        for strip in scene.strips.read(row, source.raster_grid.height):
            work.pause()
            yield strip

    def mapped(outputs: Outputs, *, resume: bool) -> list[MappedScene]:
        return ready.mapper.map(scene.name, outputs, facts=facts, strips=strips, resume=resume)

    with _working(run, key, is_watched=False) as work:
        with ready.mapper.open(scene.name) as source:
            _check_scene(source, facts)
        try:
            with _local_outputs(scene, resume=run.outputs.resume) as outputs:
                done = mapped(outputs, resume=False)
        except StripsMissingError:
            # a worker may have been lost just after it had finished the map
            with _local_outputs(scene, resume=True) as outputs:
                try:
                    if not is_finished(outputs, facts.record):
                        raise
                except OutputExistsError:
                    pass
                else:
                    return Done(0, tuple(mapped(outputs, resume=True)), tuple(work.said))
            raise
    scene.strips.remove()
    return Done(0, tuple(done), tuple(work.said))


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


class _Work:
    """What a task has done so far, told to the client now and then."""

    def __init__(self, run: Run, key: str, *, is_watched: bool) -> None:
        self._run, self._key, self._is_watched = run, key, is_watched
        self._told = 0.0
        self.pixels = 0
        self.said: list[tuple[type[Warning], str]] = []
        self.tell(is_watched=is_watched)

    def add(self, pixels: int) -> None:
        """Count pixels that have got their labels."""
        self.pixels += pixels
        self.pause()

    def pause(self) -> None:
        """Say how far it is, if that was a while ago.

        Raises:
            RunEndedError: The run was stopped.
        """
        if self._run.id in ended:
            raise RunEndedError("the run was stopped")
        if time.monotonic() - self._told > _TELL_SECONDS:
            self.tell(is_watched=self._is_watched)

    def tell(self, *, is_watched: bool) -> None:
        """Tell the client, through the scheduler, in a few bytes.

        Args:
            is_watched: Whether more will be told soon, so that nothing more means that it hangs.
        """
        from distributed import get_worker

        self._told = time.monotonic()
        worker = get_worker()
        said = {
            "task": self._key,
            "pixels": self.pixels,
            "worker": worker.address,
            "is_watched": is_watched,
        }
        worker.log_event(f"hrrsi-{self._run.id}", said)


@contextmanager
def _working(run: Run, key: str, *, is_watched: bool = True) -> Iterator[_Work]:
    """Yield what a task counts by; nothing else of hrrsi happens on this worker meanwhile."""
    with (
        one_at_a_time,
        bounded_block_cache(),
        many_files([]) if run.options.mosaic else nullcontext(),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        work = _Work(run, key, is_watched=is_watched)
        work.pause()
        try:
            yield work
        finally:
            work.said += [
                (w.category, str(w.message))
                for w in caught
                if issubclass(w.category, SceneWarning | FileWarning)
            ]


@contextmanager
def _local_outputs(scene: SceneTask, *, resume: bool) -> Iterator[Outputs]:
    """Yield the files to write: a scene's own, or ones on this machine that are uploaded then."""
    if scene.folder is None:
        yield scene.outputs
        return
    remote = ObjectFolder(scene.folder)
    with tempfile.TemporaryDirectory(prefix="hrrsi-", dir=scratch_folder()) as scratch:
        stage = Path(scratch)
        outputs = moved(scene.outputs, lambda path: stage / path.name)
        if resume:
            for path in (*outputs.files, *outputs.sidecars):
                remote.download(path.name, path)
        before = {path: path.stat().st_mtime_ns for path in stage.iterdir()}
        try:
            yield outputs
        except HrrsiError as error:
            name = str(error.where)
            if name.startswith(f"{stage}/"):
                raise error.at(f"{scene.folder}/{Path(name).name}") from error
            raise
        written = [
            path
            for path in sorted(stage.iterdir())
            if path.is_file() and before.get(path) != path.stat().st_mtime_ns
        ]
        maps = [one.classes for one in outputs.maps]
        # who sees the map can be sure of the rest
        for path in sorted(written, key=lambda path: path in maps):
            remote.upload(path)


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


@lru_cache(maxsize=16)
def _facts(run: Run, scene: SceneTask) -> SceneFacts:
    """Return what the client has found out of a scene.

    Raises:
        StripsMissingError: It is not there any more.
    """
    content = folder_of(run.places[0]).read(scene.facts)
    if content is None:
        raise StripsMissingError(f"{scene.facts} is gone", where=scene.name)
    return facts_from(content)


def facts_bytes(facts: SceneFacts) -> bytes:
    """Return what was found out of a scene as JSON."""
    return json.dumps([facts.scale, vars(facts.record)]).encode()


def facts_from(content: bytes) -> SceneFacts:
    """Return what `facts_bytes` has written."""
    scale, record = json.loads(content)
    return SceneFacts(scale, MapRecord(**record))


def _check_scene(source: SceneWindows, facts: SceneFacts) -> None:
    """Raise where a scene is not as the client has found it."""
    if scene_state(source) != states_of(facts.record.identity):
        raise InputError(
            "was changed while it was mapped",
            where=source.path,
            fix="wait until nothing writes to it, then map it again",
        )
