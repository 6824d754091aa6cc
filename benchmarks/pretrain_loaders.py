"""Images per second of pre-training's two loaders, on JPEGs of ImageNet's size.

The JPEGs are crops of a real image, in a temporary folder. Rounds are interleaved, so that a
machine that slows down slows both down; a figure is the median round's. What is timed is a whole
epoch of training batches, as `hrrsi pretrain` gets them (read, decoded, cropped at random,
resized to 224 px, mirrored), after one epoch that is not: files are in memory, and processes and
threads have started. Nothing is trained.

    python benchmarks/pretrain_loaders.py --workers 1,2
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from hrrsi.hardware import chosen_device
from hrrsi.pretraining.batches import training_batches
from hrrsi.pretraining.images import ImageFolders, image_folders
from hrrsi.pretraining.options import Loader, PretrainOptions, PretrainRecipe, has_dali
from hrrsi.quantities import TextTable

REPOSITORY = Path(__file__).parent.parent
LOADERS: tuple[Loader, ...] = ("torchvision", "dali")
WIDTH, HEIGHT, QUALITY = 500, 375, 95
CLASSES = 4


def write_images(folder: Path, texture: Path, images: int) -> float:
    """Write a dataset of JPEGs, and return their mean size in kilobytes."""
    scene = Image.open(texture).convert("RGB")
    random = np.random.default_rng(1)
    sizes = []
    for number in range(images):
        zoom = random.uniform(0.6, 1.4)
        width, height = round(WIDTH * zoom), round(HEIGHT * zoom)
        left = int(random.integers(scene.width - width + 1))
        top = int(random.integers(scene.height - height + 1))
        crop = scene.crop((left, top, left + width, top + height)).resize((WIDTH, HEIGHT))
        path = folder / "train" / f"class{number % CLASSES}" / f"{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        crop.save(path, quality=QUALITY)
        sizes.append(path.stat().st_size / 1024)
        if number < CLASSES:
            (folder / "val" / path.parent.name).mkdir(parents=True)
            crop.save(folder / "val" / path.parent.name / path.name)
    return statistics.mean(sizes)


class Rate(NamedTuple):
    """What a loader comes to.

    Attributes:
        images: Images per second.
        milliseconds: Of one core, for an image; hardly moves with what else the machine does.
    """

    images: float
    milliseconds: float


def rate(
    folders: ImageFolders, loader: Loader, workers: int, batch: int, device: torch.device
) -> Rate:
    """Return the images per second of an epoch, and what an image costs."""
    cores_before = core_seconds()
    options = PretrainOptions(
        data=folders.folder, recipe=PretrainRecipe(batch=batch), loader=loader, workers=workers
    )
    with training_batches(folders, options, device) as batches:
        for _ in batches:
            pass
        batches.set_epoch(1)
        started = time.perf_counter()
        images = sum(len(batch.labels) for batch in batches)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    gc.collect()  # its processes and threads end
    return Rate(images / seconds, 1000 * (core_seconds() - cores_before) / (2 * images))


def core_seconds() -> float:
    """Return the processor time of this process and of those that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def machine() -> str:
    """Return what figures depend on beside the code."""
    named = []
    for package in ("torch", "torchvision", "pillow", "nvidia-dali-cuda130", "nvidia-dali-cuda120"):
        try:
            named.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return f"{platform.machine()}, {cores} cores, load {load:.1f} before; {', '.join(named)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1024, help="JPEGs of an epoch")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--workers", default="1,2", help="processes or threads, e.g. 1,2,4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto", help="where DALI decodes: cpu or cuda")
    parser.add_argument("--texture", type=Path, default=REPOSITORY / "examples" / "dubai_tile1.tif")
    arguments = parser.parse_args()
    device = torch.device(chosen_device(arguments.device))
    counts = [int(count) for count in arguments.workers.split(",")]
    loaders = [name for name in LOADERS if name != "dali" or has_dali()]
    print(machine())
    if "dali" not in loaders:
        print("NVIDIA DALI is not installed: pip install 'hrrsi[dali]'")
    with tempfile.TemporaryDirectory() as folder:
        size = write_images(Path(folder), arguments.texture, arguments.images)
        print(f"{arguments.images} JPEGs of {WIDTH}x{HEIGHT} px, {size:.0f} KB each on average")
        folders = image_folders(Path(folder))
        measured: dict[tuple[int, Loader], list[Rate]] = {}
        for _ in range(arguments.rounds):
            for workers in counts:
                for loader in loaders:
                    measurement = rate(folders, loader, workers, arguments.batch, device)
                    measured.setdefault((workers, loader), []).append(measurement)
    table = TextTable(
        ["workers", "loader", "images/s", "slowest to fastest", "core ms an image"],
        left=(0, 1),
    )
    for workers in counts:
        for loader in loaders:
            rates = measured[workers, loader]
            images = [measurement.images for measurement in rates]
            table.add_row(
                [
                    workers,
                    loader,
                    f"{statistics.median(images):.0f}",
                    f"{min(images):.0f} to {max(images):.0f}",
                    f"{statistics.median(r.milliseconds for r in rates):.2f}",
                ]
            )
    print(table)
    print(
        f"load {os.getloadavg()[0]:.1f} afterwards; workers: processes of PyTorch, threads of DALI"
    )


if __name__ == "__main__":
    main()
