"""The commands that are killed: lines, phases, inputs, and what they have to leave."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
import yaml
from PIL import Image

START, END = "start", "end"


class Command(NamedTuple):
    """A command that is killed.

    Attributes:
        line: Returns its arguments in a folder with inputs and a folder of outputs.
        phases: Its phases in their order, each with the patterns of files any of which shows that
            it has begun, or is there, and after a ``!`` those that must not be there; of those that
            show, the last one counts.
        going_on: What goes on after a kill, or starts again.
        imports: Modules that are imported before a run is forked.
        content: Returns what has to be the same in the end, of files by their names.
        grows: Whether files under final names change while it runs, as a run's do: then each only
            has to be whole.
    """

    line: Callable[[Path, Path, Path], list[str]]
    phases: Mapping[str, tuple[str, ...]]
    going_on: tuple[str, ...]
    imports: str
    content: Callable[[dict[str, Path]], dict[str, bytes]]
    grows: bool = False


def _predict(folder: Path, out: Path, weights: Path) -> list[str]:
    line = ["predict", str(folder / "scene.tif"), "--weights", str(weights), "--threads", "1"]
    line += ["--window", "128", "--overlap", "32", "--confidence", "uint8", "--out", f"{out}/"]
    return [*line, "--vector", "gpkg", "--preview", "png"]


def _tile(folder: Path, out: Path, _: Path) -> list[str]:
    line = ["tile", str(folder / "raw"), "--scheme", str(folder / "own.yaml"), "--size", "64"]
    return [*line, "--stride", "16", "--workers", "2", "--out", str(out / "data")]


def _evaluate(folder: Path, out: Path, weights: Path) -> list[str]:
    line = ["eval", str(folder / "raw"), "--scheme", str(folder / "own.yaml"), "--split", "all"]
    line += ["--weights", str(weights), "--window", "128", "--overlap", "32", "--threads", "1"]
    return [*line, "--json", str(out / "scores.json"), "--confusion-matrix", str(out / "c.png")]


def _train(folder: Path, out: Path, _: Path) -> list[str]:
    line = ["train", str(folder / "dataset"), "--model", "ued", "--encoder-weights", "none"]
    line += ["--epochs", "2", "--batch", "2", "--crop", "32", "--workers", "0"]
    return [*line, "--device", "cpu", "--precision", "32", "--out", str(out)]


def _pretrain(folder: Path, out: Path, _: Path) -> list[str]:
    line = ["pretrain", "--data", str(folder / "classes"), "--encoder", "ghostnet_050"]
    line += ["--epochs", "2", "--batch", "2", "--lr", "0.01", "--size", "32", "--val-size", "32"]
    line += ["--workers", "0", "--loader", "torchvision", "--precision", "32"]
    return [*line, "--device", "cpu", "--out", str(out)]


def _all_files(files: dict[str, Path]) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in files.items()}


def _of_run(files: dict[str, Path]) -> dict[str, bytes]:
    """Return what a run leaves, but for times; raises where a file is not whole."""
    import torch

    content = {}
    for name, path in files.items():
        if path.suffix == ".safetensors":
            content[name] = path.read_bytes()
        elif path.suffix == ".ckpt":
            checkpoint = torch.load(path, weights_only=True)
            parts = [checkpoint["position"], checkpoint["state_dict"], checkpoint["optimizer"]]
            content[name] = _digest(parts)
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            content[name] = repr(
                [{**row, "seconds": 0, "images_per_second": 0} for row in rows]
            ).encode()
        elif path.suffix == ".yaml":
            keys = sorted(yaml.safe_load(path.read_text()))
            content[name] = repr(keys).encode()
        elif path.suffix == ".png":
            Image.open(path).load()
            content[name] = b"a picture"  # with times
    return content


def _digest(value: Any) -> bytes:
    import torch

    whole = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, Mapping):
            for key, each in part.items():
                whole.update(repr(key).encode())
                add(each)
        elif isinstance(part, list | tuple):
            for each in part:
                add(each)
        elif isinstance(part, torch.Tensor):
            whole.update(part.contiguous().numpy().tobytes())
        else:
            whole.update(repr(part).encode())

    add(value)
    return whole.hexdigest().encode()


def _phases_of_run(name: str) -> dict[str, tuple[str, ...]]:
    return {
        START: (),
        "steps": (f"{name}/config.yaml",),
        "weights and record": (f"{name}/.*.partial-*", f"{name}/*/.*.partial-*"),
        "checkpoint": (f"{name}/.last.partial-*",),
        END: (f"{name}/metrics.csv", f"!.{name}.lock"),
    }


COMMANDS: dict[str, Command] = {
    "predict": Command(
        _predict,
        {
            START: (),
            "windows": (".*.unfinished/journal.json",),
            "scores": (".*_confidence.partial-*", "scene_confidence.tif"),
            "class map": (".*_classes.partial-*.tif", "scene_classes.tif"),
            "polygons": (".*_classes.partial-*.gpkg", "scene_classes.gpkg"),
            "picture": (".*_classes.partial-*.png", "scene_classes.png"),
            END: ("scene_classes.png",),
        },
        ("--resume",),
        "hrrsi.prediction.predict hrrsi.prediction.engines.graph_engines openvino "
        "hrrsi.maps.vector_files hrrsi.maps.preview",
        _all_files,
    ),
    "tile": Command(
        _tile,
        {START: (), "patches": (".data.partial-*/train/image/*",), END: ("data/dataset.yaml",)},
        ("--overwrite",),
        "hrrsi.tiling.tile",
        _all_files,
    ),
    "eval": Command(
        _evaluate,
        {
            START: (),
            "files": (".*.partial-*", "scores.json", "c.png"),
        },
        ("--overwrite",),
        "hrrsi.evaluation.evaluate hrrsi.prediction.engines.graph_engines openvino "
        "matplotlib.figure",
        _all_files,
    ),
    "train": Command(
        _train,
        _phases_of_run("ued"),
        ("--resume",),
        "hrrsi.training.run hrrsi.training.run_checks hrrsi.training.record hrrsi.runs.loop "
        "matplotlib.figure tensorboard.compat.proto.event_pb2",
        _of_run,
        grows=True,
    ),
    "pretrain": Command(
        _pretrain,
        _phases_of_run("ghostnet_050"),
        ("--resume",),
        "hrrsi.pretraining.run hrrsi.pretraining.classification hrrsi.runs.loop "
        "matplotlib.figure tensorboard.compat.proto.event_pb2",
        _of_run,
        grows=True,
    ),
}


# the packaged weights' classes, which `eval` needs
SCHEME = """
name: own
classes:
  - {name: Building, colour: [60, 16, 152]}
  - {name: Land, colour: [132, 41, 246]}
  - {name: Road, colour: [110, 193, 228]}
  - {name: Vegetation, colour: [254, 221, 58]}
  - {name: Water, colour: [226, 169, 41]}
