"""What networks cost: `hrrsi.profile`, and how fast they run, for a moment and for a while.

The process that measures speed imports this module, and its memory counts: so torch is not among
what is imported here.
"""

from __future__ import annotations

import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hrrsi.errors import DependencyError, DeviceError, HrrsiError, OptionError
from hrrsi.extras import MODULES, is_installed, requiring
from hrrsi.graphs.exported import ExportedGraph
from hrrsi.graphs.segmentation import NetworkGraph
from hrrsi.hardware import available_cores, chosen_device, processor_name
from hrrsi.interruption import (
    heeding_signals,
    interrupt_kept_from_children,
    spawned_processes,
    stop_if_requested,
)
from hrrsi.networks.architecture import BASELINE_MODELS, GHOSTNET_MODELS, parsed_model
from hrrsi.networks.exported_file import file_bytes, is_exported
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.weights_file import is_weights_file, packaged_name, weights_path
from hrrsi.networks.weights_reading import read_meta
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.engines.engine import Engine, Pixels
from hrrsi.prediction.options import ENGINES, PRECISIONS, EngineOptions
from hrrsi.profiling.figures import (
    PUBLISHED_CLASSES,
    PUBLISHED_SIZE,
    Latency,
    NotMeasured,
    Operations,
    Profile,
    ProfileOptions,
    ProfileStopped,
    SustainedSpeed,
)
from hrrsi.progress import progress
from hrrsi.quantities import counted

_Figures = TypeVar("_Figures", Latency, SustainedSpeed)

_WARM_UP_ROUNDS, _ROUNDS = 2, 9
_PASSES = 8  # windows are computed side by side
_HEED_SECONDS = 0.2  # how long a request to stop may wait
_POWERCAP = Path("/sys/class/powercap")
_ENERGY_SECONDS = 5.0  # counters turn over after minutes at the least


@heeding_signals()
def profile(
    models: Sequence[str] = (),
    *,
    weights: str | Path | None = None,
    options: ProfileOptions = ProfileOptions(),
    show_progress: bool = False,
) -> list[Profile]:
    """Return what networks cost.

    Args:
        models: Their names, as `hrrsi.networks.architecture.parsed_model` understands them; where
            neither these nor `weights` are given, ours at three widths, with ResNets, and the
            baselines, or with `seconds` of the options the packaged weights alone.
        weights: A weights file, or the name of weights inside the package; their network comes
            last.
        options: The window, and whether speed is measured.
        show_progress: Whether a bar on a terminal's standard error shows how far it is.

    Raises:
        OptionError: A name is not a model's.
        WeightsError: The weights file can't be used.
        DeviceError: The device is not to be had, or its memory does not hold network and batch.
        DependencyError: PyTorch is not installed. The speed of weights that have a graph is
            measured without it, and their operations are not counted.
        ProfileStopped: Stopped (a KeyboardInterrupt) once some figures of `seconds` were there.
    """
    if not models and weights is None:
        if options.seconds is None:
            models = (*GHOSTNET_MODELS, *BASELINE_MODELS)
        else:
            weights = weights_path(None)
    for name in models:  # an unknown name fails before the first is measured
        if is_weights_file(Path(name)):
            raise OptionError(f"{name!r} names weights, no model", fix=f"give `weights={name}`")
        parsed_model(name)
    path = None if weights is None else weights_path(weights)
    options = replace(options, device=chosen_device(options.device))
    if path is not None and is_exported(path):
        options = _of_its_window(path, options, alone=not models)
    networks: list[str | Path] = [*models, *([] if path is None else [path])]
    ways = _ways(options)
    profiles: list[Profile] = []
    if options.seconds is None:
        bar = progress("profiling", len(networks), " models", enabled=show_progress)
    else:
        seconds = len(networks) * len(ways) * options.seconds
        bar = progress("profiling", seconds, " s", enabled=show_progress)
    with bar as advance:
        try:
            for network in networks:
                profiles.append(costs_of(network, options))
                if options.latency:
                    _measure_speed(network, options, ways, profiles, advance.update)
                if options.seconds is None:
                    advance.update()
        except KeyboardInterrupt as error:
            if any(profile.sustained for profile in profiles):
                raise ProfileStopped(profiles) from error
            raise
    return profiles


