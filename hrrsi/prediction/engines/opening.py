"""Which engine is best for weights on a machine, opened."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from hrrsi.errors import HrrsiError
from hrrsi.hardware import available_cores
from hrrsi.networks.names import parsed_model
from hrrsi.networks.weights_file import packaged_weights
from hrrsi.networks.weights_reading import read_meta
from hrrsi.prediction.engines.engine import ENGINES, PRECISIONS, Engine


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


def _chosen_device(name: str) -> str:
    if name == "cpu" or (name == "auto" and not _has_cuda_driver()):
        return "cpu"
    from hrrsi.hardware import chosen_device

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
