"""Height models as one more band of `hrrsi tile`: grids, units, names, and what is none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.warp import Resampling, reproject
from samples.command_results import done
from samples.height_scenes import (
    hills,
    own_scenes,
    put_together,
    read,
    refusal,
    refusal_of_predict,
    tile,
)
from samples.opened_windows import opened_windows
from samples.raw_layouts import (
    own_folder,
    own_scheme,
    textured,
    utm,
    vaihingen_folder,
    write_raster,
    zipped,
)

from hrrsi.labels.scheme import load_scheme
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.windows import Window
from hrrsi.tiling.dataset import TiledDataset


def test_patches_hold_the_image_and_then_the_heights(tmp_path: Path) -> None:
    scheme = own_scenes(tmp_path, georeferenced=True)
    lacking = np.zeros((96, 64), dtype=bool)
    lacking[40:50, 5:25] = True
    for number, name in enumerate(["a_1", "b_2", "c_3"]):
        heights = hills((96, 64), number)
        if name == "b_2":
            heights[40:50, 5:15] = -9999
            heights[40:50, 15:25] = np.nan
        place = utm(col=1000 * number)
        write_raster(tmp_path / "dsm" / f"h_{name}.tif", heights, nodata=-9999, **place)
    result = tile(tmp_path, scheme, tmp_path / "dsm" / "h_{}.tif")
    assert result.exit_code == 0, result.output
    assert "200 pixels without height ignored, by scene: b_2 200" in result.stderr
    dataset = TiledDataset(tmp_path / "out")
    described = dataset.description
    assert (described.bands, described.dtype, described.patch_dtype) == (
        [1, 2, 3],
        "uint8",
        "float32",
    )
    assert described.height == str(tmp_path / "dsm" / "h_{}.tif")
    assert described.scale == 255
    for number, (part, name) in enumerate([("train", "a_1"), ("val", "b_2")]):
        bands = put_together(tmp_path / "out" / part / "image", 4, (96, 64))
        labels = put_together(tmp_path / "out" / part / "label", 1, (96, 64))[0]
        has_height = ~lacking if name == "b_2" else np.ones((96, 64), dtype=bool)
        image = read(tmp_path / "raw" / "images" / f"{name}.tif")
        heights = hills((96, 64), number)
        for row in range(0, 96, 32):
            for col in range(0, 64, 32):  # the mean of each patch where there is none
                square = heights[row : row + 32, col : col + 32]
                here = has_height[row : row + 32, col : col + 32]
                square[~here] = square[here].mean(dtype=np.float64)
        expected = np.concatenate([image * has_height, heights[None]])
        np.testing.assert_array_equal(bands[:3], expected[:3])
        np.testing.assert_allclose(bands[3], expected[3], rtol=1e-6)
        np.testing.assert_array_equal(labels == 255, ~has_height)
        if part == "train":
            mean, std = expected.mean(axis=(1, 2)) / 255, expected.std(axis=(1, 2)) / 255
            np.testing.assert_allclose(described.mean, mean, atol=1e-6)
            np.testing.assert_allclose(described.std, std, atol=1e-6)
    with rasterio.open(next((tmp_path / "out/train/image").glob("*.tif"))) as patch:
        assert patch.descriptions == ("band 1", "band 2", "band 3", "height")
        assert set(patch.dtypes) == {"float32"}


GRIDS = {
    "coarser": ("EPSG:32632", from_origin(499_998, 5_500_004, 1.3, 1.3), (60, 50)),
    "finer": ("EPSG:32632", from_origin(500_000 - 2, 5_500_001, 0.2, 0.2), (300, 260)),
    "shifted by half a pixel": (
        "EPSG:32632",
        from_origin(500_000.25, 5_500_000, 0.5, 0.5),
        (96, 64),
    ),
    "another projection": ("EPSG:25833", None, (50, 40)),
    "degrees": ("EPSG:4326", None, (50, 40)),
    "rotated": ("EPSG:32632", None, (90, 80)),
}


def other_grid(name: str) -> tuple[CRS, Any, tuple[int, int]]:
    crs, transform, shape = GRIDS[name]
    if name == "rotated":
        transform = (
            rasterio.Affine.translation(499_990, 5_500_002)
            @ rasterio.Affine.rotation(-15)
            @ rasterio.Affine.scale(0.6, -0.6)
        )
    elif transform is None:
        from rasterio.warp import transform_bounds

        west, south, east, north = transform_bounds(
            "EPSG:32632", crs, 499_998, 5_499_950, 500_034, 5_500_002
        )
        transform = from_origin(west, north, (east - west) / shape[1], (north - south) / shape[0])
    return CRS.from_string(crs), transform, shape


@pytest.mark.parametrize("name", GRIDS)
def test_heights_on_another_grid_are_resampled_as_by_rasterio(tmp_path: Path, name: str) -> None:
    crs, transform, shape = other_grid(name)
    heights = hills(shape)
    heights[shape[0] // 3 : shape[0] // 3 + 5, 10:20] = -32768
    dsm = write_raster(tmp_path / "dsm.tif", heights, crs=crs, transform=transform, nodata=-32768)
    scene = write_raster(tmp_path / "scene.tif", textured(1, (3, 96, 64)), **utm())
    expected = np.full((96, 64), np.nan, dtype=np.float32)
    reproject(
        heights,
        expected,
        src_transform=transform,
        src_crs=crs,
        src_nodata=-32768,
        dst_nodata=np.nan,
        dst_crs="EPSG:32632",
        dst_transform=utm()["transform"],
        resampling=Resampling.bilinear,
        tolerance=0.01,
        **({"XSCALE": 0.4, "YSCALE": 0.4} if name == "finer" else {}),
    )
    missing = np.isnan(expected)
    assert 0 < missing.sum() < missing.size / 2
    whole = Window(0, 0, 96, 64)
    with open_scene(scene, height_model=dsm) as opened:
        bands = opened.read(whole)
        np.testing.assert_array_equal(opened.read_valid(whole, bands), ~missing)
        np.testing.assert_allclose(bands[3], expected, atol=0.02)
        part = Window(31, 17, 40, 30)
        np.testing.assert_array_equal(opened.read(part), bands[:, 31:71, 17:47])


@pytest.mark.parametrize("lacks", ["scene", "height model", "both"])
def test_a_transform_without_crs_is_enough(tmp_path: Path, lacks: str) -> None:
    place = utm()
    plain = {"transform": place["transform"]}
    moved = {"crs": place["crs"], "transform": from_origin(499_999, 5_500_001, 1, 1)}
    scene = write_raster(
        tmp_path / "scene.tif",
        textured(1, (3, 96, 64)),
        **(place if lacks == "height model" else plain),
    )
    heights = np.arange(50, dtype=np.float32).repeat(34).reshape(50, 34)
    dsm = write_raster(tmp_path / "dsm.tif", heights, **moved)
    if lacks != "scene":
        write_raster(tmp_path / "dsm.tif", heights, transform=moved["transform"])
    with open_scene(scene, height_model=dsm) as opened:
        bands = opened.read(Window(0, 0, 96, 64))[3]
    # a row of the height model is two of the scene's; the first begins 1 m above
    np.testing.assert_allclose(bands[:, 30], (np.arange(96) + 0.5) / 2 + 1 - 0.5, atol=1e-4)


@pytest.mark.parametrize("grid", ["own", "moved"])
@pytest.mark.parametrize(("dtype", "full"), [("float32", 1), ("int16", 1), ("uint8", 1)])
def test_alpha_of_any_type_marks_missing_heights(
    tmp_path: Path, grid: str, dtype: str, full: int
) -> None:
    place = utm() if grid == "own" else utm(row=-0.3, col=-0.3)
    scene = write_raster(tmp_path / "scene.tif", textured(1, (3, 96, 64)), **utm())
    heights = np.full((100, 70) if grid == "moved" else (96, 64), 9)
    alpha = np.full_like(heights, full)
    alpha[:20] = 0
    heights[:20] = 77
    dsm = tmp_path / "dsm.tif"
    write_raster(dsm, np.stack([heights, alpha]).astype(dtype), alpha="yes", **place)
    with open_scene(scene, height_model=dsm) as opened:
        whole = Window(0, 0, 96, 64)
        bands = opened.read(whole)
        valid = opened.read_valid(whole, bands)
    np.testing.assert_array_equal(valid, np.arange(96).repeat(64).reshape(96, 64) >= 20)
    assert set(bands[3][valid]) == {9}


def test_without_georeference_pixels_lie_on_each_other(tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "scene.tif", textured(1, (3, 96, 64)), **utm())
    heights = np.random.default_rng(0).integers(0, 255, (96, 64), dtype=np.uint8)
    dsm = write_raster(tmp_path / "dsm.png", heights)
    with open_scene(scene, height_model=dsm) as opened:
        np.testing.assert_array_equal(opened.read(Window(0, 0, 96, 64))[3], heights)


def test_the_unit_that_a_height_model_declares_counts(tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "scene.tif", textured(1, (3, 96, 64)), **utm())
    dsm = write_raster(tmp_path / "dsm.tif", (hills((96, 64)) * 100).astype(np.int32), **utm())
    with rasterio.open(dsm, "r+") as dataset:
        dataset.scales, dataset.offsets = [0.01], [-30.0]
    with open_scene(scene, height_model=dsm) as opened:
        bands = opened.read(Window(0, 0, 96, 64))[3]
    np.testing.assert_allclose(bands, hills((96, 64)) - 30, atol=0.011)


def test_coarser_windows_are_means_of_image_and_heights(tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "scene.tif", textured(1, (3, 96, 64)), **utm())
    heights = hills((96, 64))
    heights[10:14, 20:24] = np.nan
    dsm = write_raster(tmp_path / "dsm.tif", heights, **utm())
    with opened_windows(scene, height_model=dsm, resolution=1.0) as source:
        bands, valid = source.read(Window(0, 0, *source.network_grid))
    assert valid is not None
    expected = np.concatenate([read(scene), heights[None]]).reshape(4, 48, 2, 32, 2).mean((2, 4))
    np.testing.assert_array_equal(valid, np.isfinite(expected[3]))
    np.testing.assert_allclose(bands[:, valid], expected[:, valid], rtol=1e-5)


@pytest.mark.long
def test_vaihingen_keeps_its_statistics_beside_measured_heights(tmp_path: Path) -> None:
    raw = tmp_path / "Vaihingen"
    vaihingen_folder(raw, [1, 11], (96, 64))
    for area in (1, 11):
        heights = hills((96, 64), area)
        write_raster(raw / "dsm" / f"dsm_09cm_matching_area{area}.tif", heights)
    zipped(tmp_path / "all" / "top_and_dsm.zip", raw)
    made = {}
    for name, source, height in (
        ("scheme", raw, "scheme"),
        ("zip", tmp_path / "all", "scheme"),
        ("folder", raw, raw / "dsm"),
        ("beside", raw, "dsm"),
        ("template", raw, "dsm/dsm_09cm_matching_area{}.tif"),
        ("named", raw, raw / "dsm/dsm_09cm_matching_area{name}.tif"),
    ):
        out = tmp_path / name
        done(
            *("tile", source, "--scheme", "vaihingen", "--split", "paper", "--size", 32),
            *("--workers", 1, "--quiet", "--out", out, "--height", height),
        )
        patches = sorted((out / "train/image").iterdir())
        made[name] = [path.read_bytes() for path in patches]
        described = yaml.safe_load((out / "dataset.yaml").read_text())
        scheme = load_scheme("vaihingen")
        assert described["mean"][:3] == pytest.approx(scheme.mean)
        assert described["std"][:3] == pytest.approx(scheme.std)
        assert described["statistics"] == "scheme"
        assert described["mean"][3] * 255 == pytest.approx(hills((96, 64), 1).mean(), rel=1e-5)
        assert described["std"][3] * 255 == pytest.approx(hills((96, 64), 1).std(), rel=1e-4)
    assert all(patches == made["scheme"] for patches in made.values())


def test_potsdam_takes_one_kind_of_heights_for_all_scenes(tmp_path: Path) -> None:
    raw = tmp_path / "potsdam"
    black = np.zeros((3, 64, 64), dtype=np.uint8)
    black[2] = 255
    for scene, padded in (("2_10", "02_10"), ("2_13", "02_13")):
        write_raster(raw / f"top_potsdam_{scene}_RGB.tif", textured(1, (3, 64, 64)), **utm())
        write_raster(raw / f"top_potsdam_{scene}_label.tif", black)
        write_raster(raw / f"1_DSM/dsm_potsdam_{padded}.tif", hills((64, 64)), **utm())
    options = ("--scheme", "potsdam", "--size", 32, "--quiet", "--workers", 1)
    done("tile", raw, *options, "--height", "scheme", "--out", tmp_path / "dsm")
    described = TiledDataset(tmp_path / "dsm").description
    assert described.mean[3] * 255 == pytest.approx(hills((64, 64)).mean(), abs=1e-3)
    from PIL import Image

    above_ground = np.arange(64, dtype=np.uint8).repeat(64).reshape(64, 64)
    folder = raw / "1_DSM_normalisation"
    folder.mkdir()
    name = folder / "dsm_potsdam_02_10_normalized_lastools.jpg"
    Image.fromarray(above_ground).save(name, quality=95)
    line = refusal("tile", raw, *options, "--height", "scheme", "--out", tmp_path / "mixed")
    assert "scene 2_13, --height scheme: no height model fits it" in line
    Image.fromarray(above_ground).save(str(name).replace("02_10", "02_13"), quality=95)
    done("tile", raw, *options, "--height", "scheme", "--out", tmp_path / "ndsm")
    described = TiledDataset(tmp_path / "ndsm").description
    assert described.mean[3] * 255 == pytest.approx(31.5, abs=0.5)


def test_one_raster_may_cover_all_scenes(tmp_path: Path) -> None:
    own_folder(tmp_path / "raw", ["a_1", "b_2", "c_3"], (64, 64))
    for number, name in enumerate(["a_1", "b_2", "c_3"]):
        path = tmp_path / "raw" / "images" / f"{name}.tif"
        write_raster(path, textured(number, (3, 64, 64)), **utm(row=64 * number))
    heights = hills((64 * 3, 64))
    dsm = write_raster(tmp_path / "dsm.tif", heights, **utm())
    assert tile(tmp_path, own_scheme(tmp_path), dsm).exit_code == 0
    bands = put_together(tmp_path / "out/test/image", 4, (64, 64))[3]
    np.testing.assert_allclose(bands, heights[128:], atol=1e-4)


@pytest.mark.long
def test_what_can_be_no_height_model(tmp_path: Path) -> None:
    scheme = own_scenes(tmp_path, georeferenced=True)
    dsm = tmp_path / "dsm"

    def saved(name: str, pixels: np.ndarray, **place: Any) -> None:
        for number, scene in enumerate(["a_1", "b_2", "c_3"]):
            here = utm(col=1000 * number) if place.get("crs") else {}
            write_raster(dsm / name.format(scene), pixels, **(here | place))

    flat = hills((96, 64))
    cases: dict[str, str] = {}
    saved("two_{}.tif", np.stack([flat, flat]), **utm())
    cases["two_{}.tif"] = "has 2 bands where a height model has one"
    saved("bare_{}.tif", hills((48, 32)))
    cases["bare_{}.tif"] = "has 48 rows and 32 columns where"
    saved("off_{}.tif", flat, **utm(row=9000))
    cases["off_{}.tif"] = "does not lie on"
    saved("none_{}.tif", np.full_like(flat, -1), crs="EPSG:32632", nodata=-1)
    for number, scene in enumerate(["a_1", "b_2", "c_3"]):
        place = utm(col=1000 * number)
        write_raster(dsm / f"none_{scene}.tif", np.full_like(flat, -1), nodata=-1, **place)
        write_raster(dsm / f"nan_{scene}.tif", np.full_like(flat, np.nan), **place)
        marked = flat.copy()
        marked[3:6, 4:9] = -9999
        write_raster(dsm / f"marked_{scene}.tif", marked, **place)
        write_raster(dsm / f"moved_{scene}.tif", marked, **utm(row=-2.3, col=1000 * number - 1.7))
        write_raster(dsm / f"flat_{scene}.tif", np.full_like(flat, 7), **place)
        write_raster(dsm / f"cut_{scene}.tif", flat, compress="deflate", **place)
        content = (dsm / f"cut_{scene}.tif").read_bytes()
        (dsm / f"cut_{scene}.tif").write_bytes(content[: len(content) // 2])
    cases["none_{}.tif"] = cases["nan_{}.tif"] = "holds no height for any pixel of the scene"
    cases["marked_{}.tif"] = "holds -9999, which can be no height; declare"
    cases["moved_{}.tif"] = ", which can be no height; declare"
    cases["flat_{}.tif"] = "height of the training scenes holds a single value"
    cases["cut_{}.tif"] = "cannot be read at row"
    cases["absent_{}.tif"] = "no file fits it; check the path"
    cases["absent.tif"] = "no such height model"
    for name, words in cases.items():
        result = tile(tmp_path, scheme, dsm / name)
        assert result.exit_code == 1, (name, result.output)
        (line,) = result.stderr.strip().splitlines()
        assert words in line, name
        assert not (tmp_path / "out").exists()


def test_names_that_do_not_tell_which_height_model(tmp_path: Path) -> None:
    scheme = own_scenes(tmp_path)
    for name in ("a_1", "b_2", "other_1"):
        write_raster(tmp_path / "dsm" / f"h_{name}.tif", hills((96, 64)))
    line = tile(tmp_path, scheme, tmp_path / "dsm" / "h_{}.tif").stderr
    assert "scene c_3" in line
    assert "no height model fits it" in line
    assert "does not say how height models are named" in tile(tmp_path, scheme, "scheme").stderr
    for name in ("top_1_a", "top_1_b"):
        write_raster(tmp_path / "scenes" / f"{name}.tif", textured(1, (3, 96, 64)))
    (tmp_path / "dsm" / "h_b_2.tif").unlink()
    both = "both fit the scene"
    assert both in refusal_of_predict(tmp_path, "scenes/top_1_a.tif", tmp_path / "dsm")
    shared = write_raster(tmp_path / "one" / "dsm_1.tif", hills((96, 64))).parent
    assert "fits two scenes" in refusal_of_predict(tmp_path, "scenes", shared / "dsm_{}.tif")
