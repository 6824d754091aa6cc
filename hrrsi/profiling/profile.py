"""What networks cost: `hrrsi.profile`, how fast they run, and the table of it all.

The process that measures speed imports this module, and its memory counts: so torch is not among
what is imported here.
"""

from __future__ import annotations

import multiprocessing
import platform
import statistics
import tempfile
import textwrap
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np

from hrrsi.errors import DeviceError
from hrrsi.extras import requiring
from hrrsi.hardware import available_cores, chosen_device
from hrrsi.interruption import heeding_signals, interrupt_kept_from_children, stop_if_requested
from hrrsi.networks.architecture import BASELINE_MODELS, GHOSTNET_MODELS, parsed_model
from hrrsi.networks.model_meta import ModelMeta, pruning_lines
from hrrsi.networks.weights_file import packaged_name, weights_path
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.options import EngineOptions
from hrrsi.profiling.figures import (
    PUBLISHED_CLASSES,
    PUBLISHED_SIZE,
    Latency,
    Profile,
    ProfileOptions,
)
from hrrsi.progress import progress
from hrrsi.quantities import counted

_WARM_UP_ROUNDS, _ROUNDS = 2, 9
_PASSES = 8  # windows are computed side by side


@requiring("gpu", "profiling")
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
            baselines.
        weights: A weights file, or the name of weights inside the package; their network comes
            last.
        options: The window, and whether speed is measured.
        show_progress: Whether a bar on a terminal's standard error shows how far it is.

    Raises:
        OptionError: A name is not a model's.
        WeightsError: The weights file can't be used.
        DeviceError: The device is not to be had, or its memory does not hold network and batch.
        DependencyError: PyTorch is not installed.
    """
    from hrrsi.profiling.operations import profile_model, profile_weights

    if not models and weights is None:
        models = (*GHOSTNET_MODELS, *BASELINE_MODELS)
    for name in models:
        parsed_model(name)  # an unknown name fails before the first is measured
    path = None if weights is None else weights_path(weights)
    device = chosen_device(options.device)
    size, batch, classes = options.size, options.batch, options.classes
    profiles: list[Profile] = []
    total = len(models) + (path is not None)
    with progress("profiling", total, " models", enabled=show_progress) as bar:
        for name in models:
            costs = profile_model(name, classes=classes, size=size)
            if options.latency:
                latency = model_latency(
                    name, classes=classes, size=size, batch=batch, device=device
                )
                costs = replace(costs, latency=latency)
            profiles.append(costs)
            bar.update()
        if path is not None:
            costs = replace(profile_weights(path, size=size), packaged=packaged_name(path))
            if options.latency:
                latency = weights_latency(path, size=size, batch=batch, device=device)
                costs = replace(costs, latency=latency)
            profiles.append(costs)
            bar.update()
    return profiles


def profile_table(
    profiles: Sequence[Profile], *, style: Literal["table", "markdown"] = "table"
) -> str:
    """Return profiles as a table, followed by a line on each column's convention.

    Args:
        profiles: One a row, all of the same window size, and all with a latency or none.
        style: ``table`` for the terminal, or ``markdown``.
    """
    from prettytable import PrettyTable, TableStyle  # its memory would be measured

    ptflops = f"ptflops {metadata.version('ptflops')}"
    names = [
        "model",
        "parameters",
        "published\nFLOPs (G)",
        "published\ntable (G)",
        f"{ptflops}\n(GMACs)",
        "conv+matmul\nMACs (G)",
        "real\nFLOPs (G)",
        "weights\nfile (MB)",
    ]
    if profiles[0].latency is not None:
        names += ["latency\n(ms/window)", "speed\n(Mpx/s)", "peak\nmemory (MB)"]
    rows = [_profile_cells(profile) for profile in profiles]
    if style == "markdown":
        table = PrettyTable([name.replace("\n", " ") for name in names])
        table.set_style(TableStyle.MARKDOWN)
    else:  # PrettyTable breaks lines in rows, not in headers
        table = PrettyTable(names, header=False)
        table.add_row(names, divider=True)
    table.add_rows(rows)
    table.align = "r"
    table.align[table.field_names[0]] = "l"
    notes = _notes(profiles, ptflops)
    if style == "markdown":
        lines = [f"- {note}" for note in notes]
    else:
        lines = [
            textwrap.fill(note, 98, subsequent_indent="  ", break_on_hyphens=False)
            for note in notes
        ]
    return "\n".join([table.get_string(), "", *lines])


def _profile_cells(profile: Profile) -> list[str]:
    published, operations = profile.published, profile.operations
    name = profile.model if profile.weights is None else f"{profile.model} ({profile.weights})"
    return [
        name,
        f"{profile.parameters:,}",
        f"{operations.published / 1e9:.2f}",
        f"{published.gflops:.2f}" if published else "-",
        f"{profile.ptflops_macs / 1e9:.3f}",
        f"{operations.macs / 1e9:.3f}",
        f"{2 * operations.macs / 1e9:.3f}",
        f"{profile.file_bytes / 1e6:.2f}",
        *([] if profile.latency is None else _latency_cells(profile.latency)),
    ]


def _latency_cells(latency: Latency) -> list[str]:
    return [
        f"{latency.milliseconds:.1f}",
        f"{latency.megapixels_per_second:.2f}",
        f"{latency.peak_memory_bytes / 1e6:.0f}",
    ]


def _notes(profiles: Sequence[Profile], ptflops: str) -> list[str]:
    size = profiles[0].size
    classes = " and ".join(str(c) for c in sorted({p.classes for p in profiles}))
    notes = [
        f"One {size}x{size} window, {classes} classes, all heads. G = 1e9, MB = 1e6 bytes.",
        "published FLOPs: the convention of the published table, counted here: "
        "multiply-accumulates of convolutions + 1 per element for a bias, 2 for BatchNorm, 1 for "
        "ReLU.",
        "published table: what that table says (6 classes, 512x512), - where it says nothing.",
        f"{ptflops}: its pytorch backend; counts resizing, pooling and Python-level calls too.",
        "conv+matmul MACs: multiply-accumulates of convolutions and matrix products alone.",
        "real FLOPs: a multiplication and an addition for each of those MACs.",
        "weights file: float32 .safetensors without metadata, or the file named.",
    ]
    notes += [
        f"{profile.model} ({profile.weights}): pruned {line}."
        for profile in profiles
        for _, line in pruning_lines(profile.pruned)
    ]
    models_by_way: dict[str, list[str]] = {}
    for profile in profiles:
        if (latency := profile.latency) is not None:
            way = f"{latency.engine}, batch {latency.batch}, on {latency.device}"
            models_by_way.setdefault(way, []).append(profile.model)
    if models_by_way:
        ways = [
            way if len(models_by_way) == 1 else f"{', '.join(models)} by {way}"
            for way, models in models_by_way.items()
        ]
        notes += [
            "latency: median time as `hrrsi predict` runs the network (segmentation head alone, "
            f"copies to and from the device included): {'; '.join(ways)}.",
            "peak memory: of a process that does nothing else; on a GPU, what PyTorch held there.",
        ]
    return notes


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
        DeviceError: The device's memory does not hold network and batch.
    """
    from hrrsi.networks.segmentation import build_network
    from hrrsi.networks.weights import save_weights

    meta = ModelMeta(
        model=model,
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
        save_weights(build_network(model, classes).state_dict(), meta, path)
        return weights_latency(path, size=size, batch=batch, device=device)


def weights_latency(
    path: Path, *, size: int = PUBLISHED_SIZE, batch: int = 1, device: str = "cpu"
) -> Latency:
    """Return how fast the network in a weights file runs; see `model_latency`."""
    # the peak of a process never falls: models measured in one process would share the largest
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        try:
            with interrupt_kept_from_children():
                latency = executor.submit(_measure, path, size, batch, device)
            return latency.result()
        except BrokenProcessPool as error:
            stop_if_requested()  # a signal to the whole group has ended it
            raise DeviceError(
                "the process that measured the latency was killed, likely for its memory",
                fix="lower `batch` or `size`",
            ) from error


def _measure(path: Path, size: int, batch: int, device: str) -> Latency:
    engine = open_engine(path, EngineOptions(device=device, batch=batch))
    bands = engine.meta.band_count
    windows = [np.zeros((bands, size, size), dtype=np.uint8)] * (_PASSES * batch)
    normal = engine.meta.normalisation()
    seconds = []
    for _ in range(_WARM_UP_ROUNDS + _ROUNDS):
        started = time.perf_counter()
        for _ in engine.logits(windows, *normal):
            pass
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds[_WARM_UP_ROUNDS:]) / len(windows)
    return Latency(
        device=_device_name(engine.device),
        engine=f"{engine.name}, precision {engine.precision}",
        batch=batch,
        milliseconds=1e3 * median,
        megapixels_per_second=size * size / 1e6 / median,
        peak_memory_bytes=_peak_memory(engine.device),
    )


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


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        models = [line for line in information.read_text().splitlines() if "model name" in line]
        name = models[0].split(":", 1)[1].strip() if models else name
    return f"{name}, {counted(available_cores(), 'thread')}"
