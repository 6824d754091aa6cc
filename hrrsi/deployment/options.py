"""How networks are made ready for other programs and for boards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hrrsi.errors import OptionError
from hrrsi.scenes.windows import DEFAULT_WINDOW, default_overlap

Format = Literal["onnx", "openvino"]
_LEAST_WINDOW = 32


@dataclass(frozen=True)
class ExportOptions:
    """How a network is exported.

    Attributes:
        format: ``onnx``, or ``openvino`` (an ``.xml`` with a ``.bin`` beside it).
        window: Rows and columns of the windows that it takes, 32 or more.
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
