"""Maps of every kind on every grid, read on the grid of their labels, against GDAL's warper."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin
from rasterio.warp import calculate_default_transform
from samples.raw_layouts import OWN_COLOURS, class_map, coloured, utm, write_raster
from samples.scored_rasters import (
    GRIDS,
    MAP,
    PLACE,
    SHAPE,
    SHAPES,
    TRUTH,
    UTM,
    ClassRaster,
    assert_counted,
    burned,
    label_file,
    laid,
    matrix_of,
    palette_file,
    polygon_file,
    scheme_of,
    scored,
)

from hrrsi.errors import HrrsiError
from hrrsi.evaluation.map_evaluation import map_pixels
from hrrsi.evaluation.options import MapReading
from hrrsi.labels import laid_classes
from hrrsi.labels.labelled_scenes import SceneFiles
from hrrsi.labels.scheme import load_scheme


def maps_of_every_kind(folder: Path, indices: np.ndarray) -> dict[str, Path]:
    """Write a map, 255 where there is no prediction, as different tools would."""
    gap = indices == 255
    filled = np.where(gap, 0, indices)
    colours = coloured(filled, OWN_COLOURS)
    marked = np.where(gap, 77, colours).astype(np.uint8)  # a colour that no scheme knows
    opaque = np.where(gap, 0, 255).astype(np.uint8)[None]
    palette = {i: (*map(int, c), 255) for i, c in enumerate(OWN_COLOURS)}
    shuffled = np.array([2, 0, 1] + [255] * 253, dtype=np.uint8)  # roof, grass, water
    names = ("Grass", "WATER", "roof")
    with_mask = write_raster(folder / "masked.tif", np.where(gap, 77, colours), **UTM)
    with rasterio.open(with_mask, "r+") as raster:
        raster.write_mask(~gap)
    alpha = {"photometric": "RGB", "alpha": "yes"}
    two = write_raster(folder / "two.tif", np.concatenate([filled[None], opaque]), **UTM)
    with rasterio.open(two, "r+") as raster:
        raster.colorinterp = [rasterio.enums.ColorInterp.gray, rasterio.enums.ColorInterp.alpha]
    return {
        "colours, ignored colour": write_raster(
            folder / "rgb.tif", np.where(gap, 0, colours), **UTM
        ),
        "colours, nodata": write_raster(folder / "nodata.tif", marked, nodata=77, **UTM),
        "colours, alpha": write_raster(
            folder / "rgba.tif", np.concatenate([marked, opaque]), **alpha, **UTM
        ),
        "colours, mask": with_mask,
        "palette": palette_file(
            folder / "palette.tif", np.where(gap, 9, filled), {**palette, 9: (0, 0, 0, 255)}
        ),
        "palette, transparent": palette_file(
            folder / "clear.png", np.where(gap, 9, filled), {**palette, 9: (1, 2, 3, 0)}
        ),
        "indices": write_raster(folder / "indices.tif", indices, **UTM),
        "indices, signed, nodata": write_raster(
            folder / "signed.tif", np.where(gap, -1, indices).astype(np.int16), nodata=-1, **UTM
        ),
        "indices, alpha": two,
        "class raster": ClassRaster(folder, names).write(shuffled[indices], **UTM),
    }


def test_maps_of_every_kind(tmp_path: Path) -> None:
    indices = MAP.copy()
    indices[250:270, 60:] = 255
    scheme, label = scheme_of(tmp_path), label_file(tmp_path)
    for kind, path in maps_of_every_kind(tmp_path, indices).items():
        try:
            evaluation = scored(path, label, scheme)
            assert_counted(evaluation, indices, TRUTH)
        except (HrrsiError, AssertionError) as error:
            raise AssertionError(kind) from error
        assert evaluation.model == ("ued" if kind == "class raster" else None)
        assert evaluation.counts.mapped_pixels.sum() == (indices != 255).sum()
        np.testing.assert_allclose(
            evaluation.counts.mapped_areas, evaluation.counts.mapped_pixels / 4
        )


def test_labels_of_every_kind(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "map.tif", MAP, **UTM)
    gap = TRUTH == 255
    colours = np.where(gap, 0, coloured(np.where(gap, 0, TRUTH), OWN_COLOURS))
    label = write_raster(tmp_path / "colours.png", colours.astype(np.uint8), **UTM)
    assert_counted(scored(path, label, scheme_of(tmp_path, "colours")), MAP, TRUTH)
    label = label_file(tmp_path)
    assert_counted(scored(path, label, scheme_of(tmp_path, "indices")), MAP, TRUTH)


def test_a_palette_that_is_no_legend_is_read_as_indices_on_request(tmp_path: Path) -> None:
    palette = {0: (1, 1, 1, 255), 1: (2, 2, 2, 255), 2: (3, 3, 3, 255)}
    path = palette_file(tmp_path / "map.tif", MAP, palette)
    label, scheme = label_file(tmp_path), scheme_of(tmp_path)
    with pytest.raises(HrrsiError, match=r"map.tif: scene s: unknown colour .* `map_format=ind"):
        scored(path, label, scheme)
    assert_counted(
        scored(path, label, scheme, reading=MapReading(map_format="indices")), MAP, TRUTH
    )
    # the class names of a map of ours don't count then either
    own = ClassRaster(tmp_path, ("x", "y", "z")).write(MAP, **UTM)
    assert_counted(scored(own, label, scheme, reading=MapReading(map_format="indices")), MAP, TRUTH)


@pytest.mark.parametrize("label_format", ["colours", "polygons"])
def test_polygons_are_burned_onto_the_maps_grid(tmp_path: Path, label_format: str) -> None:
    """A vector file is polygons, whatever the scheme's labels are."""
    scheme = scheme_of(tmp_path, label_format)
    label = polygon_file(tmp_path / "label.gpkg", SHAPES)
    # the map has another resolution and extent than what polygons were drawn on
    grid = from_origin(499_990, 5_500_003, 0.7, 0.7)
    path = write_raster(tmp_path / "map.tif", MAP, crs="EPSG:32632", transform=grid)
    assert_counted(scored(path, label, scheme), MAP, burned(SHAPE, PLACE, grid))


