"""What the client of a cluster does: it readies a run, then has scenes mapped or scored.

Maps have the bytes of those that one process makes, scores its digits.
"""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hrrsi.cluster.connection import ClusterOptions, ObjectFolder, RemotePath, connected, folder_of
from hrrsi.cluster.run import (
    EngineOfWorkers,
    Run,
    WorkerFacts,
    absolute,
    answer_name,
    moved,
    new_run_id,
    own_versions,
    polygon_state,
    scene_state,
)
from hrrsi.cluster.scene_dealer import PlannedRun, SceneDealer
from hrrsi.cluster.worker import check_worker, evaluate_scene
from hrrsi.cluster.workforce import Job, Workforce
from hrrsi.errors import ClusterError, HrrsiError, OutputError, OutputExistsError, warn
from hrrsi.files import content_digest, prepare_folder, scratch_folder
from hrrsi.interruption import heeding_signals
from hrrsi.maps.outputs import Outputs
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.weights_file import weights_path
from hrrsi.networks.weights_reading import read_meta
from hrrsi.prediction.map_writer import run_provenance
from hrrsi.prediction.mapped_scene import MappedScene
from hrrsi.prediction.options import MapOptions, OutputOptions
from hrrsi.prediction.predict import MapInputs, MapObserver, MapTask, map_inputs
from hrrsi.prediction.scene_mapper import SceneMapper
from hrrsi.prediction.scene_remarks import SceneNotice
from hrrsi.prediction.scene_survey import SceneSurvey
from hrrsi.scenes.raster_opening import is_local

if TYPE_CHECKING:
    from distributed import Client

    from hrrsi.evaluation.evaluate import EvaluationTask
    from hrrsi.evaluation.options import EvaluationOptions
    from hrrsi.evaluation.result import EvaluationResult
    from hrrsi.evaluation.scene_evaluation import CountedScene, SceneReading
    from hrrsi.labels.scheme import Scheme

_ANSWER_SECONDS = 10.0  # how long a file may take to be seen from elsewhere
_PLACE = ".hrrsi-"  # what hidden folders in object storage begin with
_SAY_SECONDS = 15.0  # how often a run says there that it goes on
_SILENT_SECONDS = 60.0  # after which it is taken for dead


def mapped_by_workers(
    task: MapTask, cluster: str | ClusterOptions | Client, observer: MapObserver
) -> list[MappedScene]:
    """Map scenes by the workers of a cluster, and return what `hrrsi.predict` does.

    Raises:
        HrrsiError: As there.
        ClusterError: The cluster can't be reached, or its workers don't fit.
        ScenesFailedError: Some of several scenes failed; the others have their maps.
        KeyboardInterrupt: Interrupted; says how to go on.
    """
    with _dealer(task, ClusterOptions.of(cluster)) as dealer:
        return dealer.mapped(observer, show_progress=task.show_progress)


@heeding_signals()
def planned_by_workers(task: MapTask, cluster: str | ClusterOptions | Client) -> PlannedRun:
    """Return what mapping would take on a cluster; the workers are checked, nothing is mapped."""
    with _dealer(task, ClusterOptions.of(cluster)) as dealer:
        return dealer.planned()


