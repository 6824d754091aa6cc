"""What mapping a scene will take, found out without doing it."""

from __future__ import annotations

import time

import numpy as np

from hrrsi.graphs.segmentation import normalisation
from hrrsi.maps.outputs import Outputs
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.map_options import MapOptions
from hrrsi.prediction.mapped_scene import PlannedScene
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window, window_starts

_TIMED_WINDOWS = 8
_SECONDS_A_PIXEL = 2.5e-8  # for all but the network: 2.5 s in 100 Mpx


def seconds_a_window(engine: Engine, window: int) -> float:
    """Return the wall time that a window takes, measured on windows of noise.

    Args:
        engine: Runs the network.
        window: Rows and columns of a window.
    """
    meta = engine.meta
    noise = np.random.default_rng(0).integers(
        0, 256, (len(meta["mean"]), window, window), dtype=np.uint8
    )
    if meta.get("height"):
        noise = noise.astype(np.float32)
    normal = normalisation(255, meta["mean"], meta["std"])
    seconds = 0.0
    for _ in range(2):  # the first time, the graph is compiled
        start = time.perf_counter()
        for _ in engine.logits([noise] * _TIMED_WINDOWS, *normal):
            pass
        seconds = time.perf_counter() - start
    return seconds / _TIMED_WINDOWS


def planned_scene(
    scene: Scene, outputs: Outputs, options: MapOptions, engine: Engine, seconds: float
) -> PlannedScene:
    """Return what mapping a scene will take.

    Args:
        scene: The open scene.
        outputs: Its files.
        options: How it will be mapped.
        engine: Runs the network.
        seconds: Wall time that a window takes.
    """
    starts = [
        window_starts(length, options.window, options.window - options.overlap)
        for length in (scene.height, scene.width)
    ]
    windows = len(starts[0]) * len(starts[1])
    if scene.area is not None:
        windows = sum(
            scene.area.touches(
                scene.on_input_grid(Window(row, col, options.window, options.window))
            )
            for row in starts[0]
            for col in starts[1]
        )
    height, width = scene.map_shape
    itemsize = {None: 0, "uint8": 1, "float32": 4}
    classes = len(engine.meta["classes"])
    bytes_a_pixel = 1 + itemsize[options.confidence] + classes * itemsize[options.probabilities]
    return PlannedScene(
        scene.path,
        outputs,
        height=height,
        width=width,
        windows=windows,
        seconds=windows * seconds + height * width * _SECONDS_A_PIXEL,
        disk_bytes=height * width * bytes_a_pixel * 4 // 3,  # overviews make a third more
    )
