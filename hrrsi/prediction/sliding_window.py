"""Sliding-window inference over a whole scene: windows, reading, engine and blending joined."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hrrsi.classes import IGNORE_INDEX, ScoreType
from hrrsi.errors import InputError
from hrrsi.graphs.graph import Floats
from hrrsi.maps.rasters import empty_score
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.prediction.blend_kernel import spans
from hrrsi.prediction.blending import RowBlender, Strip
from hrrsi.prediction.engines.engine import Engine, Pixels
from hrrsi.prediction.options import Augmentation, MapOptions
from hrrsi.prediction.window_reader import WindowPixels, read_ahead, read_window
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.value_scale import same_values
from hrrsi.scenes.window_source import WindowSource
from hrrsi.scenes.windows import Window, window_starts

if TYPE_CHECKING:
    from hrrsi.scenes.polygons import AreaOfInterest

_READ_AHEAD = 8


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
        first_row: Row of the scene to begin at, where a strip of an earlier call ended.
        on_pixels: Called with the number of pixels that have just got their labels.

    Yields:
        Strips; their labels are 255 where the scene holds no data or lies outside its area of
        interest.

    Raises:
        InputError: The scene's type needs `scale`, or the file can't be read somewhere.
    """
    full = value_scale(source, engine.meta, options.scale)
    # a function around the generator, so that bad arguments fail here and not at the first strip
    return _strips(source, engine, options, full, confidence, probabilities, first_row, on_pixels)


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


def _strips(
    source: WindowSource,
    engine: Engine,
    options: MapOptions,
    scale: float,
    confidence: ScoreType | None,
    probabilities: ScoreType | None,
    first_row: int,
    on_pixels: Callable[[int], None] | None,
) -> Generator[Strip, None, None]:
    meta = engine.meta
    symmetry_group = symmetries(options.augmentation)
    window, overlap = options.window, options.effective_overlap
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
        step=source.step,
        confidence=confidence,
        probabilities=probabilities,
        logit_stride=engine.logit_stride,
    )
    # the row of windows above the first strip is blended with it
    row = blender.row_of(first_row)
    start = max(row - 1, 0)

    def read(place: Window) -> WindowPixels:
        if source.area is not None and not source.area.touches(source.raster_window(place)):
            return WindowPixels(None, None)
        return read_window(source, place, scale)

    windows = (
        Window(row, col, window, window) for row in row_starts[start:] for col in column_starts
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
            for index in range(start, len(row_starts)):
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
