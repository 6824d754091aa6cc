"""What commands go on with, broken: folders of runs, their checkpoints, partial maps.

A run of two epochs and a map are stopped once, undisturbed ones are kept to compare with, and each
broken input is a copy of what was stopped. Commands go on with it: in one line they refuse, or they
end with the same weights and the same map.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from killed_commands import write_inputs
from kills import leave_curves_undrawn
from typer.testing import CliRunner

from hrrsi.cli import app
from hrrsi.errors import HrrsiError
from hrrsi.file_info import info
from hrrsi.maps.partial_map import PartialMap
from hrrsi.networks.weights import load_network

_MODEL = "ued-mobilenetv3_small_050"
_PLANTED = "ran.txt"  # what code in a file would write
_NASTY = (None, True, -1, 0, 2**70, 1e300, float("nan"), "", "x", [], {}, [None], {"a": 1}, [[]])
_NASTY_LINES = (
    *("epochs: -1", "epochs: [1]", "data: 3", "model: null", "dataset: []", "starts: 3"),
    *("starts: [1]", "out: {}", "x: !!python/object:os.system x", "\x1b[31m", "lr: .nan"),
    *("batch: 1e9", "a: &a [*a]", "starts: [{hardware: 3, versions: [], hrrsi: 1}]"),
    *("teachers: [3]", "dataset: {sha256: 7}", "dataset: {patches: -1, x: y}"),
)


class OtherwiseError(Exception):
    """A command went on to something else than what nobody broke."""


class Planted:
    """What runs code where a pickle is read without care."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {_PLANTED}",)


def _train(folder: Path, out: Path, *more: str) -> list[str]:
    line = ["train", str(folder / "dataset"), "--model", _MODEL, "--encoder-weights", "none"]
    line += ["--epochs", "2", "--batch", "2", "--crop", "32", "--workers", "0", "--device", "cpu"]
    return [*line, "--precision", "32", "--out", str(out), "--quiet", *more]


def _predict(folder: Path, weights: Path, out: Path, *more: str) -> list[str]:
    line = ["predict", str(folder / "scene.tif"), "--weights", str(weights), "--threads", "1"]
    line += ["--window", "128", "--overlap", "32", "--confidence", "uint8", "--out", f"{out}/"]
    return [*line, "--quiet", *more]


@cache
def inputs() -> Path:
    """Return a folder of a scene, labelled ones and a dataset."""
    _kept.append(tempfile.TemporaryDirectory())
    folder = Path(_kept[0].name)
    write_inputs(folder, side=320)
    return folder


@cache
def prepared(weights: Path) -> Path:
    """Return the folder of inputs, with runs and maps in it, stopped and whole."""
    folder = inputs()
    for name in ("stopped", "whole"):
        stopping = mock.patch("hrrsi.cli.train.print_line", _stop) if name == "stopped" else None
        _in_a_child(_train(folder, folder / name), stopping)
        strips = mock.patch.object(PartialMap, "append", _stopping_append)
        line = _predict(folder, weights, folder / f"{name}_map")
        _in_a_child(line, strips if name == "stopped" else None)
    return folder


_kept: list[tempfile.TemporaryDirectory[str]] = []  # removed at the end
_append = PartialMap.append


