"""`hrrsi predict`, as users call it."""

import csv
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import torch
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from rasterio.transform import from_origin
from samples.made_weights import REPOSITORY, save_made_weights, scene_pixels
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import app
from hrrsi.errors import HrrsiError
from hrrsi.networks.weights_reading import load_model
from hrrsi.prediction.blending import window_labels
from hrrsi.prediction.engines.opening import open_engine
from hrrsi.prediction.engines.openvino_engine import OpenVinoEngine
from hrrsi.prediction.options import MapOptions
from hrrsi.prediction.predict import ScenesFailedError
from hrrsi.prediction.scene_checks import ResolutionWarning
from hrrsi.prediction.sliding_window import predict_strips
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.window_source import SceneWindows

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
SMALL = ["--window", "64", "--overlap", "16"]
Run = Callable[..., Any]


@pytest.fixture
def run(made_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `hrrsi predict` in an empty folder with small windows and made weights."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def predict(*arguments: object, weights: Path = made_weights) -> Any:
        line = ["predict", *map(str, arguments), "--weights", str(weights), *SMALL]
        return CliRunner().invoke(app, line)

    return predict


def save_scene(path: Path, values: np.ndarray | None = None, **profile: Any) -> Path:
    """Write real pixels (or the given (bands, height, width) ones) as a raster."""
    if values is None:
        values = np.moveaxis(scene_pixels(), -1, 0)[:, :150, :200]
    count, height, width = values.shape
    path.parent.mkdir(parents=True, exist_ok=True)
    made: dict[str, Any] = {"driver": "GTiff", "count": count, "dtype": values.dtype, **profile}
    with rasterio.open(path, "w", height=height, width=width, **made) as dataset:
        dataset.write(values)
    return path


def one_error_line(result: Any) -> str:
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return str(lines[0])


@pytest.mark.long
def test_maps_a_scene_into_the_current_folder(run: Run, tmp_path: Path, made_weights: Path) -> None:
    scene = save_scene(
        tmp_path / "scene.tif", crs="EPSG:28992", transform=from_origin(1000, 2000, 0.25, 0.25)
    )
    result = run(scene)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
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


def test_a_scene_without_crs_makes_no_noise(run: Run, tmp_path: Path) -> None:
    Image.fromarray(scene_pixels()[:90, :110]).save(tmp_path / "photo.jpg")
    result = run(tmp_path / "photo.jpg")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "m²" not in result.stdout
    with rasterio.open("photo_classes.tif") as written:
        assert written.crs is None
        assert written.shape == (90, 110)


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


def test_a_map_never_replaces_a_scene(run: Run, tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    before = scene.read_bytes()
    link = tmp_path / "link.tif"
    link.symlink_to(scene)
    for out in (scene, link):
        assert "would replace it" in one_error_line(run(scene, "--out", out, "--overwrite"))
    assert scene.read_bytes() == before


def test_maps_patterns_and_folders_but_not_its_own_maps(run: Run, tmp_path: Path) -> None:
    for name in ("a.tif", "b.TIF"):
        save_scene(tmp_path / "scenes" / name)
    (tmp_path / "scenes" / "notes.txt").write_text("not a raster")
    result = run(tmp_path / "scenes", "--out", tmp_path / "scenes")
    assert result.exit_code == 0, result.output
    result = run(tmp_path / "scenes", "--out", "maps")
    assert sorted(p.name for p in Path("maps").glob("*.tif")) == ["a_classes.tif", "b_classes.tif"]
    assert run(str(tmp_path / "scenes" / "?.*"), "--out", "found").exit_code == 0
    assert sorted(p.name for p in Path("found").glob("*.tif")) == ["a_classes.tif", "b_classes.tif"]
    assert "matches no file" in one_error_line(run(str(tmp_path / "*.xyz")))
    (tmp_path / "empty").mkdir()
    assert "holds no rasters" in one_error_line(run(tmp_path / "empty"))


def test_equal_names_do_not_collide(run: Run, tmp_path: Path) -> None:
    for folder in ("may", "june", "2024/july", "2025/july"):
        save_scene(tmp_path / folder / "scene.tif")
    save_scene(tmp_path / "may" / "other.tif")
    result = run(*sorted(tmp_path.rglob("*.tif")), "--out", "maps")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in Path("maps").glob("*.tif")) == [
        "2024_july_scene_classes.tif",
        "2025_july_scene_classes.tif",
        "june_scene_classes.tif",
        "may_scene_classes.tif",
        "other_classes.tif",
    ]
    Image.fromarray(scene_pixels()).save(tmp_path / "may" / "scene.png")
    line = one_error_line(run(tmp_path / "may", "--out", "again"))
    assert "would both be mapped to" in line


def test_a_bad_scene_does_not_stop_the_others(run: Run, tmp_path: Path) -> None:
    good = [save_scene(tmp_path / "a.tif"), save_scene(tmp_path / "z.tif")]
    bad = tmp_path / "bad.tif"
    bad.write_bytes(good[0].read_bytes()[:20000])
    result = run(good[0], bad, tmp_path / "missing.tif", good[1])
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 6
    assert "bad.tif" in lines[0]
    assert "missing.tif: no such file" in lines[1]
    assert lines[2] == "mapped 2 scenes; failed:"
    assert "bad.tif" in lines[3]
    assert "missing.tif: no such file" in lines[4]
    assert lines[5].startswith("error: 2 of 4 scenes failed: ")
    assert sorted(p.name for p in Path().glob("*.tif")) == ["a_classes.tif", "z_classes.tif"]
    assert result.stdout.count("all with data") == 2


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("empty", "is empty"),
        ("text", "is not a raster"),
        ("truncated", "truncated or damaged|is not a raster"),
        ("one band", "has 1 band where 3 are needed"),
        ("two bands", "has 2 bands where 3 are needed; use a raster with at least 3 bands"),
        ("complex", "holds complex numbers"),
        ("folder as file", "cannot be created|Not a directory"),
    ],
)
def test_bad_input_ends_in_one_line_and_leaves_nothing(
    run: Run, tmp_path: Path, kind: str, message: str
) -> None:
    path = tmp_path / "scene.tif"
    values = np.moveaxis(scene_pixels(), -1, 0)
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("hello")
    elif kind != "missing":
        dtypes = {"complex": "complex64"}
        bands = {"one band": values[:1], "two bands": values[:2]}
        save_scene(path, bands.get(kind, values).astype(dtypes.get(kind, "uint8")))
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:100_000])
    out = "."
    if kind == "folder as file":
        (tmp_path / "file").touch()
        out = str(tmp_path / "file" / "maps")
    line = one_error_line(run(path, "--out", out))
    assert re.search(message, line), line
    assert os.listdir() == []


