"""Predictions that were stopped go on where they were, and never take one map for another."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from samples.made_weights import scene_pixels
from samples.predicted_scenes import one_error_line, save_scene
from typer.testing import CliRunner

from hrrsi.cli import app

Run = Callable[..., Any]


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
