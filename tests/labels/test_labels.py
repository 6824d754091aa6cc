"""Labels as colours, class indices and polygons; areas of interest."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.warp import transform
from samples.raw_layouts import (
    OWN_COLOURS,
    class_map,
    coloured,
    own_folder,
    own_scheme,
    textured,
    utm,
    write_raster,
)
from typer.testing import CliRunner, Result

from hrrsi.cli import app
from hrrsi.errors import HrrsiError
from hrrsi.labels.label_reading import open_labels
from hrrsi.labels.scene_labels import Labels
from hrrsi.labels.scheme import load_scheme
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.windows import Window
from hrrsi.tiling.dataset import TiledDataset

SHAPE = (60, 80)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["tile", *map(str, arguments), "--workers", "1"])


@contextmanager
def opened(folder: Path, label: Path, label_format: str, **options: Any) -> Iterator[Labels]:
    image = folder / "image.tif"
    if not image.exists():
        write_raster(image, textured(0, (3, *SHAPE)), **utm())
    scheme = load_scheme(own_scheme(folder, label_format=label_format))
    with (
        open_scene(image) as scene,
        open_labels(str(label), scene, scheme, name="s", **options) as labels,
    ):
        yield labels


WHOLE = Window(0, 0, *SHAPE)


def test_windows_of_every_kind_of_raster_label_agree(tmp_path: Path) -> None:
    indices = class_map(3, *SHAPE, 3)
    expected = indices.copy()
    expected[10:20] = 255
    colours = coloured(indices, OWN_COLOURS)
    colours[:, 10:20] = 0
    shown = indices.copy()
    shown[10:20] = 9
    palette = write_raster(tmp_path / "palette.png", shown)
    with rasterio.open(
        palette, "w", driver="PNG", height=60, width=80, count=1, dtype="uint8"
    ) as d:
        d.write(shown, 1)
        entries = {i: (*map(int, c), 255) for i, c in enumerate(OWN_COLOURS)}
        d.write_colormap(1, {**entries, 9: (0, 0, 0, 255)})
    alpha = np.full((1, *SHAPE), 255, dtype=np.uint8)
    alpha[:, 10:20] = 0
    clear = colours.copy()
    clear[:, 10:20] = 99  # no colour of the scheme, but transparent
    numbered = indices.astype(np.int32)
    numbered[10:20] = -1
    labels = {
        "colours": [
            write_raster(tmp_path / "rgb.tif", colours),
            palette,
            write_raster(tmp_path / "rgba.png", np.concatenate([clear, alpha]), photometric="RGBA"),
        ],
        "indices": [
            write_raster(tmp_path / "indices.tif", expected),
            write_raster(tmp_path / "nodata.tif", numbered, nodata=-1),
        ],
    }
    for label_format, paths in labels.items():
        for path in paths:
            with opened(tmp_path, path, label_format) as label:
                np.testing.assert_array_equal(label.read(WHOLE), expected, err_msg=path.name)
                part = label.read(Window(5, 30, 20, 41))
                np.testing.assert_array_equal(part, expected[5:25, 30:71])
                assert part.dtype == np.uint8


def test_missing_data_is_no_label_however_the_file_says_so(tmp_path: Path) -> None:
    indices = class_map(3, *SHAPE, 3)
    expected = indices.copy()
    expected[10:20] = 255
    there = expected != 255
    masked = tmp_path / "mask.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write_raster(masked, coloured(indices, OWN_COLOURS))
        with rasterio.open(masked, "r+") as dataset:
            dataset.write_mask(there)
    shown = np.where(there, indices, 9).astype(np.uint8)
    palette = tmp_path / "clear.png"
    size = {"height": 60, "width": 80, "count": 1, "dtype": "uint8"}
    with rasterio.open(palette, "w", driver="PNG", **size) as dataset:
        dataset.write(shown, 1)
        entries = {i: (*map(int, c), 255) for i, c in enumerate(OWN_COLOURS)}
        dataset.write_colormap(1, {**entries, 9: (*entries[0][:3], 0)})
    nowhere = np.where(there, coloured(indices, OWN_COLOURS), 77).astype(np.uint8)
    floats = np.where(there, indices, np.nan).astype(np.float32)
    below = np.where(there, indices.astype(np.float64), -9999)
    labels = {
        "colours": [masked, palette, write_raster(tmp_path / "rgb.tif", nowhere, nodata=77)],
        "indices": [
            write_raster(tmp_path / "nan.tif", floats),
            write_raster(tmp_path / "declared.tif", floats, nodata=float("nan")),
            write_raster(tmp_path / "below.tif", below, nodata=-9999),
        ],
    }
    for label_format, paths in labels.items():
        for path in paths:
            with opened(tmp_path, path, label_format) as label:
                np.testing.assert_array_equal(label.read(WHOLE), expected, err_msg=path.name)


def test_a_class_that_is_declared_as_missing_is_refused(tmp_path: Path) -> None:
    label = write_raster(tmp_path / "indices.tif", class_map(3, *SHAPE, 3), nodata=1)
    refused = r"declares 1 as no data, which stands for grass too; take the declaration away"
    with pytest.raises(HrrsiError, match=refused), opened(tmp_path, label, "indices"):
        pass
    white = write_raster(tmp_path / "rgb.tif", np.full((3, *SHAPE), 255, np.uint8), nodata=255)
    refused = r"declares 255 as no data, which stands for impervious surface too"
    with (
        open_scene(tmp_path / "image.tif") as scene,
        pytest.raises(HrrsiError, match=refused),
        open_labels(str(white), scene, load_scheme("vaihingen"), name="s"),
    ):
        pass


def test_indices_may_differ_from_positions(tmp_path: Path) -> None:
    values = np.array([7, 0, 300], dtype=np.uint16)[class_map(3, *SHAPE, 3)]
    label = write_raster(tmp_path / "label.tif", values)
    scheme = tmp_path / "s.yaml"
    scheme.write_text(
        "name: s\nlabel_format: indices\nclasses:\n"
        "  - {name: a, colour: [1, 1, 1], index: 300}\n"
        "  - {name: b, colour: [2, 2, 2], index: 7}\n"
        "ignored:\n  - {name: none, colour: [0, 0, 0], index: 0}\n"
    )
    image = write_raster(tmp_path / "image.tif", textured(0, (3, *SHAPE)))
    with (
        open_scene(image) as scene,
        open_labels(str(label), scene, load_scheme(scheme), name="s") as labels,
    ):
        read_indices = labels.read(WHOLE)
    expected = np.select([values == 300, values == 7], [0, 1], 255)
    np.testing.assert_array_equal(read_indices, expected)


def test_unknown_values_are_ignored_and_counted_on_request(tmp_path: Path) -> None:
    indices = class_map(3, *SHAPE, 3)
    indices[40, 7] = indices[41, 8] = 6
    label = write_raster(tmp_path / "label.tif", indices)
    with opened(tmp_path, label, "indices", unknown="ignore") as labels:
        read_indices, unknown = labels.read_with_unknown(WHOLE)
        assert unknown == 2
        assert labels.read_with_unknown(Window(0, 0, 40, 80))[1] == 0
    assert (read_indices == 255).sum() == 2
    with (
        opened(tmp_path, label, "indices") as labels,
        pytest.raises(HrrsiError, match=r"index 6 at row 40, column 7, 2 pixels.* water \(2\)"),
    ):
        labels.read(WHOLE)


# In pixels of the scene, (col, row); the second lies on top of part of the first.
POLYGONS = [
    ("roof", [(5, 5), (40.2, 5), (40.2, 30), (5, 30)]),
    ("water", [(20, 10), (60, 15), (30, 50.7)]),
    ("RF", [(70, 40), (79, 40), (79, 59), (70, 59)]),
]


def ground(polygon: list[tuple[float, float]], place: Any) -> list[tuple[float, float]]:
    return [place["transform"] @ point for point in polygon]


def write_polygons(
    path: Path, rings: list[list[tuple[float, float]]], values: list[object], crs: str | None
) -> Path:
    pyogrio.raw.write(
        path,
        shapely.to_wkb(np.array([shapely.Polygon(r) for r in rings])),
        [np.array(values)],
        ["class"],
        geometry_type="Polygon",
        crs=crs,
    )
    return path


def naive_polygons(shape: tuple[int, int]) -> np.ndarray:
    indices = np.full(shape, 255, dtype=np.uint8)
    codes = {"roof": 0, "water": 2, "RF": 0}
    for name, ring in POLYGONS:
        shape_of = shapely.Polygon(ring)
        for row in range(shape[0]):
            for col in range(shape[1]):
                if shape_of.contains(shapely.Point(col + 0.5, row + 0.5)):
                    indices[row, col] = codes[name]
    return indices


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp"])
def test_polygons_take_pixels_whose_centre_they_hold(tmp_path: Path, suffix: str) -> None:
    rings = [ground(ring, utm()) for _, ring in POLYGONS]
    crs = "EPSG:32632"
    if suffix == ".geojson":  # longitude and latitude, so that they must be reprojected
        crs = "EPSG:4326"
        rings = [
            list(zip(*transform("EPSG:32632", crs, *zip(*r, strict=True)), strict=True))
            for r in rings
        ]
    path = write_polygons(tmp_path / f"p{suffix}", rings, [n for n, _ in POLYGONS], crs)
    with opened(tmp_path, path, "polygons") as labels:
        read_indices = labels.read(WHOLE)
        np.testing.assert_array_equal(
            labels.read(Window(7, 11, 33, 44)),
            read_indices[7:40, 11:55],
            err_msg="a window differs",
        )
    np.testing.assert_array_equal(read_indices, naive_polygons(SHAPE))


def test_polygons_in_pixels_where_nothing_has_a_crs(tmp_path: Path) -> None:
    path = write_polygons(
        tmp_path / "p.gpkg", [r for _, r in POLYGONS], [n for n, _ in POLYGONS], None
    )
    write_raster(tmp_path / "image.tif", textured(0, (3, *SHAPE)))
    with opened(tmp_path, path, "polygons") as labels:
        np.testing.assert_array_equal(labels.read(WHOLE), naive_polygons(SHAPE))


def test_one_vector_file_labels_all_scenes(tmp_path: Path) -> None:
    own_folder(tmp_path / "raw", ["a", "b"], SHAPE, georeferenced=True)
    rings = []
    for number in range(2):
        rings += [ground(ring, utm(col=1000 * number)) for _, ring in POLYGONS]
    path = write_polygons(tmp_path / "all.gpkg", rings, [0, 2, 0, 0, 2, 0], "EPSG:32632")
    (tmp_path / "raw/labels/a.tif").unlink()
    options = ("--val-scenes", "b", "--size", "80", "--labels", path, "--attribute", "class")
    result = run(
        tmp_path / "raw", "--scheme", own_scheme(tmp_path), *options, "--out", tmp_path / "d"
    )
    assert result.exit_code == 0, result.output
    dataset = TiledDataset(tmp_path / "d")
    expected = naive_polygons(SHAPE)
    for part in ("train", "val"):
        with rasterio.open(dataset.patches(part)[0].label) as label:
            np.testing.assert_array_equal(label.read(1)[:60], expected)


def test_an_area_of_interest_limits_labels_and_patches(tmp_path: Path) -> None:
    labels = own_folder(tmp_path / "raw", ["a", "b"], (128, 128), georeferenced=True)
    area = [(0, 0), (70, 0), (70, 50), (0, 50)]
    rings = [ground(area, utm()), ground(area, utm(col=1000))]
    aoi = write_polygons(tmp_path / "aoi.gpkg", rings, [1, 1], "EPSG:32632")
    options = ("--val-scenes", "b", "--size", "64", "--aoi", aoi, "--out", tmp_path / "d")
    result = run(tmp_path / "raw", "--scheme", own_scheme(tmp_path), *options)
    assert result.exit_code == 0, result.output
    assert "4 patches without any labelled pixel left out" in result.output
    dataset = TiledDataset(tmp_path / "d")
    assert [p.name for p in dataset.patches("train")] == ["a_00000_00000", "a_00000_00064"]
    expected = np.full((128, 128), 255, dtype=np.uint8)
    expected[:50, :70] = labels["a"][:50, :70]
    with rasterio.open(dataset.patches("train")[1].label) as label:
        np.testing.assert_array_equal(label.read(1), expected[:64, 64:])


@pytest.mark.parametrize(
    ("values", "crs", "options", "words"),
    [
        (["roof", "wather", "RF"], "EPSG:32632", (), ["'wather'", "nearest class is water"]),
        (["roof"] * 3, "EPSG:32632", ("--attribute", "kind"), ["no attribute 'kind'", "class"]),
        (["roof"] * 3, None, (), ["has no CRS"]),
        (["roof"] * 3, "EPSG:32633", (), ["no polygon lies on any of the 2 scenes (a, b)"]),
    ],
)
def test_polygons_that_do_not_fit(
    tmp_path: Path,
    values: list[object],
    crs: str | None,
    options: tuple[str, ...],
    words: list[str],
) -> None:
    own_folder(tmp_path / "raw", ["a", "b"], SHAPE, georeferenced=True)
    rings = [ground(ring, utm()) for _, ring in POLYGONS]
    path = write_polygons(tmp_path / "p.gpkg", rings, values, crs)
    options = ("--val-scenes", "b", "--labels", str(path), *options)
    result = run(
        tmp_path / "raw", "--scheme", own_scheme(tmp_path), *options, "--out", tmp_path / "d"
    )
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr
    assert not (tmp_path / "d").exists()


def test_polygons_of_unknown_class_are_ignored_on_request(tmp_path: Path) -> None:
    rings = [ground(ring, utm()) for _, ring in POLYGONS]
    path = write_polygons(tmp_path / "p.gpkg", rings, ["roof", "?", "unsure"], "EPSG:32632")
    with opened(tmp_path, path, "polygons", unknown="ignore") as labels:
        read_indices, unknown = labels.read_with_unknown(WHOLE)
    expected = naive_polygons(SHAPE)
    assert unknown == (expected == 2).sum()
    expected[expected == 2] = 255
    expected[40:, 70:] = 255
    np.testing.assert_array_equal(read_indices, expected)


def test_a_file_of_lines_is_no_label(tmp_path: Path) -> None:
    line = {"type": "LineString", "coordinates": [[5.0, 5.0], [6.0, 6.0]]}
    path = tmp_path / "p.geojson"
    path.write_text(
        json.dumps({"type": "Feature", "properties": {"class": "roof"}, "geometry": line})
    )
    write_raster(
        tmp_path / "image.tif",
        textured(0, (3, *SHAPE)),
        crs="EPSG:4326",
        transform=rasterio.transform.from_origin(5, 6, 0.02, 0.02),
    )
    with (
        pytest.raises(HrrsiError, match="is a LineString"),
        opened(tmp_path, path, "polygons"),
    ):
        pass
    (tmp_path / "text.gpkg").write_text("hello")
    with (
        pytest.raises(HrrsiError, match="is not a vector file"),
        opened(tmp_path, tmp_path / "text.gpkg", "polygons"),
    ):
        pass


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ("[{name: a, colour: [1,1,1], index: 1}, {name: b, colour: [2,2,2]}]", "index 1"),
        ("[{name: a, colour: [1,1,1], code: X}, {name: b, colour: [2,2,2], code: X}]", "code X"),
        ("[{name: a, colour: [1,1,1]}, {name: b, colour: [1,1,1]}]", "colour (1, 1, 1)"),
    ],
)
def test_a_scheme_gives_each_value_one_meaning(tmp_path: Path, classes: str, words: str) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(f"name: twice\nclasses: {classes}\n")
    with pytest.raises(HrrsiError) as error:
        load_scheme(path)
    assert f"{words} stands for two things" in str(error.value)


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ("[0.4, 0.5, 0.6]", "[0.1, 0.2]", "mean has 3 bands and std 2"),
        ("[0.4]", "[0]", "mean must be finite and std above 0, not 0"),
        ("[0.4]", "[-0.1]", "mean must be finite and std above 0, not -0.1"),
        ("[.nan]", "[0.1]", "mean must be finite and std above 0, not nan"),
        ("[0.4]", "[.inf]", "mean must be finite and std above 0, not inf"),
    ],
)
def test_statistics_of_a_scheme_can_normalise(
    tmp_path: Path, mean: str, std: str, words: str
) -> None:
    with pytest.raises(HrrsiError) as error:
        load_scheme(own_scheme(tmp_path, f"mean: {mean}\nstd: {std}"))
    assert f"own.yaml: {words}; see the built-in schemes" in str(error.value)
