"""Maps scenes by the workers of a cluster, in the same bytes as one process does."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hrrsi.cluster.connection import ClusterOptions, connected
from hrrsi.cluster.readiness import (
    EngineOfWorkers,
    Run,
    answer_name,
    check_worker,
    own_versions,
    scene_state,
)
from hrrsi.cluster.scene_dealer import PlannedRun, SceneDealer
from hrrsi.cluster.strip_files import (
    ObjectFolder,
    RemotePath,
    folder_of,
)
from hrrsi.cluster.worker import absolute, moved
from hrrsi.cluster.workforce import Workforce, new_run_id
from hrrsi.errors import ClusterError, HrrsiError, OptionError, OutputError, OutputExistsError
from hrrsi.files import content_digest, prepare_folder, scratch_folder
from hrrsi.interruption import heeding_signals
from hrrsi.maps.outputs import Outputs
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.weights_file import weights_path
from hrrsi.networks.weights_reading import read_meta
from hrrsi.prediction import predict as one_process
from hrrsi.prediction.map_writer import run_provenance
from hrrsi.prediction.mapped_scene import MappedScene
from hrrsi.prediction.options import EngineOptions, MapOptions, OutputOptions
from hrrsi.prediction.predict import MapInputs, map_inputs
from hrrsi.prediction.scene_checks import SceneNotice
from hrrsi.prediction.scene_mapper import SceneMapper
from hrrsi.scenes.raster_opening import is_local

if TYPE_CHECKING:
    from distributed import Client

_ANSWER_SECONDS = 10.0  # how long a file may take to be seen from elsewhere


@heeding_signals()
def predict(
    scenes: str | Path | Sequence[str | Path],
    weights: str | Path | None = None,
    out: str | Path | None = None,
    options: MapOptions = MapOptions(),
    engine: EngineOptions = EngineOptions(),
    outputs: OutputOptions = OutputOptions(),
    *,
    cluster: str | ClusterOptions | Client | None = None,
    show_progress: bool = False,
    on_mapped: Callable[[MappedScene], None] | None = None,
    on_failed: Callable[[str, Exception], None] | None = None,
) -> list[MappedScene]:
    """Map scenes: write a georeferenced class raster for each, and what else is asked for.

    Memory does not grow with the height of a scene. Whatever stops a run, it leaves a hidden folder
    beside the map, from which ``OutputOptions(resume=True)`` goes on. The workers of a cluster
    write the same bytes as this process alone.

    Examples:
        >>> hrrsi.predict("scene.tif", out="maps/")[0].shares  # doctest: +SKIP
        [0.13, 0.52, 0.09, 0.1, 0.16]
        >>> hrrsi.predict("flights/", out="maps/", cluster="local:4")  # doctest: +SKIP

    Args:
        scenes: One or many rasters, patterns (``scenes/*.tif``) or folders.
        weights: A weights file, or the name of weights inside the package: ``default``, which it
            is by default, or ``light``.
        out: A ``.tif`` file for one scene, or a folder; by default the current folder, where maps
            are named ``SCENE_classes.tif``. With `cluster` also an address such as
            ``s3://bucket/maps/``.
        options: How scenes are read and mapped.
        engine: What runs the network.
        outputs: What is written beside the class maps, and what may be there already.
        cluster: Who maps: a `distributed.Client`, the address of a Dask scheduler, or
            `ClusterOptions`; None: this process.
        show_progress: Whether to show progress in megapixels on a terminal.
        on_mapped: Called with each scene once it has its map.
        on_failed: Called with each of several scenes that fails, and why.

    Returns:
        What was mapped, in the order of the scenes.

    Raises:
        HrrsiError: A scene, an output or an option is not usable.
        ClusterError: The cluster can't be reached, or its workers don't fit.
        ScenesFailedError: Some of several scenes failed; the others have their maps.
        KeyboardInterrupt: Interrupted; says how to go on.
    """
    if cluster is None:
        if out is not None and not is_local(str(out)):
            raise OptionError(
                f"{out} is written to by the workers of a cluster alone",
                parameter="cluster",
                fix="give one (local:4 for processes of this machine), or a folder as `out`",
            )
        return one_process.predict(
            scenes, weights, out, options, engine, outputs,
            show_progress=show_progress, on_mapped=on_mapped, on_failed=on_failed,
        )  # fmt: skip
    with _prepared(scenes, weights, out, options, engine, outputs, cluster) as mapping:
        return mapping.mapped(show_progress, on_mapped, on_failed)


@heeding_signals()
def plan(
    scenes: str | Path | Sequence[str | Path],
    weights: str | Path | None = None,
    out: str | Path | None = None,
    options: MapOptions = MapOptions(),
    engine: EngineOptions = EngineOptions(),
    outputs: OutputOptions = OutputOptions(),
    *,
    cluster: str | ClusterOptions | Client,
) -> PlannedRun:
    """Return what `predict` would do on a cluster; the workers are checked, nothing is mapped."""
    with _prepared(scenes, weights, out, options, engine, outputs, cluster) as mapping:
        return mapping.planned()


@contextmanager
def _prepared(
    scenes: str | Path | Sequence[str | Path],
    weights: str | Path | None,
    out: str | Path | None,
    options: MapOptions,
    engine: EngineOptions,
    outputs: OutputOptions,
    cluster: str | ClusterOptions | Client,
) -> Iterator[SceneDealer]:
    """Yield the mapping of scenes by workers that were checked."""
    dealt = cluster if isinstance(cluster, ClusterOptions) else ClusterOptions(cluster)
    with ExitStack() as stack:
        inputs, files, address = _inputs_and_files(scenes, out, options, outputs, stack)
        weights_file = weights_path(weights)
        meta = read_meta(weights_file)
        options = options.fitting(meta)
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
        places = [stack.enter_context(_place(run_id, folder)) for folder in folders]
        run = Run(
            run_id,
            tuple(places),
            _handed_over(weights_file, places[0]),
            *_absolute_options(options, outputs),
            engine,
            own_versions(),
        )
        mapper_of = _mapper_of(weights_file, meta, options, outputs)
        probe = mapper_of(("", "", ""))
        probe.count_scenes(0)
        first, state = _readable(probe, names)
        force = stack.enter_context(
            Workforce(client, dealt, run, check_worker, lambda measure: (first, state, measure))
        )
        workers = force.gather(lambda what: warnings.warn(what, SceneNotice, stacklevel=2))
        _require_answers(places, force)
        mapper = mapper_of(workers[0].engine)
        yield SceneDealer(names, files, address, mapper, meta, options, outputs, dealt, run, force)


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
    scenes: str | Path | Sequence[str | Path],
    out: str | Path | None,
    options: MapOptions,
    outputs: OutputOptions,
    stack: ExitStack,
) -> tuple[MapInputs, list[Outputs], str | None]:
    """Return scenes and the files of each, and the address of the object storage they are in."""
    if out is None or is_local(str(out)):
        inputs = map_inputs(scenes, out, options, outputs)
        return inputs, inputs.files, None
    url = str(out)
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
    if options.mosaic:
        raise OutputError(
            "the mosaic of tiles is made beside the maps, and that is no folder of a file system",
            where=url,
            fix="make it with gdalbuildvrt, and map that without `mosaic`",
        )
    inputs = map_inputs(scenes, stage / name if is_file else stage, options, outputs)
    remote = ObjectFolder(folder)
    remote.require_reachable()
    there_all = RemotePath(folder)
    files = [moved(each, lambda path: cast(Path, there_all / path.name)) for each in inputs.files]
    if not (outputs.overwrite or outputs.resume):
        there = set(remote.names())
        for path in (path for each in files for path in each.files):
            if path.name in there:
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
def _place(run_id: str, folder: str) -> Iterator[str]:
    """Yield a hidden folder for what a run needs once; it goes with the run."""
    if "://" not in folder:
        # a later run of this machine removes what a killed one has left, but no thread another's
        thread = threading.current_thread()
        own = "" if thread is threading.main_thread() else f"-{thread.ident}"
        with scratch_folder(Path(folder) / f"hrrsi-{socket.gethostname()}{own}") as path:
            (path / "run").write_text(run_id)
            yield str(path)
        return
    place = f"{folder}/.hrrsi-{run_id}"
    remote = ObjectFolder(place)
    remote.write("run", run_id.encode())
    try:
        yield place
    finally:
        with suppress(HrrsiError):
            for name in remote.names():
                remote.remove(name)


def _handed_over(weights: Path, place: str) -> tuple[tuple[str, str], ...]:
    """Put weights where workers find them; return the names of their files, and digests."""
    files = [weights]
    if weights.suffix.lower() == ".xml":
        files.append(weights.with_suffix(".bin"))
    folder = folder_of(place)
    for file in files:
        folder.write(file.name, file.read_bytes())
    return tuple((file.name, content_digest(file)) for file in files)


def _mapper_of(
    weights: Path, meta: ModelMeta, options: MapOptions, outputs: OutputOptions
) -> Callable[[tuple[str, str, str]], SceneMapper]:
    """Return what makes the mapper of a run, given the name, precision and device of engines."""

    def mapper(engine: tuple[str, str, str]) -> SceneMapper:
        facts = EngineOfWorkers(*engine, meta)
        provenance = run_provenance(facts, weights, options)
        return SceneMapper(facts, provenance, options, outputs, show_progress=False)

    return mapper


def _readable(mapper: SceneMapper, names: list[str]) -> tuple[str | None, Any]:
    """Return the first scene that can be opened here, and the state of its files; else None.

    Raises:
        HrrsiError: The only one can't be.
    """
    for name in names:
        try:
            with mapper.open(name) as source:
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
