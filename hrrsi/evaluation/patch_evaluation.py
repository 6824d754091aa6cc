"""Evaluation on the patches of a tiled dataset, each seen on its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import closing

import numpy as np
import numpy.typing as npt

from hrrsi.errors import InputError
from hrrsi.evaluation.evaluated_strips import EvaluatedStrip
from hrrsi.evaluation.evaluation import (
    Evaluation,
    class_lookup,
    require_labels,
    scenes_seen_in_training,
)
from hrrsi.evaluation.scene_counts import PooledCounts, SceneCounts
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.prediction.blending import window_labels
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.scene_checks import BandWarning
from hrrsi.tiling.dataset import DESCRIPTION, TILE_AGAIN, DatasetDescription, TiledDataset
from hrrsi.tiling.patch_files import read_image, read_label

Indices = npt.NDArray[np.uint8]


def evaluate_dataset(
    dataset: TiledDataset,
    engine: Engine,
    *,
    split: str | None = None,
    on_patches: Callable[[int], object] | None = None,
) -> Evaluation:
    """Evaluate a network on the patches of a tiled dataset.

    Args:
        dataset: The dataset. A pixel that several patches hold has its label in one of them.
        engine: Runs the network.
        split: ``train``, ``val`` or ``test``; by default test if there is one, else val.
        on_patches: Called with the number of patches that have just been counted.

    Raises:
        InputError: No such split, other classes or bands than the weights', a patch that can't
            be read, or no labelled pixel.
    """
    description, meta, where = dataset.description, engine.meta, str(dataset.folder)
    split = split or default_split(dataset)
    new_index = class_lookup(meta.classes, description.classes, where)
    reading = _checked_reading(description, meta, where)
    patches = dataset.patches(split)
    content = description.split_content(split)
    if content is None:
        raise InputError(
            f"{DESCRIPTION} does not describe the split {split!r}",
            where=where,
            fix=TILE_AGAIN,
        )
    if content.labels == "none":
        raise InputError(
            f"its {split} split has no labels, so there is nothing to score",
            where=where,
            fix="choose another `split`",
        )
    counts = []
    images = (read_image(patch, description) for patch in patches)
    results = engine.logits(images, *meta.normalisation(description.scale))
    with closing(results):
        for patch, logits in zip(patches, results, strict=True):
            truth = read_label(patch, description)
            assert logits is not None
            height, width = truth.shape
            labels = window_labels(logits, height, width, engine.logit_stride)
            # a patch is a scene, and a block, of its own
            patch_counts = SceneCounts(
                patch.name,
                description.classes,
                content.labels,
                description.patch_size,
                candidates=description.candidates,
            )
            patch_counts.add([EvaluatedStrip(0, truth, new_index[labels])])
            counts.append(patch_counts)
            if on_patches:
                on_patches(1)
    pooled = PooledCounts(tuple(counts))
    require_labels(pooled, content.labels, f"{where}/{split}")
    return Evaluation(
        counts=pooled,
        colours=tuple(description.colours),
        data=description.scheme,
        split=f"{description.split}:{split}" if description.split else split,
        scenes=tuple(content.scenes),
        unit="patches",
        window=description.patch_size,
        overlap=0,
        labels=content.labels,
        unknown_pixels=0,
        augmentation="none",
        model=meta.model,
        seen_in_training=scenes_seen_in_training(meta, description.scheme, content.scenes),
        reading=reading,
    )


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


def _checked_reading(
    description: DatasetDescription, meta: ModelMeta, where: str
) -> tuple[str, ...]:
    """Return how patches differ from what the weights were trained on, for the record.

    Warns of bands with other numbers: in another scheme's scenes they may mean the same.

    Raises:
        InputError: There are more or fewer bands, or others of the same scheme's scenes.
    """
    content = (len(description.bands), description.height is not None)
    expected = (meta.image_bands, meta.height)
    if content != expected:
        words = [f"{bands} bands{' and heights' * height}" for bands, height in (content, expected)]
        raise InputError(
            f"its patches have {words[0]} where the weights expect {words[1]}",
            where=where,
            fix="take weights that were trained on such patches",
        )
    reading = []
    if description.bands != meta.bands:
        bands, trained = (",".join(map(str, own)) for own in (description.bands, meta.bands))
        what = f"its patches hold bands {bands} where the weights were trained on bands {trained}"
        if description.scheme == meta.scheme:
            raise InputError(
                what,
                where=where,
                fix=f"tile the scenes with `bands={trained}`, or take other weights",
            )
        warnings.warn(
            f"{where}: {what} of other scenes; check that they mean the same",
            BandWarning,
            stacklevel=3,
        )
        reading.append(f"bands {bands} for {trained}")
    if description.scale != meta.scale:
        reading.append(f"full brightness = {description.scale:g}")
    return tuple(reading)