def _of_its_window(path: Path, options: ProfileOptions, *, alone: bool) -> ProfileOptions:
    """Return options with the window that an exported network takes.

    Raises:
        OptionError: They ask for another one, or networks beside it are counted for another one.
        WeightsError: It can't be used.
    """
    window = read_meta(path).window
    assert window is not None
    if options.size not in (window, *([PUBLISHED_SIZE] if alone else [])):
        raise OptionError(
            f"{options.size} px, and {path.name} takes windows of {window} px",
            parameter="size",
            fix=f"give `size={window}`",
        )
    return replace(options, size=window)


def costs_of(network: str | Path, options: ProfileOptions) -> Profile:
    """Return what a network by name, or in a file, costs, without its speed."""
    if isinstance(network, str):
        with requiring("gpu", "profiling"):
            from hrrsi.profiling.operations import profile_model

        return profile_model(network, classes=options.classes, size=options.size)
    if is_exported(network):
        exported = ExportedGraph(network)
        return Profile(
            model=exported.meta.model,
            weights=network.name,
            classes=len(exported.meta.classes),
            size=options.size,
            parameters=exported.parameters,
            operations=Operations(exported.macs, None),
            ptflops_macs=None,
            file_bytes=file_bytes(network),
            pruned=exported.meta.pruned,
        )
    meta = read_meta(network) if options.latency and not _counts_operations() else None
    if meta is not None and parsed_model(meta.model).has_graph:
        graph = NetworkGraph(network)
        graph.onnx(meta.band_count, options.size, options.size, meta.dtype)
        costs = Profile(
            model=meta.model,
            weights=network.name,
            classes=len(meta.classes),
            size=options.size,
            parameters=graph.parameters,
            operations=None,
            ptflops_macs=None,
            file_bytes=network.stat().st_size,
            pruned=meta.pruned,
        )
    else:
        with requiring("gpu", "profiling"):
            from hrrsi.profiling.operations import profile_weights

        costs = profile_weights(network, size=options.size)
    return replace(costs, packaged=packaged_name(network))


def _counts_operations() -> bool:
    return all(is_installed(module) for module in MODULES["gpu"])


def _ways(options: ProfileOptions) -> list[list[EngineOptions]]:
    """Return runtimes and precisions to measure, each on one thread and on all, fewest first."""
    engines = ENGINES[1:] if options.engine == "auto" else (options.engine,)
    precisions = PRECISIONS[1:] if options.precision == "auto" else (options.precision,)
    cores = available_cores()
    on_gpu = chosen_device(options.device).startswith("cuda")
    return [
        [
            EngineOptions(
                engine=engine,
                precision=precision,
                device=options.device if engine == "torch" else "cpu",
                threads=threads,
                batch=options.batch,
            )
            for threads in ((cores,) if on_gpu and engine == "torch" else sorted({1, cores}))
        ]
        for engine in engines
        for precision in precisions
    ]


def _measure_speed(
    network: str | Path,
    options: ProfileOptions,
    ways: Sequence[Sequence[EngineOptions]],
    profiles: list[Profile],
    advance: Callable[[float], Any],
) -> None:
    """Add to the last profile how fast its network runs, as soon as each figure is there."""
    with _weights_of(network, options.classes) as path:
        latency = _in_own_process(_latency, path, options.size, options.engine_options())
        profiles[-1] = replace(profiles[-1], latency=latency)
        if options.seconds is None:
            return
        for way in ways:
            left = len(way) * options.seconds
            try:
                for engine in way:
                    arguments = (path, options.size, engine, options.seconds)
                    speed = _in_own_process(_sustained, *arguments, advance=advance)
                    left -= options.seconds
                    profiles[-1] = replace(profiles[-1], sustained=(*profiles[-1].sustained, speed))
            except HrrsiError as error:
                # what to do instead is of no use here, but for what is to be installed
                reason = str(error) if isinstance(error, DependencyError) else error.what
                missing = NotMeasured(way[0].engine, way[0].precision, reason)
                profiles[-1] = replace(
                    profiles[-1], not_measured=(*profiles[-1].not_measured, missing)
                )
                advance(left)


