"""How fast a network runs on this device, and how much memory that takes.

The process that measures imports this module, and its memory counts: so torch is not among what
is imported here.
"""

from __future__ import annotations

import multiprocessing
import platform
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from hrrsi.errors import DeviceError
from hrrsi.hardware import available_cores
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.options import EngineOptions
from hrrsi.profiling.figures import PUBLISHED_CLASSES, PUBLISHED_SIZE, Latency
from hrrsi.quantities import counted

_WARM_UP_ROUNDS, _ROUNDS = 2, 9
_PASSES = 8  # windows are computed side by side


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
            return executor.submit(_measure, path, size, batch, device).result()
        except BrokenProcessPool as error:
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
