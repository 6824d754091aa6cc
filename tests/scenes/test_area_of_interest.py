"""The area of interest, pixel by pixel against shapely."""

import warnings
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin
from rasterio.warp import transform
from samples.opened_windows import opened_windows

from hrrsi.errors import FileWarning, InputError
from hrrsi.scenes.missing_data import undeclared_gap
from hrrsi.scenes.polygons import AreaOfInterest
from hrrsi.scenes.value_scale import scene_sample
from hrrsi.scenes.windows import Window, window_grid

HEIGHT, WIDTH = 130, 170
PLACE = from_origin(155_000, 463_000, 0.5, 0.5)
# in pixels: columns and rows; one has a hole, one crosses the scene's edge
SHAPES = [
    shapely.Polygon(
        [(10.2, 8.3), (70.1, 15.7), (55.4, 60.6), (20.9, 44.2)],
        [[(30.3, 20.2), (45.1, 22.8), (40.4, 40.1)]],
    ),
    shapely.Polygon([(120.4, 90.3), (260.7, 95.1), (250.2, 240.8), (131.6, 170.9)]),
    shapely.MultiPolygon([shapely.box(90.3, 3.2, 99.8, 9.9), shapely.box(2.2, 100.3, 9.7, 119.8)]),
]


def scene_file(path: Path, **profile: object) -> Path:
    form = {"crs": "EPSG:28992", "transform": PLACE, **profile}
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=HEIGHT, width=WIDTH, dtype="uint8", **form
    ) as dataset:
        dataset.write(np.full((3, HEIGHT, WIDTH), 9, np.uint8))
    return path


def polygon_file(
    path: Path,
    shapes: list[shapely.Geometry],
    place: Affine = PLACE,
    crs: str | None = "EPSG:28992",
) -> Path:
    """Write polygons given in pixels, as what they are on the map."""

    def on_map(xy: np.ndarray) -> np.ndarray:
        return np.column_stack(place @ (xy[:, 0], xy[:, 1]))

    moved = [shapely.transform(shape, on_map) for shape in shapes]
    if crs not in (None, "EPSG:28992"):
        moved = [
            shapely.transform(
                shapely.segmentize(s, 0.5),
                lambda xy: np.column_stack(transform("EPSG:28992", crs, xy[:, 0], xy[:, 1])),
            )
            for s in moved
        ]
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(moved)), [], [], geometry_type="Unknown", crs=crs
    )
    return path


def expected(shapes: list[shapely.Geometry]) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    inside: np.ndarray = shapely.contains_xy(shapely.union_all(shapes), columns, rows)
    return inside


def assert_is(
    area: AreaOfInterest | None, inside: np.ndarray, unsure: np.ndarray | None = None
) -> None:
    """Assert an area in windows of several sizes."""
    assert area is not None
    if unsure is not None:
        whole = area.inside(Window(0, 0, HEIGHT, WIDTH))
        assert unsure.sum() < 40
        inside = np.where(unsure, whole, inside)
    for size in (23, 64, 200):
        for row in window_grid(HEIGHT, WIDTH, size, size):
            for w in row:
                here = inside[w.row : w.row + w.height, w.col : w.col + w.width]
                np.testing.assert_array_equal(area.inside(w), here)
                assert area.inside(w).dtype == bool
                assert area.touches(w) or not here.any()
            assert area.touched(row).tolist() == [area.touches(w) for w in row]


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".shp"])
@pytest.mark.filterwarnings("ignore:.*figures of the Earth:hrrsi.errors.FileWarning")
def test_pixels_whose_centre_lies_in_a_polygon(tmp_path: Path, suffix: str) -> None:
    crs = "EPSG:4326" if suffix == ".geojson" else "EPSG:28992"
    shapes = SHAPES
    if suffix in (".fgb", ".shp"):
        shapes = [p for s in SHAPES for p in getattr(s, "geoms", [s])]
    aoi = polygon_file(tmp_path / f"aoi{suffix}", shapes, crs=crs)
    with opened_windows(scene_file(tmp_path / "a.tif"), aoi=aoi) as source:
        # GeoJSON keeps seven decimals of a degree: a centimetre
        edges = shapely.union_all(SHAPES).boundary.buffer(0.05)
        assert_is(source.area, expected(SHAPES), expected([edges]))
        assert not source.area.touches(Window(110, 40, 10, 40))


