"""What workers of a cluster do: check that they fit, map bands, finish maps, count scenes.

A worker opens its engine once for a run, and keeps it until the run ends. It does one task of hrrsi
at a time with all its threads, whatever number of tasks Dask sends it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrrsi.cluster.connection import ObjectFolder, folder_of
from hrrsi.cluster.run import (
    Done,
    Run,
    SceneState,
    SceneTask,
    StripsMissingError,
    WorkerFacts,
    answer_name,
    facts_of,
    missing_rows,
    moved,
    named_states,
    polygon_state,
    require_unchanged,
    require_versions,
    scene_state,
)
from hrrsi.errors import (
    ClusterError,
    FileWarning,
    HrrsiError,
    InputError,
    OutputError,
    OutputExistsError,
)
from hrrsi.hardware import available_cores, processor_name, reuse_freed_memory
from hrrsi.maps.outputs import Outputs
from hrrsi.prediction.blending import Strip
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.map_writer import is_finished
from hrrsi.prediction.mapped_scene import MappedScene, seconds_a_window
from hrrsi.prediction.scene_mapper import SceneMapper
from hrrsi.prediction.scene_remarks import SceneWarning
from hrrsi.prediction.scene_survey import SceneLook, SceneSurvey
from hrrsi.prediction.sliding_window import symmetries
from hrrsi.scenes.raster_opening import bounded_block_cache, file_states, many_files
from hrrsi.scenes.window_source import SceneWindows

if TYPE_CHECKING:
    from hrrsi.evaluation.options import EvaluationOptions
    from hrrsi.evaluation.scene_evaluation import CountedScene, SceneReading
    from hrrsi.labels.scheme import Scheme

one_at_a_time = threading.Lock()
_ready: dict[str, Ready] = {}  # by the run
ended: set[str] = set()
_TELL_SECONDS = 1.0  # how often a task says how far it is


class NotReadyError(HrrsiError, RuntimeError):
    """A worker has not been checked for a run: it has begun anew since."""


@dataclass(frozen=True)
class Ready:
    """What a worker keeps for a run.

    Attributes:
        engine: Its engine.
        mapper: Opens and maps scenes with it.
        folder: Where the weights lie here.
    """

    engine: Engine
    mapper: SceneMapper
    folder: Path


def check_worker(
    run: Run,
    scene: str | None,
    state: SceneState,
    measure: bool,
    weights_there: Sequence[bytes] | None = None,
) -> WorkerFacts:
    """Make a worker ready for a run, if it fits.

    Args:
        run: The run.
        scene: A scene that it shall read; None: none is tried.
        state: Size and time of change of the scene's files, by their names.
        measure: Whether to measure how fast the network is here.
        weights_there: What the weights' files hold, where no folder that all reach has them.

    Returns:
        What the worker says of itself.

    Raises:
        ClusterError: Its versions differ, or it does not reach what it has to.
        HrrsiError: The engine can't be opened.
        RunEndedError: The run was stopped meanwhile.
    """
    name = f"{socket.gethostname()} ({_address()})"
    with one_at_a_time, _nothing_kept_on_failure(run.id):
        _require_going_on(run)
        require_versions(dict(run.versions), run.engine, name)
        weights = _fetched_weights(run, name, weights_there)
        threads = min(_worker().state.nthreads, available_cores())
        options = run.engine
        options = replace(options, threads=options.threads or threads)
        engine = open_engine(weights, options)
        map_options = run.options.fitting(engine.meta)
        # what makes the maps is in their records, which the client has
        mapper = SceneMapper(engine, {}, map_options, run.outputs, show_progress=False)
        mapper.survey.count_scenes(0)  # the client has said what there is to say
        files = (run.options.aoi, run.outputs.zones)
        states = polygon_state(run.options, run.outputs)
        for path, own, expected in zip(files, states, run.polygons, strict=True):
            if own != expected:
                raise _other_file(str(path), name)
        if scene is not None:
            _require_same(mapper.survey, scene, state, name)
        _ready[run.id] = Ready(engine, mapper, weights.parent)
        reuse_freed_memory(of_run=True)
        seconds = None
        if measure:
            seconds = seconds_a_window(engine, map_options.effective_window)
            seconds *= len(symmetries(map_options.augmentation))
        _require_going_on(run)  # `end_run` may have come before there was something to forget
    return WorkerFacts(
        name,
        (engine.name, engine.precision, engine.device),
        processor_name(),
        options.threads or threads,
        seconds,
    )


@contextmanager
def _nothing_kept_on_failure(run_id: str) -> Iterator[None]:
    """Forget what is kept here for a run where the block fails: nobody else would."""
    try:
        yield
    except BaseException:
        _forget(run_id)
        shutil.rmtree(_own_folder(run_id), ignore_errors=True)
        raise


def _forget(run_id: str) -> None:
    """Let go of a run's engine and weights, and of freed memory where no other run is left."""
    ready = _ready.pop(run_id, None)
    if ready is not None:
        shutil.rmtree(ready.folder, ignore_errors=True)
    if not _ready:
        reuse_freed_memory(of_run=False)


