"""What sliding-window inference needs of a scene, and an array that offers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from hrrsi.scenes.windows import Window

if TYPE_CHECKING:
    from hrrsi.scenes.polygons import AreaOfInterest


class ReadableScene(Protocol):
    """A scene that is read window by window; `hrrsi.scenes.scene.Scene` says what each part is."""

    @property
    def path(self) -> str:
        """What messages call it."""
        ...

    @property
    def height(self) -> int:
        """Rows on the network's grid."""
        ...

    @property
    def width(self) -> int:
        """Columns on the network's grid."""
        ...

    @property
    def map_shape(self) -> tuple[int, int]:
        """Rows and columns of the map."""
        ...

    @property
    def step(self) -> float:
        """The map's pixels in one of the network's."""
        ...

    @property
    def dtype(self) -> str:
        """NumPy name of the values' type."""
        ...

    @property
    def has_height(self) -> bool:
        """Whether the last band is a height."""
        ...

    @property
    def area(self) -> AreaOfInterest | None:
        """The area of interest, on the map's grid."""
        ...

    @property
    def declares_nodata(self) -> bool:
        """Whether some pixels may hold no data."""
        ...

    def on_input_grid(self, window: Window) -> Window:
        """Return the pixels of the map that a window covers."""
        ...

    def read(self, window: Window) -> npt.NDArray[Any]:
        """Return the (bands, height, width) values of a window."""
        ...

    def read_valid(self, window: Window, pixels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which pixels of a window hold data, as (height, width)."""
        ...

    def read_map_valid(self, window: Window) -> npt.NDArray[np.bool_]:
        """Return which of the map's pixels in a window (`on_input_grid`) hold data."""
        ...


@dataclass(frozen=True)
class ArrayScene:
    """An array as a scene.

    Attributes:
        pixels: (bands, height, width) of any real type.
        valid: (height, width) bool, which pixels hold data; None where all do.
        has_height: Whether the last band is a height.
    """

    pixels: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_] | None = None
    has_height: bool = False

    path: str = "array"
    step: float = 1.0
    area: None = None

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[1])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.pixels.shape[2])

    @property
    def map_shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.height, self.width

    @property
    def dtype(self) -> str:
        """NumPy name of the values' type."""
        return self.pixels.dtype.name

    @property
    def declares_nodata(self) -> bool:
        """Whether some pixels may hold no data; of floats, those that are not finite."""
        return self.valid is not None or self.pixels.dtype.kind == "f"

    def on_input_grid(self, window: Window) -> Window:
        """Return the window itself."""
        return window

    def read(self, window: Window) -> npt.NDArray[Any]:
        """Return the (bands, height, width) values of a window."""
        row, col, height, width = window
        return np.ascontiguousarray(self.pixels[:, row : row + height, col : col + width])

    def read_valid(self, window: Window, pixels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which pixels of a window hold data, as (height, width)."""
        row, col, height, width = window
        valid: npt.NDArray[np.bool_] = np.isfinite(pixels).all(axis=0)
        if self.valid is not None:
            valid &= self.valid[row : row + height, col : col + width]
        return valid

    def read_map_valid(self, window: Window) -> npt.NDArray[np.bool_]:
        """Return which pixels of a window hold data, as (height, width)."""
        return self.read_valid(window, self.read(window))
