"""`hrrsi tile`: what lands in a tiled dataset, against naive counts."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from PIL import Image
from rasterio.transform import from_origin
from samples.raw_layouts import (
    ISPRS_COLOURS,
    OWN_COLOURS,
    coloured,
    own_folder,
    own_scheme,
    textured,
    utm,
    vaihingen_folder,
    write_raster,
    zipped,
)
from typer.testing import CliRunner, Result

from hrrsi.cli import app
from hrrsi.labels.scheme import load_scheme
from hrrsi.tiling.dataset import TiledDataset


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["tile", *map(str, arguments), "--workers", "1"])


def tiled(*arguments: object, out: Path) -> TiledDataset:
    result = run(*arguments, "--out", out)
    assert result.exit_code == 0, result.output
    return TiledDataset(out)


def digests(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


def starts(length: int, size: int, stride: int) -> list[int]:
    offsets, at = [], 0
    while at + size < length:
        offsets.append(at)
        at += stride
    return [*offsets, max(0, length - size)]


def naive_colours_to_indices(rgb: np.ndarray, scheme_name: str) -> np.ndarray:
    indices = np.full(rgb.shape[:2], 255, dtype=np.uint8)
    for index, c in enumerate(load_scheme(scheme_name).classes):
        indices[(rgb == c.colour).all(axis=-1)] = index
    return indices


@pytest.mark.long
def test_real_scenes_keep_their_pixels_and_classes(examples: Path, tmp_path: Path) -> None:
    # tile 4's masks are palette PNGs, the others are RGB
    dataset = tiled(examples / "dubai", "--scheme", "dubai", "--size", "200", out=tmp_path / "d")
    seen = 0
    for part in ("train", "val", "test"):
        for patch in dataset.patches(part):
            scene, row, col = patch.name.rsplit("_", 2)
            tile, number = scene.removeprefix("tile").split("_part")
            window = np.s_[int(row) : int(row) + 200, int(col) : int(col) + 200]
            folder = examples / "dubai" / f"tile{tile}"
            with Image.open(folder / "images" / f"image_part_{number}.jpg") as image:
                np.testing.assert_array_equal(Image.open(patch.image), np.array(image)[window])
            with Image.open(folder / "masks" / f"image_part_{number}.png") as mask:
                expected = naive_colours_to_indices(np.array(mask.convert("RGB")), "dubai")[window]
            label = np.array(Image.open(patch.label))
            kept = label != 255
            np.testing.assert_array_equal(label[kept], expected[kept])
            if part == "train":
                np.testing.assert_array_equal(label, expected)
            seen += 1
    assert seen == sum(s.patches for s in dataset.description.splits.values()) > 20


@pytest.mark.long
def test_palette_masks_of_the_whole_set(imagery: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "tile4"
    for kind in ("images", "masks"):
        for source in (imagery / "dubai" / "tile4" / kind).glob("*_00[12].*"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            (folder / kind / source.name).write_bytes(source.read_bytes())
    options = ("--scheme", "dubai", "--val-scenes", "tile4_part002")
    dataset = tiled(tmp_path / "raw", *options, out=tmp_path / "d")
    with Image.open(folder / "masks" / "image_part_002.png") as mask:
        assert mask.mode == "P"
        indices = naive_colours_to_indices(np.array(mask.convert("RGB")), "dubai")
    counts = np.bincount(indices.ravel(), minlength=256)[:5]
    assert dataset.description.splits["val"].class_pixels == counts.tolist()


def test_labels_show_the_colours_of_the_scheme(tmp_path: Path) -> None:
    labels = vaihingen_folder(tmp_path / "raw", [1, 11])
    options = ("--scheme", "vaihingen", "--size", "64")
    dataset = tiled(tmp_path / "raw", *options, out=tmp_path / "d")
    patch = dataset.patches("train")[0]
    with Image.open(patch.label) as label:
        assert label.mode == "P"
        shown = np.array(label.convert("RGB"))
        palette = label.getpalette()
    np.testing.assert_array_equal(
        shown.transpose(2, 0, 1), coloured(labels["1"][:64, :64], ISPRS_COLOURS)
    )
    assert palette is not None
    assert palette[255 * 3 :] == [0, 0, 0]
    with rasterio.open(patch.label) as label:
        assert label.count == 1
        assert label.colormap(1)[1] == (0, 0, 255, 255)


@pytest.mark.parametrize("stride", [64, 40])
def test_each_pixel_of_val_and_test_counts_once(tmp_path: Path, stride: int) -> None:
    labels = own_folder(tmp_path / "raw", ["a", "b", "c"], (150, 101))
    own_scheme(tmp_path)
    options = ("--val-scenes", "b", "--test-scenes", "c", "--size", "64", "--stride", stride)
    dataset = tiled(
        tmp_path / "raw", "--scheme", tmp_path / "own.yaml", *options, out=tmp_path / "d"
    )
    for part, scene in (("val", "b"), ("test", "c")):
        seen = np.zeros((150, 101), dtype=int)
        for patch in dataset.patches(part):
            row, col = map(int, patch.name.split("_")[1:])
            label = np.array(Image.open(patch.label))
            window = np.s_[row : row + 64, col : col + 64]
            kept = label != 255
            np.testing.assert_array_equal(label[kept], labels[scene][window][kept])
            seen[window] += kept
        assert (seen == 1).all()
        content = dataset.description.splits[part]
        assert content.class_pixels == np.bincount(labels[scene].ravel()).tolist()
    windows = [(r, c) for r in starts(150, 64, stride) for c in starts(101, 64, stride)]
    assert {p.name for p in dataset.patches("train")} == {f"a_{r:05d}_{c:05d}" for r, c in windows}
    naive = sum(
        np.bincount(labels["a"][r : r + 64, c : c + 64].ravel(), minlength=3) for r, c in windows
    )
    assert dataset.description.splits["train"].class_pixels == naive.tolist()
    shares = np.array(naive) / sum(naive)
    np.testing.assert_allclose(dataset.description.class_frequencies, shares, atol=1e-8)


@pytest.mark.slow
@pytest.mark.long
def test_the_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    vaihingen_folder(tmp_path / "raw", [1, 3, 11, 15])
    made = []
    for workers in ("1", "2", "2"):
        out = tmp_path / f"d{len(made)}"
        arguments = [tmp_path / "raw", "--scheme", "vaihingen", "--size", "64", "--out", out]
        result = CliRunner().invoke(app, ["tile", *map(str, arguments), "--workers", workers])
        assert result.exit_code == 0, result.output
        made.append(digests(out))
    assert made[0] == made[1] == made[2]
    assert len(made[0]) == 1 + 2 * 16


def test_scenes_smaller_than_a_patch_are_padded(tmp_path: Path) -> None:
    labels = own_folder(tmp_path / "raw", ["a", "b"], (50, 100))
    options = ("--scheme", own_scheme(tmp_path), "--val-scenes", "b", "--size", "80")
    dataset = tiled(tmp_path / "raw", *options, out=tmp_path / "d")
    patches = dataset.patches("train")
    assert [p.name for p in patches] == ["a_00000_00000", "a_00000_00020"]
    image, label = read(patches[1].image), read(patches[1].label)[0]
    np.testing.assert_array_equal(image[:, :50], read(tmp_path / "raw/images/a.tif")[:, :, 20:])
    np.testing.assert_array_equal(label[:50], labels["a"][:, 20:])
    assert (image[:, 50:] == 0).all()
    assert (label[50:] == 255).all()
    # padding is no pixel of any class, and no part of the mean
    stored = np.concatenate([read(p.image)[:, :50].reshape(3, -1) for p in patches], axis=1) / 255
    np.testing.assert_allclose(dataset.description.mean, stored.mean(axis=1), atol=1e-7)
    np.testing.assert_allclose(dataset.description.std, stored.std(axis=1), atol=1e-7)


@pytest.mark.long
def test_archives_give_what_folders_give(tmp_path: Path) -> None:
    raw, zips = tmp_path / "raw", tmp_path / "zips"
    vaihingen_folder(raw, [1, 3, 11])
    name = "ISPRS_semantic_labeling_Vaihingen"
    zipped(zips / f"{name}.zip", raw / "top", "top/")
    zipped(zips / f"{name}_ground_truth_COMPLETE.zip", raw / "gts_for_participants")
    zipped(zips / f"{name}_ground_truth_eroded_COMPLETE.zip", raw / "eroded")
    before = digests(zips)
    for options in ((), ("--eroded",)):
        options = ("--scheme", "vaihingen", "--size", "64", "--overwrite", *options)
        tiled(raw, *options, out=tmp_path / "a")
        tiled(zips, *options, out=tmp_path / "b")
        tiled(*sorted(zips.iterdir()), *options, out=tmp_path / "c")
        assert digests(tmp_path / "a") == digests(tmp_path / "b") == digests(tmp_path / "c")
    assert digests(zips) == before


def test_eroded_labels_score_and_full_ones_train(tmp_path: Path) -> None:
    labels = vaihingen_folder(tmp_path / "raw", [1, 11], (64, 64))
    options = ("--scheme", "vaihingen", "--size", "64", "--eroded")
    dataset = tiled(tmp_path / "raw", *options, out=tmp_path / "d")
    np.testing.assert_array_equal(read(dataset.patches("train")[0].label)[0], labels["1"])
    expected = labels["11"].copy()
    expected[::9] = 255
    np.testing.assert_array_equal(read(dataset.patches("val")[0].label)[0], expected)
    splits = dataset.description.splits
    assert (splits["train"].labels, splits["val"].labels) == ("full", "eroded")


def test_vaihingen_keeps_its_published_statistics(tmp_path: Path) -> None:
    vaihingen_folder(tmp_path / "raw", [1, 11])
    options = (tmp_path / "raw", "--scheme", "vaihingen", "--size", "64")
    description = tiled(*options, out=tmp_path / "d").description
    assert description.statistics == "scheme"
    assert description.mean == [0.46956375, 0.32316217, 0.3183202]
    assert description.resolution == 0.09
    result = run(*options, "--bands", "3,2,1", "--out", tmp_path / "e")
    assert "note: mean and std were measured, since those of the scheme vaihingen" in result.stderr
    swapped = TiledDataset(tmp_path / "e").description
    assert swapped.statistics == "measured"
    assert abs(swapped.mean[0] - 0.5) < 0.02


def test_the_official_split_takes_validation_scenes_from_training(tmp_path: Path) -> None:
    vaihingen_folder(tmp_path / "raw", [1, 2, 3, 11, 15], (40, 40))
    options = ("--scheme", "vaihingen", "--split", "official", "--size", "64")
    result = run(tmp_path / "raw", *options, "--out", tmp_path / "d")
    assert "names no validation scenes: 11, 15 taken from training" in result.output
    splits = TiledDataset(tmp_path / "d").description.splits
    assert {part: s.scenes for part, s in splits.items()} == {
        "train": ["1", "3"],
        "val": ["11", "15"],
        "test": ["2"],
    }


def test_potsdam_with_four_bands_becomes_georeferenced_tif(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    indices = {"2_10": 0, "2_11": 1, "2_13": 2}
    for scene, value in indices.items():
        place = utm(row=1000 * value, size=0.05)
        image = write_raster(
            raw / "4_Ortho_RGBIR" / f"top_potsdam_{scene}_RGBIR.tif",
            textured(value, (4, 100, 100)),
            photometric="MINISBLACK",
            **place,
        )
        label = np.full((100, 100), value, dtype=np.uint8)
        write_raster(
            raw / f"top_potsdam_{scene}_label.tif", coloured(label, ISPRS_COLOURS), **place
        )
    options = ("--scheme", "potsdam", "--size", "64")
    dataset = tiled(raw, *options, out=tmp_path / "d")
    assert dataset.description.patch_format == "tif"
    assert dataset.description.bands == [1, 2, 3, 4]
    patch = dataset.patches("test")[3]
    assert patch.name == "2_13_00036_00036"
    np.testing.assert_array_equal(read(patch.image), read(image)[:, 36:, 36:])
    with rasterio.open(patch.image) as opened, rasterio.open(image) as scene:
        assert opened.crs == scene.crs
        assert opened.transform @ (0, 0) == pytest.approx(scene.transform @ (36, 36))
    with rasterio.open(patch.label) as opened:
        assert opened.colormap(1)[2] == (0, 255, 255, 255)
        assert opened.transform @ (0, 0) == pytest.approx(scene.transform @ (36, 36))


@pytest.mark.parametrize(
    ("dtype", "full_scale"), [("uint16", 65535), ("int16", 32767), ("float32", 1)]
)
def test_other_types_keep_their_values(tmp_path: Path, dtype: str, full_scale: float) -> None:
    own_folder(tmp_path / "raw", ["a", "b"], (80, 70), dtype=dtype)
    options = ("--scheme", own_scheme(tmp_path), "--val-scenes", "b", "--size", "96")
    dataset = tiled(tmp_path / "raw", *options, out=tmp_path / "d")
    assert (dataset.description.dtype, dataset.description.scale) == (dtype, full_scale)
    assert dataset.description.patch_format == "tif"
    expected = read(tmp_path / "raw/images/a.tif")
    np.testing.assert_array_equal(read(dataset.patches("train")[0].image)[:, :80, :70], expected)
    scaled = expected.astype(np.float64) / full_scale
    np.testing.assert_allclose(dataset.description.mean, scaled.mean(axis=(1, 2)), atol=1e-7)
    np.testing.assert_allclose(dataset.description.std, scaled.std(axis=(1, 2)), atol=1e-7)


def test_pixels_without_data_are_ignored(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    labels = own_folder(raw, ["a", "b"], (64, 64), dtype="float32")
    pixels = read(raw / "images/a.tif")
    pixels[:, :10] = np.nan
    pixels[:, 20:30] = -1
    pixels[0, 40:50] = -1  # only one band holds it: that is data
    write_raster(raw / "images" / "a.tif", pixels)
    options = ("--val-scenes", "b", "--size", "64", "--nodata", "-1")
    dataset = tiled(raw, "--scheme", own_scheme(tmp_path), *options, out=tmp_path / "d")
    patch = dataset.patches("train")[0]
    expected = labels["a"].copy()
    expected[:10] = expected[20:30] = 255
    np.testing.assert_array_equal(read(patch.label)[0], expected)
    image = read(patch.image)
    assert (image[:, :10] == 0).all()
    assert (image[:, 20:30] == 0).all()
    valid = pixels[:, expected != 255].astype(np.float64)
    np.testing.assert_allclose(dataset.description.mean, valid.mean(axis=1), atol=1e-6)


def test_merged_classes(tmp_path: Path) -> None:
    labels = own_folder(tmp_path / "raw", ["a", "b"], (64, 64))
    options = ("--val-scenes", "b", "--size", "64", "--merge", "water+RF=hard and wet")
    dataset = tiled(
        tmp_path / "raw", "--scheme", own_scheme(tmp_path), *options, out=tmp_path / "d"
    )
    assert dataset.description.classes == ["hard and wet", "grass"]
    assert dataset.description.colours == [(0, 0, 200), (0, 200, 0)]
    expected = np.array([0, 1, 0], dtype=np.uint8)[labels["a"]]
    np.testing.assert_array_equal(read(dataset.patches("train")[0].label)[0], expected)


def test_the_table_says_what_the_labels_hold(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    own_folder(raw, ["a", "b"], (64, 64))
    label = np.zeros((64, 64), dtype=np.uint8)
    label[:16] = 1
    label[:8] = 255
    write_raster(raw / "labels" / "a.tif", label)
    options = ("--scheme", own_scheme(tmp_path), "--val-scenes", "b", "--size", "64")
    result = run(raw, *options, "--out", tmp_path / "d")
    row = next(line for line in result.output.splitlines() if line.startswith("| train"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["train", "1", "1", "85.7 %", "14.3 %", "0.0 %", "12.5 %"]
    assert "no training pixel is labelled water" in result.output


def test_one_class_only_is_said(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    own_folder(raw, ["a", "b"])
    write_raster(raw / "labels" / "a.tif", np.full((80, 70), 2, dtype=np.uint8))
    options = ("--scheme", own_scheme(tmp_path), "--val-scenes", "b", "--size", "64")
    result = run(raw, *options, "--out", tmp_path / "d")
    assert result.exit_code == 0
    assert "the training labels hold one class only (water)" in result.output


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    vaihingen_folder(tmp_path / "raw", [1, 11])
    options = ("--scheme", "vaihingen", "--size", "64", "--dry-run")
    result = run(tmp_path / "raw", *options, "--out", tmp_path / "d")
    assert result.exit_code == 0
    assert "| train |      1 |       4 |" in result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"]


def test_overwrite_replaces_a_dataset_and_nothing_else(tmp_path: Path) -> None:
    vaihingen_folder(tmp_path / "raw", [1, 11])
    options = ("--scheme", "vaihingen", "--out", tmp_path / "d", "--size")
    assert run(tmp_path / "raw", *options, "64").exit_code == 0
    again = run(tmp_path / "raw", *options, "32")
    assert again.exit_code == 1
    assert "--overwrite" in again.output
    assert TiledDataset(tmp_path / "d").description.patch_size == 64
    assert run(tmp_path / "raw", *options, "32", "--overwrite").exit_code == 0
    dataset = TiledDataset(tmp_path / "d")
    assert {p.image.stat().st_size > 0 for p in dataset.patches("val")} == {True}
    assert dataset.description.patch_size == 32
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").touch()
    refused = run(
        tmp_path / "raw", "--scheme", "vaihingen", "--out", tmp_path / "photos", "--overwrite"
    )
    assert refused.exit_code == 1
    assert "is not a tiled dataset" in refused.output
    assert (tmp_path / "photos" / "me.jpg").exists()


def test_scenes_may_exceed_the_pixel_limit_of_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    raw = tmp_path / "raw"
    for scene in ("a", "b"):
        write_raster(raw / "images" / f"{scene}.png", textured(1, (3, 90, 90)))
        write_raster(raw / "labels" / f"{scene}.png", coloured(np.eye(90, dtype=int), OWN_COLOURS))
    patterns = 'images: ["images/{scene}.png"]\nlabels: ["labels/{scene}.png"]'
    scheme = own_scheme(tmp_path, patterns, "colours")
    options = ("--scheme", scheme, "--val-scenes", "b", "--size", "64")
    dataset = tiled(raw, *options, out=tmp_path / "d")
    assert dataset.description.splits["val"].class_pixels == [90 * 90 - 90, 90, 0]


def test_the_description_is_plain_yaml(tmp_path: Path) -> None:
    own_folder(tmp_path / "raw", ["a", "b"], georeferenced=True)
    options = ("--scheme", own_scheme(tmp_path), "--val-scenes", "b", "--size", "64")
    dataset = tiled(tmp_path / "raw", *options, out=tmp_path / "d")
    data = yaml.safe_load((tmp_path / "d" / "dataset.yaml").read_text())
    assert data["resolution"] == 0.5
    assert data["classes"] == ["roof", "grass", "water"]
    assert data["split"] == "chosen scenes"
    assert data["splits"]["val"]["scenes"] == ["b"]
    assert dataset.description.resolution == 0.5


def test_pixels_that_are_no_squares_are_warned_of(tmp_path: Path) -> None:
    own_folder(tmp_path / "raw", ["a", "b", "c"])
    for path in (tmp_path / "raw").glob("*/[ab].tif"):
        with rasterio.open(path, "r+") as dataset:
            dataset.crs = "EPSG:4326"
            dataset.transform = from_origin(10 + 0.1 * (path.stem == "b"), 60, 4e-6, 4e-6)
    line = (tmp_path / "raw", "--scheme", own_scheme(tmp_path), "--size", 32)
    result = run(*line, "--out", tmp_path / "d", "--val-scenes", "b")
    (warning,) = (text for text in result.output.splitlines() if "no squares" in text)
    assert warning.startswith("warning: pixels are no squares on the ground, and patches keep them")
    assert "reads such scenes as squares: a, b; bring them to square pixels first" in warning