@pytest.mark.parametrize(
    "place",
    [
        PLACE @ Affine.rotation(33),
        from_origin(155_000, 463_000, 0.5, -0.5),
        PLACE @ Affine.shear(20, 5),
    ],
)
def test_turned_and_flipped_scenes(tmp_path: Path, place: Affine) -> None:
    aoi = polygon_file(tmp_path / "aoi.gpkg", SHAPES, place)
    with opened_windows(scene_file(tmp_path / "a.tif", transform=place), aoi=aoi) as source:
        assert_is(source.area, expected(SHAPES))


def test_scenes_placed_by_control_points(tmp_path: Path) -> None:
    turned = PLACE @ Affine.rotation(12)
    points = [
        GroundControlPoint(row, col, *(turned @ (col, row)))
        for row, col in ((0, 0), (0, WIDTH), (HEIGHT, 0), (HEIGHT, WIDTH))
    ]
    path = scene_file(tmp_path / "a.tif", transform=None, gcps=points)
    aoi = polygon_file(tmp_path / "aoi.gpkg", SHAPES, turned)
    with opened_windows(path, aoi=aoi) as source:
        assert_is(source.area, expected(SHAPES))
        assert source.scene.resolution == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("place", [None, from_origin(7, 5, 0.25, 0.25)])
def test_without_any_crs_the_transform_counts(tmp_path: Path, place: Affine | None) -> None:
    aoi = polygon_file(tmp_path / "aoi.gpkg", SHAPES, place or Affine.identity(), crs=None)
    path = scene_file(tmp_path / "a.tif", crs=None, transform=place)
    with opened_windows(path, aoi=aoi) as source:
        assert_is(source.area, expected(SHAPES))


@pytest.mark.long
def test_large_and_many_polygons(tmp_path: Path) -> None:
    angles = np.linspace(0, 2 * np.pi, 5000, endpoint=False)
    radii = 50 + 6 * np.sin(37 * angles)
    star = shapely.Polygon(
        np.column_stack([85 + radii * np.cos(angles), 65 + radii * np.sin(angles)])
    )
    random = np.random.default_rng(0)
    small = [shapely.Point(x, y).buffer(0.8) for x, y in random.random((600, 2)) * (WIDTH, HEIGHT)]
    shapes = [star, *small]
    aoi = polygon_file(tmp_path / "aoi.gpkg", shapes)
    with opened_windows(scene_file(tmp_path / "a.tif"), aoi=aoi) as source:
        assert_is(source.area, expected(shapes))


def test_the_area_lies_on_the_own_grid_of_a_resampled_scene(tmp_path: Path) -> None:
    aoi = polygon_file(tmp_path / "aoi.gpkg", SHAPES)
    with opened_windows(scene_file(tmp_path / "a.tif"), aoi=aoi, resolution=1.3) as source:
        assert min(source.steps) > 2
        assert_is(source.area, expected(SHAPES))


