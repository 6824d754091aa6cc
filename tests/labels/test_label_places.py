"""Where labels lie: georeference decides, in datasets and in evaluations of scenes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.warp import Resampling, reproject
from samples.made_weights import scene_pixels
from samples.predicted_scenes import save_scene
from typer.testing import CliRunner

from hrrsi.cli import app
from hrrsi.labels.label_reading import mask_scheme, open_labels
from hrrsi.labels.scheme import Scheme, SchemeClass
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.windows import Window
from hrrsi.tiling.options import TileOptions
from hrrsi.tiling.tile import tile

SIDE = 96
PLACE = {"crs": "EPSG:32640", "transform": from_origin(500000, 2790000, 0.3, 0.3)}
PIXELS = np.moveaxis(scene_pixels(), -1, 0)[:, :SIDE, :SIDE]
TRUTH = np.random.default_rng(0).integers(0, 2, (1, SIDE, SIDE)).astype(np.uint8)
LOCAL = 'LOCAL_CS["site",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
SCHEME = Scheme.model_validate(
    {
        "name": "s",
        "label_format": "indices",
        "classes": [{"name": n, "colour": (i, i, i)} for i, n in enumerate("ab")],
    }
)


def read(image: Path, label: Path) -> tuple[np.ndarray, str | None]:
    with (
        open_scene(image) as scene,
        open_labels(str(label), scene, SCHEME, name="a") as labels,
    ):
        whole = labels.read(Window(0, 0, SIDE, SIDE))
        part = labels.read(Window(10, 20, 30, 40))
        np.testing.assert_array_equal(part, whole[10:40, 20:60])
        return whole, labels.placement


def saved(folder: Path, truth: np.ndarray = TRUTH, **place: Any) -> tuple[Path, Path]:
    image = save_scene(folder / "raw/images/a.tif", PIXELS, **PLACE)
    return image, save_scene(folder / "raw/labels/a.tif", truth, **{**PLACE, **place})


@pytest.mark.parametrize(
    ("east", "south", "words"),
    [
        (1, 0, "lies 1 px east of its image: laid over it by nearest pixel"),
        (-3, 5, "lies 3 px west and 5 px south of its image: laid over it by nearest pixel"),
    ],
)
def test_a_label_beside_its_image_is_laid_where_it_says(
    tmp_path: Path, east: int, south: int, words: str
) -> None:
    place = from_origin(500000 + 0.3 * east, 2790000 - 0.3 * south, 0.3, 0.3)
    labels, note = read(*saved(tmp_path, transform=place))
    expected = np.full((SIDE, SIDE), 255, np.uint8)
    rows = slice(max(0, south), SIDE + min(0, south))
    columns = slice(max(0, east), SIDE + min(0, east))
    expected[rows, columns] = TRUTH[
        0,
        max(0, -south) : SIDE - max(0, south),
        max(0, -east) : SIDE - max(0, east),
    ]
    np.testing.assert_array_equal(labels, expected)
    assert note is not None
    assert note.startswith(words)


def test_a_label_of_another_resolution_and_extent_is_laid_over_its_image(tmp_path: Path) -> None:
    coarse = np.random.default_rng(1).integers(0, 2, (1, 60, 60)).astype(np.uint8)
    place = from_origin(500000 - 0.9, 2790000 + 0.9, 0.6, 0.6)
    labels, note = read(*saved(tmp_path, coarse, transform=place))
    places = (np.arange(SIDE) + 0.5) * 0.3 + 0.9
    index = (places / 0.6).astype(int)
    np.testing.assert_array_equal(labels, coarse[0][np.ix_(index, index)])
    assert note == "has pixels 2 times as wide as its image: laid over it by nearest pixel"


def test_a_label_in_another_zone_is_laid_over_its_image(tmp_path: Path) -> None:
    with rasterio.open(saved(tmp_path)[0]) as dataset:
        bounds = rasterio.warp.transform_bounds(dataset.crs, "EPSG:32639", *dataset.bounds)
    place = from_origin(bounds[0] - 3, bounds[3] + 3, 0.1, 0.1)
    blocks = np.kron(np.arange(64).reshape(8, 8) % 3 == 0, np.ones((60, 60))).astype(np.uint8)
    image, label = saved(tmp_path, blocks[None], crs="EPSG:32639", transform=place)
    labels, note = read(image, label)
    expected = np.full((SIDE, SIDE), 255, np.uint8)
    reproject(
        rasterio.band(rasterio.open(label), 1),
        expected,
        dst_transform=PLACE["transform"],
        dst_crs=PLACE["crs"],
        dst_nodata=255,
        resampling=Resampling.nearest,
    )
    assert (labels == expected).mean() > 0.99  # GDAL approximates places
    assert note is not None
    assert note.startswith("is in EPSG:32639 where its image is in EPSG:32640: laid over it")


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ({"transform": from_origin(500100, 2790000, 0.3, 0.3)}, "does not lie on its image"),
        ({"crs": "EPSG:32639"}, "does not lie on its image"),
        (
            {"transform": from_origin(500020, 2790000, 0.3, 0.3)},
            "the label lies 66.7 px east of its image, and covers 30% of it; check the CRS",
        ),
    ],
)
def test_a_label_of_another_place_is_refused(tmp_path: Path, place: Any, line: str) -> None:
    image, label = saved(tmp_path, **place)
    scheme = tmp_path / "s.yaml"
    scheme.write_text(
        "{name: s, label_format: indices, classes: [{name: a, colour: [0, 0, 0]}, "
        "{name: b, colour: [9, 9, 9]}]}"
    )
    flags = ["--scheme", str(scheme), "--size", "32", "--workers", "1", "-q"]
    out = ["--out", str(tmp_path / "out"), "--val-scenes", "b"]
    save_scene(tmp_path / "raw/images/b.tif", PIXELS)
    save_scene(tmp_path / "raw/labels/b.tif", TRUTH)
    result = CliRunner().invoke(app, ["tile", str(image.parents[1]), *flags, *out])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {label}: {line}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("crs", "reason"),
    [(CRS.from_wkt(LOCAL), "a CRS without place on the Earth"), (None, "no CRS")],
)
def test_a_label_without_place_on_the_earth_lies_where_its_transform_says(
    tmp_path: Path, crs: Any, reason: str
) -> None:
    labels, note = read(*saved(tmp_path, crs=crs))
    np.testing.assert_array_equal(labels, TRUTH[0])
    assert note == (
        f"has its image's transform and size, and counts as lying on it (its: {reason})"
    )


def test_masks_of_0_and_255_are_told_of(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    mask = np.where(TRUTH, 255, 0).astype(np.uint8)
    mask[0, :4] = 1
    for name in "ab":
        save_scene(root / "images" / f"{name}.tif", PIXELS)
        save_scene(root / "labels" / f"{name}.tif", mask)
    classes = "[{name: a, colour: [0, 0, 0]}, {name: b, colour: [9, 9, 9]INDEX}]"
    for index, is_told in (("", True), (", index: 255", False)):
        scheme = tmp_path / "s.yaml"
        text = f"{{name: s, label_format: indices, classes: {classes}}}"
        scheme.write_text(text.replace("INDEX", index))
        flags = ["--scheme", str(scheme), "--size", "32", "--workers", "1", "-q", "--overwrite"]
        more = ["--out", str(tmp_path / "out"), "--val-scenes", "b", "--unknown", "ignore"]
        result = CliRunner().invoke(app, ["tile", str(root), *flags, *more])
        assert result.exit_code == 0, result.output
        assert ("give that `index: 255` in the scheme" in result.stderr) == is_told


def masks(folder: Path, *extra: int) -> tuple[Path, np.ndarray]:
    """Two scenes with masks of 0 and 255, and further values in a corner of the second."""
    root = folder / "raw"
    mask = TRUTH * np.uint8(255)
    for name in "ab":
        save_scene(root / "images" / f"{name}.tif", PIXELS)
        if name == "b" and extra:
            mask[0, SIDE // 2, : len(extra)] = extra
        save_scene(root / "labels" / f"{name}.tif", mask)
    return root, mask[0]


@pytest.mark.parametrize("index", [None, 255])
def test_masks_of_0_and_255_alone_are_two_classes(tmp_path: Path, index: int | None) -> None:
    root, _ = masks(tmp_path)
    classes = [SchemeClass(name=n, colour=(i, 0, 0)) for i, n in enumerate("xy")]
    classes[1] = classes[1].model_copy(update={"index": index})
    scheme = Scheme(name="s", classes=tuple(classes), label_format="indices")
    messages: list[str] = []
    options = TileOptions(size=32, val_scenes=["b"], workers=1)
    result = tile(root, scheme, tmp_path / "out", options=options, on_note=messages.append)
    notes = [note for note in result.notes if "255" in note]
    assert notes == [note for note in messages if "255" in note]
    assert [note.partition(";")[0] for note in notes] == (
        ["note: the labels hold 0 and 255 alone, so 255 counts as y"] if index is None else []
    )
    train = result.description.splits["train"]
    assert train.class_pixels == [int((TRUTH == 0).sum()), int((TRUTH == 1).sum())]


def test_masks_that_may_mean_something_else_are_told_of_before_they_are_cut(tmp_path: Path) -> None:
    """Of three classes, with an ignored index of 255, and with a 1 among them."""
    root, _ = masks(tmp_path)
    classes = tuple(SchemeClass(name=n, colour=(i, 0, 0)) for i, n in enumerate("xyz"))
    scheme = Scheme(name="s", classes=classes, label_format="indices")
    options = TileOptions(size=32, val_scenes=["b"], workers=1)
    result = tile(root, scheme, tmp_path / "out", options=options)
    (early,) = [note for note in result.notes if "index: 255" in note]
    assert f"255 ({(TRUTH == 1).mean():.0%}) is ignored" in early
    ignored = {"name": "unsure", "colour": (9, 9, 9), "index": 255}
    scheme = Scheme.model_validate(
        {**SCHEME.model_dump(), "ignored": [ignored], "images": scheme.images}
    )
    result = tile(root, scheme, tmp_path / "out", options=options, overwrite=True)
    assert result.description.splits["train"].class_pixels[1] == 0
    assert not [note for note in result.notes if "index: 255" in note]
    masks(tmp_path, 1)
    (tmp_path / "raw/labels/a.tif").unlink()
    save_scene(tmp_path / "raw/labels/a.tif", TRUTH * np.uint8(255))
    result = tile(root, SCHEME, tmp_path / "out", options=options, overwrite=True)
    (early,) = [note for note in result.notes if "255" in note]
    assert early.startswith("warning: 1 of the 2 labels looked at hold 0 and 255 alone, such as ")
    assert early.endswith("; write masks with the values of the others")


def test_masks_without_the_class_don_t_hide_that_others_have_it(tmp_path: Path) -> None:
    empty = save_scene(tmp_path / "empty.tif", np.zeros_like(TRUTH))
    copies = [tmp_path / f"{number}.tif" for number in range(22)]
    for copy in copies:
        copy.symlink_to(empty)
    mask = save_scene(tmp_path / "mask.tif", TRUTH * np.uint8(255))
    for files in ([*copies, mask], [mask, *copies]):
        scheme, line = mask_scheme(SCHEME, list(map(str, files)))
        assert scheme.classes[1].index == 255
        assert line is not None
        assert "255 counts as b" in line


def test_a_mask_is_compared_with_a_map_of_indices_as_if_it_were_one(tmp_path: Path) -> None:
    truth = save_scene(tmp_path / "truth.tif", TRUTH, **PLACE)
    maps = {}
    for name, share in (("first", 10), ("second", 30)):
        values = TRUTH.copy()
        values[0, :share] = 1 - values[0, :share]
        maps[name] = save_scene(tmp_path / f"{name}.tif", values, **PLACE)
        maps[f"{name}-255"] = save_scene(tmp_path / f"{name}-255.tif", values * 255, **PLACE)
    scheme = tmp_path / "s.yaml"
    scheme.write_text(
        "{name: s, label_format: indices, classes: [{name: a, colour: [0, 0, 0]}, "
        "{name: b, colour: [9, 9, 9]}]}"
    )

    def scores(first: str, second: str) -> list[float]:
        flags = ["--label", str(truth), "--scheme", str(scheme), "-q", "--format", "json"]
        compared = [str(maps[first]), str(maps[second])]
        result = CliRunner().invoke(app, ["eval", *compared, *flags])
        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        return [
            _value(part, name)
            for part in (report["first"], report["second"])
            for name in ("OA", "mIoU")
        ]

    expected = scores("first", "second")
    assert expected[0] == pytest.approx(1 - 10 / SIDE)
    assert scores("first-255", "second") == expected
    assert scores("first", "second-255") == expected
    assert scores("first-255", "second-255") == expected


@pytest.mark.long
def test_an_evaluation_takes_masks_as_tile_does(tmp_path: Path) -> None:
    truth, pred = TRUTH * np.uint8(255), TRUTH.copy()
    pred[0, :10] = 1 - pred[0, :10]
    scheme = tmp_path / "s.yaml"
    scheme.write_text(
        "{name: s, label_format: indices, classes: [{name: a, colour: [0, 0, 0]}, "
        "{name: b, colour: [9, 9, 9]}]}"
    )
    right = float((pred == TRUTH).mean())
    for name, label, values in (("ab", truth, pred), ("ba", TRUTH, pred * np.uint8(255))):
        flags = ["--label", str(save_scene(tmp_path / f"{name}.tif", label, **PLACE))]
        flags += ["--pred", str(save_scene(tmp_path / f"{name}_map.tif", values, **PLACE))]
        result = CliRunner().invoke(
            app, ["eval", *flags, "--scheme", str(scheme), "-q", "--format", "json"]
        )
        assert result.exit_code == 0, result.output
        assert "hold 0 and 255 alone, so 255 counts as b" in result.stderr
        scores = json.loads(result.stdout)
        assert abs(_value(scores, "OA") - right) < 1e-6


def _value(document: Any, name: str) -> float:
    """The first number of a name in a JSON document, wherever it stands."""
    if isinstance(document, dict):
        for key, value in document.items():
            if key.casefold() == name.casefold() and isinstance(value, int | float):
                return float(value)
        document = list(document.values())
    if isinstance(document, list):
        for inner in document:
            if (match := _value(inner, name)) == match:
                return match
    return float("nan")


@pytest.mark.long
@pytest.mark.parametrize(("counted", "shift"), [("map", 1), ("label", 1), ("map", 0)])
def test_indices_that_count_from_1_are_refused_before_they_are_scored(
    tmp_path: Path, counted: str, shift: int
) -> None:
    truth = np.random.default_rng(2).choice([0, 1, 2], (1, SIDE, SIDE)).astype(np.uint8)
    by_kind = {"map": truth, "label": truth}
    by_kind[counted] = truth + np.uint8(shift)
    paths = {k: str(save_scene(tmp_path / f"{k}.tif", v, **PLACE)) for k, v in by_kind.items()}
    scheme = tmp_path / "s.yaml"
    names = ", ".join(f"{{name: c{n}, colour: [{n}, 0, 0]}}" for n in range(4))
    scheme.write_text(f"{{name: s, label_format: indices, classes: [{names}]}}")
    flags = ["--pred", paths["map"], "--label", paths["label"], "--scheme", str(scheme), "-q"]
    flags += ["--format", "json"]
    result = CliRunner().invoke(app, ["eval", *flags])
    if shift:
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"error: {paths[counted]}: the {counted} holds no pixel of the fir")
        assert "100% of those looked at hold the class after that" in line
        flags += ["--first-index", "1" if counted == "map" else "0"]
        result = CliRunner().invoke(app, ["eval", *flags])
    assert result.exit_code == 0, result.output
    expected = 0.0 if counted == "label" else 1.0
    assert _value(json.loads(result.stdout), "OA") == pytest.approx(expected)


@pytest.mark.long
def test_an_index_after_the_last_names_the_option(tmp_path: Path) -> None:
    """And one that a scheme or a palette numbers itself doesn't take it."""
    label = save_scene(tmp_path / "label.tif", TRUTH, **PLACE)
    path = save_scene(tmp_path / "map.tif", TRUTH + np.uint8(1), **PLACE)
    scheme = tmp_path / "s.yaml"
    scheme.write_text(
        "{name: s, label_format: indices, classes: [{name: a, colour: [0, 0, 0]}, "
        "{name: b, colour: [9, 9, 9]}]}"
    )
    flags = ["--label", str(label), "--scheme", str(scheme), "-q"]
    result = CliRunner().invoke(app, ["eval", "--pred", str(path), *flags])
    assert result.exit_code == 1
    assert "do they start at 1? Classes do at 0 here; else give --first-index 1" in result.stderr
    result = CliRunner().invoke(app, ["eval", "--pred", str(path), *flags, "--first-index", "1"])
    assert result.exit_code == 0, result.output
    colours = save_scene(tmp_path / "c.tif", np.repeat(TRUTH * np.uint8(9), 3, 0), **PLACE)
    result = CliRunner().invoke(app, ["eval", "--pred", str(colours), *flags, "--first-index", "1"])
    assert result.exit_code == 1
    assert "so that --first-index has no meaning" in result.stderr


