"""Writes how sure a map is: a raster of confidences, or of the probabilities of each class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp

from hrrsi.classes import IGNORE_INDEX
from hrrsi.files import replacing
from hrrsi.maps.class_raster import TAG
from hrrsi.maps.cloud_optimised import write_cloud_optimised
from hrrsi.maps.raw_pyramid import RawPyramid

SCORE_STEPS = 250  # 1 in the files of uint8; a step is 0.004


def stored_scores(
    scores: npt.NDArray[Any], labels: npt.NDArray[np.uint8], dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Return scores as files hold them.

    Args:
        scores: (..., rows, width) float in [0, 1], or uint8 in steps of 0.004 (250 is 1).
        labels: (rows, width), 255 where there is no data.
        dtype: ``uint8`` or ``float32``.

    Returns:
        (..., rows, width): uint8 in steps of 0.004 with 255 where there is no data, or float32
        in [0, 1] with NaN there.
    """
    given_as_steps = scores.dtype == np.uint8
    empty = labels == IGNORE_INDEX
    if np.dtype(dtype) == np.uint8:
        stored = scores.copy() if given_as_steps else _steps(scores)
        stored[..., empty] = IGNORE_INDEX
        return stored
    values = scores / np.float32(SCORE_STEPS) if given_as_steps else scores
    stored = values.astype(np.float32)
    stored[..., empty] = np.nan
    return stored


def empty_score(dtype: npt.DTypeLike) -> float:
    """Return what stands where there is no data: 255 among bytes, else NaN."""
    return IGNORE_INDEX if np.dtype(dtype) == np.uint8 else np.nan


def empty_scores(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return stored scores of pixels without data."""
    return np.full(shape, empty_score(dtype), dtype=dtype)


def _steps(scores: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    scaled = scores * np.float32(SCORE_STEPS)
    scaled += np.float32(0.5)
    # rounding of sums may put a probability a hair outside of [0, 1]
    steps: npt.NDArray[np.uint8] = np.clip(scaled, 0, SCORE_STEPS, out=scaled).astype(np.uint8)
    return steps


def write_confidence_raster(
    path: Path,
    scene: Any,
    confidence: RawPyramid,
    *,
    has_nodata: bool,
    provenance: Mapping[str, str],
) -> None:
    """Write the probability of the class that each pixel got; the file appears whole or not at all.

    A cloud-optimised GeoTIFF with one band, ``confidence``, on the scene's grid, with overviews
    by mean. As uint8 it holds 0 to 250, with a scale of 0.004 that QGIS and GDAL apply, and 255
    where there is no data; as float32 it holds 0 to 1, and NaN there.

    Args:
        path: The file; what is there is replaced.
        scene: The rasterio dataset whose grid it has.
        confidence: From `PartialMap.confidence`, complete.
        has_nodata: Whether 255 (or NaN) is declared as no data.
        provenance: What made the map; written as tags with ``HRRSI_`` before them.

    Raises:
        OutputError: The folder is not writable, or the disk is full.
    """
    tags = {"CONTENT": "confidence", **provenance}
    _write(path, scene, [confidence], ["confidence"], has_nodata, tags)


def write_probability_raster(
    path: Path,
    scene: Any,
    probabilities: Sequence[RawPyramid],
    *,
    classes: Sequence[str],
    has_nodata: bool,
    provenance: Mapping[str, str],
) -> None:
    """Write the probability of each class; the file appears whole or not at all.

    Like `write_confidence_raster`, with a band for each class, which has the class name as its
    description.

    Args:
        path: The file; what is there is replaced.
        scene: The rasterio dataset whose grid it has.
        probabilities: From `PartialMap.probabilities`, complete.
        classes: Class names in the order of their indices.
        has_nodata: Whether 255 (or NaN) is declared as no data.
        provenance: What made the map; written as tags with ``HRRSI_`` before them.

    Raises:
        OutputError: The folder is not writable, or the disk is full.
    """
    names = json.dumps(list(classes), ensure_ascii=False)
    tags = {"CONTENT": "probabilities", "CLASSES": names, **provenance}
    _write(path, scene, probabilities, classes, has_nodata, tags)


def _write(
    path: Path,
    scene: Any,
    bands: Sequence[RawPyramid],
    names: Sequence[str],
    has_nodata: bool,
    tags: Mapping[str, str],
) -> None:
    if len(bands) != len(names):
        raise ValueError(f"{len(bands)} bands for {len(names)} names")
    if any((band.rows, band.width) != (scene.height, scene.width) for band in bands):
        raise ValueError(f"scores don't cover {scene.height} x {scene.width} px")
    as_steps = bands[0].dtype == np.uint8

    def describe(dataset: Any) -> None:
        # without it, three or four bands would pass for colours
        dataset.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * (len(bands) - 1)]
        dataset.descriptions = tuple(names)
        if as_steps:
            dataset.scales = (1 / SCORE_STEPS,) * len(bands)
            dataset.offsets = (0.0,) * len(bands)
        if has_nodata:
            dataset.nodata = IGNORE_INDEX if as_steps else np.nan
        dataset.update_tags(**{TAG + key: value for key, value in tags.items()})

    with replacing(path) as file:
        write_cloud_optimised(file, scene, bands, final=path, describe=describe, smooth=True)
