"""Turns the imagery behind the packaged weights into scenes, labels and schemes for `hrrsi tile`.

Every set keeps what its labels say and no more: NAIP tells vegetation from the rest (by its near
infrared), outlines tell buildings from the rest, of which colours say what is green, and UC
Merced's lists of what a crop shows say which classes it can hold; its rivers and some of its roofs
were drawn by hand, and so were paved roads beside the outlines (``drone_roads.geojson``). Dubai
tells all five classes apart, and is tiled as it is.

    python tools/training_imagery.py IMAGERY --out scenes/

IMAGERY holds ``naip/CITY/*.tif``, ``buildings/PLACE/{images,labels}`` and
``ucmerced/CLASS/*.jpg`` with ``ucmerced/multilabels.tsv``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from PIL import Image
from rasterio.features import rasterize
from rasterio.transform import from_origin
from rasterio.warp import transform_geom
from tqdm import tqdm
from training_scenes import (
    CLASSES,
    IGNORED,
    green_excess,
    label_index,
    write_scene,
    write_scheme,
)
from ucmerced_scenes import rivers, roofs, ucmerced

# NDVI above the first is vegetation, below the second is none; between them nobody knows.
VEGETATION, NO_VEGETATION = 0.15, 0.05
# The excess of green from which on drones saw vegetation; by eye, since cameras and soils differ.
# Below it nobody knows: learning that what is not green is none missed more of Dubai's plants.
GREEN = {"nepal": 0.08, "philippines": 0.11, "tanzania": 0.17, "uganda": 0.10}
# what scenes with outlines show: buildings, what is green, roads, all else
BUILDINGS_LABELS = [["Building"], ["Vegetation"], ["Road"], ["Land", "Road", "Vegetation"]]
DRONE_ROADS = Path(__file__).with_name("drone_roads.geojson")
# metres per pixel of a web map at its first level, at the equator
WEB_MAP_PIXEL = 156543.03392804097


def main() -> None:
    """Write the scenes of every set that is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("imagery", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    write_sets(arguments.imagery, arguments.out)


def write_sets(imagery: Path, out: Path) -> None:
    """Write the scenes, labels and schemes of every set that is there."""
    sources = (
        ("naip", naip),
        ("buildings", buildings),
        ("ucmerced", ucmerced),
        ("ucmerced", rivers),
        ("ucmerced", roofs),
    )
    for source, write in sources:
        if (imagery / source).is_dir():
            write(imagery / source, out / write.__name__)


def naip(folder: Path, out: Path) -> None:
    """Write NAIP's crops in red, green and blue, and what their near infrared says of vegetation.

    The two years of a place are one scene's name apart (``CITY_YEAR_N``), so split by city.
    """
    labels = [["Vegetation"], [name for name in CLASSES if name != "Vegetation"]]
    write_scheme(out, "naip", labels)
    for path in tqdm(sorted(folder.glob("*/*.tif")), "naip", unit=" crops", disable=None):
        with rasterio.open(path) as dataset:
            bands, place = dataset.read(), (dataset.crs, dataset.transform)
        red, infrared = bands[0].astype(np.float32), bands[3].astype(np.float32)
        ndvi = (infrared - red) / np.maximum(infrared + red, 1)
        label = np.full(ndvi.shape, IGNORED, np.uint8)
        label[ndvi > VEGETATION] = label_index(labels, labels[0])
        label[ndvi < NO_VEGETATION] = label_index(labels, labels[1])
        write_scene(out, path.stem, bands[:3], label, *place)


def buildings(folder: Path, out: Path) -> None:
    """Write tiles of web maps, joined where they touch, with buildings and what lies beside them.

    Scenes are ``PLACE_ZOOM_NUMBER``; each is a group of tiles that touch, and pixels between them
    hold no data. None of these places has water.
    """
    write_scheme(out, "buildings", BUILDINGS_LABELS)
    with DRONE_ROADS.open(encoding="utf-8") as file:
        roads = [feature["geometry"] for feature in json.load(file)["features"]]
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        tiles = {tile_address(path): path for path in place.glob("images/*.tif")}
        groups = list(touching(tiles))
        for number, group in enumerate(tqdm(groups, place.name, unit=" scenes", disable=None)):
            zoom, first_column, first_row = (min(tile[axis] for tile in group) for axis in range(3))
            columns = max(tile[1] for tile in group) - first_column + 1
            rows = max(tile[2] for tile in group) - first_row + 1
            size = WEB_MAP_PIXEL / 2**zoom
            image = np.zeros((3, 256 * rows, 256 * columns), np.uint8)
            label = np.full(image.shape[1:], IGNORED, np.uint8)
            for tile in group:
                row, column = 256 * (tile[2] - first_row), 256 * (tile[1] - first_column)
                with rasterio.open(tiles[tile]) as dataset:
                    pixels, grid = dataset.read()[:3], dataset
                    is_building = building_mask(place / "labels", tiles[tile].stem, grid)
                    is_road = outline_mask(roads, grid)
                square = np.s_[row : row + 256, column : column + 256]
                image[:, *square] = np.maximum(pixels, 1)  # 0 is no data
                label[square] = buildings_label(pixels, is_building, is_road, place.name, size)
            corner = from_origin(
                (first_column * 256 - 128 * 2**zoom) * size,
                (128 * 2**zoom - first_row * 256) * size,
                size,
                size,
            )
            name = f"{place.name}_{zoom}_{number:03d}"
            write_scene(out, name, image, label, "EPSG:3857", corner, nodata=0)


def buildings_label(
    image: npt.NDArray[np.uint8],
    is_building: npt.NDArray[np.bool_],
    is_road: npt.NDArray[np.bool_],
    place: str,
    metres_per_pixel: float,
) -> npt.NDArray[np.uint8]:
    """Return the label of a tile: outlines first, then what is green, then roads.

    Args:
        image: (3, 256, 256).
        is_building: (256, 256).
        is_road: (256, 256).
        place: A key of `GREEN`.
        metres_per_pixel: On a web map, whose metres are shorter than those on the ground.
    """
    excess = green_excess(image, metres_per_pixel)
    conditions = [is_building, excess > GREEN[place], is_road]
    values = [label_index(BUILDINGS_LABELS, label) for label in BUILDINGS_LABELS]
    return np.select(conditions, values[:-1], values[-1]).astype(np.uint8)


def building_mask(folder: Path, name: str, grid: Any) -> npt.NDArray[np.bool_]:
    """Return where a tile's label has buildings: outlines as GeoJSON, or a PNG of 0 and 1."""
    if (folder / f"{name}.png").is_file():
        return np.asarray(Image.open(folder / f"{name}.png")) > 0
    features = json.loads((folder / f"{name}.geojson").read_text(encoding="utf-8"))["features"]
    return outline_mask([f["geometry"] for f in features if f["geometry"]], grid)


def outline_mask(outlines: list[Any], grid: Any) -> npt.NDArray[np.bool_]:
    """Return which pixels of a raster lie in outlines in degrees."""
    if not outlines:
        return np.zeros(grid.shape, bool)
    shapes = transform_geom("EPSG:4326", grid.crs, outlines)
    return rasterize(shapes, grid.shape, transform=grid.transform, dtype="uint8") > 0


def tile_address(path: Path) -> tuple[int, int, int]:
    """Return zoom, column and row of a tile that is named ``OAM-COLUMN-ROW-ZOOM``."""
    column, row, zoom = map(int, re.findall(r"\d+", path.stem))
    return zoom, column, row


def touching(tiles: Iterable[tuple[int, int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    """Yield groups of tiles of one zoom that touch along an edge."""
    rest = defaultdict(set)
    for zoom, column, row in sorted(tiles):
        rest[zoom].add((column, row))
    for zoom, places in rest.items():
        while places:
            group = [places.pop()]
            for column, row in group:  # grows while it is gone through
                beside = {(column, row + d) for d in (-1, 1)} | {(column + d, row) for d in (-1, 1)}
                group += sorted(beside & places)
                places -= beside
            yield [(zoom, column, row) for column, row in sorted(group)]


if __name__ == "__main__":
    main()
