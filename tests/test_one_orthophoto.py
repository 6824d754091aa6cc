"""The tutorial of one orthophoto with one file of labels, run as it stands."""

from pathlib import Path

import pyogrio
import pytest
from samples.console_tour import clone, follow, tour

STEPS = tour("docs/one_orthophoto.md")


def test_the_tutorial_goes_from_the_orthophoto_to_polygons() -> None:
    commands = [step.command.split()[:2] for step in STEPS]
    assert commands == [
        ["python", "examples/make_ortho.py"],
        ["hrrsi", "tile"],
        ["hrrsi", "train"],
        ["hrrsi", "eval"],
        ["hrrsi", "predict"],
    ]


@pytest.mark.slow
def test_the_tutorial_shows_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follow(STEPS, clone(tmp_path), monkeypatch)
    assert (tmp_path / "dataset" / "split.png").is_file()
    meta, _, shapes, columns = pyogrio.raw.read(tmp_path / "ortho_classes.gpkg", layer="classes")
    assert meta["crs"] == "EPSG:32640"
    assert len(shapes) > 5
    assert set(columns[0]) <= {"Building", "Land", "Road", "Vegetation", "Water"}
