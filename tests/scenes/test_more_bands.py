"""More than RGB: bands, types and full brightness from `hrrsi tile` to `hrrsi predict`."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml
from safetensors.torch import load_file
from samples.command_results import done, run
from samples.made_weights import meta, scene_pixels
from samples.predicted_scenes import notices
from samples.raw_layouts import class_map, own_scheme, utm, write_raster
from typer.testing import Result

from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights import save_weights
from hrrsi.tiling.dataset import DatasetDescription, TiledDataset

RGB = np.moveaxis(scene_pixels(), -1, 0).astype(np.float64)
NAMES = ("a", "b", "c")


def five_bands(number: int) -> np.ndarray:
    """Return real pixels with a made near infrared and a difference, (5, 64, 96) in 0 to 255."""
    red, green, blue = RGB[:, :64, number * 60 :][..., :96]
    infrared = np.clip(255 - 0.6 * red + 0.2 * green, 0, 255)
    difference = 127 * (infrared - red) / (infrared + red + 1) + 128
    return np.stack([red, green, blue, infrared, difference])


def save_scenes(root: Path, scenes: list[np.ndarray], **profile: Any) -> Path:
    """Write labelled scenes; return their folder."""
    for number, (name, pixels) in enumerate(zip(NAMES, scenes, strict=True)):
        place = utm(row=300 * number)
        write_raster(root / "raw/images" / f"{name}.tif", pixels, **(place | profile))
        write_raster(root / "raw/labels" / f"{name}.tif", class_map(number, 64, 96, 3))
    return root / "raw"


def tile(root: Path, *options: object, out: str = "out") -> Result:
    return run(
        *("tile", root / "raw", "--scheme", own_scheme(root), "--val-scenes", "b"),
        *("--test-scenes", "c", "--size", 32, "--workers", 1, "--quiet", "--out", root / out),
        *options,
    )


def described(root: Path, out: str = "out") -> DatasetDescription:
    return TiledDataset(root / out).description


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


def put_together(folder: Path, bands: int) -> np.ndarray:
    whole = np.full((bands, 64, 96), np.nan)
    for path in folder.iterdir():
        row, col = map(int, path.stem.split("_")[-2:])
        whole[:, row : row + 32, col : col + 32] = read(path)
    return whole


@pytest.mark.parametrize(
    ("dtype", "factor", "bands", "suffix"),
    [
        ("uint8", 1, "4,1,2", "png"),
        ("uint8", 1, "5,4", "tif"),
        ("uint8", 1, None, "tif"),
        ("uint16", 2047 / 255, None, "tif"),
        ("uint16", 2047 / 255, "4,1,2", "tif"),
        ("int16", 10000 / 255, "1,2,3,4", "tif"),
        ("float32", 1 / 255, "1,2,3,4", "tif"),
        ("float64", 1 / 255, None, "tif"),
    ],
)
def test_patches_and_statistics_are_those_of_the_chosen_bands(
    tmp_path: Path, dtype: str, factor: float, bands: str | None, suffix: str
) -> None:
    save_scenes(tmp_path, [(five_bands(n) * factor).astype(dtype) for n in range(3)])
    result = tile(tmp_path, *(["--bands", bands] if bands else []))
    assert result.exit_code == 0, result.output
    description = described(tmp_path)
    chosen = [int(b) for b in bands.split(",")] if bands else [1, 2, 3, 4, 5]
    scale = round(255 * factor)
    assert (description.bands, description.scale, description.patch_format) == (
        chosen,
        scale,
        suffix,
    )
    expected = read(tmp_path / "raw/images/a.tif")[[b - 1 for b in chosen]]
    kept = "float32" if dtype == "float64" else dtype
    assert description.dtype == kept
    folder = tmp_path / "out/train/image"
    np.testing.assert_array_equal(
        put_together(folder, len(chosen)).astype(kept), expected.astype(kept)
    )
    assert {read(path).dtype.name for path in folder.iterdir()} == {kept}
    np.testing.assert_allclose(description.mean, expected.mean(axis=(1, 2)) / scale, atol=1e-6)
    np.testing.assert_allclose(description.std, expected.std(axis=(1, 2)) / scale, atol=1e-6)
    said = f"note: {scale} counts as full brightness (99.9 % of the values lie below"
    assert (said in result.stderr) == (dtype != "uint8")


def test_full_brightness_is_what_the_user_says(tmp_path: Path) -> None:
    save_scenes(tmp_path, [(five_bands(n) * 3).astype(np.uint16) for n in range(3)])
    result = tile(tmp_path, "--scale", 2047)
    assert result.exit_code == 0
    assert "full brightness" not in result.stderr
    assert described(tmp_path).scale == 2047
    expected = read(tmp_path / "raw/images/a.tif").mean(axis=(1, 2)) / 2047
    np.testing.assert_allclose(described(tmp_path).mean, expected, atol=1e-6)
    for value in (0, -1, "nan", "inf"):
        line = tile(tmp_path, "--scale", value, out="b").stderr
        assert re.fullmatch(r"error: --scale: full brightness can't be .+\n", line)


@pytest.mark.long
def test_full_brightness_is_what_the_scenes_declare(tmp_path: Path) -> None:
    dark = [(five_bands(n) * 3).astype(np.uint16) for n in range(3)]  # looks like 10 bits
    raw = save_scenes(tmp_path, dark, nbits=12)
    assert tile(tmp_path, out="bits").stderr == ""
    assert described(tmp_path, "bits").scale == 4095
    for name in NAMES:
        with rasterio.open(raw / "images" / f"{name}.tif", "r+") as dataset:
            dataset.scales = [0.0001] * 5
            dataset.offsets = [-0.1] * 5
    assert tile(tmp_path, out="unit").stderr == ""
    assert described(tmp_path, "unit").scale == 10000
    # by whatever they are divided, the normalised values are the same
    bits, unit = described(tmp_path, "bits"), described(tmp_path, "unit")
    np.testing.assert_allclose(np.multiply(bits.mean, 0.4095), unit.mean, atol=1e-6)
    with rasterio.open(raw / "images" / "b.tif", "r+") as dataset:
        dataset.scales = [1.0] * 5
    line = tile(tmp_path, out="differ").stderr
    assert "b.tif: declares 4095 as full brightness where" in line
    assert "declares 10000; say it for all with --scale" in line
    assert tile(tmp_path, "--scale", 10000, out="differ").exit_code == 0


@pytest.mark.long
def test_predict_takes_what_a_scene_declares(tmp_path: Path, made_weights: Path) -> None:
    pixels = RGB[:, :64, :64]
    plain = write_raster(tmp_path / "plain.tif", pixels.astype(np.uint8))
    reflectance = write_raster(tmp_path / "unit.tif", (pixels * 10000 / 255).astype(np.uint16))
    with rasterio.open(reflectance, "r+") as dataset:
        dataset.scales = [0.0001] * 3
    command = ("--weights", made_weights, "--window", 64, "--precision", 32, "--quiet")
    result = done("predict", plain, reflectance, *command, "--out", tmp_path)
    assert "10000 counts as full brightness (the file declares a scale of 0.0001)" in result.stderr
    labels, again = (read(tmp_path / f"{name}_classes.tif") for name in ("plain", "unit"))
    assert (labels == again).mean() > 0.995
    assert "offset" not in result.stderr
    with rasterio.open(reflectance, "r+") as dataset:
        dataset.offsets = [-0.1] * 3
    result = done("predict", reflectance, *command, "--out", tmp_path / "offset")
    assert "declares an offset of -0.1 for its values, which is not added to them" in result.stderr


@pytest.mark.long
def test_what_a_scene_declares_comes_before_what_weights_say(
    tmp_path: Path, made_weights: Path
) -> None:
    weights = tmp_path / "ten.safetensors"
    ten_bits = replace(meta(), dtype="uint16", scale=1020.0, scheme="own")
    save_weights(load_file(made_weights), ten_bits, weights)
    pixels = RGB[:, :64, :64]
    raw = tmp_path / "raw"
    for name, factor in (("plain", 4), ("bits", 4095 / 255)):
        path = raw / "images" / f"{name}.tif"
        bits = {"nbits": 12} if name == "bits" else {}
        write_raster(path, (pixels * factor).round().astype(np.uint16), **bits)
        write_raster(raw / "labels" / f"{name}.tif", class_map(1, 64, 64, 5))
    command = ("--weights", weights, "--window", 64, "--precision", 32, "--quiet")
    result = done("predict", raw / "images", *command, "--out", tmp_path)
    (line,) = notices(result)
    assert f"{raw / 'images/bits.tif'}: 4095 counts as full brightness" in line
    assert "12 bits a value) where the weights were trained with 1020, unless --scale" in line
    labels, again = (read(tmp_path / f"{name}_classes.tif") for name in ("plain", "bits"))
    assert (labels == again).mean() > 0.99
    scheme = tmp_path / "dubai.yaml"
    classes = [f"{{name: {n}, colour: [{i}, 0, 0]}}" for i, n in enumerate(meta()["classes"])]
    scheme.write_text(
        f"name: own\nlabel_format: indices\nclasses: [{', '.join(classes)}]\n", encoding="utf-8"
    )
    scores = json.loads(done("eval", raw, "--scheme", scheme, *command, "--format", "json").stdout)
    assert scores["protocol"]["reading"] == ["full brightness = 4095 where scenes declare it"]
    truth = class_map(1, 64, 64, 5)
    right = np.mean([labels[0] == truth, again[0] == truth])
    assert scores["scores"]["OA"] == pytest.approx(right, abs=1e-6)


@pytest.mark.long
def test_a_fourth_band_that_gdal_calls_alpha_is_imagery_when_asked_for(tmp_path: Path) -> None:
    scenes = [five_bands(n)[:4].astype(np.uint8) for n in range(3)]
    for pixels in scenes:
        pixels[3, 10:20, 10:20] = 0  # water is black in the infrared
    save_scenes(tmp_path, scenes)
    with rasterio.open(tmp_path / "raw/images/a.tif") as dataset:
        assert dataset.colorinterp[3].name == "alpha"  # GDAL's choice
    result = tile(tmp_path, out="three")
    note = "note: the scenes call band 4 alpha, so it is no band of the patches; --bands 1,2,3,4"
    assert note in result.stderr
    masks_nothing = "alpha holds as many values as imagery does (near infrared?), so it masks noth"
    assert masks_nothing in result.stderr
    assert described(tmp_path, "three").bands == [1, 2, 3]
    assert described(tmp_path, "three").splits["train"].ignored_pixels == 0
    assert masks_nothing in tile(tmp_path, "--bands", "1,2,3", out="chosen").stderr
    assert described(tmp_path, "chosen").splits["train"].ignored_pixels == 0
    tile(tmp_path, "--bands", "1,2,3,4", out="four")
    assert described(tmp_path, "four").splits["train"].ignored_pixels == 0
    mosaic = put_together(tmp_path / "four/train/image", 4)
    np.testing.assert_array_equal(mosaic, read(tmp_path / "raw/images/a.tif"))


@pytest.mark.long
def test_weights_know_which_bands_they_see(tmp_path: Path, made_weights: Path) -> None:
    weights = tmp_path / "nrg.safetensors"
    save_weights(load_file(made_weights), replace(meta(), bands=[4, 1, 2]), weights)
    pixels = five_bands(0).astype(np.uint8)
    four = write_raster(tmp_path / "four.tif", pixels[:4], photometric="MINISBLACK")
    three = write_raster(tmp_path / "three.tif", pixels[[3, 0, 1]])
    command = ("--weights", weights, "--window", 64, "--precision", 32, "--quiet")
    done("predict", four, three, *command, "--out", tmp_path)
    labels, again = (read(tmp_path / f"{name}_classes.tif") for name in ("four", "three"))
    np.testing.assert_array_equal(labels, again)
    done("predict", four, *command, "--bands", "1,2,3", "--out", tmp_path / "rgb.tif")
    assert (read(tmp_path / "rgb.tif") != labels).any()
    alpha = write_raster(tmp_path / "alpha.tif", pixels[:4])  # as GDAL calls a fourth band
    result = done("predict", alpha, *command, "--out", tmp_path)
    assert "calls band 4 alpha, which is read as imagery since the weights" in result.stderr
    np.testing.assert_array_equal(read(tmp_path / "alpha_classes.tif"), labels)
    result = done("predict", alpha, *command, "--bands", "4,1,2", "--out", tmp_path, "--overwrite")
    assert "alpha, which" not in result.stderr


def test_what_does_not_go_together(tmp_path: Path) -> None:
    save_scenes(tmp_path, [five_bands(n).astype(np.uint8) for n in range(3)])
    assert "has no band 6 (it has 5); correct --bands" in tile(tmp_path, "--bands", "6,1").stderr
    write_raster(tmp_path / "raw/images/b.tif", five_bands(1).astype(np.uint16))
    assert "holds uint16 where the scenes before it hold uint8" in tile(tmp_path).stderr
    save_scenes(tmp_path, [five_bands(n).astype(np.uint32) for n in range(3)])
    line = tile(tmp_path).stderr
    assert "holds uint32; convert it to uint8, uint16, int16 or float32" in line


def test_scenes_whose_alpha_lies_elsewhere_are_read_by_the_names_of_their_bands(
    tmp_path: Path,
) -> None:
    raw = save_scenes(tmp_path, [five_bands(n)[:4].astype(np.uint8) for n in range(3)])
    with rasterio.open(raw / "images/b.tif", "r+") as dataset:
        dataset.colorinterp = [dataset.colorinterp[number] for number in (3, 0, 1, 2)]
    assert tile(tmp_path, out="three").exit_code == 0
    mosaic = put_together(tmp_path / "three/val/image", 3)
    np.testing.assert_array_equal(mosaic, read(raw / "images/b.tif")[1:])
    assert tile(tmp_path, "--bands", "1,2,3,4", out="four").exit_code == 0


def trained(root: Path) -> Path:
    """Train for an epoch; return the weights."""
    done(
        *("train", root / "out", "--model", "ued", "--encoder-weights", "none", "--epochs", 1),
        *("--batch", 4, "--workers", 0, "--device", "cpu", "--out", root / "runs", "--quiet"),
    )
    (weights,) = (root / "runs").rglob("best.safetensors")
    return weights


def made_for(dataset: DatasetDescription, path: Path) -> Path:
    """Save random weights that say of themselves what a dataset says."""
    same = ("classes", "colours", "bands", "dtype", "scale", "mean", "std")
    about = replace(meta(len(dataset.bands)), **{name: getattr(dataset, name) for name in same})
    torch.manual_seed(0)
    network = build_network(about.model, len(dataset.classes), len(dataset.bands))
    save_weights(network.state_dict(), about, path)
    return path


@pytest.mark.long
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("heights beside uint16", marks=pytest.mark.slow),
        "first bands",
        pytest.param("alpha as imagery", marks=pytest.mark.slow),
    ],
)
def test_from_scenes_to_maps(tmp_path: Path, kind: str) -> None:
    """Tile, train for an epoch, evaluate and map: all agree on bands and full brightness.

    What a network learns does not depend on how bands were chosen, so that one kind is trained on.
    """
    heights: tuple[object, ...] = ()
    if kind == "first bands":
        scenes = [five_bands(n)[:4].astype(np.uint8) for n in range(3)]
        save_scenes(tmp_path, scenes, photometric="MINISBLACK")
        reading, warning = ("--bands", "1,2,3"), "c.tif: bands 1,2,3 of 4 are read"
    elif kind == "alpha as imagery":
        save_scenes(tmp_path, [five_bands(n)[:4].astype(np.uint8) for n in range(3)])
        reading, warning = ("--bands", "1,2,3,4"), "c.tif: calls band 4 alpha"
    else:
        save_scenes(tmp_path, [(five_bands(n) * 8).astype(np.uint16) for n in range(3)])
        for number, name in enumerate(NAMES):
            terrain = 280 + np.cumsum(RGB[0, number:][:70, :102] / 500, axis=1)
            dsm = tmp_path / "raw/dsm" / f"dsm_{name}.tif"
            write_raster(dsm, terrain.astype(np.float32), **utm(row=300 * number - 1.5, col=-2.5))
        reading, warning = ("--bands", "4,1,2", "--scale", 2047), None
        heights = ("--height", tmp_path / "raw/dsm/dsm_{}.tif")
    assert tile(tmp_path, *reading, *heights).exit_code == 0
    made = described(tmp_path)
    weights = trained(tmp_path) if heights else made_for(made, tmp_path / "made.safetensors")
    facts = json.loads(done("info", weights, "--format", "json").stdout)
    for key in ("bands", "dtype", "scale", "mean", "std", "classes"):
        assert facts[key] == yaml.safe_load((tmp_path / "out/dataset.yaml").read_text())[key]
    assert facts.get("height", False) == bool(heights) == (made.height is not None)
    reads = ("--weights", weights, "--precision", 32, "--quiet")
    patches = json.loads(done("eval", tmp_path / "out", *reads, "--format", "json").stdout)
    scenes = json.loads(
        done(
            *("eval", tmp_path / "raw", "--scheme", tmp_path / "own.yaml", "--scenes", "c"),
            *("--window", 32, "--overlap", 0, "--format", "json", *reads, *heights),
        ).stdout
    )
    assert scenes["scores"] == patches["scores"]
    command = ("predict", tmp_path / "raw/images/c.tif", *reads, *heights, "--window", 32)
    result = done(*command, "--overlap", 0, "--out", tmp_path / "map.tif")
    # scene c may look unlike the only one that was trained on
    facts = [line for line in result.stderr.splitlines() if "imagery unlike" not in line]
    assert len(facts) == (warning is not None)
    assert (warning or "") in "".join(facts)
    labels, truth = read(tmp_path / "map.tif")[0], read(tmp_path / "raw/labels/c.tif")[0]
    assert scenes["scores"]["OA"] == pytest.approx((labels == truth).mean(), abs=1e-6)
