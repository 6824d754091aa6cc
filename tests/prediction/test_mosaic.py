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
from rasterio.windows import Window
from samples.mosaic_tiles import PIXELS, PLACE, REVERSED, WINDOWS, save_tile
from samples.predicted_scenes import notices, one_error_line, save_area, save_scene
from samples.range_server import serving

import hrrsi
from hrrsi.prediction.options import MapOptions, OutputOptions
from hrrsi.scenes.mosaic import tile_mosaic

Run = Callable[..., Any]


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
    line = one_error_line(run(tiles, "--mosaic", "--out", "other.tif", "--nodata", "auto"))
    assert "--nodata auto: is not looked for in tiles that overlap; give the value" in line
    class_map = labels("city.tif")
    assert (class_map[90:, 70:150] == 255).all()
    assert (class_map == 255).sum() == gap
    assert f"{gap:,}" in result.stdout


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
