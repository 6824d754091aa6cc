"""Sieving, against an implementation from its definition that sees the whole map at once."""

import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.features import shapes
from rasterio.transform import from_origin
from samples.repository import REPOSITORY

from hrrsi.errors import OptionError
from hrrsi.maps.sieve import sieved_strips, smallest_component
from hrrsi.scenes.raster_opening import open_raster

NODATA = 255


def strips(labels: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    return (labels[row : row + rows] for row in range(0, len(labels), rows))


def sieved(labels: np.ndarray, min_pixels: int, *, strip: int = 64, rows: int | None = None):
    height, width = labels.shape
    parts = list(sieved_strips(strips(labels, strip), width, height, min_pixels, rows=rows))
    return np.concatenate(parts)


def around(place: tuple[int, int], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    row, col = place
    beside = ((row + 1, col), (row - 1, col), (row, col + 1), (row, col - 1))
    return [(r, c) for r, c in beside if 0 <= r < shape[0] and 0 <= c < shape[1]]


def components(labels: np.ndarray) -> Iterator[list[tuple[int, int]]]:
    seen = labels == NODATA
    for start in np.ndindex(labels.shape):
        if seen[start]:
            continue
        seen[start] = True
        component, waiting = [], [start]
        while waiting:
            place = waiting.pop()
            component.append(place)
            for other in around(place, labels.shape):
                if not seen[other] and labels[other] == labels[place]:
                    seen[other] = True
                    waiting.append(other)
        yield component


def sieved_by_definition(labels: np.ndarray, min_pixels: int) -> np.ndarray:
    labels = labels.copy()
    while True:
        candidates = []
        for component in components(labels):
            border = Counter(
                int(labels[other])
                for place in component
                for other in around(place, labels.shape)
                if labels[other] not in (labels[place], NODATA)
            )
            if border and len(component) < min_pixels:
                candidates.append((max(component), component, border))
        if not candidates:
            return labels
        _, component, border = min(candidates, key=lambda candidate: candidate[0])
        label = min(border, key=lambda c: (-border[c], c))
        for place in component:
            labels[place] = label


def random_labels(rng: np.random.Generator, number: int) -> np.ndarray:
    height, width = rng.integers(1, 22, 2)
    classes = int(rng.integers(2, 5))
    labels = rng.integers(0, classes, (height, width)).astype(np.uint8)
    if number % 3 == 0:
        labels = np.kron(labels, np.ones((2, 2), dtype=np.uint8))[:24, :24]
    if number % 2:
        labels[labels == classes - 1] = NODATA
    return labels


@pytest.mark.parametrize("number", range(40))
def test_sieves_as_defined_whatever_the_strips(number: int):
    rng = np.random.default_rng(number)
    labels = random_labels(rng, number)
    min_pixels = int(rng.integers(2, 14))
    expected = sieved_by_definition(labels, min_pixels)
    for rows in (1, 2, 7, 64, 1000):
        np.testing.assert_array_equal(sieved(labels, min_pixels, rows=rows), expected)
    for strip in (1, 7, 64, 1000):
        np.testing.assert_array_equal(sieved(labels, min_pixels, strip=strip), expected)


@pytest.fixture(scope="module")
def textured() -> np.ndarray:
    """Labels as ragged as a real scene's brightness."""
    with open_raster(REPOSITORY / "examples" / "dubai_tile1.tif") as dataset:
        return dataset.read(1)[300:900, 300:1100] // 52


@pytest.mark.long
def test_leaves_no_small_component_in_a_real_texture(textured: np.ndarray):
    labels = textured.copy()
    labels[200:300, 200:300] = NODATA
    result = sieved(labels, 50)
    areas = [
        rasterio.features.geometry_mask(
            [s], result.shape, rasterio.Affine.identity(), invert=True
        ).sum()
        for s, value in shapes(result, mask=result != NODATA, connectivity=4)
    ]
    before = sum(1 for _ in shapes(labels, mask=labels != NODATA, connectivity=4))
    assert before > 10 * len(areas)
    assert min(areas) >= 50
    assert ((result == NODATA) == (labels == NODATA)).all()
    for rows in (1, 7, 64):
        np.testing.assert_array_equal(sieved(labels, 50, rows=rows), result)


def test_leaves_large_components_and_islands_alone():
    labels = np.full((6, 8), NODATA, dtype=np.uint8)
    labels[1, 1] = 3
    labels[3:5, 3:7] = 2
    np.testing.assert_array_equal(sieved(labels, 5), labels)
    np.testing.assert_array_equal(sieved(labels, 0), labels)
    np.testing.assert_array_equal(sieved(labels, 1), labels)


def test_takes_the_class_with_most_border_and_the_lower_one_of_equals():
    labels = np.array([[1, 1, 1, 1], [1, 0, 2, 2], [2, 2, 2, 2]], dtype=np.uint8)
    assert sieved(labels, 2)[1, 1] == 1  # two pixels of border with either
    labels[1, 0] = 2
    labels[2, 0] = 2
    assert sieved(labels, 2)[1, 1] == 2


@pytest.mark.slow
def test_holds_no_more_rows_however_tall_the_map(textured: np.ndarray):
    def peak(times: int) -> int:
        tracemalloc.start()
        tall = (narrow for _ in range(times))
        for _ in sieved_strips(tall, narrow.shape[1], times * len(narrow), 30, rows=100):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    narrow = textured[:, :300]
    peak(1)
    assert peak(6) < 1.2 * peak(2)


def test_refuses_strips_that_are_not_the_map():
    labels = np.zeros((10, 4), dtype=np.uint8)
    for height, width in ((9, 4), (11, 4), (10, 5)):
        with pytest.raises(ValueError, match="strip"):
            list(sieved_strips(strips(labels, 3), width, height, 2))


def test_turns_an_area_into_pixels(tmp_path: Path):
    def dataset(name: str, crs: str | None):
        profile = {"width": 10, "height": 20, "count": 1, "dtype": "uint8", "driver": "GTiff"}
        path = tmp_path / name
        with rasterio.open(
            path, "w", crs=crs, transform=from_origin(5e5, 6e6, 0.1, 0.1), **profile
        ):
            pass
        return open_raster(path)

    with dataset("utm.tif", "EPSG:32632") as utm:
        assert smallest_component(utm, 0.5) == 50
        assert smallest_component(utm, 0.501) == 51
        assert smallest_component(utm, 0) == 0
        with pytest.raises(OptionError, match="no area"):
            smallest_component(utm, -1)
        with pytest.raises(OptionError, match="no area"):
            smallest_component(utm, float("nan"))
    with dataset("none.tif", None) as without:
        assert smallest_component(without, 12) == 12