@contextmanager
def _weights_of(network: str | Path, classes: int) -> Iterator[Path]:
    """Yield the weights file of a network; of one by name, a file of random weights."""
    if isinstance(network, Path):
        yield network
        return
    from hrrsi.networks.segmentation import build_network
    from hrrsi.networks.weights import save_weights

    meta = ModelMeta(
        model=network,
        classes=[f"class {index}" for index in range(classes)],
        colours=[(0, 0, 0)] * classes,
        bands=[1, 2, 3],
        dtype="uint8",
        scale=255.0,
        mean=[0.5] * 3,
        std=[0.2] * 3,
        resolution=None,
        scheme="",
        training={},
        scores={},
        licence="",
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.safetensors"
        save_weights(build_network(network, classes).state_dict(), meta, path)
        yield path


def model_latency(
    model: str,
    *,
    classes: int = PUBLISHED_CLASSES,
    size: int = PUBLISHED_SIZE,
    batch: int = 1,
    device: str = "cpu",
) -> Latency:
    """Return how fast a network by name runs, measured in a process of its own.

    A script that calls this needs ``if __name__ == "__main__":``, since that process imports it.

    Args:
        model: Its name, as `hrrsi.networks.architecture.parsed_model` understands it.
        classes: Number of classes.
        size: Rows and columns of a window.
        batch: Windows a pass.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        DeviceError: The device's memory does not hold network and batch, or the process can't
            start.
    """
    with _weights_of(model, classes) as path:
        return weights_latency(path, size=size, batch=batch, device=device)


def weights_latency(
    path: Path, *, size: int = PUBLISHED_SIZE, batch: int = 1, device: str = "cpu"
) -> Latency:
    """Return how fast the network in a weights file runs; see `model_latency`."""
    return _in_own_process(_latency, path, size, EngineOptions(device=device, batch=batch))


def _in_own_process(
    function: Callable[..., _Figures],
    *arguments: Any,
    advance: Callable[[float], Any] | None = None,
) -> _Figures:
    """Return what a function returns in a process that does nothing else.

    The peak of a process never falls: what is measured in one process would share the largest.

    Args:
        function: One of this module.
        arguments: What it is called with; where `advance` is given, the last one is for how many
            seconds it measures.
        advance: Is told seconds as they pass.
    """
    with spawned_processes(1, fix="lower `batch` or `size`") as pool:
        with interrupt_kept_from_children():
            result = pool.submit(function, *arguments)
        passed, began = 0.0, time.monotonic()
        while not wait([result], _HEED_SECONDS).done:
            stop_if_requested()
            if advance is not None:
                step = min(time.monotonic() - began, arguments[-1]) - passed
                advance(step)
                passed += step
        figures = result.result()
        if advance is not None:
            advance(arguments[-1] - passed)
        return figures


def _latency(path: Path, size: int, options: EngineOptions) -> Latency:
    engine = open_engine(path, options)
    batch = options.batch or 1
    windows, normal = _windows(engine, size, _PASSES * batch)
    seconds = []
    for _ in range(_WARM_UP_ROUNDS + _ROUNDS):
        started = time.perf_counter()
        _run(engine, windows, normal)
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds[_WARM_UP_ROUNDS:]) / len(windows)
    return Latency(
        device=_device_name(engine.device, available_cores()),
        engine=f"{engine.name}, precision {engine.precision}",
        batch=batch,
        milliseconds=1e3 * median,
        megapixels_per_second=size * size / 1e6 / median,
        peak_memory_bytes=_peak_memory(engine.device),
    )


