"""What was counted of a map, what made the map, and how its classes meet those of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from hrrsi.classes import IGNORE_INDEX, Colour
from hrrsi.errors import InputError, warn
from hrrsi.evaluation.options import LabelKind
from hrrsi.evaluation.scene_counts import PooledCounts, SceneCounts
from hrrsi.files import content_digest
from hrrsi.labels.splits import scene_of_block
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.weights_file import (
    is_packaged_name,
    packaged_name,
    weights_path,
    weights_words,
)
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.scene_remarks import SceneWarning
from hrrsi.tiling.result import placement_notes


class EvaluationWarning(SceneWarning):
    """Something about what is evaluated that a reader of its scores has to know."""


def warn_of_placements(placements: Mapping[str, str]) -> None:
    """Warn of labels that don't lie on their scenes pixel by pixel.

    Args:
        placements: How they lie, by scene.
    """
    for line in placement_notes(placements):
        warn(line.removeprefix("warning: "), EvaluationWarning)


@dataclass(frozen=True)
class Evaluation:
    """What was counted of a map, and what it was counted on.

    Attributes:
        counts: Of each scene, or of each patch; their classes are those of the data.
        colours: Class colours, in the order of the classes.
        data: Name of the label scheme.
        split: What was evaluated, e.g. ``test`` or ``paper:val``, or None for chosen scenes.
        scenes: Names of the scenes.
        unit: Whole scenes stitched from windows; patches, each seen on its own; or maps that were
            there.
        window: Rows and columns of a window or patch; 0 for maps.
        overlap: Pixels that neighbouring windows share; 0 for patches and maps.
        labels: Whether the labels that were read are full, or eroded at the borders of classes.
        unknown_pixels: Pixels whose label the scheme doesn't know; they are ignored.
        augmentation: Test-time augmentation: ``none``, ``flip`` or ``d4``.
        model: Name of the network, or None where it is not known.
        seen_in_training: Those of the scenes that the weights were trained on.
        reading: What changed how scenes, patches and labels were read, e.g. ``bands 3,2,1``.
        outside_pixels: Pixels outside of the area of interest; they are ignored.
        uncompared_pixels: Labelled pixels where the map that this one is compared with predicts
            nothing, and this one does; they are in no score. None: it is compared with none.
    """

    counts: PooledCounts
    colours: tuple[Colour, ...]
    data: str
    split: str | None
    scenes: tuple[str, ...]
    unit: Literal["whole scenes", "patches", "maps"]
    window: int
    overlap: int
    labels: LabelKind
    unknown_pixels: int
    augmentation: str
    model: str | None
    seen_in_training: tuple[str, ...]
    reading: tuple[str, ...] = ()
    outside_pixels: int = 0
    uncompared_pixels: int | None = None

    @property
    def unlabelled_pixels(self) -> int:
        """Pixels of interest without a class in the truth."""
        return self.counts.ignored_pixels - self.outside_pixels

    @property
    def is_compared(self) -> bool:
        """Whether only what another map predicts too was scored."""
        return self.uncompared_pixels is not None


@dataclass(frozen=True)
class Inference:
    """Weights that predicted, and how.

    Attributes:
        weights: The weights as they were named; those inside the package by their file name.
        path: Their file.
        words: Which weights they are, as every command says it (`weights_words`).
        packaged: The name of the package's weights that these are, or None.
        model: Name of the network.
        sha256: Digest of their content, in hexadecimal digits.
        engine: Name of the engine that ran them.
        precision: What it calculated in.
        device: What it calculated on.
    """

    weights: str
    path: Path
    words: str
    packaged: str | None
    model: str
    sha256: str
    engine: str
    precision: str
    device: str

    @property
    def name(self) -> str:
        """What it is, in a few words."""
        return f"weights {self.weights} ({self.model})"

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files or folders that were named."""
        return (self.path,)


