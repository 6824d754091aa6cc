"""PyTorch: the engine for GPUs, and the reference on processors."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from hrrsi.errors import DeviceError
from hrrsi.graphs.graph import Floats
from hrrsi.hardware import computes_in_bf16
from hrrsi.networks.weights import load_network
from hrrsi.prediction.engines.engine import Pixels, checked, groups, in_order

_BATCH = {"cpu": 1, "cuda": 8}


class _Work(NamedTuple):
    group: list[Pixels | None]
    logits: torch.Tensor | None
    copy_event: torch.cuda.Event | None
    pixels: torch.Tensor | None  # what is copied from must outlive the copy


class TorchEngine:
    """Runs a network with PyTorch, channels-last.

    On a GPU, copies to and from pinned memory and the network itself are queued for the next batch
    while the processor blends the last one; the normalisation happens there too.

    Args:
        weights: A weights file.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto`` (``fast`` is the same here), ``32``, ``bf16`` or ``16``.
        threads: Processor threads.
        batch: Windows in one step, or None for the device's.

    Raises:
        WeightsError: The weights can't be read.
        DeviceError: The device's memory does not hold them, or it does not calculate in that
            precision.
    """

    name = "torch"
    side_by_side = 1

    def __init__(
        self, weights: Path, device: str, precision: str, *, threads: int, batch: int | None
    ) -> None:
        self.device = device
        self._device = torch.device(device)
        on_gpu = self._device.type == "cuda"
        if precision in ("auto", "fast"):
            # on a processor this engine is the reference that others are compared with
            precision = "bf16" if on_gpu and computes_in_bf16(device) else "32"
        if precision == "16" and not on_gpu:
            raise DeviceError("half precision needs a GPU", fix="give `precision=bf16` or 32")
        self.precision = precision
        self._batch = batch or _BATCH[self._device.type]
        self._threads = threads
        network, self.meta = load_network(weights)
        self._network = network
        self.logit_grid = network.logit_grid
        try:
            # torch's stubs lack this overload
            network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory() from error

    def prepare(self, height: int, width: int) -> None:
        """Do nothing: it takes no time worth hiding."""

    def logits(
        self, windows: Iterable[Pixels | None], gain: Floats, offset: Floats
    ) -> Generator[Floats | None, None, None]:
        """Yield the logits of windows in their order, as `Engine.logits`."""
        on_device = [torch.from_numpy(values).to(self._device) for values in (gain, offset)]
        ahead = 2 if self._device.type == "cuda" else 1
        pending = in_order(
            groups(windows, self._batch),
            lambda group: self._start(group, *on_device),
            self._finish,
            ahead,
        )
        for group in pending:
            yield from group

    def _start(self, group: list[Pixels | None], gain: torch.Tensor, offset: torch.Tensor) -> _Work:
        windows = [window for window in group if window is not None]
        if not windows:
            return _Work(group, None, None, None)
        pixels = torch.from_numpy(np.stack(windows))
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            pixels = pixels.pin_memory()
        try:
            with torch.inference_mode(), self._arithmetic(), self._cudnn(), self._own_threads():
                batch = pixels.to(self._device, non_blocking=True)
                batch = (batch.float() * gain + offset).contiguous(
                    memory_format=torch.channels_last
                )
                logits = self._network.coarse_logits(batch).float().contiguous()
                if not on_gpu:
                    return _Work(group, logits, None, pixels)
                pinned = torch.empty(logits.shape, dtype=torch.float32, pin_memory=True)
                pinned.copy_(logits, non_blocking=True)
                event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has no types for it
                event.record(torch.cuda.current_stream(self._device))
                return _Work(group, pinned, event, pixels)
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory() from error

    def _finish(self, work: _Work) -> list[Floats | None]:
        if work.logits is None:
            return [None for _ in work.group]
        if work.copy_event is not None:
            work.copy_event.synchronize()
        results = iter(checked(work.logits.numpy()))
        return [None if window is None else next(results) for window in work.group]

    @contextmanager
    def _own_threads(self) -> Iterator[None]:
        """Use the engine's number of threads: the caller's other work keeps its own."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _arithmetic(self) -> AbstractContextManager[object]:
        if self.precision == "32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self._device.type, dtype)

    def _cudnn(self) -> AbstractContextManager[object]:
        # single precision means it: TF32 changes labels
        return torch.backends.cudnn.flags(
            enabled=True, deterministic=True, allow_tf32=self.precision != "32"
        )

    def _out_of_memory(self) -> DeviceError:
        return DeviceError(f"out of memory on {self.device}", fix="lower `batch` or `window`")
