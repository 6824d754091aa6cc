"""What bands show by a file's own word: named bands, alpha that is near infrared, palettes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from samples.made_weights import scene_pixels
from samples.predicted_scenes import SMALL, save_scene
from typer.testing import CliRunner

from hrrsi.cli import app
from hrrsi.scenes.bands import alpha_is_imagery, band_meanings
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.windows import Window
from hrrsi.tiling.dataset import TiledDataset

RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
RGBA = (*RGB, ColorInterp.alpha)
PIXELS = np.moveaxis(scene_pixels(), -1, 0)[:, :96, :96].copy()
WHOLE = Window(0, 0, 96, 96)
RUNNER = CliRunner()


def saved(
    path: Path,
    values: np.ndarray,
    interpretation: Any = None,
    descriptions: Any = None,
    **more: Any,
) -> Path:
    save_scene(path, values, **more)
    with rasterio.open(path, "r+") as dataset:
        if interpretation:
            dataset.colorinterp = interpretation
        if descriptions:
            dataset.descriptions = descriptions
    return path


def mapped(scene: Path, weights: Path, *more: str) -> tuple[np.ndarray, str]:
    out = scene.with_name(scene.stem + "_map.tif")
    result = RUNNER.invoke(
        app, ["predict", str(scene), "-o", str(out), "--weights", str(weights), *SMALL, *more, "-q"]
    )
    assert result.exit_code == 0, result.output
    with rasterio.open(out) as dataset:
        return dataset.read(1), result.stderr


@pytest.mark.parametrize(
    ("descriptions", "meanings"),
    [
        (("Blue", "Green", "Red"), ("blue", "green", "red")),
        (("B", "G", "R"), ("blue", "green", "red")),
        (("Band 1: Blau", "Grün (560 nm)", "Rot"), ("blue", "green", "red")),
        (("NIR", "Red edge 705", "rededge"), ("near infrared", "red edge", "red edge")),
        (
            ("Near-Infrared", "coastal blue", "SWIR 1"),
            ("near infrared", "coastal", "shortwave infrared"),
        ),
        (("red-green ratio", "B4", "infrared"), (None, None, "near infrared")),
    ],
)
def test_descriptions_say_what_bands_show(
    tmp_path: Path, descriptions: tuple[str, ...], meanings: tuple[str | None, ...]
) -> None:
    path = saved(tmp_path / "a.tif", PIXELS, [ColorInterp.undefined] * 3, descriptions)
    with rasterio.open(path) as dataset:
        assert band_meanings(dataset) == meanings


@pytest.mark.long
@pytest.mark.parametrize(
    ("order", "interpretation", "descriptions"),
    [
        ((2, 1, 0), RGB[::-1], None),
        ((2, 1, 0), None, ("Blue", "Green", "Red")),
        ((2, 1, 0, 0), (*RGB[::-1], ColorInterp.undefined), ("B", "G", "R", "NIR")),
        ((1, 2, 0), (ColorInterp.green, ColorInterp.blue, ColorInterp.red), None),
    ],
)
def test_scenes_that_name_their_bands_are_mapped_by_these_names(
    tmp_path: Path, made_weights: Path, order: Any, interpretation: Any, descriptions: Any
) -> None:
    plain, _ = mapped(saved(tmp_path / "rgb.tif", PIXELS), made_weights)
    scene = saved(
        tmp_path / "named.tif",
        PIXELS[list(order)],
        interpretation,
        descriptions,
        photometric="MINISBLACK",
    )
    labels, notes = mapped(scene, made_weights)
    np.testing.assert_array_equal(labels, plain)
    first = [order.index(colour) + 1 for colour in range(3)]
    listed = ",".join(map(str, first))
    assert notes == (
        f"note: {scene}: bands {listed} are read, which it calls red, green, blue, as in training; "
        "--bands chooses others\n"
    )
    # what the user says counts, without a word
    as_stored, notes = mapped(scene, made_weights, "--bands", "1,2,3", "--overwrite")
    assert notes == ""
    stored = saved(tmp_path / "stored.tif", PIXELS[list(order[:3])])
    np.testing.assert_array_equal(as_stored, mapped(stored, made_weights)[0])


def test_bands_that_are_others_than_in_training_are_told(
    tmp_path: Path, made_weights: Path
) -> None:
    scene = saved(tmp_path / "irrg.tif", PIXELS, None, ("NIR", "Red", "Green"))
    assert mapped(scene, made_weights)[1] == (
        f"warning: {scene}: calls bands 1,2,3 near infrared, red, green where the weights were "
        "trained on red, green, blue; choose others with --bands, or expect worse maps\n"
    )


@pytest.mark.long
def test_near_infrared_that_gdal_calls_alpha_masks_nothing(
    tmp_path: Path, made_weights: Path
) -> None:
    infrared = PIXELS[:1] // 2 + 40
    infrared[:, 20:50, 10:60] = 0  # water
    plain, _ = mapped(saved(tmp_path / "rgb.tif", PIXELS), made_weights)
    scene = saved(tmp_path / "naip.tif", np.concatenate([PIXELS, infrared]), RGBA)
    with rasterio.open(scene) as dataset:
        assert dataset.colorinterp[3] == ColorInterp.alpha
        assert (dataset.dataset_mask() == 0).sum() == 1500
    labels, notes = mapped(scene, made_weights)
    np.testing.assert_array_equal(labels, plain)
    assert notes.startswith(f"warning: {scene}: calls band 4 alpha, but it holds as many values")


def test_an_alpha_that_fades_out_at_the_edge_is_one(tmp_path: Path) -> None:
    alpha = np.full((96, 96), 255, np.uint8)
    alpha[:, :24] = np.linspace(0, 255, 24)
    path = saved(tmp_path / "a.tif", np.concatenate([PIXELS, alpha[None]]), RGBA)
    with rasterio.open(path) as dataset:
        assert not alpha_is_imagery(dataset)
    with open_scene(path) as scene:
        np.testing.assert_array_equal(scene.read_valid(WHOLE, scene.read(WHOLE)), alpha != 0)


@pytest.mark.parametrize("declared", ["nodata", "mask"])
def test_alpha_counts_beside_another_declaration(tmp_path: Path, declared: str) -> None:
    values = np.concatenate([PIXELS, np.full((1, 96, 96), 255, np.uint8)])
    values[:3, 0:10] = 7
    values[3, 20:30] = 0
    profile = {"nodata": 7} if declared == "nodata" else {}
    path = saved(tmp_path / "a.tif", values, RGBA, **profile)
    if declared == "mask":
        with rasterio.open(path, "r+") as dataset:
            dataset.write_mask(~(values[:3] == 7).all(axis=0))
    expected = ~(values[:3] == 7).all(axis=0) & (values[3] != 0)
    with open_scene(path) as scene:
        np.testing.assert_array_equal(scene.read_valid(WHOLE, scene.read(WHOLE)), expected)


@pytest.mark.long
@pytest.mark.parametrize("nodata", [None, 3])
def test_palette_pictures_are_mapped_as_their_colours(
    tmp_path: Path, made_weights: Path, nodata: int | None
) -> None:
    numbers = np.arange(96 * 96).reshape(96, 96) // 64 % 12
    colours = np.random.default_rng(0).integers(1, 255, (12, 3)).astype(np.uint8)
    path = tmp_path / "palette.tif"
    profile = {"nodata": nodata} if nodata is not None else {}
    save_scene(path, numbers[None].astype(np.uint8), photometric="PALETTE", **profile)
    with rasterio.open(path, "r+") as dataset:
        entries = {n: (*map(int, rgb), 255) for n, rgb in enumerate(colours)}
        dataset.write_colormap(1, entries)
    expanded = np.moveaxis(colours[numbers], -1, 0)
    with open_scene(path) as scene:
        pixels = scene.read(WHOLE)
        valid = scene.read_valid(WHOLE, pixels)
    np.testing.assert_array_equal(valid, numbers != nodata)
    np.testing.assert_array_equal(pixels[:, valid], expanded[:, valid])
    labels, notes = mapped(path, made_weights)
    assert f"note: {path}: is a picture with a palette, read as its colours\n" in notes
    plain, _ = mapped(saved(tmp_path / "rgb.tif", expanded), made_weights)
    if nodata is None:
        np.testing.assert_array_equal(labels, plain)


def labelled(folder: Path, name: str, values: np.ndarray, *more: Any, **profile: Any) -> None:
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    saved(folder / "images" / f"{name}.tif", values, *more, **profile)
    save_scene(folder / "labels" / f"{name}.tif", (PIXELS[:1] > 125).astype(np.uint8))


def tiled(raw: Path, out: Path, *more: str) -> Any:
    scheme = raw / "s.yaml"
    scheme.write_text(
        "{name: s, label_format: indices, classes: [{name: a, colour: [0, 0, 0]}, "
        "{name: b, colour: [9, 9, 9]}]}"
    )
    flags = ["--scheme", str(scheme), "--val-scenes", "b", "--size", "96", "--workers", "1", "-q"]
    return RUNNER.invoke(app, ["tile", str(raw), *flags, "--out", str(out), *more])


def image(out: Path, part: str) -> np.ndarray:
    (path,) = (out / part / "image").iterdir()
    with rasterio.open(path) as dataset:
        return dataset.read()


def test_scenes_of_a_dataset_are_brought_into_one_order_of_bands(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    labelled(raw, "a", PIXELS)
    labelled(raw, "b", PIXELS[::-1].copy(), RGB[::-1], photometric="MINISBLACK")
    result = tiled(raw, out)
    assert result.exit_code == 0, result.output
    assert (
        "note: bands are read as red, green, blue, which scenes name in another order: b (3,2,1); "
        "--bands chooses others\n" in result.stderr
    )
    np.testing.assert_array_equal(image(out, "train"), PIXELS)
    np.testing.assert_array_equal(image(out, "val"), PIXELS)
    about = TiledDataset(out).description
    assert (about.bands, about.band_meanings) == ([1, 2, 3], ("red", "green", "blue"))


def test_scenes_of_a_dataset_that_show_other_bands_are_refused(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    labelled(raw, "a", PIXELS)
    labelled(raw, "b", PIXELS, None, ("NIR", "Red", "Green"))
    result = tiled(raw, tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: {raw / 'images/b.tif'}: calls bands 1,2,3 near infrared, red, green where patches "
        "hold red, green, blue; choose with --bands, or leave the scene out of the split\n"
    )
    assert tiled(raw, tmp_path / "chosen", "--bands", "1,2,3").exit_code == 0


def test_patches_hold_the_colours_of_palettes(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    labelled(raw, "a", PIXELS)
    labelled(raw, "b", PIXELS[:1] // 32, photometric="PALETTE")
    with rasterio.open(raw / "images" / "b.tif", "r+") as dataset:
        dataset.write_colormap(1, {n: (n * 30, 255 - n, 7 * n, 255) for n in range(8)})
    assert tiled(raw, out).exit_code == 0
    numbers = PIXELS[0] // 32
    np.testing.assert_array_equal(
        image(out, "val"), np.stack([numbers * 30, 255 - numbers, numbers * 7])
    )