@pytest.mark.long
def test_other_types_and_bands_with_options(run: Run, tmp_path: Path) -> None:
    values = np.moveaxis(scene_pixels(), -1, 0)[:, :100, :120]
    plain = save_scene(tmp_path / "plain.tif", values)
    reversed_bands = np.concatenate([values[:1], values[::-1].copy()])
    four = save_scene(tmp_path / "four.tif", reversed_bands, photometric="minisblack")
    sixteen = save_scene(tmp_path / "sixteen.tif", values.astype("uint16") * 40)
    floats = values.astype("float32") / 255
    floats[:, 10:30, 20:50] = np.nan
    holes = save_scene(tmp_path / "holes.tif", floats)
    for arguments in (
        [plain],
        [four, "--bands", "4,3,2"],
        [sixteen, "--scale", "10200"],
        [holes, "--scale", "1"],
    ):
        result = run(*arguments, "--precision", "32")
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
    maps = {p.stem: rasterio.open(p).read(1) for p in Path().glob("*.tif")}
    np.testing.assert_array_equal(maps["four_classes"], maps["plain_classes"])
    assert (maps["sixteen_classes"] != maps["plain_classes"]).sum() <= 1
    np.testing.assert_array_equal(maps["holes_classes"] == 255, np.isnan(floats).any(0))
    assert rasterio.open("holes_classes.tif").nodata == 255


def test_alpha_is_no_band_but_says_where_there_is_data(run: Run, tmp_path: Path) -> None:
    values = np.moveaxis(scene_pixels(), -1, 0)[:, :100, :120]
    alpha = np.full((1, 100, 120), 255, dtype=np.uint8)
    alpha[:, :, 90:] = 0
    rgba = np.concatenate([values, alpha])
    result = run(save_scene(tmp_path / "rgba.tif", rgba, photometric="rgb", alpha="yes"))
    assert result.exit_code == 0, result.output
    labels = rasterio.open("rgba_classes.tif").read(1)
    np.testing.assert_array_equal(labels == 255, alpha[0] == 0)
    assert re.search(r"no data +\| +3,000 ", result.stdout)


