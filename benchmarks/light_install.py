"""Disk, seconds and memory of what a board needs: the light install, and ONNX Runtime alone.

Makes two clean environments with the newest pip (downloads 200 MB each time that pip has not kept
them) and maps the same picture with the same exported file in both: by `hrrsi predict`, from
hrrsi's wheel, and by `examples/stream/stream.py`.

    python benchmarks/light_install.py --weights light
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from measured_process import Measured, measured

from hrrsi.quantities import TextTable

REPOSITORY = Path(__file__).resolve().parents[1]
STREAM = REPOSITORY / "examples" / "stream" / "stream.py"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--picture", type=Path, default=REPOSITORY / "examples" / "dubai_tile1.tif")
    parser.add_argument("--weights", default="default", help="what is exported")
    parser.add_argument("--window", type=int, default=512)
    return parser.parse_args()


class Environment(NamedTuple):
    """A new environment.

    Attributes:
        python: Its interpreter.
        megabytes: What packages take in it.
        seconds: How long pip took to install them.
    """

    python: Path
    megabytes: float
    seconds: float


def environment(folder: Path, *packages: str) -> Environment:
    """Return a new environment with packages."""
    subprocess.run([sys.executable, "-m", "venv", "--upgrade-deps", folder], check=True)
    before = disk_use(folder)
    start = time.perf_counter()
    pip = [folder / "bin" / "python", "-m", "pip", "install", "-qq"]
    subprocess.run([*pip, "-c", REPOSITORY / "constraints.txt", *packages], check=True)
    seconds = time.perf_counter() - start
    return Environment(folder / "bin" / "python", disk_use(folder) - before, seconds)


def own_wheel(folder: Path) -> str:
    """Return the wheel of this repository, built without its dependencies."""
    build = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", str(REPOSITORY)]
    subprocess.run([*build, "--wheel-dir", folder], check=True)
    (wheel,) = folder.glob("hrrsi-*.whl")
    return str(wheel)


def disk_use(folder: Path) -> float:
    """Return the MB that a folder takes on disk."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) / 1e6


def main() -> None:
    options = arguments()
    window = ["--window", str(options.window)]
    table = TextTable(["what", "install (MB)", "install (s)", "peak memory (MB)", "file (MB)"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        network, maps = folder / "landcover.onnx", folder / "maps"
        export = [sys.executable, "-m", "hrrsi", "export", options.weights, "--out", str(network)]
        subprocess.run([*export, *window], check=True, stdout=subprocess.DEVNULL)
        size = f"{network.stat().st_size / 1e6:.1f}"
        runs: dict[str, tuple[Environment, Measured]] = {}
        light = environment(folder / "light", own_wheel(folder))
        command = [str(light.python), "-m", "hrrsi", "predict", str(options.picture), "--quiet"]
        command += ["--weights", str(network), "--out", str(folder / "map.tif")]
        runs["hrrsi predict"] = light, measured(command)
        alone = environment(folder / "alone", "onnxruntime", "numpy", "pillow")
        command = [str(alone.python), str(STREAM), str(network), str(options.picture), str(maps)]
        runs["stream.py"] = alone, measured(command)
        for what, (install, run) in runs.items():
            peak = f"{run.peak * 1.048576:.0f}"
            row = [what, f"{install.megabytes:.0f}", f"{install.seconds:.0f}", peak, size]
            table.add_row(row)
    print(table)


if __name__ == "__main__":
    main()
