"""Scenes read at another resolution, against plain loops over pixels."""

import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from samples.made_weights import scene_pixels
from samples.opened_windows import opened_windows

from hrrsi.errors import InputError
from hrrsi.scenes.window_source import SceneWindows
from hrrsi.scenes.windows import Window, window_grid

PIXELS = np.moveaxis(scene_pixels(), -1, 0)[:, :117, :141]
HOLES = np.zeros(PIXELS.shape[1:], dtype=bool)
HOLES[30:60, 40:90] = True
HOLES[100:, :11] = True


def save(path: Path, pixels: np.ndarray = PIXELS, size: float = 0.1, **profile: object) -> Path:
    count, height, width = pixels.shape
    form = {"crs": "EPSG:28992", "transform": from_origin(155_000, 463_000, size, size), **profile}
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=pixels.dtype,
        **form,
    ) as dataset:  # fmt: skip
        dataset.write(pixels)
    return path


def part_of(source: SceneWindows, window: Window) -> tuple[np.ndarray, np.ndarray]:
    pixels, valid = source.read(window)
    return pixels, np.ones(pixels.shape[1:], dtype=bool) if valid is None else valid


def whole(source: SceneWindows) -> tuple[np.ndarray, np.ndarray]:
    return part_of(source, Window(0, 0, *source.network_grid))


