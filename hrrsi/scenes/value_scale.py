"""What a scene's values look like: which one is full brightness, and are they like training's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hrrsi.errors import OptionError
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window, spread_starts

if TYPE_CHECKING:
    from hrrsi.scenes.polygons import AreaOfInterest

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
    (32767.0, "all of int16"),
    (65535.0, "16-bit values"),
)
# What the largest value of a type counts as: values are divided by it before normalisation.
FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0, "int16": 32767.0}
_BEYOND = 1.05
_HIGH_PERCENTILE = 99.9
_BRIGHT_PERCENTILE = 99.5
_FAR = 1.75
_FAR_HEIGHTS = 1.5
_SCENE_PIXELS = 1 << 17  # so many of each of several scenes have a say
_ONE_KIND = 20  # times that estimates of scenes of one kind may differ: some are dark
_TINTED = 0.5


@dataclass(frozen=True)
class SceneSample:
    """Some values of a scene.

    Attributes:
        values: (bands, pixels) float64 of pixels with data, perhaps none; without the heights.
        dtype: NumPy name of the scene's type.
        bits: Bits a value, where the file says that it uses fewer than its type has.
        unit: What a step of its values stands for, where the file declares that (GDAL's scale).
        heights: (pixels,) float64, the heights of the same pixels, or None without height model.
        without_height: Share of the pixels with data that have no height.
    """

    values: npt.NDArray[np.float64]
    dtype: str
    bits: int | None
    unit: float | None = None
    heights: npt.NDArray[np.float64] | None = None
    without_height: float = 0.0


class EstimatedScale(NamedTuple):
    """Which value was taken for full brightness.

    Attributes:
        value: The value.
        reason: Why, as a line for the user.
    """

    value: float
    reason: str


def scene_sample(
    scene: Scene, nodata: float | None = None, area: AreaOfInterest | None = None
) -> SceneSample:
    """Return some values of a scene, spread over it, without reading all of it.

    A scene of at most 2048 px a side is taken whole (every other row and column of it above 1024),
    a larger one by an overview of such a size, or by 64 squares of 64 px where it has none.

    Args:
        scene: The scene; nobody else may read it meanwhile.
        nodata: A value of pixels to leave out, where all bands hold it.
        area: Where the squares lie, unless none in it holds data; None: all over the scene.

    Raises:
        InputError: The file can't be read somewhere.
    """
    longest = max(scene.shape)
    pieces_read: list[_Values] = []
    if longest <= _LARGEST_SIDE:
        whole = Window(0, 0, *scene.shape)
        pieces_read = [_values(scene, whole, thin=longest > _LARGEST_SIDE / 2)]
    else:
        with scene.reduced(_SIDE, _LARGEST_SIDE) as overview:
            if overview is not None:
                whole = Window(0, 0, *overview.shape)
                pieces_read = [_values(overview, whole)]
    for pieces in _PIECES:
        if any(part.values.size for part in pieces_read) or longest <= _LARGEST_SIDE:
            break
        windows = [
            Window(row, col, min(_PIECE, scene.height), min(_PIECE, scene.width))
            for row in spread_starts(scene.height, _PIECE, pieces)
            for col in spread_starts(scene.width, _PIECE, pieces)
        ]
        within = [w for w in windows if area is None or area.touches(w)]
        pieces_read = [_values(scene, window) for window in within]
    if not any(part.values.size for part in pieces_read):
        if area is not None:
            return scene_sample(scene, nodata)
        if scene.mosaic is not None and not scene.is_part:  # of tiles that lie far apart
            pieces_read = [_values(scene, _middle(place)) for place in scene.mosaic.places]
    values = np.concatenate([part.values for part in pieces_read], axis=1)
    if nodata is not None:
        values = values[:, (values[: len(scene.bands)] != nodata).any(axis=0)]
    heightless = sum(part.without_height for part in pieces_read)
    return SceneSample(
        values[: len(scene.bands)],
        scene.dtype,
        _declared_bits(scene),
        _declared_unit(scene),
        values[-1] if scene.has_height else None,
        heightless / max(1, heightless + values.shape[1]),
    )


def check_scale(scale: float | None) -> None:
    """Raise unless a value can be full brightness.

    Raises:
        OptionError: It can't.
    """
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise OptionError(
            f"full brightness can't be {scale:g}", parameter="scale", fix="give a number above 0"
        )


def same_values(dtype: str, other: str) -> bool:
    """Return whether a value means the same in two types: they are equal, or both are floats."""
    return dtype == other or (np.dtype(dtype).kind == "f" == np.dtype(other).kind)


def declared_scale(scene: Scene) -> EstimatedScale | None:
    """Return which value is full brightness by a scene's own word, or None.

    It is the value that stands for 1 under the file's scale (GDAL's band tag: 10000 where it is
    0.0001, whatever the offset), else the largest one of the bits that the file uses (NBITS).
    """
    return _declared(_declared_bits(scene), _declared_unit(scene))


def nominal_scale(scene: Scene) -> EstimatedScale | None:
    """Return what a scene declares (`declared_scale`), else 255 of uint8, else None."""
    return declared_scale(scene) or _of_type(scene.dtype)


def estimated_scale(sample: SceneSample) -> EstimatedScale:
    """Return which value of a scene is likely to be full brightness.

    In this order:

    1. What can be said without looking at values (`nominal_scale`).
    2. Floating-point values of which 99.9 % lie below 1.05 are 1.
    3. Where the value below which 99.9 % lie is at most a twentieth beyond the end of a range in
       use (8, 10, 11 or 12 bits, reflectance times 10000, 14 or 16 bits, all of int16) and above
       half of it, the end of the smallest such range. Whole numbers below 127 count as 8 bits too:
       a dark scene.
    4. Otherwise the value below which 99.5 % lie.

    Without any value above 0 it is the largest value of the type (1 of floating-point types).

    Args:
        sample: From `scene_sample`.
    """
    nominal = _declared(sample.bits, sample.unit) or _of_type(sample.dtype)
    if nominal is not None:
        return nominal
    kind = np.dtype(sample.dtype).kind
    lit = sample.values[sample.values > 0]
    if not lit.size:
        default = FULL_SCALE.get(
            sample.dtype, 1.0 if kind == "f" else float(np.iinfo(sample.dtype).max)
        )
        return EstimatedScale(default, f"of the type {sample.dtype}; no value is above 0")
    high = float(np.percentile(sample.values, _HIGH_PERCENTILE))
    if high <= 0:  # only single pixels are lit
        high = float(lit.max())
    reason = f"99.9 % of the values lie below {high:.6g}"
    if kind == "f" and high <= _BEYOND:
        return EstimatedScale(1.0, f"{reason}, as in values from 0 to 1")
    for end, name in _RANGES:
        dark = kind != "f" and end == 255
        if end == 32767 and sample.dtype != "int16":
            continue
        if high <= end * _BEYOND and (high > end / 2 or dark):
            return EstimatedScale(end, f"{reason}, as in {name}")
    bright = float(np.percentile(lit, _BRIGHT_PERCENTILE))
    return EstimatedScale(bright, f"{reason}, like no known range; this is the 99.5th percentile")


def common_scale(samples: Sequence[SceneSample]) -> EstimatedScale | None:
    """Return which value is likely to be full brightness in all of several scenes, or None.

    None where estimates of single scenes are so far apart that they are no imagery of one kind.

    Args:
        samples: From `scene_sample`, of one type.
    """
    own = [estimated_scale(sample).value for sample in samples if sample.values.size]
    if not own or max(own) > _ONE_KIND * min(own):
        return None
    return estimated_scale(joined_sample(samples))


def joined_sample(samples: Sequence[SceneSample]) -> SceneSample:
    """Return the values of several scenes of one type together, at most 2**17 pixels of each."""
    thinned = [thinned_sample(sample).values for sample in samples]
    return SceneSample(np.concatenate(thinned, axis=1), samples[0].dtype, None)


def thinned_sample(sample: SceneSample, most: int = _SCENE_PIXELS) -> SceneSample:
    """Return a sample of at most so many pixels, without its heights."""
    step = max(1, -(-sample.values.shape[1] // most))
    return replace(sample, values=sample.values[:, ::step].copy(), heights=None)


def unlike_training(
    sample: SceneSample, scale: float, mean: Sequence[float], std: Sequence[float]
) -> str | None:
    """Return in a line how a scene's values differ from those that weights were trained on.

    Two signs count, both in the weights' standard deviations. The bands are far off as a whole:
    the root mean square over them of the 2-Wasserstein distance between the normal distributions
    of scene and training, sqrt((m - mean)² + (s - std)²) / std, is above 1.75. Or the scene has a
    tint: with each side's brightness taken out, a band's mean is off by more than 0.5. Of 54 scenes
    of Dubai, 44 of drones and 20 of NAIP, none is further than 1.64 and 0.47 from the packaged
    weights. Heights have no say in it.

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
    bands = len(sample.values)
    centre, deviation = np.asarray(mean)[:bands], np.asarray(std)[:bands]
    with np.errstate(over="ignore", invalid="ignore"):
        scene_mean = sample.values.mean(axis=1) / scale
        scene_std = sample.values.std(axis=1) / scale
    is_near, is_untinted = _likeness_of_bands(scene_mean, scene_std, centre, deviation)
    if is_near and is_untinted:
        return None
    fix = "check the order of `bands`" if is_near else "check `scale` and `bands`"
    return (
        f"imagery unlike what the weights were trained on: band means {_list(scene_mean)} "
        f"(deviations {_list(scene_std)}) where training had {_list(centre)} "
        f"({_list(deviation)}); {fix}, and expect worse maps"
    )