def test_a_label_without_any_place_is_its_images_without_a_word(tmp_path: Path) -> None:
    image = save_scene(tmp_path / "a.tif", PIXELS, **PLACE)
    labels, note = read(image, save_scene(tmp_path / "a.png", TRUTH, driver="PNG"))
    np.testing.assert_array_equal(labels, TRUTH[0])
    assert note is None
    assert read(*saved(tmp_path))[1] is None


def polygon_labels(folder: Path, suffix: str, scenes: str = "ab") -> tuple[Path, list[str]]:
    """Write scenes 1 km apart, and overlapping polygons on the first ones; return flags too."""
    for number, name in enumerate("abc"):
        place = from_origin(500_000 + 1000 * number, 2_790_000, 0.3, 0.3)
        crs = "EPSG:32640"
        save_scene(folder / "raw/images" / f"{name}.tif", PIXELS, crs=crs, transform=place)
    corners = np.random.default_rng(0).uniform(0, 12, (20, 2))
    boxes = [
        shapely.box(500_000 + 1000 * n + x, 2_789_982 + y, 500_005 + 1000 * n + x, 2_789_987 + y)
        for n in range(len(scenes))
        for x, y in corners
    ]
    path = folder / f"areas{suffix}"
    pyogrio.raw.write(
        path,
        np.array(shapely.to_wkb(boxes), dtype=object),
        [np.arange(len(boxes)) % 2],
        ["class"],
        geometry_type="Polygon",
        crs="EPSG:32640",
    )
    scheme = folder / "s.yaml"
    classes = "[{name: a, colour: [0, 0, 0]}, {name: b, colour: [9, 9, 9]}]"
    scheme.write_text(f"{{name: s, label_format: polygons, classes: {classes}OUTSIDE}}")
    more = ["--size", "32", "--workers", "1", "--overwrite", "--out", str(folder / "out")]
    flags = ["tile", str(folder / "raw"), "--scheme", str(scheme), "--labels", str(path)]
    return scheme, [*flags, *more, "--val-scenes", "b"]


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp", ".fgb"])
def test_polygons_of_every_format_are_burned_in_their_order_or_told_of(
    tmp_path: Path, suffix: str
) -> None:
    scheme, flags = polygon_labels(tmp_path, suffix, "abc")
    scheme.write_text(scheme.read_text().replace("OUTSIDE", ""))
    result = CliRunner().invoke(app, flags)
    assert result.exit_code == 0, result.output
    is_told = "FlatGeobuf with a spatial index doesn't keep which one came last" in result.stderr
    assert is_told == (suffix == ".fgb")
    corners = np.random.default_rng(0).uniform(0, 12, (20, 2))
    y, x = 18 - 0.3 * (np.mgrid[:SIDE, :SIDE][0] + 0.5), 0.3 * (np.mgrid[:SIDE, :SIDE][1] + 0.5)
    truth = np.full((SIDE, SIDE), 255)
    for number, (left, low) in enumerate(corners):
        truth[(x > left) & (x < left + 5) & (y > low) & (y < low + 5)] = number % 2
    labels = np.full((SIDE, SIDE), 255)
    for path in (tmp_path / "out/train/label").glob("a_*.png"):
        row, column = (int(part) for part in path.stem.split("_")[1:])
        with rasterio.open(path) as dataset:
            labels[row : row + 32, column : column + 32] = dataset.read(1)
    assert (labels != truth).mean() < 0.01 or suffix == ".fgb"
    np.testing.assert_array_equal(labels == 255, truth == 255)