@pytest.mark.parametrize("grid", GRIDS)
def test_maps_on_other_grids_are_laid_on_the_labels(tmp_path: Path, grid: str) -> None:
    indices = MAP.copy()
    indices[90:110, 30:] = 255
    expected = laid(indices, GRIDS[grid], "EPSG:32632", SHAPE, PLACE, "EPSG:32632")
    assert 0.02 < (expected != 255).mean() < 0.99
    label, scheme = label_file(tmp_path), scheme_of(tmp_path)
    place = {"crs": "EPSG:32632", "transform": GRIDS[grid]}
    path = write_raster(tmp_path / "map.tif", indices, **place)
    evaluation = scored(path, label, scheme)
    assert_counted(evaluation, expected, TRUTH)
    assert evaluation.reading == ("1 of 1 laid on the labels' grid by nearest pixel",)
    # no colour mixes with another, or with what is transparent
    gap = indices == 255
    colours = coloured(np.where(gap, 0, indices), OWN_COLOURS)
    opacity = np.where(gap, 0, 90).astype(np.uint8)[None]
    bands = np.concatenate([np.where(gap, 77, colours).astype(np.uint8), opacity])
    path = write_raster(tmp_path / "map.tif", bands, photometric="RGB", alpha="yes", **place)
    assert_counted(scored(path, label, scheme), expected, TRUTH)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:25833"])
def test_maps_in_another_crs(tmp_path: Path, crs: str) -> None:
    left, bottom, right, top = rasterio.transform.array_bounds(*SHAPE, PLACE)
    grid, width, height = calculate_default_transform(
        "EPSG:32632", crs, SHAPE[1], SHAPE[0], left, bottom, right, top
    )
    indices = class_map(1, height, width, 3, block=7)
    expected = laid(indices, grid, crs, SHAPE, PLACE, "EPSG:32632")
    assert (expected != 255).all()
    path = write_raster(tmp_path / "map.tif", indices, crs=crs, transform=grid)
    matrix = scored(path, label_file(tmp_path), scheme_of(tmp_path)).counts.matrix("full")
    # centres within a millionth of a pixel of a line may fall to either side
    difference = np.abs(np.vstack([matrix.counts, matrix.unpredicted]) - matrix_of(expected, TRUTH))
    assert difference.sum() <= 4


