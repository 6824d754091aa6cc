"""`hrrsi tile` on what users get wrong: one line, exit code 1, nothing left."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from samples.raw_layouts import (
    ISPRS_COLOURS,
    class_map,
    coloured,
    own_folder,
    own_scheme,
    textured,
    vaihingen_folder,
    write_raster,
    zipped,
)
from typer.testing import CliRunner, Result

from hrrsi.cli import app
from hrrsi.tiling.dataset import TiledDataset

OWN = ("--val-scenes", "b", "--size", "64")
VAIHINGEN = ("--scheme", "vaihingen", "--size", "64")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["tile", *map(str, arguments), "--workers", "1"])


def refusal(*arguments: object, out: Path) -> str:
    """Return the one line with which a run ends that leaves nothing behind."""
    beside = {p.name for p in out.parent.iterdir()}
    result = run(*arguments, "--out", out)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stdout == ""
    assert {p.name for p in out.parent.iterdir()} == beside
    return result.stderr


@pytest.fixture
def own(tmp_path: Path) -> Path:
    own_folder(tmp_path / "raw", ["a", "b"])
    own_scheme(tmp_path)
    return tmp_path


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4000])


def _one_band(path: Path) -> None:
    write_raster(path, textured(1, (1, 80, 70)))


@pytest.mark.parametrize(
    ("spoil", "file", "words"),
    [
        (lambda p: p.write_bytes(b""), "images/b.tif", ["images/b.tif", "is empty"]),
        (lambda p: p.write_text("hello"), "images/b.tif", ["b.tif", "is not a raster"]),
        (_truncate, "images/b.tif", ["images/b.tif", "truncated"]),
        (_truncate, "labels/b.tif", ["labels/b.tif", "the label", "truncated"]),
        (lambda p: p.unlink(), "labels/b.tif", ["scene b", "has no label", "images/b.tif"]),
        (_one_band, "images/b.tif", ["images/b.tif", "has 1 band where 3 are needed"]),
        (
            lambda p: write_raster(p, textured(1, (4, 80, 70)), photometric="MINISBLACK"),
            "images/b.tif",
            ["images/b.tif", "has 4 bands where 3 are needed", "--bands"],
        ),
        (
            lambda p: write_raster(p, textured(1, (3, 80, 70), "uint16")),
            "images/b.tif",
            ["images/b.tif", "holds uint16", "uint8"],
        ),
        (
            lambda p: write_raster(p, class_map(1, 79, 70, 3)),
            "labels/b.tif",
            ["labels/b.tif", "79 rows and 70 columns", "80 and 70"],
        ),
    ],
)
def test_damaged_and_odd_files(
    own: Path, spoil: Callable[[Path], object], file: str, words: list[str]
) -> None:
    spoil(own / "raw" / file)
    line = refusal(own / "raw", "--scheme", own / "own.yaml", *OWN, out=own / "d")
    for word in words:
        assert word in line


def test_a_file_cut_in_the_middle(examples: Path, tmp_path: Path) -> None:
    shutil.copytree(examples / "dubai", tmp_path / "raw")
    path = next((tmp_path / "raw" / "tile4" / "images").glob("*.jpg"))
    path.write_bytes(path.read_bytes()[:20000])
    line = refusal(tmp_path / "raw", "--scheme", "dubai", "--size", "256", out=tmp_path / "d")
    assert path.name in line
    assert "truncated" in line


def test_an_unknown_colour_says_where_and_what(tmp_path: Path) -> None:
    labels = vaihingen_folder(tmp_path / "raw", [1, 11])
    colours = coloured(labels["11"], ISPRS_COLOURS)
    colours[:, 71, 30] = (0, 5, 250)
    colours[:, 80:82, 60] = np.array([[0], [5], [250]])
    path = tmp_path / "raw/gts_for_participants/top_mosaic_09cm_area11.tif"
    write_raster(path, colours)
    line = refusal(tmp_path / "raw", *VAIHINGEN, out=tmp_path / "d")
    assert str(path) in line
    assert "scene 11: unknown colour 0,5,250 at row 71, column 30, 3 pixels" in line
    assert "the nearest class is building 0,0,255" in line
    assert "resampled" not in line

    result = run(tmp_path / "raw", *VAIHINGEN, "--unknown", "ignore", "--out", tmp_path / "d")
    assert result.exit_code == 0
    assert "3 pixels of unknown label ignored, by scene: 11 3" in result.stderr
    content = TiledDataset(tmp_path / "d").description.splits["val"]
    assert sum(content.class_pixels) == 90 * 75 - 3


def test_ignored_unknown_labels_count_once_where_patches_overlap(tmp_path: Path) -> None:
    labels = own_folder(tmp_path / "raw", ["a", "b"], (150, 120))
    labels["a"][::3, ::5] = 77
    write_raster(tmp_path / "raw/labels/a.tif", labels["a"])
    arguments = (tmp_path / "raw", "--scheme", own_scheme(tmp_path), *OWN, "--stride", "32")
    assert "unknown index 77 at row 0, column 0, 1200 pixels" in refusal(
        *arguments, out=tmp_path / "d"
    )
    result = run(*arguments, "--unknown", "ignore", "--out", tmp_path / "d")
    assert "1200 pixels of unknown label ignored" in result.stderr


def test_a_resampled_label_is_called_that(tmp_path: Path) -> None:
    labels = vaihingen_folder(tmp_path / "raw", [1, 11])
    colours = coloured(labels["1"], ISPRS_COLOURS).astype(float)
    blended = (colours + np.roll(colours, 1, axis=2)) / 2
    path = tmp_path / "raw/gts_for_participants/top_mosaic_09cm_area1.tif"
    write_raster(path, blended.astype(np.uint8))
    line = refusal(tmp_path / "raw", *VAIHINGEN, out=tmp_path / "d")
    assert "looks resampled" in line
    assert "nearest neighbour" in line


def test_class_indices_read_as_colours(own: Path) -> None:
    options = (*OWN, "--label-format", "colours")
    line = refusal(own / "raw", "--scheme", own / "own.yaml", *options, out=own / "d")
    assert "--label-format indices" in line


def test_colours_read_as_class_indices(tmp_path: Path) -> None:
    vaihingen_folder(tmp_path / "raw", [1, 11])
    options = (*VAIHINGEN, "--label-format", "indices")
    line = refusal(tmp_path / "raw", *options, out=tmp_path / "d")
    assert "--label-format colours" in line


@pytest.mark.parametrize("member", ["../top/top_mosaic_09cm_area9.tif", "/etc/x.tif", "a/../../b"])
def test_an_archive_with_a_path_outside_it(tmp_path: Path, member: str) -> None:
    vaihingen_folder(tmp_path / "raw", [1, 11])
    with zipfile.ZipFile(tmp_path / "raw" / "evil.zip", "w") as archive:
        archive.writestr(member, b"x")
    line = refusal(tmp_path / "raw", *VAIHINGEN, out=tmp_path / "d")
    assert "evil.zip" in line
    assert "leaves the archive" in line


def test_a_truncated_archive(tmp_path: Path) -> None:
    vaihingen_folder(tmp_path / "raw", [1, 11])
    archive = zipped(tmp_path / "z" / "a.zip", tmp_path / "raw" / "top", "top/")
    archive.write_bytes(archive.read_bytes()[:-30])
    assert "is not a complete zip archive" in refusal(archive, *VAIHINGEN, out=tmp_path / "d")


def test_an_archive_in_an_archive(tmp_path: Path) -> None:
    vaihingen_folder(tmp_path / "raw", [1])
    zipped(tmp_path / "z" / "inner.zip", tmp_path / "raw" / "top", "top/")
    outer = zipped(tmp_path / "outer.zip", tmp_path / "z")
    line = refusal(outer, *VAIHINGEN, out=tmp_path / "d")
    assert "inner.zip" in line
    assert "unpack" in line


def test_nothing_to_tile(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    line = refusal(tmp_path / "raw", *VAIHINGEN, out=tmp_path / "d")
    assert "no scenes of the scheme 'vaihingen'" in line
    assert "no such file or folder" in refusal(tmp_path / "x", *VAIHINGEN, out=tmp_path / "d")


def test_labels_without_any_class(own: Path) -> None:
    write_raster(own / "raw/labels/a.tif", np.full((80, 70), 255, dtype=np.uint8))
    line = refusal(own / "raw", "--scheme", own / "own.yaml", *OWN, out=own / "d")
    assert "no pixel of the training scenes has a class" in line


def test_a_scheme_that_builds_objects(own: Path) -> None:
    (own / "own.yaml").write_text("name: !!python/object/apply:os.system ['touch x']")
    line = refusal(own / "raw", "--scheme", own / "own.yaml", *OWN, out=own / "d")
    assert "a tag that is not plain data" in line
    assert not (own / "x").exists()


def test_two_files_for_one_scene(own: Path) -> None:
    shutil.copytree(own / "raw", own / "again")
    options = ("--scheme", own / "own.yaml", *OWN)
    line = refusal(own / "raw", own / "again", *options, out=own / "d")
    assert "scene a" in line
    assert "claim the same scene" in line


def test_merges_that_make_no_sense(own: Path) -> None:
    arguments = (own / "raw", "--scheme", own / "own.yaml", *OWN, "--merge")
    for text, words in {
        "rooof+grass=x": "did you mean 'roof'?",
        "roof=grass": "is not of the form A+B=NEW",
        "roof+grass=water": "two classes would be named 'water'",
    }.items():
        assert words in refusal(*arguments, text, out=own / "d")


def test_a_stride_that_leaves_gaps(own: Path) -> None:
    options = ("--scheme", own / "own.yaml", *OWN, "--stride", "65", "--out", own / "d")
    assert run(own / "raw", *options).exit_code == 2


def test_a_band_that_is_named_twice(own: Path) -> None:
    options = ("--scheme", own / "own.yaml", *OWN, "--bands", "1,1", "--out", own / "d")
    result = run(own / "raw", *options)
    assert result.exit_code == 2
    assert "name each band once" in result.stderr


def test_an_output_that_is_no_folder(own: Path) -> None:
    options = ("--scheme", own / "own.yaml", *OWN, "--out", own / "own.yaml" / "d")
    result = run(own / "raw", *options)
    assert result.exit_code == 1
    assert "the folder cannot be created" in result.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_that_is_not_writable(own: Path) -> None:
    (own / "locked").mkdir(mode=0o500)
    options = ("--scheme", own / "own.yaml", *OWN)
    assert "is not writable" in refusal(own / "raw", *options, out=own / "locked" / "d")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "hrrsi", "tile", *map(str, arguments)]


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_disk_that_fills_up(own: Path, workers: int) -> None:
    # a limit on the size of files stands for it: writing fails half-way in the same way
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    options = ("--scheme", own / "own.yaml", *OWN, "--workers", workers, "--out", own / "d")
    done = subprocess.run(
        command(own / "raw", *options),
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 1
    assert (
        done.stderr == f"error: {own / 'd'}: the disk is full; free space, or choose another "
        "--out\n"
    )
    assert sorted(p.name for p in own.iterdir()) == ["own.yaml", "raw"]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A scene that takes many seconds in tiny patches, and a small one."""
    own_folder(tmp_path / "raw", ["b"])
    profile = {"driver": "GTiff", "height": 6000, "width": 6000, "dtype": "uint8"}
    for folder, count in (("images", 3), ("labels", 1)):
        path = tmp_path / "raw" / folder / "a.tif"
        with rasterio.open(path, "w", count=count, **profile, SPARSE_OK=True):
            pass
    own_scheme(tmp_path)
    return tmp_path


@pytest.mark.long
@pytest.mark.parametrize(
    ("sent", "workers"),
    [pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow), (signal.SIGKILL, 1)],
)
def test_a_stopped_run_leaves_nothing_that_looks_complete(
    large: Path, workers: int, sent: signal.Signals
) -> None:
    options = ("--scheme", large / "own.yaml", "--val-scenes", "b", "--size", "32")
    process = subprocess.Popen(
        command(large / "raw", *options, "--workers", workers, "--out", large / "d"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(large.glob(".d.partial-*/train/image/*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal does: to every process of the group
    else:
        process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert not (large / "d").exists()
    if sent == signal.SIGINT:
        assert process.returncode == 1
        line = errors.splitlines()[-1]
        assert line == "error: interrupted; nothing half-written was left under its final name"
        assert sorted(p.name for p in large.iterdir()) == ["own.yaml", "raw"]
    else:
        own_folder(large / "raw2", ["a", "b"])
        options = ("--scheme", large / "own.yaml", *OWN)
        assert run(large / "raw2", *options, "--out", large / "d").exit_code == 0
        assert not list(large.glob(".d.partial-*")), "the next run clears what was left"