def evaluated_by_workers(
    task: EvaluationTask,
    weights: str | Path | None,
    cluster: str | ClusterOptions | Client,
) -> EvaluationResult:
    """Score weights on whole scenes by the workers of a cluster.

    A task counts a scene. Counts are added up in the order of the scenes, so scores are those of
    one process to the last digit. The weights travel through Dask: no folder is shared.

    Raises:
        HrrsiError: As `hrrsi.evaluate`.
        ClusterError: The cluster can't be reached, or its workers don't fit.
    """
    dealt = ClusterOptions.of(cluster)
    file = weights_path(weights)
    files = _weights_files(file)
    with connected(dealt) as client:
        run = Run(
            new_run_id(),
            (),
            tuple((part.name, content_digest(part)) for part in files),
            *_absolute_options(task.mapping, OutputOptions()),
            task.engine,
            own_versions(),
        )
        sent: list[Any] = []

        def arguments(measure: bool) -> tuple[Any, ...]:
            # through the scheduler once, then from worker to worker, until none has it any more
            if not sent or any(part.status != "finished" for part in sent):
                sent[:] = [client.scatter(part.read_bytes()) for part in files]
            return (None, [], measure, sent)

        with Workforce(client, dealt, run, check_worker, arguments) as force:
            facts = _workers(force)
            runner = EngineOfWorkers(*facts[0].engine, read_meta(file))
            counted = replace(task, elsewhere=_Counting(force, task.options))
            return counted.of_weights(weights, runner, None)


@contextmanager
def _dealer(task: MapTask, dealt: ClusterOptions) -> Iterator[SceneDealer]:
    """Yield what deals scenes to workers that were checked."""
    with ExitStack() as stack:
        inputs, files, address = _inputs_and_files(task, stack)
        weights_file = weights_path(task.weights)
        meta = read_meta(weights_file)
        options, outputs = task.options.fitting(meta), task.outputs
        client = stack.enter_context(connected(dealt))
        run_id = new_run_id()
        folders = _folders(files, address)
        for folder in folders:  # one that is made and stays empty goes again
            if address is None and not Path(folder).exists():
                stack.callback(_remove_empty, Path(folder))
            if address is None:
                prepare_folder(Path(folder))
        # beside the map, where workers see a mosaic too
        names = stack.enter_context(inputs.scenes(scratch_folder))
        maps = [file.classes.name for of_scene in files for file in of_scene.maps]
        places = [stack.enter_context(_place(run_id, folder, maps)) for folder in folders]
        run = Run(
            run_id,
            tuple(places),
            _handed_over(weights_file, places[0]),
            *_absolute_options(options, outputs),
            task.engine,
            own_versions(),
            tuple(polygon_state(*_absolute_options(options, outputs))),
        )
        mapper_of = _mapper_of(weights_file, meta, options, outputs)
        probe = mapper_of(("", "", "")).survey
        probe.count_scenes(0)
        first, state = _readable(probe, names)
        force = stack.enter_context(
            Workforce(client, dealt, run, check_worker, lambda measure: (first, state, measure))
        )
        workers = _workers(force)
        _require_answers(places, force)
        mapper = mapper_of(workers[0].engine)
        yield SceneDealer(names, files, address, mapper, meta, options, outputs, dealt, run, force)


def _workers(force: Workforce) -> list[WorkerFacts]:
    """Return what the workers that are there say of themselves."""
    return force.gather(lambda text: warn(text, SceneNotice))


def _absolute_options(
    options: MapOptions, outputs: OutputOptions
) -> tuple[MapOptions, OutputOptions]:
    def whole(path: str | Path | None) -> str | None:
        return None if path is None else absolute(str(path))

    return (
        replace(options, aoi=whole(options.aoi), height=whole(options.height)),
        replace(outputs, zones=whole(outputs.zones)),
    )


