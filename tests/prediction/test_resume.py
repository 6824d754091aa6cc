"""Predictions that were stopped go on where they were, and never take one map for another."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyogrio
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin
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


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = np.tile(np.moveaxis(scene_pixels(), -1, 0), (1, 3, 1))
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    save_scene(path, values, compress="jpeg", tiled=True)
    return path


def command(scene: Path, weights: Path, out: Path) -> list[str]:
    line = ["predict", str(scene), "--out", str(out), "--weights", str(weights)]
    line += ["--vector", "gpkg", "--confidence", "uint8", "--min-area", "30"]
    return [*line, "--window", "128", "--overlap", "16"]


@pytest.fixture(scope="module")
def undisturbed(
    scene: Path, made_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """The files of a run that was not stopped."""
    out = tmp_path_factory.mktemp("whole")
    result = CliRunner().invoke(app, command(scene, made_weights, out))
    assert result.exit_code == 0, result.output
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "scene_classes.gpkg" in files
    return files


def stopped_run(line: list[str], maps: Path, how: signal.Signals) -> Stopped:
    """Start `hrrsi predict`, and stop it once it has written a few strips."""
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
@pytest.mark.parametrize(
    "how",
    [
        # (stops on request: test_interruption.py)
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        signal.SIGKILL,
    ],
)
def test_a_stopped_run_goes_on_to_the_same_bytes(
    tmp_path: Path,
    scene: Path,
    made_weights: Path,
    undisturbed: dict[str, bytes],
    how: signal.Signals,
) -> None:
    maps = tmp_path / "maps"
    stopped = stopped_run(command(scene, made_weights, maps), maps, how)
    assert [p.name for p in maps.iterdir()] == [".scene_classes.tif.unfinished"]
    rows = json.loads(next(maps.rglob("journal.json")).read_text())["rows_done"]
    with rasterio.open(scene) as dataset:
        assert 0 < rows < dataset.height
    if how == signal.SIGINT:
        assert stopped.code == 1
        weights, message = stopped.errors.splitlines()
        assert weights.startswith("weights: ")
        assert message.startswith("error: ")
        assert "of the map is kept for --resume: run the same command with it" in message
    else:
        assert stopped.code == -signal.SIGKILL
        other = Path(shutil.copytree(maps, tmp_path / "started over"))
        line = [*command(scene, made_weights, other), "--nodata", "1"]  # without --resume
        assert f"map is there ({rows / dataset.height:.0%}): --resume goes on with it" in (
            CliRunner().invoke(app, [*line, "--dry-run"]).stdout
        )
        result = CliRunner().invoke(app, line)
        assert result.exit_code == 0, result.output
        assert "is begun anew; with --resume a run goes on" in result.stderr
        assert not [p for p in other.iterdir() if p.name.startswith(".")]
    result = CliRunner().invoke(app, [*stopped.line, "--resume", "--tta", "flip"])
    assert "was begun otherwise: options" in one_error_line(result)
    result = CliRunner().invoke(app, [*stopped.line, "--resume"])
    assert result.exit_code == 0, result.output
    # nothing hidden is left
    assert {path.name: path.read_bytes() for path in maps.iterdir()} == undisturbed
    # finished scenes stay as they are
    before = {p: p.stat().st_mtime_ns for p in maps.iterdir()}
    result = CliRunner().invoke(app, [*stopped.line, "--resume"])
    assert result.exit_code == 0, result.output
    assert "was finished already" in result.stdout
    assert {p: p.stat().st_mtime_ns for p in maps.iterdir()} == before
    line = [*stopped.line, "--resume", "--nodata", "1"]
    assert "was made otherwise" in one_error_line(CliRunner().invoke(app, line))


@pytest.mark.long
def test_resume_never_takes_one_scene_for_another(run: Run, tmp_path: Path) -> None:
    first = save_scene(tmp_path / "one" / "scene.tif")
    other = save_scene(tmp_path / "other" / "scene.tif")
    assert run(first).exit_code == 0
    assert "was finished already" in run(first, "--resume").stdout
    line = one_error_line(run(other, "--resume"))
    assert "scene_classes.tif: exists already, and was made otherwise, or of another scene" in line
    assert "made otherwise" in one_error_line(run(first, "--resume", "--confidence", "uint8"))
    os.utime(first, ns=(1, 1))  # edited meanwhile, for all that shows
    assert "made otherwise" in one_error_line(run(first, "--resume"))


def test_statistics_that_a_viewer_writes_beside_a_scene_make_no_other_scene(
    run: Run, tmp_path: Path
) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    assert run(scene).exit_code == 0
    sidecar = tmp_path / "scene.tif.aux.xml"
    sidecar.write_text(
        """<PAMDataset>
  <PAMRasterBand band="1">
    <Histograms><HistItem><HistMin>-0.5</HistMin><HistCounts>1|2</HistCounts></HistItem></Histograms>
    <Metadata>
      <MDI key="STATISTICS_MEAN">126.81274414062</MDI>
    </Metadata>
  </PAMRasterBand>
