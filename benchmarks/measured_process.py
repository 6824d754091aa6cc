"""Runs a command and measures it: what the scripts that time or weigh `hrrsi` share."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from hrrsi.quantities import TextTable

POLL_SECONDS = 0.02
# With it, each process compiles all of its modules anew, which no installation does.
UNCOMPILED = "PYTHONDONTWRITEBYTECODE"


class Measured(NamedTuple):
    """What a command took.

    Attributes:
        output: Its standard output.
        seconds: From the start of its process to its end.
        peak: Its peak resident memory in MB: the kernel's high-water mark (VmHWM), which unlike
            ``ru_maxrss`` starts anew with the program; those of its own children are added.
    """

    output: str
    seconds: float
    peak: float


def measured(command: list[str]) -> Measured:
    """Run a command to its end.

    Raises:
        SystemExit: It failed.
    """
    environment = {name: value for name, value in os.environ.items() if name != UNCOMPILED}
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, env=environment)
        peaks: dict[int, float] = {}
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peaks, ended))
        watcher.start()
        code = process.wait()
        seconds = time.perf_counter() - start
        ended.set()
        watcher.join()
        if code:
            raise SystemExit(f"{' '.join(command)} exited with {code}")
        output.seek(0)
        return Measured(output.read(), seconds, sum(peaks.values()))


def memory_table(runs: dict[str, Measured]) -> TextTable:
    """Return seconds and peaks, and these beside the first's.

    Args:
        runs: By size, as ``WIDTHxHEIGHT``.
    """
    columns = ["raster", "Mpx", "seconds", "Mpx/s", "peak MB", "to the first"]
    table = TextTable(columns)
    first = next(iter(runs.values())).peak
    for size, run in runs.items():
        width, height = map(int, size.split("x"))
        megapixels = width * height / 1e6
        figures = (megapixels / run.seconds, run.peak, run.peak / first)
        rate, peak, ratio = (f"{v:.{n}f}" for v, n in zip(figures, (1, 0, 3), strict=True))
        table.add_row([size, f"{megapixels:.0f}", f"{run.seconds:.1f}", rate, peak, ratio])
    return table


def _watch(pid: int, peaks: dict[int, float], ended: threading.Event) -> None:
    """Note high-water marks until the end; they only rise, so the last ones noted count."""
    while not ended.wait(POLL_SECONDS):
        for process in _family(pid):
            peak = _high_water_mark(process)
            if peak is not None:
                peaks[process] = peak


def _family(pid: int) -> list[int]:
    family = [pid]
    for process in family:
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                family += [int(child) for child in task.read_text().split()]
            except OSError:  # the thread ended meanwhile
                continue
    return family


def _high_water_mark(pid: int) -> float | None:
    """Return a process' peak resident memory in MB, or None where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(kilobytes[0]) / 1024 if kilobytes else None
