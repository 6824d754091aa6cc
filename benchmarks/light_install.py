"""Disk and memory of what a board needs: the light install, and ONNX Runtime alone.

Makes two clean environments (downloads 200 MB each time that pip has not kept them) and maps the
same picture with the same exported file in both: by `hrrsi predict`, and by
`examples/stream/stream.py`.

    python benchmarks/light_install.py --weights light
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

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


def environment(folder: Path, *packages: str) -> tuple[Path, float]:
    """Return the Python of a new environment, and the MB that packages take in it."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    before = disk_use(folder)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "-qq"]
    subprocess.run([*pip, "-c", REPOSITORY / "constraints.txt", *packages], check=True)
    return folder / "bin" / "python", disk_use(folder) - before


def disk_use(folder: Path) -> float:
    """Return the MB that a folder takes on disk."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) / 1e6


def main() -> None:
    options = arguments()
    window = ["--window", str(options.window)]
    table = TextTable(["what", "install (MB)", "peak memory (MB)", "file (MB)"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        network, maps = folder / "landcover.onnx", folder / "maps"
        export = [sys.executable, "-m", "hrrsi", "export", options.weights, "--out", str(network)]
        subprocess.run([*export, *window], check=True, stdout=subprocess.DEVNULL)
        size = f"{network.stat().st_size / 1e6:.1f}"
        runs: dict[str, tuple[float, Measured]] = {}
        python, install = environment(folder / "light", str(REPOSITORY))
        command = [str(python), "-m", "hrrsi", "predict", str(options.picture), "--quiet"]
        command += ["--weights", str(network), "--out", str(folder / "map.tif")]
        runs["hrrsi predict"] = install, measured(command)
        python, install = environment(folder / "alone", "onnxruntime", "numpy", "pillow")
        command = [str(python), str(STREAM), str(network), str(options.picture), str(maps)]
        runs["stream.py"] = install, measured(command)
        for what, (install, run) in runs.items():
            table.add_row([what, f"{install:.0f}", f"{run.peak * 1.048576:.0f}", size])
    print(table)


if __name__ == "__main__":
    main()
