"""Arrays of xarray through `Segmenter`, and what results show of themselves."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr
from rasterio import Affine
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT
from samples.repository import REPOSITORY

import hrrsi
from hrrsi import InputError, Segmenter

PLACE = {"crs": "EPSG:32640", "transform": from_origin(300000, 2780000, 0.5, 0.5)}


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crop of a real scene with a place, and 0 as the value of missing data in a corner."""
    path = tmp_path_factory.mktemp("scene") / "scene & co.tif"
    with rasterio.open(REPOSITORY / "examples" / "dubai_tile1.tif") as source:
        pixels = np.maximum(source.read(window=((600, 728), (900, 1060))), 1)
    pixels[:, :20, :30] = 0
    profile = {"driver": "GTiff", "count": 3, "height": 128, "width": 160, "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, nodata=0, **PLACE) as dataset:
        dataset.write(pixels)
    return path


@pytest.mark.parametrize("order", [("band", "y", "x"), ("y", "x", "band"), ("x", "band", "y")])
def test_the_map_of_an_xarray_is_that_of_its_file(
    segmenter: Segmenter, scene: Path, order: tuple[str, ...], tmp_path: Path
) -> None:
    with rioxarray.open_rasterio(scene) as cube:
        labels = segmenter(cube.transpose(*order))
    labels.rio.to_raster(tmp_path / "labels.tif")
    (mapped,) = hrrsi.predict(scene, out=tmp_path)
    with rasterio.open(tmp_path / "labels.tif") as ours, rasterio.open(mapped.path) as file:
        assert (ours.read() == file.read()).all()
        assert (ours.crs, ours.transform, ours.nodata) == (file.crs, file.transform, 255)
    assert (labels.values[:20, :30] == 255).all()
    assert labels.attrs["flag_meanings"].split() == segmenter.classes


@pytest.mark.filterwarnings("ignore::hrrsi.prediction.scene_remarks.SceneWarning")
@pytest.mark.parametrize(
    "change",
    [
        lambda cube: cube.coarsen(x=2, y=2).mean().round().astype("uint8"),
        lambda cube: cube.isel(x=slice(None, None, 2), y=slice(None, None, 2)),
        lambda cube: cube.isel(y=slice(None, None, -1)),
    ],
)
def test_pixels_lie_where_coordinates_say(
    segmenter: Segmenter, scene: Path, change: Callable[[xr.DataArray], xr.DataArray]
) -> None:
    with rioxarray.open_rasterio(scene) as cube:
        changed = change(cube.where(cube != 0, 1))
    step = abs(float(changed.x[1] - changed.x[0]))
    pixels = changed.values.astype(np.uint8)
    labels = segmenter(changed.astype(np.uint8))
    expected = segmenter(pixels, resolution=step, bands_first=True)
    np.testing.assert_array_equal(labels.values, expected)
    named = changed.astype(np.uint8).rename(x="easting", y="northing")
    np.testing.assert_array_equal(segmenter(named).values, expected)


@pytest.mark.filterwarnings("ignore::hrrsi.prediction.scene_remarks.SceneWarning")
def test_pixels_that_are_no_squares_are_read_as_those_of_files(
    segmenter: Segmenter, scene: Path, tmp_path: Path
) -> None:
    path = tmp_path / "degrees.tif"
    with rasterio.open(scene) as source, WarpedVRT(source, crs="EPSG:4326") as turned:
        place = {"crs": turned.crs, "transform": turned.transform @ Affine.scale(1, 2)}
        pixels = turned.read(out_shape=(3, turned.height // 2, turned.width))
    size = {"height": pixels.shape[1], "width": pixels.shape[2], "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **size, **place) as dataset:
        dataset.write(pixels)
    (mapped,) = hrrsi.predict(path, out=tmp_path)
    with rioxarray.open_rasterio(path) as cube, rasterio.open(mapped.path) as file:
        np.testing.assert_array_equal(segmenter(cube).values, file.read(1))


def test_probabilities_have_a_coordinate_of_classes(segmenter: Segmenter, scene: Path) -> None:
    with rioxarray.open_rasterio(scene) as cube:
        scores = segmenter.probabilities(cube)
        labels = segmenter(cube)
    assert scores.dims == ("class", "y", "x")
    names = scores.fillna(0).idxmax("class").values[64]
    assert list(names) == [segmenter.classes[index] for index in labels.values[64]]
    assert np.isnan(scores.sel({"class": "Water"}).values[:20, :30]).all()
    assert scores.rio.crs == cube.rio.crs


def test_an_array_without_a_crs_is_read_as_it_is(segmenter: Segmenter) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 48, 3)).astype(np.uint8)
    named = xr.DataArray(pixels, dims=("lat", "lon", "channel"), coords={"channel": list("rgb")})
    labels = segmenter(named)
    assert labels.dims == ("lat", "lon")
    assert "channel" not in labels.coords
    assert (labels.values == segmenter(pixels)).all()
    marked = named.assign_attrs(_FillValue=pixels[5, 5, 0])
    expected = (pixels == pixels[5, 5, 0]).all(axis=2)
    assert ((segmenter(marked).values == 255) == expected).all()


@pytest.mark.parametrize("dims", [("time", "band", "row"), ("band", "x", "col"), ("x", "y")])
def test_dimensions_that_are_no_image_are_one_line(segmenter: Segmenter, dims: list[str]) -> None:
    array = xr.DataArray(np.zeros((3, 4, 5)[: len(dims)], np.uint8), dims=dims)
    with pytest.raises(InputError, match=r"with the dimensions .* is no image; give it three"):
        segmenter(array)


def test_results_show_themselves_in_notebooks(
    segmenter: Segmenter, scene: Path, tmp_path: Path
) -> None:
    assert "Building, Land, Road, Vegetation, Water" in repr(segmenter)
    assert segmenter._repr_html_().count("border-left") == 5
    (mapped,) = hrrsi.predict(scene, out=tmp_path)
    assert f"{scene} → {mapped.path} (160 x 128 px)" in repr(mapped)
    shown = mapped._repr_html_()
    assert "scene &amp; co.tif" in shown
    assert "data:image/png;base64," in shown
    mapped.path.unlink()
    assert "data:image" not in mapped._repr_html_()
