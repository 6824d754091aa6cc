"""`hrrsi predict`, as users call it."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from samples.made_weights import save_made_weights, scene_pixels
from samples.predicted_scenes import notices, one_error_line, save_scene
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import app
from hrrsi.errors import HrrsiError
from hrrsi.networks.architecture import LogitGrid
from hrrsi.networks.weights_reading import load_model
from hrrsi.prediction.blending import window_labels
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.options import MapOptions
from hrrsi.prediction.predict import ScenesFailedError
from hrrsi.prediction.scene_remarks import ResolutionWarning
from hrrsi.prediction.sliding_window import predict_strips
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.window_source import SceneWindows

Run = Callable[..., Any]


@pytest.mark.long
def test_maps_a_scene_into_the_current_folder(run: Run, tmp_path: Path, made_weights: Path) -> None:
    scene = save_scene(
        tmp_path / "scene.tif", crs="EPSG:28992", transform=from_origin(1000, 2000, 0.25, 0.25)
    )
    result = run(scene)
    assert result.exit_code == 0, result.output
    assert notices(result) == []
    names = ["scene_classes.qml", "scene_classes.tif", "scene_classes.tif.aux.xml"]
    assert sorted(os.listdir()) == names
    network = load_model(made_weights)
    with open_scene(scene) as source:
        strips = [
            strip.labels
            for strip in predict_strips(
                SceneWindows(source), open_engine(made_weights), MapOptions(window=64, overlap=16)
            )
        ]
    with rasterio.open("scene_classes.tif") as written, rasterio.open(scene) as source:
        labels = written.read(1)
        assert written.crs == source.crs
        assert written.transform == source.transform
        assert written.nodata is None
        assert [written.colormap(1)[i][:3] for i in range(5)] == network.meta["colours"]
    np.testing.assert_array_equal(labels, np.concatenate(strips))
    for index, name in enumerate(network.meta["classes"]):
        pixels = int((labels == index).sum())
        row = rf"{name} +\| +{pixels:,} \| +{pixels / 300:.2f}% \| +{pixels / 16:,.0f} m²"
        assert re.search(row, result.stdout), result.stdout
    assert "all with data" in result.stdout
    assert "1,875 m²" in result.stdout


def test_the_same_call_gives_the_same_bytes(run: Run, tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    for out in ("a", "b"):
        assert run(scene, "--out", f"{out}/").exit_code == 0
    for name in os.listdir("a"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("map.tif", "map.tif"),
        ("new/deep/map.tiff", "new/deep/map.tiff"),
        ("maps/", "maps/scene_classes.tif"),
        ("maps", "maps/scene_classes.tif"),
    ],
)
def test_out_is_a_file_or_a_folder(run: Run, tmp_path: Path, out: str, expected: str) -> None:
    assert run(save_scene(tmp_path / "scene.tif"), "--out", out).exit_code == 0
    assert Path(expected).is_file()


def test_an_existing_folder_with_a_dot_is_a_folder(run: Run, tmp_path: Path) -> None:
    Path("maps.tif").mkdir()
    assert run(save_scene(tmp_path / "scene.tif"), "--out", "maps.tif").exit_code == 0
    assert Path("maps.tif/scene_classes.tif").is_file()


def test_out_that_is_no_geotiff_is_refused(run: Run, tmp_path: Path) -> None:
    line = one_error_line(run(save_scene(tmp_path / "scene.tif"), "--out", "map.png"))
    assert "map.png: a class map is a GeoTIFF" in line


def test_an_existing_map_is_only_replaced_with_overwrite(run: Run, tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    other = save_scene(tmp_path / "other.tif")
    Path("scene_classes.tif").write_text("precious")
    assert "exists already" in one_error_line(run(other, scene))
    assert os.listdir() == ["scene_classes.tif"]  # checked before any work
    assert Path("scene_classes.tif").read_text() == "precious"
    assert run(other, scene, "--overwrite").exit_code == 0
    assert rasterio.open("scene_classes.tif").count == 1


def test_files_of_a_replaced_map_are_named(run: Run, tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    assert run(scene, "--vector", "gpkg", "--confidence", "uint8").exit_code == 0
    again = run(scene, "--overwrite", "--confidence", "uint8")
    assert again.exit_code == 0
    assert (
        "warning: scene_classes.gpkg: made of a map that is replaced, and left as before; remove "
        "them, or ask for them again"
    ) in again.stderr
    assert Path("scene_classes.gpkg").exists()
    assert "made of a map" not in run(scene, "--overwrite", "--confidence", "uint8").stderr


@pytest.mark.long
def test_the_python_call_returns_what_was_mapped(tmp_path: Path, made_weights: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    options: dict[str, Any] = {
        "weights": made_weights,
        "options": hrrsi.MapOptions(window=64, overlap=16),
    }
    (mapped,) = hrrsi.predict(scene, out=tmp_path / "maps", **options)
    labels = rasterio.open(mapped.path).read(1)
    assert mapped.path == tmp_path / "maps" / "scene_classes.tif"
    assert mapped.class_pixels == [int((labels == i).sum()) for i in range(5)]
    assert sum(mapped.shares) == pytest.approx(1)
    assert mapped.areas is None
    assert mapped.seconds > 0
    with pytest.raises(ScenesFailedError) as failed:
        hrrsi.predict([scene, tmp_path / "none.tif"], out=tmp_path, **options)
    assert [m.scene for m in failed.value.mapped] == [str(scene)]
    assert list(failed.value.failures) == [str(tmp_path / "none.tif")]
    weights = save_made_weights(tmp_path / "far.safetensors", resolution=5.0)
    placed = save_scene(
        tmp_path / "placed.tif", crs="EPSG:28992", transform=from_origin(0, 9, 1, 1)
    )
    with pytest.warns(ResolutionWarning):
        hrrsi.predict(placed, out=tmp_path / "m", **(options | {"weights": weights}))


@pytest.mark.parametrize("arguments", [["--bands", "x"], ["--window", "0"], ["--batch", "0"], []])
def test_usage_errors_exit_with_2(arguments: list[str], tmp_path: Path) -> None:
    scene = [str(save_scene(tmp_path / "scene.tif"))] if arguments else []
    assert CliRunner().invoke(app, ["predict", *scene, *arguments]).exit_code == 2


def test_an_overlap_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    line = ["predict", str(scene), "--window", "64", "--overlap", "33"]
    result = CliRunner().invoke(app, line)
    assert "an overlap of 33 px does not fit windows of 64 px" in one_error_line(result)


MEMORY = """
import sys
import numpy as np
from hrrsi.prediction.engines.graph_engines import OpenVinoEngine
from hrrsi.prediction.options import EngineOptions
from hrrsi.verbs import predict

