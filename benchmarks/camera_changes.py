r"""What other cameras cost a map, and how much of that training against them saves.

Labelled scenes that no training has seen are changed as `hrrsi train --camera` changes patches, one
change at a time and each scene by a strength of its own. Then weights are scored on what comes out:

    python benchmarks/camera_changes.py SCENES --scheme SCHEME.yaml --pattern 'claremont_*' \
        --weights all=with.safetensors --weights none=without.safetensors

Give weights that differ in nothing but the recipe's `camera`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import count
from pathlib import Path

import numpy as np
import rasterio
from tqdm import tqdm

import hrrsi
from hrrsi.labels.labelled_scenes import SceneFiles, labelled_scenes
from hrrsi.labels.scheme import load_scheme
from hrrsi.quantities import TextTable
from hrrsi.training.augmentation import CameraChanges
from hrrsi.training.options import CAMERA_CHANGES

UNCHANGED = "none"


def seeds(change: str) -> Iterator[int]:
    """Yield seeds that make a change: a change of its own strength each."""
    changes = CameraChanges((change,), 255)
    return (seed for seed in count() if changes.names(seed))


def write_changed(files: list[SceneFiles], change: str, source: Path, folder: Path) -> None:
    """Copy scenes and their labels, with the scenes changed."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.xml"))
    if change == UNCHANGED:
        return
    camera = CameraChanges((change,), 255)
    for file, seed in zip(files, seeds(change), strict=False):
        path = folder / Path(file.image).relative_to(source)
        with rasterio.open(path) as dataset:
            profile, image = dataset.profile, dataset.read((1, 2, 3)).transpose(1, 2, 0)
        valid = np.zeros(image.shape[:2], np.uint8)
        changed = camera(image, valid, seed)
        path.unlink()
        profile.update(driver="GTiff", count=3, compress="deflate", photometric="rgb", tiled=False)
        profile = {key: profile[key] for key in profile if not key.startswith("block")}
        with rasterio.open(path, "w", **profile) as dataset:
            dataset.write(changed.transpose(2, 0, 1))


def main() -> None:
    """Print a table: a line for each change, a column for each of the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--scheme", required=True)
    parser.add_argument("--pattern", default="*", help="of the scenes' names")
    parser.add_argument("--weights", action="append", required=True, metavar="NAME=FILE")
    arguments = parser.parse_args()
    weights = dict(pair.split("=", 1) for pair in arguments.weights)
    scheme = load_scheme(arguments.scheme)
    files = [
        file
        for file in labelled_scenes([arguments.scenes], scheme)
        if fnmatch(file.name, arguments.pattern)
    ]
    options = hrrsi.EvaluationOptions(scheme=arguments.scheme, scenes=(arguments.pattern,))
    table = TextTable(["change", *(f"mIoU, {name}" for name in weights)])
    for change in tqdm((UNCHANGED, *CAMERA_CHANGES), unit="change"):
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unlike the training data: that is the point
            scenes = Path(folder) / "scenes"
            write_changed(files, change, arguments.scenes, scenes)
            results = [
                hrrsi.evaluate(scenes, weights=file, options=options) for file in weights.values()
            ]
        table.add_row([change, *(f"{100 * result.scores.mean_iou:.1f}" for result in results)])
    print(table)


if __name__ == "__main__":
    main()
