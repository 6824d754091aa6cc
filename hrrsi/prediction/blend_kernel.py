"""Blending as arithmetic: logits of neighbouring windows in, labels of pixels out, in one pass.

A network's logits come at a quarter of the resolution (or at all of it, where the network says so),
and are kept so: a block of pixels is made from the logits of up to two windows an axis. Resizing
them, weighting windows and adding them up are all linear, so a block is ``rows @ logits @ columns``
for each class, where the two matrices hold interpolation and weights together. OpenVINO compiles
that, and the comparison of classes after it, into vector code that keeps every plane in the
processor's cache: several times as fast as the same steps in NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as op

from hrrsi.interruption import signal_stack_kept
from hrrsi.networks.architecture import LogitGrid

Floats = npt.NDArray[np.float32]
_TAPS = 4  # two of the window itself, two of the window before it
_ROWS_AT_ONCE = 512  # bounds memory where a network pixel covers many pixels of the scene


class Span(NamedTuple):
    """The part of a window that gets its labels once the window is there, along one axis.

    Attributes:
        window: Where the window starts, in pixels of the network's grid.
        previous: Where the window before it starts, or None.
        start: Where the part begins.
        stop: Where it ends.
        shared: Pixels from `start` on that are blended with the previous window.
    """

    window: int
    previous: int | None
    start: int
    stop: int
    shared: int


def spans(starts: list[int], size: int, overlap: int, length: int) -> list[Span]:
    """Return which part of each window gets its labels with it, along one axis.

    Neighbours are blended over exactly `overlap` pixels. The last window, which moves inward and
    so covers more of its neighbour, counts from `overlap` pixels before the neighbour's end: what
    lies above only gives it context. So no pixel belongs to more than two windows of an axis.

    Args:
        starts: Where the windows start, in order.
        size: Pixels of a window.
        overlap: Pixels that neighbours are blended over, at most half of `size`.
        length: Pixels of the scene; a window may be longer.
    """
    parts = []
    for i, window in enumerate(starts):
        previous = starts[i - 1] if i else None
        start = window if previous is None else previous + size - overlap
        stop = window + size - (overlap if i < len(starts) - 1 else 0)
        stop = min(stop, length)
        parts.append(Span(window, previous, start, stop, 0 if previous is None else overlap))
    return parts


def blend_share(position: npt.NDArray[np.float64], shared: int) -> npt.NDArray[np.float64]:
    """Return what a window weighs where it is blended with the one before: a raised cosine.

    The window before weighs the rest. Shares rise from 0 to 1 without an edge, so that neither
    window's border shows.

    Args:
        position: Distance in pixels from where the blending begins, 0 to `shared`.
        shared: Pixels over which two windows are blended.
    """
    if not shared:
        return np.ones_like(position)
    inside = np.clip(position / shared, 0, 1)
    share: npt.NDArray[np.float64] = np.sin(inside * (np.pi / 2)) ** 2
    return share


class Block(NamedTuple):
    """Some pixels of a part, along one axis.

    Attributes:
        pixels: Which of the part's pixels.
        logits: Which of the logits they are made from.
        taps: (2 or 4, pixels) which of those count for each pixel.
        weights: (2 or 4, pixels, 1) what they weigh.
    """

    pixels: slice
    logits: slice
    taps: npt.NDArray[np.int32]
    weights: Floats

    def padded(self, pixels: int, logits: int, all_logits: int) -> Block:
        """Return the block with more pixels, which weigh nothing, and more logits.

        Args:
            pixels: Pixels that it shall have.
            logits: Logits that it shall have.
            all_logits: Logits that there are.
        """
        margin = pixels - self.taps.shape[1]
        first = min(self.logits.start, all_logits - logits)
        return Block(
            self.pixels,
            slice(first, first + logits),
            np.pad(self.taps + np.int32(self.logits.start - first), ((0, 0), (0, margin))),
            np.pad(self.weights, ((0, 0), (0, margin), (0, 0))),
        )


class Axis:
    """How the logits of two windows become pixels along one axis.

    Attributes:
        first: The scene's first pixel of the part.
        pixels: The part's pixels, counted from the first one of the scene that the window covers.
        taps: (4, pixels) which of the logits count: `carried` of the previous window come first.
        weights: (4, pixels) what they weigh.
    """

    def __init__(
        self, span: Span, size: int, overlap: int, step: float, length: int, logits: LogitGrid
    ) -> None:
        """Work out the part of a window.

        Args:
            span: The part.
            size: Pixels of a window.
            overlap: Pixels that neighbours are blended over.
            step: The scene's pixels in one of the network's.
            length: The scene's pixels along the axis.
            logits: Where the logits of a window lie on its pixels.
        """
        carried = kept_logits(size, overlap, logits)
        count = logits.count(size)
        self.first = first_pixel(span.start, step)
        stop = min(first_pixel(span.stop, step), length)
        # centres of the scene's pixels, on the network's grid
        centres = np.arange(self.first, stop).astype(np.float64)
        centres += 0.5
        centres /= step
        # as `WindowSource.raster_window` has it
        self.pixels = np.arange(self.first, stop) - math.floor(span.window * step)
        share = blend_share(centres - span.start, span.shared)
        taps, weights = _interpolation(centres - 0.5 - span.window, size, logits)
        self.taps = np.zeros((_TAPS, len(centres)), dtype=np.int32)
        self.weights = np.zeros((_TAPS, len(centres)), dtype=np.float32)
        self.taps[:2] = taps + carried
        self.weights[:2] = weights * share
        if span.previous is not None and carried:
            taps, weights = _interpolation(centres - 0.5 - span.previous, size, logits)
            blended = share < 1
            self.taps[2:] = np.where(blended, taps - (count - carried), 0)
            self.weights[2:] = np.where(blended, weights * (1 - share), 0)

    def blocks(self) -> list[Block]:
        """Return the part in blocks, so that only pixels of two windows take four logits each."""
        shared = int(np.count_nonzero(self.weights[2:].any(axis=0)))
        ends = [*range(shared, len(self.pixels), _ROWS_AT_ONCE), len(self.pixels)]
        blocks = []
        for first, stop in pairwise([0, *ends] if shared else ends):
            count = _TAPS if stop <= shared else 2
            taps = self.taps[:count, first:stop]
            blocks.append(
                Block(
                    slice(first, stop),
                    slice(int(taps.min()), int(taps.max()) + 1),
                    taps - taps.min(),
                    np.ascontiguousarray(self.weights[:count, first:stop, None]),
                )
            )
        return blocks

    def matrix(self, rows: int, columns: int) -> Floats:
        """Return taps and weights as a (rows, columns) matrix, zero beyond the part's pixels."""
        matrix = np.zeros((rows, columns), dtype=np.float32)
        for taps, weights in zip(self.taps, self.weights, strict=True):
            np.add.at(matrix, (taps, np.arange(len(taps))), weights)
        return matrix