# the network's own memory does not depend on the raster, and would take minutes here
logits = np.random.default_rng(0).normal(size=(5, 128, 128)).astype(np.float32)
OpenVinoEngine.logits = lambda self, windows, gain, offset: (logits for _ in windows)
predict(sys.argv[1], weights=sys.argv[2], out=sys.argv[3], engine=EngineOptions("openvino"))
assert "hrrsi.cluster" not in sys.modules
# not ru_maxrss: that starts at the size of the process which started this one
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_height(tmp_path: Path, made_weights: Path) -> None:
    peaks = []
    for height in (8000, 28_000):  # the first already fills what is read ahead
        scene = tmp_path / f"{height}.tif"
        strip = np.tile(np.moveaxis(scene_pixels(), -1, 0), (1, 2, 7))[:, :500, :2000]
        profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "tiled": True}
        profile["compress"] = "jpeg"
        with rasterio.open(scene, "w", height=height, width=2000, **profile) as dataset:
            for row in range(0, height, 500):
                dataset.write(strip, window=rasterio.windows.Window(0, row, 2000, 500))
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, scene, made_weights, tmp_path / f"{height}_map.tif"],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ
            | {"GDAL_CACHEMAX": "16", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        )
        peaks.append(int(done.stdout))
    # 40 Mpx more: their labels alone are 40 MB, their pixels 120 MB, their probabilities 0.8 GB
    assert peaks[1] - peaks[0] < 30_000, peaks


