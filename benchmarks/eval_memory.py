"""Peak memory of `hrrsi eval` on maps of several sizes and shapes, beside their labels.

Labels are the map of a real image, mirrored to the size; the map that is scored is the same, moved
by some pixels, so that there are borders and errors everywhere. Peaks are the kernel's high-water
mark (VmHWM) of the process.

    python benchmarks/eval_memory.py --texture examples/dubai_tile1.tif
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from measured_process import Measured, measured, memory_table
from predict_speed import TRANSFORM
from rasterio.windows import Window

from hrrsi.scenes.raster_opening import open_raster

MOVED = 5  # rows and columns
BLOCK = 512


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texture", type=Path, required=True, help="a real RGB image")
    sizes = ["10000x10000", "10000x100000", "100000x10000"]
    parser.add_argument("--sizes", nargs="+", default=sizes, metavar="WIDTHxHEIGHT")
    parser.add_argument("--options", default="", help="more for hrrsi eval, in one string")
    return parser.parse_args()


def write_map(path: Path, texture: np.ndarray, height: int, width: int, moved: int) -> None:
    """Write (h, w) class indices as a tiled GeoTIFF, mirrored at its edges."""
    rows_of = mirrored(height, texture.shape[0], moved)
    columns = mirrored(width, texture.shape[1], moved)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=1,
        dtype="uint8",
        crs="EPSG:32640",
        transform=TRANSFORM,
        tiled=True,
        blockxsize=BLOCK,
        blockysize=BLOCK,
        compress="deflate",
    ) as dataset:
        for row in range(0, height, BLOCK):
            rows = rows_of[row : row + BLOCK]
            dataset.write(texture[rows][:, columns], 1, window=Window(0, row, width, len(rows)))


def mirrored(count: int, side: int, moved: int) -> np.ndarray:
    """Return which of `side` pixels each of `count` shows."""
    places = (np.arange(count) + moved) % (2 * side)
    return np.where(places < side, places, 2 * side - 1 - places)


def main() -> None:
    options = arguments()
    runs: dict[str, Measured] = {}
    hrrsi = [sys.executable, "-m", "hrrsi"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measured([*hrrsi, "predict", str(options.texture), "--out", f"{folder}/texture.tif", "-q"])
        with open_raster(folder / "texture.tif") as dataset:
            texture = dataset.read(1)
        for size in options.sizes:
            width, height = (int(n) for n in size.split("x"))
            for name, moved in (("label", 0), ("map", MOVED)):
                write_map(folder / f"{name}.tif", texture, height, width, moved)
            command = [*hrrsi, "eval", "--pred", f"{folder}/map.tif", "--scheme", "dubai"]
            command += ["--map-format", "indices", "--label", f"{folder}/label.tif"]
            runs[size] = measured([*command, "--label-format", "indices", *options.options.split()])
    print(memory_table(runs))


if __name__ == "__main__":
    main()
