"""Neighbouring tiles mapped as one scene."""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin
from rasterio.windows import Window
from samples.made_weights import scene_pixels
from samples.predicted_scenes import notices, one_error_line, save_area, save_scene
from samples.range_server import serving

import hrrsi
from hrrsi.prediction.options import MapOptions, OutputOptions
from hrrsi.scenes.mosaic import tile_mosaic
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.value_scale import estimated_scale, scene_sample
from hrrsi.scenes.windows import Window as Place

Run = Callable[..., Any]
PLACE = from_origin(500000.1, 2790000.3, 0.3, 0.3)
PIXELS = np.moveaxis(scene_pixels(), -1, 0)[:, :200, :260]
# rows and columns where tiles meet, which are none of the windows'
ROWS, COLS = (0, 90, 200), (0, 70, 150, 260)
WINDOWS = {
    f"t{i}{j}.tif": Window(COLS[j], ROWS[i], COLS[j + 1] - COLS[j], ROWS[i + 1] - ROWS[i])
    for i in range(2)
    for j in range(3)
}


def save_tile(path: Path, window: Window, pixels: np.ndarray = PIXELS, **profile: Any) -> Path:
    rows, cols = window.toslices()
    place = PLACE @ rasterio.Affine.translation(window.col_off, window.row_off)
    made = {"crs": "EPSG:32640", "transform": place, **profile}
    return save_scene(path, np.ascontiguousarray(pixels[:, rows, cols]), **made)


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """A folder of six tiles, cut from one scene."""
    for name, window in WINDOWS.items():
        save_tile(tmp_path / "city" / name, window)
    return tmp_path / "city"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return save_scene(tmp_path / "whole.tif", PIXELS, crs="EPSG:32640", transform=PLACE)


def labels(path: Path | str) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return np.asarray(dataset.read(1))


def zone_pixels(path: Path) -> list[int]:
    with path.open(encoding="utf-8", newline="") as file:
        return [int(row["pixels"]) for row in csv.DictReader(file)]


@pytest.mark.long
def test_a_mosaic_has_the_map_of_the_whole_scene(
    run: Run, tmp_path: Path, tiles: Path, whole: Path
) -> None:
    options = ("--confidence", "uint8", "--min-area", 3)
    before = sorted(tmp_path.rglob("*"))
    assert run(whole, *options).exit_code == 0
    result = run(tiles / "*.tif", "--mosaic", *options, "--preview", "png")
    assert result.exit_code == 0, result.output
    assert "6 tiles of city → city_classes.tif  (260 x 200 px" in result.stdout
    for name in ("classes", "confidence"):
        with (
            rasterio.open(f"city_{name}.tif") as city,
            rasterio.open(f"whole_{name}.tif") as whole_map,
        ):
            np.testing.assert_array_equal(city.read(), whole_map.read())
            assert city.transform.almost_equals(whole_map.transform, 1e-9)
            assert (city.crs, city.nodata) == (whole_map.crs, whole_map.nodata)
            assert city.overviews(1) == whole_map.overviews(1)
    assert len(np.unique(labels("city_classes.tif"))) > 2
    assert hrrsi.info("city_classes.tif").data["tiles"] == [str(tiles / name) for name in WINDOWS]
    made = {p.name for p in (tmp_path / "here").iterdir()}  # nothing hidden is left
    assert {n.replace("city", "whole") for n in made if "city" in n} == {
        "whole_classes.png",
        *(n for n in made if "whole" in n),
    }
    others = [p for p in tmp_path.rglob("*") if tmp_path / "here" not in p.parents]
    assert sorted(others) == before
    # a tile by itself lacks what lies beyond its borders
    assert run(tiles / "t01.tif", "--out", "alone.tif").exit_code == 0
    in_whole = labels("whole_classes.tif")[WINDOWS["t01.tif"].toslices()]
    assert (labels("alone.tif") != in_whole).sum() > 100


