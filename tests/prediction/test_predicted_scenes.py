"""Which files `hrrsi predict` maps, and what it says of odd ones."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.shutil
import shapely
from PIL import Image
from rasterio.transform import from_origin
from samples.made_weights import REPOSITORY, save_made_weights, scene_pixels
from samples.predicted_scenes import notices, one_error_line, save_scene
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import app
from hrrsi.errors import HrrsiError

Run = Callable[..., Any]


@pytest.mark.long
def test_a_scene_without_crs_makes_no_noise(run: Run, tmp_path: Path) -> None:
    Image.fromarray(scene_pixels()[:90, :110]).save(tmp_path / "photo.jpg")
    result = run(tmp_path / "photo.jpg")
    assert result.exit_code == 0
    assert notices(result) == []
    assert "m²" not in result.stdout
    with rasterio.open("photo_classes.tif") as written:
        assert written.crs is None
        assert written.shape == (90, 110)


def test_a_map_never_replaces_a_scene(run: Run, tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    before = scene.read_bytes()
    link = tmp_path / "link.tif"
    link.symlink_to(scene)
    for out in (scene, link):
        assert "would replace it" in one_error_line(run(scene, "--out", out, "--overwrite"))
    assert scene.read_bytes() == before


@pytest.mark.long
def test_maps_patterns_and_folders_but_not_its_own_maps(run: Run, tmp_path: Path) -> None:
    for name in ("a.tif", "b.TIF"):
        save_scene(tmp_path / "scenes" / name)
    (tmp_path / "scenes" / "notes.txt").write_text("not a raster")
    result = run(tmp_path / "scenes", "--out", tmp_path / "scenes")
    assert result.exit_code == 0, result.output
    result = run(tmp_path / "scenes", "--out", "maps")
    assert sorted(p.name for p in Path("maps").glob("*.tif")) == ["a_classes.tif", "b_classes.tif"]
    assert run(str(tmp_path / "scenes" / "?.*"), "--out", "found").exit_code == 0
    assert sorted(p.name for p in Path("found").glob("*.tif")) == ["a_classes.tif", "b_classes.tif"]
    assert "matches no file" in one_error_line(run(str(tmp_path / "*.xyz")))
    (tmp_path / "empty").mkdir()
    assert "holds no rasters" in one_error_line(run(tmp_path / "empty"))


def save_geopackage(path: Path, tables: list[str]) -> Path:
    """Write a GeoPackage with a raster in each table."""
    pixels = np.moveaxis(scene_pixels()[:64, :64], -1, 0)
    for number, table in enumerate(tables):
        options = {"RASTER_TABLE": table, "APPEND_SUBDATASET": "YES" if number else "NO"}
        place = {"crs": "EPSG:32640", "transform": from_origin(500000, 2790000, 0.3, 0.3)}
        with rasterio.open(
            *(path, "w"), driver="GPKG", width=64, height=64, count=3, dtype="uint8",
            **place, **options,
        ) as dataset:  # fmt: skip
            dataset.write(pixels)
    return path


def test_rasters_of_geopackages_are_scenes(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    folder.mkdir()
    save_geopackage(folder / "g.gpkg", ["may", "june"])
    save_geopackage(folder / "single.gpkg", ["ortho"])
    box = shapely.to_wkb(shapely.box(0, 0, 1, 1))
    pyogrio.raw.write(
        folder / "areas.gpkg", np.array([box], object), [], [], geometry_type="Polygon",
        crs="EPSG:32640",
    )  # fmt: skip
    result = run(folder, "--out", "maps")
    assert result.exit_code == 0, result.output
    expected = ["g_june_classes.tif", "g_may_classes.tif", "single_classes.tif"]
    assert sorted(p.name for p in Path("maps").glob("*.tif")) == expected
    assert run(folder / "g.gpkg", "--out", "again").exit_code == 0
    for name in expected[:2]:
        assert (Path("again") / name).read_bytes() == (Path("maps") / name).read_bytes()
    assert run(f"GPKG:{folder}/g.gpkg:may", "--out", "part").exit_code == 0
    assert os.listdir("part")[0].startswith("g_may_classes.")


def test_a_mosaic_beside_its_tiles_is_mapped_once(run: Run, tmp_path: Path) -> None:
    tile = save_scene(tmp_path / "scenes" / "tile.tif", crs="EPSG:32640")
    save_scene(tmp_path / "scenes" / "other.tif", crs="EPSG:32640")
    rasterio.shutil.copy(tile, tmp_path / "scenes" / "mosaic.vrt", driver="VRT")
    expected = ["mosaic_classes.tif", "other_classes.tif"]
    for named in (tmp_path / "scenes", tmp_path / "scenes" / "*"):
        result = run(named, "--out", "maps", "--overwrite")
        assert result.exit_code == 0
        assert "mosaic.vrt: shows 1 raster beside it, which is left out" in result.stderr
        assert sorted(p.name for p in Path("maps").glob("*.tif")) == expected
    # named one by one, each is wanted
    assert run(*(tmp_path / "scenes").iterdir(), "--out", "all").exit_code == 0
    assert len(list(Path("all").glob("*.tif"))) == 3


def test_a_part_of_a_scene_leaves_the_scene_in(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    scene = save_scene(folder / "whole.tif", crs="EPSG:32640")
    with rasterio.open(f"vrt://{scene}?srcwin=0,0,90,80") as part:
        rasterio.shutil.copy(part, folder / "part.vrt", driver="VRT")
    result = run(folder, "--out", "maps")
    assert result.exit_code == 0, result.output
    expected = ["part_classes.tif", "whole_classes.tif"]
    assert sorted(p.name for p in Path("maps").glob("*.tif")) == expected


@pytest.mark.parametrize(("suffix", "kind"), [("ecw", "an ECW"), ("sid", "a MrSID")])
def test_closed_formats_are_named(run: Run, tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"\0" * 99)
    line = one_error_line(run(path))
    assert f"is {kind} file, a closed format" in line
    assert "convert it to GeoTIFF" in line


@pytest.mark.long
def test_equal_names_do_not_collide(run: Run, tmp_path: Path) -> None:
    for folder in ("may", "june", "2024/july", "2025/july"):
        save_scene(tmp_path / folder / "scene.tif")
    save_scene(tmp_path / "may" / "other.tif")
    result = run(*sorted(tmp_path.rglob("*.tif")), "--out", "maps")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in Path("maps").glob("*.tif")) == [
        "2024_july_scene_classes.tif",
        "2025_july_scene_classes.tif",
        "june_scene_classes.tif",
        "may_scene_classes.tif",
        "other_classes.tif",
    ]
    Image.fromarray(scene_pixels()).save(tmp_path / "may" / "scene.png")
    line = one_error_line(run(tmp_path / "may", "--out", "again"))
    assert "would both be mapped to" in line


def test_a_bad_scene_does_not_stop_the_others(run: Run, tmp_path: Path) -> None:
    good = [save_scene(tmp_path / "a.tif"), save_scene(tmp_path / "z.tif")]
    bad = tmp_path / "bad.tif"
    bad.write_bytes(good[0].read_bytes()[:20000])
    result = run(good[0], bad, tmp_path / "missing.tif", good[1])
    assert result.exit_code == 1
    lines = notices(result)
    assert len(lines) == 6
    assert "bad.tif" in lines[0]
    assert "missing.tif: no such file" in lines[1]
    assert lines[2] == "mapped 2 scenes; failed:"
    assert "bad.tif" in lines[3]
    assert "missing.tif: no such file" in lines[4]
    assert lines[5].startswith("error: 2 of 4 scenes failed: ")
    assert sorted(p.name for p in Path().glob("*.tif")) == ["a_classes.tif", "z_classes.tif"]
    assert result.stdout.count("all with data") == 2


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("empty", "is empty"),
        ("text", "is not a raster"),
        ("truncated", "truncated or damaged|is not a raster"),
        ("one band", "has 1 band where 3 are needed"),
        ("two bands", "has 2 bands where 3 are needed; use a raster with at least 3 bands"),
        ("complex", "holds complex numbers"),
        ("folder as file", "cannot be created|Not a directory"),
    ],
)
def test_bad_input_ends_in_one_line_and_leaves_nothing(
    run: Run, tmp_path: Path, kind: str, message: str
) -> None:
    path = tmp_path / "scene.tif"
    values = np.moveaxis(scene_pixels(), -1, 0)
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("hello")
    elif kind != "missing":
        dtypes = {"complex": "complex64"}
        bands = {"one band": values[:1], "two bands": values[:2]}
        save_scene(path, bands.get(kind, values).astype(dtypes.get(kind, "uint8")))
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:100_000])
    out = "."
    if kind == "folder as file":
        (tmp_path / "file").touch()
        out = str(tmp_path / "file" / "maps")
    line = one_error_line(run(path, "--out", out))
    assert re.search(message, line), line
    assert os.listdir() == []


@pytest.mark.long
def test_other_types_and_bands_with_options(run: Run, tmp_path: Path) -> None:
    values = np.moveaxis(scene_pixels(), -1, 0)[:, :100, :120]
    plain = save_scene(tmp_path / "plain.tif", values)
    reversed_bands = np.concatenate([values[:1], values[::-1].copy()])
    four = save_scene(tmp_path / "four.tif", reversed_bands, photometric="minisblack")
    sixteen = save_scene(tmp_path / "sixteen.tif", values.astype("uint16") * 40)
    floats = values.astype("float32") / 255
    floats[:, 10:30, 20:50] = np.nan
    holes = save_scene(tmp_path / "holes.tif", floats)
    for arguments in (
        [plain],
        [four, "--bands", "4,3,2"],
        [sixteen, "--scale", "10200"],
        [holes, "--scale", "1"],
    ):
        result = run(*arguments, "--precision", "32")
        assert result.exit_code == 0, result.output
        assert notices(result) == []
    maps = {p.stem: rasterio.open(p).read(1) for p in Path().glob("*.tif")}
    np.testing.assert_array_equal(maps["four_classes"], maps["plain_classes"])
    assert (maps["sixteen_classes"] != maps["plain_classes"]).sum() <= 1
    np.testing.assert_array_equal(maps["holes_classes"] == 255, np.isnan(floats).any(0))
    assert rasterio.open("holes_classes.tif").nodata == 255


def test_alpha_is_no_band_but_says_where_there_is_data(run: Run, tmp_path: Path) -> None:
    values = np.moveaxis(scene_pixels(), -1, 0)[:, :100, :120]
    alpha = np.full((1, 100, 120), 255, dtype=np.uint8)
    alpha[:, :, 90:] = 0
    rgba = np.concatenate([values, alpha])
    result = run(save_scene(tmp_path / "rgba.tif", rgba, photometric="rgb", alpha="yes"))
    assert result.exit_code == 0, result.output
    labels = rasterio.open("rgba_classes.tif").read(1)
    np.testing.assert_array_equal(labels == 255, alpha[0] == 0)
    assert re.search(r"no data +\| +3,000 ", result.stdout)


@pytest.mark.long
def test_weights_for_one_band_map_one_band(run: Run, tmp_path: Path) -> None:
    weights = save_made_weights(tmp_path / "one.safetensors", bands=1)
    scene = save_scene(tmp_path / "grey.tif", scene_pixels()[None, :100, :120, 0].copy())
    assert run(scene, weights=weights).exit_code == 0
    assert rasterio.open("grey_classes.tif").shape == (100, 120)


@pytest.mark.long
def test_warns_once_of_a_far_ground_resolution(run: Run, tmp_path: Path) -> None:
    weights = save_made_weights(tmp_path / "vaihingen.safetensors", resolution=0.09)
    scenes = [
        save_scene(tmp_path / f"{i}.tif", crs="EPSG:28992", transform=from_origin(0, 9, size, size))
        for i, size in enumerate((0.1, 0.5, 0.5))
    ]
    result = run(*scenes, weights=weights)
    assert result.exit_code == 0
    assert notices(result) == [
        f"warning: {scenes[1]}: has 50 cm a pixel where the weights were trained on 9 cm; "
        "expect worse maps, or map it with --resample 0.09"
    ]


# missing data and its rim: test_missing_data.py; formats and CRS: test_any_raster.py
@pytest.mark.slow
def test_real_orthophotos(run: Run, imagery: Path, made_weights: Path) -> None:
    del run
    manila, gorinchem = (imagery / "geotiff" / f"{n}.tif" for n in ("manila", "gorinchem"))
    line = ["predict", str(manila), str(gorinchem), "--nodata", "0", "--weights", str(made_weights)]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    assert notices(result) == []
    with rasterio.open(manila) as source, rasterio.open("manila_classes.tif") as written:
        pixels = source.read()
        black = (pixels == 0).all(0)
        assert black.mean() > 0.1
        missing = written.read(1) == 255
        assert missing[black].all()
        rim = missing & ~black  # of JPEG, beside what is black
        assert 0 < rim.mean() < 0.01
        assert pixels[:, rim].max() <= 16
        assert written.transform == source.transform
        assert written.overviews(1) == [2, 4, 8]
    with rasterio.open("gorinchem_classes.tif") as written:
        assert written.crs.to_epsg() == 28992
    assert re.search(r"all with data +\| +1,000,000 \| 100.00% \| +6.25 ha", result.stdout)


def test_values_far_beyond_the_scale_are_no_map(tmp_path: Path, made_weights: Path) -> None:
    pixels = np.moveaxis(scene_pixels(), -1, 0).astype(np.float32)
    pixels[:, :30, :30] = -3.4e38  # an undeclared mark of missing data
    scene = tmp_path / "sentinel.tif"
    with rasterio.open(
        scene, "w", driver="GTiff", count=3, dtype="float32", height=256, width=320
    ) as dataset:
        dataset.write(pixels)
    line = ["predict", str(scene), "--out", str(tmp_path / "out"), "--scale", "255", "--quiet"]
    result = CliRunner().invoke(app, [*line, "--weights", str(made_weights)])
    assert result.exit_code == 1
    warning, error = result.stderr.strip().splitlines()
    assert "of its pixels hold -3.4e+38 in all bands" in warning
    assert "sentinel.tif: holds -3.4e+38" in error
    assert "--nodata" in error
    assert not list((tmp_path / "out").glob("*.tif"))


@pytest.mark.parametrize("scale", ["0", "-5", "nan", "inf"])
def test_a_scale_is_a_positive_number(tmp_path: Path, made_weights: Path, scale: str) -> None:
    scene = REPOSITORY / "examples" / "dubai_tile1.tif"
    line = ["predict", str(scene), "--out", str(tmp_path), "--scale", scale]
    result = CliRunner().invoke(app, [*line, "--weights", str(made_weights)])
    assert result.exit_code == 1
    assert "--scale: full brightness" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_pattern_leaves_out_maps_of_the_run_before(run: Run, tmp_path: Path) -> None:
    save_scene(tmp_path / "here" / "flight.tif")
    for _ in range(2):
        result = run("*.tif", "--overwrite", "--quiet")
        assert result.exit_code == 0, result.stderr
    assert sorted(p.name for p in Path().glob("*.tif")) == ["flight.tif", "flight_classes.tif"]


def test_nothing_to_map_is_told(made_weights: Path) -> None:
    with pytest.raises(HrrsiError, match="no scenes are named"):
        hrrsi.predict([], weights=made_weights)


@pytest.mark.long
def test_another_type_gets_an_estimated_scale_and_says_so(run: Run, tmp_path: Path) -> None:
    values = np.moveaxis(scene_pixels(), -1, 0)
    for name, scene in (
        ("reflectance", (values.astype(np.float64) * 10000 / 255).round().astype("uint16")),
        ("unit", values.astype("float32") / 255),
    ):
        result = run(save_scene(tmp_path / f"{name}.tif", scene), "--precision", "32")
        assert result.exit_code == 0, result.output
        (line,) = notices(result)
        assert line.startswith("warning: ")
        assert f"{name}.tif: holds {scene.dtype} where the weights were trained on uint8" in line
        assert "counts as full brightness" in line
        with rasterio.open(f"{name}_classes.tif") as dataset:
            scale = float(re.search(r"; ([\d.]+) counts", line)[1])  # type: ignore[index]
            assert float(dataset.tags()["HRRSI_ESTIMATED_SCALE"]) == pytest.approx(scale)
    plain = save_scene(tmp_path / "plain.tif", values)
    assert run(plain, "--precision", "32").exit_code == 0
    maps = {p.stem: rasterio.open(p).read(1) for p in Path().glob("*.tif")}
    assert (maps["unit_classes"] == maps["plain_classes"]).mean() > 0.999
    same = (maps["reflectance_classes"] == maps["plain_classes"]).mean()
    assert same > 0.98  # of values that were rounded


def test_imagery_unlike_the_training_data_is_said_once(run: Run, tmp_path: Path) -> None:
    dark = np.moveaxis(scene_pixels(), -1, 0) // 40
    scenes = [save_scene(tmp_path / f"{i}.tif", dark) for i in range(2)]
    result = run(*scenes)
    assert result.exit_code == 0
    line, count = notices(result)
    assert line.startswith(f"warning: {scenes[0]}: imagery unlike what the weights were trained on")
    assert count == ("warning: 2 of 2 scenes: values unlike those that the weights were trained on")


def test_a_georeference_that_makes_no_sense_is_none(run: Run, tmp_path: Path) -> None:
    points = [
        rasterio.control.GroundControlPoint(row=i * 50, col=i * 50, x=10 + i, y=50 + i)
        for i in range(3)
    ]
    on_a_line = save_scene(tmp_path / "line.tif", gcps=points, crs="EPSG:4326")
    far_away = save_scene(
        tmp_path / "far.tif", crs="EPSG:28992", transform=from_origin(9e9, 9e9, 1, 1)
    )
    result = run(on_a_line, far_away, save_scene(tmp_path / "good.tif"))
    assert result.exit_code == 0, result.output
    assert result.stdout.count("all with data") == 3


@pytest.mark.long
def test_pictures_are_not_taken_for_scenes(run: Run, tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "here" / "scene.tif")
    assert run(scene, "--preview", "png", "--confidence", "uint8").exit_code == 0
    assert Path("scene_classes.png").exists()
    result = run(".", "--overwrite")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("all with data") == 1
