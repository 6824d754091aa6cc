"""Scenes and labels behind the packaged weights, as `tools/training_imagery.py` makes them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin
from training_imagery import write_sets
from ucmerced_scenes import BACKGROUND, RIVERS, ROOFS, Shape, drawn_shapes, roof_label

from hrrsi.labels.scheme import load_scheme

WEB_MERCATOR_EDGE = 20037508.342789244


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


def label_names(folder: Path, label: np.ndarray) -> list[str]:
    """Return the name that the written scheme has for each value of a label, row by row."""
    names = [each.name for each in load_scheme(folder / "scheme.yaml").all_labels]
    return [names[value] if value != 255 else "ignored" for value in label.ravel()]


def test_vegetation_is_what_the_near_infrared_says(tmp_path: Path) -> None:
    bands = np.full((4, 1, 3), 100, np.uint8)
    bands[3, 0] = [150, 115, 90]  # (nir - red) / (nir + red): 0.2, 0.07, -0.05
    raw = tmp_path / "naip" / "city"
    raw.mkdir(parents=True)
    shape = {"count": 4, "height": 1, "width": 3, "dtype": "uint8"}
    place = {"crs": "EPSG:26911", "transform": from_origin(0, 9, 0.6, 0.6)}
    with rasterio.open(raw / "city_2020_1.tif", "w", **shape, **place) as dataset:
        dataset.write(bands)
    write_sets(tmp_path, tmp_path / "out")
    out = tmp_path / "out" / "naip"
    np.testing.assert_array_equal(read(out / "images" / "city_2020_1.tif"), bands[:3])
    names = label_names(out, read(out / "labels" / "city_2020_1.tif"))
    assert names == ["Vegetation", "ignored", "Building or Land or Road or Water"]


def test_tiles_that_touch_are_one_scene_with_its_outlines(tmp_path: Path) -> None:
    raw = tmp_path / "buildings" / "uganda"
    (raw / "images").mkdir(parents=True)
    (raw / "labels").mkdir()
    zoom, row = 19, 2**18 - 1  # north of the equator
    pixel = 2 * WEB_MERCATOR_EDGE / (256 * 2**zoom)
    shape = {"count": 3, "height": 256, "width": 256, "dtype": "uint8"}
    for column, grey in ((2**18, 50), (2**18 + 1, 70)):
        left, top = (column - 2**18) * 256 * pixel, (2**18 - row) * 256 * pixel
        place = {"crs": "EPSG:3857", "transform": from_origin(left, top, pixel, pixel)}
        name = f"OAM-{column}-{row}-{zoom}"
        with rasterio.open(raw / "images" / f"{name}.tif", "w", **shape, **place) as dataset:
            tile = np.full((3, 256, 256), grey, np.uint8)
            if grey == 50:  # a lawn in the first rows, then a pool, then what is nearly green
                tile[:, :60] = np.array([60, 110, 50], np.uint8)[:, None, None]
                tile[:, 60:120] = np.array([60, 130, 130], np.uint8)[:, None, None]
                tile[:, 120:180] = np.array([100, 108, 92], np.uint8)[:, None, None]
            dataset.write(tile)
        features: list[dict[str, object]] = []
        if grey == 70:  # its western half, in degrees; a degree is as long in both directions here
            degrees = 180 / WEB_MERCATOR_EDGE
            west, south = left * degrees, (top - 256 * pixel) * degrees
            east, north = (left + 128 * pixel) * degrees, top * degrees
            ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
            outline = {"type": "Polygon", "coordinates": [ring]}
            features = [{"type": "Feature", "properties": {}, "geometry": outline}]
        collection = {"type": "FeatureCollection", "features": features}
        (raw / "labels" / f"{name}.geojson").write_text(json.dumps(collection))
    write_sets(tmp_path, tmp_path / "out")
    out = tmp_path / "out" / "buildings"
    with rasterio.open(out / "images" / "uganda_19_000.tif") as dataset:
        assert dataset.bounds == pytest.approx((0, 0, 512 * pixel, 256 * pixel), abs=1e-6)
        image = dataset.read(1)
    assert (image[200:, :256] == 50).all()
    assert (image[:, 256:] == 70).all()
    names = np.array(label_names(out, read(out / "labels" / "uganda_19_000.tif"))).reshape(256, 512)
    assert (names[:, 256:384] == "Building").all()
    assert (names[:55, :256] == "Vegetation").all()
    # plants can have any colour
    for unclear in (names[65:115, :256], names[125:, :256], names[:, 384:]):
        assert (unclear == "Land or Road or Vegetation").all()


def test_paved_roads_beside_outlines_are_drawn(tmp_path: Path) -> None:
    raw = tmp_path / "buildings" / "nepal"
    (raw / "images").mkdir(parents=True)
    (raw / "labels").mkdir()
    column, row, zoom = 386719, 220253, 19  # a tile of web maps with a bend of the road
    pixel = 2 * WEB_MERCATOR_EDGE / (256 * 2**zoom)
    left, top = (column - 2**18) * 256 * pixel, (2**18 - row) * 256 * pixel
    shape = {"count": 3, "height": 256, "width": 256, "dtype": "uint8"}
    place = {"crs": "EPSG:3857", "transform": from_origin(left, top, pixel, pixel)}
    name = f"OAM-{column}-{row}-{zoom}"
    with rasterio.open(raw / "images" / f"{name}.tif", "w", **shape, **place) as dataset:
        dataset.write(np.full((3, 256, 256), 90, np.uint8))
    Image.new("L", (256, 256)).save(raw / "labels" / f"{name}.png")
    write_sets(tmp_path, tmp_path / "out")
    out = tmp_path / "out" / "buildings"
    names = label_names(out, read(out / "labels" / "nepal_19_000.tif"))
    assert set(names) == {"Road", "Land or Road or Vegetation"}
    assert 0.03 < names.count("Road") / len(names) < 0.3


def test_crops_are_what_their_list_of_things_can_be(tmp_path: Path) -> None:
    raw = tmp_path / "ucmerced"
    (raw / "beach").mkdir(parents=True)
    table = "IMAGE\tsand\tsea\tairplane\nbeach00\t1\t1\t0\nbeach01\t0\t1\t0\nbeach02\t0\t0\t0\n"
    (raw / "multilabels.tsv").write_text(table)
    for number in range(3):
        Image.new("RGB", (4, 4)).save(raw / "beach" / f"beach0{number}.jpg")
    write_sets(tmp_path, tmp_path / "out")
    out = tmp_path / "out" / "ucmerced"
    assert set(label_names(out, read(out / "labels" / "beach00.tif"))) == {"Land or Water"}
    assert set(label_names(out, read(out / "labels" / "beach01.tif"))) == {"Water"}
    assert not (out / "labels" / "beach02.tif").exists()  # it says nothing


def test_what_is_green_in_crops_with_plants_is_vegetation(tmp_path: Path) -> None:
    raw = tmp_path / "ucmerced"
    (raw / "park").mkdir(parents=True)
    crops = {"park00": "grass pavement", "park01": "pavement", "park02": "grass pavement water"}
    things = ("grass", "pavement", "water")
    rows = [[name, *(str(int(t in listed)) for t in things)] for name, listed in crops.items()]
    lines = ["\t".join(row) for row in (["IMAGE", *things], *rows)]
    (raw / "multilabels.tsv").write_text("\n".join(lines))
    for name in crops:
        image = Image.new("RGB", (40, 40), (60, 110, 50))
        image.paste((100, 100, 100), (0, 0, 40, 20))
        image.save(raw / "park" / f"{name}.jpg", quality=95)
    write_sets(tmp_path, tmp_path / "out")
    out = tmp_path / "out" / "ucmerced"

    def halves(name: str) -> list[set[str]]:
        names = np.array(label_names(out, read(out / "labels" / f"{name}.tif"))).reshape(40, 40)
        return [set(names[:16].ravel()), set(names[24:].ravel())]

    assert halves("park00") == [{"Road or Vegetation"}, {"Vegetation"}]
    assert halves("park01") == [{"Road"}, {"Road"}]
    assert halves("park02") == [{"Road or Vegetation or Water"}] * 2  # green water is water


def test_rivers_are_water_as_far_as_they_were_drawn(tmp_path: Path) -> None:
    raw = tmp_path / "ucmerced"
    (raw / "river").mkdir(parents=True)
    (raw / "multilabels.tsv").write_text("IMAGE\tsand\twater\nriver07\t0\t1\n")
    Image.new("RGB", (256, 256)).save(raw / "river" / "river07.jpg")
    write_sets(tmp_path, tmp_path / "out")
    out = tmp_path / "out" / "rivers"
    # drawn from the first row to the last, 26 to 27 px to both sides of columns 128 and 129
    names = np.array(label_names(out, read(out / "labels" / "river07.tif"))).reshape(256, 256)
    assert (names[:, 104:153] == "Water").all()
    for shore in (np.s_[:, 88:100], np.s_[:, 158:169]):
        assert (names[shore] == "ignored").all()
    for beyond in (np.s_[:, :83], np.s_[:, 174:]):
        assert (names[beyond] == "Land or Vegetation").all()


def test_roofs_are_buildings_as_they_were_drawn(tmp_path: Path) -> None:
    raw = tmp_path / "ucmerced"
    (raw / "sparseresidential").mkdir(parents=True)
    table = "IMAGE\tbuildings\nsparseresidential08\t1\nsparseresidential60\t1\n"
    (raw / "multilabels.tsv").write_text(table)
    for name in ("sparseresidential08", "sparseresidential60"):  # a row short, as some crops are
        Image.new("RGB", (256, 255)).save(raw / "sparseresidential" / f"{name}.jpg")
    write_sets(tmp_path, tmp_path / "out")
    out = tmp_path / "out" / "roofs"

    def names(crop: str) -> np.ndarray:
        label = read(out / "labels" / f"{crop}.tif")
        return np.array(label_names(out, label)).reshape(255, 256)

    house = names("sparseresidential60")
    assert (house[75:104, 82:132] == "Building").all()
    assert (house[85:100, 137:140] != "Building").all()  # the corner that is cut out
    assert (house[70:100, 79] == "ignored").all()  # its wall, on columns 78 and 79
    assert (house[0:17, 113:150] == "ignored").all()  # what may be a roof or not
    # whatever the list says: it names neither pools nor every lawn
    assert (house[120:, :] == "Land or Road or Vegetation or Water").all()
    tree = names("sparseresidential08")
    assert (tree[140:170, 130:136] == "ignored").all()  # above a house whose outline is beside it
    assert (tree[140:160, 115:124] == "Building").all()


def test_shapes_that_touch_keep_their_insides_and_doubt_wins() -> None:
    def square(surface: str, left: float, right: float) -> Shape:
        corners = [(left, 10), (right, 10), (right, 30), (left, 30)]
        return Shape(surface, np.array(corners, float))

    squares = [square("unsure", 0, 14), square("Building", 10, 30), square("Water", 30, 50)]
    row = roof_label(squares, (40, 60))[20]
    assert set(row[:16]) == {255}
    assert set(row[16:28]) == {0}
    assert set(row[28:32]) == {255}
    assert set(row[32:48]) == {4}
    assert set(row[52:]) == {BACKGROUND}


@pytest.mark.parametrize(("table", "columns", "fewest"), [(RIVERS, 3, 2), (ROOFS, 2, 3)])
def test_what_was_drawn_lies_on_its_crops(table: Path, columns: int, fewest: int) -> None:
    for crop, shapes in drawn_shapes(table).items():
        assert re.fullmatch(r"[a-z]+\d\d", crop)
        for shape in shapes:
            assert shape.points.shape[1] == columns, crop
            assert len(shape.points) >= fewest, crop
            low, high = shape.points[:, :2].min(0), shape.points[:, :2].max(0)
            assert (high > 0).all(), crop
            assert (low < 256).all(), crop
        assert len({shape.points.tobytes() for shape in shapes}) == len(shapes), crop


def test_a_shape_of_no_class_is_an_error(tmp_path: Path) -> None:
    table = tmp_path / "roofs.csv"
    table.write_text('crop,surface,points\nharbor01,Bulding,"0 0, 0 9, 9 9"\n')
    with pytest.raises(ValueError, match=r"roofs\.csv: harbor01: no class 'Bulding'"):
        drawn_shapes(table)
