"""Scenes outside of the ground resolutions of a training are read at the nearest of them."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from samples.made_weights import scene_pixels
from samples.opened_windows import opened_windows
from samples.predicted_scenes import SMALL, notices, save_scene
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import app
from hrrsi.errors import InputError, OptionError
from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_reading import load_model
from hrrsi.prediction.scene_remarks import ResolutionNotice
from hrrsi.scenes.resampling import nearest_resolution, resolution_step
from hrrsi.scenes.window_source import ArrayWindows
from hrrsi.scenes.windows import Window

VALUES = np.moveaxis(scene_pixels(), -1, 0)[:, :96, :128]
EXACT = hrrsi.EngineOptions(precision="32")


@pytest.fixture(scope="module")
def ranged_weights(made_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that saw 0.25 to 0.8 m a pixel."""
    path = tmp_path_factory.mktemp("ranged") / "ranged.safetensors"
    network = load_model(made_weights)
    meta = replace(network.meta, resolution=0.3, resolutions=(0.25, 0.8))
    save_weights(network.state_dict(), meta, path)
    return path


def scene_of(folder: Path, resolution: float, name: str = "scene.tif") -> Path:
    place = {"crs": "EPSG:28992", "transform": from_origin(0, 99, resolution, resolution)}
    return save_scene(folder / name, VALUES, **place)


def predicted(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["predict", *map(str, arguments), *SMALL, "--precision", "32"])


@pytest.mark.parametrize(
    ("own", "expected"),
    [(0.1, 0.25), (0.2, 0.25), (0.2490, None), (0.25, None), (0.5, None), (0.8, None), (1, 0.8)],
)
def test_the_nearest_resolution(own: float, expected: float | None) -> None:
    assert nearest_resolution(own, (0.25, 0.8)) == expected


def test_what_has_no_nearest_resolution() -> None:
    assert nearest_resolution(None, (0.25, 0.8)) is None
    assert nearest_resolution(0.1, None) is None
    assert nearest_resolution(20, (0.25, 0.8)) is None  # far too coarse: resolution_step says so
    assert resolution_step(20, 0.8) is None


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, False, "on"])
def test_what_is_no_resolution(value: Any) -> None:
    with pytest.raises(OptionError, match="resample"):
        hrrsi.MapOptions(resample=value)


@pytest.mark.long
def test_a_fine_scene_is_read_at_the_nearest_resolution(
    ranged_weights: Path, tmp_path: Path
) -> None:
    scene = scene_of(tmp_path, 0.1)
    maps = {}
    for name, options in (
        ("auto", []),
        ("same", ["--resample", "0.25"]),
        ("off", ["--resample", "off"]),
    ):
        path = tmp_path / f"{name}.tif"
        result = predicted(scene, "--weights", ranged_weights, "--out", path, *options)
        assert result.exit_code == 0, result.output
        with rasterio.open(path) as dataset:
            maps[name] = dataset.read(1), dataset.tags().get("HRRSI_READ_RESOLUTION")
            assert dataset.shape == VALUES.shape[1:]
        expected = {
            "auto": f"note: {scene}: read at 0.25 m, since the weights were trained on 0.25 to "
            "0.8 m; --resample off reads the scene's own 0.1 m",
            "same": "",
            "off": f"warning: {scene}: has 10 cm a pixel where the weights were trained on 0.25 "
            "to 0.8 m; expect worse maps, or map it with --resample auto",
        }
        assert "\n".join(notices(result)) == expected[name]
    np.testing.assert_array_equal(maps["auto"][0], maps["same"][0])
    assert (maps["auto"][0] != maps["off"][0]).mean() > 0.05
    assert [tag for _, tag in maps.values()] == ["0.25", "0.25", None]


@pytest.mark.long
def test_a_folder_is_said_once_with_a_count(ranged_weights: Path, tmp_path: Path) -> None:
    for number, resolution in enumerate((0.1, 0.3, 0.1, 0.2)):
        scene_of(tmp_path, resolution, f"{number}.tif")
    save_scene(tmp_path / "4.tif", VALUES)
    result = predicted(tmp_path, "--weights", ranged_weights, "--out", tmp_path / "maps")
    assert result.exit_code == 0, result.output
    first, unknown, count = notices(result)
    assert first.startswith(f"note: {tmp_path / '0.tif'}: read at 0.25 m")
    assert unknown == (
        f"note: {tmp_path / '4.tif'}: is read as it is, since its ground resolution is not known; "
        "the weights were trained on 0.25 to 0.8 m a pixel"
    )
    assert count == "note: 3 of 5 scenes: read at a resolution of the weights' training"


def test_a_coarse_scene_is_read_and_warned_of(ranged_weights: Path, tmp_path: Path) -> None:
    for name, resolution in (("a", 1), ("b", 2), ("c", 3)):
        scene_of(tmp_path, resolution, f"{name}.tif")
    result = predicted(tmp_path, "--weights", ranged_weights, "--out", tmp_path / "maps")
    assert result.exit_code == 0, result.output
    note, first, count = notices(result)
    assert note.startswith(f"note: {tmp_path / 'a.tif'}: read at 0.8 m")  # a little coarser
    assert first == (
        f"warning: {tmp_path / 'b.tif'}: has 2 m a pixel where the weights were trained on 0.25 to "
        "0.8 m; read at 0.8 m, which adds no detail: expect much worse maps"
    )
    assert count == "warning: 2 of 3 scenes: pixels too coarse for the weights (b.tif, c.tif)"


def in_degrees(folder: Path, across: float, down: float) -> Path:
    """Save a scene at 60 degrees north, where a degree of longitude is 55,800 m."""
    place = {"crs": "EPSG:4326", "transform": from_origin(10, 60, across / 55800, down / 111412)}
    return save_scene(folder / "degrees.tif", VALUES, **place)


