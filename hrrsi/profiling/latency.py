"""How fast a network runs on this device, and how much memory that takes."""

from __future__ import annotations

import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrrsi.errors import HrrsiError
from hrrsi.networks.segmentation import UED, build_network
from hrrsi.prediction.engine import TorchEngine
from hrrsi.weights import load_model

_WARM_UP_ROUNDS, _ROUNDS = 3, 15


@dataclass(frozen=True)
class Latency:
    """Time and memory of a network as `hrrsi.predict` runs it: the segmentation head, float32.

    Attributes:
        device: Name of the device, with the number of threads where it is a CPU.
        batch: Windows a pass.
        milliseconds: Median time of a pass from normalised pixels to class probabilities, both
            in main memory, divided by its windows.
        megapixels_per_second: The same as a rate.
        peak_memory_bytes: GPU: most memory that PyTorch held on it. CPU: peak resident memory of
            a process that does nothing else, Python and PyTorch included.
    """

    device: str
    batch: int
    milliseconds: float
    megapixels_per_second: float
    peak_memory_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return {
            "device": self.device,
            "batch": self.batch,
            "milliseconds_per_window": self.milliseconds,
            "megapixels_per_second": self.megapixels_per_second,
            "peak_memory_bytes": self.peak_memory_bytes,
        }


def model_latency(
    model: str, *, classes: int = 6, size: int = 512, batch: int = 4, device: str = "cpu"
) -> Latency:
    """Return how fast a network by name runs, measured in a process of its own.

    A script that calls this needs ``if __name__ == "__main__":``, since that process imports it.

    Args:
        model: One of `hrrsi.networks.MODEL_NAMES`.
        classes: Number of classes.
        size: Rows and columns of a window.
        batch: Windows a pass.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        HrrsiError: The device's memory does not hold network and batch.
    """
    return _in_fresh_process(partial(build_network, model, classes), size, batch, device)


def weights_latency(path: Path, *, size: int = 512, batch: int = 4, device: str = "cpu") -> Latency:
    """Return how fast the network in a weights file runs; see `model_latency`."""
    return _in_fresh_process(partial(load_model, path), size, batch, device)


def _in_fresh_process(build: Callable[[], UED], size: int, batch: int, device: str) -> Latency:
    # the peak of a process never falls: models measured in one process would share the largest
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        threads = torch.get_num_threads()
        try:
            return executor.submit(_measure, build, size, batch, device, threads).result()
        except BrokenProcessPool as error:
            raise HrrsiError(
                "the process that measured the latency was killed, likely for its memory",
                fix="lower --batch or --size",
            ) from error


def _measure(build: Callable[[], UED], size: int, batch: int, device: str, threads: int) -> Latency:
    torch.set_num_threads(threads)
    network = build()
    bands = network.base_network.conv_stem.in_channels
    engine = TorchEngine(network, device)
    windows = np.zeros((batch, bands, size, size), dtype=np.float32)
    seconds = []
    for _ in range(_WARM_UP_ROUNDS + _ROUNDS):
        started = time.perf_counter()
        engine.probabilities(windows)  # waits for the device, since it returns an array
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds[_WARM_UP_ROUNDS:]) / batch
    return Latency(
        device=_device_name(device, threads),
        batch=batch,
        milliseconds=1e3 * median,
        megapixels_per_second=size * size / 1e6 / median,
        peak_memory_bytes=_peak_memory(device),
    )


def _peak_memory(device: str) -> int:
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    import resource

    status = Path("/proc/self/status")
    if status.exists():  # unlike ru_maxrss it starts anew with the process' program
        lines = status.read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else 1024 * peak


def _device_name(device: str, threads: int) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        models = [line for line in information.read_text().splitlines() if "model name" in line]
        name = models[0].split(":", 1)[1].strip() if models else name
    return f"{name}, {threads} {'thread' if threads == 1 else 'threads'}"
