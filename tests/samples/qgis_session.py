"""Scripts in the Python of the system's QGIS, where the plugin is loaded."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from samples.repository import REPOSITORY

PLUGIN = REPOSITORY / "qgis" / "hrrsi"
SYSTEM_PYTHON = "/usr/bin/python3"


# Debian's qgis_process hands on options that are not its own
PROCESS = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
SESSION = """
import json, os, sys
sys.path[:0] = [{plugins!r}, "/usr/share/qgis/python/plugins"]
from qgis.core import *
from qgis.PyQt.QtGui import QColor
application = QgsApplication([], False)
application.initQgis()
import processing
from processing.core.Processing import Processing
from processing.core.ProcessingConfig import ProcessingConfig
Processing.initialize()
from hrrsi.provider import HrrsiProvider
provider = HrrsiProvider()
QgsApplication.processingRegistry().addProvider(provider)
ProcessingConfig.setSettingValue("HRRSI_EXECUTABLE", {executable!r})

class Heard(QgsProcessingFeedback):
    def __init__(self, cancel_at=None):
        super().__init__(False)
        self.errors, self.warnings, self.commands, self.percents = [], [], [], []
        self.lines = []
        self.cancel_at = cancel_at
        self.progressChanged.connect(self.heard)
    def heard(self, percent):
        self.percents.append(percent)
        if self.cancel_at is not None and percent >= self.cancel_at:
            self.cancel()
    def reportError(self, error, fatalError=False): self.errors.append(error)
    def pushWarning(self, warning): self.warnings.append(warning)
    def pushCommandInfo(self, command): self.commands.append(command)
    def pushConsoleInfo(self, line): self.lines.append(line)

def run(name, cancel_at=None, **parameters):
    feedback = Heard(cancel_at)
    try:
        results = processing.run("hrrsi:" + name, parameters, feedback=feedback)
    except QgsProcessingException as error:
        results = {{"error": feedback.errors + [str(error)]}}
    results = {{key: str(v) if isinstance(v, QgsMapLayer) else v for key, v in results.items()}}
    return {{**results, "warnings": feedback.warnings, "commands": feedback.commands,
             "percents": feedback.percents, "lines": feedback.lines}}

os.chdir({folder!r})
answers = {{}}
"""
IN_QGIS = [
    pytest.mark.slow,
    pytest.mark.skipif(PROCESS is None, reason="QGIS is not installed (Debian's qgis)"),
    pytest.mark.usefixtures("pythons_own_handler"),
]


def environment(profile: Path) -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    own["PATH"] = f"/usr/bin:{own['PATH']}"  # QGIS takes the first Python there for its own
    return {**own, "QT_QPA_PLATFORM": "offscreen", "QGIS_CUSTOM_CONFIG_PATH": str(profile)}


def session(body: str, folder: Path, executable: str) -> dict[str, Any]:
    """What a script that fills `answers` finds out in QGIS."""
    file = folder.parent / "session.py"
    plugins = str(PLUGIN.parent)
    head = SESSION.format(plugins=plugins, executable=executable, folder=str(folder))
    end = "\nprint('ANSWERS' + json.dumps(answers), flush=True)\nos._exit(0)\n"
    file.write_text(head + body + end, encoding="utf-8")
    done = subprocess.run(
        [SYSTEM_PYTHON, str(file)],
        env=environment(folder.parent / "profile"),
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("ANSWERS")]
    assert lines, f"{done.returncode} {done.stdout}{done.stderr}"
    return dict(json.loads(lines[0].removeprefix("ANSWERS")))
