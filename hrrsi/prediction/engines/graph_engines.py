"""Engines that run a network's inference graph on processors: OpenVINO and ONNX Runtime.

OpenVINO is the fastest; ONNX Runtime is for processors that OpenVINO does not know well.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino as ov

from hrrsi.errors import DependencyError, DeviceError
from hrrsi.graphs.exported import inference_graph
from hrrsi.graphs.graph import PRECISE, Floats
from hrrsi.interruption import signal_stack_kept
from hrrsi.prediction.engines.engine import Pixels, checked, groups, in_order

_MOST_STREAMS = 8  # each holds the maps of a window
_PRECISIONS = {"32": "f32", "bf16": "bf16", "16": "f16", "fast": "bf16"}
_CAPABILITIES = {"bf16": "BF16", "16": "FP16"}

# The mark that keeps an operation in single precision can be read from OpenVINO's own format only.
_SINGLE_PRECISION = "DisablePrecisionConversion_0"
_MARKED_MODEL = b"""<net name="marked" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1">
<data shape="1" element_type="f32"/>
<rt_info><attribute name="precise" version="0"/></rt_info>
<output><port id="0" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="1" name="y" type="Result" version="opset1">
<input><port id="0" precision="FP32"><dim>1</dim></port></input></layer>
</layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/></edges></net>"""


class _Work(NamedTuple):
    group: list[Pixels | None]
    key: Any
    request: Any
    feeds: Any


class OpenVinoEngine:
    """Runs a network with OpenVINO, a window a thread.

    A window is computed by one thread where there are at most eight, so its logits don't depend on
    how many there are.

    Args:
        weights: A weights file.
        precision: ``auto``, ``32``, ``bf16``, ``16`` or ``fast``.
        threads: Processor threads.
        batch: Windows in one step.

    Raises:
        WeightsError: The weights can't be read.
        DeviceError: The processor does not calculate in that precision, or not these weights.
    """

    name = "openvino"
    device = "cpu"

    def __init__(self, weights: Path, precision: str, *, threads: int, batch: int) -> None:
        self._graph = inference_graph(weights)
        self.meta = self._graph.meta
        self.logit_grid = self._graph.logit_grid
        with signal_stack_kept():
            self._core = ov.Core()
            capabilities = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision in ("auto", "fast") and "BF16" not in capabilities:
            precision = "32"
        elif precision == "auto":
            precision = "bf16"
        if precision in _CAPABILITIES and _CAPABILITIES[precision] not in capabilities:
            raise DeviceError(
                f"this processor does not calculate in precision {precision}",
                fix="give `precision=32`",
            )
        if precision == "16" and self._graph.is_quantized:
            # OpenVINO 2026.4 gives other labels for it in every process
            raise DeviceError(
                f"{weights.name} is rounded to integers, which OpenVINO does not calculate rightly "
                "in precision 16",
                fix="give `precision=32`, or none",
            )
        self.precision = precision
        self._single_precision = _single_precision_mark(self._core)
        self._threads = threads
        self.side_by_side = min(threads, _MOST_STREAMS)
        self._batch = batch
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="graph compiler")
        self._compiled: dict[tuple[Any, ...], Future[Any]] = {}
        self._idle: dict[tuple[Any, ...], list[Any]] = {}

    def prepare(self, height: int, width: int) -> None:
        """Begin to compile for windows of that size, as `Engine.prepare`."""
        bands = self.meta.band_count
        dtype = "float32" if self.meta.height else self.meta.dtype
        key = (self._batch, bands, height, width, dtype)
        if key not in self._compiled:
            self._compiled[key] = self._compiler.submit(self._compile, *key)

    def logits(
        self, windows: Iterable[Pixels | None], gain: Floats, offset: Floats
    ) -> Generator[Floats | None, None, None]:
        """Yield the logits of windows in their order, as `Engine.logits`."""
        running: dict[int, _Work] = {}

        def start(group: list[Pixels | None]) -> _Work:
            pixels = [window for window in group if window is not None]
            if not pixels:
                return _Work(group, None, None, None)
            stacked = pixels[0][None] if len(pixels) == 1 else np.stack(pixels)
            key = (*stacked.shape, stacked.dtype.name)
            feeds = {"pixels": stacked, "gain": gain, "offset": offset}
            work = _Work(group, key, self._request(key), feeds)
            running[id(work.request)] = work
            work.request.start_async(feeds, share_inputs=True)
            return work

        def finish(work: _Work) -> list[Floats | None]:
            if work.request is None:
                return [None for _ in work.group]
            work.request.wait()
            results = iter(checked(work.request.get_output_tensor().data.copy()))
            del running[id(work.request)]
            self._idle[work.key].append(work.request)
            return [None if window is None else next(results) for window in work.group]

        try:
            for group in in_order(
                groups(windows, self._batch), start, finish, 4 * self.side_by_side
            ):
                yield from group
        finally:
            for work in running.values():  # they still read what they were fed
                work.request.wait()

    def _request(self, key: tuple[Any, ...]) -> Any:
        if key not in self._compiled:
            self._compiled[key] = self._compiler.submit(self._compile, *key)
        idle = self._idle.setdefault(key, [])
        return idle.pop() if idle else self._compiled[key].result().create_infer_request()

    def _compile(self, count: int, bands: int, height: int, width: int, dtype: str) -> Any:
        model = self._graph.openvino(self._core, bands, height, width, dtype)
        model.reshape(
            {
                "pixels": [count, bands, height, width],
                "gain": [1, bands, 1, 1],
                "offset": [1, bands, 1, 1],
            }
        )
        for operation in model.get_ops():
            precise = operation.get_friendly_name().startswith(PRECISE)
            if precise and self.precision != "fast":
                operation.set_rt_info(self._single_precision, _SINGLE_PRECISION)
        return self._core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _PRECISIONS[self.precision],
                "NUM_STREAMS": str(self.side_by_side),
                "INFERENCE_NUM_THREADS": str(self._threads),
                "ENABLE_CPU_PINNING": "NO",  # reading and blending need the cores too
            },
        )


def _single_precision_mark(core: Any) -> Any:
    marked = core.read_model(_MARKED_MODEL, b"").get_parameters()[0]
    return marked.get_rt_info()[_SINGLE_PRECISION]


class OnnxRuntimeEngine:
    """Runs a network with ONNX Runtime in single precision, a window a thread.

    Args:
        weights: A weights file.
        precision: ``auto``, ``fast`` or ``32``, which are the same here.
        threads: Processor threads.
        batch: Windows in one step.

    Raises:
        WeightsError: The weights can't be read.
        DeviceError: Another precision is asked for.
        DependencyError: The runtime is not installed.
    """

    name = "onnxruntime"
    device = "cpu"
    precision = "32"

    def __init__(self, weights: Path, precision: str, *, threads: int, batch: int) -> None:
        if precision not in ("auto", "fast", self.precision):
            raise DeviceError(
                f"onnxruntime does not calculate in precision {precision} here",
                fix="give `precision=32`, or `engine=openvino`",
            )
        try:
            import onnxruntime
        except ImportError:
            raise DependencyError("onnxruntime is not installed", extra="onnxruntime") from None
        self._runtime = onnxruntime
        self._graph = inference_graph(weights)
        self.meta = self._graph.meta
        self.logit_grid = self._graph.logit_grid
        self.side_by_side = threads
        self._batch = batch
        self._sessions: dict[tuple[Any, ...], Any] = {}

    def prepare(self, height: int, width: int) -> None:
        """Do nothing: it takes no time worth hiding."""

    def logits(
        self, windows: Iterable[Pixels | None], gain: Floats, offset: Floats
    ) -> Generator[Floats | None, None, None]:
        """Yield the logits of windows in their order, as `Engine.logits`."""

        def run(group: list[Pixels | None], session: Any) -> list[Floats | None]:
            pixels = [window for window in group if window is not None]
            if not pixels:
                return [None for _ in group]
            feeds = {"pixels": np.stack(pixels), "gain": gain, "offset": offset}
            (outputs,) = session.run(None, feeds)
            results = iter(checked(outputs))
            return [None if window is None else next(results) for window in group]

        with ThreadPoolExecutor(self.side_by_side) as pool:
            pending = in_order(
                groups(windows, self._batch),
                lambda group: pool.submit(run, group, self._session(group)),
                Future.result,
                2 * self.side_by_side,
            )
            for group in pending:
                yield from group

    def _session(self, group: list[Pixels | None]) -> Any:
        window = next((window for window in group if window is not None), None)
        if window is None:
            return None
        bands, height, width = window.shape
        key = (bands, height, width, window.dtype.name)
        if key not in self._sessions:
            options = self._runtime.SessionOptions()
            options.intra_op_num_threads = 1  # windows run side by side
            options.log_severity_level = 3
            self._sessions[key] = self._runtime.InferenceSession(
                self._graph.onnx(*key), options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[key]