@pytest.mark.parametrize("outside", [None, "b"])
def test_scenes_without_polygons_are_no_end(tmp_path: Path, outside: str | None) -> None:
    scheme, flags = polygon_labels(tmp_path, ".gpkg")
    text = scheme.read_text()
    scheme.write_text(text.replace("OUTSIDE", f", outside: {outside}" if outside else ""))
    result = CliRunner().invoke(app, flags)
    assert result.exit_code == 0, result.output
    counts = f"counts as {outside}" if outside else "is ignored"
    assert f"the label of c has no polygon there: all of the scene {counts}" in result.stderr
    patches = list((tmp_path / "out/train/label").glob("c_*.png"))
    assert len(patches) == (9 if outside else 0)
    for path in patches:
        with rasterio.open(path) as dataset:
            assert (dataset.read(1) == 1).all()


@pytest.mark.parametrize("outside", [None, "b"])
def test_polygons_on_no_scene_are_refused(tmp_path: Path, outside: str | None) -> None:
    scheme, flags = polygon_labels(tmp_path, ".gpkg", "")
    text = scheme.read_text()
    scheme.write_text(text.replace("OUTSIDE", f", outside: {outside}" if outside else ""))
    result = CliRunner().invoke(app, flags)
    assert result.exit_code == 1
    assert "areas.gpkg: no polygon lies on any of the 3 scenes" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp", ".fgb"])
