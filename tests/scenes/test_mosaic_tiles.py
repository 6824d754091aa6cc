"""Tiles as one virtual raster: what of them shows where they overlap, lack data or differ."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.windows import Window
from samples.mosaic_tiles import PIXELS, PLACE, REVERSED, WINDOWS, save_tile

from hrrsi.scenes.mosaic import tile_mosaic
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.value_scale import estimated_scale, scene_sample
from hrrsi.scenes.windows import Window as Place


def with_collar(pixels: np.ndarray) -> np.ndarray:
    """Zeros in the last 20 columns, and darkness elsewhere that is no zero in all bands."""
    changed = np.maximum(pixels, 1)
    changed[:, :, -20:] = 0
    return changed


@pytest.mark.parametrize("how", ["nodata", "mask", "alpha", "named", "not a number"])
def test_missing_data_of_a_tile_shows_what_lies_below(tmp_path: Path, how: str) -> None:
    left = with_collar(PIXELS[:, :, :150])
    profile: dict[str, Any] = {"nodata": 0} if how == "nodata" else {}
    valid = ((left != 0).any(axis=0) * 255).astype(np.uint8)
    if how == "alpha":
        left = np.concatenate([left, valid[None]])
        profile |= {"photometric": "RGB", "alpha": "YES"}
    right = np.concatenate([PIXELS, np.full((1, 200, 260), 255, np.uint8)])[: len(left)]
    if how == "not a number":
        left, right = np.where(valid, left, np.nan).astype(np.float32), right.astype(np.float32)
    # the later one lies above: its last 20 columns hold no data
    paths = [
        save_tile(tmp_path / "a" / "1.tif", Window(100, 0, 160, 200), right, **profile),
        save_tile(tmp_path / "a" / "2.tif", Window(0, 0, 150, 200), left, **profile),
    ]
    if how == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(paths[1], "r+") as dataset:
            dataset.write_mask(valid)
    named = 0 if how == "named" else None
    mosaic = tile_mosaic(list(map(str, paths)), nodata=named)
    assert mosaic.missing == 0
    assert mosaic.overlapping * 260 * 200 == pytest.approx(50 * 200)
    mosaic.write_vrt(tmp_path / "mosaic.vrt")
    with rasterio.open(tmp_path / "mosaic.vrt") as dataset:
        assert dataset.dataset_mask().all()
        expected = np.concatenate([left[:3, :, :130], PIXELS[:, :, 130:]], axis=2)
        np.testing.assert_array_equal(dataset.read([1, 2, 3]), expected)


@pytest.mark.parametrize("how", ["none", "nodata", "mask", "alpha", "float"])
def test_a_gap_and_masks_are_as_tiles_have_them(tmp_path: Path, how: str) -> None:
    pixels = with_collar(PIXELS)
    valid = ((pixels != 0).any(axis=0) * 255).astype(np.uint8)
    profile: dict[str, Any] = {"nodata": 0} if how == "nodata" else {}
    if how == "alpha":
        pixels = np.concatenate([pixels, valid[None]])
        profile |= {"photometric": "RGB", "alpha": "YES"}
    if how == "float":
        pixels = np.where(valid == 0, np.nan, pixels).astype(np.float32)
        profile["nodata"] = np.nan
    names = [name for name in WINDOWS if name != "t11.tif"]
    for name in names:
        save_tile(tmp_path / name, WINDOWS[name], pixels, **profile)
        if how == "mask" and name.endswith("2.tif"):
            mask = valid[WINDOWS[name].toslices()]
            with (
                rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
                rasterio.open(tmp_path / name, "r+") as dataset,
            ):
                dataset.write_mask(mask)
    tile_mosaic([str(tmp_path / name) for name in names]).write_vrt(tmp_path / "mosaic.vrt")
    with open_scene(tmp_path / "mosaic.vrt") as mosaic:
        for name in names:
            place = WINDOWS[name]
            window = Place(place.row_off, place.col_off, place.height, place.width)
            with open_scene(tmp_path / name) as tile:
                own = Place(0, 0, *tile.shape)
                values = mosaic.read(window)
                np.testing.assert_array_equal(values, tile.read(own))
                valid = mosaic.read_valid(window, values)
                np.testing.assert_array_equal(valid, tile.read_valid(own, values))
                assert mosaic.dataset.colorinterp == tile.dataset.colorinterp
                np.testing.assert_equal(mosaic.dataset.nodatavals, tile.dataset.nodatavals)
        gap = Place(90, 70, 110, 80)
        assert not mosaic.read_valid(gap, mosaic.read(gap)).any()


def test_bands_keep_what_tiles_say_of_them(tmp_path: Path) -> None:
    paths = []
    for name in ("t00.tif", "t01.tif"):
        values = PIXELS[[2, 1, 0, 0]].astype(np.uint16) * 8
        path = save_tile(tmp_path / name, WINDOWS[name], values, nbits=12)
        with rasterio.open(path, "r+") as dataset:
            dataset.descriptions = ("Blue", "Green", "Red", "NIR")
            dataset.colorinterp = [*REVERSED, ColorInterp.undefined]
            dataset.scales, dataset.offsets = (0.0001,) * 4, (-0.1,) * 4
        paths.append(str(path))
    tile_mosaic(paths).write_vrt(tmp_path / "m.vrt")
    with rasterio.open(tmp_path / "m.vrt") as mosaic, rasterio.open(paths[0]) as tile:
        for name in ("descriptions", "colorinterp", "scales", "offsets", "dtypes", "crs"):
            assert getattr(mosaic, name) == getattr(tile, name)
        assert mosaic.tags(1, ns="IMAGE_STRUCTURE")["NBITS"] == "12"
        assert mosaic.transform == tile.transform


def test_palettes_that_differ_are_shown_as_colours(tmp_path: Path) -> None:
    numbers = (PIXELS[:1] // 16).astype(np.uint8)
    paths = []
    for turn, name in enumerate(("t00.tif", "t01.tif")):
        path = save_tile(tmp_path / name, WINDOWS[name], numbers)
        with rasterio.open(path, "r+") as dataset:
            dataset.write_colormap(
                1, {i: (i, (i * 3 + turn * 90) % 256, 255 - i) for i in range(256)}
            )
        paths.append(str(path))
    tile_mosaic(paths).write_vrt(tmp_path / "m.vrt")
    with rasterio.open(tmp_path / "m.vrt") as mosaic:
        for name, path in zip(("t00.tif", "t01.tif"), paths, strict=True):
            with rasterio.open(f"vrt://{path}?expand=rgb") as tile:
                window = WINDOWS[name]
                np.testing.assert_array_equal(mosaic.read(window=window), tile.read())


TURNED = PLACE @ rasterio.Affine.rotation(30)
UPSIDE_DOWN = PLACE @ rasterio.Affine.scale(1, -1)


@pytest.mark.parametrize("place", [TURNED, UPSIDE_DOWN])
def test_turned_grids_are_grids(tmp_path: Path, place: rasterio.Affine) -> None:
    paths = []
    for name in reversed(WINDOWS):  # whichever comes first
        window = WINDOWS[name]
        corner = place @ rasterio.Affine.translation(window.col_off, window.row_off)
        paths.append(str(save_tile(tmp_path / name, window, transform=corner)))
    tile_mosaic(paths).write_vrt(tmp_path / "m.vrt")
    with rasterio.open(tmp_path / "m.vrt") as mosaic:
        np.testing.assert_array_equal(mosaic.read(), PIXELS)
        assert mosaic.transform.almost_equals(place, 1e-6)


def test_places_may_be_rounded(tmp_path: Path) -> None:
    rounded = [
        str(
            save_tile(
                tmp_path / name,
                window,
                transform=PLACE
                @ rasterio.Affine.translation(
                    window.col_off + 0.04 * (i % 3 - 1), window.row_off - 0.03 * (i % 2)
                ),
            )
        )
        for i, (name, window) in enumerate(WINDOWS.items())
    ]
    tile_mosaic(rounded).write_vrt(tmp_path / "m.vrt")
    with rasterio.open(tmp_path / "m.vrt") as mosaic:
        np.testing.assert_array_equal(mosaic.read(), PIXELS)


@pytest.mark.slow
def test_full_brightness_of_tiles_far_apart_is_that_of_their_values(tmp_path: Path) -> None:
    window, values = Window(0, 0, 70, 90), PIXELS.astype(np.uint16) * 16
    # to all sides of an empty middle, and none in a corner
    places = [(0, 100_000), (100_000, 0), (200_000, 100_000), (100_000, 200_000)]
    paths = [
        save_tile(
            tmp_path / f"{number}.tif",
            window,
            values,
            transform=PLACE @ rasterio.Affine.translation(*place),
        )
        for number, place in enumerate(places)
    ]
    tile_mosaic(list(map(str, paths))).write_vrt(tmp_path / "far.vrt")
    with open_scene(tmp_path / "far.vrt") as scene:
        estimate = estimated_scale(scene_sample(scene))
    assert estimate.value == 4095
    assert "as in 12-bit values" in estimate.reason
