"""What `hrrsi view` serves: tiles, counts and points as rasterio and NumPy have them."""

import re
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest
import rasterio
import rasterio.enums
import rasterio.shutil
import rasterio.vrt
from affine import Affine
from rasterio.warp import transform
from samples.made_weights import save_made_weights
from samples.viewed_maps import (
    CLASSES,
    COLOURS,
    CRS,
    ORIGIN,
    RESOLUTION,
    asked,
    blobs,
    counted,
    described,
    layer_named,
    made_map,
    whole_layer,
    write_scene,
)

import hrrsi
from hrrsi.maps.styles import qml_style
from hrrsi.viewer import layers, pictures, places


def holed(height: int = 300, width: int = 420, seed: int = 0) -> np.ndarray:
    """Return class indices with a corner without data."""
    labels = blobs(height, width, seed)
    labels[:40, :60] = 255
    return labels


def index_scheme(folder: Path) -> Path:
    """Write a scheme whose labels are indices of the classes, in other colours than the map's."""
    path = folder / "four.yaml"
    classes = [f"  - {{name: {n}, colour: [{i}, 9, 9]}}\n" for i, n in enumerate(CLASSES)]
    path.write_text(f"name: four\nlabel_format: indices\nclasses:\n{''.join(classes)}")
    return path


@pytest.mark.long
def test_tiles_of_a_map_are_what_the_file_holds(tmp_path: Path) -> None:
    class_map = made_map(tmp_path, labels=holed(700, 900))
    with hrrsi.view(class_map.path) as viewer, rasterio.open(class_map.path) as file:
        number = layer_named(viewer, "Map")
        assert np.array_equal(whole_layer(viewer, number), class_map.labels)
        assert file.overviews(1)[:2] == [2, 4]
        for level in (1, 2):
            with rasterio.open(class_map.path, overview_level=level - 1) as overview:
                assert np.array_equal(whole_layer(viewer, number, level), overview.read(1))
        tile = asked(viewer, f"tile/0/{number}/0/0/0.png")
        assert tile.getpalette()[: 3 * len(COLOURS)] == [v for colour in COLOURS for v in colour]
        shown = np.asarray(tile.convert("RGBA"))
        assert np.array_equal(shown[..., 3] == 255, class_map.labels[:256, :256] != 255)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_tiles_of_a_strip_are_what_the_file_holds(tmp_path: Path, width: int) -> None:
    class_map = made_map(tmp_path, labels=blobs(1200, width, 0))
    with hrrsi.view(class_map.path) as viewer, rasterio.open(class_map.path) as file:
        number = layer_named(viewer, "Map")
        assert np.array_equal(whole_layer(viewer, number), class_map.labels)
        for level in range(1, len(file.overviews(1)) + 1):
            with rasterio.open(class_map.path, overview_level=level - 1) as overview:
                assert np.array_equal(whole_layer(viewer, number, level), overview.read(1))
    assert level == 3


def test_classes_that_are_hidden_are_transparent(tmp_path: Path) -> None:
    class_map = made_map(tmp_path)
    with hrrsi.view(class_map.path) as viewer:
        number = layer_named(viewer, "Map")
        shown = np.asarray(asked(viewer, f"tile/0/{number}/0/0/0.png?hide=1,3").convert("RGBA"))
    assert np.array_equal(shown[..., 3] == 0, np.isin(class_map.labels[:256, :256], (1, 3)))


def test_counts_and_areas_are_those_of_every_pixel(tmp_path: Path) -> None:
    class_map = made_map(tmp_path, labels=holed())
    pixels = np.bincount(class_map.labels.ravel(), minlength=256)
    with hrrsi.view(class_map.path) as viewer:
        counts = counted(viewer)["layers"][str(layer_named(viewer, "Map"))]
    assert counts["pixels"] == pixels[:4].tolist()
    assert counts["nodata"] == pixels[255]
    assert counts["areas"] == [
        f"{n * RESOLUTION**2:,.0f} m²"
        if n * RESOLUTION**2 < 1e4
        else f"{n * RESOLUTION**2 / 1e4:,.2f} ha"
        for n in pixels[:4]
    ]


