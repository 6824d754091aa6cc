"""Sliding-window inference over a whole scene: windows, reading, engine and blending joined.

Windows are read ahead of the network, in a thread of their own.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio

from hrrsi.classes import IGNORE_INDEX, ScoreType
from hrrsi.errors import InputError, OptionError
from hrrsi.graphs.graph import Floats
from hrrsi.interruption import stop_if_requested
from hrrsi.maps.rasters import empty_score
from hrrsi.networks.architecture import LogitGrid
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.prediction.blend_kernel import first_pixel, spans
from hrrsi.prediction.blending import RowBlender, Strip
from hrrsi.prediction.engines.engine import Engine, Pixels
from hrrsi.prediction.options import Augmentation, MapOptions
from hrrsi.scenes.resampling import OWN_STEPS
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.value_scale import same_values
from hrrsi.scenes.window_source import WindowSource
from hrrsi.scenes.windows import Window, window_starts

if TYPE_CHECKING:
    from hrrsi.scenes.polygons import AreaOfInterest

_IMPOSSIBLE = 1000
_HEED_SECONDS = 0.2  # how long a request to stop may wait while a server is slow
# types that inference graphs take as they are; others are read as float32
_GRAPH_TYPES = frozenset({"uint8", "int8", "uint16", "int16", "float32"})
_READ_AHEAD = 8


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
        while True:
            stop_if_requested()
            try:
                item = ready.get(timeout=_HEED_SECONDS)
            except queue.Empty:
                continue
            if item is None:
                return
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
    if source.steps == OWN_STEPS or not source.declares_nodata:
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
                fix=f"give `nodata={extreme:g}` where that marks missing data, or correct `scale`",
            )


def _from_the_end(places: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    return np.flip(np.minimum.accumulate(np.flip(places, axis), axis=axis), axis)


class Symmetry(NamedTuple):
    """A symmetry of the square.

    Attributes:
        turns: Quarter turns, counter-clockwise.
        flipped: Whether columns are reversed first.
    """

    turns: int
    flipped: bool

    def view(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return (bands, height, width) pixels as the network shall see them."""
        turned = np.rot90(pixels[:, :, ::-1] if self.flipped else pixels, self.turns, axes=(1, 2))
        return np.ascontiguousarray(turned)

    def upright(self, logits: Floats) -> Floats:
        """Return (classes, rows, columns) logits of a `view` in the scene's orientation."""
        turned = np.rot90(logits, -self.turns, axes=(1, 2))
        return turned[:, :, ::-1] if self.flipped else turned


_SYMMETRIES: dict[Augmentation, tuple[Symmetry, ...]] = {
    "none": (Symmetry(0, False),),
    "flip": (Symmetry(0, False), Symmetry(0, True)),
    "d4": tuple(Symmetry(turns, flipped) for flipped in (False, True) for turns in range(4)),
}


def symmetries(name: Augmentation) -> tuple[Symmetry, ...]:
    """Return the symmetries of a test-time augmentation, by its name."""
    return _SYMMETRIES[name]


def mean_logits(
    logits: Iterator[Floats | None], symmetry_group: Sequence[Symmetry]
) -> Iterator[Floats | None]:
    """Yield the mean over symmetries of each window's logits, turned back.

    Args:
        logits: Those of each window under each symmetry, window by window.
        symmetry_group: The symmetries.
    """
    if len(symmetry_group) == 1:
        yield from logits
        return
    for first in logits:
        views = [first, *islice(logits, len(symmetry_group) - 1)]
        upright = [
            symmetry.upright(view)
            for symmetry, view in zip(symmetry_group, views, strict=True)
            if view is not None
        ]
        if upright:
            yield np.ascontiguousarray(np.mean(upright, axis=0, dtype=np.float32))
        else:
            yield None


def predict_strips(
    source: WindowSource,
    engine: Engine,
    options: MapOptions = MapOptions(),
    *,
    confidence: ScoreType | None = None,
    probabilities: ScoreType | None = None,
    first_row: int = 0,
    stop_row: int | None = None,
    on_pixels: Callable[[int], None] | None = None,
) -> Generator[Strip, None, None]:
    """Yield the map of a scene in strips from top to bottom, which cover it exactly once.

    Overlapping windows are blended: their logits, weighted by a raised cosine over the overlap,
    add up, and the largest sum wins. Memory grows with the scene's width only, by a strip and the
    logits of `overlap` rows. What a window lacks is filled with mirror images of what it holds.

    Args:
        source: The scene; nobody else may read it meanwhile.
        engine: Runs the network.
        options: Its windows, their overlap and augmentation, and `scale`, the value that counts
            as full brightness, by default the weights' own; needed where the scene's type differs
            from the one that the network was trained on. What a scene declares is for the caller
            to find out (`scene_checks.SceneChecks.scale`), as what `open_scene` takes.
        confidence: Type in which strips hold confidences, or None for none.
        probabilities: Type in which strips hold class probabilities, or None for none.
        first_row: Row of the scene to begin at, where a strip begins (`strip_rows`).
        stop_row: Row of the scene to end at, where a strip ends; None: its last.
        on_pixels: Called with the number of pixels that have just got their labels.

    Yields:
        Strips; their labels are 255 where the scene holds no data or lies outside its area of
        interest.

    Raises:
        InputError: The scene's type needs `scale`, or the file can't be read somewhere.
    """
    full = value_scale(source, engine.meta, options.scale)
    # a function around the generator, so that bad arguments fail here and not at the first strip
    rows = (first_row, stop_row)
    return _strips(source, engine, options, full, confidence, probabilities, rows, on_pixels)


