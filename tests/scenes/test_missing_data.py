"""What holds no data without saying so, in scenes of single calls and of datasets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from samples.made_weights import scene_pixels
from samples.predicted_scenes import SMALL, notices, save_scene
from typer.testing import CliRunner

from hrrsi.cli import app
from hrrsi.scenes.missing_data import undeclared_gap
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.value_scale import scene_sample
from hrrsi.scenes.windows import Window
from hrrsi.tiling.dataset import TiledDataset

PIXELS = np.maximum(np.moveaxis(scene_pixels(), -1, 0), 1)[:, :256, :256]
RUNNER = CliRunner()


def collared(value: float, dtype: str = "uint8") -> np.ndarray:
    values = PIXELS.astype(dtype)
    values[:, :, :80] = value
    return values


def turned() -> np.ndarray:
    """Corners beside a turned square, as orthophotos have them."""
    values = PIXELS.copy()
    rows, columns = np.indices((256, 256))
    values[:, np.abs(rows - 128) + np.abs(columns - 128) > 150] = 0
    return values


def with_hole(size: int, row: int = 64, column: int = 128) -> np.ndarray:
    values = PIXELS.copy()
    values[:, row : row + size, column : column + size] = 0
    return values


@pytest.mark.parametrize(
    ("values", "profile", "expected"),
    [
        (collared(0), {}, (0, 80 / 256)),
        (collared(255), {}, (255, 80 / 256)),
        (collared(65535, "uint16"), {}, (65535, 80 / 256)),
        (collared(-9999, "float32"), {}, (-9999, 80 / 256)),
        (collared(-32768, "int16"), {}, (-32768, 80 / 256)),
        (turned(), {}, (0, float((turned() == 0).all(axis=0).mean()))),
        # empty blocks, as in sparse files
        (with_hole(64), {"tiled": True, "blockxsize": 64, "blockysize": 64}, (0, 1 / 16)),
        # declared, or as imagery has it: a roof, a shadow
        (collared(0), {"nodata": 0}, None),
        (with_hole(40), {}, None),
        (collared(90), {}, None),
        (PIXELS, {}, None),
    ],
)
def test_what_holds_no_data_is_found(
    tmp_path: Path, values: np.ndarray, profile: Any, expected: Any
) -> None:
    path = save_scene(tmp_path / "a.tif", values, **profile)
    with open_scene(path) as scene:
        gap = undeclared_gap(scene)
    if expected is None:
        assert gap is None
    else:
        assert gap is not None
        assert (gap.value, gap.share) == (expected[0], pytest.approx(expected[1], rel=1e-3))
    with open_scene(path, nodata="auto") as scene:
        window = Window(0, 0, 256, 256)
        valid = scene.read_valid(window, scene.read(window))
    missing = None if expected is None else expected[0]
    missing = profile.get("nodata", missing)
    np.testing.assert_array_equal(valid, ~(values == missing).all(axis=0))


def test_large_scenes_are_looked_at_in_pieces(tmp_path: Path) -> None:
    values = np.tile(PIXELS, (1, 9, 9))[:, :2200, :2200]
    values[:, :, :550] = 0
    path = save_scene(tmp_path / "a.tif", values, tiled=True)
    with open_scene(path) as scene:
        gap = undeclared_gap(scene)
        assert gap is not None
        assert (gap.value, round(gap.share, 1)) == (0, 0.2)
        assert (scene_sample(scene, 0).values > 0).any(axis=0).all()


def test_the_blurred_rim_of_lossy_compression_is_missing_too(tmp_path: Path) -> None:
    bright = np.maximum(PIXELS, 60)
    bright[:, :, :83] = 0  # within a block of 16 px
    profile = {"compress": "jpeg", "photometric": "ycbcr", "tiled": True, "nodata": 0}
    path = save_scene(tmp_path / "a.tif", bright, **profile)
    lossless = save_scene(tmp_path / "b.tif", bright, nodata=0)
    whole = Window(0, 0, 256, 256)
    with open_scene(path) as scene, open_scene(lossless) as plain:
        pixels = scene.read(whole)
        assert (pixels[:, :, :83] != 0).any()
        valid = scene.read_valid(whole, pixels)
        # near-black noise has gone with the collar, and nothing else
        near = (pixels <= 16).all(axis=0)
        assert not valid[:, :83][near[:, :83]].any()
        assert valid[:, 100:].all()
        assert plain.read_valid(whole, plain.read(whole))[:, 83:].all()
        # windows agree with the whole
        for row, column in ((0, 60), (100, 70), (190, 84)):
            window = Window(row, column, 60, 50)
            part = scene.read_valid(window, scene.read(window))
            expected = valid[row : row + 60, column : column + 50]
            np.testing.assert_array_equal(part, expected)


def predicted(tmp_path: Path, weights: Path, *more: object) -> Any:
    result = RUNNER.invoke(
        app,
        [
            *("predict", *map(str, more), "--out", str(tmp_path / "maps"), "--overwrite", "-q"),
            *("--weights", str(weights), *SMALL),
        ],
    )
    assert result.exit_code == 0, result.output
    return result


def labels(tmp_path: Path, name: str) -> np.ndarray:
    with rasterio.open(tmp_path / "maps" / f"{name}_classes.tif") as dataset:
        return dataset.read(1)


@pytest.mark.parametrize(("nodata", "is_told"), [("300", True), ("-1", True), ("255", False)])
def test_a_value_that_no_pixel_can_hold_is_told(
    tmp_path: Path, made_weights: Path, nodata: str, is_told: bool
) -> None:
    scene = save_scene(tmp_path / "scene.tif", collared(0)[:, 30:90, 40:100])
    lines = notices(predicted(tmp_path, made_weights, scene, "--nodata", nodata))
    line = f"warning: {scene}: --nodata {nodata} is no value of uint8, so it marks no pixel"
    assert (line in lines) == is_told


def test_a_scene_without_any_data_is_told(tmp_path: Path, made_weights: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif", np.zeros_like(PIXELS[:, :60, :60]), nodata=0)
    other = save_scene(tmp_path / "other.tif", PIXELS[:, :60, :60], nodata=0)
    lines = notices(predicted(tmp_path, made_weights, scene, other))
    (line,) = [line for line in lines if "holds data" in line]
    assert line.startswith(f"warning: {scene}: no pixel that was looked at holds data")
    assert (labels(tmp_path, "scene") == 255).all()


@pytest.mark.long
def test_a_folder_of_collars_is_told_of_once_and_mapped_without_them(
    tmp_path: Path, made_weights: Path
) -> None:
    small = collared(0)[:, :96, :128]
    scenes = [save_scene(tmp_path / f"{n}.tif", small) for n in range(3)]
    notes = notices(predicted(tmp_path, made_weights, *scenes))
    assert [
        line for line in notes if "imagery unlike" not in line and "values unl" not in line
    ] == [
        f"warning: {scenes[0]}: 62.5% of its pixels hold 0 in all bands, at the rim or in empty "
        "blocks, as if they had no data; they get a class unless --nodata 0 or --nodata auto is "
        "given",
        "warning: 3 of 3 scenes: pixels that seem to hold no data get a class",
    ]
    assert (labels(tmp_path, "0") != 255).all()
    notes = predicted(tmp_path, made_weights, scenes[0], "--nodata", "auto").stderr
    assert f"note: {scenes[0]}: pixels of 0 in all bands count as missing data" in notes
    np.testing.assert_array_equal(labels(tmp_path, "0") == 255, (small == 0).all(axis=0))


@pytest.mark.long
def test_scenes_of_a_call_have_one_estimate_of_full_brightness(
    tmp_path: Path, made_weights: Path
) -> None:
    bright = PIXELS[:, :96, :96].astype(np.uint16) * 8
    dark = save_scene(tmp_path / "dark.tif", np.minimum(bright, 1000))
    light = save_scene(tmp_path / "light.tif", bright)
    notes = notices(predicted(tmp_path, made_weights, dark, light))
    (line,) = [line for line in notes if "full brightness" in line]
    assert "; 2047 counts as full brightness in all scenes of this type (" in line
    together = labels(tmp_path, "dark")
    for name in ("dark", "light"):
        with rasterio.open(tmp_path / "maps" / f"{name}_classes.tif") as dataset:
            assert dataset.tags()["HRRSI_ESTIMATED_SCALE"] == "2047"
    predicted(tmp_path, made_weights, dark, "--scale", 2047)
    np.testing.assert_array_equal(labels(tmp_path, "dark"), together)


def tiled(root: Path, *more: str) -> Any:
    scheme = root / "s.yaml"
    scheme.write_text(
        "{name: s, label_format: indices, classes: [{name: a, colour: [0, 0, 0]}, "
        "{name: b, colour: [9, 9, 9]}]}"
    )
    flags = ["--scheme", str(scheme), "--val-scenes", "b", "--size", "64", "--workers", "1", "-q"]
    out = ["--out", str(root / "out"), "--overwrite"]
    return RUNNER.invoke(app, ["tile", str(root / "raw"), *flags, *out, *more])


def labelled(root: Path, name: str, values: np.ndarray, **place: Any) -> None:
    save_scene(root / "raw/images" / f"{name}.tif", values, **place)
    truth = (np.indices(values.shape[1:]).sum(axis=0) % 2).astype(np.uint8)[None]
    save_scene(root / "raw/labels" / f"{name}.tif", truth, **place)


def test_collars_of_scenes_are_told_of_before_they_train(tmp_path: Path) -> None:
    small = collared(0)[:, :64, :128]
    for name in "ab":
        labelled(tmp_path, name, small)
    notes = tiled(tmp_path).stderr
    assert "62.5% of the pixels of a hold 0 in all bands" in notes
    assert "2 scenes in all" in notes
    mean = TiledDataset(tmp_path / "out").description.mean
    np.testing.assert_allclose(mean, small.mean(axis=(1, 2)) / 255, atol=1e-6)
    assert (
        "note: pixels of 0 in all bands count as missing data"
        in tiled(tmp_path, "--nodata", "auto").stderr
    )
    mean = TiledDataset(tmp_path / "out").description.mean
    np.testing.assert_allclose(mean, small[:, :, 80:].mean(axis=(1, 2)) / 255, atol=1e-6)


def test_scenes_of_different_resolution_are_named(tmp_path: Path) -> None:
    for name, side, x in (("a", 0.1, 500000), ("b", 0.5, 509000)):
        place = {"crs": "EPSG:32640", "transform": from_origin(x, 2790000, side, side)}
        labelled(tmp_path, name, PIXELS[:, :64, :64], **place)
    assert "a has 10 cm a pixel, b 50 cm (1 of 2 scenes" in tiled(tmp_path).stderr
    assert TiledDataset(tmp_path / "out").description.resolution == 0.1