def _inputs_and_files(
    task: MapTask, stack: ExitStack
) -> tuple[MapInputs, list[Outputs], str | None]:
    """Return scenes and the files of each, and the address of the object storage they are in."""
    if task.out is None or is_local(str(task.out)):
        inputs = map_inputs(task)
        return inputs, inputs.files, None
    url, outputs = str(task.out), task.outputs
    if url.startswith("/vsis3/"):
        url = f"s3://{url.removeprefix('/vsis3/')}"
    if "://" not in url:
        raise OutputError(
            "can't be written to", where=url, fix="give a folder, or an address such as s3://..."
        )
    for name in ("vector", "preview"):
        kind = getattr(outputs, name)
        if kind is not None and "." in str(kind):
            raise OutputError(
                f"is a file of its own, where maps go to {url}",
                where=kind,
                fix=f"give its kind alone, e.g. `{name}={Path(kind).suffix[1:]}`",
            )
    stage = Path(tempfile.mkdtemp(prefix="hrrsi-"))
    stack.callback(shutil.rmtree, stage, ignore_errors=True)
    is_file = url.lower().endswith((".tif", ".tiff"))
    folder, _, name = url.rpartition("/") if is_file else (url.rstrip("/"), "", "")
    if task.options.mosaic:
        raise OutputError(
            "the mosaic of tiles is made beside the maps, and that is no folder of a file system",
            where=url,
            fix="make it with gdalbuildvrt, and map that without `mosaic`",
        )
    inputs = map_inputs(replace(task, out=stage / name if is_file else stage))
    remote = ObjectFolder(folder)
    remote.require_reachable()
    remote_folder = RemotePath(folder)
    files = [
        moved(each, lambda path: cast(Path, remote_folder / path.name)) for each in inputs.files
    ]
    if not (outputs.overwrite or outputs.resume):
        present = set(remote.names())
        for path in (path for each in files for path in each.files):
            if path.name in present:
                raise OutputExistsError(
                    "exists already",
                    where=path,
                    fix="give `overwrite` to replace it, or another path",
                )
    return inputs, files, folder


def _folders(files: list[Outputs], address: str | None) -> list[str]:
    """Return the folders that files are written to."""
    if address is not None:
        return [address]
    return list(dict.fromkeys(str(path.absolute().parent) for each in files for path in each.files))


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def _place(run_id: str, folder: str, maps: list[str]) -> Iterator[str]:
    """Yield a hidden folder for what a run needs once; it goes with the run.

    Raises:
        OutputError: Another run makes one of the maps in object storage.
    """
    if "://" not in folder:
        # a later run of this machine removes what a killed one has left, but no thread another's
        thread = threading.current_thread()
        own = "" if thread is threading.main_thread() else f"-{thread.ident}"
        with scratch_folder(Path(folder) / f"hrrsi-{socket.gethostname()}{own}") as path:
            (path / "run").write_text(run_id)
            yield str(path)
        return
    # object storage has no locks, but a clock of its own: a run says there that it goes on
    remote, ended = ObjectFolder(f"{folder}/{_PLACE}{run_id}"), threading.Event()
    claim = json.dumps([socket.gethostname(), maps]).encode()

    def go_on_saying() -> None:
        while not ended.wait(_SAY_SECONDS):
            with suppress(HrrsiError):
                remote.write("run", claim)

    remote.write("run", claim)
    speaker = threading.Thread(target=go_on_saying, daemon=True)
    speaker.start()
    try:
        _refuse_other_runs(folder, remote, maps)
        yield remote.url
    finally:
        ended.set()
        speaker.join(timeout=5)
        with suppress(HrrsiError):
            remote.empty()


def _refuse_other_runs(folder: str, own: ObjectFolder, maps: list[str]) -> None:
    """Raise where another run makes one of some maps; remove what killed ones have left.

    Raises:
        OutputError: One does.
    """
    now = own.changed("run")
    for name in ObjectFolder(folder).names():
        other = ObjectFolder(f"{folder}/{name}")
        if not name.startswith(_PLACE) or other.url == own.url:
            continue
        changed_at, content = other.changed("run"), other.read("run")
        if now is None or changed_at is None or content is None:
            continue  # it has just ended
        if (now - changed_at).total_seconds() > _SILENT_SECONDS:
            other.empty()
            continue
        host, others = json.loads(content)
        for common in sorted({*maps} & {*others}):
            raise OutputError(
                f"is being mapped by another run, of {host}",
                where=f"{folder}/{common}",
                fix="wait for it (one that was killed is forgotten after a minute), or choose "
                "another `out`",
            )


