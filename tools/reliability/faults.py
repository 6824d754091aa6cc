"""A table of faults: what is wrong, the command that meets it, and the line that it should end in.

Each command is run in this process; what is wrong is made in a folder of its own.
"""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import rasterio
from typer.testing import CliRunner

from hrrsi.cli import app

Arguments = list[str]


class Fault(NamedTuple):
    """Something that is wrong.

    Attributes:
        name: What it is.
        make: Makes it in a folder with a ``scene.tif``, and returns the command's arguments.
        line: A part of the error's line.
        around: What the command runs in, or None.
    """

    name: str
    make: Callable[[Path], Arguments]
    line: str
    around: Callable[[], contextmanager[None]] | None = None  # type: ignore[valid-type]


def _predict(folder: Path, scene: str = "scene.tif", *more: str) -> Arguments:
    window = ["--window", "64", "--overlap", "16"]
    return ["predict", str(folder / scene), "--out", f"{folder}/maps/", *window, *more]


def _written(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _pipe(folder: Path, name: str) -> Path:
    os.mkfifo(folder / name)
    return folder / name


def _linked(folder: Path) -> Arguments:
    (folder / "maps").mkdir()
    (folder / "precious").mkdir()
    (folder / "maps" / ".scene_classes.tif.unfinished").symlink_to(folder / "precious")
    return _predict(folder)


def _archive(folder: Path, name: str) -> Arguments:
    with zipfile.ZipFile(folder / "raw.zip", "w") as archive:
        archive.writestr(name, b"x")
    return ["tile", str(folder / "raw.zip"), "--scheme", "dubai", "--out", str(folder / "d")]


def _scheme(folder: Path, text: str) -> Arguments:
    _written(folder, "own.yaml", text)
    scheme = ["--scheme", str(folder / "own.yaml")]
    return ["tile", str(folder), *scheme, "--out", str(folder / "d")]


@contextmanager
def _failing_writes(number: int) -> Iterator[None]:
    """Let raw files of maps fail as the system does."""
    from hrrsi.maps.raw_pyramid import RawPyramid

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with mock.patch.object(RawPyramid, "_write", fail):
        yield


@contextmanager
def _no_memory(text: str) -> Iterator[None]:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(text)

    with mock.patch("hrrsi.prediction.scene_mapper.predict_strips", fail):
        yield


_BOMB = "a0: &a0 [x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
FAULTS = (
    Fault("a pipe as scene", lambda f: _predict(f, _pipe(f, "p.tif").name), "a pipe or device"),
    Fault("a device as scene", lambda _: ["predict", "/dev/zero"], "a pipe or device"),
    Fault(
        "a pipe as weights",
        lambda f: _predict(f, "scene.tif", "--weights", str(_pipe(f, "w.safetensors"))),
        "a pipe or device",
    ),
    Fault(
        "a pipe as scheme",
        lambda f: ["tile", str(f), "--scheme", str(_pipe(f, "s.yaml")), "-o", str(f / "d")],
        "a pipe or device",
    ),
    Fault(
        "a pipe as area",
        lambda f: _predict(f, "scene.tif", "--aoi", str(_pipe(f, "a.gpkg"))),
        "a pipe or device",
    ),
    Fault("an empty scene", lambda f: _predict(f, _written(f, "e.tif", b"").name), "is empty"),
    Fault("a text as scene", lambda f: _predict(f, _written(f, "t.tif", "x" * 99).name), "GDAL"),
    Fault("an alias bomb", lambda f: _scheme(f, _BOMB), "aliases repeat too much"),
    Fault("an alias of itself", lambda f: _scheme(f, "a: &a [*a]"), "aliases repeat too much"),
    Fault("deep YAML", lambda f: _scheme(f, "a: " + "[" * 5000), "nested too deeply"),
    Fault("a number of 5,000 digits", lambda f: _scheme(f, "a: " + "9" * 5000), "not valid YAML"),
    Fault("an impossible date", lambda f: _scheme(f, "a: 2001-99-99"), "not valid YAML"),
    Fault("an object in YAML", lambda f: _scheme(f, "a: !!python/name:os.system"), "plain data"),
    Fault("a member called .", lambda f: _archive(f, "."), "no scenes"),
    Fault("a member that leaves", lambda f: _archive(f, "../x.jpg"), "leaves the archive"),
    Fault("a link in the way", _linked, "is a link"),
    Fault(
        "a name too long",
        lambda f: _predict(f, "scene.tif", "--out", str(f / ("m" * 240 + ".tif"))),
        "has a name of 244 bytes",
    ),
    Fault("a full disk", _predict, "free space", lambda: _failing_writes(errno.ENOSPC)),
    Fault("a folder that is gone", _predict, "is gone", lambda: _failing_writes(errno.ENOENT)),
    Fault("too many files", _predict, "ulimit -n", lambda: _failing_writes(errno.EMFILE)),
    Fault("no memory", _predict, "out of memory", lambda: _no_memory("std::bad_alloc")),
    Fault(
        "no memory of torch",
        _predict,
        "out of memory",
        lambda: _no_memory("DefaultCPUAllocator: can't allocate memory: you tried"),
    ),
)


def failed_faults(folder: Path) -> list[str]:
    """Meet every fault, and return a line for each that does not end as it should."""
    failures = []
    for number, fault in enumerate(FAULTS):
        place = folder / str(number)
        place.mkdir()
        with rasterio.open(
            place / "scene.tif", "w", driver="GTiff", width=70, height=60, count=3, dtype="uint8"
        ) as dataset:
            dataset.write(np.full((3, 60, 70), 90, dtype=np.uint8))
        before = sorted(place.iterdir())
        with ExitStack() as stack:
            arguments = fault.make(place)
            inputs = set(place.iterdir()) - set(before)
            if fault.around is not None:
                stack.enter_context(fault.around())  # type: ignore[arg-type]
            result = CliRunner().invoke(app, arguments)
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        if result.exit_code != 1 or len(lines) != 1 or fault.line not in lines[0]:
            failures.append(f"{fault.name}: exit code {result.exit_code}, {result.output[-300:]}")
        left = set(place.rglob("*.tif")) - set(before) - inputs
        if left:
            failures.append(f"{fault.name}: left {sorted(left)}")
        shutil.rmtree(place)
    return failures
