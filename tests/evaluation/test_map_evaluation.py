"""Any map against any labels, against whole rasters in memory.

The reference decodes by hand, lays maps on labels with `rasterio.warp.reproject`, and counts with
`numpy.add.at`.
"""

import json
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin
from rasterio.warp import Resampling, calculate_default_transform, reproject
from samples.raw_layouts import OWN_COLOURS, class_map, coloured, own_scheme, utm, write_raster
from typer.testing import CliRunner

from hrrsi.cli import app
from hrrsi.errors import HrrsiError
from hrrsi.evaluation.evaluation import Evaluation
from hrrsi.evaluation.map_evaluation import evaluate_maps, map_pixels
from hrrsi.evaluation.options import EvaluationOptions, MapReading
from hrrsi.labels.labelled_scenes import SceneFiles
from hrrsi.labels.scheme import Scheme, load_scheme
from hrrsi.maps.rasters import write_class_raster
from hrrsi.report.sentences import extent

SHAPE = (300, 130)  # more than one strip
UTM = utm()
PLACE: Affine = UTM["transform"]
MAP = class_map(1, *SHAPE, 3, block=7)
TRUTH = class_map(2, *SHAPE, 3, block=11)
TRUTH[20:33, :40] = 255


def scheme_of(folder: Path, label_format: str = "indices") -> Scheme:
    return load_scheme(own_scheme(folder, label_format=label_format))


def scored(
    path: Path,
    label: Path,
    scheme: Scheme,
    block: int = 64,
    reading: MapReading = MapReading(),
    **options: object,
) -> Evaluation:
    files = [SceneFiles("s", str(path), str(label))]
    evaluation = evaluate_maps(files, scheme, EvaluationOptions(block=block, **options), reading)
    assert evaluation.unit == "maps"
    return evaluation


def matrix_of(prediction: np.ndarray, truth: np.ndarray, classes: int = 3) -> np.ndarray:
    """Return counts with one more row: labelled pixels without prediction."""
    known = truth != 255
    rows = np.where(prediction == 255, classes, prediction)
    counts = np.zeros((classes + 1, classes), dtype=np.int64)
    np.add.at(counts, (rows[known], truth[known]), 1)
    return counts


def assert_counted(evaluation: Evaluation, prediction: np.ndarray, truth: np.ndarray) -> None:
    matrix = evaluation.counts.matrix("full")
    found = np.vstack([matrix.counts, matrix.unpredicted])
    np.testing.assert_array_equal(found, matrix_of(prediction, truth, len(matrix.classes)))
    assert evaluation.counts.ignored_pixels == (truth == 255).sum()


def label_file(folder: Path, **place: object) -> Path:
    return write_raster(folder / "label.tif", TRUTH, **(place or UTM))


def palette_file(path: Path, indices: np.ndarray, palette: dict[int, tuple[int, ...]]) -> Path:
    driver = {".tif": "GTiff", ".png": "PNG"}[path.suffix]
    profile = {"driver": driver, "count": 1, "dtype": "uint8", "width": indices.shape[1]}
    with rasterio.open(path, "w", height=len(indices), **profile, **UTM) as raster:
        raster.write(indices, 1)
        raster.write_colormap(1, palette)
    return path


@dataclass
class ClassRaster:
    """Writes maps as `hrrsi predict` does."""

    folder: Path
    classes: tuple[str, ...]

    def write(self, indices: np.ndarray, **place: object) -> Path:
        path = self.folder / "own_classes.tif"
        grid = write_raster(self.folder / "grid.tif", indices, **place)
        with rasterio.open(grid) as scene:
            write_class_raster(
                path,
                scene,
                [indices[:100], indices[100:]],
                classes=self.classes,
                colours=[(9, 9, i) for i in range(len(self.classes))],
                has_nodata=True,
                provenance={"MODEL": "ued"},
            )
        return path


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


SHAPES = [
    ("roof", shapely.box(5.2, 6.1, 70.4, 120.73)),
    ("water", shapely.Polygon([(20.3, 100.4), (120.8, 90.2), (80.1, 290.6)])),
    ("grass", shapely.Point(90.3, 40.1).buffer(30)),
    ("unsure", shapely.box(100.1, 200.2, 129.9, 280.3)),
]