def test_a_map_that_was_changed_is_counted_anew(tmp_path: Path) -> None:
    class_map = made_map(tmp_path)
    with rasterio.open(class_map.path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.write(np.zeros((100, 100), dtype=np.uint8), 1, window=((0, 100), (0, 100)))
        file.update_tags(ns="HRRSI_TEST", changed="yes")
    with rasterio.open(class_map.path) as file:
        pixels = np.bincount(file.read(1).ravel(), minlength=4)
    with hrrsi.view(class_map.path) as viewer:
        counts = counted(viewer)["layers"][str(layer_named(viewer, "Map"))]
    assert counts["pixels"] == pixels.tolist()
    assert any("was changed since it was written" in note for note in viewer.notes)


def test_a_pixel_tells_class_confidence_and_place(tmp_path: Path) -> None:
    class_map = made_map(tmp_path, labels=holed(), with_confidence=True)
    row, column = 123, 217
    with hrrsi.view(class_map.path) as viewer:
        point = asked(viewer, f"point/0/{row}/{column}.json")
        empty = asked(viewer, "point/0/3/4.json")
        number, scores = layer_named(viewer, "Map"), layer_named(viewer, "Confidence")
        steps = whole_layer(viewer, scores)
        assert described(viewer)["scores"] == {str(number): scores}
    assert point["layers"][str(number)] == class_map.labels[row, column]
    assert point["layers"][str(scores)] == pytest.approx(class_map.confidence[row, column] / 250)
    assert empty["layers"] == {str(number): None, str(scores): None}
    assert np.array_equal(steps, class_map.confidence)
    x, y = ORIGIN @ (column + 0.5, row + 0.5)
    assert point["crs"] == f"{x:.2f}, {y:.2f}"
    (longitude,), (latitude,) = transform(CRS, "EPSG:4326", [x], [y])
    assert point["wgs84"] == f"{latitude:.6f}° N, {longitude:.6f}° E"


def test_confidences_of_another_run_are_left_out(tmp_path: Path) -> None:
    class_map = made_map(tmp_path, with_confidence=True)
    with rasterio.open(tmp_path / "scene_confidence.tif", "r+") as file:
        file.update_tags(HRRSI_WEIGHTS_SHA256="1" * 64)
    with hrrsi.view(class_map.path) as viewer:
        assert [layer["label"] for layer in described(viewer)["layers"]] == ["Map", "Scene"]
    assert any("is of another run" in note for note in viewer.notes)


@pytest.mark.filterwarnings("ignore::hrrsi.prediction.scene_remarks.SceneWarning")
def test_confidences_of_the_scene_before_are_left_out(tmp_path: Path) -> None:
    """The same weights and options mapped both, so that tags are alike."""
    scene = write_scene(tmp_path / "scene.tif", 60 * blobs(90, 120, 0)[None].repeat(3, axis=0) + 9)
    weights = save_made_weights(tmp_path / "made.safetensors")
    options = hrrsi.MapOptions(window=64)
    with_scores = hrrsi.OutputOptions(confidence="uint8")
    replacing = hrrsi.OutputOptions(overwrite=True)
    hrrsi.predict(scene, weights, out=tmp_path, options=options, outputs=with_scores)
    class_map = tmp_path / "scene_classes.tif"
    with hrrsi.view(class_map) as viewer:
        assert "Confidence" in [layer["label"] for layer in described(viewer)["layers"]]
    write_scene(scene, 60 * blobs(90, 120, 5)[None].repeat(3, axis=0) + 9)
    hrrsi.predict(scene, weights, out=tmp_path, options=options, outputs=replacing)
    with hrrsi.view(class_map) as viewer:
        assert "Confidence" not in [layer["label"] for layer in described(viewer)["layers"]]
    assert any("is of another run" in note for note in viewer.notes)


def test_classes_of_a_palette_are_those_of_its_style(tmp_path: Path) -> None:
    """Whose colours may be exchanged, or alike."""
    labels = np.repeat(np.arange(3, dtype=np.uint8), [10, 20, 30])[None, :, None].repeat(50, 2)
    path = write_scene(tmp_path / "other.tif", labels)
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {0: (200, 0, 0), 1: (0, 200, 0), 2: (0, 0, 200)})
    exchanged = [(0, 200, 0), (200, 0, 0), (0, 0, 200)]
    path.with_suffix(".qml").write_text(qml_style(["roof", "soil", "lake"], exchanged))
    with hrrsi.view(path) as viewer:
        number = layer_named(viewer, "Map")
        places = asked(viewer, "view.json")["places"]
        counts = counted(viewer)["layers"][str(number)]["pixels"]
        point = asked(viewer, "point/0/15/5.json")
    assert places[0]["layers"][number]["names"] == ["roof", "soil", "lake"]
    assert counts == [500, 1000, 1500]
    assert point["layers"][str(number)] == labels[0, 15, 5] == 1


