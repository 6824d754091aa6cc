"""What a step is computed in: single precision, or mixed with half precision.

On a processor, gradients of some depthwise convolutions stay in single precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins import MixedPrecision
from torch.overrides import TorchFunctionMode

from hrrsi.runs.options import RunOptions

MIXED: dict[str, Any] = {"bf16": "bf16-mixed", "16": "16-mixed"}  # Fabric's names, by ours
_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class NetworkPrecision(MixedPrecision):
    """Mixed precision that starts behind the normalisation: heights keep their digits till then."""

    def convert_input(self, data: Any) -> Any:
        """Return the data as it is, where Fabric would round it."""
        return data

    def forward_context(self) -> AbstractContextManager[Any]:
        """Return autocast without its cache, which no weight of these networks is found in."""
        mixed = torch.autocast(self.device, dtype=_AUTOCAST[self.precision], cache_enabled=False)
        return _on_processor(mixed) if self.device == "cpu" else mixed


def step_precision(options: RunOptions, device: torch.device) -> AbstractContextManager[Any]:
    """Return what the work of a step is computed in, for work beside it."""
    if options.precision in MIXED:
        return NetworkPrecision(MIXED[options.precision], device.type).forward_context()
    return nullcontext()


@contextmanager
def _on_processor(mixed: AbstractContextManager[Any]) -> Iterator[None]:
    with mixed, _DepthwiseGradients():
        yield


class _DepthwiseGradients(TorchFunctionMode):
    """Takes gradients of some depthwise convolutions in single precision.

    oneDNN (in torch 2.15) has no fast ones in bf16 where kernels are larger than 3 x 3, or have a
    stride and no padding of their own: up to eighty times the time of single precision, and half of
    a step of an EfficientNet-Lite. Outputs stay what they are; gradients of kernels gain digits.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch; one that is such a convolution by `_Depthwise`."""
        kwargs = dict(kwargs or {})
        is_learned = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if func is torch.conv2d and len(args) > 1 and is_learned:
            image, kernel, *more = args
            bias, *geometry, groups = [*more, *_CONVOLUTION[len(more) :]]
            is_plain = not kwargs and bias is None and not isinstance(geometry[1], str)
            is_depthwise = groups > 1 and groups == len(kernel) == image.shape[1]
            if is_plain and is_depthwise and _is_slow(kernel, *geometry):
                return _Depthwise.apply(image, kernel, *geometry)
        return func(*args, **kwargs)


def _is_slow(kernel: torch.Tensor, stride: Any, padding: Any, _dilation: Any) -> bool:
    """Return whether oneDNN has no fast gradients in bf16 for a depthwise convolution."""
    is_strided = max(np.ravel(stride)) > 1 and not np.any(padding)
    return is_strided or max(kernel.shape[2:]) > 3


_CONVOLUTION: list[Any] = [None, 1, 0, 1, 1]  # what torch.conv2d takes where nothing is given


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution whose gradients are computed in single precision."""

    @staticmethod
    def forward(
        ctx: Any, image: torch.Tensor, kernel: torch.Tensor, *geometry: Any
    ) -> torch.Tensor:
        half = torch.get_autocast_dtype("cpu")
        image = image.to(half)
        ctx.save_for_backward(image, kernel)
        ctx.geometry = [[n, n] if isinstance(n, int) else list(n) for n in geometry]
        convolution: Any = torch.conv2d
        output: torch.Tensor = convolution(image, kernel.to(half), None, *geometry, len(kernel))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        image, kernel = ctx.saved_tensors
        of_image, of_kernel, _ = torch.ops.aten.convolution_backward(
            gradients[0].float(),
            image.float(),
            kernel.float(),
            None,
            *ctx.geometry,
            False,
            [0, 0],
            len(kernel),
            [*ctx.needs_input_grad[:2], False],
        )
        if of_image is not None:
            of_image = of_image.to(image.dtype)
        return of_image, of_kernel, None, None, None
