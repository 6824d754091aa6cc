"""Peak memory of `hrrsi predict` on a large and on a far larger raster of dense texture.

Peaks are the kernel's high-water mark (VmHWM) of the process, so they hold everything: Python,
the engine, GDAL and its cache of decoded blocks. They should hardly differ between the sizes.

    python benchmarks/predict_memory.py --texture examples/dubai_tile1.tif --folder rasters/
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from measured_process import Measured, measured, memory_table
from predict_speed import read_texture, write_scene

from hrrsi.networks.weights_file import packaged_weights


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texture", type=Path, required=True, help="a real RGB image")
    parser.add_argument("--weights", type=Path, default=packaged_weights())
    parser.add_argument(
        "--sizes", nargs="+", default=["10000x10000", "30000x30000"], metavar="WIDTHxHEIGHT"
    )
    parser.add_argument("--folder", type=Path, help="keeps the rasters, for the next time")
    parser.add_argument("--options", default="", help="more for hrrsi predict, in one string")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    runs: dict[str, Measured] = {}
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = options.folder or temporary
        folder.mkdir(parents=True, exist_ok=True)
        for size in options.sizes:
            width, height = (int(n) for n in size.split("x"))
            scene = folder / f"dense_{size}.tif"
            if not scene.exists():
                part = scene.with_suffix(".part.tif")
                write_scene(part, read_texture(options.texture), height, width)
                part.rename(scene)
            command = [sys.executable, "-m", "hrrsi", "predict", str(scene), "--quiet"]
            command += ["--weights", str(options.weights), "--out", str(temporary / "map.tif")]
            runs[size] = measured([*command, "--overwrite", *options.options.split()])
    print(memory_table(runs))


if __name__ == "__main__":
    main()