def _require_going_on(run: Run) -> None:
    """Raise where a run was stopped.

    Raises:
        RunEndedError: It was.
    """
    if run.id in ended:
        raise RunEndedError("the run was stopped")


def _require_same(survey: SceneSurvey, scene: str, state: SceneState, name: str) -> None:
    """Raise where a scene can't be read on this worker, or is another one.

    Raises:
        ClusterError: It can't, or is.
    """
    try:
        with survey.open(scene) as source:
            own = scene_state(source)
    except InputError as error:
        raise ClusterError(
            f"worker {name} can't read a scene ({error.what})",
            where=scene,
            fix="let workers see scenes under the same path as the client, or name them by "
            "an address such as s3://",
        ) from error
    if own != state:
        raise _other_file(scene, name)


def _other_file(path: str, name: str) -> ClusterError:
    return ClusterError(
        f"is another file on worker {name} than here, by size or time",
        where=path,
        fix="let workers and client see the same files",
    )


def end_run(run_id: str) -> None:
    """Let tasks of a run stop where they are, and forget what was kept for it."""
    ended.add(run_id)
    _forget(run_id)


def ready_for(run: Run) -> Ready:
    """Return what this worker keeps for a run.

    Raises:
        NotReadyError: It was not checked for it.
    """
    ready = _ready.get(run.id)
    if ready is None:
        raise NotReadyError("was not checked for this run", where=_address())
    return ready


def _fetched_weights(run: Run, name: str, sent: Sequence[bytes] | None) -> Path:
    """Return the run's weights on this machine, and leave an answer in each of its places.

    Raises:
        ClusterError: A place is not reached from here, or the weights are other bytes.
    """
    folder = _own_folder(run.id)
    folder.mkdir(parents=True, exist_ok=True)
    contents: list[bytes | None] = list(sent or ())
    for number, address in enumerate(run.places):
        place = folder_of(address)
        unreachable = ClusterError(
            f"worker {name} does not reach the folder of the outputs",
            where=address.rpartition("/")[0],
            fix="write to a folder that the client and all workers share, or to object storage "
            "(s3://...)",
        )
        try:
            if not place.names():
                raise unreachable
            if number == 0:
                contents = [place.read(weights) for weights, _ in run.weights]
            place.write(answer_name(_address()), name.encode())
        except OutputError as error:
            raise unreachable.with_note(error.what) from error
    for (weights, digest), content in zip(run.weights, contents, strict=True):
        if content is None or hashlib.sha256(content).hexdigest() != digest:
            raise ClusterError(
                f"worker {name} has got other bytes than the client sent",
                where=weights,
                fix="run it again; if it stays so, check the file system",
            )
        meanwhile = folder / f".{weights}.part"
        meanwhile.write_bytes(content)
        meanwhile.replace(folder / weights)
    return folder / run.weights[0][0]


def _own_folder(run_id: str) -> Path:
    """Return where this worker keeps what it needs for a run."""
    mark = hashlib.sha256(_address().encode()).hexdigest()[:8]
    return scratch_folder() / f"hrrsi-{run_id}-{os.getpid()}-{mark}"


def scratch_folder() -> Path:
    """Return a folder of this machine for files that nobody needs later."""
    return Path(_worker().local_directory)  # Dask removes it when the worker ends


def _worker() -> Any:
    from distributed import get_worker

    return get_worker()


def _address() -> str:
    return str(_worker().address)


class RunEndedError(HrrsiError, RuntimeError):
    """The run that a task belongs to was stopped."""


def look_at_scenes(run: Run, names: dict[str, str], key: str) -> dict[str, SceneLook]:
    """Look at scenes for the client, which looks itself at those that no look comes of.

    Args:
        run: The run.
        names: What all can open, by what the client calls it.
        key: The task, as progress is told.
    """
    survey, looks = ready_for(run).mapper.survey, {}
    with _working(run, key) as work:
        for called, name in names.items():
            work.pause()
            with suppress(InputError):
                looks[called] = survey.looked_at(name, called)
    return {called: look for called, look in looks.items() if look is not None}