def polygon_file(
    path: Path,
    shapes: list[tuple[str, Any]],
    place: Affine = PLACE,
    crs: str | None = "EPSG:32632",
) -> Path:
    """Write polygons given in pixels, columns and rows, as what they are on the ground."""
    moved = [
        shapely.transform(shape, lambda xy: np.column_stack(place @ (xy[:, 0], xy[:, 1])))
        for _, shape in shapes
    ]
    names = np.array([name for name, _ in shapes], dtype=object)
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(moved)), [names], ["class"], geometry_type="Polygon", crs=crs
    )
    return path


def inside(shape: tuple[int, int], place: Affine, grid: Affine, polygon: Any) -> np.ndarray:
    """Return which pixels of a grid have their centre in a polygon given in those of a place."""
    rows, columns = np.indices(shape) + 0.5
    found: np.ndarray = shapely.contains_xy(polygon, *((~place @ grid) @ (columns, rows)))
    return found


def burned(shape: tuple[int, int], place: Affine, grid: Affine) -> np.ndarray:
    codes = {"roof": 0, "grass": 1, "water": 2, "unsure": 255}
    found = np.full(shape, 255, dtype=np.uint8)
    for name, polygon in SHAPES:
        found[inside(shape, place, grid, polygon)] = codes[name]
    return found


@pytest.mark.parametrize("given", ["colours", "polygons"])
def test_polygons_are_burned_onto_the_maps_grid(tmp_path: Path, given: str) -> None:
    """A vector file is polygons, whatever the scheme's labels are."""
    scheme = scheme_of(tmp_path, given)
    label = polygon_file(tmp_path / "label.gpkg", SHAPES)
    # the map has another resolution and extent than what polygons were drawn on
    grid = from_origin(499_990, 5_500_003, 0.7, 0.7)
    path = write_raster(tmp_path / "map.tif", MAP, crs="EPSG:32632", transform=grid)
    assert_counted(scored(path, label, scheme), MAP, burned(SHAPE, PLACE, grid))


def laid(
    values: np.ndarray, place: Affine, crs: str, shape: tuple[int, int], grid: Affine, onto: str
) -> np.ndarray:
    """Return a map on a grid, by GDAL."""
    found = np.full(shape, 255, dtype=np.uint8)
    reproject(
        values,
        found,
        src_transform=place,
        src_crs=crs,
        src_nodata=255,
        dst_transform=grid,
        dst_crs=onto,
        dst_nodata=255,
        resampling=Resampling.nearest,
        tolerance=0,
    )
    return found


GRIDS = {
    "shifted by whole pixels": PLACE @ Affine.translation(-31, 17),
    "shifted within a pixel": PLACE @ Affine.translation(-31.3, 17.4),
    "larger pixels": PLACE @ Affine.translation(3, -40) @ Affine.scale(3.1),
    "smaller pixels": PLACE @ Affine.translation(-4, 20) @ Affine.scale(0.37),
    "half as large": PLACE @ Affine.scale(0.5),
    "south up": PLACE @ Affine.translation(0, 290) @ Affine.scale(1, -1),
    "turned": PLACE @ Affine.translation(60, 10) @ Affine.rotation(27),
    "rows for columns": PLACE @ Affine(0, 1, -20, 1, 0, -10),
}


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
    found = scored(path, label_file(tmp_path), scheme_of(tmp_path)).counts.matrix("full")
    # centres within a millionth of a pixel of a line may fall to either side
    difference = np.abs(np.vstack([found.counts, found.unpredicted]) - matrix_of(expected, TRUTH))
    assert difference.sum() <= 4


def test_a_map_that_is_much_finer_is_read_in_pieces(tmp_path: Path, monkeypatch: Any) -> None:
    from hrrsi.evaluation import map_reading as map_alignment

    monkeypatch.setattr(map_alignment, "_MOST_PIXELS", 900)
    monkeypatch.setattr(map_alignment, "_TILE", 100)
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