images: ["images/{scene}.tif"]
labels: ["labels/{scene}.tif"]
label_format: indices
splits:
  standard: {train: [a], val: [b], test: []}
  all: {train: [], val: [], test: ["*"]}
"""


def write_inputs(folder: Path, side: int = 450) -> None:
    """Write a scene that takes a network a moment, labelled ones, a dataset and sorted images."""
    from hrrsi import TileOptions, tile

    rng = np.random.default_rng(0)
    scenes = {"scene": side, "raw/images/a": 192, "raw/images/b": 128}
    for number, (name, length) in enumerate(scenes.items()):
        corner = rasterio.Affine(0.3, 0, 500000 + 1000 * number, 0, -0.3, 2790000)
        place = {"crs": "EPSG:32640", "transform": corner}
        coarse = rng.integers(30, 220, (3, length // 20 + 1, length // 20 + 1), dtype=np.uint8)
        pixels = coarse.repeat(20, axis=1).repeat(20, axis=2)[:, :length, :length]
        _write(folder / f"{name}.tif", pixels, **place)
        if name != "scene":
            labels = (pixels[:1] > 120).astype(np.uint8)
            _write(folder / f"{name}.tif".replace("images", "labels"), labels, **place)
            for split in ("train", "val"):
                images = folder / "classes" / split / name[-1]
                images.mkdir(parents=True)
                for part in range(4):
                    crop = pixels[:, 30 * part : 30 * part + 40, :40].transpose(1, 2, 0)
                    Image.fromarray(crop).save(images / f"{part}.png")
    (folder / "own.yaml").write_text(SCHEME)
    tile(
        folder / "raw",
        folder / "own.yaml",
        folder / "dataset",
        options=TileOptions(size=64, workers=1),
    )


def _write(path: Path, pixels: npt.NDArray[np.uint8], **place: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=bands, dtype="uint8", **place
    ) as dataset:
        dataset.write(pixels)
