"""The programs of `examples/stream`: they give the labels that hrrsi gives, and each other's."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from samples.repository import REPOSITORY

import hrrsi
from hrrsi.networks.weights_file import weights_path
from hrrsi.networks.weights_reading import read_meta

STREAM = REPOSITORY / "examples" / "stream"
SCENE = REPOSITORY / "examples" / "dubai" / "tile1" / "images" / "image_part_007.jpg"
WINDOW = 96


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "light.onnx"
    hrrsi.export("light", path, options=hrrsi.ExportOptions(window=WINDOW))
    model = onnx.load(path)  # a class whose name is not ASCII
    for entry in model.metadata_props:
        if entry.key in ("class_names", "hrrsi"):
            entry.value = entry.value.replace("Water", json.dumps("Gewässer €")[1:-1])
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of several windows, one of exactly one, and some smaller than half of one."""
    folder = tmp_path_factory.mktemp("frames")
    with Image.open(SCENE) as image:
        scene = image.convert("RGB")
    for name, box in {
        "large": (0, 0, 250, 130),
        "exact": (200, 20, 200 + WINDOW, 20 + WINDOW),
        "small": (250, 0, 320, 40),
        "wide": (0, 200, 120, 230),
    }.items():
        scene.crop(box).save(folder / f"{name}.ppm")
    return folder


@pytest.fixture(scope="module")
def python_maps(network: Path, frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    maps = tmp_path_factory.mktemp("maps") / "python"
    done = run([sys.executable, STREAM / "stream.py"], network, frames, maps)
    assert done.returncode == 0, done.stderr
    assert_summary(done.stdout, maps)
    return maps


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`stream.cpp`, built by the command that its README gives for PyPI's library."""
    if shutil.which("g++") is None:
        pytest.skip("there is no g++ here")
    folders = [os.environ.get("ONNXRUNTIME_INCLUDE", ""), "/usr/include/onnxruntime"]
    headers = [f for f in folders if f and (Path(f) / "onnxruntime_cxx_api.h").is_file()]
    if not headers:
        pytest.skip("ONNX Runtime's headers are not here; ONNXRUNTIME_INCLUDE names their folder")
    libraries = list(Path(*onnxruntime.__path__).glob("capi/libonnxruntime.so.1*"))
    if not libraries:
        pytest.skip("the onnxruntime package here has no library of its own")
    folder = tmp_path_factory.mktemp("program")
    (folder / "libonnxruntime.so.1").symlink_to(libraries[0])
    readme = (STREAM / "README.md").read_text()
    (command,) = [line for line in readme.splitlines() if "-l:libonnxruntime.so.1" in line]
    command = command.removeprefix("$ ").replace("stream.cpp", f"{STREAM / 'stream.cpp'}")
    command = command.replace("-IHEADERS", f"-I{headers[0]} -Wall -Wextra -Werror -O0", 1)
    subprocess.run(command.replace("$PWD", f"{folder}"), shell=True, check=True, cwd=folder)
    return folder / "stream"


def run(program: list[str | Path], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*program, *arguments], capture_output=True, text=True)


def assert_summary(text: str, maps: Path) -> None:
    first, times, *shares = text.splitlines()
    assert first.startswith("4 frames, ")
    assert times.startswith("pixels to map: p50 ")
    pixels = np.concatenate([labels(path).ravel() for path in sorted(maps.iterdir())])
    names = ["Building", "Land", "Road", "Vegetation", "Gewässer €"]
    assert shares == [f"{n}: {(pixels == i).mean():.2%}" for i, n in enumerate(names)]


def labels(path: Path) -> np.ndarray:
    """The class of each pixel of a map, by its colour."""
    with Image.open(path) as picture:
        colours = np.asarray(picture.convert("RGB")).astype(int)
    classes = np.array(read_meta(weights_path("light")).colours)
    same = (colours[..., None, :] == classes).all(axis=-1)
    assert same.any(axis=-1).all()
    return same.argmax(axis=-1)