@pytest.mark.parametrize("name", ["b", "ground"])
def test_what_lies_outside_of_polygons_is_a_class_of_choice(
    tmp_path: Path, suffix: str, name: str
) -> None:
    scheme, flags = polygon_labels(tmp_path, suffix, "abc")
    scheme.write_text(scheme.read_text().replace("OUTSIDE", ""))
    patch_labels = []
    for more in ([], ["--background", name]):
        result = CliRunner().invoke(app, [*flags, "--unknown", "ignore", *more])
        assert result.exit_code == 0, result.output
        with rasterio.open(tmp_path / "out/train/label/a_00032_00032.png") as dataset:
            patch_labels.append(dataset.read(1))
    ignored, classed = patch_labels
    assert (ignored == 255).any()
    assert (ignored != 255).any()
    expected = np.where(ignored == 255, 1 if name == "b" else 2, ignored)
    np.testing.assert_array_equal(classed, expected)
    text = (tmp_path / "out/dataset.yaml").read_text()
    assert ("ground" in text) == (name == "ground")


def test_a_background_needs_polygons_and_a_name(tmp_path: Path) -> None:
    scheme, flags = polygon_labels(tmp_path, ".gpkg")
    scheme.write_text(scheme.read_text().replace("OUTSIDE", ""))
    for more, line in (
        (["--background", "ground", "--label-format", "indices"], "--background: is for polygons"),
        (["--background", " "], "--background: is empty"),
    ):
        result = CliRunner().invoke(app, [*flags, *more])
        assert result.exit_code == 1, result.output
        assert line in result.stderr
        assert result.stderr.count("\n") == 1