def strip_rows(source: WindowSource, options: MapOptions) -> list[int]:
    """Return the rows of a scene at which strips of its map begin, and the one after its last.

    Args:
        source: The scene.
        options: Its windows and their overlap.
    """
    window, overlap = options.effective_window, options.effective_overlap
    height = source.network_grid.height
    parts = spans(window_starts(height, window, window - overlap), window, overlap, height)
    return [
        *(first_pixel(part.start, source.steps[0]) for part in parts),
        source.raster_grid.height,
    ]


def value_scale(scene: Scene | WindowSource, meta: ModelMeta, scale: float | None) -> float:
    """Return the raster's value that counts as full brightness.

    Raises:
        InputError: The raster's type is not the one that the network was trained on, and `scale`
            is not given.
    """
    if scale is None and not same_values(scene.dtype, meta.dtype):
        raise InputError(
            f"holds {scene.dtype} where the weights were trained on {meta['dtype']}",
            where=scene.path,
            fix="say which value is full brightness with `scale`, e.g. `scale=10000`",
        )
    return meta.scale if scale is None else scale


def require_mirrored_windows(options: MapOptions, grid: LogitGrid) -> None:
    """Raise where mirrored windows can't be averaged: their logits would lie on other pixels.

    Args:
        options: How scenes are mapped.
        grid: Where logits lie on a window.

    Raises:
        OptionError: Windows are no multiple of the pixels of a logit, as augmentation takes.
    """
    window = options.effective_window
    is_mirrored = len(symmetries(options.augmentation)) > 1
    if is_mirrored and grid.alignment == "centres" and window % grid.stride:
        raise OptionError(
            f"is no multiple of {grid.stride}, as test-time augmentation takes with these weights",
            parameter="window",
            fix=f"give {window - window % grid.stride or grid.stride}, or no augmentation",
        ).at(f"`window={window}`")


def _strips(
    source: WindowSource,
    engine: Engine,
    options: MapOptions,
    scale: float,
    confidence: ScoreType | None,
    probabilities: ScoreType | None,
    rows: tuple[int, int | None],
    on_pixels: Callable[[int], None] | None,
) -> Generator[Strip, None, None]:
    meta = engine.meta
    symmetry_group = symmetries(options.augmentation)
    window, overlap = options.effective_window, options.effective_overlap
    grid = engine.logit_grid
    require_mirrored_windows(options, grid)
    row_starts, column_starts = (
        window_starts(length, window, window - overlap) for length in source.network_grid
    )
    blender = RowBlender(
        spans(row_starts, window, overlap, source.network_grid.height),
        spans(column_starts, window, overlap, source.network_grid.width),
        (window, window),
        overlap,
        len(meta.classes),
        source.raster_grid,
        grid,
        steps=source.steps,
        confidence=confidence,
        probabilities=probabilities,
    )
    # the row of windows above the first strip is blended with it
    first_row, stop_row = rows
    row = blender.row_of(first_row)
    start = max(row - 1, 0)
    stop = len(row_starts)
    if stop_row is not None and stop_row < source.raster_grid.height:
        stop = blender.row_of(stop_row)

    def read(place: Window) -> WindowPixels:
        if source.area is not None and not source.area.touches(source.raster_window(place)):
            return WindowPixels(None, None)
        return read_window(source, place, scale)

    windows = (
        Window(row, col, window, window) for row in row_starts[start:stop] for col in column_starts
    )
    with closing(read_ahead(windows, read, ahead=_READ_AHEAD)) as reads:
        valid: deque[npt.NDArray[np.bool_] | None] = deque()

        def network_views() -> Iterator[Pixels | None]:
            for window_read in reads:
                valid.append(window_read.valid)
                for symmetry in symmetry_group:
                    pixels = window_read.pixels
                    yield None if pixels is None else symmetry.view(pixels)

        with closing(engine.logits(network_views(), *meta.normalisation(scale))) as logits:
            means = mean_logits(logits, symmetry_group)
            for index in range(start, stop):
                blender.start_row(index)
                for number in range(len(column_starts)):
                    pixels = blender.add(number, next(means), valid.popleft())
                    if on_pixels and index >= row:
                        on_pixels(pixels)
                if index >= row:
                    yield _within_area(blender.strip(), source.area)


def _within_area(strip: Strip, area: AreaOfInterest | None) -> Strip:
    """Return a strip without what lies outside the area of interest."""
    if area is not None:
        outside = ~area.inside(Window(strip.first_row, 0, *strip.labels.shape))
        strip.labels[outside] = IGNORE_INDEX
        for scores in (strip.confidence, strip.probabilities):
            if scores is not None:
                scores[..., outside] = empty_score(scores.dtype)
    return strip
