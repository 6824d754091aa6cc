"""Seconds and peak memory of `hrrsi predict` beside the original's way and its peers.

Rounds are interleaved, so that a machine that slows down slows everybody down. `hrrsi predict` is
timed from the start of its process to its end, with sidecars and overviews; the others from
opening the scene to the closed map, their imports not counted. Peak memory is the kernel's
high-water mark of the process. Rasters are a real image, mirrored to the size.

    python benchmarks/predict_speed.py --texture examples/dubai_tile1.tif --truth DUBAI_FOLDER
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import rasterio
from measured_process import Measured, measured
from rasterio.transform import from_origin
from rasterio.windows import Window

from hrrsi.classes import IGNORE_INDEX
from hrrsi.evaluation.scene_choice import chosen_scenes
from hrrsi.evaluation.scores import ConfusionMatrix
from hrrsi.labels.label_reading import open_labels
from hrrsi.labels.labelled_scenes import labelled_scenes
from hrrsi.labels.scheme import load_scheme
from hrrsi.networks.weights_file import packaged_weights
from hrrsi.networks.weights_reading import read_meta
from hrrsi.quantities import TextTable
from hrrsi.scenes.raster_opening import open_raster
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.windows import Window as SceneWindow

HERE = Path(__file__).parent
TRANSFORM = from_origin(330000, 2780000, 0.3, 0.3)


@dataclass(frozen=True)
class Files:
    """What a contestant gets.

    Attributes:
        scene: The raster to map.
        weights: The weights file.
        graphs: Folder of the exported ``geodeep.onnx`` and ``bare.onnx``.
        out: The map to write.
    """

    scene: Path
    weights: Path
    graphs: Path
    out: Path


@dataclass(frozen=True)
class Contestant:
    """One way to map a scene.

    Attributes:
        name: What it is called in the table.
        command: Its command line, after the Python interpreter.
        whole_process: Whether its seconds are those of its process, or those that it prints.
        needs: A package beside hrrsi's own, and what installs it.
    """

    name: str
    command: Callable[[Files], list[str]]
    whole_process: bool = False
    needs: dict[str, str] = field(default_factory=dict)

    def missing(self) -> str | None:
        """Return how to install what it lacks, or None."""
        lacking = [
            how for name, how in self.needs.items() if importlib.util.find_spec(name) is None
        ]
        return f"skipped {self.name}: {', '.join(lacking)}" if lacking else None


def hrrsi(name: str, *options: str) -> Contestant:
    def command(files: Files) -> list[str]:
        arguments = ["-m", "hrrsi", "predict", str(files.scene), "--weights", str(files.weights)]
        return [*arguments, "--out", str(files.out), "--overwrite", "--quiet", *options]

    return Contestant(f"hrrsi predict{name}", command, whole_process=True)


ORIGINAL = Contestant(
    "the original's way",
    lambda f: [str(HERE / "original_way.py"), str(f.scene), str(f.weights), str(f.out)],
)
CONTESTANTS = {
    "original": ORIGINAL,
    "onnxruntime": Contestant(
        "bare ONNX Runtime",
        lambda f: [
            str(HERE / "onnxruntime_way.py"),
            *(str(f.scene), str(f.weights), str(f.graphs / "bare.onnx"), str(f.out)),
        ],
        needs={
            "onnxruntime": "pip install onnxruntime",
            "onnxscript": "pip install onnxscript",
        },
    ),
    "geodeep": Contestant(
        "GeoDeep, overlap 10 %",
        lambda f: [
            str(HERE / "geodeep_way.py"),
            *(str(f.scene), str(f.graphs / "geodeep.onnx"), str(f.out)),
        ],
        needs={"geodeep": "pip install geodeep==0.9.13", "onnxscript": "pip install onnxscript"},
    ),
    "32": hrrsi(", float32, overlap 0", "--precision", "32", "--overlap", "0"),
    "auto": hrrsi(", overlap 0", "--overlap", "0"),
    "fast": hrrsi(", fast, overlap 0", "--precision", "fast", "--overlap", "0"),
    "default": hrrsi(""),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texture", type=Path, required=True, help="a real RGB image")
    parser.add_argument("--weights", type=Path, default=packaged_weights())
    parser.add_argument(
        "--sizes", nargs="+", default=["2566x1893", "10000x10000"], metavar="WIDTHxHEIGHT"
    )
    parser.add_argument(
        "--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="WHO",
        help=f"beside the original: {', '.join(CONTESTANTS)}",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--truth", type=Path, help="folder with Dubai's tile 1: also score (mIoU)")
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
        transform=TRANSFORM,
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


def read_texture(path: Path) -> np.ndarray:
    with open_raster(path) as source:
        return source.read((1, 2, 3))


def seconds_and_peak(contestant: Contestant, files: Files) -> tuple[float, float]:
    run: Measured = measured([sys.executable, *contestant.command(files)])
    if contestant.whole_process:
        return run.seconds, run.peak
    return json.loads(run.output.splitlines()[-1])["seconds"], run.peak


def agreement(first: Path, second: Path) -> float:
    """Return the share of pixels with the same label in two maps."""
    same = total = 0
    with rasterio.open(first) as a, rasterio.open(second) as b:
        for row in range(0, a.height, 512):
            window = Window(0, row, a.width, min(512, a.height - row))
            equal = a.read(1, window=window) == b.read(1, window=window)
            same, total = same + int(equal.sum()), total + equal.size
    return same / total


def write_truth(raw: Path, classes: list[str], folder: Path) -> dict[Path, np.ndarray]:
    """Write the scenes of Dubai's tile 1 as GeoTIFFs; return them with their true labels."""
    scheme = load_scheme("dubai")
    truth: dict[Path, np.ndarray] = {}
    in_our_order = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    for index, name in enumerate(scheme.class_names):
        in_our_order[index] = classes.index(name)
    scenes = labelled_scenes([raw], scheme)
    for files in chosen_scenes(scenes, scheme, split="standard:test").files:
        with (
            open_scene(files.image) as scene,
            open_labels(str(files.label), scene, scheme, name=files.name) as labels,
        ):
            everything = SceneWindow(0, 0, scene.height, scene.width)
            path = folder / f"{files.name}.tif"
            with rasterio.open(
                path, "w", driver="GTiff", height=scene.height, width=scene.width, count=3,
                dtype="uint8", tiled=True, crs="EPSG:32640", transform=TRANSFORM,
            ) as dataset:  # fmt: skip
                dataset.write(scene.read(everything))
            truth[path] = in_our_order[labels.read(everything)]
    return truth


