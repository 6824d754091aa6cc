"""`hrrsi tile --split-blocks`: one orthophoto split into spatial blocks."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import yaml
from PIL import Image
from samples.one_ortho import NAMES, error_of, tile, write_areas, write_ortho, write_polygons
from samples.raw_layouts import own_scheme, textured, utm, write_raster

import hrrsi
from hrrsi.class_styles import polygon_categories
from hrrsi.tiling.block_dealing import dealt_parts
from hrrsi.tiling.plan import tiling_plan

SIZE, GUARD = 32, 12


@pytest.fixture
def ortho(tmp_path: Path) -> Path:
    return write_ortho(tmp_path)


def tiled(folder: Path, *options: object, out: str = "d") -> Path:
    arguments = ["--labels", folder / "areas.gpkg", "--split-blocks", "70,15,15"]
    arguments += ["--size", SIZE, "--guard", GUARD, *options, "--out", folder / out]
    result = tile(folder / "ortho.tif", *arguments)
    assert result.exit_code == 0, result.output
    return folder / out


def windows(dataset: Path) -> dict[str, list[tuple[int, int]]]:
    """First row and column of each patch by its split, as its name has them."""
    return {
        split: [
            tuple(map(int, path.stem.split("_")[-2:]))
            for path in sorted((dataset / split / "image").iterdir())
        ]
        for split in ("train", "val", "test")
    }


def covered(corners: list[tuple[int, int]], shape: tuple[int, int], margin: int) -> np.ndarray:
    """Which pixels a patch holds, or one within some pixels of it, one patch after the other."""
    mask = np.zeros(shape, dtype=bool)
    for row, col in corners:
        mask[
            max(0, row - margin) : row + SIZE + margin, max(0, col - margin) : col + SIZE + margin
        ] = True
    return mask


class BlockDataset(NamedTuple):
    """A dataset of blocks, the class of each pixel, and the orthophoto."""

    dataset: Path
    labels: np.ndarray
    ortho: Path


@pytest.fixture(scope="module")
def block_dataset(tmp_path_factory: pytest.TempPathFactory) -> BlockDataset:
    folder = tmp_path_factory.mktemp("made")
    ortho = write_ortho(folder)
    labels = write_areas(folder)
    return BlockDataset(tiled(folder), labels, ortho)


@pytest.mark.long
@pytest.mark.parametrize(
    ("guard", "stride"),
    [(7, 20), *(pytest.param(guard, SIZE, marks=pytest.mark.slow) for guard in (GUARD, 0))],
)
def test_no_pixel_within_the_guard_band_is_in_two_splits(
    tmp_path: Path, ortho: Path, guard: int, stride: int
) -> None:
    write_areas(tmp_path)
    dataset = tiled(tmp_path, "--guard", guard, "--stride", stride)
    corners = windows(dataset)
    shape = (400, 500)
    for split, others in {"train": ("val", "test"), "val": ("train", "test")}.items():
        near = covered(corners[split], shape, guard)
        for other in others:
            assert corners[other]
            assert not (near & covered(corners[other], shape, 0)).any()
    # and no wider than asked for: somewhere two splits are that near
    near = covered(corners["train"], shape, guard + 1)
    assert (near & covered(corners["val"] + corners["test"], shape, 0)).any()


def test_patches_hold_the_pixels_and_classes_of_their_place(block_dataset: BlockDataset) -> None:
    dataset, labels, ortho = block_dataset
    with rasterio.open(ortho) as opened:
        image = opened.read()
    kept = np.zeros((400, 500), dtype=int)
    for split, corners in windows(dataset).items():
        files = sorted((dataset / split / "label").iterdir())
        for path, (row, col) in zip(files, corners, strict=True):
            place = np.s_[row : row + SIZE, col : col + SIZE]
            with rasterio.open(path) as opened:
                label = opened.read(1)
            with rasterio.open(dataset / split / "image" / path.name) as opened:
                np.testing.assert_array_equal(opened.read(), image[(slice(None), *place)])
            is_labelled = label != 255
            np.testing.assert_array_equal(label[is_labelled], labels[place][is_labelled])
            if split != "train":
                kept[place] += is_labelled
    assert kept.max() == 1  # each pixel counts once in val and test


def test_shares_of_pixels_and_classes_are_those_asked_for(block_dataset: BlockDataset) -> None:
    dataset = block_dataset.dataset
    description = yaml.safe_load((dataset / "dataset.yaml").read_text())
    assert description["classes"] == list(NAMES)
    assert description["split"] == "blocks 70,15,15"
    train = covered(windows(dataset)["train"], (400, 500), 0).sum()
    rest = {
        split: np.array(description["splits"][split]["class_pixels"]) for split in ("val", "test")
    }
    whole = train + sum(pixels.sum() for pixels in rest.values())
    for pixels in rest.values():
        assert pixels.sum() / whole == pytest.approx(0.15, abs=0.03)
        np.testing.assert_allclose(pixels / pixels.sum(), 1 / 3, atol=0.05)


@pytest.mark.long
def test_a_rare_class_is_in_every_split(tmp_path: Path, ortho: Path) -> None:
    squares = [(r, c, 20) for r in range(0, 400, 20) for c in range(0, 500, 20)]
    rare = {(40, 40), (40, 440), (300, 60), (340, 400), (200, 240), (120, 300), (260, 460)}
    names = ["pond" if (r, c) in rare else "grass" for r, c, _ in squares]
    write_polygons(tmp_path / "areas.gpkg", squares, {"class": names})
    description = yaml.safe_load((tiled(tmp_path) / "dataset.yaml").read_text())
    for content in description["splits"].values():
        assert min(content["class_pixels"]) > 0


@pytest.mark.slow
def test_same_bytes_again_and_other_blocks_for_another_seed(block_dataset: BlockDataset) -> None:
    folder = block_dataset.ortho.parent

    def digests(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    assert digests(tiled(folder, out="again")) == digests(block_dataset.dataset)
    assert windows(tiled(folder, "--seed", 3, out="other")) != windows(block_dataset.dataset)


@pytest.mark.slow
@pytest.mark.long
def test_neighbouring_orthophotos_share_one_grid_of_blocks(tmp_path: Path) -> None:
    write_areas(tmp_path, 400, 500)
    # b lies right of a, over its last 60 columns
    write_raster(tmp_path / "a.tif", textured(1, (3, 400, 300)), **utm())
    write_raster(tmp_path / "b.tif", textured(2, (3, 400, 260)), **utm(0, 240))
    arguments = ["--labels", tmp_path / "areas.gpkg", "--split-blocks", "70,15,15"]
    arguments += ["--size", SIZE, "--guard", GUARD, "--out", tmp_path / "d"]
    result = tile(tmp_path / "a.tif", tmp_path / "b.tif", *arguments)
    assert result.exit_code == 0, result.output
    assert "overlap" not in result.stderr
    masks = {}
    for split in ("train", "val", "test"):
        corners = []
        for path in (tmp_path / "d" / split / "image").iterdir():
            row, col = map(int, path.stem.split("_")[-2:])
            corners.append((row, col + 240 * path.name.startswith("b_")))
        masks[split] = covered(corners, (400, 500), 0), covered(corners, (400, 500), GUARD)
    for split, others in {"train": ("val", "test"), "val": ("test",)}.items():
        for other in others:
            assert not (masks[split][1] & masks[other][0]).any()


@pytest.mark.long
def test_collars_and_bare_ground_are_in_no_block(tmp_path: Path) -> None:
    pixels = textured(1, (3, 400, 500))
    pixels[:, :, 300:] = 0
    write_raster(tmp_path / "ortho.tif", pixels, nodata=0, **utm())
    write_areas(tmp_path)
    dataset = tiled(tmp_path)
    for corners in windows(dataset).values():
        assert max(col for _, col in corners) < 300
    description = yaml.safe_load((dataset / "dataset.yaml").read_text())
    val = sum(description["splits"]["val"]["class_pixels"])
    train = covered(windows(dataset)["train"], (400, 500), 0)[:, :300].sum()
    test = sum(description["splits"]["test"]["class_pixels"])
    assert val / (train + val + test) == pytest.approx(0.15, abs=0.04)


def test_the_map_of_the_split_is_in_the_crs_that_is_given(tmp_path: Path) -> None:
    write_ortho(tmp_path, crs=None, transform=utm()["transform"])
    write_areas(tmp_path)
    dataset = tiled(tmp_path, "--crs", "EPSG:32632")
    assert pyogrio.read_info(dataset / "split.gpkg", layer="split")["crs"] == "EPSG:32632"


def test_the_map_of_the_split_shows_what_patches_are_cut_from(block_dataset: BlockDataset) -> None:
    dataset, labels, _ = block_dataset
    meta, _, shapes, columns = pyogrio.raw.read(dataset / "split.gpkg", layer="split")
    assert meta["crs"] == "EPSG:32632"
    table = dict(zip(meta["fields"], columns, strict=True))
    place = ~utm()["transform"]
    corners = windows(dataset)
    for number, shape in enumerate(shapely.from_wkb(shapes)):
        left, top = place @ (shape.bounds[0], shape.bounds[3])
        right, bottom = place @ (shape.bounds[2], shape.bounds[1])
        inside = np.s_[round(top) : round(bottom), round(left) : round(right)]
        patches = covered(corners[table["split"][number]], labels.shape, 0)
        assert patches[inside].all()
        counts = [table[f"px_{name}"][number] for name in NAMES]
        assert counts == np.bincount(labels[inside].ravel(), minlength=3).tolist()
        assert table["pixels"][number] == sum(counts)
    held = polygon_categories(dataset / "split.gpkg", "split")
    assert held is not None
    assert held.attribute == "split"
    assert [category.value for category in held.categories][:3] == ["train", "val", "test"]
    with Image.open(dataset / "split.png") as picture:
        assert picture.width > 900
        assert picture.height > 500


@pytest.mark.long
def test_says_what_it_splits(tmp_path: Path, ortho: Path) -> None:
    squares = [(r, c, 20) for r in range(0, 400, 20) for c in range(0, 500, 20)]
    names = ["silo" if (r, c) == (200, 240) else "grass" for r, c, _ in squares]
    write_polygons(tmp_path / "areas.gpkg", squares, {"class": names})
    options = ["--labels", tmp_path / "areas.gpkg", "--split-blocks", "70,15,15", "--size", "32"]
    options += ["--block-size", "40"]
    result = tile(ortho, *options, "--dry-run", "--out", tmp_path / "d")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "d").exists()
    lines = result.stderr.splitlines()
    assert any("blocks of 32 x 32 px (16 x 16 m): " in line for line in lines)
    assert any("guard band 6 px (3 m)" in line for line in lines)
    assert any("of the labelled pixels train 7" in line for line in lines)
    assert any("every part to have some: silo (1 block)" in line for line in lines)
    # and then it does so
    block_dataset = tile(ortho, *options, "--out", tmp_path / "d")
    assert [line for line in block_dataset.stderr.splitlines() if "block" in line] == [
        line for line in lines if "block" in line
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split-blocks", "70,20,15"], "--split-blocks: 70,20,15 make 105, not 100"),
        (["--split-blocks", "70,30"], "no list of three shares"),
        (["--split-blocks", "0,50,50"], "leaves nothing to train on"),
        (["--split-blocks", "70,15,15", "--val-scenes", "ortho"], "is a split already"),
        (
            ["--split-blocks", "70,15,15", "--block-size", "64", "--size", "96"],
            "don't hold a patch",
        ),
        (["--split-blocks", "70,15,15", "--unlabelled"], "is by labels"),
        (["--guard", "5"], "give --split-blocks 70,15,15 too"),
    ],
)
def test_contradictions_are_refused(
    tmp_path: Path, ortho: Path, options: list[str], message: str
) -> None:
    write_areas(tmp_path, side=100)
    arguments = ["--labels", tmp_path / "areas.gpkg", *options, "--out", tmp_path / "d"]
    assert message in error_of(ortho, *arguments)
    assert not (tmp_path / "d").exists()


@pytest.mark.long
def test_too_few_blocks_name_what_would_do(tmp_path: Path, ortho: Path) -> None:
    write_areas(tmp_path, side=100)
    arguments = ["--labels", tmp_path / "areas.gpkg", "--split-blocks", "70,15,15"]
    arguments += ["--out", tmp_path / "d"]
    line = error_of(ortho, *arguments, "--size", "256")
    assert "labels lie on 1 block of 256 px" in line
    assert "15% (7 or more)" in line
    size = line.partition("--size ")[2].split()[0]
    assert tile(ortho, *arguments, "--size", size, "--dry-run").exit_code == 0
    larger = str(int(size) + 32)
    assert "too few" in error_of(ortho, *arguments, "--size", larger)
    line = error_of(ortho, *arguments, "--size", "32", "--block-size", "200")
    fitting = line.partition("--block-size ")[2].split()[0]
    options = ["--size", "32", "--block-size", fitting, "--dry-run"]
    assert tile(ortho, *arguments, *options).exit_code == 0


def test_a_scheme_with_splits_of_its_own_is_refused(tmp_path: Path, ortho: Path) -> None:
    write_areas(tmp_path, side=100)
    scheme = own_scheme(tmp_path)
    scheme.write_text(scheme.read_text() + "splits:\n  first: {val: [ortho]}\n")
    options = ["--scheme", scheme, "--labels", tmp_path / "areas.gpkg"]
    line = error_of(ortho, *options, "--split-blocks", "70,15,15", "--out", tmp_path / "d")
    assert "beside those of the scheme own (first)" in line


@pytest.mark.long
def test_folders_of_scenes_are_split_by_blocks_too(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        write_raster(tmp_path / "raw/images" / f"{name}.tif", textured(number, (3, 200, 260)))
        labels = np.random.default_rng(number).integers(0, 3, (200, 260)).astype(np.uint8)
        write_raster(tmp_path / "raw/labels" / f"{name}.tif", labels)
    options = hrrsi.TileOptions(
        size=32, guard=8, split_blocks=(60, 20, 20), label_format="indices", workers=1
    )
    plan = tiling_plan(tmp_path / "raw", own_scheme(tmp_path), options)
    assert plan.blocks is not None
    assert {block.scene for block in plan.blocks.blocks} == {"a", "b"}
    assert set(plan.patches) == {"train", "val", "test"}
    result = hrrsi.tile(tmp_path / "raw", own_scheme(tmp_path), tmp_path / "d", options=options)
    assert not result.overlaps


def test_blocks_are_dealt_out_as_well_as_by_trying_all_ways() -> None:
    random = np.random.default_rng(0)
    counts = random.integers(0, 100, (8, 3))
    shares = (0.5, 0.25, 0.25)

    def distance(parts: list[int]) -> float:
        held = np.array([counts[np.array(parts) == part].sum(axis=0) for part in range(3)])
        of_pixels = held.sum(axis=1) / counts.sum() - np.array(shares)
        of_labels = held / counts.sum(axis=0) - np.array(shares)[:, None]
        return float((of_pixels**2).sum() + (of_labels**2).sum(axis=0).mean())

    best = min(distance([number // 3**block % 3 for block in range(8)]) for number in range(3**8))
    dealt = [("train", "val", "test").index(part) for part in dealt_parts(counts, shares, 0)]
    assert distance(dealt) <= 2 * best + 0.002
    assert Counter(dealt)[0] >= 3


def test_missing_data_is_told_once_of_an_orthophoto(tmp_path: Path) -> None:
    ortho, labels = write_ortho(tmp_path), tmp_path / "areas.gpkg"
    write_areas(tmp_path)
    with rasterio.open(ortho, "r+") as dataset:
        black = np.zeros((dataset.count, dataset.height, 100), dtype=dataset.dtypes[0])
        dataset.write(black, window=rasterio.windows.Window(0, 0, 100, dataset.height))
    split = ("--split-blocks", "70,15,15", "--size", 32)
    result = tile(ortho, "--labels", labels, *split, "--out", tmp_path / "d")
    assert result.exit_code == 0, result.output
    (line,) = (line for line in result.stderr.splitlines() if "--nodata" in line)
    assert "of the pixels of ortho hold 0 in all bands" in line
    assert "scenes in all" not in line
