"""Map sheets: lengths and directions measured in the picture."""

import os
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import Affine, from_origin

from hrrsi.maps.preview import scale_bar, write_preview
from hrrsi.maps.rasters import MapSummary, write_class_raster
from hrrsi.scenes.raster_opening import open_raster

HEIGHT, WIDTH = 120, 150
COLOURS = [(200, 30, 30), (30, 200, 30)]
LEGEND, BAR = 380, 250


def sheet(
    path: Path,
    crs: str | None,
    transform: Affine | None,
    shape: tuple[int, int] = (HEIGHT, WIDTH),
) -> np.ndarray:
    """Write a scene, its map and the sheet of both, and return what a PNG of it shows."""
    folder = path.parent
    scene, class_map = folder / "scene.tif", folder / "map.tif"
    height, width = shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 3, "dtype": "uint8"}
    with rasterio.open(scene, "w", crs=crs, transform=transform, **profile) as dataset:
        dataset.write(np.full((3, *shape), 128, dtype=np.uint8))
    labels = np.zeros(shape, dtype=np.uint8)
    labels[:, width // 3 :] = 1
    tags = {"WEIGHTS": "w.safetensors", "MODEL": "ued", "VERSION": "0.1"}
    with open_raster(scene) as dataset:
        write_class_raster(
            class_map, dataset, [labels], classes=["a", "b"], colours=COLOURS, has_nodata=False,
            provenance=tags,
        )  # fmt: skip
    os.utime(class_map, (10**9, 10**9))
    summary = MapSummary(
        scene=str(scene), height=height, width=width, classes=["a", "b"], colours=COLOURS,
        class_pixels=[1, 2], nodata_pixels=0, pixel_area=None, areas=None,
    )  # fmt: skip
    write_preview(path, summary, class_map)
    if path.suffix == ".pdf":
        return np.zeros(0)
    return np.asarray(Image.open(path).convert("RGB"))


def panel_sides(picture: np.ndarray) -> tuple[int, int]:
    """Return height and width of the map's panel, by its colours."""
    is_map = (picture[:, :-460] == COLOURS[1]).all(-1)  # without the legend
    rows, columns = np.flatnonzero(is_map.any(1)), np.flatnonzero(is_map.any(0))
    return int(np.ptp(rows)) + 1, round((int(np.ptp(columns)) + 1) * 3 / 2)


def bar_length(picture: np.ndarray) -> int:
    """Return the pixels of the scale bar: the longest dark row right of the panels."""
    dark = (picture[:, -420:] < 90).all(-1)
    return max(int(row.argmin()) for row in dark if row[0])


def north_of(picture: np.ndarray) -> float:
    """Return the direction of the N, in degrees clockwise from up."""
    dark = (picture[:, -160:] < 90).all(-1)
    rows, columns = np.nonzero(dark)
    # the arrow's middle is 126 px left of the edge less the margin
    bar_row = max(np.flatnonzero((picture[:, -420:-400] < 90).all((1, 2))))
    x, y = columns - (160 - 90), rows - (bar_row + 14 - 76)
    far = (np.hypot(x, y) > 44) & (np.hypot(x, y) < 66)
    return float(np.degrees(np.arctan2(x[far].mean(), -y[far].mean())))


@pytest.mark.parametrize(
    ("crs", "transform", "metres", "north"),
    [
        ("EPSG:32632", from_origin(500_000, 6_650_000, 0.5, 0.5), 0.5, 0),
        # rows go down to the south-east, columns to the north-east: north is up and to the right
        ("EPSG:32632", Affine(0.4, 0.3, 500_000, 0.3, -0.4, 6_650_000), 0.5, 36.87),
        ("EPSG:32632", Affine(0.4, -0.3, 500_000, -0.3, -0.4, 6_650_000), 0.5, -36.87),
        ("EPSG:32632", Affine(0.5, 0, 500_000, 0, 0.5, 6_650_000), 0.5, 180),
        # a degree at 60 degrees north: 55.80 and 111.41 km
        ("EPSG:4326", from_origin(9, 60, 1e-5, 1e-5), 0.5580, 0),
        # US survey feet
        ("EPSG:2263", from_origin(980_000, 200_000, 1, 1), 1.0, 0),
        (None, None, 1.0, None),
    ],
)
def test_bars_and_arrows_are_right(
    tmp_path: Path, crs: str | None, transform: Affine | None, metres: float, north: float | None
) -> None:
    picture = sheet(tmp_path / "sheet.png", crs, transform)
    height, width = panel_sides(picture)
    down = 1.1141 if crs == "EPSG:4326" else metres
    assert height / width == pytest.approx(HEIGHT * down / (WIDTH * metres), abs=0.01)
    length = bar_length(picture) * metres * WIDTH / width
    expected = float(scale_bar(metres * WIDTH / width, BAR)[1])
    assert length == pytest.approx(expected, rel=0.02)
    assert {1, 2, 5} & {round(expected / 10**p, 6) for p in range(-2, 4)}
    if north is not None:
        turned = (north_of(picture) - north + 180) % 360 - 180
        assert abs(turned) < 4


@pytest.mark.parametrize("shape", [(4000, 3), (3, 4000), (1, 1)])
def test_bars_are_right_whatever_the_shape(tmp_path: Path, shape: tuple[int, int]) -> None:
    grid = from_origin(500_000, 6_650_000, 0.2, 0.2)
    picture = sheet(tmp_path / "sheet.png", "EPSG:32632", grid, shape)
    metres = 0.2 * max(max(shape) / 900, 1 / 4)
    expected = float(scale_bar(metres, BAR)[1])
    assert bar_length(picture) * metres == pytest.approx(expected, rel=0.02)


def test_bars_have_round_lengths() -> None:
    for metres in np.geomspace(1e-4, 1e5, 97):
        pixels, text = scale_bar(metres, 250)
        length = float(text.replace(",", ""))
        assert pixels * metres == pytest.approx(length)
        assert 250 / 2.5 - 1e-9 <= pixels <= 250 + 1e-9
        assert re.fullmatch(r"0\.0*[125]|[125][0,]*", text)


def test_a_page_shows_the_same_as_the_picture(tmp_path: Path) -> None:
    transform = from_origin(500_000, 6_650_000, 0.5, 0.5)
    picture = sheet(tmp_path / "sheet.png", "EPSG:32632", transform)
    sheet(tmp_path / "sheet.pdf", "EPSG:32632", transform)
    content = (tmp_path / "sheet.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    (box,) = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+)", content)
    assert float(box[0]) == pytest.approx(297 / 25.4 * 72, abs=0.1)  # as wide as A4
    embedded = content[content.index(b"\xff\xd8") :]
    with Image.open(BytesIO(embedded)) as page:
        shown = np.asarray(page.convert("RGB"), dtype=float)
    assert np.abs(shown - picture).mean() < 1
    assert b"D:20010909014640Z" in content  # the map's own time, so that bytes are the same again
