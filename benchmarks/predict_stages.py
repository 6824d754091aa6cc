"""What `hrrsi predict` takes beside the network: start, reading, blending, writing.

Three things are timed in turn, round by round, for a raster of real texture mirrored to the size:

- the first window: from the start of a process to the logits of a raster's first window;
- the network: the logits of all windows, which lie in memory, in a process that is warm;
- the whole: from the start of the process to its end, with sidecars and overviews.

What the whole takes beyond the network is the time that everything else adds.

    python benchmarks/predict_stages.py --texture examples/dubai_tile1.tif
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from measured_process import measured
from predict_speed import read_texture, write_scene

from hrrsi.networks.weights_file import packaged_weights
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.options import EngineOptions
from hrrsi.prediction.sliding_window import read_window
from hrrsi.quantities import TextTable
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.window_source import SceneWindows
from hrrsi.scenes.windows import window_grid

WINDOW = 512
FIRST_WINDOW = """
import sys
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.options import EngineOptions
from hrrsi.prediction.sliding_window import read_window
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.window_source import SceneWindows
from hrrsi.scenes.windows import Window

engine = open_engine(sys.argv[2], EngineOptions(precision=sys.argv[3]))
with open_scene(sys.argv[1]) as scene:
    pixels = read_window(SceneWindows(scene), Window(0, 0, 512, 512), 255.0).pixels
assert next(engine.logits([pixels], *engine.meta.normalisation(255))) is not None
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texture", type=Path, required=True, help="a real RGB image")
    parser.add_argument("--weights", type=Path, default=packaged_weights())
    parser.add_argument("--size", default="10000x10000", metavar="WIDTHxHEIGHT")
    parser.add_argument("--precisions", nargs="+", default=["32", "auto"])
    parser.add_argument("--overlaps", nargs="+", type=int, default=[0, 96])
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def network_seconds(engine: Engine, scene_path: Path, overlap: int) -> float:
    """Return the seconds of all windows' logits; windows are read beforehand, row by row."""
    seconds = 0.0
    with open_scene(scene_path) as scene:
        for row in window_grid(scene.height, scene.width, WINDOW, WINDOW - overlap):
            pixels = [read_window(SceneWindows(scene), window, 255.0).pixels for window in row]
            start = time.perf_counter()
            for _ in engine.logits(pixels, *engine.meta.normalisation()):
                pass
            seconds += time.perf_counter() - start
    return seconds


def main() -> None:
    options = arguments()
    width, height = (int(n) for n in options.size.split("x"))
    columns = ["precision", "overlap", "first window (s)", "network (s)", "whole (s)"]
    table = TextTable([*columns, "beside the network (s)", "network's share"])
    with tempfile.TemporaryDirectory() as temporary:
        scene = Path(temporary) / "scene.tif"
        write_scene(scene, read_texture(options.texture), height, width)
        for precision in options.precisions:
            engine = open_engine(options.weights, EngineOptions(precision=precision))
            network_seconds(engine, options.texture, 0)  # compiled, and warm
            for overlap in options.overlaps:
                first, network, whole = [], [], []
                for _ in range(options.rounds):
                    program = [sys.executable, "-c", FIRST_WINDOW, str(scene)]
                    first.append(measured([*program, str(options.weights), precision]).seconds)
                    network.append(network_seconds(engine, scene, overlap))
                    command = [sys.executable, "-m", "hrrsi", "predict", str(scene), "--quiet"]
                    command += ["--weights", str(options.weights), "--precision", precision]
                    command += ["--overlap", str(overlap), "--overwrite"]
                    whole.append(measured([*command, "--out", f"{temporary}/map.tif"]).seconds)
                beside = [all_of_it - part for all_of_it, part in zip(whole, network, strict=True)]
                median = statistics.median
                table.add_row(
                    [
                        engine.precision,
                        overlap,
                        f"{median(first):.2f}",
                        f"{median(network):.2f}",
                        f"{median(whole):.2f}",
                        f"{median(beside):.2f}",
                        f"{median(n / w for n, w in zip(network, whole, strict=True)):.0%}",
                    ]
                )
    print(table)
    print(f"{options.size} px, medians of {options.rounds} interleaved rounds.")


if __name__ == "__main__":
    main()
