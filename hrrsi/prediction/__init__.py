"""Prediction: windows of a scene become a class raster."""

import os
import sys
from typing import Any

# `import openvino` tells Google Analytics of it, unasked; where its telemetry is missing it can't.
_modules: dict[str, Any] = sys.modules
_modules.setdefault("openvino_telemetry", None)

# `import onnxruntime` writes an identifier of the machine below ~/.cache and reports to Microsoft,
# from 1.32 on under Linux too; this is read when it is imported, a call afterwards is too late.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