@pytest.mark.long
def test_levels_of_other_maps_are_chosen_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overviews of other tools may be means, so they are not used; large maps are kept thinned."""
    monkeypatch.setattr(layers, "COARSE", 128)
    monkeypatch.setattr(pictures, "COARSE", 128)
    labels = blobs(610, 530, 3)
    class_map = made_map(tmp_path, labels=labels)
    other = write_scene(
        tmp_path / "theirs.tif", labels[None], tiled=True, blockxsize=64, blockysize=64
    )
    with rasterio.open(other, "r+") as file:
        file.write_colormap(1, {n: (*colour, 255) for n, colour in enumerate(COLOURS)})
        file.build_overviews([2, 4, 8], rasterio.enums.Resampling.average)
    with hrrsi.view(other, scene=class_map.scene) as viewer:
        layer = described(viewer)["layers"][layer_named(viewer, "Map")]
        assert layer["colours"] == [list(colour) for colour in COLOURS]
        assert layer["grows"]
        # until all of it was read, an answer comes at once, with what there is
        assert (whole_layer(viewer, layer_named(viewer, "Map"), 3) == 255).all()
        assert not whole_layer(viewer, layer_named(viewer, "Scene"), 4)[..., 3].any()
        counts = counted(viewer)["layers"]
        for level in (0, 1, 2, 3):
            step = 1 << level
            rows, columns = (
                np.minimum(np.arange(0, side, step) + step // 2, side - 1) for side in labels.shape
            )
            shown = whole_layer(viewer, layer_named(viewer, "Map"), level)
            if step << 7 <= 1024 and level > 2:  # thinned: the middle of a kept pixel
                rows, columns = (axis // 8 * 8 + 4 for axis in (rows, columns))
                rows, columns = np.minimum(rows, 609), np.minimum(columns, 529)
            assert np.array_equal(shown, labels[np.ix_(rows, columns)])
        scene = whole_layer(viewer, layer_named(viewer, "Scene"), 4)
    assert counts["0"]["pixels"] == np.bincount(labels.ravel()).tolist()
    mean = class_map.pixels[:, :608, :528].reshape(3, 38, 16, 33, 16).mean(axis=(2, 4))
    assert np.abs(np.moveaxis(scene[:38, :33, :3], -1, 0) - mean).max() < 4


@pytest.mark.long
def test_labels_show_where_a_map_is_wrong(tmp_path: Path) -> None:
    class_map = made_map(tmp_path, labels=holed())
    truth = np.where(blobs(300, 420, 9) == 0, blobs(300, 420, 4), class_map.labels)
    truth[:, -50:] = 255
    label = write_scene(tmp_path / "truth.tif", truth[None])
    scheme = index_scheme(tmp_path)
    options = hrrsi.ViewOptions(scheme=scheme)
    with hrrsi.view(class_map.path, labels=label, options=options) as viewer:
        labels, errors = layer_named(viewer, "Labels"), layer_named(viewer, "Errors")
        assert described(viewer)["layers"][labels]["colours"] == [list(c) for c in COLOURS]
        assert np.array_equal(whole_layer(viewer, labels), truth)
        shown = whole_layer(viewer, errors)
        counts = counted(viewer)["layers"][str(errors)]
        point = asked(viewer, "point/0/150/100.json")
    is_compared = (truth != 255) & (class_map.labels != 255)
    expected = np.where(is_compared, truth != class_map.labels, 255)
    assert np.array_equal(shown, expected)
    assert counts["pixels"] == [int((expected == k).sum()) for k in (0, 1)]
    assert counts["nodata"] == (expected == 255).sum()
    assert point["layers"][str(errors)] == expected[150, 100]
    scored = hrrsi.evaluate(
        label, maps=class_map.path, options=hrrsi.EvaluationOptions(scheme=scheme)
    )
    assert counts["shares"][0] == pytest.approx(scored.scores.overall_accuracy)


def test_labels_that_the_scheme_does_not_know_are_counted(tmp_path: Path) -> None:
    class_map = made_map(tmp_path, height=80, width=90)
    truth = class_map.labels.copy()
    truth[10:16, 20:30] = 9
    label = write_scene(tmp_path / "truth.tif", truth[None])
    scheme = index_scheme(tmp_path)
    options = hrrsi.ViewOptions(scheme=scheme)
    with hrrsi.view(class_map.path, labels=label, options=options) as viewer:
        counts = counted(viewer)
        errors = counts["layers"][str(layer_named(viewer, "Errors"))]
    assert counts["unknown"] == 60
    assert (errors["pixels"], errors["nodata"]) == ([80 * 90 - 60, 0], 60)


def test_two_pages_that_open_at_once_are_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_map = made_map(tmp_path, height=80, width=90)
    truth = class_map.labels.copy()
    truth[10:16, 20:30] = 9
    label = write_scene(tmp_path / "truth.tif", truth[None])
    options = hrrsi.ViewOptions(scheme=index_scheme(tmp_path))

    class SlowlyMadeThread(threading.Thread):
        def __init__(self, **options: Any) -> None:
            time.sleep(0.1)
            super().__init__(**options)

    with hrrsi.view(class_map.path, labels=label, options=options) as viewer:
        monkeypatch.setattr(places, "threading", SimpleNamespace(Thread=SlowlyMadeThread))
        pages = [threading.Thread(target=asked, args=(viewer, "counts/0.json")) for _ in range(2)]
        for page in pages:
            page.start()
        for page in pages:
            page.join()
        assert counted(viewer)["unknown"] == 60


@pytest.mark.parametrize("bands", ["[]", '["a"]', "[1.0, 2.0, 3.0]", "[0, 1, 2]", "[9, 1, 2]", "3"])
def test_bands_that_a_map_can_not_be_of_are_not_taken(tmp_path: Path, bands: str) -> None:
    class_map = made_map(tmp_path, height=40, width=50)
    with rasterio.open(class_map.path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.update_tags(HRRSI_OPTIONS=f'{{"bands": {bands}}}')
    with hrrsi.view(class_map.path) as viewer:
        shown = whole_layer(viewer, layer_named(viewer, "Scene"))
    assert np.array_equal(np.moveaxis(shown[..., :3], -1, 0), class_map.pixels)


def test_maps_in_a_folder_are_those_that_are_whole(tmp_path: Path) -> None:
    class_map = made_map(tmp_path, height=40, width=50)
    inside = tmp_path / ".other.tif.hrrsi"
    inside.mkdir()
    for place in (tmp_path / ".scene_classes.partial-7.tif", inside / "other.tif"):
        shutil.copy(class_map.path, place)
    with hrrsi.view(tmp_path) as viewer:
        assert asked(viewer, "view.json")["places"][0]["maps"] == [0]


def test_a_damaged_map_is_said_on_the_page(tmp_path: Path) -> None:
    random = np.random.default_rng(3).integers(0, 4, (600, 600), dtype=np.uint8)
    class_map = made_map(tmp_path, labels=random)
    content = class_map.path.read_bytes()
    class_map.path.write_bytes(content[: int(0.6 * len(content))])
    with hrrsi.view(class_map.path) as viewer:
        failure = counted(viewer)["failure"]
        with pytest.raises(HTTPError) as error:
            whole_layer(viewer, layer_named(viewer, "Map"))
        words = error.value.read().decode()
        error.value.close()
    assert re.search(r"scene_classes\.tif: .*cannot be read at row", failure)
    assert error.value.code == 500
    assert re.search(r"scene_classes\.tif: .*cannot be read at row", words)


def test_polygons_are_labels_without_a_scheme(tmp_path: Path) -> None:
    labels = np.ones((200, 300), dtype=np.uint8)
    labels[50:150, 100:200] = 3
    class_map = made_map(tmp_path, labels=labels)
    x, y = ORIGIN @ (90, 40)
    width, height = 120 * RESOLUTION, 100 * RESOLUTION
    ring = [[x, y], [x + width, y], [x + width, y - height], [x, y - height], [x, y]]
    (tmp_path / "truth.geojson").write_text(
        '{"type": "FeatureCollection", "crs": {"type": "name", "properties": {"name": '
        '"urn:ogc:def:crs:EPSG::25832"}}, "features": [{"type": "Feature", "properties": '
        f'{{"class": "Water"}}, "geometry": {{"type": "Polygon", "coordinates": [{ring}]}}}}]}}'
    )
    with hrrsi.view(class_map.path, labels=tmp_path / "truth.geojson") as viewer:
        shown = whole_layer(viewer, layer_named(viewer, "Errors"))
    inside = np.zeros(labels.shape, dtype=bool)
    inside[40:140, 90:210] = True
    assert np.array_equal(shown, np.where(inside, labels != 3, 255))


@pytest.mark.long
def test_maps_of_one_place_are_shown_together(tmp_path: Path) -> None:
    first, second = (made_map(tmp_path, name, seed=7 + n) for n, name in enumerate("ab"))
    finer = np.repeat(np.repeat(second.labels, 2, axis=0), 2, axis=1)
    other = write_scene(tmp_path / "c.tif", finer[None], transform=ORIGIN @ Affine.scale(0.5))
    far = made_map(tmp_path, "far", transform=ORIGIN @ Affine.translation(5000, 0))
    with hrrsi.view([first.path, second.path, other, far.path]) as viewer:
        places = asked(viewer, "view.json")["places"]
        assert [len(place["maps"]) for place in places] == [3, 1]
        assert places[1]["name"] == "far"
        for name, expected in (
            ("a", first),
            ("b", second),
            ("c", second),
        ):
            assert np.array_equal(whole_layer(viewer, layer_named(viewer, name)), expected.labels)
        assert any(note.startswith("c.tif has pixels 0.5 times") for note in places[0]["notes"])
        counts = counted(viewer)["layers"][str(layer_named(viewer, "c"))]
        assert counts["pixels"] == np.bincount(second.labels.ravel()).tolist()


def test_maps_of_one_size_without_place_are_not_taken_for_one_place(tmp_path: Path) -> None:
    nowhere = {"crs": None, "transform": None}
    class_maps = [made_map(tmp_path, name, height=90, width=120, **nowhere) for name in "ab"]
    for file in tmp_path.glob("?.tif"):
        file.unlink()  # not even where the scenes are gone
    with hrrsi.view(tmp_path) as viewer:
        places = asked(viewer, "view.json")["places"]
        point = asked(viewer, "point/1/5/6.json")
    assert [place["name"] for place in places] == ["a", "b"]
    assert places[0]["metres"] is None
    assert {"crs", "wgs84"}.isdisjoint(point)
    assert point["layers"]["0"] == class_maps[1].labels[5, 6]
    copies = [
        write_scene(tmp_path / f"{n}.tif", one.labels[None], **nowhere)
        for n, one in enumerate(class_maps)
    ]
    with hrrsi.view(copies) as viewer:  # named one by one, and nothing speaks against it
        assert len(asked(viewer, "view.json")["places"]) == 1