def _sustained(path: Path, size: int, options: EngineOptions, seconds: float) -> SustainedSpeed:
    """Return how a network runs for some seconds.

    Raises:
        DeviceError: The runtime does not calculate in that precision.
    """
    engine = open_engine(path, options)
    if engine.precision != options.precision:
        raise DeviceError(f"it is the same as precision {engine.precision} here")
    threads = options.threads or available_cores()
    windows, normal = _windows(engine, size, engine.side_by_side * (options.batch or 1))
    for _ in range(_WARM_UP_ROUNDS):
        _run(engine, windows, normal)
    energy = Energy()
    ends = [time.perf_counter()]
    while ends[-1] < ends[0] + seconds:
        _run(engine, windows, normal)
        ends.append(time.perf_counter())
        energy.read(ends[-1])
    rounds = np.diff(ends)
    quarter = max(1, len(rounds) // 4)
    count = len(rounds) * len(windows)
    joules = energy.joules()
    p50, p99 = np.percentile(1e3 * rounds, (50, 99))
    return SustainedSpeed(
        engine=engine.name,
        precision=engine.precision,
        threads=threads,
        device=_device_name(engine.device, None),
        seconds=ends[-1] - ends[0],
        windows=count,
        p50_milliseconds=float(p50),
        p99_milliseconds=float(p99),
        windows_per_second=count / (ends[-1] - ends[0]),
        first_quarter=len(windows) / float(rounds[:quarter].mean()),
        last_quarter=len(windows) / float(rounds[-quarter:].mean()),
        joules_per_window=None if joules is None else joules / count,
        energy_missing=energy.missing,
        peak_memory_bytes=_peak_memory(engine.device),
    )


def _run(engine: Engine, windows: Sequence[Pixels], normal: tuple[Any, Any]) -> None:
    for _ in engine.logits(windows, *normal):
        pass


def _windows(engine: Engine, size: int, count: int) -> tuple[list[Pixels], tuple[Any, Any]]:
    """Return windows without content, and the normalisation that they go with."""
    windows: list[Pixels] = [np.zeros((engine.meta.band_count, size, size), dtype=np.uint8)] * count
    return windows, engine.meta.normalisation()


class Energy:
    """Counts what the processor's packages take, where Linux tells it (RAPL, by powercap).

    Args:
        folder: Where powercap shows its zones.

    Attributes:
        missing: Why there is no figure; empty where there is one.
    """

    def __init__(self, folder: Path = _POWERCAP) -> None:
        # one of a package alone; its parts, and the same again over another bus, have other names
        zones = [
            zone
            for zone in sorted(folder.glob("intel-rapl:*"))
            if zone.name.count(":") == 1 and _text(zone / "name").startswith("package")
        ]
        self._zones = dict.fromkeys(zones, 0.0)
        self._microjoules = 0.0
        self._read_at = -math.inf
        self.missing = "" if zones else f"not told by this kernel (no package in {folder})"
        self.read(0.0)
        self._microjoules = 0.0

    def read(self, now: float) -> None:
        """Read the counters, unless that was done a moment ago."""
        if self.missing or now - self._read_at < _ENERGY_SECONDS:
            return
        self._read_at = now
        for zone, before in self._zones.items():
            try:
                count = float((zone / "energy_uj").read_text())
                largest = float((zone / "max_energy_range_uj").read_text())
            except PermissionError:
                self.missing = f"only root may read it here ({zone / 'energy_uj'})"
                return
            except (OSError, ValueError):
                self.missing = f"not told by this kernel ({zone / 'energy_uj'} is not readable)"
                return
            self._microjoules += (count - before) % (largest + 1)
            self._zones[zone] = count

    def joules(self) -> float | None:
        """Return the energy since the beginning, or None where it is not told."""
        self.read(math.inf)
        return None if self.missing else self._microjoules / 1e6


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _peak_memory(device: str) -> int:
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    import resource

    status = Path("/proc/self/status")
    if status.exists():  # unlike ru_maxrss it starts anew with the process' program
        lines = status.read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else 1024 * peak


def _device_name(device: str, threads: int | None) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    name = processor_name()
    return name if threads is None else f"{name}, {counted(threads, 'thread')}"
