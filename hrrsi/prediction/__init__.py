"""Prediction: windows of a scene become a class raster."""

import sys
from typing import Any

# `import openvino` tells Google Analytics of it, unasked; where its telemetry is missing it can't.
_modules: dict[str, Any] = sys.modules
_modules.setdefault("openvino_telemetry", None)