def kept_logits(size: int, overlap: int, logits: LogitGrid) -> int:
    """Return how many of a window's last logits along an axis the next window is blended with."""
    if not overlap:
        return 0
    # one more pixel: the centre of a scene's pixel may lie before that of the network's
    first = int(logits.place(float(max(size - overlap - 1, 0)), size))
    count = logits.count(size)
    # and two of them, as `_interpolation` takes beyond the last one
    return count - min(max(first, 0), max(count - 2, 0))


def blocks_of_equal_size(rows: list[list[Block]], all_logits: int) -> list[list[Block]]:
    """Return blocks padded to those of the same kind, so that few kernels have to be compiled."""
    sizes: dict[int, tuple[int, int]] = {}
    for block in (block for row in rows for block in row):
        taps, pixels = block.taps.shape
        logits = block.logits.stop - block.logits.start
        most = sizes.get(taps, (0, 0))
        sizes[taps] = max(most[0], pixels), max(most[1], logits)
    return [[block.padded(*sizes[len(block.taps)], all_logits) for block in row] for row in rows]


class Blended(NamedTuple):
    """What blending gives for a block of pixels.

    Attributes:
        labels: (height, width) uint8, the most probable class; the lowest of equals.
        probabilities: (classes, height, width) float32 in [0, 1] where they are asked for.
    """

    labels: npt.NDArray[np.uint8]
    probabilities: Floats | None


