"""Windows of rasters whose blocks don't fit into GDAL's cache: right, and decoded once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from samples.made_weights import scene_pixels

from hrrsi.scenes.pixel_reader import PixelReader
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.windows import window_grid

PIXELS = np.tile(np.moveaxis(scene_pixels(), -1, 0), (1, 2, 1))[:, :450, :300]
LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {"blockysize": 200, "compress": "deflate"},
    "one strip": {"blockysize": 450, "compress": "zstd"},
    "strip a band": {"blockysize": 450, "compress": "lzw", "interleave": "band"},
    "large tiles": {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "lzw"},
    "rows": {"blockysize": 1},
}


class Counting:
    """A dataset that counts the rows that are read of it."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self.rows = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def read(self, *arguments: Any, window: Any, **more: Any) -> Any:
        self.rows += window.height * (window.width / self._dataset.width)
        return self._dataset.read(*arguments, window=window, **more)


def save(path: Path, layout: str) -> Path:
    form = {"driver": "GTiff", "count": 3, "dtype": "uint8", **LAYOUTS[layout]}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", height=450, width=300, **form) as dataset,
    ):
        dataset.write(PIXELS)
        dataset.write_mask(PIXELS[0] > 90)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cache", [20_000, 2**26])
@pytest.mark.parametrize(("size", "stride"), [(64, 48), (64, 64), (301, 200), (500, 500)])
def test_windows_hold_the_pixels_of_the_raster(
    tmp_path: Path, layout: str, cache: int, size: int, stride: int
) -> None:
    path = save(tmp_path / "a.tif", layout)
    with (
        rasterio.Env(GDAL_CACHEMAX=cache),
        open_scene(path, bands=[3, 1], expected_bands=2) as scene,
    ):
        for row in window_grid(450, 300, size, stride):
            for w in row:
                part = slice(w.row, w.row + w.height), slice(w.col, w.col + w.width)
                values = scene.read(w)
                np.testing.assert_array_equal(values, PIXELS[[2, 0], *part])
                np.testing.assert_array_equal(scene.read_valid(w, values), PIXELS[0, *part] > 90)
                values[:] = 0  # the caller's own


@pytest.mark.parametrize("layout", ["strips", "one strip", "large tiles"])
def test_no_row_is_read_twice_where_blocks_exceed_the_cache(tmp_path: Path, layout: str) -> None:
    with (
        rasterio.Env(GDAL_CACHEMAX=20_000),
        rasterio.open(save(tmp_path / "a.tif", layout)) as dataset,
    ):
        counting = Counting(dataset)
        reader = PixelReader(counting, [1, 2, 3], "a.tif")
        for row in window_grid(450, 300, 64, 48):
            for window in row:
                reader.values(window)
    assert counting.rows == 450


def test_windows_are_read_by_themselves_where_the_cache_holds_the_blocks(tmp_path: Path) -> None:
    with (
        rasterio.Env(GDAL_CACHEMAX=2**26),
        rasterio.open(save(tmp_path / "a.tif", "large tiles")) as dataset,
    ):
        counting = Counting(dataset)
        PixelReader(counting, [1, 2, 3], "a.tif").values(window_grid(450, 300, 64, 48)[0][0])
    assert counting.rows == pytest.approx(64 * 64 / 300)