def mean_iou(
    contestant: Contestant, files: Files, classes: list[str], truth: dict[Path, np.ndarray]
) -> float:
    """Return the mIoU in points of a contestant's maps of labelled scenes, in one matrix."""
    matrix = ConfusionMatrix(classes)
    for scene, labels in truth.items():
        measured([sys.executable, *contestant.command(replace(files, scene=scene))])
        with rasterio.open(files.out) as class_map:
            matrix.add(class_map.read(1), labels)
    return 100 * matrix.scores().mean_iou


def chosen(options: argparse.Namespace) -> list[Contestant]:
    """Return the original and those asked for, without those that lack a package."""
    contestants = [ORIGINAL]
    for contestant in (CONTESTANTS[name] for name in options.only):
        if contestant is ORIGINAL:
            continue
        missing = contestant.missing()
        if missing:
            print(missing)
        else:
            contestants.append(contestant)
    return contestants


def main() -> None:
    options = arguments()
    contestants = chosen(options)
    texture = read_texture(options.texture)
    figures: dict[str, dict[str, list[tuple[float, float]]]] = {}
    columns = ["raster", "way", "seconds (median)", "all rounds", "peak MB", "times as fast"]
    table = TextTable([*columns, "same labels"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if any("onnxscript" in contestant.needs for contestant in contestants):
            graphs = [str(folder / "geodeep.onnx"), str(folder / "bare.onnx")]
            export = [str(HERE / "exported_graph.py"), str(options.weights), *graphs]
            measured([sys.executable, *export])
        for size in options.sizes:
            width, height = (int(n) for n in size.split("x"))
            scene = folder / f"{size}.tif"
            write_scene(scene, texture, height, width)
            files = [
                Files(scene, options.weights, folder, folder / f"map{i}.tif")
                for i in range(len(contestants))
            ]
            rounds: list[list[tuple[float, float]]] = [[] for _ in contestants]
            for _ in range(options.rounds):
                for own, contestant, file in zip(rounds, contestants, files, strict=True):
                    own.append(seconds_and_peak(contestant, file))
            figures[size] = {c.name: own for c, own in zip(contestants, rounds, strict=True)}
            for contestant, own, file in zip(contestants, rounds, files, strict=True):
                ratios = [
                    reference[0] / this[0] for reference, this in zip(rounds[0], own, strict=True)
                ]
                table.add_row(
                    [
                        size,
                        contestant.name,
                        f"{statistics.median(s for s, _ in own):.2f}",
                        " ".join(f"{s:.2f}" for s, _ in own),
                        f"{max(m for _, m in own):.0f}",
                        f"{statistics.median(ratios):.2f}",
                        f"{agreement(files[0].out, file.out):.4%}",
                    ]
                )
            table.add_divider()
            scene.unlink()
        scored = TextTable(["way", "mIoU on Dubai's tile 1"])
        if options.truth:
            classes = read_meta(options.weights)["classes"]
            truth = write_truth(options.truth, classes, folder)
            for contestant, file in zip(contestants, files, strict=True):
                scored.add_row(
                    [contestant.name, f"{mean_iou(contestant, file, classes, truth):.2f}"]
                )
    print(table)
    if options.truth:
        print(scored)
    print("Medians of interleaved rounds; ratios are taken round by round.")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