@pytest.mark.long
def test_weights_for_one_band_map_one_band(run: Run, tmp_path: Path) -> None:
    weights = save_made_weights(tmp_path / "one.safetensors", bands=1)
    scene = save_scene(tmp_path / "grey.tif", scene_pixels()[None, :100, :120, 0].copy())
    assert run(scene, weights=weights).exit_code == 0
    assert rasterio.open("grey_classes.tif").shape == (100, 120)


def test_warns_once_of_a_far_ground_resolution(run: Run, tmp_path: Path) -> None:
    weights = save_made_weights(tmp_path / "vaihingen.safetensors", resolution=0.09)
    scenes = [
        save_scene(tmp_path / f"{i}.tif", crs="EPSG:28992", transform=from_origin(0, 9, size, size))
        for i, size in enumerate((0.1, 0.5, 0.5))
    ]
    result = run(*scenes, weights=weights)
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        f"warning: {scenes[1]}: has 50 cm a pixel where the weights were trained on 9 cm; "
        "expect worse maps, or map it with --resample"
    ]


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


@pytest.mark.long
def test_preview_shows_scene_map_and_legend(run: Run, tmp_path: Path) -> None:
    values = np.moveaxis(scene_pixels(), -1, 0)[:, :160, :200].copy()
    values[:, :, 150:] = 0
    scene = save_scene(tmp_path / "scene.tif", values)
    result = run(scene, "--nodata", "0", "--preview", "picture.png")
    assert result.exit_code == 0, result.output
    picture = np.asarray(Image.open("picture.png").convert("RGB"))
    labels = rasterio.open("scene_classes.tif").read(1)
    # two panels four times as large as the scene, beside each other
    height, width = 640, 800
    top = picture.shape[0] - 40 - max(height, 54 * 7 + 20)
    right = picture[top : top + height, 80 + width : 80 + 2 * width]
    colours = np.full((256, 3), (235, 237, 240), dtype=np.uint8)
    colours[:5] = load_colours()
    np.testing.assert_array_equal(right[2::4, 2::4], colours[labels])
    left = picture[top : top + height, 40 : 40 + width]
    shrunk = np.asarray(Image.fromarray(left).resize((200, 160), Image.Resampling.BOX), dtype=float)
    difference = np.abs(shrunk - np.moveaxis(values, 0, -1))[:, :145]
    assert difference.mean() < 6
    legend = picture[:, 120 + 2 * width :].reshape(-1, 3)
    for colour in colours[:5]:
        assert (legend == colour).all(-1).sum() > 500
    assert "exists already" in one_error_line(
        run(scene, "--out", "other.tif", "--preview", "picture.png")
    )
    assert "is one file for 2 scenes" in one_error_line(
        run(scene, save_scene(tmp_path / "b.tif"), "--preview", "p.png")
    )


def load_colours() -> list[tuple[int, int, int]]:
    return [(60, 16, 152), (132, 41, 246), (110, 193, 228), (254, 221, 58), (226, 169, 41)]


@pytest.mark.parametrize("arguments", [["--bands", "x"], ["--window", "5"], ["--batch", "0"], []])
def test_usage_errors_exit_with_2(arguments: list[str], tmp_path: Path) -> None:
    scene = [str(save_scene(tmp_path / "scene.tif"))] if arguments else []
    assert CliRunner().invoke(app, ["predict", *scene, *arguments]).exit_code == 2


def test_an_overlap_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    line = ["predict", str(scene), "--window", "64", "--overlap", "33"]
    result = CliRunner().invoke(app, line)
    assert "an overlap of 33 px does not fit windows of 64 px" in one_error_line(result)


@pytest.mark.long
def test_real_orthophotos(run: Run, imagery: Path, made_weights: Path) -> None:
    del run
    manila, gorinchem = (imagery / "geotiff" / f"{n}.tif" for n in ("manila", "gorinchem"))
    line = ["predict", str(manila), str(gorinchem), "--nodata", "0", "--weights", str(made_weights)]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    with rasterio.open(manila) as source, rasterio.open("manila_classes.tif") as written:
        black = (source.read() == 0).all(0)
        assert black.mean() > 0.1
        np.testing.assert_array_equal(written.read(1) == 255, black)
        assert written.transform == source.transform
        assert written.overviews(1) == [2, 4, 8]
    with rasterio.open("gorinchem_classes.tif") as written:
        assert written.crs.to_epsg() == 28992
    assert re.search(r"all with data +\| +1,000,000 \| 100.00% \| +6.25 ha", result.stdout)


