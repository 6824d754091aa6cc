"""The scene that `hrrsi view` shows beneath a map: where it is, and what it looks like."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.enums
import rasterio.shutil
import rasterio.vrt
from affine import Affine
from samples.viewed_maps import (
    ORIGIN,
    described,
    layer_named,
    made_map,
    whole_layer,
    write_scene,
)

import hrrsi
from hrrsi.scenes.pixel_reader import scene_picture


@pytest.mark.parametrize(("address", "is_shown"), [("http://127.0.0.1:9/", False), ("", True)])
def test_a_scene_that_names_an_address_is_not_opened(
    tmp_path: Path, address: str, is_shown: bool
) -> None:
    class_map = made_map(tmp_path)
    class_map.scene.rename(tmp_path / "pixels.tif")
    with rasterio.open(tmp_path / "pixels.tif") as pixels:
        rasterio.shutil.copy(pixels, class_map.scene, driver="VRT")
    text = class_map.scene.read_text()
    named = f"<Description>{address}</Description>"
    class_map.scene.write_text(text.replace("</VRTDataset>", f"<!-- {named} --></VRTDataset>"))
    with hrrsi.view(class_map.path) as viewer:
        labels = [layer["label"] for layer in described(viewer)["layers"]]
    assert ("Scene" in labels) == is_shown


def test_the_scene_is_shown_as_it_is(tmp_path: Path) -> None:
    class_map = made_map(tmp_path, nodata=0)
    with rasterio.open(class_map.scene, "r+") as file:
        file.write(np.zeros((3, 50, 60), dtype=np.uint8), window=((0, 50), (0, 60)))
    with hrrsi.view(class_map.path) as viewer:
        shown = whole_layer(viewer, layer_named(viewer, "Scene"))
        half = whole_layer(viewer, layer_named(viewer, "Scene"), 1)
    assert not shown[:50, :60, 3].any()
    assert (shown[50:, :, 3] == 255).all()
    assert np.array_equal(np.moveaxis(shown[50:, :, :3], -1, 0), class_map.pixels[:, 50:])
    blocks = class_map.pixels.reshape(3, 150, 2, 210, 2).mean(axis=(2, 4))
    assert np.abs(np.moveaxis(half[30:, :, :3], -1, 0) - blocks[:, 30:]).max() <= 1


@pytest.mark.parametrize("kind", ["16 bit", "four bands", "palette", "one band", "no CRS"])
def test_scenes_of_every_kind_look_as_on_map_sheets(tmp_path: Path, kind: str) -> None:
    class_map = made_map(tmp_path, height=200, width=240)
    pixels = class_map.pixels.astype(np.uint16) * 9
    profile = {"photometric": "RGB"}
    if kind == "four bands":
        infrared = np.random.default_rng(5).integers(0, 255, (1, 200, 240), dtype=np.uint8)
        pixels = np.concatenate([class_map.pixels, infrared])
        profile = {"photometric": "RGB", "alpha": "unspecified"}
    elif kind in ("palette", "one band"):
        pixels, profile = class_map.pixels[:1], {}
    elif kind == "no CRS":
        pixels, profile = class_map.pixels, {"crs": None, "transform": None}
    scene = write_scene(tmp_path / "other.tif", pixels, **profile)
    if kind == "palette":
        with rasterio.open(scene, "r+") as file:
            file.write_colormap(1, {n: (n, 255 - n, n // 2, 255) for n in range(256)})
    with hrrsi.view(class_map.path, scene=scene) as viewer:
        shown = whole_layer(viewer, layer_named(viewer, "Scene"))
    assert (shown[..., 3] == 255).all()
    expected = scene_picture(str(scene), [1, 2, 3] if kind == "four bands" else None, 200, 240)
    assert np.array_equal(shown[..., :3], expected)


def test_a_scene_of_another_crs_is_warped(tmp_path: Path) -> None:
    class_map = made_map(tmp_path)
    other = tmp_path / "degrees.tif"
    with (
        rasterio.open(class_map.scene) as file,
        rasterio.vrt.WarpedVRT(file, crs="EPSG:4326") as warped,
    ):
        rasterio.shutil.copy(warped, other, driver="GTiff")
    with hrrsi.view(class_map.path, scene=other) as viewer:
        shown = whole_layer(viewer, layer_named(viewer, "Scene")).astype(int)
        notes = described(viewer)["notes"]
    difference = np.abs(
        np.moveaxis(shown[20:-20, 20:-20, :3], -1, 0) - class_map.pixels[:, 20:-20, 20:-20]
    )
    assert np.median(difference) < 12  # its texture is noise of 14 on either side, resampled twice
    assert any("is in EPSG:4326 where the map is in EPSG:25832" in note for note in notes)


def test_a_map_of_a_part_shows_the_part(tmp_path: Path) -> None:
    class_map = made_map(tmp_path)
    inner = ORIGIN @ Affine.translation(64, 32)
    part = write_scene(
        tmp_path / "part.tif", class_map.labels[None, 32:200, 64:300], transform=inner
    )
    with hrrsi.view(part, scene=class_map.scene) as viewer:
        shown = whole_layer(viewer, layer_named(viewer, "Scene"))
    assert np.array_equal(np.moveaxis(shown[..., :3], -1, 0), class_map.pixels[:, 32:200, 64:300])


def test_a_scene_that_moved_with_its_map_is_found(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    made_map(before)
    before.rename(after)
    with hrrsi.view(after / "scene_classes.tif") as viewer:
        assert layer_named(viewer, "Scene")
    (after / "scene.tif").unlink()
    with hrrsi.view(after / "scene_classes.tif") as viewer:
        assert [layer["kind"] for layer in described(viewer)["layers"]] == ["classes"]
    (note,) = viewer.notes
    assert "its scene is not where it was" in note
    sidecar = after / "scene_classes.tif.aux.xml"
    text = sidecar.read_text().replace(str(before / "scene.tif"), "https://127.0.0.1:9/scene.tif")
    sidecar.write_text(text)
    with hrrsi.view(after / "scene_classes.tif") as viewer:
        assert "https://127.0.0.1:9/scene.tif" in viewer.notes[0]
        assert "on another machine" in viewer.notes[0]


def mosaic_map(folder: Path, **profile: Any) -> tuple[Path, np.ndarray]:
    """Write the map of two tiles, which lie apart from it, and return it and their pixels."""
    pixels = np.random.default_rng(0).integers(0, 255, (3, 90, 150), dtype=np.uint8)
    (folder / "city").mkdir(parents=True)
    tiles = [folder / "city" / f"{name}.tif" for name in "ab"]
    for tile, left, right in zip(tiles, (0, 60), (70, 150), strict=True):
        part = pixels[:, :, left:right]
        if left == 0:
            part = part.copy()
            part[:, :, 60:] //= 2  # where both are, the later one counts
        write_scene(tile, part, transform=ORIGIN @ Affine.translation(left, 0))
    made = made_map(folder, "city", **{"height": 90, "width": 150, **profile}, tiles=tiles)
    made.scene.unlink()
    return made.path, pixels


def test_tiles_of_a_mosaic_are_shown_as_one_scene(tmp_path: Path) -> None:
    path, pixels = mosaic_map(tmp_path / "before")
    with hrrsi.view(path) as viewer:
        shown = whole_layer(viewer, layer_named(viewer, "Scene"))
        assert not viewer.notes
    assert np.array_equal(np.moveaxis(shown[..., :3], -1, 0), pixels)
    assert (shown[..., 3] == 255).all()


def test_a_part_of_a_mosaic_is_shown_with_its_tiles(tmp_path: Path) -> None:
    place = ORIGIN @ Affine.translation(20, 10)
    path, pixels = mosaic_map(tmp_path, height=70, width=100, transform=place)
    with hrrsi.view(path) as viewer:
        shown = whole_layer(viewer, layer_named(viewer, "Scene"))
    assert np.array_equal(np.moveaxis(shown[..., :3], -1, 0), pixels[:, 10:80, 20:120])


def test_tiles_that_moved_with_their_map_are_found(tmp_path: Path) -> None:
    path, pixels = mosaic_map(tmp_path / "before")
    after = tmp_path / "after"
    shutil.move(path.parent / "city", after)
    for file in path.parent.glob("city_classes*"):
        shutil.move(file, after)
    path = after / path.name
    with hrrsi.view(path) as viewer:
        shown = whole_layer(viewer, layer_named(viewer, "Scene"))
    assert np.array_equal(np.moveaxis(shown[..., :3], -1, 0), pixels)
    (after / "b.tif").unlink()
    assert dict(hrrsi.info(path).lines)["scene"].endswith("(2 not there any more)")
    with hrrsi.view(path) as viewer:
        assert [layer["kind"] for layer in described(viewer)["layers"]] == ["classes"]
    (note,) = viewer.notes
    assert "its tiles are not all where they were" in note
    assert "`gdalbuildvrt scene.vrt TILES`, and give that as `scene`" in note