def area_means(pixels: np.ndarray, valid: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Return means by area over pixels with data, one pixel after the other."""
    height, width = (int(np.ceil(n / step - 1e-9)) for n in valid.shape)
    result = np.zeros((len(pixels), height, width))
    has_data = np.zeros((height, width), dtype=bool)
    for i in range(height):
        for j in range(width):
            total, area = np.zeros(len(pixels)), 0.0
            for r in range(int(i * step), min(int(np.ceil((i + 1) * step)), valid.shape[0])):
                for c in range(int(j * step), min(int(np.ceil((j + 1) * step)), valid.shape[1])):
                    high = min(r + 1, (i + 1) * step) - max(r, i * step)
                    wide = min(c + 1, (j + 1) * step) - max(c, j * step)
                    if valid[r, c] and high > 1e-9 and wide > 1e-9:
                        total += pixels[:, r, c] * (high * wide)
                        area += high * wide
            if area:
                result[:, i, j], has_data[i, j] = total / area, True
    return result, has_data


@pytest.mark.parametrize("step", [1.5, 2, 2.7, 7.3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int32", "float64"])
def test_a_coarser_grid_holds_means_of_pixels_with_data(
    tmp_path: Path, step: float, dtype: str
) -> None:
    pixels = PIXELS.astype(dtype)
    pixels[:, HOLES] = 250
    path = save(tmp_path / "a.tif", pixels, nodata=250)
    valid = ~(pixels == 250).all(axis=0)
    expected, with_data = area_means(pixels.astype(float), valid, step)
    with opened_windows(path, resolution=0.1 * step) as source:
        assert source.steps == pytest.approx((step, step))
        assert source.raster_grid == PIXELS.shape[1:]
        values, values_valid = whole(source)
    assert values.dtype == dtype
    assert values.shape == expected.shape
    np.testing.assert_array_equal(values_valid, with_data)
    assert not with_data.all()
    tolerance = 0.501 if "int" in dtype else 1e-3
    np.testing.assert_allclose(values, np.where(with_data, expected, 0), atol=tolerance, rtol=0)


@pytest.mark.parametrize("has_holes", [False, True])
def test_pixels_that_are_no_squares_become_squares(tmp_path: Path, has_holes: bool) -> None:
    # at 60 degrees north, twice as long from north to south as from east to west
    pixels = PIXELS[:, :30, :36].astype("float64")
    if has_holes:
        pixels[:, 12:20, 10:18] = np.nan
    valid = np.isfinite(pixels[0])
    degrees = from_origin(10, 60, 0.25 / 55800, 0.5 / 111412)
    path = save(tmp_path / "a.tif", pixels, crs="EPSG:4326", transform=degrees)
    with opened_windows(path, resolution=0.35) as source:
        down, across = source.steps
        assert (down, across) == pytest.approx((0.7, 1.4), rel=1e-3)
        assert source.resolution == pytest.approx(0.35)
        values, values_valid = whole(source)
        height, width = source.network_grid
    assert (height, width) == (math.ceil(30 / down), math.ceil(36 / across))
    for i in range(height):
        # between the centres of two rows,
        r = min(max((i + 0.5) * down - 0.5, 0), 29)
        rows = [(min(int(r), 29), 1 - r % 1), (min(int(r) + 1, 29), r % 1)]
        nearest = min(int((i + 0.5) * down), 29)
        for j in range(width):
            # and the mean of the columns that it covers
            low, high = j * across, min((j + 1) * across, 36)
            columns = {c: min(c + 1, high) - max(c, low) for c in range(int(low), math.ceil(high))}
            parts = [
                (share * part, pixels[:, row, column])
                for row, share in rows
                for column, part in columns.items()
                if share * part > 1e-9 and valid[row, column]
            ]
            assert values_valid[i, j] == any(valid[nearest, c] for c in columns)
            if values_valid[i, j]:
                mean = sum(w * v for w, v in parts) / sum(w for w, _ in parts)
                np.testing.assert_allclose(values[:, i, j], mean, rtol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("step", [0.25, 0.6])
def test_a_finer_grid_is_interpolated_between_pixels_with_data(tmp_path: Path, step: float) -> None:
    pixels = PIXELS[:, :30, :36].astype("float64")
    pixels[:, 12:20, 10:18] = np.nan
    valid = np.isfinite(pixels[0])
    with opened_windows(save(tmp_path / "a.tif", pixels), resolution=0.1 * step) as source:
        values, values_valid = whole(source)
        height, width = source.network_grid
    assert (height - 1) * step < 30 <= height * step + 1e-9
    assert (width - 1) * step < 36 <= width * step + 1e-9
    expected = np.zeros((3, height, width))
    for i in range(height):
        for j in range(width):
            r, c = (i + 0.5) * step - 0.5, (j + 0.5) * step - 0.5
            nearest = min(int(r + 0.5), 29), min(int(c + 0.5), 35)
            assert values_valid[i, j] == valid[nearest]
            if not valid[nearest]:
                continue
            total, weight = np.zeros(3), 0.0
            for y in (int(np.floor(r)), int(np.floor(r)) + 1):
                for x in (int(np.floor(c)), int(np.floor(c)) + 1):
                    place = min(max(y, 0), 29), min(max(x, 0), 35)
                    if valid[place]:
                        share = (1 - abs(r - y)) * (1 - abs(c - x))
                        total += share * pixels[:, *place]
                        weight += share
            expected[:, i, j] = total / weight
    np.testing.assert_allclose(np.where(values_valid, values, 0), expected, atol=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("resolution", [0.063, 0.137, 0.2, 0.55])
@pytest.mark.parametrize("overviews", [False, True])
def test_windows_agree_where_they_overlap(
    tmp_path: Path, resolution: float, overviews: bool
) -> None:
    pixels = np.tile(PIXELS, (1, 3, 3)).astype("float32")
    pixels[:, 90:170, 60:300] = -1
    path = save(tmp_path / "a.tif", pixels, nodata=-1)
    if overviews:
        with rasterio.open(path, "r+") as dataset:
            dataset.build_overviews([2, 4], Resampling.average)
    with opened_windows(path, resolution=resolution) as source:
        assert (source.overview is not None) == (overviews and resolution >= 0.2)
        everything, valid = whole(source)
        for row in window_grid(*source.network_grid, 37, 23):
            for w in row:
                part = slice(w.row, w.row + w.height), slice(w.col, w.col + w.width)
                here, here_valid = part_of(source, w)
                np.testing.assert_array_equal(here, everything[:, *part])
                np.testing.assert_array_equal(here_valid, valid[part])
    assert 0.3 < valid.mean() < 1


def test_validity_is_that_of_the_window_asked_for(tmp_path: Path) -> None:
    pixels = PIXELS.copy()
    pixels[:, HOLES] = 0
    with opened_windows(save(tmp_path / "a.tif", pixels, nodata=0), resolution=0.2) as source:
        first, second = Window(0, 0, 20, 20), Window(16, 22, 20, 20)
        for _ in range(2):
            assert part_of(source, first)[1].all()
            assert not part_of(source, second)[1].all()


def test_overviews_are_read_where_they_help(tmp_path: Path) -> None:
    pixels = np.tile(PIXELS, (1, 3, 3))[:, :348, :420]
    path = save(tmp_path / "a.tif", pixels)
    with opened_windows(path, resolution=0.47) as source:
        expected, _ = whole(source)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4, 8], Resampling.average)
    with opened_windows(path, resolution=0.47) as source:
        assert source.overview is not None
        assert source.overview.dataset.shape == (87, 105)
        values, _ = whole(source)
        assert values.shape == expected.shape
    # means of means: close, and far closer than a pixel to the side
    difference = np.abs(values.astype(int) - expected).mean()
    beside = np.abs(values[:, :, 1:].astype(int) - expected[:, :, :-1]).mean()
    assert 3 * difference < beside
    with rasterio.open(path, "r+") as dataset:
        dataset.write(pixels * 0 + 99)  # leaves the overviews as they are
    with opened_windows(path, resolution=0.47) as source:
        np.testing.assert_array_equal(whole(source)[0], values)
    # an overview mixes what only the user knows to be no data into its neighbours
    with opened_windows(path, resolution=0.47, nodata=0) as source:
        assert source.overview is None


@pytest.mark.parametrize("kind", ["internal", "external", "nodata", "alpha", "alpha_float"])
def test_pixels_without_data_do_not_bleed_through_overviews(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    pixels, holes = np.maximum(PIXELS[:, :116, :140], 1), HOLES[:116, :140]
    fill = 0 if kind == "nodata" else 255
    stored = np.where(holes, np.uint8(fill), pixels)
    profile: dict[str, object] = {"nodata": 0} if kind == "nodata" else {}
    if kind.startswith("alpha"):
        alpha = np.where(holes, np.uint8(0), np.uint8(255))
        stored = np.concatenate([stored, alpha[None]])
        profile = {"photometric": "RGB", "alpha": "yes"}
    if kind == "alpha_float":
        stored = stored.astype(np.float32)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "internal"):
        save(path, stored, **profile)
        with rasterio.open(path, "r+") as dataset:
            if kind in ("internal", "external"):
                dataset.write_mask(~holes)
            dataset.build_overviews([2], Resampling.average)
    expected, valid = area_means(pixels.astype(float), ~holes, 2)
    with opened_windows(path, resolution=0.2) as source:
        assert (source.overview is None) == (kind in ("external", "alpha_float"))
        values, values_valid = whole(source)
    np.testing.assert_array_equal(values_valid, valid)
    assert np.abs(values - expected)[:, valid].max() < 1


def test_a_window_knows_its_place_on_the_raster(tmp_path: Path) -> None:
    with opened_windows(save(tmp_path / "a.tif"), resolution=0.27) as source:
        assert source.network_grid == (44, 53)
        assert source.raster_window(Window(0, 0, 44, 53)) == Window(0, 0, 117, 141)
        assert source.raster_window(Window(10, 20, 5, 4)) == Window(27, 54, 14, 11)
        scene = source.scene
        assert source.raster_grid == scene.shape == (117, 141)
        np.testing.assert_array_equal(scene.read(Window(3, 4, 50, 60)), PIXELS[:, 3:53, 4:64])
        assert scene.resolution == pytest.approx(0.1)  # the raster's own


def test_much_the_same_resolution_is_left_alone(tmp_path: Path) -> None:
    with opened_windows(save(tmp_path / "a.tif"), resolution=0.1005) as source:
        assert source.steps == (1, 1)
        np.testing.assert_array_equal(whole(source)[0], PIXELS)


def test_what_can_not_be_resampled_is_one_line(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", crs=None)
    with (
        pytest.raises(InputError, match=r"a.tif: its ground resolution is not known.*`resample`"),
        opened_windows(path, resolution=0.2),
    ):
        pass
    path = save(tmp_path / "b.tif", size=10)
    with (
        pytest.raises(InputError, match=r"has 10 m a pixel, far too coarse to be read at 0\.1 m"),
        opened_windows(path, resolution=0.1),
    ):
        pass


@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (90, 1), (2, 3)])
@pytest.mark.parametrize("step", [0.4, 3.3, 500])
def test_tiny_scenes(tmp_path: Path, shape: tuple[int, int], step: float) -> None:
    pixels = PIXELS[:, : shape[0], : shape[1]]
    with opened_windows(save(tmp_path / "a.tif", pixels), resolution=0.1 * step) as source:
        values, valid = whole(source)
    assert values.shape[1:] == tuple(max(1, int(np.ceil(n / step))) for n in shape)
    assert valid.all()
    assert pixels.min() <= values.min() <= values.max() <= pixels.max()
