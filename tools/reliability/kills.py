"""Kills of `hrrsi predict` in each phase, and what they leave.

A run is a process forked once everything is imported, so that a kill costs a second and not ten.
Its signal is aimed: it comes a moment after the phase shows in the folder of outputs. Then nothing
under a final name may differ from what an undisturbed run writes, standard error may hold one line,
and `--resume` has to end with the same bytes.
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

import numpy as np
import rasterio

SIGNALS = {"int": signal.SIGINT, "term": signal.SIGTERM, "kill": signal.SIGKILL}
SECONDS = 300.0
_BEGINNING = 0.05  # until a process that was forked has its own handlers


def _exists(pattern: str) -> Callable[[Path], bool]:
    return lambda folder: next(iter(folder.glob(pattern)), None) is not None


# what shows that a phase has begun; and for how many seconds after that the signal may come
PHASES: dict[str, tuple[Callable[[Path], bool], float]] = {
    "start": (lambda _: True, 1.0),
    "windows": (_exists(".*.unfinished/journal.json"), 0.5),
    "scores": (_exists(".*_confidence.partial-*"), 0.1),
    "class map": (_exists(".*_classes.partial-*.tif"), 0.1),
    "polygons": (_exists("scene_classes.tif"), 0.3),
    "end": (_exists("scene_classes.png"), 0.3),
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


def made_scene(folder: Path, side: int = 700) -> Path:
    """Write a scene that takes a network a moment, and has overviews."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(30, 220, (3, side // 20, side // 20), dtype=np.uint8)
    pixels = coarse.repeat(20, axis=1).repeat(20, axis=2)
    height, width = pixels.shape[1:]
    path = folder / "scene.tif"
    place = rasterio.Affine(0.3, 0, 500000, 0, -0.3, 2790000)
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8",
        crs="EPSG:32640", transform=place,
    ) as dataset:  # fmt: skip
        dataset.write(pixels)
    return path


class KilledRuns:
    """Runs of one command, undisturbed and killed.

    Args:
        folder: Where scene and outputs are.
        weights: A weights file.
        side: Rows and columns of the scene.
    """

    def __init__(self, folder: Path, weights: Path, side: int = 700) -> None:
        self._folder = folder
        scene = made_scene(folder, side)
        self._line = ["predict", str(scene), "--weights", str(weights), "--threads", "1", "--quiet"]
        self._line += ["--window", "256", "--overlap", "32", "--confidence", "uint8"]
        self._line += ["--vector", "gpkg", "--preview", "png"]
        self.seconds = time.monotonic()
        code, errors, self.whole = self._run("whole")
        self.seconds = time.monotonic() - self.seconds
        if code:
            raise RuntimeError(errors)

    def kill(self, phase: str, number: signal.Signals, rng: random.Random, kills: Kills) -> None:
        """Kill one run, look at what it leaves, and resume it."""
        out = self._folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        child, errors = self._started(out)
        is_there, moment = PHASES[phase]
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
        code, said, files = self._run("out", "--resume")
        if code:
            kills.wrong("resume failed", said)
        elif files != self.whole:
            different = [n for n in files.keys() | self.whole if files.get(n) != self.whole.get(n)]
            kills.wrong("resumed otherwise", f"{phase}, {number.name}: {sorted(different)}")

    def _look(self, out: Path, status: int, errors: str, where: str, kills: Kills) -> None:
        """Look at what a run has left."""
        if "Traceback" in errors or len(errors.splitlines()) > 1:
            kills.wrong("not one line", f"{where}: {errors}")
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) not in (signal.SIGKILL, signal.SIGTERM):
            kills.wrong("crashed", f"{where}: signal {os.WTERMSIG(status)}")
        finished = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
        files = _content(out)
        sidecar = "scene_classes.tif.aux.xml"  # it also says which files were made later
        damaged = [n for n, b in files.items() if n != sidecar and self.whole.get(n) != b]
        if damaged:
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
        return status, errors.read_text(), _content(self._folder / out)

    def _started(self, out: Path, *more: str) -> tuple[int, Path]:
        errors = self._folder / "errors.txt"
        child = os.fork()
        if child:
            return child, errors
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _command([*self._line, "--out", f"{out}/", *more])
        raise AssertionError


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


def _content(folder: Path) -> dict[str, bytes]:
    """Return what stands under final names."""
    if not folder.is_dir():
        return {}
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}
