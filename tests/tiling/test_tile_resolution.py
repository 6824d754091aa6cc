"""`hrrsi tile --resolution`: scenes of several ground resolutions, brought to one."""

from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.features
import shapely
import yaml
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin
from samples.one_ortho import error_of, tile
from samples.raw_layouts import textured, write_raster

import hrrsi

CRS = "EPSG:32632"
SCHEME = """
name: mask
label_format: indices
classes:
  - {name: ground, colour: [0, 0, 0]}
  - {name: roof, colour: [255, 255, 255]}
"""


def saved(folder: Path, name: str, metres: float, side: int, **label_place: Any) -> np.ndarray:
    """Write a scene and its label of noise; return the label."""
    place = {"crs": CRS, "transform": from_origin(400000, 5600000, metres, metres)}
    if name == "b":
        place["transform"] = from_origin(409000, 5600000, metres, metres)
    write_raster(folder / f"raw/images/{name}.tif", textured(len(name), (3, side, side)), **place)
    label = np.random.default_rng(ord(name)).integers(0, 2, (1, side, side)).astype(np.uint8)
    write_raster(folder / f"raw/labels/{name}.tif", label, **(label_place or place))
    return label[0]


def tiled(folder: Path, *options: object, scheme: str = SCHEME) -> tuple[dict[str, Any], str]:
    (folder / "s.yaml").write_text(scheme)
    arguments = ["--scheme", folder / "s.yaml", "--size", 32, "--val-scenes", "b"]
    result = tile(folder / "raw", *arguments, *options, "--out", folder / "d")
    assert result.exit_code == 0, result.output
    return yaml.safe_load((folder / "d/dataset.yaml").read_text()), result.output


def patches(folder: Path, part: str, kind: str) -> dict[tuple[int, int], np.ndarray]:
    """Patches of a split by their first row and column."""
    by_place = {}
    for path in sorted((folder / "d" / part / kind).iterdir()):
        row, column = map(int, path.stem.split("_")[-2:])
        with rasterio.open(path) as opened:
            by_place[row, column] = opened.read()
    return by_place


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as opened:
        array: np.ndarray = opened.read()
    return array


@pytest.mark.long
def test_fine_scenes_become_means_and_coarse_ones_are_interpolated(tmp_path: Path) -> None:
    fine, coarse = saved(tmp_path, "a", 0.1, 160), saved(tmp_path, "b", 0.4, 40)
    description, output = tiled(tmp_path, "--resolution", 0.2)
    assert description["resolution"] == 0.2
    assert description["resampled_from"] == [0.1, 0.4]
    assert (
        "note: brought to 20 cm a pixel: 1 scene of 10 cm (means by area) and 1 scene of 40 cm "
        "(interpolated, so no sharper)" in " ".join(output.split())
    )
    assert "differ in their ground resolution" not in output
    means = pixels(tmp_path / "raw/images/a.tif").reshape(3, 80, 2, 80, 2).mean(axis=(2, 4))
    images, labels = (patches(tmp_path, "train", kind) for kind in ("image", "label"))
    assert sorted(images) == [(r, c) for r in (0, 32, 48) for c in (0, 32, 48)]
    for (row, col), patch in images.items():
        part = np.s_[row : row + 32, col : col + 32]
        assert np.abs(patch - means[(slice(None), *part)]).max() <= 0.5
        # centres lie on the corner of four pixels, which belongs to the last
        np.testing.assert_array_equal(labels[row, col][0], fine[1::2, 1::2][part])
    twice = coarse.repeat(2, axis=0).repeat(2, axis=1)
    for (row, col), patch in patches(tmp_path, "val", "label").items():
        kept = patch[0] != 255
        np.testing.assert_array_equal(patch[0][kept], twice[row : row + 32, col : col + 32][kept])
    image = pixels(tmp_path / "raw/images/b.tif").astype(float)
    between = image[:, 3, 5] * 0.75 + image[:, 3, 6] * 0.25  # column 11 of the finer grid
    between = 0.75 * between + 0.25 * (image[:, 4, 5] * 0.75 + image[:, 4, 6] * 0.25)
    assert np.abs(patches(tmp_path, "val", "image")[0, 0][:, 7, 11] - between).max() <= 0.51


def test_patches_lie_where_the_scene_does(tmp_path: Path) -> None:
    saved(tmp_path, "a", 0.1, 160)
    saved(tmp_path, "b", 0.2, 80)
    for path in (tmp_path / "raw/images").iterdir():  # patches of TIFF tell their place
        array = pixels(path).astype(np.uint16)
        with rasterio.open(path) as opened:
            place = {"crs": opened.crs, "transform": opened.transform}
        write_raster(path, array, **place)
    tiled(tmp_path, "--resolution", 0.2, "--scale", 255)
    with rasterio.open(tmp_path / "d/train/label/a_00032_00048.tif") as patch:
        assert patch.transform.almost_equals(from_origin(400000 + 9.6, 5600000 - 6.4, 0.2, 0.2))
        assert patch.crs == CRS


