"""Unfinished maps on disk: they go on after a kill at any moment, and end in the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from samples.partial_maps import (
    CLASSES,
    FINGERPRINT,
    HEIGHT,
    WIDTH,
    append,
    finished,
    made_labels,
    made_probabilities,
    opened,
    raw_files,
)
from samples.repository import TESTS

from hrrsi.errors import OutputError
from hrrsi.maps.partial_map import partial_map_folder

SCORES = {"confidence": "uint8", "probabilities": "float32"}


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, bytes]:
    """The raw files of a map, with scores, that was made in one go and in one strip."""
    path = tmp_path / "undisturbed.tif"
    with opened(path, **SCORES) as partial:
        append(partial, made_labels(), HEIGHT, strip=HEIGHT)
    return raw_files(path)


def test_gives_back_what_it_got(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    labels, probabilities = made_labels(), made_probabilities()
    with opened(path, confidence="uint8", probabilities="float32") as partial:
        append(partial, labels, HEIGHT)
        assert partial.complete
        assert partial.labels.class_pixels == [int((labels == c).sum()) for c in range(CLASSES)]
        assert partial.labels.nodata_pixels == (labels == 255).sum()
        for rows in (1, 77, 5000):
            strips = list(partial.labels.strips(rows))
            assert {len(strip) for strip in strips[:-1]} <= {rows}
            np.testing.assert_array_equal(np.concatenate(strips), labels)
        confidence = np.concatenate(list(partial.confidence.strips()))
        kept = [np.concatenate(list(band.strips())) for band in partial.probabilities]
    valid = labels != 255
    np.testing.assert_array_equal(confidence[~valid], 255)
    np.testing.assert_allclose(
        confidence[valid] * 0.004, probabilities.max(axis=0)[valid], atol=0.002 + 1e-6
    )
    assert len(kept) == CLASSES
    for band, expected in zip(kept, probabilities, strict=True):
        np.testing.assert_array_equal(band, np.where(valid, expected, np.nan))


def test_is_hidden_and_stays_until_it_is_discarded(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    with suppress(KeyboardInterrupt), opened(path) as partial:
        append(partial, made_labels(), 300)
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == [".map.tif.unfinished"]
    with opened(path, resume=True) as partial:
        assert (partial.rows_done, partial.complete) == (300, False)
        partial.discard()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("stopped_at", [1, 2, 511, 513, 600, 1030])
def test_goes_on_where_it_stopped(
    tmp_path: Path, undisturbed: dict[str, bytes], stopped_at: int
) -> None:
    path, labels = tmp_path / "map.tif", made_labels()
    with opened(path, **SCORES) as partial:
        append(partial, labels, stopped_at, strip=37)
    with opened(path, resume=True, **SCORES) as partial:
        assert partial.rows_done == stopped_at
        assert sum(partial.labels.class_pixels) == (labels[:stopped_at] != 255).sum()
        append(partial, labels, HEIGHT, strip=91)
    assert raw_files(path) == undisturbed


@pytest.mark.long
def test_what_a_killed_process_left_behind_the_journal_is_cut_off(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    path, labels = tmp_path / "map.tif", made_labels()
    folder = partial_map_folder(path)
    with opened(path, **SCORES) as partial:
        append(partial, labels, 333)
        at_333 = shutil.copytree(folder, tmp_path / "at 333")
        append(partial, labels, 500)
    at_500 = shutil.copytree(folder, tmp_path / "at 500")
    names = sorted(undisturbed)
    for killed_in, name in enumerate(names):  # the strip is whole in some files, half in the next
        shutil.rmtree(folder)
        shutil.copytree(at_333, folder)
        for written in names[:killed_in]:
            shutil.copy(at_500 / written, folder)
        before, after = (at_333 / name).read_bytes(), (at_500 / name).read_bytes()
        (folder / name).write_bytes(after[: (len(before) + len(after)) // 2])
        (folder / "journal.json.new").write_text('{"format": 1, "rows_do')
        with opened(path, resume=True, **SCORES) as partial:
            assert partial.rows_done == 333
            append(partial, labels, HEIGHT)
        assert raw_files(path) == undisturbed


APPEND_ROWS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from samples.partial_maps import append, made_labels, opened
with opened(Path(sys.argv[2]), resume=True) as partial:
    print("open", flush=True)
    append(partial, made_labels(), 1031, strip=1)
    print("done", flush=True)
"""


