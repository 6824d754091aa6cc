"""ONNX Runtime: an engine for processors that OpenVINO does not know well."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from hrrsi.errors import DependencyError, DeviceError
from hrrsi.graphs.graph import Floats
from hrrsi.graphs.segmentation import NetworkGraph
from hrrsi.prediction.engines.engine import Pixels, checked, groups, in_order


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
        self._graph = NetworkGraph(weights)
        self.meta = self._graph.meta
        self.logit_stride = self._graph.logit_stride
        self._threads = threads
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

        with ThreadPoolExecutor(self._threads) as pool:
            pending = in_order(
                groups(windows, self._batch),
                lambda group: pool.submit(run, group, self._session(group)),
                Future.result,
                2 * self._threads,
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
