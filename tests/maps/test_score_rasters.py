"""Confidence and probabilities on disk: values, scale, names, overviews, georeference."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.transform import Affine
from rio_cogeo.cogeo import cog_validate

from hrrsi.classes import ScoreType
from hrrsi.maps.partial_map import PartialMap, open_partial_map
from hrrsi.maps.rasters import write_confidence_raster, write_probability_raster

HEIGHT, WIDTH = 1031, 777
NAMES = ["Building & <roof>", "Straße", "Wasser 水", "Wald", "Acker"]
TRANSFORM = Affine(0.2, 0.1, 1000, 0.1, -0.2, 2000)
Floats = npt.NDArray[np.float32]


def made_probabilities(classes: int) -> Floats:
    scores = np.random.default_rng(4).random((classes, HEIGHT, WIDTH), dtype=np.float32) ** 4
    scores[:, -1] = 0
    scores[0, -1] = 1
    return scores / scores.sum(axis=0)


@contextmanager
def mapped(
    folder: Path, kind: ScoreType, classes: int = 5, *, as_steps: bool = False
) -> Iterator[tuple[Any, PartialMap, Floats]]:
    """Yield a scene, the partial map with its scores, and the probabilities, NaN without data."""
    probabilities = made_probabilities(classes)
    labels = probabilities.argmax(axis=0).astype(np.uint8)
    labels[100:400, 50:333] = 255
    scores = np.rint(probabilities * 250).astype(np.uint8) if as_steps else probabilities
    shape = {"height": HEIGHT, "width": WIDTH, "count": 1, "dtype": "uint8"}
    with rasterio.open(
        folder / "scene.tif", "w", driver="GTiff", crs="EPSG:32640", transform=TRANSFORM, **shape
    ):
        pass
    with (
        rasterio.open(folder / "scene.tif") as scene,
        open_partial_map(
            folder / "map.tif",
            height=HEIGHT,
            width=WIDTH,
            num_classes=classes,
            fingerprint={},
            confidence=kind,
            probabilities=kind,
        ) as partial,
    ):
        for row in range(0, HEIGHT, 90):
            rows = slice(row, row + 90)
            partial.append(
                row,
                labels[rows],
                confidence=scores[:, rows].max(axis=0),
                probabilities=scores[:, rows],
            )
        yield scene, partial, np.where(labels == 255, np.float32(np.nan), probabilities)
        partial.discard()


def unscaled(dataset: Any, band: int, **options: Any) -> Floats:
    """Values of a band as GDAL's metadata say they are meant, NaN where there is no data."""
    values = dataset.read(band, masked=True, **options)
    scaled = values * dataset.scales[band - 1] + dataset.offsets[band - 1]
    filled: Floats = scaled.astype(np.float32).filled(np.nan)
    return filled


def mean_of_four(values: Floats) -> Floats:
    padded = np.pad(values, [(0, size % 2) for size in values.shape], constant_values=np.nan)
    blocks = padded.reshape(padded.shape[0] // 2, 2, -1, 2).swapaxes(1, 2)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        mean: Floats = np.nanmean(blocks.reshape(*blocks.shape[:2], 4), axis=2)
    return mean


@pytest.mark.parametrize(("kind", "step"), [("uint8", 0.004), ("float32", 1e-6)])
@pytest.mark.parametrize("as_steps", [False, True])
def test_confidence_reads_as_a_share(
    tmp_path: Path, kind: ScoreType, step: float, as_steps: bool
) -> None:
    with mapped(tmp_path, kind, as_steps=as_steps) as (scene, partial, probabilities):
        assert partial.confidence is not None
        write_confidence_raster(
            tmp_path / "confidence.tif",
            scene,
            partial.confidence,
            has_nodata=True,
            provenance={"VERSION": "1.2.3"},
        )
    assert sorted(os.listdir(tmp_path)) == ["confidence.tif", "scene.tif"]
    tolerance = 0.002 if as_steps else step / 2
    with rasterio.open(tmp_path / "confidence.tif") as written:
        assert (written.count, written.dtypes) == (1, (kind,))
        assert written.descriptions == ("confidence",)
        assert (written.transform, written.crs.to_epsg()) == (TRANSFORM, 32640)
        assert written.tags()["HRRSI_VERSION"] == "1.2.3"
        assert written.tags()["HRRSI_CONTENT"] == "confidence"
        shares = unscaled(written, 1)
        np.testing.assert_allclose(shares, probabilities.max(axis=0), atol=tolerance + 1e-6)
        assert np.nanmax(shares) == 1
        half = unscaled(written, 1, out_shape=(516, 389))
        np.testing.assert_allclose(half, mean_of_four(shares), atol=step / 2 + 1e-6)


@pytest.mark.long
@pytest.mark.parametrize(("kind", "classes"), [("uint8", 3), ("float32", 4), ("uint8", 5)])
def test_probabilities_have_a_band_for_each_class(
    tmp_path: Path, kind: ScoreType, classes: int
) -> None:
    with mapped(tmp_path, kind, classes) as (scene, partial, probabilities):
        write_probability_raster(
            tmp_path / "probabilities.tif",
            scene,
            partial.probabilities,
            classes=NAMES[:classes],
            has_nodata=True,
            provenance={"WEIGHTS": "w.safetensors"},
        )
    tolerance = 0.002 + 1e-6 if kind == "uint8" else 1e-6
    with rasterio.open(tmp_path / "probabilities.tif") as written:
        assert written.descriptions == tuple(NAMES[:classes])
        assert ColorInterp.red not in written.colorinterp
        assert ColorInterp.alpha not in written.colorinterp
        assert written.tags()["HRRSI_WEIGHTS"] == "w.safetensors"
        for band in range(classes):
            shares = unscaled(written, band + 1)
            np.testing.assert_allclose(shares, probabilities[band], atol=tolerance)
            half = unscaled(written, band + 1, out_shape=(516, 389))
            np.testing.assert_allclose(half, mean_of_four(shares), atol=tolerance)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_are_cloud_optimised_geotiffs(tmp_path: Path, kind: ScoreType) -> None:
    with mapped(tmp_path, kind) as (scene, partial, _):
        assert partial.confidence is not None
        shared: dict[str, Any] = {"has_nodata": False, "provenance": {}}
        write_confidence_raster(tmp_path / "c.tif", scene, partial.confidence, **shared)
        write_probability_raster(
            tmp_path / "p.tif", scene, partial.probabilities, classes=NAMES, **shared
        )
    for name in ("c.tif", "p.tif"):
        valid, errors, hints = cog_validate(tmp_path / name, strict=True)
        assert valid, (errors, hints)
        with rasterio.open(tmp_path / name) as written:
            assert written.nodata is None