def inference_with(engine: Engine, weights: str | Path | None) -> Inference:
    """Return what an engine predicts with.

    Args:
        engine: The engine.
        weights: The weights that it runs, as `weights_path` takes them.

    Raises:
        WeightsError: The weights can't be read.
    """
    path = weights_path(weights)
    return Inference(
        weights=path.name if weights is None or is_packaged_name(weights) else str(weights),
        path=path,
        words=weights_words(path, engine.meta),
        packaged=packaged_name(path),
        model=engine.meta.model,
        sha256=content_digest(path),
        engine=engine.name,
        precision=engine.precision,
        device=engine.device,
    )


@dataclass(frozen=True)
class MapFiles:
    """Maps that were there, whatever made them.

    Attributes:
        paths: Their files, those of each scene.
        inputs: The files or folders that were named.
    """

    paths: tuple[str, ...]
    inputs: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """What it is, in a few words."""
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"map {self.paths[0]}{more}"


MapSource = Inference | MapFiles


def class_lookup(weights: Sequence[str], data: Sequence[str], where: str) -> npt.NDArray[np.uint8]:
    """Return the index in the data of each class of the weights; names match in any case.

    Args:
        weights: Class names in the order of the logits.
        data: Class names in the order of the labels' indices.
        where: Where the data are from, for messages.

    Returns:
        (256,) uint8; 255 stays 255.

    Raises:
        InputError: A class that only one of them has.
    """
    places = {name.casefold(): index for index, name in enumerate(data)}
    predicted = {name.casefold() for name in weights}
    absent = [name for name in data if name.casefold() not in predicted]
    extra = [name for name in weights if name.casefold() not in places]
    if absent or extra:
        parts = [
            f"{verb} {', '.join(names)}"
            for verb, names in (("lack", absent), ("have besides", extra))
            if names
        ]
        raise InputError(
            f"the weights do not predict its classes: they {' and '.join(parts)}",
            where=where,
            fix="take weights trained on these classes, or `merges` the data's into theirs",
        )
    lookup = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    lookup[: len(weights)] = [places[name.casefold()] for name in weights]
    return lookup


def scenes_seen_in_training(meta: ModelMeta, data: str, scenes: Sequence[str]) -> tuple[str, ...]:
    """Return those of some scenes that weights were trained on, as far as they say so.

    A scene of which they saw a block is one of them.

    Args:
        meta: What the weights say of themselves (`hrrsi.networks.model_meta.ModelMeta`).
        data: Name of the scenes' label scheme; scenes of another scheme are other scenes.
        scenes: Names of scenes.
    """
    trained = meta.training.get("scenes")
    datasets = meta.training.get("datasets")  # of several, whose names begin their scenes'
    schemes = {"": meta.scheme}
    if isinstance(datasets, dict):
        schemes = {f"{name}/": about.get("scheme") for name, about in datasets.items()}
    own = [prefix for prefix, scheme in schemes.items() if scheme == data]
    if not isinstance(trained, list) or not own:
        return ()
    names = [
        str(name).removeprefix(prefix)
        for prefix in own
        for name in trained
        if str(name).startswith(prefix)
    ]
    training_scenes = {*names, *map(scene_of_block, names)}
    return tuple(scene for scene in scenes if scene in training_scenes)


def pooled_counts(counts: Sequence[SceneCounts], labels: LabelKind, where: str) -> PooledCounts:
    """Return the counts of all scenes together.

    Args:
        counts: Those of each scene.
        labels: As for `require_labels`.
        where: Likewise.

    Raises:
        InputError: As `require_labels`.
    """
    pooled = PooledCounts(tuple(counts))
    require_labels(pooled, labels, where)
    return pooled


def require_labels(counts: PooledCounts, labels: LabelKind, where: str) -> None:
    """Raise unless pixels were counted.

    Args:
        counts: What was counted.
        labels: What the labels that were read are.
        where: Where they are from, for the message.

    Raises:
        InputError: There are none.
    """
    matrix = counts.matrix(labels)
    if not matrix.pixels:
        labelled = int(matrix.unpredicted.sum())
        raise InputError(
            "no pixel has both a label and data, so there is nothing to score",
            where=where,
            fix=f"nothing is predicted on its {labelled:,} labelled pixels: check the map or image"
            if labelled
            else "nothing has a label there: check the labels, and `aoi` where it is given",
        )