def test_what_lies_outside_of_the_area_of_interest_does_not_count(tmp_path: Path) -> None:
    aoi = polygon_file(tmp_path / "aoi.gpkg", SHAPES[1:2])
    near = inside(SHAPE, PLACE, PLACE, SHAPES[1][1])
    truth, prediction = np.where(near, TRUTH, 255), np.where(near, MAP, 255)
    path = write_raster(tmp_path / "map.tif", MAP, **UTM)
    evaluation = scored(
        path, label_file(tmp_path), scheme_of(tmp_path), reading=MapReading(aoi=aoi)
    )
    assert_counted(evaluation, prediction, truth)
    assert evaluation.reading == ("only inside of aoi.gpkg",)
    np.testing.assert_array_equal(
        evaluation.counts.mapped_pixels, np.bincount(MAP[near], minlength=3)
    )
    # of polygons as labels, and of a map on another grid
    label = polygon_file(tmp_path / "label.gpkg", SHAPES)
    evaluation = scored(path, label, scheme_of(tmp_path), reading=MapReading(aoi=aoi))
    assert_counted(evaluation, prediction, np.where(near, burned(SHAPE, PLACE, PLACE), 255))
    grid = GRIDS["turned"]
    path = write_raster(tmp_path / "map.tif", MAP, crs="EPSG:32632", transform=grid)
    expected = laid(MAP, grid, "EPSG:32632", SHAPE, PLACE, "EPSG:32632")
    evaluation = scored(
        path, label_file(tmp_path), scheme_of(tmp_path), reading=MapReading(aoi=aoi)
    )
    assert_counted(evaluation, np.where(near, expected, 255), truth)


def test_an_area_of_interest_may_lie_on_some_of_the_scenes(tmp_path: Path) -> None:
    aoi = polygon_file(tmp_path / "aoi.gpkg", SHAPES[:1])
    files = []
    for name, col in (("a", 0), ("b", 5000)):
        place = utm(col=col)
        path = write_raster(tmp_path / f"{name}.tif", MAP, **place)
        label = write_raster(tmp_path / f"{name}_label.tif", TRUTH, **place)
        files.append(SceneFiles(name, str(path), str(label)))
    scheme = scheme_of(tmp_path)
    counts = evaluate_maps(files, scheme, reading=MapReading(aoi=aoi)).counts
    near, far = (s.matrices["full"].matrix.pixels for s in counts.scenes)
    assert near > 0
    assert far == 0
    with pytest.raises(HrrsiError, match=r"aoi.gpkg: no polygon lies on .*b.tif; check its CRS"):
        evaluate_maps(files[1:], scheme, reading=MapReading(aoi=aoi))
    aoi = polygon_file(tmp_path / "far.gpkg", [("roof", shapely.box(9000, 0, 9010, 10))])
    with pytest.raises(HrrsiError, match=r"far.gpkg: no polygon lies on any of the maps"):
        evaluate_maps(files, scheme, reading=MapReading(aoi=aoi))


def test_classes_are_merged_in_both(tmp_path: Path) -> None:
    lookup = np.array([0, 1, 0] + [255] * 253, dtype=np.uint8)  # roof and water are one
    label, scheme = label_file(tmp_path), scheme_of(tmp_path)
    merges = ("roof+water=dark",)
    path = write_raster(tmp_path / "map.tif", MAP, **UTM)
    evaluation = scored(path, label, scheme, merges=merges)
    assert evaluation.counts.scenes[0].classes == ("dark", "grass")
    assert_counted(evaluation, lookup[MAP], lookup[TRUTH])
    # a map of ours may have the scheme's classes, or the merged ones, in any order
    path = ClassRaster(tmp_path, ("roof", "grass", "water")).write(MAP, **UTM)
    assert_counted(scored(path, label, scheme, merges=merges), lookup[MAP], lookup[TRUTH])
    path = ClassRaster(tmp_path, ("grass", "DARK")).write((1 - lookup[MAP]), **UTM)
    assert_counted(scored(path, label, scheme, merges=merges), lookup[MAP], lookup[TRUTH])


def test_eroded_labels_of_their_own_count(tmp_path: Path) -> None:
    path, full = write_raster(tmp_path / "map.tif", MAP, **UTM), label_file(tmp_path)
    cut = TRUTH.copy()
    cut[:, ::5] = 255
    eroded = write_raster(tmp_path / "eroded.tif", cut, **UTM)
    scheme = scheme_of(tmp_path)
    both = evaluate_maps([SceneFiles("s", str(path), str(full), str(eroded))], scheme)
    assert_counted(both, MAP, TRUTH)
    np.testing.assert_array_equal(
        both.counts.matrix("eroded").counts, matrix_of(MAP, cut)[:3], strict=True
    )
    alone = evaluate_maps([SceneFiles("s", str(path), None, str(eroded))], scheme)
    assert alone.labels == "eroded"
    assert alone.counts.matrix("eroded").pixels == (cut != 255).sum()


