"""Engines: what runs a network over windows; and which is best for weights on a machine."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from hrrsi.errors import DeviceError, OptionError
from hrrsi.extras import requiring
from hrrsi.hardware import (
    LEAST_TO_PREDICT,
    available_cores,
    chosen_device,
    require_memory,
)
from hrrsi.networks.architecture import parsed_model
from hrrsi.networks.exported_file import is_exported
from hrrsi.networks.weights_file import weights_path
from hrrsi.networks.weights_reading import read_meta
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.options import EngineOptions


def open_engine(
    weights: str | Path | None = None,
    options: EngineOptions = EngineOptions(),
) -> Engine:
    """Return the engine that runs a network best here, or the one asked for.

    ``auto`` is OpenVINO on a processor: in bf16 where the processor calculates in it, which is
    about twice as fast and changes about one label in a thousand, otherwise in single precision.
    On a GPU it is PyTorch in bf16. PyTorch also runs what has no graph here: other encoders than
    GhostNet and EfficientNet-Lite, and other systems.

    Args:
        weights: A weights file, an exported network, or the name of weights inside the package:
            ``default``, which it is by default, or ``light``.
        options: Which engine, and on what.

    Raises:
        WeightsError: The weights can't be read.
        DeviceError: The device is not to be had, or does not calculate in that precision; or
            the container allows too little memory.
        DependencyError: The engine is not installed.
    """
    require_memory(LEAST_TO_PREDICT, "a network")
    path = weights_path(weights)
    name = options.engine
    device = "cpu" if name in ("openvino", "onnxruntime") else _chosen_device(options.device)
    if is_exported(path):
        name, device = _runtime_of_exported(path, options), "cpu"
    elif name == "auto":
        has_graph = device == "cpu" and parsed_model(read_meta(path).model).has_graph
        name = "openvino" if has_graph else "torch"
    precision, batch = options.precision, options.batch
    threads = options.threads or available_cores()
    if name == "torch":
        with requiring("gpu", "prediction by PyTorch"):
            from hrrsi.prediction.engines.torch_engine import TorchEngine

        return TorchEngine(path, device, precision, threads=threads, batch=batch)
    if name == "onnxruntime":
        from hrrsi.prediction.engines.graph_engines import OnnxRuntimeEngine

        return OnnxRuntimeEngine(path, precision, threads=threads, batch=batch or 1)
    from hrrsi.prediction.engines.graph_engines import OpenVinoEngine

    return OpenVinoEngine(path, precision, threads=threads, batch=batch or 1)


def _runtime_of_exported(path: Path, options: EngineOptions) -> str:
    """Return what runs an exported network: OpenVINO, unless ONNX Runtime is asked for.

    Raises:
        DeviceError: PyTorch is asked for, or another device than a processor.
        OptionError: Several windows at once are.
    """
    if options.engine == "torch" or options.device.startswith("cuda"):
        raise DeviceError(
            f"{path.name} is an exported network, which runs on the CPU here, by OpenVINO or ONNX "
            "Runtime",
            fix="leave `engine` and `device` out, or give the weights that it was exported from",
        )
    if options.batch not in (None, 1):
        raise OptionError(
            f"{path.name} is an exported network, which takes one window at a time",
            parameter="batch",
            fix="leave it out",
        )
    return "openvino" if options.engine == "auto" else options.engine


def _chosen_device(name: str) -> str:
    if name == "auto" and not _has_cuda_driver():
        return "cpu"
    return chosen_device(name)


def _has_cuda_driver() -> bool:
    """Return whether NVIDIA's driver finds a GPU, without importing torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1" if os.name == "posix" else "nvcuda.dll")
    except OSError:
        return False
    count = ctypes.c_int(0)
    works = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return bool(works) and count.value > 0
