"""What every engine does, and which one is best on a machine."""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from hrrsi.errors import HrrsiError
from hrrsi.graphs.graph import Floats
from hrrsi.networks.names import parsed_model
from hrrsi.weights_file import ModelMeta, packaged_weights, read_meta

Pixels = npt.NDArray[Any]
_Handle = TypeVar("_Handle")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

ENGINES = ("auto", "openvino", "onnxruntime", "torch")
PRECISIONS = ("auto", "32", "bf16", "16", "fast")


class Engine(Protocol):
    """Runs a network over windows.

    Attributes:
        name: One of `ENGINES` but ``auto``.
        precision: One of `PRECISIONS` but ``auto``.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        meta: What the weights say of themselves.
        logit_stride: Pixels of a window that one of its logits stands for along an axis: 4, or 1.
    """

    name: str
    precision: str
    device: str
    meta: ModelMeta
    logit_stride: int

    def prepare(self, height: int, width: int) -> None:
        """Begin to get ready for windows of that size, in the type of the weights' scenes.

        It returns at once; whoever calls `logits` waits for the rest.
        """
        ...

    def logits(
        self, windows: Iterable[Pixels | None], gain: Floats, offset: Floats
    ) -> Generator[Floats | None, None, None]:
        """Yield the logits of windows in their order, with several in work at once.

        Args:
            windows: (bands, height, width) each, in the scene's type; None has no logits.
            gain: (1, bands, 1, 1), and
            offset: (1, bands, 1, 1): the network sees pixels * gain + offset.

        Yields:
            (classes, ceil(height / logit_stride), ceil(width / logit_stride)) float32, or None.

        Raises:
            HrrsiError: Logits are not finite, or memory is short.
        """
        ...


def open_engine(
    weights: str | Path | None = None,
    *,
    engine: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    batch: int | None = None,
) -> Engine:
    """Return the engine that runs a network best here, or the one asked for.

    ``auto`` is OpenVINO on a processor: in bf16 where the processor calculates in it, which is
    about twice as fast and changes about one label in a thousand, otherwise in single precision.
    On a GPU it is PyTorch in bf16. PyTorch also runs what has no graph here: other encoders than
    GhostNet, and other systems.

    Args:
        weights: A weights file; by default the weights inside the package.
        engine: One of `ENGINES`.
        precision: One of `PRECISIONS`: ``32`` is single precision, ``16`` half; ``bf16`` keeps in
            single precision what rounding harms most, ``fast`` does not.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Processor threads; by default one a core.
        batch: Windows in one step of the network; by default 1 on a processor, 8 on a GPU.

    Raises:
        HrrsiError: The weights can't be read, or the engine is not installed, or does not know
            the precision or the device.
    """
    if engine not in ENGINES:
        raise HrrsiError(f"unknown engine {engine!r}", fix=f"choose from {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise HrrsiError(
            f"unknown precision {precision!r}", fix=f"choose from {', '.join(PRECISIONS)}"
        )
    if batch is not None and batch < 1:
        raise HrrsiError(f"a batch can't hold {batch} windows", fix="give a number above 0")
    if threads is not None and threads < 1:
        raise HrrsiError(f"{threads} threads can't compute", fix="give a number above 0")
    path = packaged_weights() if weights is None else Path(weights)
    if engine in ("openvino", "onnxruntime"):
        if device not in ("auto", "cpu"):
            raise HrrsiError(f"{engine} runs on the CPU here", fix="give --engine torch for a GPU")
        chosen = "cpu"
    else:
        chosen = _chosen_device(device)
    if engine == "auto":
        has_graph = chosen == "cpu" and parsed_model(read_meta(path)["model"]).has_graph
        engine = "openvino" if has_graph else "torch"
    threads = threads or available_cores()
    if engine == "torch":
        from hrrsi.prediction.engines.torch_engine import TorchEngine

        return TorchEngine(path, chosen, precision, threads=threads, batch=batch)
    if engine == "onnxruntime":
        from hrrsi.prediction.engines.onnxruntime_engine import OnnxRuntimeEngine

        return OnnxRuntimeEngine(path, precision, threads=threads, batch=batch or 1)
    from hrrsi.prediction.engines.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(path, precision, threads=threads, batch=batch or 1)


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    items: Iterable[_Item],
    start: Callable[[_Item], _Handle],
    finish: Callable[[_Handle], _Result],
    in_work: int,
) -> Iterator[_Result]:
    """Yield results in the order of their items, with up to `in_work` of them started ahead."""
    started: deque[_Handle] = deque()
    for item in items:
        if len(started) == in_work:
            yield finish(started.popleft())
        started.append(start(item))
    while started:
        yield finish(started.popleft())


def groups(windows: Iterable[Pixels | None], size: int) -> Iterator[list[Pixels | None]]:
    """Yield windows in groups that hold up to `size` with data, of one shape.

    Groups are short where nothing holds data, too: what waits for them should not.
    """
    group: list[Pixels | None] = []
    full = 0
    shape: tuple[int, ...] | None = None
    for window in windows:
        other = window is not None and shape is not None and window.shape != shape
        if full == size or len(group) >= 4 * size or other:
            yield group
            group, full, shape = [], 0, None
        group.append(window)
        if window is not None:
            full, shape = full + 1, window.shape
    if group:
        yield group


def checked(logits: Floats) -> Floats:
    """Return logits, if they are finite.

    Raises:
        HrrsiError: They are not.
    """
    if not np.isfinite(logits).all():
        raise HrrsiError(
            "the network's output is not finite: the raster holds values far beyond its scale",
            fix="name the value of pixels without data with --nodata, or correct --scale",
        )
    return logits


def _chosen_device(name: str) -> str:
    if name == "cpu" or (name == "auto" and not _has_cuda_driver()):
        return "cpu"
    from hrrsi.device import chosen_device  # imports torch, which takes seconds

    return chosen_device(name)


def _has_cuda_driver() -> bool:
    """Return whether NVIDIA's driver finds a GPU, without importing torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1" if os.name == "posix" else "nvcuda.dll")
    except OSError:
        return False
    count = ctypes.c_int(0)
    found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return bool(found) and count.value > 0
