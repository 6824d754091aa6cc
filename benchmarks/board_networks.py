"""What networks cost and gain on a board: float32, bf16, int8, pruned, narrower, in one sitting.

Each file is a row: a weights file, the name of packaged weights, or an exported network (an int8
one, say). Weights files are exported first, so that all run in the same runtimes in the same way.
Windows take turns in every round. Scores are those of `hrrsi eval`: mIoU and boundary F1 at 3 px on
whole scenes, with intervals over blocks.

    python benchmarks/board_networks.py --data DUBAI default int8.onnx pruned.safetensors
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median

import hrrsi
from hrrsi.errors import DeviceError
from hrrsi.evaluation.intervals import Interval
from hrrsi.evaluation.result import EvaluationResult
from hrrsi.graphs.exported import ExportedGraph
from hrrsi.networks.exported_file import file_bytes
from hrrsi.networks.weights_file import weights_path
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.mapped_scene import seconds_a_window
from hrrsi.quantities import TextTable

WINDOW = 512
TOLERANCE = 3  # px, of boundary F1
WAYS = (("onnxruntime", "32"), ("openvino", "32"), ("openvino", "bf16"))


def exported(name: str, folder: Path) -> Path:
    """Return a file as an exported network, itself if it is one."""
    path = weights_path(name)
    if path.suffix in (".onnx", ".xml"):
        return path
    out = folder / f"{len(list(folder.iterdir()))}.onnx"
    options = hrrsi.ExportOptions(window=WINDOW, resolution=1.0)
    return hrrsi.export(path, out, options=options).path


def engines_of(path: Path) -> Iterator[tuple[tuple[str, str], Engine]]:
    """Yield the engines that run an exported network here, by runtime and precision."""
    for way in WAYS:
        engine, precision = way
        with suppress(DeviceError):
            options = hrrsi.EngineOptions(engine=engine, precision=precision)
            yield way, open_engine(path, options)


def milliseconds(paths: list[Path], rounds: int) -> dict[tuple[Path, tuple[str, str]], float]:
    """Return the median time of a window of each file, in each runtime and precision."""
    engines = {(path, way): engine for path in paths for way, engine in engines_of(path)}
    times: dict[tuple[Path, tuple[str, str]], list[float]] = {key: [] for key in engines}
    for _ in range(rounds):
        for key, engine in engines.items():
            times[key].append(1000 * seconds_a_window(engine, WINDOW))
    return {key: median(own) for key, own in times.items()}


def scores(name: str, data: Path, scheme: str, split: str) -> EvaluationResult:
    options = hrrsi.EvaluationOptions(scheme=scheme, split=split)
    return hrrsi.evaluate(data, weights=name, options=options, show_progress=True)


def interval_text(interval: Interval) -> str:
    value, low, high = (100 * v for v in (interval.value, interval.low, interval.high))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", help="weights files, packaged names, exported networks")
    parser.add_argument("--data", type=Path, help="labelled scenes; none: nothing is scored")
    parser.add_argument("--scheme", default="dubai")
    parser.add_argument("--split", default="standard:test")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    columns = ["network", "file (MB)", "G multiply-accumulates"]
    columns += [f"ms, {engine} {precision}" for engine, precision in WAYS]
    table = TextTable([*columns, "mIoU", f"boundary F1 {TOLERANCE} px"])
    with tempfile.TemporaryDirectory() as folder:
        paths = [exported(name, Path(folder)) for name in arguments.files]
        times = milliseconds(paths, arguments.rounds)
        for name, path in zip(arguments.files, paths, strict=True):
            row = [name, f"{file_bytes(weights_path(name)) / 1e6:.2f}"]
            row.append(f"{ExportedGraph(path).macs / 1e9:.2f}")
            first = times[paths[0], WAYS[0]], times[paths[0], WAYS[1]]
            for way in WAYS:
                own = times.get((path, way))
                base = first[0] if way == WAYS[0] else first[1]
                row.append("-" if own is None else f"{own:.1f} ({base / own:.2f}x)")
            if arguments.data is None:
                row += ["-", "-"]
            else:
                result = scores(name, arguments.data, arguments.scheme, arguments.split)
                row.append(interval_text(result.intervals["mIoU"]))
                row.append(interval_text(result.boundary_intervals[f"F1 at {TOLERANCE} px"]))
            table.add_row(row)
    print(table.markdown())
    print("x: times as fast as the first row in the same runtime (bf16: as OpenVINO in float32)")


if __name__ == "__main__":
    main()
