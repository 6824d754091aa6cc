"""Reads windows of a scene ahead of the network, normalised, in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio

from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window


class WindowPixels(NamedTuple):
    """What a window holds.

    Attributes:
        window: Where it lies.
        pixels: (bands, height, width) float32, normalised, 0 (the mean) where there is no data;
            None where the whole window holds no data.
        valid: (height, width) bool, which pixels hold data; None where all or none do.
    """

    window: Window
    pixels: npt.NDArray[np.float32] | None
    valid: npt.NDArray[np.bool_] | None


class Normalisation:
    """Turns raster values into what a network sees: (value / scale - mean) / std.

    Args:
        scale: The raster's value that counts as 1.
        mean: Mean of each band after that division.
        std: Standard deviation of each band, likewise.
    """

    def __init__(self, scale: float, mean: Sequence[float], std: Sequence[float]) -> None:
        deviation = np.asarray(std, dtype=np.float64)[:, None, None]
        self._gain = (1 / (scale * deviation)).astype(np.float32)
        self._offset = (-np.asarray(mean)[:, None, None] / deviation).astype(np.float32)

    def __call__(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Return (bands, height, width) values of any real type as normalised float32."""
        pixels: npt.NDArray[np.float32] = np.multiply(values, self._gain, dtype=np.float32)
        pixels += self._offset
        return pixels


def read_window(scene: Scene, window: Window, normalisation: Normalisation) -> WindowPixels:
    """Return what a window of a scene holds.

    Raises:
        HrrsiError: The file can't be read there.
    """
    values = scene.read(window)
    if not scene.declares_nodata:
        return WindowPixels(window, normalisation(values), None)
    valid = scene.read_valid(window, values)
    if not valid.any():
        return WindowPixels(window, None, None)
    if valid.all():
        return WindowPixels(window, normalisation(values), None)
    # values without data may be NaN or far off: they must not reach the arithmetic
    return WindowPixels(window, normalisation(np.where(valid, values, 0)) * valid, valid)


def read_ahead(
    scene: Scene, windows: Iterable[Window], normalisation: Normalisation, ahead: int
) -> Generator[WindowPixels, None, None]:
    """Yield what windows hold, in their order, reading up to `ahead` of them in advance.

    The scene must not be read by anyone else until the iterator ends or is closed.

    Raises:
        HrrsiError: The file can't be read somewhere.
    """
    ready: queue.Queue[WindowPixels | BaseException | None] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def hand_over(item: WindowPixels | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def read() -> None:
        try:
            with rasterio.Env():  # GDAL's error handling is set up thread by thread
                for window in windows:
                    if stopped.is_set():
                        return
                    hand_over(read_window(scene, window, normalisation))
            hand_over(None)
        except BaseException as error:  # raised again where the windows are used
            hand_over(error)

    thread = threading.Thread(target=read, name="window reader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
