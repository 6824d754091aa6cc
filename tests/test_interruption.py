"""Ctrl-C and SIGTERM are requests that work sees between its steps; the second one ends it."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from samples.command_results import python_program
from samples.predicted_scenes import SMALL, save_scene
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import app
from hrrsi.errors import OutputError
from hrrsi.interruption import heeding_signals, stop_if_requested, stop_requested
from hrrsi.maps import cloud_optimised
from hrrsi.maps.rasters import write_class_raster
from hrrsi.prediction.sliding_window import WindowPixels, read_ahead
from hrrsi.progress import progress
from hrrsi.scenes.windows import Window

HEIGHT, WIDTH = 700, 1100  # with overviews


@pytest.fixture(autouse=True)
def pythons_own_handlers() -> Iterator[None]:
    """A shell's background jobs ignore Ctrl-C, and children inherit that."""
    before = {n: signal.signal(n, h) for n, h in DEFAULTS.items()}
    yield
    for number, handler in before.items():
        assert signal.getsignal(number) == DEFAULTS[number], "a handler was left behind"
        signal.signal(number, handler)


DEFAULTS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_seen_where_work_looks(number: signal.Signals) -> None:
    with heeding_signals():
        stop_if_requested()
        os.kill(os.getpid(), number)
        assert stop_requested()  # and nothing was raised so far
        with pytest.raises(KeyboardInterrupt):
            stop_if_requested()
        begins = heeding_signals(also=[signal.SIGUSR1])
        with pytest.raises(KeyboardInterrupt):
            begins.__enter__()
    assert not stop_requested(), "the next call is not told to stop"


def test_every_step_of_a_progress_bar_looks() -> None:
    with heeding_signals(), progress("working", 3, " steps", enabled=False) as bar:
        bar.update()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            bar.update()


def test_what_ignores_ctrl_c_goes_on_doing_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with heeding_signals():
            os.kill(os.getpid(), signal.SIGINT)
            stop_if_requested()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_signal_of_the_same_moment_is_the_same_request() -> None:
    with heeding_signals():
        for _ in range(2):  # of the terminal, and of whoever started the program
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop_requested()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_the_program_at_once(number: signal.Signals) -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from hrrsi.interruption import heed_signals_for_good, stop_requested\n"
        "heed_signals_for_good()\n"
        "print('ready', flush=True)\n"
        "while not stop_requested(): time.sleep(0.01)\n"
        "time.sleep(0.3); print('asked', flush=True); time.sleep(60)\n"
    )
    with python_program(script) as (process, output):
        for line in ("ready\n", "asked\n"):
            assert output.readline() == line
            process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (-number, "")


def test_reading_ahead_stops_while_a_server_is_slow() -> None:
    answered = threading.Event()

    def read(_: Window) -> WindowPixels:
        answered.wait(20)
        return WindowPixels(None, None)

    def ask() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        answered.set()

    windows = read_ahead([Window(0, 0, 8, 8)] * 3, read, ahead=1)
    threading.Timer(0.05, ask).start()
    with heeding_signals(), pytest.raises(KeyboardInterrupt):
        for _ in windows:
            pass
    assert threading.active_count() == 1 or not [
        t for t in threading.enumerate() if t.name == "window reader"
    ]