def test_a_map_that_is_much_finer_is_read_in_pieces(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(laid_classes, "_MOST_PIXELS", 900)
    monkeypatch.setattr(laid_classes, "_TILE", 100)
    grid = PLACE @ Affine.translation(-3.3017, 2.6031) @ Affine.scale(0.13)
    indices = class_map(4, 700, 500, 3)
    path = write_raster(tmp_path / "map.tif", indices, crs="EPSG:32632", transform=grid)
    expected = laid(indices, grid, "EPSG:32632", SHAPE, PLACE, "EPSG:32632")
    assert_counted(scored(path, label_file(tmp_path), scheme_of(tmp_path)), expected, TRUTH)


def test_wide_rasters_are_laid_tile_by_tile(tmp_path: Path) -> None:
    grid = PLACE @ Affine.translation(2.2, -3.3) @ Affine.rotation(2)
    indices, truth = class_map(5, 40, 1300, 3), class_map(6, 40, 1250, 3)
    label = write_raster(tmp_path / "label.tif", truth, **UTM)
    path = write_raster(tmp_path / "map.tif", indices, crs="EPSG:32632", transform=grid)
    expected = laid(indices, grid, "EPSG:32632", truth.shape, PLACE, "EPSG:32632")
    assert_counted(scored(path, label, scheme_of(tmp_path)), expected, truth)


def test_control_points_place_a_map(tmp_path: Path) -> None:
    turned = PLACE @ Affine.translation(10.3, 5.2) @ Affine.rotation(12)
    points = [
        GroundControlPoint(row, col, *(turned @ (col, row)))
        for row, col in ((0, 0), (0, 130), (300, 0), (300, 130))
    ]
    path = write_raster(tmp_path / "map.tif", MAP, crs="EPSG:32632", gcps=points)
    expected = laid(MAP, turned, "EPSG:32632", SHAPE, PLACE, "EPSG:32632")
    assert_counted(scored(path, label_file(tmp_path), scheme_of(tmp_path)), expected, TRUTH)


@pytest.mark.parametrize(
    ("of_map", "of_label"),
    [
        ({}, {"transform": None}),
        ({"transform": None}, UTM),
        (UTM, {"transform": None}),
        ({"transform": PLACE}, UTM),
        ({"crs": "EPSG:32632", "transform": PLACE @ Affine.translation(1e-5, 0)}, UTM),
    ],
    ids=["none", "only the label", "only the map", "no CRS in the map", "rounded"],
)
def test_rasters_of_one_size_are_compared_pixel_by_pixel(
    tmp_path: Path, of_map: dict[str, Any], of_label: dict[str, Any]
) -> None:
    """Unless both say that they lie elsewhere: labels of Vaihingen have no place."""
    path = write_raster(tmp_path / "map.tif", MAP, **of_map)
    evaluation = scored(path, label_file(tmp_path, **of_label), scheme_of(tmp_path))
    assert_counted(evaluation, MAP, TRUTH)
    assert evaluation.reading == ()


def test_a_place_without_crs_is_in_that_of_the_other(tmp_path: Path) -> None:
    grid = GRIDS["larger pixels"]
    path = write_raster(tmp_path / "map.tif", MAP, transform=grid)
    expected = laid(MAP, grid, "EPSG:32632", SHAPE, PLACE, "EPSG:32632")
    assert_counted(scored(path, label_file(tmp_path), scheme_of(tmp_path)), expected, TRUTH)


def bad_map(folder: Path, kind: str) -> Path:
    path = folder / "map.tif"
    strange = MAP.copy()
    strange[280, 7] = 6
    colours = coloured(MAP, OWN_COLOURS)
    if kind == "missing":
        return path
    if kind == "no raster":
        path.write_text("nothing")
        return path
    if kind == "other classes":
        return ClassRaster(folder, ("roof", "grass", "road")).write(MAP, **UTM)
    if kind == "truncated":
        write_raster(path, MAP, compress="deflate", **UTM)
        path.write_bytes(path.read_bytes()[:-600])
        return path
    pixels, options = {
        "fractions": (np.full(MAP.shape, 0.5, np.float32), UTM),
        "three floats": (np.stack([MAP] * 3).astype(np.float32), UTM),
        "five bands": (np.stack([MAP] * 5), UTM),
        "unknown index": (strange, UTM),
        "unknown colour": (np.where(strange == 6, 9, colours).astype(np.uint8), UTM),
        "smoothed": (((colours + np.roll(colours, 1, 1).astype(int)) // 2).astype(np.uint8), UTM),
        "class as nodata": (MAP, {"nodata": 0, **UTM}),
        "no place, other size": (MAP[:200], {}),
        "elsewhere": (MAP, utm(row=5000)),
        "swapped": (
            MAP,
            {"crs": "EPSG:32632", "transform": from_origin(5_499_900, 500_100, 0.5, 0.5)},
        ),
        "on a line": (MAP, {"crs": "EPSG:32632", "transform": Affine(1, 1, 5, 1, 1, 5)}),
        "nothing predicted": (np.full_like(MAP, 255), UTM),
    }[kind]
    return write_raster(path, pixels, **options)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"map.tif: no such file; check the path"),
        ("no raster", r"map.tif: is not a raster that GDAL can read"),
        ("fractions", r"map.tif: holds 0.5 at row 0, column 0, which is no class index; round"),
        ("three floats", r"is no map of classes: it has 3 bands of float32, not three of colours"),
        ("five bands", r"is no map of classes: it has 5 bands of uint8"),
        ("unknown index", r"unknown index 6 at row 280, column 7, 1 pixel; .* water \(2\)"),
        ("unknown colour", r"unknown colour 9,9,9 at row 280, column 7, 1 pixel"),
        ("smoothed", r"the map looks resampled .*; take the original map, or"),
        ("truncated", r"map.tif: the map cannot be read at row \d+, column 0 \(truncated"),
        ("class as nodata", r"declares 0 as no data, which stands for roof too; take the"),
        ("other classes", r"its classes \(roof, grass, road\) are not those of the scheme own"),
        ("no place, other size", r"has 200 rows and 130 columns where its label .*label.tif has "
         r"300 and 130, and no place on the map is known of .*map.tif; give both"),
        ("elsewhere", r"map.tif: does not lie on its label .*label.tif; check the CRS"),
        ("swapped", r"does not lie on its label .*; one of them has x and y swapped"),
        ("on a line", r"map.tif: has a transform that puts all pixels on a line"),
        ("nothing predicted", r"s: no pixel has both .*; nothing is predicted on its 38,480 "),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(tmp_path: Path, kind: str, message: str) -> None:
    path, label, scheme = bad_map(tmp_path, kind), label_file(tmp_path), scheme_of(tmp_path)
    with pytest.raises(HrrsiError, match=message) as raised:
        scored(path, label, scheme)
    assert "\n" not in str(raised.value)


def test_what_does_not_fit_shows_before_pixels_are_read(tmp_path: Path) -> None:
    label, scheme = label_file(tmp_path), scheme_of(tmp_path)
    for kind in ("three floats", "class as nodata", "elsewhere", "other classes"):
        files = [SceneFiles("s", str(bad_map(tmp_path, kind)), str(label))]
        with pytest.raises(HrrsiError):
            map_pixels(files, scheme)


def test_labels_out_of_reach_of_the_maps_crs_are_one_line(tmp_path: Path) -> None:
    beyond_the_pole = {"crs": "EPSG:4326", "transform": from_origin(3, 91, 0.02, 0.15)}
    label, scheme = label_file(tmp_path, **beyond_the_pole), scheme_of(tmp_path)
    grid = from_origin(3e5, 5.6e6, 3000, 3000)
    path = write_raster(tmp_path / "map.tif", MAP, crs="EPSG:32632", transform=grid)
    with pytest.raises(HrrsiError, match=r"map.tif: can't be laid over its label .*; check the"):
        scored(path, label, scheme)


def test_real_labels_shifted_on_the_ground(examples: Path, tmp_path: Path) -> None:
    """A real label, read as a map that lies 5 m beside it, on pixels twice as large."""
    scheme = load_scheme("dubai")
    mask = examples / "dubai" / "tile1" / "masks" / "image_part_007.png"
    with rasterio.open(mask) as raster:
        colours = raster.read([1, 2, 3]) if raster.count >= 3 else None
        if colours is None:
            palette = np.array([raster.colormap(1)[i][:3] for i in range(256)], dtype=np.uint8)
            colours = palette[raster.read(1)].transpose(2, 0, 1)
    packed = (colours.astype(int) * np.array([65536, 256, 1])[:, None, None]).sum(axis=0)
    truth = np.full(packed.shape, 255, dtype=np.uint8)
    for index, (red, green, blue) in enumerate(scheme.colours):
        truth[packed == red * 65536 + green * 256 + blue] = index
    grid = PLACE @ Affine.translation(10, 10) @ Affine.scale(2)
    small = truth[::2, ::2]
    legend = np.array([*scheme.colours, *[(155, 155, 155)] * 251], dtype=np.uint8)
    path = write_raster(
        tmp_path / "map.tif", coloured(small, legend), crs="EPSG:32632", transform=grid
    )
    label = write_raster(tmp_path / "label.tif", coloured(truth, legend), **UTM)
    expected = laid(small, grid, "EPSG:32632", truth.shape, PLACE, "EPSG:32632")
    assert_counted(scored(path, label, scheme, block=256), expected, truth)
