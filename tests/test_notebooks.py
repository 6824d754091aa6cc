"""The notebooks of the site, run as they stand: each cell gives what it shows."""

import copy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from samples.repository import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))


def texts(notebook: Any) -> list[list[str]]:
    """What each cell shows as text; of pictures, that there is one."""
    return [
        [
            output.text if output.output_type == "stream" else output.data["text/plain"]
            for output in cell.get("outputs", [])
            if output.get("name") != "stderr"
        ]
        for cell in notebook.cells
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_happens(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OV_CPU_MAX_ISA", "AVX2")  # single precision, as what it shows
    stored = nbformat.read(path, as_version=4)
    executed = copy.deepcopy(stored)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(executed, timeout=120, kernel_name="python3", resources=resources).execute()
    assert texts(executed) == texts(stored)
    assert sum(map(len, texts(stored))) > 5
