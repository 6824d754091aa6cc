"""`hrrsi tile --labels FILE` without a scheme: the file's classes make one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from samples.one_ortho import error_of, tile, write_ortho, write_polygons
from samples.raw_layouts import textured, utm, write_raster

from hrrsi.class_styles import add_default_style, polygon_style
from hrrsi.classes import chosen_colours
from hrrsi.labels.scheme import load_scheme

SQUARES = [(0, 0, 40), (40, 0, 40), (0, 50, 60), (60, 60, 30)]


@pytest.fixture
def ortho(tmp_path: Path) -> Path:
    return write_ortho(tmp_path, 96, 128)


def described(ortho: Path, labels: Path, *options: object) -> dict[str, Any]:
    out = ortho.parent / "d"
    arguments = ["--labels", labels, "--size", 64, *options, "--out", out, "--overwrite"]
    result = tile(ortho, *arguments)
    assert result.exit_code == 0, result.output
    return {
        **yaml.safe_load((out / "dataset.yaml").read_text()),
        "said": result.stderr.splitlines(),
    }


def label_of(dataset: Path, shape: tuple[int, int] = (96, 128)) -> np.ndarray:
    whole = np.full(shape, 254, dtype=np.uint8)
    for path in (dataset / "train" / "label").iterdir():
        row, col = map(int, path.stem.split("_")[-2:])
        with rasterio.open(path) as patch:
            label = patch.read(1)
        whole[row : row + 64, col : col + 64] = label[: shape[0] - row, : shape[1] - col]
    return whole


def test_names_that_speak_for_themselves_get_what_people_expect(
    tmp_path: Path, ortho: Path
) -> None:
    names = ["Water", "low vegetation", "Buildings", "water "]
    labels = write_polygons(tmp_path / "areas.gpkg", SQUARES, {"class": names})
    description = described(ortho, labels)
    assert description["classes"] == ["Buildings", "low vegetation", "Water"]
    red, green, blue = (dict(zip("rgb", c, strict=True)) for c in description["colours"])
    assert red["r"] > red["g"] + red["b"]
    assert green["g"] > green["b"]
    assert green["g"] > green["r"]
    assert blue["b"] > blue["g"] > blue["r"]
    assert any(
        "everything trains" in line and "--split-blocks" in line for line in description["said"]
    )
    assert any("Water (38,115,200)" in line for line in description["said"])
    label = label_of(tmp_path / "d")
    assert (label[:40, :40] == 2).all()
    assert (label[40:80, :40] == 1).all()
    assert (label[60:90, 60:90] == 2).all()
    assert (label[91:, :] == 255).all()


def test_the_scheme_can_be_edited_and_used_again(tmp_path: Path, ortho: Path) -> None:
    values: list[Any] = [1, 2, 1, 7]
    labels = write_polygons(tmp_path / "areas.gpkg", SQUARES, {"kind": values, "id": [1, 2, 3, 4]})
    first = described(ortho, labels, "--attribute", "kind", "--background", "rest")
    assert first["classes"] == ["class 1", "class 2", "class 7", "rest"]
    scheme = tmp_path / "mine.yaml"
    text = (tmp_path / "d" / "scheme.yaml").read_text().replace("class 7", "silo")
    scheme.write_text(text)
    again = described(ortho, labels, "--scheme", scheme)
    assert again["classes"] == ["class 1", "class 2", "silo", "rest"]
    assert again["splits"] == first["splits"]
    assert not (tmp_path / "d" / "scheme.yaml").exists()


def test_codes_from_1_leave_room_for_a_background(tmp_path: Path, ortho: Path) -> None:
    labels = write_polygons(tmp_path / "areas.gpkg", SQUARES, {"kind": [1, 2, 1, 3]})
    about = described(ortho, labels, "--attribute", "kind", "--background", "rest")
    assert about["classes"] == ["class 1", "class 2", "class 3", "rest"]
    label = label_of(tmp_path / "d")
    assert (label[:40, :40] == 0).all()
    assert (label[91:, :] == 3).all()


@pytest.mark.parametrize("stored", [True, False])
def test_colours_and_names_of_a_qgis_style_count(tmp_path: Path, ortho: Path, stored: bool) -> None:
    labels = write_polygons(
        tmp_path / "areas.gpkg", SQUARES, {"kind": [3, 1, 3, 2], "id": [1, 2, 3, 4]}
    )
    style = polygon_style(["3", "1"], [(10, 20, 30), (40, 50, 60)], "kind")
    style = style.replace('value="3" label="3"', 'value="3" label="Moor"')
    if stored:
        add_default_style(labels, "areas", "geom", style)
    else:
        labels.with_suffix(".qml").write_text(style)
    description = described(ortho, labels)
    assert description["classes"] == ["Moor", "1", "class 2"]
    assert description["colours"][:2] == [[10, 20, 30], [40, 50, 60]]
    label = label_of(tmp_path / "d")
    assert label[5, 5] == 0
    assert label[50, 5] == 1
    assert label[70, 70] == 2


def test_polygons_without_a_value_are_ignored_and_told_of(tmp_path: Path, ortho: Path) -> None:
    labels = write_polygons(tmp_path / "areas.gpkg", SQUARES, {"class": ["a", None, "b", ""]})
    description = described(ortho, labels)
    assert description["classes"] == ["a", "b"]
    assert any("2 polygons" in line and "ignored" in line for line in description["said"])
    assert (label_of(tmp_path / "d")[41:80, :40] == 255).all()
    again = described(ortho, labels, "--scheme", _copied(tmp_path / "d" / "scheme.yaml"))
    assert again["classes"] == ["a", "b"]


def _copied(path: Path) -> Path:
    copy = path.parent.parent / "copy.yaml"
    copy.write_bytes(path.read_bytes())
    return copy


def test_values_that_lie_elsewhere_are_no_classes(tmp_path: Path, ortho: Path) -> None:
    squares = [*SQUARES, (5000, 5000, 10)]
    labels = write_polygons(tmp_path / "areas.gpkg", squares, {"class": [*"abab", "far"]})
    description = described(ortho, labels)
    assert description["classes"] == ["a", "b"]
    assert any("lie on no image" in line and "far" in line for line in description["said"])


@pytest.mark.parametrize("kind", ["palette", "plain", "float", "names", "colours", "mask"])
def test_rasters_of_labels_make_schemes_too(tmp_path: Path, ortho: Path, kind: str) -> None:
    values = np.zeros((96, 128), dtype=np.uint8)
    values[10:40, 10:60], values[50:90, 70:120] = 2, 5
    if kind == "mask":
        values[values > 0] = 255
    path = tmp_path / "areas.tif"
    pixels = values.astype("float32") if kind == "float" else values
    if kind == "colours":
        table = np.zeros((256, 3), dtype=np.uint8)
        table[2], table[5] = (200, 0, 0), (0, 0, 200)
        pixels = table[values].transpose(2, 0, 1)
    write_raster(path, pixels, **utm())
    if kind == "palette":
        with rasterio.open(path, "r+") as opened:
            opened.write_colormap(1, {0: (1, 2, 3, 255), 2: (200, 0, 0, 255), 5: (0, 0, 200, 255)})
    if kind == "names":
        names = "".join(f"<Category>{n}</Category>" for n in ("bare", "", "moor", "", "", "fen"))
        path.with_name("areas.tif.aux.xml").write_text(
            f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames>'
            "</PAMRasterBand></PAMDataset>"
        )
    description = described(ortho, path)
    expected = {
        "names": ["bare", "moor", "fen"],
        "colours": ["colour 0,0,0", "colour 0,0,200", "colour 200,0,0"],
        "mask": ["background", "areas"],
    }.get(kind, ["class 0", "class 2", "class 5"])
    assert description["classes"] == expected
    if kind == "palette":
        assert description["colours"] == [[1, 2, 3], [200, 0, 0], [0, 0, 200]]
    order = {"colours": [0, 5, 2], "mask": [0, 255]}.get(kind, [0, 2, 5])
    wanted = (
        np.searchsorted(order, values)
        if kind != "colours"
        else np.select([values == 5, values == 2], [1, 2], 0)
    )
    np.testing.assert_array_equal(label_of(tmp_path / "d"), wanted)


def test_several_orthophotos_have_one_file_of_labels(tmp_path: Path, ortho: Path) -> None:
    east = write_raster(tmp_path / "east.tif", textured(2, (3, 96, 128)), **utm(0, 128))
    labels = write_polygons(
        tmp_path / "areas.gpkg", [*SQUARES, (0, 150, 40)], {"class": [*"aaba", "c"]}
    )
    out = tmp_path / "d"
    options = ["--labels", labels, "--val-scenes", "east", "--size", "64", "--out", out]
    result = tile(ortho, east, *options)
    assert result.exit_code == 0, result.output
    description = yaml.safe_load((out / "dataset.yaml").read_text())
    assert description["classes"] == ["a", "b", "c"]
    assert description["splits"]["val"]["scenes"] == ["east"]
    # a folder of them does as well
    (tmp_path / "flights").mkdir()
    for path in (ortho, east):
        path.rename(tmp_path / "flights" / path.name)
    result = tile(tmp_path / "flights", *options, "--overwrite")
    assert result.exit_code == 0, result.output
    assert yaml.safe_load((out / "dataset.yaml").read_text()) == description


@pytest.mark.parametrize(
    ("attributes", "options", "message"),
    [
        (
            {"class": [*"aabb"], "id": [1, 2, 3, 4]},
            ["--attribute", "klass"],
            "class (2 values: a, b), id (4",
        ),
        ({"kind": [*"aabb"], "id": [1, 2, 3, 4]}, [], "which one of"),
        ({"class": [0.5, 1.5, 2.5, 3.5]}, [], "numbers with decimals (0.5, 1.5, 2.5"),
        ({"class": [None, None, None, ""]}, [], "no polygon with a value of 'class'"),
    ],
)
def test_attributes_that_give_no_classes(
    tmp_path: Path, ortho: Path, attributes: dict[str, list[Any]], options: list[str], message: str
) -> None:
    labels = write_polygons(tmp_path / "areas.gpkg", SQUARES, attributes)
    line = error_of(ortho, "--labels", labels, *options, "--out", tmp_path / "d")
    assert message in line
    assert not (tmp_path / "d").exists()


def test_identifiers_are_no_classes(tmp_path: Path, ortho: Path) -> None:
    squares = [(r, c, 4) for r in range(0, 96, 8) for c in range(0, 128, 8)]
    columns = {"class": list(range(len(squares))), "kind": ["a", "b"] * (len(squares) // 2)}
    labels = write_polygons(tmp_path / "areas.gpkg", squares, columns)
    line = error_of(ortho, "--labels", labels, "--out", tmp_path / "d")
    assert "'class' has 192 values" in line
    assert "kind (2 values: a, b)" in line


def test_labels_that_lie_elsewhere(tmp_path: Path, ortho: Path) -> None:
    labels = write_polygons(tmp_path / "areas.gpkg", [(9000, 0, 40)], {"class": ["a"]})
    assert "no polygon lies on" in error_of(ortho, "--labels", labels, "--out", tmp_path / "d")
    bare = write_raster(tmp_path / "bare.tif", textured(1, (3, 96, 128)))
    assert "no CRS" in error_of(bare, "--labels", labels, "--out", tmp_path / "d")
    line = error_of(ortho, "--labels", bare, "--attribute", "kind", "--out", tmp_path / "d")
    assert "--attribute: is of polygons" in line
    photograph = write_raster(tmp_path / "photo.tif", textured(4, (3, 96, 128)), **utm())
    line = error_of(ortho, "--labels", photograph, "--out", tmp_path / "d")
    assert "more than 100 colours" in line


def test_neither_scheme_nor_labels(tmp_path: Path, ortho: Path) -> None:
    assert "--scheme: is missing" in error_of(ortho, "--out", tmp_path / "d")
    labels = write_polygons(tmp_path / "areas.gpkg", SQUARES, {"class": [*"aabb"]})
    line = error_of(labels, "--labels", labels, "--out", tmp_path / "d")
    assert "is a vector file, not imagery" in line


def test_colours_that_nobody_expects_are_far_from_each_other() -> None:
    names = [f"class {number}" for number in range(20)]
    colours = np.array(chosen_colours(names, [None] * 20), dtype=int)
    apart = np.abs(colours[:, None] - colours).sum(axis=2) + 1000 * np.eye(20, dtype=int)
    assert apart.min() >= 51
    assert chosen_colours(["river", "a", "b"], [None, (38, 115, 200), (38, 115, 200)])[1] == (
        38,
        115,
        200,
    )
    assert len(set(chosen_colours(["water", "lake", "sea"], [None] * 3))) == 3


def test_a_scheme_made_of_a_file_is_a_scheme(tmp_path: Path, ortho: Path) -> None:
    labels = write_polygons(tmp_path / "areas.gpkg", SQUARES, {"class": [*"abca"]})
    described(ortho, labels)
    scheme = load_scheme(tmp_path / "d" / "scheme.yaml")
    assert scheme.class_names == ["a", "b", "c"]
    assert scheme.label_format == "polygons"


@pytest.mark.parametrize("split", [(), ("--split-blocks", "50,50,0", "--guard", 0)])
def test_an_orthophoto_whose_crs_is_named_has_the_same_labels(
    tmp_path: Path, ortho: Path, split: tuple[object, ...]
) -> None:
    labels = write_polygons(tmp_path / "areas.gpkg", SQUARES, {"class": list("abca")})
    options = ("--labels", labels, "--size", 32, *split)
    assert tile(ortho, *options, "--out", tmp_path / "placed").exit_code == 0
    with rasterio.open(ortho) as dataset:
        pixels, place = dataset.read(), dataset.transform
    bare = tmp_path / "bare"
    bare.mkdir()
    write_raster(bare / "ortho.png", pixels)
    x, y = place @ (0.5, 0.5)
    (bare / "ortho.pgw").write_text(f"{place.a}\n0\n0\n{place.e}\n{x}\n{y}\n")
    picture = bare / "ortho.png"
    line = error_of(picture, *options, "--out", tmp_path / "refused")
    assert "ortho.png: has no CRS, but" in line
    assert "name it with --crs" in line
    result = tile(picture, *options, "--crs", "EPSG:32632", "--out", tmp_path / "named")
    assert result.exit_code == 0, result.output
    label_files = sorted((tmp_path / "named").rglob("label/*.png"))
    assert label_files
    for path in label_files:
        expected = tmp_path / "placed" / path.relative_to(tmp_path / "named")
        assert path.read_bytes() == expected.read_bytes()


def test_masks_are_named_after_their_files(tmp_path: Path, ortho: Path) -> None:
    """Several of them too, each over the background of the others."""
    buildings, roads = np.zeros((2, 96, 128), dtype=np.uint8)
    buildings[10:50, 10:60], roads[40:60, 30:100] = 1, 1
    write_raster(tmp_path / "buildings.tif", buildings, **utm())
    write_raster(tmp_path / "roads.tif", roads.astype(np.uint16) * 65535, **utm())
    black = np.repeat((buildings * np.uint8(255))[None], 3, axis=0)
    write_raster(tmp_path / "sheds.png", black)
    flags = ["--size", 32, "--out", tmp_path / "d", "--overwrite", "--background", "land"]
    for files, expected in (
        (("buildings.tif",), {"land": 96 * 128 - 2000, "buildings": 2000}),
        (("sheds.png",), {"land": 96 * 128 - 2000, "sheds": 2000}),
        (
            ("buildings.tif", "roads.tif"),
            {"land": 96 * 128 - 2000 - 1400 + 300, "buildings": 1700, "roads": 1400},
        ),
    ):
        labels = [part for file in files for part in ("--labels", tmp_path / file)]
        result = tile(ortho, *labels, *flags)
        assert result.exit_code == 0, result.output
        assert "that is named after its file" in " ".join(result.output.split())
        made = yaml.safe_load((tmp_path / "d/dataset.yaml").read_text())
        pixels = dict(zip(made["classes"], made["splits"]["train"]["class_pixels"], strict=True))
        assert pixels == expected


def test_a_mask_that_was_compressed_lossily_is_refused(tmp_path: Path, ortho: Path) -> None:
    mask = np.zeros((96, 128), dtype=np.uint8)
    mask[10:50, 10:60] = 255
    mask[11, 11:14], mask[60, 60:63] = (254, 250, 247), (3, 1, 5)
    write_raster(tmp_path / "areas.tif", mask, **utm())
    line = error_of(ortho, "--labels", tmp_path / "areas.tif", "--out", tmp_path / "d")
    assert "holds 0, 255 and values beside them (247, 250, 254), as a mask that was lossily" in line
