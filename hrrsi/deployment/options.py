"""How networks are made ready for other programs and for boards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hrrsi.errors import OptionError
from hrrsi.scenes.windows import DEFAULT_WINDOW, LARGEST_WINDOW, default_overlap

Format = Literal["onnx", "openvino"]
Quantized = Literal["int8", "16"]
LEAST_PATCHES = 8  # that ranges of int8 are taken from
_LEAST_WINDOW = 32


@dataclass(frozen=True)
class ExportOptions:
    """How a network is exported.

    Attributes:
        format: ``onnx``, or ``openvino`` (an ``.xml`` with a ``.bin`` beside it).
        window: Rows and columns of the windows that it takes, 32 to 4096.
        overlap: Pixels that neighbouring windows should share, 0 to half of `window`, for programs
            that cut scenes as the file says; None: 3/16 of `window`.
        resolution: Metres per pixel that programs should read scenes at; None: that of the weights.

    Raises:
        OptionError: One is not usable.
    """

    format: Format = "onnx"
    window: int = DEFAULT_WINDOW
    overlap: int | None = None
    resolution: float | None = None

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise OptionError(
                f"unknown format {self.format!r}",
                parameter="format",
                fix=f"choose from {', '.join(get_args(Format))}",
            )
        if self.window < _LEAST_WINDOW:
            raise OptionError(
                f"windows of {self.window} px are too small",
                parameter="window",
                fix=f"give {_LEAST_WINDOW} or more",
            )
        if self.window > LARGEST_WINDOW:
            raise OptionError(
                f"windows of {self.window} px are too large to be mapped by",
                parameter="window",
                fix=f"give {LARGEST_WINDOW} or less",
            )
        if not 0 <= self.effective_overlap <= self.window // 2:
            raise OptionError(
                f"an overlap of {self.overlap} px does not fit windows of {self.window} px",
                fix="choose `overlap` from 0 to half of `window`",
            )
        if self.resolution is not None and not 0 < self.resolution < 1e6:
            raise OptionError(
                f"{self.resolution:g} is no ground resolution",
                parameter="resolution",
                fix="give metres per pixel",
            )

    @property
    def effective_overlap(self) -> int:
        """Pixels that neighbouring windows should share."""
        return default_overlap(self.window) if self.overlap is None else self.overlap


@dataclass(frozen=True)
class PruneOptions:
    """How a network is pruned.

    Attributes:
        macs: Share of the multiply-accumulates of the weights to be left at most, between 0 and 1.
        patches: Training patches that say which channels count, at least 1, spread over all.
        multiple: What is left of the channels that a layer can lose is a multiple of it, 1 or
            more. Processors compute them in groups of 8 or 16.
        device: What works out which count, and validates: ``auto``, ``cpu``, ``cuda`` or
            ``cuda:N``.

    Raises:
        OptionError: One is not usable.
    """

    macs: float = 0.7
    patches: int = 128
    multiple: int = 8
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.macs < 1:
            raise OptionError(
                f"{self.macs:g} is no share of multiply-accumulates",
                parameter="macs",
                fix="give a number between 0 and 1, e.g. 0.7",
            )
        for name, value in (("patches", self.patches), ("multiple", self.multiple)):
            if value < 1:
                raise OptionError(f"{value} is below 1", parameter=name)


@dataclass(frozen=True)
class QuantizationOptions:
    """How a network's numbers are rounded.

    Attributes:
        precision: ``int8``, or ``16`` (half precision, for which nothing is calibrated).
        patches: Training patches that the ranges of int8 are taken from, 8 or more.
        max_drop: Points of mIoU (0 to 100) that it may cost, 0 or more.

    Raises:
        OptionError: One is not usable.
    """

    precision: Quantized = "int8"
    patches: int = 32
    max_drop: float = 0.5

    def __post_init__(self) -> None:
        if self.precision not in get_args(Quantized):
            raise OptionError(
                f"unknown precision {self.precision!r}",
                parameter="precision",
                fix=f"choose from {', '.join(get_args(Quantized))}",
            )
        if self.patches < LEAST_PATCHES:
            raise OptionError(
                f"{self.patches} patches don't show what ranges values have",
                parameter="patches",
                fix=f"give {LEAST_PATCHES} or more",
            )
        if not 0 <= self.max_drop <= 100:
            raise OptionError(
                f"{self.max_drop:g} is no drop", parameter="max_drop", fix="give points, 0 to 100"
            )