</PAMDataset>"""
    )
    with rasterio.open(scene) as dataset:
        assert str(sidecar) in dataset.files
        assert dataset.tags(1) == {"STATISTICS_MEAN": "126.81274414062"}
    assert "was finished already" in run(scene, "--resume").stdout
    placed = sidecar.read_text().replace("</PAMDataset>", "<SRS>EPSG:25832</SRS></PAMDataset>")
    sidecar.write_text(placed)  # what is no statistic counts
    assert "made otherwise" in one_error_line(run(scene, "--resume"))


def test_resume_never_replaces_what_is_not_its_own(run: Run, tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    for name in ("scene_classes.tif", "scene_confidence.tif"):
        save_scene(Path(name))
        before = Path(name).read_bytes()
        result = run(scene, "--resume", "--confidence", "uint8")
        assert "exists already" in one_error_line(result)
        assert Path(name).read_bytes() == before
        Path(name).unlink()


def test_resume_refuses_files_that_a_user_has_named_and_made(run: Run, tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    for name in ("parcels.gpkg", "photo.png"):
        Path(name).write_text("mine")
        os.utime(name, (1e9, 1e9))  # older than any map
    assert run(scene).exit_code == 0
    for flag, name in (("--vector", "parcels.gpkg"), ("--preview", "photo.png")):
        line = one_error_line(run(scene, "--resume", flag, name))
        assert f"{name}: exists already" in line
        assert Path(name).read_text() == "mine"
    assert run(scene, "--resume", "--vector", "own.gpkg").exit_code == 0
    assert run(scene, "--resume", "--vector", "own.gpkg").exit_code == 0


def test_resume_leaves_what_a_user_has_named_like_its_own(run: Run, tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    own = Path("scene_classes.geojson")
    own.write_text("drawn by hand")
    assert run(scene).exit_code == 0
    line = one_error_line(run(scene, "--resume", "--vector", "geojson"))
    assert "scene_classes.geojson: exists already; give --overwrite" in line
    assert own.read_text() == "drawn by hand"


def test_resume_knows_a_crs_that_came_since(run: Run, tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif", transform=from_origin(500000, 2790000, 0.3, 0.3))
    assert run(scene, "--resume").exit_code == 0
    scene.with_suffix(".prj").write_text(CRS.from_epsg(32640).to_wkt())
    line = one_error_line(run(scene, "--resume"))
    assert "scene_classes.tif: exists already, and was made otherwise" in line


@pytest.mark.long
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


@pytest.mark.long
def test_resume_makes_polygons_of_an_earlier_map_again(run: Run, tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    assert run(scene, "--vector", "gpkg").exit_code == 0
    before = Path("scene_classes.gpkg").read_bytes()
    assert run(scene, "--overwrite", "--tta", "d4").exit_code == 0
    assert run(scene, "--resume", "--tta", "d4", "--vector", "gpkg").exit_code == 0
    assert Path("scene_classes.gpkg").read_bytes() != before


@pytest.mark.long
def test_resume_makes_polygons_again_that_are_asked_for_otherwise(run: Run, tmp_path: Path) -> None:
    scene, path = save_scene(tmp_path / "scene.tif"), Path("scene_classes.gpkg")
    assert run(scene, "--vector", "gpkg").exit_code == 0
    whole, names = (
        path.read_bytes(),
        set(pyogrio.raw.read(path, layer="classes", columns=["class"])[3][0]),
    )
    kept, left_out = sorted(names)[0], sorted(names)[1]
    some = ("--vector", "gpkg", "--classes", kept, "--simplify", "2")
    assert run(scene, "--resume", *some).exit_code == 0
    assert set(pyogrio.raw.read(path, layer="classes", columns=["class"])[3][0]) == {kept}
    changed, moment = path.read_bytes(), path.stat().st_mtime_ns
    assert run(scene, "--resume", *some).exit_code == 0
    assert path.stat().st_mtime_ns == moment  # there already
    assert run(scene, "--resume", "--vector", "gpkg").exit_code == 0
    assert path.read_bytes() == whole != changed
    line = one_error_line(
        run(scene, "--vector", "gpkg", "--classes", f"{left_out},Sea", "--out", "x/")
    )
    assert "--classes: the weights know no class 'Sea'; choose from Building, Land," in line
    line = one_error_line(run(scene, "--simplify", "2"))
    assert "--simplify: is of polygons, and none are written; give --vector" in line


@pytest.mark.long
def test_a_shapefile_is_all_of_its_parts(run: Run, tmp_path: Path) -> None:
    scene = save_scene(
        tmp_path / "scene.tif", crs="EPSG:28992", transform=from_origin(1000, 2000, 1, 1)
    )
    parts = [Path(f"scene_classes.{ending}") for ending in ("shp", "shx", "dbf", "prj", "cpg")]
    parts[2].write_text("mine")
    line = one_error_line(run(scene, "--vector", "shp"))
    assert "scene_classes.dbf: exists already; give --overwrite" in line
    assert run(scene, "--vector", "shp", "--overwrite").exit_code == 0
    whole = [part.read_bytes() for part in parts]
    moments = [part.stat().st_mtime_ns for part in parts]
    assert run(scene, "--vector", "shp", "--resume").exit_code == 0
    assert [part.stat().st_mtime_ns for part in parts] == moments
    parts[1].unlink()
    assert run(scene, "--vector", "shp", "--resume").exit_code == 0
    assert [part.read_bytes() for part in parts] == whole
    parts[2].write_text("edited")
    line = one_error_line(run(scene, "--vector", "shp", "--resume"))
    assert "scene_classes.dbf: exists already, and is not what was made from this map" in line
    # the .prj beside a picture says where that lies
    picture = save_scene(tmp_path / "here" / "plain.tif", transform=from_origin(1000, 2000, 1, 1))
    Path("plain.prj").write_bytes(whole[3])
    line = one_error_line(run(picture, "--vector", "plain.shp", "--overwrite"))
    assert "plain.prj: is read, and would be replaced" in line
    assert Path("plain.prj").read_bytes() == whole[3]