def test_pixels_that_are_no_squares_are_read_as_squares(
    ranged_weights: Path, tmp_path: Path
) -> None:
    scene = in_degrees(tmp_path, 0.25, 0.5)
    info = CliRunner().invoke(app, ["info", str(scene)]).stdout
    assert "35.4 cm a pixel (25 cm across, 50 cm down)" in info
    line = (scene, "--weights", ranged_weights, "--out", tmp_path / "map.tif", "--overwrite")
    (note,) = notices(predicted(*line))
    assert note == (
        f"note: {scene}: has pixels of 0.25 x 0.5 m on the ground; read as squares of 0.354 m; "
        "--resample off reads them as they are"
    )
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert dataset.shape == VALUES.shape[1:]
        assert float(dataset.tags()["HRRSI_READ_RESOLUTION"]) == pytest.approx(0.354, abs=0.001)
        mapped = dataset.read(1)
    (warning,) = notices(predicted(*line, "--resample", "off"))
    assert "has pixels of 0.25 x 0.5 m on the ground, which the network takes for sq" in warning
    assert warning.endswith("or map it with --resample auto")
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert (dataset.read(1) != mapped).mean() > 0.05


def test_nearly_square_pixels_are_read_as_they_are(ranged_weights: Path, tmp_path: Path) -> None:
    scene = in_degrees(tmp_path, 0.4, 0.42)
    assert notices(predicted(scene, "--weights", ranged_weights, "--out", tmp_path)) == []


def test_a_dry_run_counts_the_windows_that_are_read(ranged_weights: Path, tmp_path: Path) -> None:
    scene = scene_of(tmp_path, 0.1)
    result = predicted(scene, "--weights", ranged_weights, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "128 x 96 px, 1 windows" in result.stdout  # of 64 px, in 39 x 52 px
    assert "read at 0.25 m" in result.stderr


def test_a_far_too_coarse_scene_is_read_as_it_is(ranged_weights: Path, tmp_path: Path) -> None:
    result = predicted(scene_of(tmp_path, 20), "--weights", ranged_weights, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "has 2e+03 cm a pixel where the weights were trained on 0.25 to 0.8 m" in result.stderr
    assert notices(result)[-1].endswith("expect worse maps")


def test_another_resolution_is_another_run(ranged_weights: Path, tmp_path: Path) -> None:
    scene = scene_of(tmp_path, 0.1)
    line = [scene, "--weights", ranged_weights, "--out", tmp_path / "map.tif"]
    assert predicted(*line).exit_code == 0
    again = predicted(*line, "--resume")
    assert again.exit_code == 0
    assert "was finished already" in again.stdout
    other = predicted(*line, "--resume", "--resample", "off")
    assert other.exit_code == 1
    assert "made otherwise" in other.stderr


@pytest.mark.parametrize("text", ["on", "x", "-1", "0"])
def test_wrong_resolutions_are_wrong_usage(text: str, tmp_path: Path) -> None:
    result = predicted(scene_of(tmp_path, 0.1), "--resample", text)
    assert result.exit_code == 2
    assert "--resample" in result.stderr


@pytest.mark.parametrize("step", [2.5, 0.6])
def test_an_array_is_resampled_like_a_scene(tmp_path: Path, step: float) -> None:
    valid = np.ones(VALUES.shape[1:], dtype=bool)
    valid[20:50, 30:70] = False
    array = ArrayWindows(VALUES, valid, steps=(step, step))
    path = scene_of(tmp_path, 0.1)
    holed = np.where(valid, np.maximum(VALUES, 1), 0).astype(np.uint8)
    save_scene(path, holed, nodata=0, crs="EPSG:28992", transform=from_origin(0, 99, 0.1, 0.1))
    with opened_windows(path, resolution=0.1 * step) as scene:
        assert array.network_grid == scene.network_grid
        window = Window(3, 5, 20, 25)
        expected, expected_valid = scene.read(window)
        pixels, has_data = ArrayWindows(holed, valid, steps=(step, step)).read(window)
        np.testing.assert_array_equal(pixels, expected)
        np.testing.assert_array_equal(has_data, expected_valid)
        assert array.raster_window(window) == scene.raster_window(window)
        np.testing.assert_array_equal(
            array.read_raster_valid(window), scene.read_raster_valid(window)
        )


@pytest.mark.long
def test_a_segmenter_reads_arrays_of_known_resolution(ranged_weights: Path, tmp_path: Path) -> None:
    scene = scene_of(tmp_path, 0.1)
    options = hrrsi.MapOptions(window=64, overlap=16)
    image = np.moveaxis(VALUES, 0, -1)
    segmenter = hrrsi.Segmenter(ranged_weights, window=64, overlap=16, engine=EXACT)
    with pytest.warns(ResolutionNotice, match=r"array: read at 0\.25 m"):
        labels = segmenter(image, resolution=0.1)
    with pytest.warns(ResolutionNotice, match=r"scene.tif: read at 0\.25 m") as warned:
        mapped = hrrsi.predict(scene, ranged_weights, tmp_path / "map.tif", options, EXACT)[0]
    assert {warning.filename for warning in warned} == {__file__}  # not a file of hrrsi's
    np.testing.assert_array_equal(labels, rasterio.open(mapped.path).read(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unresampled = segmenter(image)
        assert segmenter.probabilities(image, resolution=0.1).shape == (5, 96, 128)
    assert (unresampled != labels).mean() > 0.05
    fixed = hrrsi.Segmenter(ranged_weights, resample=0.5, engine=EXACT)
    with pytest.raises(InputError, match="far too coarse"):
        fixed(image, resolution=30)