@pytest.mark.long
def test_survives_kills_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    program = [sys.executable, "-c", APPEND_ROWS, str(TESTS), str(path)]
    journal = partial_map_folder(path) / "journal.json"
    rows = 0
    for delay in (0.0, 0.0103, 0.0217, 0.0331):
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            while not journal.exists():
                time.sleep(0.001)
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        rows_then = json.loads(journal.read_text())["rows_done"]
        assert rows <= rows_then
        rows = rows_then
    subprocess.run(program, check=True, capture_output=True)
    with opened(path, resume=True) as partial:
        resumed = finished(path, partial)
    with opened(tmp_path / "undisturbed.tif") as partial:
        append(partial, made_labels(), HEIGHT)
        assert finished(tmp_path / "undisturbed.tif", partial) == resumed


def test_starts_over_without_resume(tmp_path: Path) -> None:
    path, labels = tmp_path / "map.tif", made_labels()
    with opened(path, **SCORES) as partial:
        append(partial, labels, 300)
    with opened(path) as partial:
        assert partial.rows_done == 0
        assert list(partial.labels.strips()) == []
        append(partial, labels[::-1], HEIGHT)
        np.testing.assert_array_equal(np.concatenate(list(partial.labels.strips())), labels[::-1])
    assert not [name for name in raw_files(path) if not name.startswith("labels")]


def test_resume_starts_where_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    with opened(tmp_path / "maps" / "map.tif", resume=True) as partial:
        assert partial.rows_done == 0