def test_scenes_are_pooled_and_strips_come_in_order(tmp_path: Path) -> None:
    files = []
    for name, shape in (("a", (530, 40)), ("b", (20, 60))):
        path = write_raster(tmp_path / f"{name}.tif", class_map(1, *shape, 3))
        label = write_raster(tmp_path / f"{name}_label.tif", class_map(2, *shape, 3))
        files.append(SceneFiles(name, str(path), str(label)))
    seen: dict[str, list[np.ndarray]] = {"a": [], "b": []}
    pixels: list[int] = []
    scheme = scheme_of(tmp_path)
    evaluation = evaluate_maps(
        files,
        scheme,
        split="paper:val",
        on_strip=lambda file, strip: seen[file.name].append(strip.prediction),
        on_pixels=pixels.append,
    )
    assert len(seen["a"]) > 1
    np.testing.assert_array_equal(np.concatenate(seen["a"]), class_map(1, 530, 40, 3))
    assert sum(pixels) == map_pixels(files, scheme) == 530 * 40 + 20 * 60
    assert evaluation.counts.matrix("full").pixels == sum(pixels)
    assert (evaluation.scenes, evaluation.split) == (("a", "b"), "paper:val")
    assert extent(evaluation) == "2 scenes, whole, maps as given"


def test_unknown_values_on_request_are_no_prediction(tmp_path: Path) -> None:
    indices, truth = MAP.copy(), TRUTH.copy()
    indices[5:9, 100:] = 7
    truth[1, 60:70] = 8
    path = write_raster(tmp_path / "map.tif", indices, **UTM)
    label = write_raster(tmp_path / "label.tif", truth, **UTM)
    evaluation = scored(path, label, scheme_of(tmp_path), unknown="ignore")
    assert_counted(
        evaluation, np.where(indices == 7, 255, indices), np.where(truth == 8, 255, truth)
    )
    assert evaluation.unknown_pixels == 10
    assert evaluation.reading == ("unknown labels ignored",)


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


def test_bad_labels_are_one_line(tmp_path: Path) -> None:
    path, scheme = write_raster(tmp_path / "map.tif", MAP, **UTM), scheme_of(tmp_path)
    strange = TRUTH.copy()
    strange[12, 60] = 9
    label = write_raster(tmp_path / "label.tif", strange, **UTM)
    with pytest.raises(HrrsiError, match=r"label.tif: scene s: unknown index 9 at row 12, col"):
        scored(path, label, scheme)
    flat = polygon_file(tmp_path / "flat.gpkg", SHAPES, crs=None)
    with pytest.raises(HrrsiError, match=r"flat.gpkg: has no CRS, but .*map.tif has; assign one"):
        scored(path, flat, scheme)
    with pytest.raises(HrrsiError, match=r"scene s: has no label"):
        evaluate_maps([SceneFiles("s", str(path))], scheme)


@pytest.mark.long
def test_memory_does_not_grow_with_the_rasters_height(tmp_path: Path) -> None:
    def peak(height: int, **place: object) -> int:
        # one class: what is found near borders is another matter
        truth = np.zeros((height, 64), dtype=np.uint8)
        label = write_raster(tmp_path / "label.tif", truth, **UTM)
        path = write_raster(tmp_path / "map.tif", truth, **{**UTM, **place})
        scheme = scheme_of(tmp_path)
        tracemalloc.start()
        try:
            scored(path, label, scheme, block=100_000)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    grid = PLACE @ Affine.translation(0.3, 0.4)
    for place in ({}, {"transform": grid}):
        peak(300, **place)  # what is imported and kept once
        assert peak(6000, **place) < 1.2 * peak(1500, **place)


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


@pytest.mark.long
def test_a_predicted_map_scores_as_its_weights_do(
    examples: Path, made_weights: Path, tmp_path: Path
) -> None:
    tile = examples / "dubai" / "tile1"
    image = tile / "images" / "image_part_008.jpg"
    options = ["--weights", made_weights, "--window", "256", "--device", "cpu", "--quiet"]
    options += ["--precision", "32"]
    evaluated = run("eval", tile.parent, "--scheme", "dubai", "--scenes", "tile1_part008",
                    "--format", "json", *options)  # fmt: skip
    run("predict", image, "--out", tmp_path / "map.tif", *options)
    mask = tile / "masks" / "image_part_008.png"
    matrix = scored(tmp_path / "map.tif", mask, load_scheme("dubai")).counts.matrix("full")
    expected = json.loads(evaluated)["confusion_matrix"]
    assert list(matrix.classes) == expected["classes"]
    assert matrix.pixels > 0
    assert matrix.counts.tolist() == expected["counts"]


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.stdout
