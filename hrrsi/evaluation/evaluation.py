"""What an evaluation yields, and how the weights' classes meet those of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hrrsi.errors import HrrsiError
from hrrsi.evaluation.scores import ConfusionMatrix
from hrrsi.labels.scheme import IGNORE_INDEX, Colour


@dataclass(frozen=True)
class Evaluation:
    """A confusion matrix, and what it was counted on.

    Attributes:
        matrix: Its classes are those of the data, in their order.
        colours: Class colours, likewise.
        data: Name of the label scheme.
        split: What was evaluated, e.g. ``test`` or ``paper:val``, or None for chosen scenes.
        scenes: Names of the scenes.
        unit: Whole scenes stitched from windows, or patches, each seen on its own.
        window: Rows and columns of a window or patch.
        overlap: Pixels that neighbouring windows share; 0 for patches.
        labels: Whether the labels were full, or eroded at the borders of classes.
        ignored_pixels: Pixels without a class in the truth, which no score counts.
        unknown_pixels: Those among them whose label the scheme doesn't know.
        model: Name of the network.
        seen_in_training: Those of the scenes that the weights were trained on.
        reading: What changed how scenes, patches and labels were read, e.g. ``bands 3,2,1``.
    """

    matrix: ConfusionMatrix
    colours: tuple[Colour, ...]
    data: str
    split: str | None
    scenes: tuple[str, ...]
    unit: Literal["whole scenes", "patches"]
    window: int
    overlap: int
    labels: Literal["full", "eroded"]
    ignored_pixels: int
    unknown_pixels: int
    model: str
    seen_in_training: tuple[str, ...]
    reading: tuple[str, ...] = ()


def class_lookup(weights: Sequence[str], data: Sequence[str], where: str) -> npt.NDArray[np.uint8]:
    """Return the index in the data of each class of the weights; names match in any case.

    Args:
        weights: Class names in the order of the logits.
        data: Class names in the order of the labels' indices.
        where: Where the data are from, for messages.

    Returns:
        (256,) uint8; 255 stays 255.

    Raises:
        HrrsiError: A class that only one of them has.
    """
    places = {name.casefold(): index for index, name in enumerate(data)}
    known = {name.casefold() for name in weights}
    missing = [name for name in data if name.casefold() not in known]
    extra = [name for name in weights if name.casefold() not in places]
    if missing or extra:
        parts = [
            f"{what} {', '.join(names)}"
            for what, names in (("lack", missing), ("have besides", extra))
            if names
        ]
        raise HrrsiError(
            f"the weights do not predict its classes: they {' and '.join(parts)}",
            where=where,
            fix="take weights trained on these classes, or --merge the data's into theirs",
        )
    lookup = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    lookup[: len(weights)] = [places[name.casefold()] for name in weights]
    return lookup


def scenes_seen_in_training(
    meta: Mapping[str, Any], data: str, scenes: Sequence[str]
) -> tuple[str, ...]:
    """Return those of some scenes that weights were trained on, as far as they say so.

    Args:
        meta: What the weights say of themselves (`hrrsi.weights.ModelMeta`).
        data: Name of the scenes' label scheme; scenes of another scheme are other scenes.
        scenes: Names of scenes.
    """
    trained = meta["training"].get("scenes") if meta["scheme"] == data else None
    return tuple(s for s in scenes if s in trained) if isinstance(trained, list) else ()


def require_labels(matrix: ConfusionMatrix, where: str) -> None:
    """Raise unless a matrix holds a pixel.

    Raises:
        HrrsiError: It holds none.
    """
    if not matrix.pixels:
        raise HrrsiError(
            "no pixel has both a label and data, so there is nothing to score",
            where=where,
            fix="evaluate data with labels",
        )
