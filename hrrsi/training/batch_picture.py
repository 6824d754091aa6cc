"""What the network sees: the first training patches of a run as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from hrrsi.classes import IGNORE_INDEX
from hrrsi.errors import OutputError, OutputExistsError
from hrrsi.files import prepare_folder, replacing
from hrrsi.tiling.dataset import DatasetDescription, TiledDataset
from hrrsi.training.losses import edge_target
from hrrsi.training.options import TrainOptions
from hrrsi.training.patch_batches import training_batches
from hrrsi.training.patch_pictures import (
    RGB,
    Group,
    Key,
    class_keys,
    class_panel,
    grey,
    natural_colours,
    panel_side,
    patch_picture,
    plain_swatch,
    resized,
    stretch_limits,
    striped_swatch,
    with_stripes,
)

_PATCHES = 8
_COLUMNS = ("image", "label", "edge target", "what counts")
_ACROSS = 2
_LABEL_SHARE = 0.8
_EDGE, _NO_EDGE = (255, 255, 255), (0, 0, 0)


class SeenPatch(NamedTuple):
    """A patch as the network sees it.

    Attributes:
        name: Of the patch's file.
        image: (bands, size, size) in the patches' type, augmented.
        label: (size, size) uint8, 255 where ignored.
    """

    name: str
    image: npt.NDArray[Any]
    label: npt.NDArray[np.uint8]


def write_batch_picture(
    options: TrainOptions, path: Path, *, overwrite: bool = False, patches: int = _PATCHES
) -> None:
    """Draw the first patches that a run would train on, augmented, as a PNG.

    Each patch is a row of panels: its first three bands (uint8 as they are; other types
    stretched from the 2nd to the 98th percentile of the patches shown), its label in the
    scheme's colours over them, the target of the edge loss, and the pixels that count: striped
    ones no loss looks at. Further bands follow in grey below.

    Args:
        options: The run, as for `hrrsi.training.run.train`; nothing is trained.
        path: The picture.
        overwrite: Replace an existing picture.
        patches: How many patches to draw at most.

    Raises:
        HrrsiError: The picture exists, or the dataset can't be read.
    """
    if path.is_dir():
        raise OutputError("is a folder", where=path, fix="name a .png file in it")
    if path.exists() and not overwrite:
        raise OutputExistsError(
            "exists already", where=path, fix="give `overwrite=True` to replace it, or another name"
        )
    prepare_folder(path.parent)
    dataset = TiledDataset(options.data)
    description = dataset.description
    seen = list(islice(seen_patches(dataset, options), patches))
    limits = stretch_limits([patch.image for patch in seen])
    side = panel_side(seen[0].label.shape[0])
    keys = [
        *class_keys(description.classes, description.colours),
        Key("ignored", striped_swatch()),
        Key("edge", plain_swatch(_EDGE)),
        Key("no edge", plain_swatch(_NO_EDGE)),
    ]
    further = description.band_names[_drawn_bands(seen[0].image) :]
    below = f"; below each in grey: {', '.join(further)}" if further else ""
    augmentation = "none (`overfit`)" if options.overfit else options.recipe.augmentation
    picture = patch_picture(
        [Group(_caption(patch), _panels(patch, description, limits, side)) for patch in seen],
        _COLUMNS,
        keys,
        across=_ACROSS,
        title=f"First patches of epoch 1 as the network sees them: recipe "
        f"{options.recipe.described}, augmentation {augmentation}, seed {options.seed}{below}",
    )
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")


def seen_patches(dataset: TiledDataset, options: TrainOptions) -> Iterator[SeenPatch]:
    """Yield the patches of the first epoch of a run in their order, as the network sees them."""
    files = dataset.patches("train")
    here = replace(options, workers=0, devices=1, nodes=1)
    for images, labels, indices in training_batches(dataset, here):
        for image, label, index in zip(images, labels, indices, strict=True):
            yield SeenPatch(files[int(index)].name, image.numpy(), label.numpy())


def _caption(patch: SeenPatch) -> str:
    counted = (patch.label != IGNORE_INDEX).mean()
    return patch.name if counted == 1 else f"{patch.name} ({100 * (1 - counted):.0f} % ignored)"


def _panels(
    patch: SeenPatch,
    description: DatasetDescription,
    limits: list[tuple[float, float]],
    side: int,
) -> list[list[RGB]]:
    image = natural_colours(patch.image, limits, side)
    ignored = resized(patch.label, side) == IGNORE_INDEX
    classes = class_panel(patch.label, description.colours, side)
    mixed = np.rint(_LABEL_SHARE * classes + (1 - _LABEL_SHARE) * image).astype(np.uint8)
    edges = edge_target(torch.from_numpy(patch.label.astype(np.int64))[None])[0].numpy()
    rows = [
        [
            image,
            np.where(ignored[..., None], classes, mixed),
            class_panel(edges.astype(np.uint8), [_NO_EDGE, _EDGE], side),
            with_stripes(image, ignored),
        ]
    ]
    bands = range(_drawn_bands(patch.image), len(patch.image))
    further = [grey(patch.image[b], limits[b], side) for b in bands]
    for start in range(0, len(further), len(_COLUMNS)):
        rows.append(further[start : start + len(_COLUMNS)])
    return rows


def _drawn_bands(image: npt.NDArray[Any]) -> int:
    """Return how many bands the natural colours show: three, or the only one."""
    return 3 if len(image) >= 3 else 1
