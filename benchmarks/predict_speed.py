"""Seconds and peak memory of `hrrsi predict` beside the original's way, in one sitting.

Rounds are interleaved, so that a machine that slows down slows everybody down. `hrrsi predict` is
timed from the start of its process to its end, with sidecars and overviews; the original's way
(`original_way.py`) from opening the scene to the closed map, its imports not counted. Peak memory
is the child process' largest resident set. Rasters are a real image, mirrored to the size.

    python benchmarks/predict_speed.py --texture examples/dubai_tile1.tif
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from prettytable import PrettyTable
from rasterio.transform import from_origin
from rasterio.windows import Window

from hrrsi.scenes.scene import open_raster
from hrrsi.weights import packaged_weights

ORIGINAL = "the original's way"
HERE = Path(__file__).parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texture", type=Path, required=True, help="a real RGB image")
    parser.add_argument("--weights", type=Path, default=packaged_weights())
    parser.add_argument(
        "--sizes", nargs="+", default=["2566x1893", "10000x10000"], metavar="WIDTHxHEIGHT"
    )
    parser.add_argument("--overlaps", nargs="+", type=int, default=[0, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write every figure here")
    return parser.parse_args()


def write_scene(path: Path, texture: np.ndarray, height: int, width: int) -> None:
    """Write a (3, h, w) uint8 texture as a tiled JPEG GeoTIFF, mirrored at its edges."""
    _, h, w = texture.shape
    mirrored = np.concatenate([texture, texture[:, :, ::-1]], axis=2)
    columns = np.arange(width) % (2 * w)
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "compress": "jpeg", "tiled": True}
    with rasterio.open(
        path,
        "w",
        height=height,
        width=width,
        crs="EPSG:32640",
        transform=from_origin(330000, 2780000, 0.3, 0.3),
        blockxsize=512,
        blockysize=512,
        photometric="ycbcr",
        **profile,
    ) as dataset:
        for row in range(0, height, 512):
            rows = np.arange(row, min(row + 512, height)) % (2 * h)
            rows = np.where(rows < h, rows, 2 * h - 1 - rows)
            strip = mirrored[:, rows][:, :, columns]
            dataset.write(strip, window=Window(0, row, width, len(rows)))


def run(command: list[str]) -> tuple[str, float, float]:
    """Return a command's output, its wall seconds, and its peak memory in MB."""
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} exited with {process.returncode}")
        output.seek(0)
        return output.read(), seconds, usage.ru_maxrss / 1024


def original(scene: Path, weights: Path, out: Path) -> tuple[float, float]:
    program = str(HERE / "original_way.py")
    output, _, memory = run([sys.executable, program, str(scene), str(weights), str(out)])
    return json.loads(output)["seconds"], memory


def hrrsi_at(overlap: int) -> Callable[[Path, Path, Path], tuple[float, float]]:
    def contestant(scene: Path, weights: Path, out: Path) -> tuple[float, float]:
        command = [sys.executable, "-m", "hrrsi", "predict", str(scene), "--weights", str(weights)]
        options = ["--out", str(out), "--overwrite", "--quiet", "--overlap", str(overlap)]
        _, seconds, memory = run([*command, *options])
        return seconds, memory

    return contestant


def agreement(first: Path, second: Path) -> float:
    """Return the share of pixels with the same label in two maps."""
    same = total = 0
    with rasterio.open(first) as a, rasterio.open(second) as b:
        for row in range(0, a.height, 512):
            window = Window(0, row, a.width, min(512, a.height - row))
            equal = a.read(1, window=window) == b.read(1, window=window)
            same, total = same + int(equal.sum()), total + equal.size
    return same / total


def main() -> None:
    options = arguments()
    with open_raster(options.texture) as source:
        texture = source.read((1, 2, 3))
    contestants = {ORIGINAL: original}
    contestants |= {f"hrrsi predict, overlap {o}": hrrsi_at(o) for o in options.overlaps}
    figures: dict[str, dict[str, list[tuple[float, float]]]] = {}
    table = PrettyTable(
        [
            "raster",
            "way",
            "seconds (median)",
            "all rounds",
            "peak MB",
            "times as fast",
            "same labels",
        ],
        align="r",
    )
    table.align["way"] = "l"
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            width, height = (int(n) for n in size.split("x"))
            scene = Path(folder) / f"{size}.tif"
            write_scene(scene, texture, height, width)
            maps = {name: Path(folder) / f"{i}.tif" for i, name in enumerate(contestants)}
            measured: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
            for _ in range(options.rounds):
                for name, contestant in contestants.items():
                    measured[name].append(contestant(scene, options.weights, maps[name]))
            figures[size] = measured
            for name, rounds in measured.items():
                ratios = [
                    reference[0] / own[0]
                    for reference, own in zip(measured[ORIGINAL], rounds, strict=True)
                ]
                table.add_row(
                    [
                        size,
                        name,
                        f"{statistics.median(s for s, _ in rounds):.2f}",
                        " ".join(f"{s:.2f}" for s, _ in rounds),
                        f"{max(m for _, m in rounds):.0f}",
                        f"{statistics.median(ratios):.2f}",
                        f"{agreement(maps[ORIGINAL], maps[name]):.4%}",
                    ]
                )
            table.add_divider()
    print(table)
    print("Medians of interleaved rounds; ratios are taken round by round.")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
