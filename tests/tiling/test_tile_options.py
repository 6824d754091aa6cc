"""`hrrsi.tile` from Python: its options, its plan, and what it returns."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from samples.raw_layouts import own_folder, own_scheme, vaihingen_folder, write_raster
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import app
from hrrsi.errors import HrrsiError, OptionError, OutputError, OutputExistsError
from hrrsi.labels.scheme import load_scheme
from hrrsi.tiling.options import TileOptions
from hrrsi.tiling.plan import tiling_plan


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_python_and_the_command_make_the_same_dataset(tmp_path: Path) -> None:
    own_folder(tmp_path / "raw", ["a", "b", "c"])
    scheme = own_scheme(tmp_path)
    options = TileOptions(
        size=64,
        stride=48,
        val_scenes=["b"],
        test_scenes=["c"],
        merges=["roof+water=dark"],
        bands=[3, 1],
        scale=200,
        workers=1,
    )
    result = hrrsi.tile(tmp_path / "raw", scheme, tmp_path / "python", options=options)
    flags = ["--size", "64", "--stride", "48", "--val-scenes", "b", "--test-scenes", "c"]
    flags += ["--bands", "3,1", "--scale", "200", "--merge", "roof+water=dark", "--workers", "1"]
    flags += ["--out", str(tmp_path / "command")]
    command = ["tile", str(tmp_path / "raw"), "--scheme", str(scheme), *flags]
    printed = CliRunner().invoke(app, command)
    assert printed.exit_code == 0, printed.output
    assert files(tmp_path / "python") == files(tmp_path / "command")
    assert result.table in printed.stdout
    assert result.description.bands == [3, 1]
    assert result.split.test == ("c",)


def test_notes_name_parameters_and_the_command_its_flags(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for scene in ("a", "b"):
        own_folder(raw, [scene], dtype="uint16")
    write_raster(raw / "labels" / "a.tif", own_folder(raw, ["a"], dtype="uint16")["a"] * 0)
    arguments = (raw, load_scheme(own_scheme(tmp_path)), tmp_path / "d")
    result = hrrsi.tile(*arguments, options=TileOptions(size=64, val_scenes=["b"], workers=1))
    assert any("unless `scale` says otherwise" in note for note in result.notes)
    assert "warning: the training labels hold one class only (roof)" in result.notes
    command = ["tile", str(raw), "--scheme", str(tmp_path / "own.yaml"), "--size", "64"]
    command += ["--val-scenes", "b", "--workers", "1", "--out", str(tmp_path / "e")]
    printed = CliRunner().invoke(app, command)
    assert "unless --scale says otherwise" in printed.stderr


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    vaihingen_folder(tmp_path / "raw", [1, 11])
    plan = tiling_plan([tmp_path / "raw"], "vaihingen", TileOptions(size=64))
    assert plan.patches == {"train": 4, "val": 4}
    assert "| train |      1 |       4 |" in plan.table
    assert plan.notes[0].startswith("warning: the split paper names scenes that were not found")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_errors_are_of_their_kind_and_name_parameters(tmp_path: Path) -> None:
    vaihingen_folder(tmp_path / "raw", [1, 11])
    arguments: tuple[Any, ...] = (tmp_path / "raw", "vaihingen", tmp_path / "d")
    for options, error, words in (
        (TileOptions(split="papr"), OptionError, "choose from paper, official"),
        (TileOptions(val_scenes=["99"]), OptionError, "`val_scenes`: no scene fits '99'"),
        (TileOptions(merges=["car=x"]), OptionError, "`merges='car=x'`: is not of the form"),
        (TileOptions(label_format="indices"), ValueError, "give `label_format=colours`"),
        (TileOptions(height="scheme"), FileNotFoundError, "no height models"),
    ):
        with pytest.raises(error) as refusal:
            hrrsi.tile(*arguments, options=options)
        assert isinstance(refusal.value, HrrsiError)
        assert words in str(refusal.value)
    (tmp_path / "raw/gts_for_participants/top_mosaic_09cm_area11.tif").unlink()
    with pytest.raises(FileNotFoundError, match="scene 11: has no label"):
        hrrsi.tile(*arguments)
    (tmp_path / "d").mkdir()
    with pytest.raises(OutputExistsError, match="exists already"):
        hrrsi.tile(*arguments)
    with pytest.raises(OutputError, match="choose another `out`"):
        hrrsi.tile(*arguments, overwrite=True)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"size": 31}, "`size`: patches of 31 px are too small; give 32 or more"),
        ({"stride": 0}, "`stride`: must be 1 or more"),
        ({"size": 64, "stride": 65}, "`stride`: 65 would leave gaps between patches of 64"),
        ({"bands": [1, 1]}, "`bands`: name each band once"),
        ({"workers": 0}, "`workers`: must be 1 or more"),
        ({"unknown": "skip"}, "`unknown`: is not 'skip'; choose from error, ignore"),
        ({"label_format": "png"}, "`label_format`: is not 'png'; choose from colours, indices"),
        ({"scale": 0.0}, "full brightness can't be 0"),
    ],
)
def test_options_that_make_no_sense(values: dict[str, Any], words: str) -> None:
    with pytest.raises(HrrsiError) as error:
        TileOptions(**values)
    assert words in str(error.value)


def test_options_are_equal_by_their_values() -> None:
    assert TileOptions(bands=[1, 2]) == TileOptions(bands=(1, 2))
    assert len({TileOptions(val_scenes=["b"]), TileOptions(val_scenes=("b",))}) == 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("module", "heavy"),
    [("options", "{'numpy', 'pydantic', 'rasterio'}"), ("tile", "{'pyogrio', 'torch'}")],
)
def test_modules_import_nothing_heavy(module: str, heavy: str) -> None:
    code = f"import sys, hrrsi.tiling.{module}; print(*{heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
