"""How many scenes look unlike the training data of weights: alarms, false ones among them, counted.

    python benchmarks/scene_likeness.py FOLDER... --weights W.safetensors
    python benchmarks/scene_likeness.py FOLDER... --dataset DATASET    # of its training patches

Each folder (or pattern) gets a line: scenes, how many `hrrsi predict` would warn of, and their
distances as multiples of the one that it warns above.
"""

import argparse
import glob
import statistics
import time
import warnings
from pathlib import Path

import numpy as np

from hrrsi.errors import HrrsiError
from hrrsi.networks.weights_file import weights_path
from hrrsi.networks.weights_reading import read_meta
from hrrsi.scenes.likeness import Likeness, scene_squares
from hrrsi.scenes.raster_opening import RASTER_SUFFIXES
from hrrsi.scenes.resampling import nearest_resolution
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.value_scale import estimated_scale, scene_sample
from hrrsi.scenes.window_source import open_scene_windows
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.training.run_data import training_likeness


def rasters(place: str) -> list[str]:
    """Return the rasters below a folder, or those that a pattern matches."""
    paths = Path(place).rglob("*") if Path(place).is_dir() else map(Path, glob.glob(place))
    return sorted(str(path) for path in paths if path.suffix.lower() in RASTER_SUFFIXES)


def relative_distance(
    path: str, likeness: Likeness, resolutions: tuple[float, float] | None, nodata: float | None
) -> tuple[float, float] | None:
    """Return a scene's distance in units of the threshold, and the seconds that it took."""
    with open_scene(path, bands=(1, 2, 3), nodata=nodata) as scene:
        scale = estimated_scale(scene_sample(scene)).value
        resolution = nearest_resolution(scene.resolution, resolutions)
        with open_scene_windows(scene, resolution=resolution) as source:
            start = time.perf_counter()
            squares = scene_squares(source, scale)
            if not len(squares):
                return None
            distance = likeness.distance(squares) / likeness.threshold
            return distance, time.perf_counter() - start


def main() -> None:
    """Print a line for each folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("places", nargs="+")
    parser.add_argument("--weights")
    parser.add_argument("--dataset", type=Path, action="append", default=[])
    parser.add_argument("--nodata", type=float)
    parser.add_argument("--each", action="store_true", help="A line for each scene, too.")
    options = parser.parse_args()
    resolutions = None
    if options.dataset:
        start = time.perf_counter()
        likeness = training_likeness([TiledDataset(folder) for folder in options.dataset])
        print(f"described in {time.perf_counter() - start:.1f} s")
    else:
        meta = read_meta(weights_path(options.weights))
        resolutions = meta.resolutions
        likeness = None if meta.likeness is None else Likeness.from_plain(meta.likeness)
    if likeness is None:
        raise SystemExit("error: the training data is not described")
    print(f"{len(likeness.squares)} squares, warns above {likeness.threshold:.2f}")
    warnings.simplefilter("ignore")
    for place in options.places:
        distances: list[float] = []
        seconds: list[float] = []
        unreadable = 0
        for path in rasters(place):
            try:
                result = relative_distance(path, likeness, resolutions, options.nodata)
            except HrrsiError:
                unreadable += 1
                continue
            if result is not None:
                distances.append(result[0])
                seconds.append(result[1])
                if options.each:
                    print(f"  {path}: {result[0]:.2f}")
        if not distances:
            print(f"{place}: no scenes")
            continue
        alarms = sum(distance > 1 for distance in distances)
        print(
            f"{place}: {alarms} of {len(distances)} scenes ({alarms / len(distances):.0%}); "
            f"distance {statistics.median(distances):.2f} (median), "
            f"{np.quantile(distances, 0.9):.2f} (9 of 10 below), {max(distances):.2f} (most); "
            f"{1000 * statistics.median(seconds):.0f} ms, at most {1000 * max(seconds):.0f} ms"
            + (f"; {unreadable} not readable" if unreadable else "")
        )


if __name__ == "__main__":
    main()
