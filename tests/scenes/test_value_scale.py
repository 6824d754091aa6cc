"""Which value is full brightness, and whether imagery looks like the training data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from samples.made_weights import REPOSITORY, scene_pixels

from hrrsi.networks.weights_file import packaged_weights
from hrrsi.networks.weights_reading import read_meta
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.value_scale import (
    EstimatedScale,
    SceneSample,
    estimated_scale,
    scene_sample,
    unlike_training,
)

PIXELS = np.moveaxis(scene_pixels(), -1, 0).astype(np.float64)
VAIHINGEN = ([0.46956375, 0.32316217, 0.3183202], [0.22002102, 0.15978466, 0.15127575])


def save(path: Path, pixels: np.ndarray, **profile: Any) -> Path:
    form = {"driver": "GTiff", "dtype": pixels.dtype, **profile}
    count, height, width = pixels.shape
    with rasterio.open(path, "w", count=count, height=height, width=width, **form) as dataset:
        dataset.write(pixels)
    return path


def estimate(path: Path, pixels: np.ndarray, **profile: Any) -> EstimatedScale:
    with open_scene(save(path, pixels, **profile)) as scene:
        return estimated_scale(scene_sample(scene))


@pytest.mark.parametrize(
    ("factor", "dtype", "expected"),
    [
        (1, "uint16", 255),
        (0.2, "uint16", 255),  # a dark scene
        (1, "int16", 255),
        (1, "uint32", 255),
        (1, "float32", 255),
        (1023 / 255, "uint16", 1023),
        (2047 / 255, "uint16", 2047),
        (2047 / 255, "float64", 2047),
        (4095 / 255, "uint16", 4095),
        (10000 / 255, "uint16", 10000),
        (10300 / 255, "int16", 10000),  # a few reflectances above 1
        (16383 / 255, "uint16", 16383),
        (257, "uint16", 65535),
        (200, "int32", 65535),
        (1 / 255, "float32", 1),
        (0.3 / 255, "float64", 1),
        (0.4, "int8", 255),
        (1 / 255, "uint8", 255),
    ],
)
def test_the_range_in_use_is_recognised(
    tmp_path: Path, factor: float, dtype: str, expected: float
) -> None:
    scale, reason = estimate(tmp_path / "a.tif", (PIXELS * factor).astype(dtype))
    assert scale == expected
    assert "\n" not in reason


@pytest.mark.parametrize(("top", "dtype"), [(20_000, "uint16"), (5e6, "uint32"), (40, "float32")])
def test_other_ranges_count_by_their_percentile(tmp_path: Path, top: float, dtype: str) -> None:
    pixels = (PIXELS * (top / 255)).astype(dtype)
    pixels[0, 0, 0] = top * 1.9 if dtype != "float32" else 1e30  # a hot pixel
    scale, reason = estimate(tmp_path / "a.tif", pixels)
    assert scale == pytest.approx(np.percentile(pixels[pixels > 0], 99.5), rel=1e-6)
    assert "percentile" in reason


def test_the_file_may_say_how_many_bits_it_uses(tmp_path: Path) -> None:
    dark = (PIXELS // 3).astype("uint16")
    assert estimate(tmp_path / "a.tif", dark, nbits=12).value == 4095
    single_bit = (PIXELS > 100).astype("uint8")
    assert estimate(tmp_path / "b.tif", single_bit, nbits=1).value == 1


@pytest.mark.parametrize(
    ("fill", "dtype", "nodata", "expected"),
    [
        (0, "uint16", None, 65535),
        (0, "float32", None, 1),
        (7, "uint16", 7, 65535),
        (-4, "int16", None, 32767),
        (float("nan"), "float32", None, 1),
        (7, "uint16", None, 255),
        (1e9, "float64", None, 1e9),
        (0, "int8", None, 127),
        (0, "int32", None, 2147483647),
    ],
)
def test_constant_and_empty_scenes(
    tmp_path: Path, fill: float, dtype: str, nodata: float | None, expected: float
) -> None:
    with open_scene(
        save(tmp_path / "a.tif", np.full((3, 30, 40), fill, dtype), nodata=nodata)
    ) as scene:
        sample = scene_sample(scene)
    assert estimated_scale(sample).value == expected
    if fill == nodata or np.isnan(fill):
        assert sample.values.shape == (3, 0)
        assert unlike_training(sample, 255, *VAIHINGEN) is None


def test_pixels_without_data_have_no_say(tmp_path: Path) -> None:
    pixels = (PIXELS * 8).astype("uint16")
    pixels[:, 50:150] = 65535
    assert estimate(tmp_path / "a.tif", pixels, nodata=65535).value == 2047
    floats = PIXELS.astype("float32") / 255
    floats[:, 50:150] = np.inf
    assert estimate(tmp_path / "b.tif", floats).value == 1


@pytest.mark.long
def test_large_scenes_are_sampled_all_over(tmp_path: Path) -> None:
    pixels = np.tile(PIXELS.astype("uint8"), (1, 10, 8))[:, :2301, :2502]
    pixels[:, 1200:] //= 4
    profile = {"tiled": True, "compress": "lzw", "blockxsize": 256, "blockysize": 256}
    path = save(tmp_path / "a.tif", pixels, **profile)
    with open_scene(path) as scene:
        pieces = scene_sample(scene).values
    assert 100_000 < pieces.shape[1] < 300_000
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4, 8], Resampling.average)
    with open_scene(path) as scene:
        overview = scene_sample(scene).values
    assert overview.shape[1] == 576 * 626  # the smallest of 512 px or more
    for sample in (pieces, overview):
        np.testing.assert_allclose(sample.mean(1), pixels.mean((1, 2)), rtol=0.04)
        np.testing.assert_allclose(sample.std(1), pixels.std((1, 2)), rtol=0.12)


def test_scenes_with_data_in_a_corner_only_are_found(tmp_path: Path) -> None:
    pixels = np.zeros((3, 2500, 3000), "uint16")
    pixels[:, 430:530, 550:690] = 900
    with open_scene(save(tmp_path / "a.tif", pixels, nodata=0, compress="lzw")) as scene:
        assert estimated_scale(scene_sample(scene)).value == 1023


def test_no_false_alarm_on_imagery_like_the_training_data() -> None:
    meta = read_meta(packaged_weights())
    scenes = sorted((REPOSITORY / "examples").rglob("*.jpg"))
    scenes.append(REPOSITORY / "examples" / "dubai_tile1.tif")
    assert len(scenes) > 5
    for path in scenes:
        with open_scene(path) as scene:
            assert unlike_training(scene_sample(scene), 255, meta["mean"], meta["std"]) is None


@pytest.mark.slow  # the examples, above, are eight crops of these
def test_no_false_alarm_on_real_scenes(imagery: Path) -> None:
    meta = read_meta(packaged_weights())
    scenes = [*(imagery / "dubai").glob("*/images/*.jpg"), *(imagery / "geotiff").glob("*.tif")]
    assert len(scenes) == 56
    for path in scenes:
        with open_scene(path) as scene:
            assert unlike_training(scene_sample(scene), 255, meta["mean"], meta["std"]) is None


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v / 5, "`scale`"),  # very dark
        (lambda v: v / 257, "`scale`"),  # 8-bit values taken for 16-bit ones
        (lambda v: v * 40, "`scale`"),  # the other way round
        (lambda v: np.stack([np.minimum(255, v[1] * 1.6 + 20), v[0], v[1]]), "`bands`"),
        (lambda v: np.full_like(v, 5), "`scale`"),
    ],
)
def test_imagery_unlike_the_training_data_is_told(change: Any, words: str) -> None:
    meta = read_meta(packaged_weights())
    with open_scene(REPOSITORY / "examples" / "dubai_tile1.tif") as scene:
        sample = scene_sample(scene)
    strange = SceneSample(change(sample.values), sample.dtype, None)
    line = unlike_training(strange, 255, meta["mean"], meta["std"])
    assert line is not None
    assert "\n" not in line
    assert words in line
    assert ", ".join(f"{value:.2g}" for value in meta["mean"]) in line


def test_inverted_imagery_is_told_where_training_was_not_of_medium_brightness() -> None:
    random = np.random.default_rng(0)
    values = random.normal(
        np.array(VAIHINGEN[0])[:, None], np.array(VAIHINGEN[1])[:, None], (3, 9999)
    )
    usual = SceneSample(values * 255, "uint8", None)
    assert unlike_training(usual, 255, *VAIHINGEN) is None
    inverted = SceneSample(255 - values * 255, "uint8", None)
    assert unlike_training(inverted, 255, *VAIHINGEN) is not None


def test_the_tint_of_swapped_infrared_is_told() -> None:
    values = np.array(VAIHINGEN[0])[:, None] * np.linspace(100, 400, 500)
    usual = SceneSample(values, "uint8", None)
    assert unlike_training(usual, 255, *VAIHINGEN) is None
    assert "`bands`" in str(
        unlike_training(SceneSample(values[::-1], "uint8", None), 255, *VAIHINGEN)
    )