def test_labels_of_another_grid_are_laid_over_the_new_one_at_once(tmp_path: Path) -> None:
    saved(tmp_path, "b", 0.4, 40)
    place = {"crs": CRS, "transform": from_origin(400000, 5600000, 0.4, 0.4)}
    saved(tmp_path, "a", 0.4, 40)
    fine = np.random.default_rng(5).integers(0, 2, (1, 160, 160)).astype(np.uint8)
    place["transform"] = from_origin(400000, 5600000, 0.1, 0.1)
    write_raster(tmp_path / "raw/labels/a.tif", fine, **place)
    tiled(tmp_path, "--resolution", 0.1)
    for (row, col), patch in patches(tmp_path, "train", "label").items():
        np.testing.assert_array_equal(patch[0], fine[0, row : row + 32, col : col + 32])


@pytest.mark.long
def test_polygons_are_burned_on_the_new_grid_and_blocks_split_it(tmp_path: Path) -> None:
    place = {"crs": CRS, "transform": from_origin(400000, 5600000, 0.5, 0.5)}
    write_raster(tmp_path / "ortho.tif", textured(1, (3, 100, 120)), **place)
    corners = np.random.default_rng(2).uniform((0, 0), (60, 50), (60, 2))
    triangles = [
        shapely.Polygon([(x, -y), (x + 9, -y - 2), (x + 3, -y - 7)]) for x, y in corners.tolist()
    ]
    shapes = [shapely.transform(t, lambda xy: xy + np.array([400000, 5600000])) for t in triangles]
    pyogrio.raw.write(
        tmp_path / "areas.gpkg",
        shapely.to_wkb(np.array(shapes)),
        [np.array(["a", "b"] * 30, dtype=object)],
        ["class"],
        geometry_type="Polygon",
        crs=CRS,
    )
    arguments = ["--labels", tmp_path / "areas.gpkg", "--split-blocks", "60,40,0", "--size", 32]
    arguments += ["--resolution", 0.1, "--block-size", 96, "--guard", 6]
    result = tile(tmp_path / "ortho.tif", *arguments, "--out", tmp_path / "d")
    assert result.exit_code == 0, result.output
    expected = rasterio.features.rasterize(
        [(shape, i % 2) for i, shape in enumerate(shapes)],
        (500, 600),
        fill=255,
        transform=from_origin(400000, 5600000, 0.1, 0.1),
        dtype="uint8",
    )
    seen = 0
    for part in ("train", "val"):
        for (row, col), patch in patches(tmp_path, part, "label").items():
            kept = patch[0] != 255
            window = expected[row : row + 32, col : col + 32]
            np.testing.assert_array_equal(patch[0][kept], window[kept])
            seen += kept.sum()
    assert seen > 0.8 * (expected != 255).sum()
    _, _, wkb, _ = pyogrio.raw.read(tmp_path / "d/split.gpkg", layer="split", columns=[])
    bounds = shapely.total_bounds(shapely.from_wkb(wkb))
    np.testing.assert_allclose(bounds, [400000, 5600000 - 50, 400000 + 60, 5600000], atol=1e-6)


def test_missing_data_and_heights_come_along(tmp_path: Path) -> None:
    saved(tmp_path, "a", 0.1, 128)
    saved(tmp_path, "b", 0.1, 128)
    heights = np.random.default_rng(3).uniform(5, 9, (1, 128, 128)).astype(np.float32)
    heights[0, :20, :20] = np.nan
    image = pixels(tmp_path / "raw/images/a.tif")
    image[:, 60:, 100:] = 0
    for name, x in (("a", 400000), ("b", 409000)):
        place = {"crs": CRS, "transform": from_origin(x, 5600000, 0.1, 0.1)}
        write_raster(tmp_path / f"dsm/{name}.tif", heights, **place)
        if name == "a":
            write_raster(tmp_path / "raw/images/a.tif", image, nodata=0, **place)
    _, output = tiled(tmp_path, "--resolution", 0.2, "--height", tmp_path / "dsm")
    images, labels = (patches(tmp_path, "train", kind) for kind in ("image", "label"))
    means = heights[0].reshape(64, 2, 64, 2).mean(axis=(1, 3))
    label = labels[0, 0][0]
    assert (label[:10, :10] == 255).all()
    assert (label[10:, 10:] != 255).all()
    np.testing.assert_allclose(images[0, 0][3][10:, :], means[10:32, :32], rtol=1e-5)
    assert (labels[32, 32][0][:, 18:] == 255).all()
    assert "200 pixels without height ignored, by scene: a 100, b 100" in " ".join(output.split())


