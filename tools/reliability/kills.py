"""Kills of commands in each of their phases, and what they leave.

A run is a process forked once everything is imported, so that a kill costs a second and not ten.
Its signal is aimed: it comes a moment after the phase shows in the folder of outputs. Then nothing
under a final name may differ from what an undisturbed run writes, standard error may hold one line,
and going on has to end with the same bytes.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio

SIGNALS = {"int": signal.SIGINT, "term": signal.SIGTERM, "kill": signal.SIGKILL}
SECONDS = 300.0
_BEGINNING = 0.05  # until a process that was forked has its own handlers


def _exists(pattern: str) -> Callable[[Path], bool]:
    return lambda folder: next(iter(folder.glob(pattern)), None) is not None


# what shows that a phase has begun; and for how many seconds after that the signal may come
Phases = dict[str, tuple[Callable[[Path], bool], float]]


class Command(NamedTuple):
    """A command that is killed.

    Attributes:
        line: Returns its arguments, but for ``--out``, in a folder with a scene and a dataset.
        out: The argument that names its outputs, below a folder for them.
        phases: Its phases, by name.
        going_on: What goes on after a kill, or starts again.
        compared: Pattern of the files under final names that have to be the same in the end.
        grows: Whether files under final names change while it runs, as a run's do.
    """

    line: Callable[[Path, Path], list[str]]
    out: tuple[str, str]
    phases: Phases
    going_on: tuple[str, ...]
    compared: str = "**/*"
    grows: bool = False


def _predict(folder: Path, weights: Path) -> list[str]:
    line = ["predict", str(folder / "scene.tif"), "--weights", str(weights), "--threads", "1"]
    line += ["--window", "256", "--overlap", "32", "--confidence", "uint8"]
    return [*line, "--vector", "gpkg", "--preview", "png"]


def _tile(folder: Path, _: Path) -> list[str]:
    return ["tile", str(folder / "raw"), "--scheme", str(folder / "own.yaml"), "--size", "64"]


def _evaluate(folder: Path, weights: Path) -> list[str]:
    line = ["eval", str(folder / "raw"), "--scheme", str(folder / "own.yaml"), "--split", "all"]
    return [*line, "--weights", str(weights), "--window", "256", "--overlap", "32"]


def _train(folder: Path, _: Path) -> list[str]:
    line = ["train", str(folder / "dataset"), "--model", "ued", "--encoder-weights", "none"]
    return [*line, "--epochs", "3", "--batch", "2", "--crop", "32", "--workers", "0"]


COMMANDS: dict[str, Command] = {
    "predict": Command(
        _predict,
        ("--out", ""),
        {
            "start": (lambda _: True, 1.0),
            "windows": (_exists(".*.unfinished/journal.json"), 0.5),
            "scores": (_exists(".*_confidence.partial-*"), 0.1),
            "class map": (_exists(".*_classes.partial-*.tif"), 0.1),
            "polygons": (_exists("scene_classes.tif"), 0.3),
            "end": (_exists("scene_classes.png"), 0.3),
        },
        ("--resume",),
        "*",
    ),
    "tile": Command(
        _tile,
        ("--out", "data"),
        {
            "start": (lambda _: True, 0.5),
            "patches": (_exists(".data.partial-*/train/image/*"), 0.3),
            "end": (_exists("data/dataset.yaml"), 0.1),
        },
        ("--overwrite",),
    ),
    "eval": Command(
        _evaluate,
        ("--json", "scores.json"),
        {"start": (lambda _: True, 1.0), "scores": (_exists(".scores*partial*"), 0.01)},
        ("--overwrite",),
    ),
    "train": Command(
        _train,
        ("--out", ""),
        {
            "start": (lambda _: True, 2.0),
            "first epoch": (_exists("ued/config.yaml"), 1.0),
            "later": (_exists("ued/last.ckpt"), 1.5),
            "end": (_exists("ued/curves.png"), 0.5),
        },
        ("--resume",),
        "ued/best.safetensors",
        grows=True,
    ),
}


@dataclass
class Kills:
    """What became of runs that were killed in one phase by one signal.

    Attributes:
        counts: How many runs ended before the signal, were stopped, and what was wrong with them.
        notes: A line for each that was wrong.
    """

    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def wrong(self, what: str, note: str) -> None:
        """Count something that must not be."""
        self.counts[what] += 1
        self.notes.append(f"{what}: {note}")


# the packaged weights' classes, which `eval` needs
SCHEME = """
name: own
classes:
  - {name: Building, colour: [60, 16, 152]}
  - {name: Land, colour: [132, 41, 246]}
  - {name: Road, colour: [110, 193, 228]}
  - {name: Vegetation, colour: [254, 221, 58]}
  - {name: Water, colour: [226, 169, 41]}
images: ["images/{scene}.tif"]
labels: ["labels/{scene}.tif"]
label_format: indices
splits:
  standard: {train: [a], val: [b], test: []}
  all: {train: [], val: [], test: ["*"]}
