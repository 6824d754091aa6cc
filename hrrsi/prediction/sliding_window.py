"""Sliding-window inference over a whole scene: windows, reading, network and blending joined."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

import numpy as np
import numpy.typing as npt
import torch

from hrrsi.errors import HrrsiError
from hrrsi.networks import UED
from hrrsi.prediction.blending import RowBlender, spans
from hrrsi.prediction.engine import TorchEngine
from hrrsi.prediction.window_reader import Normalisation, WindowPixels, read_ahead
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import window_grid


def predict_rows(
    scene: Scene,
    network: UED,
    *,
    window: int = 512,
    overlap: int = 64,
    batch: int = 4,
    device: torch.device | str = "cpu",
    scale: float | None = None,
    on_pixels: Callable[[int], None] | None = None,
) -> Generator[tuple[int, npt.NDArray[np.uint8]], None, None]:
    """Yield the labels of a scene in strips from top to bottom, which cover it exactly once.

    Overlapping windows are blended: their class probabilities, weighted by a raised cosine over
    the overlap, add up, and the largest sum wins. Memory grows with the scene's width only, by
    `overlap` rows of probabilities. Pixels without data reach the network as the training mean.
    A scene smaller than a window is one window of the scene's size.

    Args:
        scene: The scene; nobody else may read it meanwhile.
        network: The network with its ``meta``; it is moved to `device`.
        window: Rows and columns of a window.
        overlap: Pixels that neighbouring windows share, 0 to half of `window`.
        batch: Windows that the network sees at once; labels don't depend on it.
        device: Where the network runs.
        scale: The raster's value that counts as full brightness, needed where its type differs
            from the one that the network was trained on.
        on_pixels: Called with the number of pixels that have just got their labels.

    Yields:
        The strip's first row, and its labels (rows, width) uint8: class indices, 255 where the
        scene holds no data.

    Raises:
        HrrsiError: Window and overlap don't go together, the scene's type needs `scale`, or the
            file can't be read somewhere.
    """
    check_window(window, overlap)
    values = value_scale(scene, network, scale)
    # a function around the generator, so that bad arguments fail here and not at the first strip
    return _rows(scene, network, window, overlap, batch, device, values, on_pixels)


def check_window(window: int, overlap: int) -> None:
    """Raise unless windows of that size can overlap by that much.

    Raises:
        HrrsiError: They can't.
    """
    if window < 1 or not 0 <= 2 * overlap <= window:
        raise HrrsiError(
            f"an overlap of {overlap} px does not fit windows of {window} px",
            fix="choose --overlap from 0 to half of --window",
        )


def value_scale(scene: Scene, network: UED, scale: float | None) -> float:
    """Return the raster's value that counts as full brightness.

    Raises:
        HrrsiError: The raster's type is not the one that the network was trained on, and `scale`
            is not given.
    """
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise HrrsiError(
            f"full brightness can't be {scale:g}", where="--scale", fix="give a number above 0"
        )
    trained_on = network.meta["dtype"]
    if scale is None and scene.dtype != trained_on:
        raise HrrsiError(
            f"holds {scene.dtype} where the weights were trained on {trained_on}",
            where=scene.path,
            fix="say which value is full brightness with --scale, e.g. --scale 10000",
        )
    return float(network.meta["scale"]) if scale is None else scale


def _rows(
    scene: Scene,
    network: UED,
    window: int,
    overlap: int,
    batch: int,
    device: torch.device | str,
    scale: float,
    on_pixels: Callable[[int], None] | None,
) -> Generator[tuple[int, npt.NDArray[np.uint8]], None, None]:
    grid = window_grid(scene.height, scene.width, window, window - overlap)
    first = grid[0][0]
    row_spans = spans([row[0].row for row in grid], first.height, overlap)
    column_spans = spans([w.col for w in grid[0]], first.width, overlap)
    normalisation = Normalisation(scale, network.meta["mean"], network.meta["std"])
    engine = TorchEngine(network, device)
    blender = RowBlender(scene.width, network.num_classes, overlap)
    windows = (w for row in grid for w in row)
    places = ((rows, columns) for rows in row_spans for columns in column_spans)
    with closing(read_ahead(scene, windows, normalisation, ahead=2 * batch)) as reads:
        for (rows, columns), (read, probabilities) in zip(
            places, _classified(reads, engine, batch), strict=True
        ):
            if columns is column_spans[0]:
                blender.start_row(rows)
            pixels = blender.add(columns, read, probabilities)
            if on_pixels:
                on_pixels(pixels)
            if columns is column_spans[-1]:
                yield rows.start, blender.labels()


def _classified(
    reads: Iterator[WindowPixels], engine: TorchEngine, batch: int
) -> Iterator[tuple[WindowPixels, npt.NDArray[np.float32] | None]]:
    """Yield windows in order with their probabilities; batches span rows of windows.

    Windows without data skip the network: their probabilities are None.
    """
    waiting: list[WindowPixels] = []
    full = 0

    def flush() -> Iterator[tuple[WindowPixels, npt.NDArray[np.float32] | None]]:
        pixels = [read.pixels for read in waiting if read.pixels is not None]
        results = iter(engine.probabilities(np.stack(pixels)) if pixels else ())
        for read in waiting:
            yield read, None if read.pixels is None else next(results)
        waiting.clear()

    for read in reads:
        waiting.append(read)
        full += read.pixels is not None
        if full == batch:
            yield from flush()
            full = 0
    yield from flush()
