"""Evaluation of weights on the patches of a tiled dataset."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hrrsi.errors import InputError, warn
from hrrsi.evaluation.evaluated_strips import EvaluatedStrip
from hrrsi.evaluation.evaluation import (
    Evaluation,
    class_lookup,
    pooled_counts,
    scenes_seen_in_training,
)
from hrrsi.evaluation.options import LabelKind
from hrrsi.evaluation.scene_counts import SceneCounts
from hrrsi.evaluation.scores import ConfusionMatrix
from hrrsi.labels.scene_labels import Indices
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.prediction.blending import window_labels
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.options import MapOptions, Resample
from hrrsi.prediction.reading_resolution import ReadingResolution
from hrrsi.prediction.scene_remarks import BandWarning, SceneRemarks
from hrrsi.prediction.sliding_window import predict_strips
from hrrsi.scenes.resampling import nearest_step, required_step
from hrrsi.scenes.window_source import ArrayWindows
from hrrsi.scenes.windows import LARGEST_WINDOW
from hrrsi.tiling.dataset import (
    DESCRIPTION,
    TILE_AGAIN,
    DatasetDescription,
    Patch,
    SplitContent,
    TiledDataset,
    read_image,
    read_label,
)


def evaluate_dataset(
    dataset: TiledDataset,
    engine: Engine,
    resample: Resample = "auto",
    *,
    split: str | None = None,
    on_patches: Callable[[int], object] | None = None,
) -> Evaluation:
    """Evaluate a network on the patches of a tiled dataset.

    Args:
        dataset: The dataset. A pixel that several patches hold has its label in one of them.
        engine: Runs the network.
        resample: Ground resolution at which patches are read, as in `MapOptions`.
        split: ``train``, ``val`` or ``test``; by default test if there is one, else val.
        on_patches: Called with the number of patches that have just been counted.

    Raises:
        InputError: No such split, other classes or bands than the weights', a patch that can't
            be read or not at that resolution, or no labelled pixel.
    """
    description, meta, where = dataset.description, engine.meta, str(dataset.folder)
    split = split or default_split(dataset)
    reading = split_reading(dataset, meta, split)
    content, new_index = reading.content, reading.new_index
    patches = dataset.patches(split)
    counts = []
    words = reading.words
    step = _patch_step(description, meta, resample, where)
    if step != 1 and description.metres_per_pixel is not None:
        words = (*words, f"read at {description.metres_per_pixel * step:.3g} m")
    elif resample == "off":
        words = (*words, "read at their own resolution")
    if meta.window not in (None, description.patch_size):
        words = (*words, f"stitched from windows of {meta.window} px")
    with closing(patch_labels(patches, description, engine, step)) as results:
        for patch, labels in zip(patches, results, strict=True):
            truth = read_label(patch, description)
            # a patch is a block of its own
            patch_counts = SceneCounts(
                patch.name,
                description.classes,
                reading.labels,
                description.patch_size,
                candidates=description.candidates,
                scene=patch.scene,
            )
            patch_counts.add([EvaluatedStrip(0, truth, new_index[labels])])
            counts.append(patch_counts)
            if on_patches:
                on_patches(1)
    return Evaluation(
        counts=pooled_counts(counts, reading.labels, f"{where}/{split}"),
        colours=tuple(description.colours),
        data=description.scheme,
        split=f"{description.split}:{split}" if description.split else split,
        scenes=tuple(content.scenes),
        unit="patches",
        window=description.patch_size,
        overlap=0,
        labels=reading.labels,
        unknown_pixels=0,
        augmentation="none",
        model=meta.model,
        seen_in_training=scenes_seen_in_training(meta, description.scheme, content.scenes),
        reading=words,
    )


class SplitReading(NamedTuple):
    """How weights read a split of a dataset.

    Attributes:
        content: What the dataset says of the split.
        labels: What its labels are.
        new_index: (256,) uint8, the index in the dataset of each class of the weights.
        words: How its patches differ from what the weights were trained on, for the record.
    """

    content: SplitContent
    labels: LabelKind
    new_index: Indices
    words: tuple[str, ...]


def split_reading(dataset: TiledDataset, meta: ModelMeta, split: str) -> SplitReading:
    """Return how weights read a split of a dataset.

    Raises:
        InputError: Other classes or bands than the weights', or the split has no labels.
    """
    description, where = dataset.description, str(dataset.folder)
    new_index = class_lookup(meta.classes, description.classes, where)
    words = checked_reading(description, meta, where)
    content = description.split_content(split)
    if content is None:
        raise InputError(
            f"{DESCRIPTION} does not describe the split {split!r}", where=where, fix=TILE_AGAIN
        )
    if content.labels == "none":
        raise InputError(
            f"its {split} split has no labels, so there is nothing to score",
            where=where,
            fix="choose another `split`, or tile scenes that have labels",
        )
    return SplitReading(content, content.labels, new_index, words)


def _patch_step(
    description: DatasetDescription, meta: ModelMeta, resample: Resample, where: str
) -> float:
    """Return how many of the patches' pixels one is wide that the network sees.

    Says where it is another resolution than the patches' own.

    Raises:
        InputError: Their own is not known, or too coarse for it.
    """
    own = description.metres_per_pixel
    resolution = ReadingResolution(meta, resample, SceneRemarks()).of_pixels(where, own)
    return 1.0 if resolution is None else required_step(own, resolution, where)


def patch_labels(
    patches: Sequence[Patch], description: DatasetDescription, engine: Engine, step: float = 1.0
) -> Generator[npt.NDArray[np.uint8], None, None]:
    """Yield the labels that a network gives the patches of a dataset, each seen on its own.

    An exported network whose windows are of another size sees a patch as it would a scene.

    Args:
        patches: The patches.
        description: What the dataset says of them.
        engine: Runs the network.
        step: The patches' pixels in one that the network sees, along each axis.

    Yields:
        (patch_size, patch_size) class indices of the weights.
    """
    size, meta = description.patch_size, engine.meta
    images = (read_image(patch, description) for patch in patches)
    if step == 1 and meta.window in (None, size):
        with closing(engine.logits(images, *meta.normalisation(description.scale))) as results:
            for logits in results:
                assert logits is not None
                yield window_labels(logits, size, size, engine.logit_grid)
        return
    options = MapOptions(scale=description.scale)
    if meta.window is None:  # one window holds all of a patch
        side = -(-max(1, math.ceil(size / step)) // 32) * 32
        options = replace(options, window=min(side, LARGEST_WINDOW), overlap=0)
    options = options.fitting(meta)
    for image in images:
        source = ArrayWindows(image, has_height=meta.height, steps=(step, step))
        with closing(predict_strips(source, engine, options)) as strips:
            yield np.concatenate([strip.labels for strip in strips])


class PairedCounts(NamedTuple):
    """What two networks give the same patches.

    Attributes:
        matrices: Counts of each.
        agreement: Share of all pixels, labelled or not, that both give the same label.
    """

    matrices: tuple[ConfusionMatrix, ConfusionMatrix]
    agreement: float


def paired_counts(
    dataset: TiledDataset,
    engines: tuple[Engine, Engine],
    split: str,
    *,
    on_patches: Callable[[int], object],
) -> PairedCounts:
    """Return the counts of two networks of the same classes on the patches of a split.

    Args:
        dataset: The dataset.
        engines: Run the networks.
        split: ``train``, ``val`` or ``test``.
        on_patches: Called with the number of patches that have just been counted.

    Raises:
        InputError: As `split_reading`, or a patch can't be read.
    """
    description, patches = dataset.description, dataset.patches(split)
    meta = engines[0].meta
    new_index = split_reading(dataset, meta, split).new_index
    step = nearest_step(description.metres_per_pixel, meta.resolutions)
    first, second = (
        ConfusionMatrix(description.classes, candidates=description.candidates) for _ in engines
    )
    agreeing = 0
    with ExitStack() as stack:
        labels = [
            stack.enter_context(closing(patch_labels(patches, description, engine, step)))
            for engine in engines
        ]
        for patch, own, other in zip(patches, *labels, strict=True):
            truth = read_label(patch, description)
            first.add(new_index[own], truth)
            second.add(new_index[other], truth)
            agreeing += int((own == other).sum())
            on_patches(1)
    return PairedCounts((first, second), agreeing / (len(patches) * description.patch_size**2))


def default_split(dataset: TiledDataset) -> str:
    """Return the split that is evaluated unless another is asked for: test, else val.

    Raises:
        InputError: The dataset has patches in neither.
    """
    for split in ("test", "val"):
        if next((dataset.folder / split / "image").glob("*"), None) is not None:
            return split
    raise InputError(
        "has neither test nor val patches", where=dataset.folder, fix="tile it with such scenes"
    )


def require_scores(dataset: TiledDataset, split: str) -> None:
    """Raise where no pixel of a split's labels is of a single class, so that nothing has a score.

    Raises:
        InputError: All its labels are partial.
    """
    content = dataset.description.split_content(split)
    if content is not None and not sum(content.class_pixels):
        raise InputError(
            f"the labels of its {split} split are partial, each of several classes, so there is no "
            "score",
            where=dataset.folder,
            fix="tile scenes for it whose labels show single classes (of outlines: with polygons)",
        )


def checked_reading(
    description: DatasetDescription, meta: ModelMeta, where: str
) -> tuple[str, ...]:
    """Return how patches differ from what the weights were trained on, for the record.

    Args:
        description: What the dataset says of its patches.
        meta: What the weights say of themselves.
        where: The dataset, for messages.

    Warns of bands that show something else, or, where nobody says what they show, have other
    numbers: in another scheme's scenes these may mean the same.

    Raises:
        InputError: There are more or fewer bands, or others of the same scheme's scenes.
    """
    pair = description.input_bands, meta.input_bands
    content, expected = ((len(bands.numbers), bands.has_height) for bands in pair)
    if content != expected:
        words = [f"{bands} bands{' and heights' * height}" for bands, height in (content, expected)]
        raise InputError(
            f"its patches have {words[0]} where the weights expect {words[1]}",
            where=where,
            fix="take weights that were trained on such patches",
        )
    reading = []
    names = pair[0].difference(pair[1])
    if names is not None:
        own, trained = (", ".join(part) for part in names)
        difference = f"its patches hold {own} where the weights were trained on {trained}"
        if description.scheme == meta.scheme and description.bands != meta.bands:
            numbers = ",".join(map(str, meta.bands))
            raise InputError(
                difference,
                where=where,
                fix=f"tile the scenes with `bands={numbers}`, or take other weights",
            )
        warn(
            f"{where}: {difference}; check that they mean the same, or expect worse scores",
            BandWarning,
        )
        reading.append(f"{own} for {trained}")
    if description.scale != meta.scale:
        reading.append(f"full brightness = {description.scale:g}")
    return tuple(reading)
