"""What the patches of a training look like, by which scenes unlike all of them are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hrrsi.scenes.likeness import (
    MOST_PATCHES,
    MOST_SQUARES,
    Likeness,
    patch_squares,
    square_numbers,
)
from hrrsi.tiling.dataset import Patch, TiledDataset, read_image

_MISSING_SHARE = 0.02


def training_likeness(datasets: Sequence[TiledDataset], first: int = 0) -> Likeness | None:
    """Return what the training patches of datasets look like, by at most 1000 squares of them.

    Each dataset has the same share of the patches, at most 500, drawn at random, but always alike.
    Squares of which more than 2 % are black in all bands count as missing data.

    Args:
        datasets: The datasets, of the same number of bands; at least one.
        first: Only so many patches of each; 0: all.

    Returns:
        None where there are too few (`Likeness.of_squares` says when).

    Raises:
        InputError: A patch can't be read.
    """
    numbers, scenes = [], []
    for index, dataset in enumerate(datasets):
        description = dataset.description
        patches = dataset.patches("train")[: first or None]
        windows = patch_squares(description.patch_size)
        most = min(MOST_PATCHES, MOST_SQUARES // len(windows))
        share = min(len(patches), most // len(datasets))
        drawn = np.random.default_rng(0).choice(len(patches), share, replace=False)
        for patch in (patches[number] for number in sorted(drawn)):
            image = read_image(patch, description)[: len(description.bands)]
            for row, col, height, width in windows:
                square = image[:, row : row + height, col : col + width]
                if (square == 0).all(axis=0).mean() <= _MISSING_SHARE:
                    numbers.append(square_numbers(square, description.scale))
                    scenes.append(f"{index}/{_scene(patch)}")
    return Likeness.of_squares(np.array(numbers), scenes)


def _scene(patch: Patch) -> str:
    """Return the scene of a patch, whose name ends in its row and its column."""
    return patch.name.rsplit("_", 2)[0]