class BlendKernel:
    """Blends blocks of pixels of one size; one thread may use it at a time.

    Args:
        logits: Shape (classes, rows, columns) of the logits that a block is made from.
        rows: Shape (taps, height): how many rows of the logits count for each of the block's.
        width: Columns of a block.
        probabilities: Whether to give probabilities too.
    """

    def __init__(
        self,
        logits: tuple[int, int, int],
        rows: tuple[int, int],
        width: int,
        *,
        probabilities: bool,
    ) -> None:
        compiled = _compiled(logits, rows, width, probabilities=probabilities)
        self._request: Any = compiled.create_infer_request()
        self._inputs: list[npt.NDArray[Any] | None] = [None] * 4

    def __call__(
        self, logits: Floats, columns: Floats, taps: npt.NDArray[np.int32], weights: Floats
    ) -> Blended:
        """Return a block of pixels.

        Args:
            logits: (classes, rows, columns), contiguous.
            columns: (columns, width): what each column of the logits weighs in each of the block.
            taps: (taps, height): rows of the logits that count for each of the block's.
            weights: (taps, height, 1): what they weigh.

        Returns:
            The block; it holds until the next call.
        """
        for index, values in enumerate((logits, columns, taps, weights)):
            if values is not self._inputs[index]:
                self._inputs[index] = values  # the request does not keep it alive
                self._request.set_input_tensor(index, ov.Tensor(values, shared_memory=True))
        self._request.infer()
        labels = self._request.get_output_tensor(0).data[0]
        if len(self._request.output_tensors) == 1:
            return Blended(labels, None)
        return Blended(labels, self._request.get_output_tensor(1).data)


def first_pixel(position: int, step: float) -> int:
    """Return the scene's first pixel whose centre is at or after a position on the network's."""
    return math.ceil(position * step - 0.5)


def _interpolation(
    positions: npt.NDArray[np.float64], size: int, logits: LogitGrid
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return which two logits lie around positions in a window, and what each weighs.

    Beyond the outermost ones, these count alone.
    """
    count = logits.count(size)
    if count == 1:
        taps = np.zeros((2, len(positions)), dtype=np.int64)
        return taps, np.stack((np.ones(len(positions)), np.zeros(len(positions))))
    place = np.clip(logits.place(positions, size), 0, count - 1)
    lower = np.minimum(place.astype(np.int64), count - 2)
    return np.stack((lower, lower + 1)), np.stack((1 - (place - lower), place - lower))


@lru_cache(maxsize=64)
def _compiled(
    logits: tuple[int, int, int], rows: tuple[int, int], width: int, *, probabilities: bool
) -> Any:
    """Return the arithmetic of a kernel, which threads may share."""
    classes, logit_rows, columns = logits
    count, height = rows
    values = op.parameter([classes, logit_rows, columns], np.float32)
    across = op.parameter([columns, width], np.float32)
    taps = op.parameter([count, height], np.int32)
    weights = op.parameter([count, height, 1], np.float32)
    flat = op.reshape(values, np.array([classes * logit_rows, columns]), special_zero=False)
    wide = op.reshape(
        op.matmul(flat, across, False, False),
        np.array([classes, logit_rows, width]),
        special_zero=False,
    )
    planes = op.split(wide, op.constant(np.int32(0)), classes)
    blended = [
        _weighted_rows(planes.output(index), taps, weights, count) for index in range(classes)
    ]
    results = [_index_of_largest(blended)]
    if probabilities:
        stacked = op.concat(blended, axis=0)
        results.append(op.softmax(stacked, axis=0))
    model = ov.Model(results, [values, across, taps, weights])
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": "1",  # the network has the cores
        "ENABLE_CPU_PINNING": "NO",
    }
    with signal_stack_kept():
        return ov.Core().compile_model(model, "CPU", options)


def _weighted_rows(plane: Any, taps: Any, weights: Any, count: int) -> Any:
    axis, total = op.constant(np.int32(0)), None
    # (1, rows, width) by (height,) rows, several times
    for number in range(count):
        index = op.constant(np.int32(number))
        rows = op.gather(plane, op.gather(taps, index, axis), op.constant(np.int32(1)))
        term = op.multiply(rows, op.gather(weights, op.constant(np.array([number])), axis))
        total = term if total is None else op.add(total, term)
    return total


def _index_of_largest(planes: Sequence[Any]) -> Any:
    best = planes[0]
    index: Any = op.constant(np.zeros((1, 1, 1), dtype=np.float32))
    for number, plane in enumerate(planes[1:], start=1):
        larger = op.greater(plane, best)
        index = op.select(larger, op.constant(np.full((1, 1, 1), number, np.float32)), index)
        best = op.maximum(best, plane)
    if len(planes) == 1:
        index = op.multiply(best, op.constant(np.float32(0)))
    return op.convert(index, "u8")
