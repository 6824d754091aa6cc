"""Which bands of a raster a network sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rasterio.enums import ColorInterp

from hrrsi.errors import InputError


def colour_bands(dataset: Any) -> list[int]:
    """Return the 1-based bands of a rasterio dataset that are not alpha."""
    return [
        band
        for band, meaning in enumerate(dataset.colorinterp, start=1)
        if meaning != ColorInterp.alpha
    ]


def alpha_bands(dataset: Any) -> list[int]:
    """Return the 1-based bands of a rasterio dataset that it calls alpha."""
    colours = colour_bands(dataset)
    return [band for band in range(1, dataset.count + 1) if band not in colours]


def chosen_bands(
    path: str | Path,
    dataset: Any,
    bands: Sequence[int] | None,
    expected_bands: int,
    trained_bands: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """Return the 1-based bands of a raster that a network sees.

    Args:
        path: The raster's name, for messages.
        dataset: Its rasterio dataset.
        bands: Those that the user names. Without any it is all bands but alpha where
            `trained_bands` are just the first ones and these are as many; else `trained_bands`
            where the raster has them all; else all bands but alpha.
        expected_bands: How many the network sees.
        trained_bands: Those of the scenes that the network was trained on.

    Raises:
        InputError: The raster lacks one, they are too many or too few, or of several types.
    """
    chosen = list(bands or _unnamed_bands(dataset, trained_bands))
    wrong = [b for b in chosen if not 1 <= b <= dataset.count]
    if wrong:
        raise InputError(
            f"has no band {wrong[0]} (it has {dataset.count})",
            where=path,
            fix="correct `bands`",
        )
    if len(chosen) != expected_bands:
        many = "band" if len(chosen) == 1 else "bands"
        example = ",".join(str(b) for b in range(1, expected_bands + 1))
        fix = (
            f"choose {expected_bands} with `bands`, e.g. `bands={example}`"
            if dataset.count >= expected_bands
            else f"use a raster with at least {expected_bands} bands"
        )
        raise InputError(
            f"has {len(chosen)} {many} where {expected_bands} are needed", where=path, fix=fix
        )
    types = {dataset.dtypes[b - 1] for b in chosen}
    if len(types) > 1:
        raise InputError(
            f"its bands have different types ({', '.join(sorted(types))})",
            where=path,
            fix="convert them to one type",
        )
    if "complex" in next(iter(types)):
        raise InputError("holds complex numbers", where=path, fix="use a raster of real values")
    return tuple(chosen)


def _unnamed_bands(dataset: Any, trained: Sequence[int] | None) -> Sequence[int]:
    colours = colour_bands(dataset)
    if not trained or max(trained) > dataset.count:
        return colours
    are_first = list(trained) == list(range(1, len(trained) + 1))
    # an alpha that comes first doesn't make the colours others
    return colours if are_first and len(colours) == len(trained) else trained
