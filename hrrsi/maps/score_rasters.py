"""Writes how sure a map is: a raster of confidences, or of the probabilities of each class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp

from hrrsi.atomic_write import replacing
from hrrsi.labels.scheme import IGNORE_INDEX
from hrrsi.maps.class_raster import TAG
from hrrsi.maps.cloud_optimised import write_cloud_optimised
from hrrsi.maps.raw_pyramid import RawPyramid
from hrrsi.maps.stored_scores import SCORE_STEPS


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
        HrrsiError: The folder is not writable, or the disk is full.
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
        HrrsiError: The folder is not writable, or the disk is full.
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