def _handed_over(weights: Path, place: str) -> tuple[tuple[str, str], ...]:
    """Put weights where workers find them; return the names of their files, and digests."""
    files, folder = _weights_files(weights), folder_of(place)
    for file in files:
        folder.write(file.name, file.read_bytes())
    return tuple((file.name, content_digest(file)) for file in files)


def _weights_files(weights: Path) -> list[Path]:
    """Return the files of weights: OpenVINO's are two."""
    is_pair = weights.suffix.lower() == ".xml"
    return [weights, weights.with_suffix(".bin")] if is_pair else [weights]


def _mapper_of(
    weights: Path, meta: ModelMeta, options: MapOptions, outputs: OutputOptions
) -> Callable[[tuple[str, str, str]], SceneMapper]:
    """Return what makes the mapper of a run, given the name, precision and device of engines."""

    def mapper(engine: tuple[str, str, str]) -> SceneMapper:
        facts = EngineOfWorkers(*engine, meta)
        provenance = run_provenance(facts, weights, options)
        return SceneMapper(facts, provenance, options, outputs, show_progress=False)

    return mapper


def _readable(survey: SceneSurvey, names: list[str]) -> tuple[str | None, Any]:
    """Return the first scene that can be opened here, and the state of its files; else None.

    Raises:
        HrrsiError: The only one can't be.
    """
    for name in names:
        try:
            with survey.open(name) as source:
                return absolute(name), scene_state(source)
        except Exception:  # of several, each is told of when its turn comes
            if len(names) == 1:
                raise
    return None, []


def _require_answers(places: list[str], force: Workforce) -> None:
    """Raise where what a worker has written is not seen here.

    Raises:
        ClusterError: It writes to another disk of the same name.
    """
    deadline = time.monotonic() + _ANSWER_SECONDS
    for place in places:
        folder = folder_of(place)
        for address, facts in force.facts.items():
            while folder.read(answer_name(address)) is None:
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"what worker {facts.name} writes there is not seen here",
                        where=place.rpartition("/")[0],
                        fix="write to a folder that the client and all workers share, or to "
                        "object storage (s3://...)",
                    )
                time.sleep(0.2)


class _Counting:
    """Counts scenes by workers."""

    def __init__(self, force: Workforce, options: EvaluationOptions) -> None:
        self._force, self._options = force, options

    def __call__(
        self, scheme: Scheme, bar: Any, readings: Sequence[SceneReading]
    ) -> list[CountedScene]:
        """Return what is counted of scenes, in their order."""
        jobs = [
            Job(
                f"evaluate scenes-{reading.file.name}",
                evaluate_scene,
                (_as_workers_see(reading), scheme, self._options),
                number,
            )
            for number, reading in enumerate(readings)
        ]
        waiting = list(reversed(jobs))
        counted: dict[int, CountedScene] = {}
        heard: dict[int, int] = {}
        shown = 0

        def show(job: Job) -> None:
            nonlocal shown
            heard[job.owner] = job.pixels
            now = sum(heard.values())
            bar.update((now - shown) / 1e6)
            shown = now

        def fail(_job: Job, error: Exception) -> None:
            raise error

        self._force.work(
            lambda: waiting.pop() if waiting else None,
            lambda job, result: counted.__setitem__(job.owner, result),
            fail,
            show,
            2,
        )
        return [counted[number] for number in range(len(jobs))]


def _as_workers_see(reading: SceneReading) -> SceneReading:
    file = reading.file

    def shared_path(path: str | None) -> str | None:
        return None if path is None else absolute(path)

    shared_file = replace(
        file,
        image=absolute(file.image),
        label=shared_path(file.label),
        eroded_label=shared_path(file.eroded_label),
        height=shared_path(file.height),
        more_labels=tuple(map(absolute, file.more_labels)),
    )
    height = shared_path(None if reading.mapping.height is None else str(reading.mapping.height))
    return replace(reading, file=shared_file, mapping=replace(reading.mapping, height=height))