@pytest.mark.slow
@pytest.mark.long
def test_python_gives_the_labels_of_hrrsi(python_maps: Path, frames: Path) -> None:
    engine = hrrsi.EngineOptions(precision="32")
    segmenter = hrrsi.Segmenter("light", window=WINDOW, engine=engine)
    assert len(list(python_maps.iterdir())) == 4
    for path in sorted(frames.iterdir()):
        with Image.open(path) as frame:
            expected = segmenter(np.asarray(frame))
        with Image.open(python_maps / f"{path.stem}.png") as picture:
            assert picture.mode == "P"
            indices = np.asarray(picture)
        assert (indices == labels(python_maps / f"{path.stem}.png")).all()
        # several windows are cut here and blended there
        least = {"large": 0.97, "wide": 0.97}.get(path.stem, 0.999)
        assert (indices == expected).mean() >= least, path.stem


@pytest.mark.long
def test_cpp_gives_the_same_maps(
    program: Path, network: Path, frames: Path, python_maps: Path, tmp_path: Path
) -> None:
    done = run([program], network, frames, tmp_path / "maps", "1")
    assert done.returncode == 0, done.stderr
    assert_summary(done.stdout, tmp_path / "maps")
    for path in sorted(frames.iterdir()):
        cpp_labels = labels(tmp_path / "maps" / path.name)
        expected = labels(python_maps / f"{path.stem}.png")
        assert (cpp_labels != expected).mean() <= 1e-4, path.stem
    again = run([program], network, frames, tmp_path / "maps")
    assert (again.returncode, again.stdout) == (1, "")
    assert "exists; give another folder" in again.stderr


def broken(folder: Path, network: Path) -> dict[str, tuple[list[Path], str]]:
    """Arguments that can't be used, and what is said of them."""
    header, short, deep, empty = (folder / name for name in ("header", "short", "deep", "empty"))
    for place in (header, short, deep, empty):
        place.mkdir()
    (header / "a.ppm").write_bytes(b"P6\n# 4\nxx 4 255\n")
    (short / "a.ppm").write_bytes(b"P6\n4 4\n255\n123")
    (deep / "a.ppm").write_bytes(b"P6\n2 2\n65535\n" + bytes(24))
    other, foreign = folder / "other.onnx", folder / "foreign.onnx"
    other.write_bytes(b"no network")
    model = onnx.load(network)
    del model.metadata_props[:]
    onnx.save(model, foreign)
    maps = folder / "maps"
    return {
        "missing network": ([folder / "none.onnx", short, maps], "none.onnx: no such file"),
        "no network": ([other, short, maps], "other.onnx: ONNX Runtime can't read it"),
        "foreign": ([foreign, short, maps], "foreign.onnx: is not a file of hrrsi export"),
        "no frames": ([network, empty, maps], f"{empty}: holds no "),
        "missing folder": ([network, folder / "none", maps], "none: no such f"),
        "header": ([network, header, maps], "a.ppm: "),
        "short": ([network, short, maps], "a.ppm: "),
        "deep": ([network, deep, maps], "a.ppm: "),
    }


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("language", ["python", "cpp"])
def test_what_cannot_be_used_ends_in_one_line(
    language: str,
    request: pytest.FixtureRequest,
    network: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = request.getfixturevalue("program") if language == "cpp" else None
    for what, (arguments, message) in broken(tmp_path, network).items():
        if program is None:  # to start Python takes longer than all of it
            monkeypatch.setattr(sys, "argv", ["stream.py", *map(str, arguments)])
            with pytest.raises(SystemExit) as caught:
                runpy.run_path(f"{STREAM / 'stream.py'}", run_name="__main__")
            said = caught.value.code
        else:
            done = run([program], *arguments)
            assert (done.returncode, done.stdout) == (1, ""), what
            said = done.stderr
        (line,) = str(said).splitlines()
        assert line.startswith("error: "), what
        assert message in line, what
        assert not list((tmp_path / "maps").glob("*")), what
