"""Evaluation on the patches of a tiled dataset, each seen on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hrrsi.blending import most_probable
from hrrsi.dataset import DESCRIPTION, DatasetDescription, Patch, TiledDataset
from hrrsi.engine import TorchEngine
from hrrsi.errors import HrrsiError
from hrrsi.evaluation import Evaluation, class_lookup, require_labels, scenes_seen_in_training
from hrrsi.networks import UED
from hrrsi.scene import Scene, open_raster
from hrrsi.scheme import IGNORE_INDEX
from hrrsi.scores import ConfusionMatrix
from hrrsi.window_reader import Normalisation, WindowPixels, read_window
from hrrsi.windows import Window

Indices = npt.NDArray[np.uint8]


def evaluate_dataset(
    dataset: TiledDataset,
    network: UED,
    *,
    split: str | None = None,
    batch: int = 4,
    device: str = "cpu",
    on_patches: Callable[[int], object] | None = None,
) -> Evaluation:
    """Evaluate a network on the patches of a tiled dataset.

    Args:
        dataset: The dataset. A pixel that several patches hold has its label in one of them.
        network: The network with its ``meta``; it is moved to `device`.
        split: ``train``, ``val`` or ``test``; by default test if there is one, else val.
        batch: Patches that the network sees at once; the matrix doesn't depend on it.
        device: Where the network runs.
        on_patches: Called with the number of patches that have just been counted.

    Raises:
        HrrsiError: No such split, other classes or bands than the weights', a patch that can't
            be read, or no labelled pixel.
    """
    description, meta, where = dataset.description, network.meta, str(dataset.folder)
    split = split or default_split(dataset)
    new_index = class_lookup(meta["classes"], description.classes, where)
    _check_bands(len(description.bands), len(meta["mean"]), where)
    patches = dataset.patches(split)
    content = description.splits.get(split)  # type: ignore[call-overload]  # maybe not one of them
    if content is None:
        raise HrrsiError(
            f"{DESCRIPTION} does not describe the split {split!r}",
            where=where,
            fix="run `hrrsi tile` again with --overwrite",
        )
    scale = meta["scale"] if description.dtype == meta["dtype"] else description.scale
    normalisation = Normalisation(scale, meta["mean"], meta["std"])
    engine = TorchEngine(network, device)
    matrix = ConfusionMatrix(description.classes)
    ignored = 0
    for start in range(0, len(patches), batch):
        group = patches[start : start + batch]
        reads = [_image(patch, description, normalisation) for patch in group]
        for patch, predicted in zip(group, _predictions(reads, engine), strict=True):
            truth = _truth(patch, description)
            matrix.add(new_index[predicted], truth)
            ignored += int((truth == IGNORE_INDEX).sum())
        if on_patches:
            on_patches(len(group))
    require_labels(matrix, f"{where}/{split}")
    return Evaluation(
        matrix=matrix,
        colours=tuple(description.colours),
        data=description.scheme,
        split=f"{description.split}:{split}" if description.split else split,
        scenes=tuple(content.scenes),
        unit="patches",
        window=description.patch_size,
        overlap=0,
        labels=content.labels,
        ignored_pixels=ignored,
        unknown_pixels=0,
        model=meta["model"],
        seen_in_training=scenes_seen_in_training(meta, description.scheme, content.scenes),
    )


def default_split(dataset: TiledDataset) -> str:
    """Return the split that is evaluated unless another is asked for: test, else val.

    Raises:
        HrrsiError: The dataset has patches in neither.
    """
    for split in ("test", "val"):
        if next((dataset.folder / split / "image").glob("*"), None) is not None:
            return split
    raise HrrsiError(
        "has neither test nor val patches", where=dataset.folder, fix="tile it with such scenes"
    )


def _check_bands(bands: int, expected: int, where: str) -> None:
    if bands != expected:
        raise HrrsiError(
            f"its patches have {bands} bands where the weights expect {expected}",
            where=where,
            fix="take weights that were trained on such patches",
        )


def _image(
    patch: Patch, description: DatasetDescription, normalisation: Normalisation
) -> WindowPixels:
    with _open_patch(patch.image, description.patch_size, len(description.bands)) as scene:
        return read_window(scene, Window(0, 0, scene.height, scene.width), normalisation)


def _truth(patch: Patch, description: DatasetDescription) -> Indices:
    with _open_patch(patch.label, description.patch_size, 1) as scene:
        truth: Indices = scene.read(Window(0, 0, scene.height, scene.width))[0]
    classes = len(description.classes)
    unknown = (truth >= classes) & (truth != IGNORE_INDEX)
    if unknown.any():
        row, col = np.argwhere(unknown)[0]
        raise HrrsiError(
            f"holds the class index {truth[row, col]} at row {row}, column {col}, where the "
            f"dataset has {classes} classes",
            where=patch.label,
            fix="run `hrrsi tile` again with --overwrite",
        )
    return truth


@contextmanager
def _open_patch(path: Path, size: int, bands: int) -> Iterator[Scene]:
    with open_raster(path) as dataset:
        if (dataset.height, dataset.width, dataset.count) != (size, size, bands):
            raise HrrsiError(
                f"has {dataset.height} rows, {dataset.width} columns and {dataset.count} bands, "
                f"not {size}, {size} and {bands}",
                where=path,
                fix="run `hrrsi tile` again with --overwrite",
            )
        yield Scene(str(path), dataset, tuple(range(1, bands + 1)))


def _predictions(reads: Sequence[WindowPixels], engine: TorchEngine) -> list[Indices]:
    """Return the predicted class indices of patches, 255 where they hold no data."""
    pixels = [read.pixels for read in reads if read.pixels is not None]
    results = iter(engine.probabilities(np.stack(pixels)) if pixels else ())
    predictions: list[Indices] = []
    for read in reads:
        if read.pixels is None:
            shape = (read.window.height, read.window.width)
            predictions.append(np.full(shape, IGNORE_INDEX, dtype=np.uint8))
            continue
        predicted = most_probable(next(results))
        if read.valid is not None:
            predicted[~read.valid] = IGNORE_INDEX
        predictions.append(predicted)
    return predictions
