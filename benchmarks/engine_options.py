"""Milliseconds of one 512 px window, and equal labels, for each way to run the network on the CPU.

Every way maps the same real windows with the same weights, in interleaved rounds. The table gives
the median milliseconds per window, the time that the processor's cores were busy (divided by their
number: other programs disturb it less), the median of the rounds' ratios to eager float32 (above 1
is faster), and the share of labels that equal those of eager float32. Ways that start from torch
see normalised windows, the others the pixels. "Graph" is that of `hrrsi.graphs`: no body and edge
heads, SFM's means before its convolutions, logits not resized, the halves of ghost modules kept
apart, some of it in single precision always; each "graph, but" row takes one of these back.
Resizing logits outside the network and the argmax are not timed. What is not installed is skipped.

    python benchmarks/engine_options.py --texture examples/dubai_tile1.tif
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from engine_ways import CORES, REFERENCE, SIZE, WAYS, Logit, Pixels, Run, Setup

from hrrsi.networks.architecture import LogitGrid
from hrrsi.networks.weights_file import packaged_weights
from hrrsi.networks.weights_reading import load_model
from hrrsi.prediction.blending import window_labels
from hrrsi.quantities import TextTable

TIMED_WINDOWS = 8  # of each way in each round
CALIBRATION_WINDOWS = 20
NEEDS = {"export": "onnxscript", "ONNX Runtime": "onnxruntime", "OpenVINO int8": "nncf"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texture", type=Path, required=True, help="a real RGB image")
    parser.add_argument("--weights", type=Path, default=packaged_weights())
    parser.add_argument(
        "--calibration", type=Path, nargs="+", metavar="IMAGE", help="scenes int8 is calibrated on"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile too: a minute")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--windows", type=int, default=20, help="whose labels are compared")
    return parser.parse_args()


def windows_of(paths: Sequence[Path], count: int) -> list[Pixels]:
    """Return about `count` windows in all, spread evenly over images of at least 512 px."""
    columns = max(1, round((count / len(paths)) ** 0.5))
    rows = max(1, round(count / len(paths) / columns))
    windows = []
    for path in paths:
        with rasterio.open(path) as source:
            image = source.read([1, 2, 3])
        for y in np.linspace(0, image.shape[1] - SIZE, rows).astype(int):
            for x in np.linspace(0, image.shape[2] - SIZE, columns).astype(int):
                windows.append(np.ascontiguousarray(image[:, y : y + SIZE, x : x + SIZE]))
    return windows


def labels_of(logits: Logit) -> npt.NDArray[np.uint8]:
    if logits.shape[1] == SIZE:
        return logits.argmax(axis=0).astype(np.uint8)
    return window_labels(logits, SIZE, SIZE, LogitGrid())


def chosen_ways(with_compile: bool) -> dict[str, Callable[[Setup], Run]]:
    ways = {name: way for name, way in WAYS.items() if with_compile or "compile" not in name}
    for part, package in NEEDS.items():
        if importlib.util.find_spec(package) is None:
            print(f"skipped {part}: pip install {package}")
            ways = {name: way for name, way in ways.items() if part not in name}
    return ways


def main() -> None:
    options = arguments()
    warnings.simplefilter("ignore")
    torch.set_num_threads(CORES)
    windows = windows_of([options.texture], options.windows)
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(
            options.weights,
            load_model(options.weights),
            windows_of(options.calibration or [options.texture], CALIBRATION_WINDOWS),
            Path(folder),
        )
        runs = {}
        for name, make in chosen_ways(options.compile).items():
            print(f"preparing {name}", file=sys.stderr)
            runs[name] = make(setup)
    labels = {name: [labels_of(x) for x in run(windows)] for name, run in runs.items()}
    walls: dict[str, list[float]] = {name: [] for name in runs}
    cores: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(options.rounds):
        names = list(runs)
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            wall, busy = time.perf_counter(), time.process_time()
            runs[name](windows[:TIMED_WINDOWS])
            walls[name].append(1000 * (time.perf_counter() - wall) / TIMED_WINDOWS)
            cores[name].append(1000 * (time.process_time() - busy) / TIMED_WINDOWS / CORES)
    table = TextTable(["way", "ms a window", "of the cores", "times faster", "equal labels"])
    for name in runs:
        faster = [a / b for a, b in zip(walls[REFERENCE], walls[name], strict=True)]
        equal = np.mean(np.equal(labels[name], labels[REFERENCE]))
        figures = [f"{statistics.median(x):.1f}" for x in (walls[name], cores[name])]
        table.add_row([name, *figures, f"{statistics.median(faster):.2f}", f"{100 * equal:.3f} %"])
    print(
        f"{len(windows)} windows of {options.texture.name}, {options.rounds} rounds, {CORES} cores"
    )
    print(table)


if __name__ == "__main__":
    main()
