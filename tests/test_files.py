"""Outputs that fail are named as the user named them, and leave what was there."""

import errno
import os
from pathlib import Path

import pytest

from hrrsi.errors import HrrsiError
from hrrsi.files import replacing


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
