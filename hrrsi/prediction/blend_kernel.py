"""Blending as arithmetic: logits of neighbouring windows in, labels of pixels out, in one pass.

Resizing the logits, weighting windows and adding them up are all linear, so a block of pixels is
``rows @ logits @ columns`` for each class, where the two matrices hold interpolation and weights
together. OpenVINO compiles that, and the comparison of classes after it, into vector code that
keeps every plane in the processor's cache: several times as fast as the same steps in NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as op

Floats = npt.NDArray[np.float32]

TAPS = 4  # two of the window itself, two of the window before it


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
    return ov.Core().compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": "1",  # the network has the cores
            "ENABLE_CPU_PINNING": "NO",
        },
    )


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
