"""The plugin's folder has the name of the library: tests import it as ``hrrsi_plugin``."""

import importlib.util
import sys

from samples.repository import REPOSITORY

_PLUGIN = REPOSITORY / "qgis" / "hrrsi"

_spec = importlib.util.spec_from_file_location(
    "hrrsi_plugin", _PLUGIN / "__init__.py", submodule_search_locations=[str(_PLUGIN)]
)
assert _spec is not None
assert _spec.loader is not None
sys.modules["hrrsi_plugin"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules["hrrsi_plugin"])
