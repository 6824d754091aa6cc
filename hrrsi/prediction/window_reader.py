"""Reads windows of a scene ahead of the network, in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio

from hrrsi.errors import InputError
from hrrsi.scenes.window_source import WindowSource
from hrrsi.scenes.windows import Window

_IMPOSSIBLE = 1000
# types that inference graphs take as they are; others are read as float32
_GRAPH_TYPES = frozenset({"uint8", "int8", "uint16", "int16", "float32"})


class WindowPixels(NamedTuple):
    """What a window holds.

    Attributes:
        pixels: (bands, height, width) in the scene's type, filled where there is no data; None
            where the whole window holds none.
        valid: (height, width) bool on the map's grid, which of the map's pixels in the window
            hold data; None where all or none do.
    """

    pixels: npt.NDArray[Any] | None
    valid: npt.NDArray[np.bool_] | None


def read_window(source: WindowSource, window: Window, scale: float) -> WindowPixels:
    """Return what a window of a scene holds.

    Args:
        source: The scene.
        window: Begins in the scene; what lies beyond the scene holds no data.
        scale: The value that counts as full brightness.

    Raises:
        InputError: The file can't be read there, or holds numbers that can't be brightness.
    """
    height = min(window.height, source.network_grid.height - window.row)
    width = min(window.width, source.network_grid.width - window.col)
    part = Window(window.row, window.col, height, width)
    values, valid = source.read(part)
    if values.dtype.name not in _GRAPH_TYPES:
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
        if not np.isfinite(values).all():  # what float32 can't hold is no data either
            finite = np.isfinite(values).all(axis=0)
            valid = finite if valid is None else valid & finite
    if valid is not None and not valid.any():
        return WindowPixels(None, None)
    if values.dtype.kind == "f":
        image = values[:-1] if source.has_height else values
        _check_brightness(source, image if valid is None else image[:, valid], scale)
    if part == window:
        # values without data may be NaN or far off: they must not reach the arithmetic
        filled = values if valid is None else mirror_filled(values, valid)
        return WindowPixels(filled, _on_map(source, part, valid))
    beyond = ((0, window.height - height), (0, window.width - width))
    padded_valid = np.pad(np.ones(part[2:], dtype=bool) if valid is None else valid, beyond)
    filled = mirror_filled(np.pad(values, ((0, 0), *beyond)), padded_valid)
    return WindowPixels(filled, _on_map(source, part, valid))


def read_ahead(
    windows: Iterable[Window], read: Callable[[Window], WindowPixels], ahead: int
) -> Generator[WindowPixels, None, None]:
    """Yield what windows hold, in their order, reading up to `ahead` of them in advance.

    The scene must not be read by anyone else until the iterator ends or is closed.

    Raises:
        InputError: The file can't be read somewhere.
    """
    ready: queue.Queue[WindowPixels | BaseException | None] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def hand_over(item: WindowPixels | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def run() -> None:
        try:
            with rasterio.Env():  # GDAL's error handling is set up thread by thread
                for window in windows:
                    if stopped.is_set():
                        return
                    hand_over(read(window))
            hand_over(None)
        except BaseException as error:  # raised again where the windows are used
            hand_over(error)

    thread = threading.Thread(target=run, name="window reader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def mirror_filled(pixels: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Return a window whose pixels without data mirror those with data, along rows or columns.

    A pixel at distance d from the nearest one with data in its row or column gets what lies d - 1
    pixels on that one's other side. What finds nothing there is filled in further rounds from what
    was filled before.

    Args:
        pixels: (bands, height, width).
        valid: (height, width), which of them hold data, at least one.

    Returns:
        (bands, height, width) in the type of `pixels`.
    """
    height, width = valid.shape
    # int16 is four times as fast, and holds twice any distance of windows up to 4096 px
    kind = np.int16 if max(height, width) <= 4096 else np.int32
    row, col = (places.astype(kind) for places in np.ogrid[:height, :width])
    far = kind(max(height, width))
    filled, has_value = pixels.copy(), valid
    while not has_value.all():
        left = col - np.maximum.accumulate(np.where(has_value, col, -far), axis=1)
        right = _from_the_end(np.where(has_value, col, 2 * far), axis=1) - col
        above = row - np.maximum.accumulate(np.where(has_value, row, -far), axis=0)
        below = _from_the_end(np.where(has_value, row, 2 * far), axis=0) - row
        across, down = np.minimum(left, right), np.minimum(above, below)
        along_row = across <= down
        # d pixels from an edge pixel lies what is d - 1 pixels on its other side
        step = np.where(along_row, across, down)
        step += step - 1
        backwards = np.where(along_row, left <= right, above <= below)
        np.negative(step, out=step, where=backwards)
        to = np.where(along_row, col, row) + step
        length = np.where(along_row, kind(width), kind(height))
        usable = (to >= 0) & (to < length) & ~has_value
        source = np.where(along_row, row, to).astype(np.int32) * width
        source += np.where(along_row, to, col)
        source[~usable] = 0
        usable &= has_value.take(source)
        for band in filled:
            np.copyto(band, band.take(source), where=usable)
        has_value = has_value | usable
    return filled


def _on_map(
    source: WindowSource, window: Window, valid: npt.NDArray[np.bool_] | None
) -> npt.NDArray[np.bool_] | None:
    """Return which of the map's pixels hold data, given which of the network's do."""
    if source.step == 1 or not source.declares_nodata:
        return valid
    # a pixel of the network's may be valid for a part of what it covers
    on_map = source.read_raster_valid(window)
    return None if on_map.all() else on_map


def _check_brightness(
    source: WindowSource, values: npt.NDArray[np.floating[Any]], scale: float
) -> None:
    """Raise where a number can only be a mark of missing data.

    Raises:
        InputError: It is a thousand times full brightness.
    """
    for extreme in (values.min(), values.max()):
        if abs(extreme) > _IMPOSSIBLE * scale:
            raise InputError(
                f"holds {extreme:g} where {scale:g} is full brightness",
                where=source.path,
                fix="name the value of pixels without data with `nodata`, or correct `scale`",
            )


def _from_the_end(places: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    return np.flip(np.minimum.accumulate(np.flip(places, axis), axis=axis), axis)
