"""What the labels of a scene are, whatever file they come from: class indices of any window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import numpy.typing as npt

from hrrsi.errors import HrrsiError
from hrrsi.labels.scheme import IGNORE_INDEX
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window

# Marks pixels whose label the scheme doesn't know; a scheme has at most 254 classes, 0 to 253.
UNKNOWN_LABEL = 254

Unknown = Literal["error", "ignore"]
Indices = npt.NDArray[np.uint8]


class Labels(ABC):
    """The labels of one open scene. Use `open_labels`.

    Args:
        scene: The scene that they belong to, for its size and grid.
        name: The scene's name, for messages.
        path: The label's file, for messages.
        unknown: What to do about labels that the scheme doesn't know: fail, or ignore them.
    """

    def __init__(self, scene: Scene, name: str, path: str, unknown: Unknown) -> None:
        self.scene = scene
        self.name = name
        self.path = path
        self.unknown = unknown

    @abstractmethod
    def _decode(self, window: Window) -> Indices:
        """Return class indices, 255 where ignored, 254 where the label is unknown."""

    @abstractmethod
    def _unknown_error(self) -> HrrsiError:
        """Return the error that describes the scene's unknown labels."""

    def read(self, window: Window) -> Indices:
        """Return the class indices of a window, 255 where no class is given.

        Args:
            window: Lies within the scene.

        Returns:
            (height, width) uint8.

        Raises:
            HrrsiError: The label can't be read there, or holds what the scheme doesn't know.
        """
        return self.read_with_unknown(window)[0]

    def read_with_unknown(self, window: Window) -> tuple[Indices, int]:
        """Return what `read` returns, and how many of its pixels had an unknown label."""
        indices = self._decode(window)
        unknown = indices == UNKNOWN_LABEL
        count = int(unknown.sum())
        if count:
            if self.unknown == "error":
                raise self._unknown_error()
            indices[unknown] = IGNORE_INDEX
        return indices, count
