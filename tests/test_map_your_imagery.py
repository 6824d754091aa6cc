"""The analyst's tutorial, run as it stands."""

from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
from samples.console_tour import clone, follow, tour


@pytest.mark.slow
def test_the_analysts_tutorial_shows_what_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow(tour("docs/map_your_imagery.md"), clone(tmp_path), monkeypatch)
    assert (tmp_path / "ortho_classes.png").is_file()
    *_, (classes, *_) = pyogrio.raw.read(tmp_path / "buildings.gpkg", layer="classes")
    assert set(classes) == {"Building"}
    with (
        rasterio.open(tmp_path / "part.tif") as part,
        rasterio.open(tmp_path / "ortho.tif") as whole,
    ):
        assert part.width == whole.width - 80
        assert part.height == whole.height - 80
        assert np.isin(part.read(1), range(5)).all()