def labels() -> np.ndarray:
    blocks = np.random.default_rng(1).integers(0, 3, (HEIGHT // 10, WIDTH // 10), dtype=np.uint8)
    return np.kron(blocks, np.ones((10, 10), dtype=np.uint8))


def write_map(path: Path, scene: Path) -> None:
    with rasterio.open(scene) as dataset:
        write_class_raster(
            path,
            dataset,
            [labels()],
            classes=["a", "b", "c"],
            colours=[(1, 0, 0), (2, 0, 0), (3, 0, 0)],
            has_nodata=False,
            provenance={},
        )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    return save_scene(folder / "scene.tif", np.zeros((1, HEIGHT, WIDTH), dtype=np.uint8))


@pytest.fixture(scope="module")
def undisturbed(scene: Path) -> tuple[bytes, int]:
    """The map's bytes, and in how many writes GDAL handed them over."""
    count = 0
    write = cloud_optimised._KeepingFile.write

    def counted(self: Any, data: Any) -> int:
        nonlocal count
        count += 1
        return write(self, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cloud_optimised._KeepingFile, "write", counted)
        write_map(scene.parent / "map.tif", scene)
    return (scene.parent / "map.tif").read_bytes(), count


@pytest.mark.parametrize("place", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
def test_ctrl_c_while_a_map_is_written_leaves_a_whole_map_or_none(
    place: float,
    scene: Path,
    undisturbed: tuple[bytes, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content, writes = undisturbed
    assert writes > 5
    at, count = round(place * (writes - 1)), 0
    write = cloud_optimised._KeepingFile.write

    def interrupted(self: Any, data: Any) -> int:
        nonlocal count
        if count == at:
            os.kill(os.getpid(), signal.SIGINT)
        count += 1
        return write(self, data)

    monkeypatch.setattr(cloud_optimised._KeepingFile, "write", interrupted)
    path = tmp_path / "map.tif"
    with heeding_signals():
        with suppress(KeyboardInterrupt):
            write_map(path, scene)
        assert stop_requested()
    assert not path.exists() or path.read_bytes() == content
    assert not [p for p in tmp_path.iterdir() if "partial" in p.name]


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 200)


def zero_in_the_middle(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(300))


def without_overviews(path: Path) -> None:
    with rasterio.open(path) as dataset:
        profile, values = dataset.profile, dataset.read()
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(values)


@pytest.mark.parametrize("damage", [cut_short, zero_in_the_middle, without_overviews])
def test_a_map_that_is_not_what_was_written_gets_no_name(
    damage: Callable[[Path], None], scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = rasterio.shutil.copy

    def damaged(source: str, target: str, **named: Any) -> None:
        copy(source, target, **named)
        damage(next(p for p in tmp_path.iterdir() if p.name.startswith(".map.partial-")))

    monkeypatch.setattr(rasterio.shutil, "copy", damaged)
    with pytest.raises(OutputError, match="is not on the disk as it was written"):
        write_map(tmp_path / "map.tif", scene)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_resume_and_info_notice_a_damaged_map(made_weights: Path, tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    line = ["predict", str(scene), "--weights", str(made_weights), "-o", str(tmp_path), *SMALL]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    path = tmp_path / "scene_classes.tif"
    assert hrrsi.info(path).data["as_written"] is True
    whole = tmp_path / "whole.tif"
    shutil.copy(path, whole)
    zero_in_the_middle(path)
    assert hrrsi.info(path).data["as_written"] is False
    assert "damaged" in CliRunner().invoke(app, ["info", str(path)]).stdout
    result = CliRunner().invoke(app, [*line, "--resume"])
    assert result.exit_code == 1
    assert "scene_classes.tif: is damaged, or was changed since" in result.stderr
    shutil.copy(whole, path)
    assert CliRunner().invoke(app, [*line, "--resume"]).exit_code == 0


SEVERAL_ENGINES = """
import gc, os, signal, sys
from pathlib import Path
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.options import EngineOptions

signals = []
signal.signal(signal.SIGUSR1, lambda *_: signals.append(1))
engines = [
    open_engine(Path(sys.argv[1]), EngineOptions("openvino", precision="32")) for _ in range(3)
]
for last in (1, 1, 0):  # they end in another order than they began
    del engines[last]
    gc.collect()
    os.kill(os.getpid(), signal.SIGUSR1)
print(len(signals))
"""


@pytest.mark.long
def test_signals_come_after_engines_have_ended_in_any_order(made_weights: Path) -> None:
    program = [sys.executable, "-c", SEVERAL_ENGINES, str(made_weights)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


@pytest.mark.parametrize("read_from", ["a file", "standard input"])
def test_a_program_that_processes_cannot_read_again(read_from: str, tmp_path: Path) -> None:
    program = (
        "from hrrsi.errors import DeviceError\n"
        "from hrrsi.interruption import spawned_processes\n"
        "try:\n"
        "    with spawned_processes(1, fix='take less') as pool:\n"
        "        print(pool.submit(abs, -3).result())\n"
        "except DeviceError as error:\n"
        "    print(error)\n"
    )
    path = tmp_path / "program.py"
    path.write_text(program)
    source: dict[str, Any] = {"args": [sys.executable, path]}
    if read_from == "standard input":
        source = {"args": [sys.executable, "-"], "input": program}
    done = subprocess.run(**source, capture_output=True, text=True)
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()
    assert line.endswith('make its calls under `if __name__ == "__main__":`') or (
        done.stderr == "" and "in no file (<stdin>); save it as one, with its calls under" in line
    )
    assert ("<stdin>" in line) == (read_from == "standard input")
