"""What a scene's values look like: which one is full brightness, and are they like training's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hrrsi.scenes.scene import FULL_SCALE, Scene
from hrrsi.scenes.windows import Window

_SIDE = 512  # pixels along the longer side that a sample has at least, where there are so many
_LARGEST_SIDE = 4 * _SIDE
_PIECE = 64
_PIECES = (8, 24)  # along each axis; more only where the first hold no data

# Ends of value ranges that are in use, with what they are called.
_RANGES = (
    (255.0, "8-bit values"),
    (1023.0, "10-bit values"),
    (2047.0, "11-bit values"),
    (4095.0, "12-bit values"),
    (10000.0, "reflectance times 10000"),
    (16383.0, "14-bit values"),
    (65535.0, "16-bit values"),
)
_BEYOND = 1.05
_HIGH_PERCENTILE = 99.9
_BRIGHT_PERCENTILE = 99.5

_FAR = 1.5
_TINTED = 0.5


@dataclass(frozen=True)
class SceneSample:
    """Some values of a scene.

    Attributes:
        values: (bands, pixels) float64 of pixels with data, perhaps none.
        dtype: NumPy name of the scene's type.
        bits: Bits a value, where the file says that it uses fewer than its type has.
    """

    values: npt.NDArray[np.float64]
    dtype: str
    bits: int | None


class EstimatedScale(NamedTuple):
    """Which value was taken for full brightness.

    Attributes:
        value: The value.
        reason: Why, as a line for the user.
    """

    value: float
    reason: str


def scene_sample(scene: Scene) -> SceneSample:
    """Return some values of a scene, spread over it, without reading all of it.

    A scene of at most 2048 px a side is taken whole (every other row and column of it above 1024),
    a larger one by an overview of such a size, or by 64 squares of 64 px where it has none.

    Args:
        scene: The scene; nobody else may read it meanwhile.

    Raises:
        HrrsiError: The file can't be read somewhere.
    """
    own = scene.on_own_grid
    longest = max(own.height, own.width)
    values: npt.NDArray[np.float64] = np.empty((len(scene.bands), 0))
    if longest <= _LARGEST_SIDE:
        values = _values(own, Window(0, 0, own.height, own.width), thin=longest > _LARGEST_SIDE / 2)
    else:
        with own.reduced(_SIDE, _LARGEST_SIDE) as overview:
            if overview is not None:
                whole = Window(0, 0, overview.height, overview.width)
                values = _values(overview, whole)
    for pieces in _PIECES:
        if values.size or longest <= _LARGEST_SIDE:
            break
        windows = [
            Window(row, col, min(_PIECE, own.height), min(_PIECE, own.width))
            for row in _spread(own.height, pieces)
            for col in _spread(own.width, pieces)
        ]
        values = np.concatenate([_values(own, window) for window in windows], axis=1)
    return SceneSample(values, scene.dtype, _declared_bits(scene))


def _values(scene: Scene, window: Window, *, thin: bool = False) -> npt.NDArray[np.float64]:
    """Return (bands, pixels) of the pixels with data."""
    pixels = scene.read(window)
    valid = scene.read_valid(window, pixels)
    if thin:
        pixels, valid = pixels[:, ::2, ::2], valid[::2, ::2]
    values: npt.NDArray[np.float64] = pixels[:, valid].astype(np.float64)
    return values


def _spread(length: int, pieces: int) -> list[int]:
    last = max(0, length - _PIECE)
    return sorted({round(last * i / (pieces - 1)) for i in range(pieces)})


def _declared_bits(scene: Scene) -> int | None:
    text: Any = scene.dataset.tags(scene.bands[0], ns="IMAGE_STRUCTURE").get("NBITS")
    return int(text) if text and np.dtype(scene.dtype).kind in "iu" else None


def estimated_scale(sample: SceneSample) -> EstimatedScale:
    """Return which value of a scene is likely to be full brightness.

    In this order:

    1. uint8 is 255, and a file that says how many bits it uses (NBITS) has their largest value.
    2. Floating-point values of which 99.9 % lie below 1.05 are 1.
    3. Where the value below which 99.9 % lie is at most a twentieth beyond the end of a range in
       use (8, 10, 11 or 12 bits, reflectance times 10000, 14 or 16 bits) and above half of it, the
       end of the smallest such range. Whole numbers below 127 count as 8 bits too: a dark scene.
    4. Otherwise the value below which 99.5 % lie.

    Without any value above 0 it is the largest value of the type (1 of floating-point types).

    Args:
        sample: From `scene_sample`.
    """
    kind = np.dtype(sample.dtype).kind
    if sample.bits is not None:
        largest = float(2**sample.bits - 1)
        return EstimatedScale(largest, f"the file says that it holds {sample.bits} bits a value")
    if sample.dtype == "uint8":
        return EstimatedScale(255.0, "of the type uint8")
    lit = sample.values[sample.values > 0]
    if not lit.size:
        default = FULL_SCALE.get(
            sample.dtype, 1.0 if kind == "f" else float(np.iinfo(sample.dtype).max)
        )
        return EstimatedScale(default, f"of the type {sample.dtype}; no value is above 0")
    high = float(np.percentile(sample.values, _HIGH_PERCENTILE))
    if high <= 0:  # only single pixels are lit
        high = float(lit.max())
    said = f"99.9 % of the values lie below {high:.6g}"
    if kind == "f" and high <= _BEYOND:
        return EstimatedScale(1.0, f"{said}, as in values from 0 to 1")
    for end, name in _RANGES:
        dark = kind != "f" and end == 255
        if high <= end * _BEYOND and (high > end / 2 or dark):
            return EstimatedScale(end, f"{said}, as in {name}")
    bright = float(np.percentile(lit, _BRIGHT_PERCENTILE))
    return EstimatedScale(bright, f"{said}, like no known range; this is the 99.5th percentile")


def unlike_training(
    sample: SceneSample, scale: float, mean: Sequence[float], std: Sequence[float]
) -> str | None:
    """Return in a line how a scene's values differ from those that weights were trained on.

    Two signs count, both in the weights' standard deviations. The bands are far off as a whole:
    the root mean square over them of the 2-Wasserstein distance between the normal distributions
    of scene and training, sqrt((m - mean)² + (s - std)²) / std, is above 1.5. Or the scene has a
    tint: with each side's brightness taken out, a band's mean is off by more than 0.5. Of the 54
    scenes of the Dubai imagery, none is further than 1.4 and 0.15 from the packaged weights.

    Imagery with much the same mean and deviation (the negative of a scene of medium brightness)
    can't be told apart this way.

    Args:
        sample: From `scene_sample`.
        scale: The value of full brightness.
        mean: Mean of each band in training, after division by its scale.
        std: Standard deviation of each band, likewise.

    Returns:
        The line, or None where the scene looks like the training data, or has no data.
    """
    if not sample.values.size:
        return None
    centre, deviation = np.asarray(mean), np.asarray(std)
    with np.errstate(over="ignore", invalid="ignore"):
        found = sample.values.mean(axis=1) / scale
        spread = sample.values.std(axis=1) / scale
        distance = np.sqrt(
            np.mean(((found - centre) ** 2 + (spread - deviation) ** 2) / deviation**2)
        )
    tint = ((found - found.mean()) - (centre - centre.mean())) / deviation.mean()
    if not distance <= _FAR:
        fix = "check --scale and --bands"
    elif not np.abs(tint).max() <= _TINTED:
        fix = "check the order of --bands"
    else:
        return None
    return (
        f"imagery unlike what the weights were trained on: band means {_list(found)} "
        f"(deviations {_list(spread)}) where training had {_list(centre)} ({_list(deviation)}); "
        f"{fix}, and expect worse maps"
    )


def _list(numbers: npt.NDArray[np.float64]) -> str:
    return ", ".join(f"{n:.2g}" for n in numbers)
