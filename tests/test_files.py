"""Outputs that fail are named as the user named them, and leave what was there; locks hold."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hrrsi.errors import HrrsiError, MissingInputError, OutputError
from hrrsi.files import cache_folder, check_unlocked, content_digest, locked, replacing


def test_errors_name_the_output(tmp_path: Path) -> None:
    out = tmp_path / "map.tif"
    with pytest.raises(FileNotFoundError) as missing, replacing(out) as temporary:
        (temporary / "patch.png").write_bytes(b"")
    assert missing.value.filename == str(out / "patch.png")
    with pytest.raises(OSError, match="No space left") as full, replacing(out):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert full.value.filename == str(out)
    with pytest.raises(FileNotFoundError) as other, replacing(out):
        (tmp_path / "scene.tif").read_bytes()
    assert other.value.filename == str(tmp_path / "scene.tif")
    assert not list(tmp_path.iterdir())


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path: Path) -> None:
    kept = tmp_path / "runs" / "best.safetensors"
    kept.parent.mkdir()
    kept.write_text("weights")
    with pytest.raises(HrrsiError, match="runs: is a folder"), replacing(kept.parent) as temporary:
        temporary.write_text("a picture")
    assert kept.read_text() == "weights"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


HOLD = """
import os, sys, time
from pathlib import Path
from hrrsi.files import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:  # a worker, which outlives it for a moment
        time.sleep(60)
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_until_its_holder_ends_however_that_ends(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    program = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, process_group=0) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for _ in range(2):
            with pytest.raises(OutputError, match=f"run: process {holder.pid} on .* is working"):
                check_unlocked(folder)
            with pytest.raises(OutputError, match=f"process {holder.pid} on"), locked(folder):
                pass
        holder.kill()
        holder.wait()
        try:
            with locked(folder), pytest.raises(OutputError, match=f"process {os.getpid()} on"):
                check_unlocked(folder)
        finally:
            os.killpg(holder.pid, signal.SIGKILL)
    check_unlocked(folder)
    assert not list(tmp_path.iterdir())


def test_a_digest_is_that_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1000)
    assert content_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(MissingInputError, match="none: no such file"):
        content_digest(tmp_path / "none")


def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HRRSI_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "hrrsi"
    monkeypatch.setenv("HRRSI_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_other_systems_lack_modules_of_unix() -> None:
    code = "import sys; sys.modules['fcntl'] = None; import hrrsi.files, hrrsi.maps.partial_map"
    subprocess.run([sys.executable, "-c", code], check=True)