@pytest.mark.parametrize("damage", ["file gone", "file too short", "journal cut"])
def test_starts_over_where_files_are_damaged(
    tmp_path: Path, undisturbed: dict[str, bytes], damage: str
) -> None:
    path, labels = tmp_path / "map.tif", made_labels()
    with opened(path, **SCORES) as partial:
        append(partial, labels, 400)
    folder = partial_map_folder(path)
    if damage == "file gone":
        (folder / "probability2.overview4.raw").unlink()
    elif damage == "file too short":
        os.truncate(folder / "labels.raw", 399 * WIDTH)
    else:
        os.truncate(folder / "journal.json", 20)
    with opened(path, resume=True, **SCORES) as partial:
        assert partial.rows_done == 0
        append(partial, labels, HEIGHT)
    assert raw_files(path) == undisturbed


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"fingerprint": FINGERPRINT | {"overlap": 128}}, "overlap 64, not 128"),
        (
            {"fingerprint": FINGERPRINT | {"bands": (3, 2, 1)}},
            r"bands \[1, 2, 3\], not \[3, 2, 1\]",
        ),
        ({"fingerprint": FINGERPRINT | {"weights": "b" * 64}}, "weights a{12}…, not b{12}…;"),
        ({"fingerprint": FINGERPRINT | {"nodata": 0}}, "nodata null, not 0"),
        ({"height": HEIGHT + 1}, r"size \[1031, 601\], not \[1032, 601\]"),
        ({"confidence": "uint8"}, "confidence null, not uint8"),
        ({"fingerprint": {"version": "1.2.3"}}, "weights a{12}…, not null; overlap 64, not null"),
    ],
)
def test_refuses_to_go_on_with_something_else(
    tmp_path: Path, changed: dict[str, Any], difference: str
) -> None:
    path = tmp_path / "map.tif"
    with opened(path) as partial:
        append(partial, made_labels(), 300)
    with (
        pytest.raises(OutputError, match=rf"map\.tif: was begun otherwise: {difference}") as caught,
        opened(path, resume=True, **changed),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("or start over without `resume`")
    with opened(path, resume=True) as partial:  # nothing was lost
        assert partial.rows_done == 300


HOLD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from samples.partial_maps import append, made_labels, opened
with opened(Path(sys.argv[2])) as partial:
    append(partial, made_labels(), 200)
    print("open", flush=True)
    time.sleep(60)
"""


def test_two_processes_do_not_share_it(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    program = [sys.executable, "-c", HOLD, str(TESTS), str(path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        for resume in (False, True):
            with (
                pytest.raises(OutputError, match=rf"by another process \({process.pid}\)"),
                opened(path, resume=resume),
            ):
                pass
        with opened(tmp_path / "other.tif"):
            pass
        process.send_signal(signal.SIGKILL)
    with opened(path, resume=True) as partial:  # its lock has ended with it
        assert partial.rows_done == 200


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from samples.partial_maps import append, made_labels, opened
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
with opened(Path(sys.argv[2]), confidence="uint8", probabilities="float32") as partial:
    try:
        append(partial, made_labels(), 1031)
    except Exception as error:
        print(partial.rows_done, type(error).__name__, error)
"""


@pytest.mark.parametrize(("size", "rows_done"), [(50, 0), (100_000, 0), (601 * 4 * 450, 400)])
def test_a_full_disk_is_an_error_after_which_it_goes_on(
    tmp_path: Path, undisturbed: dict[str, bytes], size: int, rows_done: int
) -> None:
    path = tmp_path / "map.tif"
    program = [sys.executable, "-c", FULL_DISK, str(TESTS), str(path), str(size)]
    done = subprocess.run(program, check=True, capture_output=True, text=True)
    assert done.stdout == (
        f"{rows_done} OutputError {path}: cannot be written (File too large); free space on the "
        "disk, then go on with `resume`\n"
    )
    with opened(path, resume=True, **SCORES) as partial:
        assert partial.rows_done == rows_done
        append(partial, made_labels(), HEIGHT)
    assert raw_files(path) == undisturbed


def test_says_beforehand_how_much_space_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    sizes = {"height": 25_000, "width": 40_000}
    with (
        pytest.raises(OutputError, match=r"needs 1\.5 GB of free disk space .* 1\.0 GB are free"),
        opened(tmp_path / "map.tif", **sizes),
    ):
        pass
    with opened(tmp_path / "map.tif", height=20_000, width=30_000):
        pass


@pytest.mark.parametrize("first_row", [0, 99, 101])
def test_strips_must_follow_each_other(tmp_path: Path, first_row: int) -> None:
    labels = made_labels()
    with opened(tmp_path / "map.tif") as partial:
        partial.append(0, labels[:100])
        with pytest.raises(ValueError, match="not at 100"):
            partial.append(first_row, labels[:5])
        with pytest.raises(ValueError, match="does not continue"):
            partial.append(100, labels[100:120, :-1])
        with pytest.raises(ValueError, match="does not continue"):
            partial.append(100, np.zeros((HEIGHT - 99, WIDTH), np.uint8))


class Peak(NamedTuple):
    """Peak memory in bytes before the map was made, and after."""

    before: int
    after: int


MEASURE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np, rasterio
from samples.partial_maps import finished, made_labels, opened
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
path, height = Path(sys.argv[2]), int(sys.argv[3])
tile = made_labels(64, 384).repeat(8, axis=0).repeat(8, axis=1)
before = peak()
with opened(path, height=height, width=3072, fingerprint={}) as partial:
    for row in range(0, height, 512):
        partial.append(row, tile)
    finished(path, partial)
    partial.discard()
print(before, peak())
"""


@pytest.mark.slow  # that of a prediction, of which it is a part: test_predict.py
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak")
def test_memory_does_not_grow_with_the_map(tmp_path: Path) -> None:
    peaks = []
    for rows in (20480, 61440):
        arguments = [str(TESTS), str(tmp_path / "map.tif"), str(rows)]
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, *arguments], check=True, capture_output=True, text=True
        )
        peaks.append(Peak(*map(int, done.stdout.split())))
    small, large = (peak.after - peak.before for peak in peaks)
    # The larger map has 126 MB more; blocks kept by GDAL differ by up to 40 MB between two runs.
    assert large - small < 63e6, peaks