def _stop(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _stopping_append(self: PartialMap, first_row: int, *strip: Any, **scores: Any) -> None:
    _append(self, first_row, *strip, **scores)
    if first_row:
        _stop()


def _in_a_child(line: Sequence[str], changed: Any = None) -> None:
    """Run a command in a process of its own, since threads don't survive the forks to come."""
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        leave_curves_undrawn()
        if changed is not None:
            changed.start()
        os._exit(CliRunner().invoke(app, list(line)).exit_code)
    _, status = os.waitpid(child, 0)
    if os.WEXITSTATUS(status) != (changed is not None):
        raise RuntimeError(f"{line} ended with {os.WEXITSTATUS(status)}")


def _went_on(line: Sequence[str]) -> None:
    """Run a command.

    Raises:
        HrrsiError: It has refused, in one line.
        RuntimeError: It has said anything else.
    """
    leave_curves_undrawn()
    result = CliRunner().invoke(app, list(line))
    errors = [text for text in result.stderr.splitlines() if text.startswith("error: ")]
    if result.exit_code == 1 and len(errors) == 1 and "report it" not in errors[0]:
        raise HrrsiError(errors[0])
    if result.exit_code:
        raise RuntimeError(f"exit code {result.exit_code}: {result.output}{result.exception!r}")


def _same(copy: Path, whole: Path) -> None:
    if copy.read_bytes() != whole.read_bytes():
        raise OtherwiseError(str(copy))


def _copied_run(folder: Path, weights: Path) -> Path:
    run = folder / "runs" / _MODEL
    shutil.copytree(prepared(weights) / "stopped" / _MODEL, run)
    return run


def broken_run(
    broken: Callable[[random.Random, bytes], bytes],
    rng: random.Random,
    folder: Path,
    weights: Path,
) -> Path:
    """Copy the folder of a stopped run, with one of its files damaged."""
    run = _copied_run(folder, weights)
    texts = ("config.yaml", "environment.yaml", "metrics.csv")
    file = run / rng.choice((*texts, *texts, "best.safetensors"))
    content = file.read_bytes()
    change = rng.randrange(5)
    if change == 0 or file.suffix == ".safetensors":
        file.write_bytes(broken(rng, content))
    elif change == 1:
        file.write_bytes(content + rng.choice(_NASTY_LINES).encode("latin-1") + b"\n")
    elif change == 2:
        lines = content.decode().splitlines()
        place = rng.randrange(len(lines))
        key = lines[place].partition(":")[0]
        lines[place] = f"{key}: {json.dumps(rng.choice(_NASTY))}"
        file.write_text("\n".join(lines))
    elif change == 3:
        lines = content.decode().splitlines()
        del lines[rng.randrange(len(lines))]
        file.write_text("\n".join(lines))
    else:
        file.unlink()
        if rng.random() < 0.5:
            file.mkdir()
    return run


def read_run(path: Path) -> None:
    """Read all that hrrsi reads of a run, and go on with it."""
    config = ["--config", str(path / "config.yaml"), "--out", str(path.parent)]
    looks: list[Callable[[], object]] = [
        partial(info, path),
        partial(load_network, path / "best.safetensors"),
        partial(_went_on, ["train", *config, "--resume", "--quiet"]),
    ]
    look(looks)


def look(looks: Sequence[Callable[[], object]]) -> None:
    """Do all of it, and raise the last refusal."""
    refusal = None
    for each in looks:
        try:
            each()
        except HrrsiError as error:
            refusal = error
    if refusal is not None:
        raise refusal


def broken_checkpoint(
    broken: Callable[[random.Random, bytes], bytes],
    rng: random.Random,
    folder: Path,
    weights: Path,
) -> Path:
    """Copy the folder of a stopped run, with its checkpoint damaged or of another shape."""
    run = _copied_run(folder, weights)
    file = run / "last.ckpt"
    change = rng.randrange(4)
    if change < 2:
        content = file.read_bytes()
        if change:  # the archive's list of members, at the end
            end = rng.randrange(1, 4000)
            file.write_bytes(content[:-end] + broken(rng, content[-end:]))
        else:
            file.write_bytes(broken(rng, content))
        return run
    content = torch.load(file, weights_only=True)
    for _ in range(rng.choice((1, 1, 2))):
        place, depth = content, rng.choice((1, 1, 2, 2, 3, 4))
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = rng.choice(keys) if keys else None
            inner = None if key is None else place[key]
            depth -= 1
            if not depth or not isinstance(inner, dict | list) or not inner:
                break
            place = inner
        if key is None or (rng.random() < 0.2 and isinstance(place, dict)):
            if isinstance(place, dict):
                place.pop(key, None)
        elif isinstance(inner, torch.Tensor) and rng.random() < 0.7:
            other = (inner[:0], inner.to(torch.float64), inner[None], inner.flatten()[:1], None)
            place[key] = rng.choice(other)
        else:
            place[key] = rng.choice((*_NASTY, Planted(), torch.zeros(3)))
    torch.save(content, file)
    return run


def read_checkpoint(path: Path) -> None:
    """Read all that hrrsi reads of a checkpoint, and go on with it."""
    stopped = inputs()
    checkpoint, best = path / "last.ckpt", path / "best.safetensors"
    resumed = [*_train(stopped, path.parent, "--resume")]
    os.chdir(path)
    with suppress(HrrsiError):  # it is none of weights in any case
        look([partial(info, checkpoint), partial(load_network, checkpoint)])
    try:
        _went_on(resumed)
    finally:
        if Path(_PLANTED).exists():
            raise OtherwiseError("code of the file was run")
    _same(best, stopped / "whole" / _MODEL / best.name)


def broken_map(
    broken: Callable[[random.Random, bytes], bytes],
    rng: random.Random,
    folder: Path,
    weights: Path,
) -> Path:
    """Copy a partial map, with its journal or its rows damaged."""
    maps = folder / "maps"
    shutil.copytree(prepared(weights) / "stopped_map", maps)
    (partial_map,) = maps.glob(".*.unfinished")
    journal = partial_map / "journal.json"
    change = rng.randrange(4)
    if change == 0:
        file = rng.choice(sorted(p for p in partial_map.iterdir() if p.is_file()))
        file.write_bytes(broken(rng, file.read_bytes()))
    elif change == 1:
        rng.choice(sorted(partial_map.iterdir())).unlink()
    elif change == 2:
        journal.write_text(rng.choice(("[" * 20000, "9" * 5000, "{", "NaN", "[1]", "null", "{}")))
    else:
        content = json.loads(journal.read_text())
        place: Any = content if rng.random() < 0.6 else content["fingerprint"]
        place[rng.choice(sorted(place))] = rng.choice(_NASTY)
        journal.write_text(json.dumps(content))
    (maps / "weights.txt").write_text(str(weights))
    return maps


def read_map(path: Path) -> None:
    """Go on with a partial map."""
    stopped = inputs()
    weights = Path((path / "weights.txt").read_text())
    _went_on(_predict(stopped, weights, path, "--resume"))
    for name in ("scene_classes.tif", "scene_confidence.tif"):
        _same(path / name, stopped / "whole_map" / name)