@pytest.mark.parametrize("place", ["points", "none"])
def test_scenes_with_control_points_or_a_scheme_that_knows(tmp_path: Path, place: str) -> None:
    for name in "ab":
        side, metres = 96, 0.1
        label = saved(tmp_path, name, metres, side)
        image = pixels(tmp_path / f"raw/images/{name}.tif")
        points = [
            GroundControlPoint(row, col, 400000 + col * metres, 5600000 - row * metres)
            for row in (0, side)
            for col in (0, side)
        ]
        kept = {"gcps": points, "crs": CRS} if place == "points" else {}
        for path, array in ((f"images/{name}", image), (f"labels/{name}", label[None])):
            write_raster(tmp_path / f"raw/{path}.tif", array, **kept)
    scheme = SCHEME + ("resolution: 0.1\n" if place == "none" else "")
    tiled(tmp_path, "--resolution", 0.3, scheme=scheme)
    expected = saved(tmp_path / "again", "a", 0.1, 96)[1::3, 1::3]
    np.testing.assert_array_equal(patches(tmp_path, "train", "label")[0, 0][0], expected)


def test_a_hundredth_is_the_same_resolution(tmp_path: Path) -> None:
    saved(tmp_path, "a", 0.1, 64)
    saved(tmp_path, "b", 0.1005, 64)
    description, output = tiled(tmp_path, "--resolution", 0.1)
    assert "resampled_from" not in description
    assert "brought to" not in output
    for (row, col), patch in patches(tmp_path, "train", "image").items():
        image = pixels(tmp_path / "raw/images/a.tif")
        np.testing.assert_array_equal(patch, image[:, row : row + 32, col : col + 32])


def test_scenes_of_several_resolutions_are_told_of_with_the_option(tmp_path: Path) -> None:
    saved(tmp_path, "a", 0.1, 64)
    saved(tmp_path, "b", 0.5, 64)
    _, output = tiled(tmp_path)
    assert (
        "warning: scenes differ in their ground resolution: a has 10 cm a pixel, b 50 cm (1 of 2 "
        "scenes are coarser than a); patches keep them: bring them to one with --resolution 0.5, "
        "or tile them apart" in " ".join(output.split())
    )


@pytest.mark.parametrize(
    ("metres", "line"),
    [
        ("0", "error: --resolution: 0 is no ground resolution; give metres a pixel above 0"),
        ("-0.1", "error: --resolution: -0.1 is no ground resolution"),
        ("nan", "error: --resolution: nan is no ground resolution"),
        ("inf", "error: --resolution: inf is no ground resolution"),
        ("0.001", "has 0.1 m a pixel, far too coarse to be read at 0.001 m; give a coarser --res"),
        ("30", "would have 1 rows and 1 columns at 30 m a pixel; give a finer --resolution"),
    ],
)
def test_a_resolution_that_makes_no_sense_ends_in_a_line(
    tmp_path: Path, metres: str, line: str
) -> None:
    saved(tmp_path, "a", 0.1, 64)
    saved(tmp_path, "b", 0.1, 64)
    (tmp_path / "s.yaml").write_text(SCHEME)
    arguments = ["--scheme", tmp_path / "s.yaml", "--size", 32, "--val-scenes", "b"]
    arguments += ["--resolution", metres, "--out", tmp_path / "d"]
    assert line in error_of(tmp_path / "raw", *arguments)
    assert not (tmp_path / "d").exists()


def test_a_scene_whose_resolution_nobody_knows_ends_in_a_line(tmp_path: Path) -> None:
    label = saved(tmp_path, "a", 0.1, 64)
    saved(tmp_path, "b", 0.1, 64)
    write_raster(tmp_path / "raw/images/a.tif", textured(1, (3, 64, 64)))
    write_raster(tmp_path / "raw/labels/a.tif", label[None])
    (tmp_path / "s.yaml").write_text(SCHEME)
    arguments = ["--scheme", tmp_path / "s.yaml", "--resolution", 0.2, "--out", tmp_path / "d"]
    arguments += ["--val-scenes", "b"]
    line = error_of(tmp_path / "raw", *arguments)
    assert "its ground resolution is not known, so it can't be read at another one" in line
    assert line.endswith("or leave out --resolution")


def test_the_option_from_python(tmp_path: Path) -> None:
    with pytest.raises(hrrsi.OptionError, match="resolution"):
        hrrsi.TileOptions(resolution=-1)