@pytest.mark.long
def test_tiles_of_a_mosaic_have_maps_of_their_own(
    run: Run, tmp_path: Path, tiles: Path, whole: Path
) -> None:
    box = shapely.box(*(PLACE @ (40.5, 120.5)), *(PLACE @ (140.5, 60.5)))
    zones = save_area(tmp_path / "zones.gpkg", box, "EPSG:32640")
    options = ("--confidence", "float32", "--probabilities", "uint8", "--min-area", 3)
    options = (*options, "--zones", zones)
    assert run(whole, *options).exit_code == 0
    files = ("--vector", "geojson")
    result = run(tiles, "--mosaic", "--tiles", "--out", "maps/", *options, *files)
    assert result.exit_code == 0, result.output
    for name, window in WINDOWS.items():
        stem = Path(name).stem
        for kind in ("classes", "confidence", "probabilities"):
            with (
                rasterio.open(f"maps/{stem}_{kind}.tif") as tile_map,
                rasterio.open(f"whole_{kind}.tif") as whole_map,
                rasterio.open(tiles / name) as tile,
            ):
                np.testing.assert_array_equal(tile_map.read(), whole_map.read(window=window))
                assert (tile_map.transform, tile_map.crs) == (tile.transform, tile.crs)
        assert f"{tiles / name} → maps/{stem}_classes.tif" in result.stdout
        assert hrrsi.info(f"maps/{stem}_classes.tif").data["scene"] == str(tiles / name)
        assert Path(f"maps/{stem}_classes.geojson").is_file()
    # what tiles count in a zone is what one map counts in it
    counts = [zone_pixels(path) for path in Path("maps").glob("*_zones.csv")]
    assert len(counts) == len(WINDOWS)
    np.testing.assert_array_equal(np.sum(counts, axis=0), zone_pixels(Path("whole_zones.csv")))
    assert not list(Path("maps").glob(".*"))
    assert not list(Path("maps").glob("city*"))
    # finished maps stay as they are
    times = {p: p.stat().st_mtime_ns for p in Path("maps").glob("*.tif")}
    again = run(tiles, "--mosaic", "--tiles", "--out", "maps/", *options, *files, "--resume")
    assert again.exit_code == 0, again.output
    assert again.stdout.count("was finished already") == len(WINDOWS)
    assert times == {p: p.stat().st_mtime_ns for p in Path("maps").glob("*.tif")}