MEMORY = """
import sys
import numpy as np
from hrrsi.prediction.engines.openvino_engine import OpenVinoEngine
from hrrsi.prediction.options import EngineOptions
from hrrsi.prediction.predict import predict

# the network's own memory does not depend on the raster, and would take minutes here
logits = np.random.default_rng(0).normal(size=(5, 128, 128)).astype(np.float32)
OpenVinoEngine.logits = lambda self, windows, gain, offset: (logits for _ in windows)
predict(sys.argv[1], weights=sys.argv[2], out=sys.argv[3], engine=EngineOptions("openvino"))
# not ru_maxrss: that starts at the size of the process which started this one
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.long
def test_memory_does_not_grow_with_the_height(tmp_path: Path, made_weights: Path) -> None:
    peaks = []
    for height in (4000, 24_000):
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


class Stopped(NamedTuple):
    """A run that was stopped half-way, and how to start it again."""

    line: list[str]
    maps: Path
    code: int
    errors: str


def stopped_run(folder: Path, weights: Path, how: signal.Signals, *more: str) -> Stopped:
    """Start `hrrsi predict`, and stop it once it has written a few strips."""
    values = np.tile(np.moveaxis(scene_pixels(), -1, 0), (1, 8, 3))
    scene = folder / "scene.tif"
    if not scene.exists():
        save_scene(scene, values, compress="jpeg", tiled=True)
    maps = folder / f"maps{how.name}"
    line = ["predict", str(scene), "--out", str(maps), "--weights", str(weights), *more]
    line += ["--window", "128", "--overlap", "16"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hrrsi", *line],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    )
    journal = maps / ".scene_classes.tif.unfinished" / "journal.json"
    deadline = time.monotonic() + 300
    while not journal.exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(how)
    _, errors = process.communicate(timeout=300)
    return Stopped(line, maps, process.returncode, errors)


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    tmp_path: Path, made_weights: Path, how: signal.Signals
) -> None:
    more = ["--vector", "gpkg", "--confidence", "uint8", "--min-area", "30"]
    stopped = stopped_run(tmp_path, made_weights, how, *more)
    assert [p.name for p in stopped.maps.iterdir()] == [".scene_classes.tif.unfinished"]
    rows = json.loads(next(stopped.maps.rglob("journal.json")).read_text())["rows_done"]
    assert 0 < rows < 2048
    if how == signal.SIGINT:
        assert stopped.code == 1
        (message,) = stopped.errors.splitlines()
        assert message.startswith("error: ")
        assert "of the map is kept for --resume: run the same command with it" in message
    else:
        assert stopped.code == -signal.SIGKILL
    other = CliRunner().invoke(app, [*stopped.line, "--resume", "--tta", "flip"])
    assert "was begun otherwise: options" in one_error_line(other)
    result = CliRunner().invoke(app, [*stopped.line, "--resume"])
    assert result.exit_code == 0, result.output
    whole = [w if w != str(stopped.maps) else str(tmp_path / "whole") for w in stopped.line]
    assert CliRunner().invoke(app, whole).exit_code == 0
    names = sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert names == sorted(p.name for p in stopped.maps.iterdir())  # nothing hidden is left
    assert "scene_classes.gpkg" in names
    for name in names:
        assert (stopped.maps / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    # finished scenes stay as they are
    before = {p: p.stat().st_mtime_ns for p in stopped.maps.iterdir()}
    result = CliRunner().invoke(app, [*stopped.line, "--resume"])
    assert result.exit_code == 0, result.output
    assert "was finished already" in result.stdout
    assert {p: p.stat().st_mtime_ns for p in stopped.maps.iterdir()} == before
    line = [*stopped.line, "--resume", "--nodata", "1"]
    assert "was made otherwise" in one_error_line(CliRunner().invoke(app, line))


@pytest.mark.long
def test_without_resume_a_stopped_run_starts_over(tmp_path: Path, made_weights: Path) -> None:
    stopped = stopped_run(tmp_path, made_weights, signal.SIGKILL)
    result = CliRunner().invoke(app, [*stopped.line, "--tta", "flip"])
    assert result.exit_code == 0, result.output
    assert not [p for p in stopped.maps.iterdir() if p.name.startswith(".")]


def test_values_far_beyond_the_scale_are_no_map(tmp_path: Path, made_weights: Path) -> None:
    pixels = np.moveaxis(scene_pixels(), -1, 0).astype(np.float32)
    pixels[:, :30, :30] = -3.4e38  # an undeclared mark of missing data
    scene = tmp_path / "sentinel.tif"
    with rasterio.open(
        scene, "w", driver="GTiff", count=3, dtype="float32", height=256, width=320
    ) as dataset:
        dataset.write(pixels)
    line = ["predict", str(scene), "--out", str(tmp_path / "out"), "--scale", "255", "--quiet"]
    result = CliRunner().invoke(app, [*line, "--weights", str(made_weights)])
    assert result.exit_code == 1
    warning, error = result.stderr.strip().splitlines()
    assert "unlike what the weights were trained on" in warning
    assert "sentinel.tif: holds -3.4e+38" in error
    assert "--nodata" in error
    assert not list((tmp_path / "out").glob("*.tif"))


@pytest.mark.parametrize("scale", ["0", "-5", "nan", "inf"])
def test_a_scale_is_a_positive_number(tmp_path: Path, made_weights: Path, scale: str) -> None:
    scene = REPOSITORY / "examples" / "dubai_tile1.tif"
    line = ["predict", str(scene), "--out", str(tmp_path), "--scale", scale]
    result = CliRunner().invoke(app, [*line, "--weights", str(made_weights)])
    assert result.exit_code == 1
    assert "--scale: full brightness" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_pattern_leaves_out_maps_of_the_run_before(run: Run, tmp_path: Path) -> None:
    save_scene(tmp_path / "here" / "flight.tif")
    for _ in range(2):
        result = run("*.tif", "--overwrite", "--quiet")
        assert result.exit_code == 0, result.stderr
    assert sorted(p.name for p in Path().glob("*.tif")) == ["flight.tif", "flight_classes.tif"]


def test_nothing_to_map_is_told(made_weights: Path) -> None:
    with pytest.raises(HrrsiError, match="no scenes are named"):
        hrrsi.predict([], weights=made_weights)


@pytest.mark.long
def test_another_type_gets_an_estimated_scale_and_says_so(run: Run, tmp_path: Path) -> None:
    values = np.moveaxis(scene_pixels(), -1, 0)
    for name, scene in (
        ("reflectance", (values.astype(np.float64) * 10000 / 255).round().astype("uint16")),
        ("unit", values.astype("float32") / 255),
    ):
        result = run(save_scene(tmp_path / f"{name}.tif", scene), "--precision", "32")
        assert result.exit_code == 0, result.output
        (line,) = result.stderr.splitlines()
        assert line.startswith("warning: ")
        assert f"{name}.tif: holds {scene.dtype} where the weights were trained on uint8" in line
        assert "counts as full brightness" in line
        with rasterio.open(f"{name}_classes.tif") as dataset:
            told = float(re.search(r"; ([\d.]+) counts", line)[1])  # type: ignore[index]
            assert float(dataset.tags()["HRRSI_ESTIMATED_SCALE"]) == pytest.approx(told)
    plain = save_scene(tmp_path / "plain.tif", values)
    assert run(plain, "--precision", "32").exit_code == 0
    maps = {p.stem: rasterio.open(p).read(1) for p in Path().glob("*.tif")}
    assert (maps["unit_classes"] == maps["plain_classes"]).mean() > 0.999
    same = (maps["reflectance_classes"] == maps["plain_classes"]).mean()
    assert same > 0.98  # of values that were rounded


def test_imagery_unlike_the_training_data_is_said_once(run: Run, tmp_path: Path) -> None:
    dark = np.moveaxis(scene_pixels(), -1, 0) // 12
    scenes = [save_scene(tmp_path / f"{i}.tif", dark) for i in range(2)]
    result = run(*scenes)
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"warning: {scenes[0]}: imagery unlike what the weights were trained on")


def test_an_area_of_interest_bounds_the_map(run: Run, tmp_path: Path) -> None:
    scene = save_scene(
        tmp_path / "scene.tif", crs="EPSG:28992", transform=from_origin(1000, 2000, 1, 1)
    )
    area = write_polygons(tmp_path / "area.gpkg", {"in": (1020, 1900, 1110, 1980)})
    assert run(scene, "--out", "all.tif").exit_code == 0
    result = run(scene, "--aoi", area, "--confidence", "uint8", "--out", "part.tif")
    assert result.exit_code == 0, result.output
    whole, part = rasterio.open("all.tif").read(1), rasterio.open("part.tif").read(1)
    inside = np.zeros(whole.shape, dtype=bool)
    inside[20:100, 20:110] = True
    np.testing.assert_array_equal(part == 255, ~inside)
    np.testing.assert_array_equal(part[inside], whole[inside])
    with rasterio.open("part_confidence.tif") as scores:
        np.testing.assert_array_equal(scores.read(1) == 255, ~inside)
    away = write_polygons(tmp_path / "away.gpkg", {"away": (9000, 9000, 9001, 9001)})
    assert "away.gpkg" in one_error_line(run(scene, "--aoi", away, "--out", "none.tif"))
    assert "no such file" in one_error_line(run(scene, "--aoi", "nothing.gpkg"))


def write_polygons(path: Path, boxes: dict[str, tuple[float, float, float, float]]) -> Path:
    shapes = shapely.box(*np.array(list(boxes.values())).T)
    names = np.array(list(boxes), dtype=object)
    pyogrio.raw.write(
        path,
        shapely.to_wkb(shapes),
        field_data=[names],
        fields=["name"],
        geometry_type="Polygon",
        crs="EPSG:28992",
    )
    return path


@pytest.mark.long
def test_polygons_zones_and_sieving_agree_with_the_map(run: Run, tmp_path: Path) -> None:
    scene = save_scene(
        tmp_path / "scene.tif", crs="EPSG:28992", transform=from_origin(1000, 2000, 0.5, 0.5)
    )
    zones = write_polygons(
        tmp_path / "zones.gpkg",
        {"west": (1000, 1925, 1050, 2000), "all": (900, 1900, 1200, 2100)},
    )
    result = run(
        scene, "--min-area", "10", "--vector", "map.gpkg", "--zones", zones, "--out", "m.tif"
    )
    assert result.exit_code == 0, result.output
    labels = rasterio.open("m.tif").read(1)
    _, _, _, fields = pyogrio.raw.read(
        "map.gpkg", layer="classes", columns=["class_index", "pixels", "area_m2"]
    )
    for index in range(5):
        of_class = fields[0] == index
        assert fields[1][of_class].sum() == (labels == index).sum()
        assert fields[2][of_class].sum() == pytest.approx((labels == index).sum() / 4)
    assert fields[1].min() >= 40  # 10 m² are 40 pixels of 0.5 m
    with Path("m_zones.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["zone"] for row in rows} == {"west", "all"}
    for row in rows:
        part = labels if row["zone"] == "all" else labels[:, :100]
        index = load_model().meta["classes"].index(row["class"])
        assert int(row["pixels"]) == (part == index).sum()
        assert float(row["area_m2"]) == pytest.approx((part == index).sum() / 4)
    assert "west" in result.stdout
    assert "also: map.gpkg" in result.stdout
    line = one_error_line(run(scene, "--vector", "map.shp", "--out", "other.tif"))
    assert "map.shp: is none of .gpkg" in line
    line = one_error_line(run(scene, "--min-area", "-1", "--out", "other.tif"))
    assert "--min-area: -1 is no area" in line
    assert not Path("other.tif").exists()


def test_scores_read_as_probabilities(run: Run, tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    result = run(scene, "--confidence", "float32", "--probabilities", "uint8")
    assert result.exit_code == 0, result.output
    labels = rasterio.open("scene_classes.tif").read(1)
    with rasterio.open("scene_probabilities.tif") as dataset:
        assert dataset.descriptions == tuple(load_model().meta["classes"])
        scores = dataset.read() * np.array(dataset.scales)[:, None, None]
    np.testing.assert_allclose(scores.sum(0), 1, atol=0.011)
    with rasterio.open("scene_confidence.tif") as dataset:
        confidence = dataset.read(1)
    np.testing.assert_allclose(confidence, scores.max(0), atol=0.0021)
    best = np.take_along_axis(scores, labels[None].astype(int), 0)[0]
    np.testing.assert_allclose(best, scores.max(0), atol=0.0041)


@pytest.mark.long
def test_resampled_maps_are_on_the_scenes_grid(run: Run, tmp_path: Path) -> None:
    weights = save_made_weights(tmp_path / "half.safetensors", resolution=0.5)
    values = np.moveaxis(scene_pixels(), -1, 0)[:, :128, :160]
    coarse = save_scene(
        tmp_path / "coarse.tif", values, crs="EPSG:28992", transform=from_origin(0, 99, 0.5, 0.5)
    )
    fine = save_scene(
        tmp_path / "fine.tif",
        values.repeat(2, 1).repeat(2, 2),
        crs="EPSG:28992",
        transform=from_origin(0, 99, 0.25, 0.25),
    )
    for scene in (coarse, fine):
        result = run(scene, "--resample", "--precision", "32", weights=weights)
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
    with rasterio.open("fine_classes.tif") as dataset, rasterio.open(fine) as source:
        assert dataset.transform == source.transform
        labels = dataset.read(1)
    expected = rasterio.open("coarse_classes.tif").read(1)
    assert labels.shape == (256, 320)
    # between the coarse pixels' centres, borders between classes run more finely; away from them
    # the labels are the same
    around = sliding_window_view(np.pad(expected, 1, "edge"), (3, 3)).reshape(*expected.shape, 9)
    inside = (around == expected[..., None]).all(-1)
    assert 0.3 < inside.mean() < 1
    same = labels == expected.repeat(2, 0).repeat(2, 1)
    assert same[inside.repeat(2, 0).repeat(2, 1)].mean() > 0.998
    assert "does not say at which" in one_error_line(run(coarse, "--resample", "--out", "x.tif"))


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


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_every_engine_gives_the_same_map(run: Run, tmp_path: Path, engine: str) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    threads = torch.get_num_threads()
    options = ("--precision", "32", "--device", "cpu", "--threads", threads + 1)
    for name in ("openvino", engine):
        result = run(scene, "--engine", name, *options, "--out", f"{name}.tif")
        assert result.exit_code == 0, result.output
    assert torch.get_num_threads() == threads  # what else runs here keeps its own
    one, other = (rasterio.open(f"{name}.tif").read(1) for name in ("openvino", engine))
    assert (one != other).sum() <= 1


@pytest.mark.long
def test_predicting_needs_no_torch(tmp_path: Path, made_weights: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    program = (
        "import sys; from hrrsi import MapOptions, predict; "
        f"predict({str(scene)!r}, weights={str(made_weights)!r}, out={str(tmp_path / 'm.tif')!r}, "
        "options=MapOptions(window=64)); "
        "assert not {'torch', 'timm'} & set(sys.modules), 'imported torch'"
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
def test_the_map_is_a_valid_cloud_optimised_geotiff(run: Run, tmp_path: Path) -> None:
    from rio_cogeo.cogeo import cog_validate

    values = np.tile(np.moveaxis(scene_pixels(), -1, 0), (1, 4, 3))
    scene = save_scene(
        tmp_path / "scene.tif", values, crs="EPSG:28992", transform=from_origin(0, 99, 1, 1)
    )
    line = ["predict", scene, "--out", "map.tif", "--probabilities", "uint8", "--min-area", "9"]
    assert CliRunner().invoke(app, [str(word) for word in line]).exit_code == 0
    for name in ("map.tif", "map_probabilities.tif"):
        assert cog_validate(name, strict=True) == (True, [], []), name
    with rasterio.open("map.tif") as dataset:
        tags = dataset.tags()
        assert dataset.overviews(1) == [2, 4]
    assert tags["HRRSI_WEIGHTS"] == "ued_bes_sfm-dubai.safetensors"
    assert tags["HRRSI_VERSION"] == hrrsi.__version__
    assert json.loads(tags["HRRSI_OPTIONS"]) == {"window": 512, "overlap": 96}
    assert tags["HRRSI_MIN_AREA"] == "9"


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


def test_resampled_maps_keep_holes_to_the_pixel(run: Run, tmp_path: Path) -> None:
    weights = save_made_weights(tmp_path / "coarse.safetensors", resolution=0.6)
    values = np.maximum(np.moveaxis(scene_pixels(), -1, 0), 1)
    values[:, 40:97, 30:141] = 0
    values[:, 200:203] = 0
    scene = save_scene(
        tmp_path / "scene.tif",
        values,
        nodata=0,
        crs="EPSG:28992",
        transform=from_origin(0, 99, 0.25, 0.25),
    )
    result = run(scene, "--resample", weights=weights)
    assert result.exit_code == 0, result.output
    labels = rasterio.open("scene_classes.tif").read(1)
    np.testing.assert_array_equal(labels == 255, (values == 0).all(0))


def test_resume_never_takes_one_scene_for_another(run: Run, tmp_path: Path) -> None:
    one = save_scene(tmp_path / "one" / "scene.tif")
    other = save_scene(tmp_path / "other" / "scene.tif")
    assert run(one).exit_code == 0
    assert "was finished already" in run(one, "--resume").stdout
    line = one_error_line(run(other, "--resume"))
    assert "scene_classes.tif: exists already, and was made otherwise, or of another scene" in line
    assert "made otherwise" in one_error_line(run(one, "--resume", "--confidence", "uint8"))
    os.utime(one, ns=(1, 1))  # edited meanwhile, for all that shows
    assert "made otherwise" in one_error_line(run(one, "--resume"))


def test_resume_never_replaces_what_is_not_its_own(run: Run, tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    for name in ("scene_classes.tif", "scene_confidence.tif"):
        save_scene(Path(name))
        before = Path(name).read_bytes()
        result = run(scene, "--resume", "--confidence", "uint8")
        assert "exists already" in one_error_line(result)
        assert Path(name).read_bytes() == before
        Path(name).unlink()


def test_resume_makes_what_is_missing_from_a_finished_map(run: Run, tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    assert run(scene, "--vector", "gpkg", "--preview", "png").exit_code == 0
    polygons = Path("scene_classes.gpkg").read_bytes()
    made = Path("scene_classes.tif").stat().st_mtime_ns
    Path("scene_classes.gpkg").unlink()
    Path("scene_classes.png").unlink()
    result = run(scene, "--vector", "gpkg", "--preview", "png", "--resume")
    assert result.exit_code == 0, result.output
    assert Path("scene_classes.gpkg").read_bytes() == polygons
    assert Path("scene_classes.png").exists()
    assert Path("scene_classes.tif").stat().st_mtime_ns == made


def test_resume_makes_polygons_of_an_earlier_map_again(run: Run, tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    assert run(scene, "--vector", "gpkg").exit_code == 0
    before = Path("scene_classes.gpkg").read_bytes()
    assert run(scene, "--overwrite", "--tta", "d4").exit_code == 0
    assert run(scene, "--resume", "--tta", "d4", "--vector", "gpkg").exit_code == 0
    assert Path("scene_classes.gpkg").read_bytes() != before


def test_a_window_larger_than_memory_is_one_line(run: Run, tmp_path: Path) -> None:
    line = ["predict", str(save_scene(tmp_path / "scene.tif")), "--window", "20000"]
    assert "choose --window up to 4096" in one_error_line(CliRunner().invoke(app, line))


def test_wrong_zones_fail_before_the_network_runs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = save_scene(
        tmp_path / "scene.tif", crs="EPSG:28992", transform=from_origin(1000, 2000, 1, 1)
    )
    zones = write_polygons(tmp_path / "zones.gpkg", {"a": (1000, 1900, 1050, 2000)})
    monkeypatch.setattr(OpenVinoEngine, "logits", None)
    line = one_error_line(run(scene, "--zones", zones, "--zone-name", "nome"))
    assert "has no attribute 'nome'" in line
    assert "give --zones" in one_error_line(run(scene, "--zone-name", "name"))
    assert os.listdir() == []


def test_a_georeference_that_makes_no_sense_is_none(run: Run, tmp_path: Path) -> None:
    points = [
        rasterio.control.GroundControlPoint(row=i * 50, col=i * 50, x=10 + i, y=50 + i)
        for i in range(3)
    ]
    on_a_line = save_scene(tmp_path / "line.tif", gcps=points, crs="EPSG:4326")
    far_away = save_scene(
        tmp_path / "far.tif", crs="EPSG:28992", transform=from_origin(9e9, 9e9, 1, 1)
    )
    result = run(on_a_line, far_away, save_scene(tmp_path / "good.tif"))
    assert result.exit_code == 0, result.output
    assert result.stdout.count("all with data") == 3


def test_pictures_are_not_taken_for_scenes(run: Run, tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "here" / "scene.tif")
    assert run(scene, "--preview", "png", "--confidence", "uint8").exit_code == 0
    assert Path("scene_classes.png").exists()
    result = run(".", "--overwrite")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("all with data") == 1


def test_threads_do_not_disturb_each_other(made_weights: Path) -> None:
    image = scene_pixels()
    images = [image, np.ascontiguousarray(image[::-1])]
    segmenters = [hrrsi.Segmenter(made_weights, window=64, overlap=16) for _ in images]
    expected = [segment(i) for segment, i in zip(segmenters, images, strict=True)]
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(5, 32, 32)).astype(np.float32) for _ in range(2)]
    alone = [window_labels(each, 128, 128) for each in logits]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(60):
            wrong.append(int((window_labels(logits[number], 128, 128) != alone[number]).sum()))
        wrong.append(int((segmenters[number](images[number]) != expected[number]).sum()))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 122
    assert sum(wrong) == 0


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
    one, other = (rasterio.open(f"{name}_classes.tif").read(1) for name in ("good", "wide"))
    assert (one != other).sum() <= 1
