"""What several test modules map with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from samples.predicted_scenes import SMALL
from typer.testing import CliRunner

from hrrsi.cli import app

Run = Callable[..., Any]


@pytest.fixture
def run(made_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `hrrsi predict` in an empty folder with small windows and made weights."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def predict(*arguments: object, weights: Path = made_weights) -> Any:
        line = ["predict", *map(str, arguments), "--weights", str(weights), *SMALL]
        return CliRunner().invoke(app, line)

    return predict