"""


def write_inputs(folder: Path, side: int = 700) -> None:
    """Write a scene that takes a network a moment, two labelled ones, and a tiled dataset."""
    from hrrsi import TileOptions, tile

    rng = np.random.default_rng(0)
    scenes = {"scene": side, "raw/images/a": 192, "raw/images/b": 128}
    for number, (name, length) in enumerate(scenes.items()):
        corner = rasterio.Affine(0.3, 0, 500000 + 1000 * number, 0, -0.3, 2790000)
        place = {"crs": "EPSG:32640", "transform": corner}
        coarse = rng.integers(30, 220, (3, length // 20 + 1, length // 20 + 1), dtype=np.uint8)
        pixels = coarse.repeat(20, axis=1).repeat(20, axis=2)[:, :length, :length]
        _write(folder / f"{name}.tif", pixels, **place)
        if name != "scene":
            labels = (pixels[:1] > 120).astype(np.uint8)
            _write(folder / f"{name}.tif".replace("images", "labels"), labels, **place)
    (folder / "own.yaml").write_text(SCHEME)
    tile(folder / "raw", folder / "own.yaml", folder / "dataset", options=TileOptions(size=64))


def _write(path: Path, pixels: npt.NDArray[np.uint8], **place: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=bands, dtype="uint8", **place
    ) as dataset:
        dataset.write(pixels)


class KilledRuns:
    """Runs of one command, undisturbed and killed.

    Args:
        name: Of the command.
        folder: Where inputs and outputs are.
        weights: A weights file.
    """

    def __init__(self, name: str, folder: Path, weights: Path) -> None:
        self._command = COMMANDS[name]
        self._folder = folder
        if not (folder / "scene.tif").exists():
            write_inputs(folder)
        self._line = [*self._command.line(folder, weights), "--quiet"]
        shutil.rmtree(folder / "whole", ignore_errors=True)
        self.seconds = time.monotonic()
        code, errors, self.whole = self._run("whole")
        self.seconds = time.monotonic() - self.seconds
        if code:
            raise RuntimeError(errors)

    def kill(self, phase: str, number: signal.Signals, rng: random.Random, kills: Kills) -> None:
        """Kill one run, look at what it leaves, and go on with it."""
        out = self._folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        child, errors = self._started(out)
        is_there, moment = self._command.phases[phase]
        deadline = time.monotonic() + SECONDS
        ended = 0
        while not ended and not is_there(out) and time.monotonic() < deadline:
            time.sleep(0.001)
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            time.sleep(_BEGINNING * (phase == "start") + rng.random() * moment)
            ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            kills.counts["ended before"] += 1
        else:
            os.kill(child, number)
            status = self._awaited(child, kills)
            kills.counts["signals"] += 1
        self._look(out, status, errors.read_text(), f"{phase}, {number.name}", kills)
        code, said, files = self._run("out", *self._command.going_on)
        if code:
            kills.wrong("going on failed", said)
        elif files != self.whole:
            different = [n for n in files.keys() | self.whole if files.get(n) != self.whole.get(n)]
            kills.wrong("went on otherwise", f"{phase}, {number.name}: {sorted(different)}")

    def _look(self, out: Path, status: int, errors: str, where: str, kills: Kills) -> None:
        """Look at what a run has left."""
        lines = [line for line in errors.splitlines() if not line.startswith(("warning:", "note:"))]
        if "Traceback" in errors or len(lines) > 1:
            kills.wrong("not one line", f"{where}: {errors}")
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) not in (signal.SIGKILL, signal.SIGTERM):
            kills.wrong("crashed", f"{where}: signal {os.WTERMSIG(status)}")
        finished = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
        files = self._content(out)
        sidecar = "scene_classes.tif.aux.xml"  # it also says which files were made later
        damaged = [n for n, b in files.items() if n != sidecar and self.whole.get(n) != b]
        if damaged and not self._command.grows:
            kills.wrong("damaged", f"{where}: {damaged}")
        if finished and files != self.whole:
            kills.wrong("finished, but not whole", where)

    def _awaited(self, child: int, kills: Kills) -> int:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status
            time.sleep(0.002)
        kills.wrong("hung", str(child))
        os.kill(child, signal.SIGKILL)
        return os.waitpid(child, 0)[1]

    def _run(self, out: str, *more: str) -> tuple[int, str, dict[str, bytes]]:
        child, errors = self._started(self._folder / out, *more)
        _, status = os.waitpid(child, 0)
        return status, errors.read_text(), self._content(self._folder / out)

    def _started(self, out: Path, *more: str) -> tuple[int, Path]:
        errors = self._folder / "errors.txt"
        flag, name = self._command.out
        child = os.fork()
        if child:
            return child, errors
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _command([*self._line, flag, f"{out}/{name}", *more])
        raise AssertionError

    def _content(self, folder: Path) -> dict[str, bytes]:
        """Return what stands under final names."""
        paths = {path.relative_to(folder): path for path in folder.glob(self._command.compared)}
        return {
            str(name): path.read_bytes()
            for name, path in paths.items()
            if path.is_file() and not any(part.startswith(".") for part in name.parts)
        }


def _command(line: Sequence[str]) -> None:
    """Be the command line, and end this process as it does."""
    from hrrsi.__main__ import main

    sys.argv = ["hrrsi", *line]
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
    os._exit(int(code or 0) if isinstance(code, int | None) else 1)