def test_a_mosaic_goes_on_where_it_was_stopped(
    tmp_path: Path, tiles: Path, whole: Path, made_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hrrsi.maps.partial_map import PartialMap

    append, strips = PartialMap.append, []

    def stops(self: PartialMap, first_row: int, *arguments: Any, **named: Any) -> None:
        strips.append(first_row)
        if len(strips) == 3:
            raise KeyboardInterrupt
        append(self, first_row, *arguments, **named)

    options = MapOptions(window=64, overlap=16, mosaic=True)
    monkeypatch.setattr(PartialMap, "append", stops)
    out = tmp_path / "city.tif"
    with pytest.raises(KeyboardInterrupt, match=r"6 tiles of city: interrupted; .*`resume`"):
        hrrsi.predict(tiles, made_weights, out, options)
    assert [p.name for p in tmp_path.glob(".*")] == [".city.tif.unfinished"]
    went_on = OutputOptions(resume=True)
    mapped = hrrsi.predict(tiles, made_weights, out, options, outputs=went_on)
    assert strips.count(0) == 1
    assert not mapped[0].earlier
    hrrsi.predict(whole, made_weights, tmp_path / "one.tif", MapOptions(window=64, overlap=16))
    np.testing.assert_array_equal(labels(out), labels(tmp_path / "one.tif"))
    assert hrrsi.predict(tiles, made_weights, out, options, outputs=went_on)[0].earlier
    # a tile that changes is another mosaic
    save_tile(tiles / "t11.tif", WINDOWS["t11.tif"], 255 - PIXELS)
    with pytest.raises(hrrsi.errors.OutputExistsError, match="was made otherwise"):
        hrrsi.predict(tiles, made_weights, out, options, outputs=went_on)


def test_maps_of_tiles_that_are_there_are_not_written_again(
    tmp_path: Path, tiles: Path, whole: Path, made_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hrrsi.prediction import map_writer

    write, written = map_writer.write_class_raster, []

    def stops(path: Path, *arguments: Any, **named: Any) -> Any:
        written.append(path.name)
        if len(written) == 4:
            raise KeyboardInterrupt
        return write(path, *arguments, **named)

    monkeypatch.setattr(map_writer, "write_class_raster", stops)
    options = MapOptions(window=64, overlap=16, mosaic=True)
    out, named = tmp_path / "maps", sorted(WINDOWS)
    with pytest.raises(KeyboardInterrupt, match=r"100% of the map is kept for `resume`"):
        hrrsi.predict(tiles, made_weights, out, options, outputs=OutputOptions(tiles=True))
    there = [f"{Path(name).stem}_classes.tif" for name in named[:3]]
    assert sorted(p.name for p in out.glob("*.tif")) == there
    assert [p.name for p in out.glob(".*")] == [".city_classes.tif.unfinished"]
    outputs = OutputOptions(tiles=True, resume=True)
    mapped = hrrsi.predict(tiles, made_weights, out, options, outputs=outputs)
    assert len(written) == 7  # three, the one that stopped, and the last three
    hrrsi.predict(whole, made_weights, tmp_path / "one.tif", MapOptions(window=64, overlap=16))
    whole_map = labels(tmp_path / "one.tif")
    for name, scene in zip(named, mapped, strict=True):
        np.testing.assert_array_equal(labels(scene.path), whole_map[WINDOWS[name].toslices()])


def test_a_mosaic_of_a_folder_with_one_in_it_is_of_the_tiles(run: Run, tiles: Path) -> None:
    tile_mosaic([str(tiles / name) for name in WINDOWS]).write_vrt(tiles / "all.vrt")
    result = run(tiles, "--mosaic", "--tiles", "--out", "maps")
    assert result.exit_code == 0, result.output
    assert "all.vrt: shows 6 rasters beside it, which are taken in its place" in result.stderr
    names = {p.name for p in Path("maps").glob("*.tif")}
    assert names == {f"{Path(name).stem}_classes.tif" for name in WINDOWS}


def test_gaps_and_overlaps_are_told(run: Run, tiles: Path, whole: Path) -> None:
    (tiles / "t11.tif").unlink()
    save_tile(tiles / "t02.tif", Window(140, 0, 120, 90))  # ten columns more
    result = run(tiles, "--mosaic", "--out", "city.tif")
    assert result.exit_code == 0, result.output
    gap, overlap = 80 * 110, 10 * 90
    lines = "\n".join(notices(result))
    share, area = f"{gap / 52000:.2%}", f"{gap * 0.09:,.0f} m²"
    assert f"5 tiles of city: {share} ({area}) of its rectangle of 260 x 200 px lie in no" in lines
    assert f"{overlap / 52000:.2%} ({overlap * 0.09:,.0f} m²) of its rectangle lie in sev" in lines
    class_map = labels("city.tif")
    assert (class_map[90:, 70:150] == 255).all()
    assert (class_map == 255).sum() == gap
    assert f"{gap:,}" in result.stdout


def with_collar(pixels: np.ndarray) -> np.ndarray:
    """Zeros in the last 20 columns, and darkness elsewhere that is no zero in all bands."""
    changed = np.maximum(pixels, 1)
    changed[:, :, -20:] = 0
    return changed


@pytest.mark.parametrize("how", ["nodata", "mask", "alpha"])
def test_missing_data_of_a_tile_shows_what_lies_below(tmp_path: Path, how: str) -> None:
    left = with_collar(PIXELS[:, :, :150])
    profile: dict[str, Any] = {"nodata": 0} if how == "nodata" else {}
    valid = ((left != 0).any(axis=0) * 255).astype(np.uint8)
    if how == "alpha":
        left = np.concatenate([left, valid[None]])
        profile |= {"photometric": "RGB", "alpha": "YES"}
    right = np.concatenate([PIXELS, np.full((1, 200, 260), 255, np.uint8)])[: len(left)]
    # the later one lies above: its last 20 columns hold no data
    paths = [
        save_tile(tmp_path / "a" / "1.tif", Window(100, 0, 160, 200), right, **profile),
        save_tile(tmp_path / "a" / "2.tif", Window(0, 0, 150, 200), left, **profile),
    ]
    if how == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(paths[1], "r+") as dataset:
            dataset.write_mask(valid)
    mosaic = tile_mosaic(list(map(str, paths)))
    assert mosaic.missing == 0
    assert mosaic.overlapping * 260 * 200 == pytest.approx(50 * 200)
    mosaic.write_vrt(tmp_path / "mosaic.vrt")
    with rasterio.open(tmp_path / "mosaic.vrt") as dataset:
        assert dataset.dataset_mask().all()
        expected = np.concatenate([left[:3, :, :130], PIXELS[:, :, 130:]], axis=2)
        np.testing.assert_array_equal(dataset.read([1, 2, 3]), expected)


@pytest.mark.parametrize("how", ["none", "nodata", "mask", "alpha", "float"])
def test_a_gap_and_masks_are_as_tiles_have_them(tmp_path: Path, how: str) -> None:
    pixels = with_collar(PIXELS)
    valid = ((pixels != 0).any(axis=0) * 255).astype(np.uint8)
    profile: dict[str, Any] = {"nodata": 0} if how == "nodata" else {}
    if how == "alpha":
        pixels = np.concatenate([pixels, valid[None]])
        profile |= {"photometric": "RGB", "alpha": "YES"}
    if how == "float":
        pixels = np.where(valid == 0, np.nan, pixels).astype(np.float32)
        profile["nodata"] = np.nan
    names = [name for name in WINDOWS if name != "t11.tif"]
    for name in names:
        save_tile(tmp_path / name, WINDOWS[name], pixels, **profile)
        if how == "mask" and name.endswith("2.tif"):
            mask = valid[WINDOWS[name].toslices()]
            with (
                rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
                rasterio.open(tmp_path / name, "r+") as dataset,
            ):
                dataset.write_mask(mask)
    tile_mosaic([str(tmp_path / name) for name in names]).write_vrt(tmp_path / "mosaic.vrt")
    with open_scene(tmp_path / "mosaic.vrt") as mosaic:
        for name in names:
            place = WINDOWS[name]
            window = Place(place.row_off, place.col_off, place.height, place.width)
            with open_scene(tmp_path / name) as tile:
                own = Place(0, 0, *tile.shape)
                values = mosaic.read(window)
                np.testing.assert_array_equal(values, tile.read(own))
                valid = mosaic.read_valid(window, values)
                np.testing.assert_array_equal(valid, tile.read_valid(own, values))
                assert mosaic.dataset.colorinterp == tile.dataset.colorinterp
                np.testing.assert_equal(mosaic.dataset.nodatavals, tile.dataset.nodatavals)
        gap = Place(90, 70, 110, 80)
        assert not mosaic.read_valid(gap, mosaic.read(gap)).any()


def test_bands_keep_what_tiles_say_of_them(tmp_path: Path) -> None:
    paths = []
    for name in ("t00.tif", "t01.tif"):
        values = PIXELS[[2, 1, 0, 0]].astype(np.uint16) * 8
        path = save_tile(tmp_path / name, WINDOWS[name], values, nbits=12)
        with rasterio.open(path, "r+") as dataset:
            dataset.descriptions = ("Blue", "Green", "Red", "NIR")
            dataset.colorinterp = [*REVERSED, ColorInterp.undefined]
            dataset.scales, dataset.offsets = (0.0001,) * 4, (-0.1,) * 4
        paths.append(str(path))
    tile_mosaic(paths).write_vrt(tmp_path / "m.vrt")
    with rasterio.open(tmp_path / "m.vrt") as mosaic, rasterio.open(paths[0]) as tile:
        for name in ("descriptions", "colorinterp", "scales", "offsets", "dtypes", "crs"):
            assert getattr(mosaic, name) == getattr(tile, name)
        assert mosaic.tags(1, ns="IMAGE_STRUCTURE")["NBITS"] == "12"
        assert mosaic.transform == tile.transform


def test_palettes_that_differ_are_shown_as_colours(tmp_path: Path) -> None:
    numbers = (PIXELS[:1] // 16).astype(np.uint8)
    paths = []
    for turn, name in enumerate(("t00.tif", "t01.tif")):
        path = save_tile(tmp_path / name, WINDOWS[name], numbers)
        with rasterio.open(path, "r+") as dataset:
            dataset.write_colormap(
                1, {i: (i, (i * 3 + turn * 90) % 256, 255 - i) for i in range(256)}
            )
        paths.append(str(path))
    tile_mosaic(paths).write_vrt(tmp_path / "m.vrt")
    with rasterio.open(tmp_path / "m.vrt") as mosaic:
        for name, path in zip(("t00.tif", "t01.tif"), paths, strict=True):
            with rasterio.open(f"vrt://{path}?expand=rgb") as tile:
                window = WINDOWS[name]
                np.testing.assert_array_equal(mosaic.read(window=window), tile.read())


REVERSED = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
TURNED = PLACE @ rasterio.Affine.rotation(30)
UPSIDE_DOWN = PLACE @ rasterio.Affine.scale(1, -1)


@pytest.mark.parametrize("place", [TURNED, UPSIDE_DOWN])
def test_turned_grids_are_grids(tmp_path: Path, place: rasterio.Affine) -> None:
    paths = []
    for name in reversed(WINDOWS):  # whichever comes first
        window = WINDOWS[name]
        corner = place @ rasterio.Affine.translation(window.col_off, window.row_off)
        paths.append(str(save_tile(tmp_path / name, window, transform=corner)))
    tile_mosaic(paths).write_vrt(tmp_path / "m.vrt")
    with rasterio.open(tmp_path / "m.vrt") as mosaic:
        np.testing.assert_array_equal(mosaic.read(), PIXELS)
        assert mosaic.transform.almost_equals(place, 1e-6)


def moved(dx: float, dy: float = 0.0) -> rasterio.Affine:
    """The place of the tile t01, so many pixels off."""
    return PLACE @ rasterio.Affine.translation(70 + dx, dy)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crs": "EPSG:32639"}, "is in EPSG:32639 where {} is in EPSG:32640; .*gdalwarp -t_srs"),
        ({"crs": None}, "has no CRS where {} is in EPSG:32640; .*`crs`|--crs"),
        ({"nodata": 0}, "has the nodata value 0.0 where {} has the nodata value none; .*a_nodata"),
        ({"bands": 2}, "has 2 bands where {} has 3 bands; .*gdal_translate -b"),
        ({"dtype": "uint16"}, "holds uint16 where {} holds uint8; .*gdal_translate -ot"),
        ({"transform": moved(0.3)}, r"is 0\.3 px off the grid of the others; .*gdalwarp -tr -tap"),
        ({"transform": moved(0) @ rasterio.Affine.scale(2)}, r"has pixels of 0\.6 x 0\.6 where"),
        ({"transform": moved(0) @ rasterio.Affine.scale(1.01, 1)}, r"has pixels of 0\.303 x 0\.3"),
        ({"transform": moved(0) @ rasterio.Affine.scale(1, -1)}, "the first row at the bottom"),
        ({"transform": None}, "has no place on the map, so it is no tile of a mosaic; .*world"),
        ({"photometric": "CMYK"}, "calls its bands"),
    ],
)
def test_a_tile_unlike_the_others_is_named(
    run: Run, tiles: Path, changes: dict[str, Any], words: str
) -> None:
    made = dict(changes)
    bands, dtype = made.pop("bands", 3), made.pop("dtype", "uint8")
    pixels = PIXELS[:bands].astype(dtype)
    if "photometric" in made:
        made = {}
    path = save_tile(tiles / "t01.tif", WINDOWS["t01.tif"], pixels, **made)
    if "photometric" in changes:
        with rasterio.open(path, "r+") as dataset:
            dataset.colorinterp = REVERSED
    if made.get("transform", 0) is None:
        save_scene(path, pixels, crs="EPSG:32640")
    line = one_error_line(run(tiles, "--mosaic", "--out", "city.tif"))
    assert line.startswith(f"error: {path}: ")
    assert re.search(words.format(tiles / "t00.tif"), line), line
    assert not Path("city.tif").exists()


def test_damaged_tiles_are_one_line(run: Run, tiles: Path) -> None:
    for name in ("t01.tif", "t12.tif"):
        (tiles / name).write_bytes(b"II*\0nothing")
    line = one_error_line(run(tiles, "--mosaic", "--out", "city.tif"))
    assert line.startswith(f"error: {tiles / 't01.tif'}: is not a raster that GDAL can read")
    assert line.endswith("1 more of 6 tiles can't be used either")


def test_places_may_be_rounded(tmp_path: Path, tiles: Path) -> None:
    rounded = [
        str(
            save_tile(
                tiles / name,
                window,
                transform=PLACE
                @ rasterio.Affine.translation(
                    window.col_off + 0.04 * (i % 3 - 1), window.row_off - 0.03 * (i % 2)
                ),
            )
        )
        for i, (name, window) in enumerate(WINDOWS.items())
    ]
    tile_mosaic(rounded).write_vrt(tmp_path / "m.vrt")
    with rasterio.open(tmp_path / "m.vrt") as mosaic:
        np.testing.assert_array_equal(mosaic.read(), PIXELS)


def test_tiles_of_a_server_are_one_scene(run: Run, tmp_path: Path, tiles: Path) -> None:
    assert run(tiles, "--mosaic", "--out", "city.tif").exit_code == 0
    with serving(tiles) as port:
        names = [f"http://127.0.0.1:{port}/{name}" for name in WINDOWS]
        result = run(*names, "--mosaic", "--out", "served.tif")
        assert result.exit_code == 0, result.output
        tile_mosaic(names).write_vrt(tmp_path / "m.vrt")
    assert "/vsicurl/http://" in (tmp_path / "m.vrt").read_text()  # in parts, not as a whole
    np.testing.assert_array_equal(labels("served.tif"), labels("city.tif"))


def test_far_tiles_and_hidden_ones_are_told(run: Run, tmp_path: Path) -> None:
    window = Window(0, 0, 70, 90)
    paths = [
        save_tile(tmp_path / "far" / "a.tif", window),
        save_tile(tmp_path / "far" / "b.tif", window),
    ]
    shift = PLACE @ rasterio.Affine.translation(2_000_000, 1_000_000)
    save_tile(tmp_path / "far" / "c.tif", window, transform=shift)
    result = run(tmp_path / "far", "--mosaic", "--out", "far.tif", "--dry-run")
    assert result.exit_code == 1
    assert f"{paths[0]} lies whole below {paths[1]}; leave one out" in result.stderr
    assert "lie in no tile, and get no class; tiles that are far apart are mapped" in result.stderr
    assert "3 tiles of far: has 2000070 x 1000090 px, too many for one map" in result.stderr
    assert not list(Path().iterdir())  # nothing was written


def test_full_brightness_of_tiles_far_apart_is_that_of_their_values(tmp_path: Path) -> None:
    window, values = Window(0, 0, 70, 90), PIXELS.astype(np.uint16) * 16
    # to all sides of an empty middle, and none in a corner
    places = [(0, 100_000), (100_000, 0), (200_000, 100_000), (100_000, 200_000)]
    paths = [
        save_tile(
            tmp_path / f"{number}.tif",
            window,
            values,
            transform=PLACE @ rasterio.Affine.translation(*place),
        )
        for number, place in enumerate(places)
    ]
    tile_mosaic(list(map(str, paths))).write_vrt(tmp_path / "far.vrt")
    with open_scene(tmp_path / "far.vrt") as scene:
        estimate = estimated_scale(scene_sample(scene))
    assert estimate.value == 4095
    assert "as in 12-bit values" in estimate.reason


def test_an_area_cuts_a_mosaic(run: Run, tmp_path: Path, tiles: Path, whole: Path) -> None:
    box = shapely.box(*(PLACE @ (40.5, 120.5)), *(PLACE @ (140.5, 60.5)))
    aoi = save_area(tmp_path / "aoi.gpkg", box, "EPSG:32640")
    assert run(whole, "--aoi", aoi, "--crop").exit_code == 0
    assert run(tiles, "--mosaic", "--aoi", aoi, "--crop").exit_code == 0
    named = hrrsi.info("city_classes.tif").data["tiles"]
    assert named == [str(tiles / name) for name in WINDOWS]
    np.testing.assert_array_equal(labels("city_classes.tif"), labels("whole_classes.tif"))
    assert labels("city_classes.tif").shape == (61, 101)
    line = one_error_line(run(tiles, "--mosaic", "--aoi", aoi, "--crop", "--tiles"))
    assert "--crop makes one map as large as the area of interest, and --tiles one a tile" in line
    result = run(tiles, "--mosaic", "--aoi", aoi, "--tiles", "--out", "maps")
    assert result.exit_code == 0, result.output
    assert "6 tiles of city: 2 lie outside of the area of interest, and get no map" in result.stderr
    names = {p.name for p in Path("maps").glob("*.tif")}
    assert names == {f"t{i}{j}_classes.tif" for i in range(2) for j in range(2)}


def test_an_area_in_a_gap_is_on_no_tile(run: Run, tmp_path: Path, tiles: Path) -> None:
    (tiles / "t11.tif").unlink()
    box = shapely.box(*(PLACE @ (90, 180)), *(PLACE @ (130, 110)))
    aoi = save_area(tmp_path / "aoi.gpkg", box, "EPSG:32640")
    result = run(tiles, "--mosaic", "--tiles", "--aoi", aoi, "--out", "maps")
    assert result.exit_code == 1
    assert "error: 5 tiles of city: no tile lies in the area of interest" in result.stderr
    assert not list(Path("maps").iterdir())


def test_tiles_need_a_mosaic_and_a_folder(run: Run, tiles: Path) -> None:
    assert "--tiles: are those of a mosaic; give --mosaic" in one_error_line(run(tiles, "--tiles"))
    line = one_error_line(run(tiles, "--mosaic", "--tiles", "--out", "map.tif"))
    assert "map.tif: is one file for 6 scenes; let --out be a folder" in line
    line = one_error_line(run(tiles, "--mosaic", "--out", tiles / "t00.tif", "--overwrite"))
    assert "is read, and would be replaced" in line
