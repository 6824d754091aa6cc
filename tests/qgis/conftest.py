"""The plugin, which tests import as ``hrrsi_plugin``, and what its tests in QGIS work on."""

import importlib.util
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import rasterio
from samples.repository import REPOSITORY

# its folder has the name of the library
_PLUGIN = REPOSITORY / "qgis" / "hrrsi"

_spec = importlib.util.spec_from_file_location(
    "hrrsi_plugin", _PLUGIN / "__init__.py", submodule_search_locations=[str(_PLUGIN)]
)
assert _spec is not None
assert _spec.loader is not None
sys.modules["hrrsi_plugin"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules["hrrsi_plugin"])


@pytest.fixture
def pythons_own_handler() -> Iterator[None]:
    """A shell's background jobs ignore Ctrl-C, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def executable() -> str:
    beside = Path(sys.executable).with_name("hrrsi")
    assert beside.exists()
    return str(beside)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds a scene whose name is no plain one."""
    with rasterio.open(REPOSITORY / "examples" / "dubai_tile1.tif") as whole:
        pixels = whole.read(window=((100, 360), (200, 500)))
    place = tmp_path / "ä scene"
    place.mkdir()
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": 260, "width": 300}
    form = {"crs": "EPSG:32640", "transform": rasterio.Affine(0.5, 0, 330000, 0, -0.5, 2786000)}
    with rasterio.open(place / "größe 1.tif", "w", **profile, **form) as scene:
        scene.write(pixels)
    return place