def map_band(run: Run, scene: SceneTask, rows: tuple[int, int], key: str) -> Done:
    """Map the rows of a scene that no strip has yet, and write their strips.

    Args:
        run: The run.
        scene: The scene.
        rows: Where to begin and to end.
        key: The task, as progress is told.
    """
    ready = ready_for(run)
    facts = facts_of(run, scene)
    with _working(run, key) as work, ready.mapper.survey.open(scene.name) as source:
        require_unchanged(source, facts)
        width, strips = source.raster_grid.width, scene.strips
        kept = strips.rows()
        work.add(sum(kept[row] - row for row in kept if rows[0] <= row < rows[1]) * width)
        for first, stop in missing_rows(kept, rows):
            new_strips = ready.mapper.strips(source, facts.scale, (first, stop), work.add)
            with closing(new_strips):
                for strip in new_strips:
                    strips.write(strip)
        require_unchanged(source, facts)
    return Done(work.pixels, (), tuple(work.warnings))


def map_scene(run: Run, scene: SceneTask, key: str) -> Done:
    """Map a scene that is small enough for one task, as one process does."""
    ready, facts = ready_for(run), facts_of(run, scene)
    with _working(run, key) as work, _local_outputs(scene, resume=run.outputs.resume) as outputs:
        with ready.mapper.survey.open(scene.name) as source:
            require_unchanged(source, facts)

        def strips(source: SceneWindows, scale: float, row: int) -> Generator[Strip, None, None]:
            yield from ready.mapper.strips(source, scale, (row, None), work.add)
            work.tell(is_watched=False)  # files may take long

        mapped = ready.mapper.map(scene.name, outputs, facts=facts, strips=strips)
    return Done(work.pixels, tuple(mapped), tuple(work.warnings))


def evaluate_scene(
    run: Run, reading: SceneReading, scheme: Scheme, options: EvaluationOptions, key: str
) -> CountedScene:
    """Count a scene that the client has looked at."""
    # libraries of labels, which maps don't need
    from hrrsi.evaluation.scene_evaluation import count_scene

    ready = ready_for(run)
    expected = set(named_states(reading.states))
    for path in reading.file.paths:
        for state in named_states(file_states([path])):
            if state not in expected:
                raise _other_file(str(path), f"{socket.gethostname()} ({_address()})")
    with _working(run, key) as work:
        return count_scene(reading, scheme, ready.engine, options, on_pixels=work.add)


def finish_scene(run: Run, scene: SceneTask, key: str) -> Done:
    """Make the files of a scene from its strips.

    Raises:
        StripsMissingError: Some are not there, or damaged.
    """
    ready, facts = ready_for(run), facts_of(run, scene)

    def strips(source: SceneWindows, _scale: float, row: int) -> Generator[Strip, None, None]:
        for strip in scene.strips.read(row, source.raster_grid.height):
            work.pause()
            yield strip

    def mapped(outputs: Outputs, *, resume: bool) -> list[MappedScene]:
        return ready.mapper.map(scene.name, outputs, facts=facts, strips=strips, resume=resume)

    with _working(run, key, is_watched=False) as work:
        with ready.mapper.survey.open(scene.name) as source:
            require_unchanged(source, facts)
        try:
            with _local_outputs(scene, resume=run.outputs.resume) as outputs:
                maps = mapped(outputs, resume=False)
        except StripsMissingError:
            # a worker may have been lost just after it had finished the map
            with _local_outputs(scene, resume=True) as outputs:
                try:
                    if not is_finished(outputs, facts.record):
                        raise
                except OutputExistsError:
                    pass
                else:
                    return Done(0, tuple(mapped(outputs, resume=True)), tuple(work.warnings))
            raise
    scene.strips.remove()
    return Done(0, tuple(maps), tuple(work.warnings))


class _Work:
    """What a task has done so far, told to the client now and then."""

    def __init__(self, run: Run, key: str, *, is_watched: bool) -> None:
        self._run, self._key, self._is_watched = run, key, is_watched
        self._reported_at = 0.0
        self.pixels = 0
        self.warnings: list[tuple[type[Warning], str]] = []
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
        _require_going_on(self._run)
        if time.monotonic() - self._reported_at > _TELL_SECONDS:
            self.tell(is_watched=self._is_watched)

    def tell(self, *, is_watched: bool) -> None:
        """Tell the client, through the scheduler, in a few bytes.

        Args:
            is_watched: Whether more will be told soon, so that nothing more means that it hangs.
        """
        self._reported_at = time.monotonic()
        worker = _worker()
        report = {
            "task": self._key,
            "pixels": self.pixels,
            "worker": worker.address,
            "is_watched": is_watched,
        }
        worker.log_event(f"hrrsi-{self._run.id}", report)


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
            work.warnings += [
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
        maps = [files.classes for files in outputs.maps]
        # who sees the map can be sure of the rest
        for path in sorted(written, key=lambda path: path in maps):
            remote.upload(path)
