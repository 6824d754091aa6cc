"""The page of the Python API, run as it stands."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from samples.console_tour import clone
from samples.repository import REPOSITORY

import hrrsi

PAGE = (REPOSITORY / "docs" / "from_python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hrrsi.SceneWarning", "ignore::hrrsi.EvaluationWarning")
def test_every_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(clone(tmp_path))
    monkeypatch.setattr("sys.argv", ["make_ortho.py"])
    runpy.run_path("examples/make_ortho.py", run_name="__main__")
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/from_python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "tiled dataset" in printed
    assert "missing.tif" in printed
    assert names["labels"].shape == (256, 256)
    assert names["scores"].dims == ("y", "x")
    assert hrrsi.info("labels.tif").data["crs"] == "EPSG:32640"
    assert names["logits"].shape == (1, 5, 256, 256)