def test_a_dry_run_writes_nothing(run: Run, tmp_path: Path) -> None:
    scenes = [save_scene(tmp_path / "a.tif"), save_scene(tmp_path / "b.tif")]
    result = run(*scenes, "--dry-run", "--vector", "fgb", "--out", "maps")
    assert result.exit_code == 0, result.output
    assert os.listdir() == []
    lines = result.stdout.splitlines()
    # 150 x 200 px in windows of 64 that overlap by 16: 3 rows of 4
    assert re.fullmatch(
        rf"{scenes[0]}: 200 x 150 px, 12 windows, about \d+ s, .* meanwhile", lines[0]
    )
    assert lines[1:3] == ["  → maps/a_classes.tif", "  → maps/a_classes.fgb"]
    assert lines[-1].startswith("2 scenes, about")
    result = run(scenes[0], "--dry-run", "--probabilities", "float32", "--confidence", "uint8")
    # labels, a byte of confidence and five classes of four bytes, and a third for overviews
    assert "0.9 MB on the disk" in result.stdout
    Path("a_classes.tif").write_text("precious")
    assert "exists already" in one_error_line(run(scenes[0], "--dry-run"))
    Path("a_classes.tif").unlink()
    result = run(scenes[0], tmp_path / "none.tif", "--dry-run")
    assert result.exit_code == 1
    assert "none.tif: no such file" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "magic"], "unknown engine 'magic'"),
        (["--precision", "8"], "unknown precision '8'"),
        (["--engine", "onnxruntime", "--precision", "bf16"], "give --precision 32"),
        (["--engine", "openvino", "--device", "cuda"], "give --engine torch"),
        (["--engine", "torch", "--device", "cpu", "--precision", "16"], "half precision needs"),
    ],
)
def test_engines_refuse_what_they_cannot_do(
    run: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    line = one_error_line(run(save_scene(tmp_path / "scene.tif"), *arguments))
    assert message in line
    assert os.listdir() == []


@pytest.mark.long
@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_every_engine_gives_the_same_map(run: Run, tmp_path: Path, engine: str) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    threads = torch.get_num_threads()
    options = ("--precision", "32", "--device", "cpu", "--threads", threads + 1)
    for name in ("openvino", engine):
        result = run(scene, "--engine", name, *options, "--out", f"{name}.tif")
        assert result.exit_code == 0, result.output
    assert torch.get_num_threads() == threads  # what else runs here keeps its own
    openvino_map, engine_map = (
        rasterio.open(f"{name}.tif").read(1) for name in ("openvino", engine)
    )
    assert (openvino_map != engine_map).sum() <= 1


@pytest.mark.long
def test_predicting_imports_nothing_heavy_that_it_does_without(
    tmp_path: Path, made_weights: Path
) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    program = (
        "import sys; from hrrsi import MapOptions, predict; "
        f"predict({str(scene)!r}, weights={str(made_weights)!r}, out={str(tmp_path / 'm.tif')!r}, "
        "options=MapOptions(window=64)); "
        "heavy = {'torch', 'timm', 'pyogrio', 'shapely', 'PIL', 'pandas'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.long
def test_a_published_checkpoint_is_kept_in_the_cache(
    run: Run, tmp_path: Path, made_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRRSI_CACHE", str(tmp_path / "cache"))
    checkpoint = tmp_path / "epoch_1.pth"
    network = load_model(made_weights)
    state = {"epoch": 1, "model_state_dict": network.state_dict(), "optimizer_state_dict": {}}
    torch.save(state, checkpoint)
    scene = save_scene(tmp_path / "scene.tif")
    assert run(scene, "--out", "first.tif", weights=checkpoint).exit_code == 0
    (kept,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr("hrrsi.networks.weights.load_network", None)  # it is not needed any more
    assert run(scene, "--out", "second.tif", weights=checkpoint).exit_code == 0
    kept.write_bytes(kept.read_bytes()[:1000])  # damaged: made anew
    monkeypatch.undo()
    monkeypatch.setenv("HRRSI_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "here")
    assert run(scene, "--out", "third.tif", weights=checkpoint).exit_code == 0
    maps = [rasterio.open(f"{name}.tif").read(1) for name in ("first", "second", "third")]
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])


@pytest.mark.long
def test_arrays_in_arrays_out(run: Run, tmp_path: Path, made_weights: Path) -> None:
    image = scene_pixels()[:150, :200]
    scene = save_scene(tmp_path / "scene.tif", np.moveaxis(image, -1, 0))
    assert run(scene).exit_code == 0
    expected = rasterio.open("scene_classes.tif").read(1)
    segmenter = hrrsi.Segmenter(made_weights, window=64, overlap=16)
    np.testing.assert_array_equal(segmenter(image), expected)
    np.testing.assert_array_equal(segmenter(image), expected)  # frame after frame
    bands_first = np.moveaxis(image, -1, 0)
    np.testing.assert_array_equal(segmenter(bands_first, bands_first=True), expected)
    assert segmenter.palette[expected].shape == (150, 200, 3)
    scores = segmenter.probabilities(image)
    assert scores.shape == (5, 150, 200)
    np.testing.assert_array_equal(scores.argmax(0), expected)
    valid = np.ones((150, 200), dtype=bool)
    valid[:50] = False
    np.testing.assert_array_equal(segmenter(image, valid=valid) == 255, ~valid)
    masked = np.ma.masked_array(image, np.stack([~valid] * 3, axis=-1))
    np.testing.assert_array_equal(segmenter(masked) == 255, ~valid)
    with pytest.raises(HrrsiError, match="complex64"):
        segmenter(image.astype(np.complex64), scale=255)
    for wrong in (image[..., 0], image[..., :2], bands_first, image[:0]):
        with pytest.raises(HrrsiError, match="is not"):
            segmenter(wrong)
    with pytest.raises(HrrsiError, match="scale"):
        segmenter(image.astype(np.uint16))


def test_a_window_larger_than_memory_is_one_line(run: Run, tmp_path: Path) -> None:
    line = ["predict", str(save_scene(tmp_path / "scene.tif")), "--window", "20000"]
    assert "choose --window up to 4096" in one_error_line(CliRunner().invoke(app, line))


@pytest.mark.long
def test_threads_do_not_disturb_each_other(made_weights: Path) -> None:
    image = scene_pixels()
    images = [image, np.ascontiguousarray(image[::-1])]
    segmenters = [hrrsi.Segmenter(made_weights, window=64, overlap=16) for _ in images]
    expected = [segment(i) for segment, i in zip(segmenters, images, strict=True)]
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(5, 32, 32)).astype(np.float32) for _ in range(2)]
    alone = [window_labels(each, 128, 128, LogitGrid()) for each in logits]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(60):
            labels = window_labels(logits[number], 128, 128, LogitGrid())
            wrong.append(int((labels != alone[number]).sum()))
        wrong.append(int((segmenters[number](images[number]) != expected[number]).sum()))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 122
    assert sum(wrong) == 0


@pytest.mark.long
def test_an_engine_survives_scenes_that_fail_and_change_type(run: Run, tmp_path: Path) -> None:
    values = np.moveaxis(scene_pixels(), -1, 0)
    good = save_scene(tmp_path / "good.tif", values)
    marked = values.astype("float32")
    marked[:, -5:] = -3e38  # met when half of the map is there
    bad = save_scene(tmp_path / "bad.tif", marked)
    wide = save_scene(tmp_path / "wide.tif", values.astype("uint16"))
    result = run(good, bad, wide, "--scale", "255", "--precision", "32")
    assert result.exit_code == 1
    assert re.search(r"bad.tif: holds -3e\+38 .* \d\d% of the map is kept", result.stderr)
    bytes_map, wide_map = (
        rasterio.open(f"{name}_classes.tif").read(1) for name in ("good", "wide")
    )
    assert (bytes_map != wide_map).sum() <= 1