def alike_bands(
    mean: Sequence[float],
    std: Sequence[float],
    other_mean: Sequence[float],
    other_std: Sequence[float],
) -> bool:
    """Return whether imagery is so like other imagery that `unlike_training` says nothing of it.

    Args:
        mean: Mean of each band, after division by its scale.
        std: Standard deviation of each band, likewise.
        other_mean: The other imagery's.
        other_std: Likewise.
    """
    return all(_likeness_of_bands(*map(np.asarray, (mean, std, other_mean, other_std))))


def _likeness_of_bands(
    mean: npt.NDArray[np.float64],
    std: npt.NDArray[np.float64],
    centre: npt.NDArray[np.float64],
    deviation: npt.NDArray[np.float64],
) -> tuple[bool, bool]:
    """Return whether bands are as bright and rich in contrast as others, and of the same tint."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = ((mean - centre) ** 2 + (std - deviation) ** 2) / deviation**2
        distance = np.sqrt(np.mean(squares))
    tint = ((mean - mean.mean()) - (centre - centre.mean())) / deviation.mean()
    return bool(distance <= _FAR), bool(np.abs(tint).max() <= _TINTED)


def heights_unlike_training(
    sample: SceneSample, scale: float, mean: float, std: float
) -> str | None:
    """Return in a line how a scene's heights differ from those in training.

    They do where their mean or their deviation is off by more than 1.5 of the deviations in
    training: as heights above the sea are where training had heights above the ground.

    Args:
        sample: From `scene_sample`.
        scale: What heights were divided by in training.
        mean: Mean height in training, after that division.
        std: Standard deviation, likewise.

    Returns:
        The line, or None where the heights are alike, or there are none.
    """
    if sample.heights is None or not sample.heights.size:
        return None
    scene_mean, scene_std = float(sample.heights.mean()), float(sample.heights.std())
    off = max(abs(scene_mean - mean * scale), abs(scene_std - std * scale))
    if off <= _FAR_HEIGHTS * std * scale:
        return None
    return (
        f"heights unlike those that the weights were trained on: mean {scene_mean:.4g} (deviation "
        f"{scene_std:.3g}) where training had {mean * scale:.4g} ({std * scale:.3g}); check that "
        "they are of the same kind (above the ground, or above the sea) and unit, and expect worse "
        "maps"
    )


class _Values(NamedTuple):
    """(bands, pixels) of pixels with data, and how many more only lack a height."""

    values: npt.NDArray[np.float64]
    without_height: int


def _values(scene: Scene, window: Window, *, thin: bool = False) -> _Values:
    thinning = slice(None, None, 2 if thin else 1)
    pixels = scene.read(window)
    valid = scene.read_valid(window, pixels)[thinning, thinning]
    heightless = scene.without_height(window, pixels)
    values: npt.NDArray[np.float64] = pixels[:, thinning, thinning][:, valid].astype(np.float64)
    return _Values(values, 0 if heightless is None else int(heightless[thinning, thinning].sum()))


def _middle(window: Window) -> Window:
    """Return the square of the size of a piece in the middle of a window."""
    height, width = min(_PIECE, window.height), min(_PIECE, window.width)
    row, col = window.row + (window.height - height) // 2, window.col + (window.width - width) // 2
    return Window(row, col, height, width)


def _declared_bits(scene: Scene) -> int | None:
    text: Any = scene.dataset.tags(scene.bands[0], ns="IMAGE_STRUCTURE").get("NBITS")
    return int(text) if text and np.dtype(scene.dtype).kind in "iu" else None


def _declared_unit(scene: Scene) -> float | None:
    units = {float(scene.dataset.scales[band - 1]) for band in scene.bands}
    unit = units.pop()
    return unit if not units and unit not in (0.0, 1.0) and unit > 0 else None


def _of_type(dtype: str) -> EstimatedScale | None:
    return EstimatedScale(255.0, "of the type uint8") if dtype == "uint8" else None


def _declared(bits: int | None, unit: float | None) -> EstimatedScale | None:
    if unit is not None:
        return EstimatedScale(float(f"{1 / unit:.9g}"), f"the file declares a scale of {unit:g}")
    if bits is not None:
        return EstimatedScale(
            float(2**bits - 1), f"the file says that it holds {bits} bits a value"
        )
    return None


def _list(numbers: npt.NDArray[np.float64]) -> str:
    return ", ".join(f"{n:.2g}" for n in numbers)
