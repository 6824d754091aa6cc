"""Deals scenes to workers as tasks, and takes up what they give until each has its map."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from hrrsi.cluster.connection import ClusterOptions, folder_of
from hrrsi.cluster.run import (
    Done,
    Run,
    SceneTask,
    StripsMissingError,
    absolute,
    facts_bytes,
    identity_mark,
    missing_rows,
    moved,
)
from hrrsi.cluster.worker import finish_scene, look_at_scenes, map_band, map_scene
from hrrsi.cluster.workforce import Job, Workforce
from hrrsi.errors import ClusterError, HrrsiError, warn
from hrrsi.interruption import stop_if_requested
from hrrsi.maps.outputs import Outputs
from hrrsi.maps.partial_map import cluster_lock_held, is_unfinished, rows_kept
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.prediction.mapped_scene import MappedScene
from hrrsi.prediction.options import MapOptions, OutputOptions
from hrrsi.prediction.predict import MapObserver, ScenesFailedError
from hrrsi.prediction.scene_mapper import SceneMapper
from hrrsi.prediction.scene_survey import SceneLook
from hrrsi.prediction.sliding_window import strip_rows
from hrrsi.progress import progress
from hrrsi.quantities import counted_names
from hrrsi.scenes.window_source import SceneWindows
from hrrsi.scenes.windows import Window, window_starts

_BAND_SECONDS = 30.0  # of a task, unless so few rows of windows are too few
# The row of windows above a band is computed once more for it: a twentieth of the work at most.
_LEAST_ROWS = 20
_BRIEF_SECONDS = 3.0  # tasks below this are sent ahead of a worker's need
_MANY_SCENES = 8  # from here on workers look at them, too
_OPEN_SCENES = 64  # that are in work at a time: each holds a lock


@dataclass(frozen=True)
class PlannedRun:
    """What mapping scenes on a cluster will take.

    Attributes:
        scenes: The scenes, or how many tasks each takes, and its size as (height, width).
        problems: Why scenes can't be mapped, by their names.
        workers: Workers that are there now.
        threads: Threads of all of them.
        seconds: Estimated wall time of what the network computes, on all workers.
        read_bytes: What is read of scenes, as pixels.
        written_bytes: Labels and scores that are written, as pixels; files take less.
    """

    scenes: dict[str, tuple[int, tuple[int, int]]]
    problems: dict[str, Exception]
    workers: int
    threads: int
    seconds: float
    read_bytes: int
    written_bytes: int

    @property
    def tasks(self) -> int:
        """Tasks of all scenes."""
        return sum(tasks for tasks, _ in self.scenes.values())

    @property
    def core_hours(self) -> float:
        """What the network computes, in hours of a thread."""
        return self.seconds * self.threads / 3600


@dataclass(eq=False)
class _Scene:
    """A scene that is being mapped."""

    name: str
    files: Outputs
    task: SceneTask
    identity: dict[str, Any]
    facts: bytes
    shape: tuple[int, int]
    rows: list[int]  # where strips begin, and the row after the last one
    windows: list[int]  # of each strip
    jobs: list[Job] = field(default_factory=list)  # not given yet
    out: int = 0  # jobs that are not done
    kept: int = 0  # pixels that were there, or whose jobs are done
    heard: dict[str, int] = field(default_factory=dict)  # pixels of tasks that are not done
    begun: float | None = None
    is_whole: bool = False  # one task maps it
    repeats: int = 0
    held: ExitStack = field(default_factory=ExitStack)


class SceneDealer:
    """Deals scenes to workers as tasks, and takes up what they give.

    Args:
        names: The scenes, as they are opened.
        files: The files of each.
        address: The object storage that these go to, or None.
        mapper: Looks at scenes; it does not map.
        meta: What the weights say of themselves.
        options: How scenes are mapped.
        outputs: What is written.
        dealt: How work is dealt.
        run: What tasks share.
        force: The workers.
    """

    def __init__(
        self,
        names: list[str],
        files: list[Outputs],
        address: str | None,
        mapper: SceneMapper,
        meta: ModelMeta,
        options: MapOptions,
        outputs: OutputOptions,
        dealt: ClusterOptions,
        run: Run,
        force: Workforce,
    ) -> None:
        self._names, self._files, self._address = names, files, address
        self._mapper, self._meta, self._run, self._force = mapper, meta, run, force
        self._options, self._outputs, self._dealt = options, outputs, dealt
        self._failures: dict[str, Exception] = {}
        self._mapped: dict[str, list[MappedScene]] = {}
        self._open: list[_Scene] = []  # that are in work
        self._observer = MapObserver()

    def planned(self) -> PlannedRun:
        """Return what mapping the scenes will take."""
        scenes = self._scenes()
        self._deal(scenes)
        pixels = sum(s.shape[0] * s.shape[1] for s in scenes)
        sizes = {None: 0, "uint8": 1, "float32": 4}
        out, classes = self._outputs, len(self._meta.classes)
        a_pixel = 1 + sizes[out.confidence] + classes * sizes[out.probabilities]
        facts = list(self._force.facts.values())
        windows = sum(sum(s.windows) for s in scenes)
        return PlannedRun(
            {s.name: (len(s.jobs) + (not s.is_whole), s.shape) for s in scenes},
            self._failures,
            len(facts),
            sum(f.threads for f in facts),
            windows * self._seconds / len(facts),
            pixels * self._meta.band_count,
            pixels * a_pixel,
        )

    def mapped(self, observer: MapObserver, *, show_progress: bool) -> list[MappedScene]:
        """Map the scenes; see `hrrsi.predict`."""
        self._observer = observer
        waiting = self._scenes()
        if waiting:
            observer.ready(self._meta)
        self._deal(waiting)
        pixels = sum(s.shape[0] * s.shape[1] for s in waiting)
        waiting.reverse()
        title = f"{len(self._names)} scenes" if self._names[1:] else Path(self._names[0]).name
        ahead = 2 if self._task_seconds < _BRIEF_SECONDS else 1
        shown_pixels = 0
        with progress(title, pixels / 1e6, " Mpx", scale=True, enabled=show_progress) as bar:

            def show(job: Job | None = None) -> None:
                nonlocal shown_pixels
                if job is not None:
                    job.owner.heard[job.title] = job.pixels
                mapped_pixels = self._finished + sum(_pixels(scene) for scene in self._open)
                bar.update((mapped_pixels - shown_pixels) / 1e6)
                shown_pixels = mapped_pixels

            self._finished = self._lost = 0
            self._show = show
            try:
                self._force.work(
                    lambda: self._next(waiting), self._take_up, self._fail, show, ahead
                )
            except BaseException as error:
                kept_pixels = self._finished - self._lost + sum(_pixels(s) for s in self._open)
                share = kept_pixels / max(pixels, 1)
                for scene in self._open:
                    scene.held.close()
                kept = f"{share:.0%} of the pixels are kept for `resume`"
                if isinstance(error, KeyboardInterrupt):
                    raise KeyboardInterrupt(
                        f"interrupted; {kept}: run the same command with it to go on"
                    ) from None
                if isinstance(error, HrrsiError):
                    raise error.with_note(kept) from error
                raise
        left = [n for n in self._names if n not in self._mapped and n not in self._failures]
        if left:  # a fault of ours; nothing must be missing without a word
            raise ClusterError(f"{counted_names(left)}: not mapped", fix="go on with `resume`")
        mapped = [scene for name in self._names for scene in self._mapped.get(name, [])]
        if self._failures:
            if len(self._names) == 1:
                raise next(iter(self._failures.values()))
            raise ScenesFailedError(mapped, self._failures)
        return mapped

    def _scenes(self) -> list[_Scene]:
        """Look at all scenes, and return those that can be mapped."""
        if len(self._names) > 1:
            is_many = len(self._names) >= _MANY_SCENES
            self._mapper.survey.look(self._names, self._looks() if is_many else {})
        scenes = []
        for name, files in zip(self._names, self._files, strict=True):
            stop_if_requested()
            try:
                with self._mapper.survey.open(name) as source:
                    scenes.append(self._scene(name, files, source))
            except MemoryError:
                raise
            except Exception as error:  # one bad scene must not stop the others
                self._give_up(name, error)
        return scenes

    def _looks(self) -> dict[str, SceneLook]:
        """Return what workers have found at scenes."""
        waiting, looks = list(self._names), dict[str, SceneLook]()
        share = math.ceil(len(waiting) / (4 * max(1, len(self._force.facts))))

        def job() -> Job | None:
            part = {name: absolute(name) for name in waiting[:share]}
            del waiting[:share]
            title = f"look at scenes-{len(waiting)} wait"
            return Job(title, look_at_scenes, (part,), None) if part else None

        # what a task does not find is left to this process
        self._force.work(job, lambda _, new: looks.update(new), lambda *_: None, lambda _: None, 2)
        return looks

    def _scene(self, name: str, files: Outputs, source: SceneWindows) -> _Scene:
        facts = self._mapper.facts(name, source)
        identity = facts.record.identity
        mark = identity_mark(identity)
        elsewhere = self._address is not None
        shared_files = moved(files, lambda path: Path(path.name) if elsewhere else path.absolute())
        window, overlap = self._options.effective_window, self._options.effective_overlap
        columns = len(window_starts(source.network_grid.width, window, window - overlap))
        rows = strip_rows(source, self._options)
        area, width = source.area, source.raster_grid.width
        windows = [
            columns if area is None or area.touches(Window(first, 0, stop - first, width)) else 0
            for first, stop in pairwise(rows)
        ]
        task = SceneTask(absolute(name), shared_files, self._address, f"{mark}.json", mark)
        return _Scene(
            name, files, task, identity, facts_bytes(facts), source.raster_grid, rows, windows
        )

    @property
    def _seconds(self) -> float:
        """Wall time of a window on a worker, as measured."""
        measured = [f.seconds for f in self._force.facts.values() if f.seconds is not None]
        return sorted(measured)[len(measured) // 2] if measured else 0.05

    def _deal(self, scenes: list[_Scene]) -> None:
        """Decide into which tasks each scene is cut."""
        all_windows = sum(sum(scene.windows) for scene in scenes)
        workers = max(1, len(self._force.facts))
        longest = 0.0
        for scene in scenes:
            columns = max(scene.windows, default=0) or 1
            count = band_strips(all_windows / columns, workers, columns * self._seconds)
            strips, rows = len(scene.rows) - 1, self._dealt.band_rows
            if rows is not None:
                count = max(1, round(rows * strips / max(scene.shape[0], 1)))
            scene.is_whole = strips <= count
            scene.jobs = [
                self._band(scene, (scene.rows[i], scene.rows[min(i + count, strips)]))
                for i in range(0, strips, count)
            ]
            longest = max(longest, min(count, strips) * columns * self._seconds)
        self._task_seconds = longest

    def _band(self, scene: _Scene, rows: tuple[int, int]) -> Job:
        title = f"map bands-{Path(scene.name).name} rows {rows[0]}-{rows[1]}"
        return Job(title, map_band, (scene.task, rows), scene)

    def _whole(self, scene: _Scene) -> Job:
        return Job(f"map scenes-{Path(scene.name).name}", map_scene, (scene.task,), scene)

    def _last(self, scene: _Scene) -> Job:
        return Job(f"write maps-{Path(scene.name).name}", finish_scene, (scene.task,), scene)

    def _next(self, waiting: list[_Scene]) -> Job | None:
        """Return the next task, of scenes that are in work or of one that begins now."""
        while True:
            for scene in self._open:
                if scene.jobs:
                    return scene.jobs.pop(0)
            if not waiting or len(self._open) >= _OPEN_SCENES:
                return None
            scene = waiting.pop()
            try:
                self._begin(scene)
            except MemoryError:
                raise
            except Exception as error:
                scene.held.close()
                self._give_up(scene.name, error)

    def _begin(self, scene: _Scene) -> None:
        """Take a scene into work: hold its map, see what is there of it."""
        resume, path = self._outputs.resume, scene.task.outputs.classes
        kept: dict[int, int] = {}
        if self._address is None:
            finished = any(outputs.classes.exists() for outputs in scene.task.outputs.maps)
            finished = finished and not is_unfinished(path)
            scene.held.enter_context(cluster_lock_held(path, resume=resume))
            first = min(rows_kept(path, scene.identity), scene.rows[-1]) if resume else 0
        else:
            classes: Any = scene.files.classes  # a `RemotePath`
            finished, first = resume and classes.exists(), 0
        if not resume:
            scene.task.strips.remove()
        folder_of(self._run.places[0]).write(scene.task.facts, scene.facts)
        if resume and finished:  # a task says whether it is the same map
            scene.jobs, scene.is_whole = [self._whole(scene)], True
        else:
            present = scene.task.strips.rows() if resume else {}
            if not scene.is_whole or present:
                kept = scene.task.strips.begin(scene.identity, resume=resume)
                scene.is_whole = False
                if first and first in scene.rows:  # of a single process
                    kept = {0: first, **{a: b for a, b in kept.items() if a >= first}}
                scene.jobs = self._lacking(scene, kept)
            else:
                scene.jobs = [self._whole(scene)]
        scene.kept = sum(b - a for a, b in kept.items()) * scene.shape[1]
        scene.begun = time.perf_counter()
        scene.out = len(scene.jobs)
        self._open.append(scene)
        if not scene.jobs:
            scene.jobs, scene.out = [self._last(scene)], 1

    def _lacking(self, scene: _Scene, kept: dict[int, int]) -> list[Job]:
        """Return the bands of a scene that strips lack a part of."""
        bands = [job.arguments[1] for job in scene.jobs]
        return [
            self._band(scene, part)
            for first, stop in bands
            for part in missing_rows(kept, (first, stop))
        ]

    def _take_up(self, job: Job, result: Done) -> None:
        """Take up what a task has given."""
        scene: _Scene = job.owner
        for kind, text in result.warnings:
            warn(text, kind)
        scene.out -= 1
        scene.heard.pop(job.title, None)
        if not result.scenes:
            scene.kept += result.pixels
            if job.function is map_band and not scene.out and not scene.jobs:
                scene.jobs, scene.out = [self._last(scene)], 1
            self._show()
            return
        self._close(scene)
        seconds = time.perf_counter() - (scene.begun or 0.0)
        maps = _as_named(scene, result.scenes, seconds)
        self._mapped[scene.name] = maps
        self._show()
        for mapped in maps:
            self._observer.mapped(mapped)

    def _fail(self, job: Job, error: Exception) -> None:
        """Take up that a task has failed for good."""
        scene: _Scene = job.owner
        if isinstance(error, StripsMissingError) and scene.repeats < 3:
            scene.repeats += 1
            kept = scene.task.strips.rows()
            scene.jobs = [self._band(scene, r) for r in missing_rows(kept, (0, scene.rows[-1]))]
            scene.out, scene.kept, scene.heard = len(scene.jobs), 0, {}
            if not scene.jobs:
                scene.jobs, scene.out = [self._last(scene)], 1
            return
        share = _pixels(scene) / max(scene.shape[0] * scene.shape[1], 1)
        self._lost += scene.shape[0] * scene.shape[1] - _pixels(scene)
        self._force.drop(scene)
        self._close(scene)
        if share and isinstance(error, HrrsiError) and "`resume`" not in str(error):
            error = error.with_note(f"{share:.0%} of the map is kept for `resume`")
        if isinstance(error, HrrsiError) and str(error.where) == scene.task.name:
            error = error.at(scene.name)
        self._give_up(scene.name, error)

    def _give_up(self, name: str, error: Exception) -> None:
        self._failures[name] = error
        if len(self._names) > 1:
            self._observer.failed(name, error)

    def _close(self, scene: _Scene) -> None:
        scene.jobs = []
        if scene in self._open:
            self._open.remove(scene)
        self._finished += scene.shape[0] * scene.shape[1]
        scene.held.close()


def _as_named(scene: _Scene, maps: Sequence[MappedScene], seconds: float) -> list[MappedScene]:
    """Return what a worker has mapped by the names that the caller knows."""
    names = {scene.task.name: scene.name}
    outputs = {}
    for scene_outputs, task_outputs in zip(scene.files.maps, scene.task.outputs.maps, strict=True):
        raster = task_outputs.classes
        outputs[raster.name, raster.parent] = scene_outputs
    names |= {absolute(tile.raster): tile.raster for tile in scene.files.tiles}
    pixels = sum(mapped.height * mapped.width for mapped in maps)
    named = []
    for mapped in maps:
        classes = mapped.outputs.classes
        scene_outputs = outputs.get((classes.name, classes.parent)) or outputs[classes.name, Path()]
        share = mapped.height * mapped.width / max(pixels, 1)
        name = names.get(mapped.scene, mapped.scene)
        named.append(replace(mapped, scene=name, outputs=scene_outputs, seconds=seconds * share))
    return named


def _pixels(scene: _Scene) -> int:
    """Return how many pixels of a scene have their labels."""
    return scene.kept + sum(scene.heard.values())


def band_strips(strips: float, workers: int, seconds: float) -> int:
    """Return how many strips a task maps.

    Each worker gets as many tasks as the others, so that all end at a time: four, or more where
    they would take long, unless that makes them too small.

    Args:
        strips: Strips in all, counted as wide as the scene's.
        workers: Workers that there are.
        seconds: Wall time of a strip.
    """
    wanted = max(4, math.ceil(strips * seconds / (workers * _BAND_SECONDS)))
    most = max(1, int(strips / (workers * _LEAST_ROWS)))
    return max(1, math.ceil(strips / (min(wanted, most) * workers)))
