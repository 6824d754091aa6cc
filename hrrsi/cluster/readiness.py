"""Makes a worker ready for a run: checks that it fits, fetches the weights, opens the engine once.

What is ready stays in the worker's process until the run ends.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from hrrsi.cluster.strip_files import (
    folder_of,
)
from hrrsi.errors import (
    ClusterError,
    HrrsiError,
    InputError,
    OutputError,
)
from hrrsi.graphs.graph import Floats
from hrrsi.hardware import available_cores, processor_name
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.map_writer import SCENE_FILES, scene_file_states
from hrrsi.prediction.mapped_scene import seconds_a_window
from hrrsi.prediction.options import EngineOptions, MapOptions, OutputOptions
from hrrsi.prediction.scene_mapper import SceneMapper
from hrrsi.prediction.sliding_window import symmetries
from hrrsi.scenes.window_source import SceneWindows

# what labels depend on beside the code; an engine's own is named by `EngineFacts.name`
_PACKAGES = ("hrrsi", "numpy", "rasterio", "openvino", "onnxruntime", "torch")
SceneState = list[tuple[str | int, ...]]


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
    """

    id: str
    places: tuple[str, ...]
    weights: tuple[tuple[str, str], ...]
    options: MapOptions
    outputs: OutputOptions
    engine: EngineOptions
    versions: tuple[tuple[str, str], ...]


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
    logit_stride: int = 4
    side_by_side: int = 1

    def prepare(self, height: int, width: int) -> None:
        """Do nothing: workers do."""

    def logits(
        self, windows: Any, gain: Floats, offset: Floats
    ) -> Generator[Floats | None, None, None]:
        """Raise, since workers compute."""
        raise NotImplementedError


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


one_at_a_time = threading.Lock()
_ready: dict[str, Ready] = {}  # by the run
ended: set[str] = set()


@lru_cache(maxsize=1)
def own_versions() -> tuple[tuple[str, str], ...]:
    """Return the packages that labels depend on, with a digest of hrrsi's own code."""
    found = {}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    import rasterio  # not at the top: its name there is that of many things

    found["GDAL"] = rasterio.__gdal_version__
    code = hashlib.sha256()
    package = Path(__file__).parents[1]
    for file in sorted(package.rglob("*.py")):
        code.update(str(file.relative_to(package)).encode() + file.read_bytes())
    found["hrrsi"] = f"{found.get('hrrsi', '?')} (code {code.hexdigest()[:8]})"
    return tuple(found.items())


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
    """
    name = _own_name()
    with one_at_a_time:
        ended.discard(run.id)
        _compare_versions(dict(run.versions), run.engine, name)
        weights = _fetched_weights(run, name, weights_there)
        threads = min(_declared_threads() or available_cores(), available_cores())
        options = run.engine
        options = replace(options, threads=options.threads or threads)
        engine = open_engine(weights, options)
        map_options = run.options.fitting(engine.meta)
        # what makes the maps is in their records, which the client has
        mapper = SceneMapper(engine, {}, map_options, run.outputs, show_progress=False)
        mapper.count_scenes(0)  # the client has said what there is to say
        if scene is not None:
            _require_same(mapper, scene, state, name)
        _ready[run.id] = Ready(engine, mapper, weights.parent)
        seconds = None
        if measure:
            seconds = seconds_a_window(engine, map_options.effective_window)
            seconds *= len(symmetries(map_options.augmentation))
    return WorkerFacts(
        name,
        (engine.name, engine.precision, engine.device),
        processor_name(),
        options.threads or threads,
        seconds,
    )


def _require_same(mapper: SceneMapper, scene: str, state: SceneState, name: str) -> None:
    """Raise where a scene can't be read on this worker, or is another one.

    Raises:
        ClusterError: It can't, or is.
    """
    try:
        with mapper.open(scene) as source:
            own = scene_state(source)
    except InputError as error:
        raise ClusterError(
            f"worker {name} can't read a scene ({error.what})",
            where=scene,
            fix="let workers see scenes under the same path as the client, or name them by "
            "an address such as s3://",
        ) from error
    if own != state:
        raise ClusterError(
            f"is another file on worker {name} than here, by size or time",
            where=scene,
            fix="let workers and client see the same files",
        )


def end_run(run_id: str) -> None:
    """Let tasks of a run stop where they are, and forget what was kept for it."""
    ended.add(run_id)
    ready = _ready.pop(run_id, None)
    if ready is not None:
        shutil.rmtree(ready.folder, ignore_errors=True)


def scene_state(source: SceneWindows) -> SceneState:
    """Return names, sizes and times of change of a scene's files.

    Folders may be mounted elsewhere on another machine, so that paths differ.
    """
    return states_of(scene_file_states(source.scene))


def states_of(identity: Mapping[str, Any]) -> SceneState:
    """Return the same of what a map depends on."""
    groups = [identity.get(name) or {} for name in SCENE_FILES]
    of_many: SceneState = [(group,) for group in groups if isinstance(group, str)]
    listed = (group for group in groups if not isinstance(group, str))
    return of_many + sorted((Path(name).name, *s) for group in listed for name, s in group.items())


def ready_for(run: Run) -> Ready:
    """Return what this worker keeps for a run.

    Raises:
        NotReadyError: It was not checked for it.
    """
    ready = _ready.get(run.id)
    if ready is None:
        raise NotReadyError("was not checked for this run", where=_address())
    return ready


def _compare_versions(client: dict[str, str], engine: EngineOptions, name: str) -> None:
    """Raise where packages differ from the client's.

    Raises:
        ClusterError: They do.
    """
    own = dict(own_versions())
    optional = {"onnxruntime", "torch"} - {engine.engine}
    for package in dict.fromkeys((*client, *own)):
        here, there = own.get(package), client.get(package)
        if here == there or (package in optional and None in (here, there)):
            continue
        raise ClusterError(
            f"worker {name} runs {package} {here or '(none)'}, the client {there or '(none)'}",
            fix="install the same versions on both (`pip install -c constraints.txt`)",
        )


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


def answer_name(address: str) -> str:
    """Return the file that a worker writes to show that it reaches a folder."""
    return f"answer-{hashlib.sha256(address.encode()).hexdigest()[:16]}"


def _own_folder(run_id: str) -> Path:
    """Return where this worker keeps what it needs for a run."""
    mark = hashlib.sha256(_address().encode()).hexdigest()[:8]
    return scratch_folder() / f"hrrsi-{run_id}-{os.getpid()}-{mark}"


def scratch_folder() -> Path:
    """Return a folder of this machine for files that nobody needs later."""
    with suppress(ValueError):
        return Path(_worker().local_directory)  # Dask removes it when the worker ends
    return Path(tempfile.gettempdir())


def _worker() -> Any:
    from distributed import get_worker

    return get_worker()


def _address() -> str:
    with suppress(ValueError):
        return str(_worker().address)
    return ""


def _declared_threads() -> int | None:
    with suppress(ValueError):
        return int(_worker().state.nthreads)
    return None


def _own_name() -> str:
    return f"{socket.gethostname()} ({_address()})"
