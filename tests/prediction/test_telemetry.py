"""Nothing tells anybody that a network was run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_PREDICTION = """
import socket, sys
def refused(*arguments): raise AssertionError(f"looked up {arguments}")
socket.getaddrinfo = refused
import hrrsi, numpy
for name in ("openvino", "onnxruntime"):
    engine = hrrsi.EngineOptions(engine=name)
    hrrsi.Segmenter("light", engine=engine)(numpy.zeros((64, 64, 3), numpy.uint8))
    assert name in sys.modules
print(*(name for name, module in sys.modules.items() if "openvino_tel" in name and module))
"""


@pytest.mark.slow
@pytest.mark.long
def test_runtimes_send_nothing_and_leave_nothing_at_home(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    done = subprocess.run(
        [sys.executable, "-c", _PREDICTION],
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""
    assert list(tmp_path.iterdir()) == []  # no intel/, no .cache/Microsoft/