@pytest.mark.parametrize(
    ("shapes", "crs", "scene_crs", "message"),
    [
        ([shapely.box(900, 900, 910, 910)], "EPSG:28992", "EPSG:28992", "no polygon lies on"),
        # its extent touches the scene's, the polygon does not
        (
            [shapely.LineString([(300, -300), (300, 300), (-300, 300)]).buffer(5)],
            "EPSG:28992", "EPSG:28992", "no polygon lies on",
        ),
        (SHAPES, None, "EPSG:28992", "aoi.gpkg: has no CRS, but"),
        (SHAPES, "EPSG:28992", None, "a.tif: has no CRS, but"),
        ([shapely.Point(30, 30)], "EPSG:28992", "EPSG:28992", "feature 1 is a Point"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(
    tmp_path: Path,
    shapes: list[shapely.Geometry],
    crs: str | None,
    scene_crs: str | None,
    message: str,
) -> None:
    aoi = polygon_file(tmp_path / "aoi.gpkg", shapes, crs=crs)
    path = scene_file(tmp_path / "a.tif", crs=scene_crs)
    with pytest.raises(InputError, match=message), opened_windows(path, aoi=aoi):
        pass


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    path = scene_file(tmp_path / "a.tif")
    with (
        pytest.raises(InputError, match="no such file"),
        opened_windows(path, aoi=tmp_path / "b.gpkg"),
    ):
        pass


def test_a_layer_is_chosen_by_name(tmp_path: Path) -> None:
    path = scene_file(tmp_path / "a.tif")
    aoi = polygon_file(tmp_path / "aoi.gpkg", SHAPES[:1])
    more = polygon_file(tmp_path / "more.gpkg", SHAPES[1:])
    meta, _, shapes, _ = pyogrio.raw.read(more)
    crs, kind = meta["crs"], "Unknown"
    pyogrio.raw.write(aoi, shapes, [], [], geometry_type=kind, crs=crs, layer="parcels")
    with opened_windows(path, aoi=f"{aoi}|layername=parcels") as source:
        assert_is(source.area, expected(SHAPES[1:]))
    for name, line in (
        ("", r"holds 2 layers of shapes \(aoi, parcels\); choose one: '.*aoi.gpkg\|layername=aoi'"),
        ("|layername=roads", "no layer of shapes named 'roads'; choose from aoi, parcels"),
        ("|subset=x > 3", r"'\|subset=x > 3', is not understood; choose a layer with"),
    ):
        with pytest.raises(InputError, match=line), opened_windows(path, aoi=f"{aoi}{name}"):
            pass


def test_collections_count_as_the_polygons_in_them(tmp_path: Path) -> None:
    line = shapely.LineString([(0, 0), (90, 90)])
    inner = shapely.GeometryCollection([line, *SHAPES[1:]])
    aoi = polygon_file(
        tmp_path / "aoi.gpkg", [shapely.GeometryCollection([line, inner, SHAPES[0]])]
    )
    with opened_windows(scene_file(tmp_path / "a.tif"), aoi=aoi) as source:
        assert_is(source.area, expected(SHAPES))


HALF = 20037508.342789244


def test_the_extent_on_a_map_of_the_world_holds_edges_that_bend_there(tmp_path: Path) -> None:
    size, side = 2 * HALF / 2**26, 2**26
    (tmp_path / "world.vrt").write_text(
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>EPSG:3857</SRS><GeoTransform>'
        f'{-HALF}, {size}, 0, {HALF}, 0, {-size}</GeoTransform><VRTRasterBand dataType="Byte" '
        'band="1"/></VRTDataset>'
    )
    box = shapely.box(450_000, 5_400_000, 550_000, 5_500_000)
    pyogrio.raw.write(
        tmp_path / "aoi.gpkg",
        np.array([shapely.to_wkb(box)], dtype=object),
        [],
        [],
        geometry_type="Polygon",
        crs="EPSG:25832",
    )
    edges = shapely.get_coordinates(shapely.segmentize(box, 50))
    x, y = (np.array(v) for v in transform("EPSG:25832", "EPSG:3857", *edges.T))
    options = {"bands": (1,), "expected_bands": 1}
    with opened_windows(tmp_path / "world.vrt", aoi=tmp_path / "aoi.gpkg", **options) as source:
        assert source.area is not None
        row, col, height, width = source.area.extent
    # with corners alone, 596 px at the upper edge would be missing
    assert abs(row - (HALF - y.max()) / size) < 2
    assert abs(row + height - (HALF - y.min()) / size) < 2
    assert abs(col - (x.min() + HALF) / size) < 2
    assert abs(col + width - (x.max() + HALF) / size) < 2


def test_values_are_sampled_within_the_area(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    form = {"count": 1, "dtype": "uint8", "crs": "EPSG:28992", "transform": PLACE, "tiled": True}
    with rasterio.open(
        path, "w", driver="GTiff", height=2100, width=2600, compress="deflate", **form
    ) as dataset:
        values = np.full((2100, 2600), 9, np.uint8)
        values[:, :700] = 3
        values[-300:] = 0  # a collar, but not in the area
        dataset.write(values, 1)
    shapes = [shapely.box(0, 0, 600, 600), shapely.box(10, 900, 50, 1500)]
    aoi = polygon_file(tmp_path / "aoi.gpkg", shapes)
    with opened_windows(path, aoi=aoi, bands=(1,), expected_bands=1) as source:
        assert set(scene_sample(source.scene).values.flat) == {0, 3, 9}
        assert set(scene_sample(source.scene, None, source.area).values.flat) == {3}
        gap = undeclared_gap(source.scene)
        assert gap is not None
        assert gap.value == 0
        assert undeclared_gap(source.scene, source.area) is None


def test_an_alpha_of_a_part_is_looked_at_within_the_area(tmp_path: Path) -> None:
    values = np.full((4, 400, 500), 9, np.uint8)
    values[3, :, 200:] = np.arange(400 * 300).reshape(400, 300) % 200  # as near infrared has
    values[3, :, :200] = 255
    form = {"count": 4, "dtype": "uint8", "crs": "EPSG:28992", "transform": PLACE, "alpha": "YES"}
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=400, width=500, photometric="RGB", **form
    ) as dataset:
        dataset.write(values)
    aoi = polygon_file(tmp_path / "aoi.gpkg", [shapely.box(0, 0, 100, 400)])
    with opened_windows(tmp_path / "a.tif", aoi=aoi) as source:
        assert source.scene.has_imagery_alpha
    with opened_windows(tmp_path / "a.tif", aoi=aoi, part=Window(0, 0, 400, 500)) as source:
        assert not source.scene.has_imagery_alpha


@pytest.mark.parametrize(
    ("crs", "place", "box"),
    [
        # a straight edge along 51 N from far west to far east, which bends in UTM by kilometres
        ("EPSG:32632", (500_000, 5_650_000), (-40, 51, 58, 80)),
        # Colorado, and a tile at its southern border
        ("EPSG:32613", (500_000, 4_094_900), (-109.05, 37, -102.05, 41)),
        # from the Black Sea to Kamchatka: corners that UTM does not reach
        ("EPSG:32637", (412_000, 6_180_000), (28, 45, 180, 78)),
        ("EPSG:32637", (412_000, 6_180_000), (-180, -90, 180, 90)),
    ],
)
@pytest.mark.parametrize("side", [0.5, 8])
def test_edges_far_longer_than_the_scene_bend_with_it(
    crs: str, place: tuple[float, float], box: tuple[float, ...], side: float, tmp_path: Path
) -> None:
    north_west = from_origin(*place, side, side)
    scene = scene_file(tmp_path / "a.tif", crs=crs, transform=north_west)
    polygon = shapely.box(*box)
    pyogrio.raw.write(
        tmp_path / "aoi.gpkg",
        np.array([shapely.to_wkb(polygon)], dtype=object),
        [],
        [],
        geometry_type="Polygon",
        crs="EPSG:4326",
    )
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    x, y = north_west @ (columns, rows)
    longitudes, latitudes = transform(crs, "EPSG:4326", x.ravel(), y.ravel())
    inside = shapely.contains_xy(polygon, longitudes, latitudes).reshape(HEIGHT, WIDTH)
    with opened_windows(scene, aoi=tmp_path / "aoi.gpkg") as source:
        assert source.area is not None
        taken = source.area.inside(Window(0, 0, HEIGHT, WIDTH))
    assert (taken != inside).mean() < 0.01  # a pixel along the edge
    assert inside.any()


def test_figures_of_the_earth_that_differ_are_told_once(tmp_path: Path) -> None:
    scene = scene_file(tmp_path / "a.tif")
    aoi = polygon_file(tmp_path / "aoi.gpkg", SHAPES, crs="EPSG:4326")
    with pytest.warns(FileWarning, match=r"aoi.gpkg: is in EPSG:4326 where .* in EPSG:28992"):
        open_with_area(scene, aoi)
    with warnings.catch_warnings(action="error"):
        open_with_area(scene, aoi)
        open_with_area(scene, polygon_file(tmp_path / "same.gpkg", SHAPES))


def open_with_area(scene: Path, aoi: Path) -> None:
    with opened_windows(scene, aoi=aoi):
        pass
