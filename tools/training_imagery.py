"""Turns the imagery behind the packaged weights into scenes, labels and schemes for `hrrsi tile`.

Every set keeps what its labels say and no more: NAIP tells vegetation from the rest (by its near
infrared), outlines tell buildings from the rest, and UC Merced's lists of what a crop shows say
which classes it can hold. Its rivers were drawn by hand (``ucmerced_rivers.csv``): nothing else
shows brown, green and dark water. Dubai tells all five classes apart, and is tiled as it is.

    python tools/training_imagery.py IMAGERY --out scenes/

IMAGERY holds ``naip/CITY/*.tif``, ``buildings/PLACE/{images,labels}`` and
``ucmerced/CLASS/*.jpg`` with ``ucmerced/multilabels.tsv``.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import yaml
from PIL import Image
from rasterio.features import rasterize
from rasterio.transform import from_origin
from rasterio.warp import transform_geom
from tqdm import tqdm

IGNORED = 255
CLASSES = {
    "Building": (227, 26, 28),
    "Land": (235, 214, 170),
    "Road": (120, 120, 120),
    "Vegetation": (51, 140, 60),
    "Water": (38, 115, 200),
}
# NDVI above the first is vegetation, below the second is none; between them nobody knows.
VEGETATION, NO_VEGETATION = 0.15, 0.05
# metres per pixel of a web map at its first level, at the equator
WEB_MAP_PIXEL = 156543.03392804097
UC_MERCED_PIXEL = 0.3048
# of crops whose place nobody noted
UC_MERCED_CORNER = from_origin(0, 0, UC_MERCED_PIXEL, UC_MERCED_PIXEL)
RIVERS = Path(__file__).with_name("ucmerced_rivers.csv")
# pixels beyond a river's drawn border within which nobody knows whether there is water
SHORE = 16
# Which classes the things that UC Merced lists can be; a ship or an airplane is none of them.
THINGS = {
    "airplane": "Road Land",
    "bare-soil": "Land",
    "buildings": "Building",
    "cars": "Road Land",
    "chaparral": "Land Vegetation",
    "court": "Road Land Vegetation",
    "dock": "Road Land Building",
    "field": "Land Vegetation",
    "grass": "Vegetation",
    "mobile-home": "Building",
    "pavement": "Road Land",
    "sand": "Land",
    "sea": "Water",
    "ship": "",
    "tanks": "Building",
    "trees": "Vegetation",
    "water": "Water",
}


def main() -> None:
    """Write the scenes of every set that is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("imagery", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    write_sets(arguments.imagery, arguments.out)


def write_sets(imagery: Path, out: Path) -> None:
    """Write the scenes, labels and schemes of every set that is there."""
    for write in (naip, buildings, ucmerced, rivers):
        folder = imagery / ("ucmerced" if write is rivers else write.__name__)
        if folder.is_dir():
            write(folder, out / write.__name__)


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
    """Write tiles of web maps, joined where they touch, with buildings and what is none.

    Scenes are ``PLACE_ZOOM_NUMBER``; each is a group of tiles that touch, and pixels between them
    hold no data.
    """
    labels = [["Building"], [name for name in CLASSES if name != "Building"]]
    write_scheme(out, "buildings", labels)
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        tiles = {tile_address(path): path for path in place.glob("images/*.tif")}
        groups = list(touching(tiles))
        for number, group in enumerate(tqdm(groups, place.name, unit=" scenes", disable=None)):
            zoom, first_column, first_row = (min(tile[axis] for tile in group) for axis in range(3))
            columns = max(tile[1] for tile in group) - first_column + 1
            rows = max(tile[2] for tile in group) - first_row + 1
            image = np.zeros((3, 256 * rows, 256 * columns), np.uint8)
            label = np.full(image.shape[1:], IGNORED, np.uint8)
            for tile in group:
                row, column = 256 * (tile[2] - first_row), 256 * (tile[1] - first_column)
                with rasterio.open(tiles[tile]) as dataset:
                    pixels, grid = dataset.read()[:3], dataset
                    is_building = building_mask(place / "labels", tiles[tile].stem, grid)
                square = np.s_[row : row + 256, column : column + 256]
                image[:, *square] = np.maximum(pixels, 1)  # 0 is no data
                label[square] = np.where(
                    is_building, label_index(labels, labels[0]), label_index(labels, labels[1])
                )
            size = WEB_MAP_PIXEL / 2**zoom
            corner = from_origin(
                (first_column * 256 - 128 * 2**zoom) * size,
                (128 * 2**zoom - first_row * 256) * size,
                size,
                size,
            )
            name = f"{place.name}_{zoom}_{number:03d}"
            write_scene(out, name, image, label, "EPSG:3857", corner, nodata=0)


def ucmerced(folder: Path, out: Path) -> None:
    """Write UC Merced's crops, whose pixels are all labelled with the classes they may be."""
    possible = possible_classes(folder)
    labels = sorted({tuple(v) for v in possible.values() if 0 < len(v) < len(CLASSES)})
    kinds = [list(label) for label in labels]
    write_scheme(out, "ucmerced", kinds)
    for name, classes in tqdm(possible.items(), "ucmerced", unit=" crops", disable=None):
        if classes not in kinds:
            continue  # nothing, or everything: it says nothing
        image = ucmerced_image(folder, name)
        label = np.full(image.shape[1:], label_index(kinds, classes), np.uint8)
        write_scene(out, name, image, label, "EPSG:3857", UC_MERCED_CORNER)


def rivers(folder: Path, out: Path) -> None:
    """Write UC Merced's rivers, with water, and what is none of it, as drawn by hand.

    A river is a line through its middle, whose points know how far the water reaches. Its shore is
    ignored; what lies beyond it is what the crop is listed to show, or land.
    """
    lines: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    with RIVERS.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            point = [float(row[key]) for key in ("column", "row", "half_width")]
            lines[row["crop"]][row["river"]].append(point)
    beside = {
        name: [each for each in CLASSES if each in {*classes, "Land"} - {"Water"}]
        for name, classes in possible_classes(folder).items()
        if name in lines
    }
    kinds = [["Water"], *(list(kind) for kind in sorted({tuple(k) for k in beside.values()}))]
    write_scheme(out, "rivers", kinds)
    for name in tqdm(sorted(beside), "rivers", unit=" crops", disable=None):
        image = ucmerced_image(folder, name)
        shape = image.shape[1:]
        beyond = np.min([distance_to(np.array(line), shape) for line in lines[name].values()], 0)
        label = np.full(shape, IGNORED, np.uint8)
        label[beyond <= 0] = label_index(kinds, ["Water"])
        label[beyond > SHORE] = label_index(kinds, beside[name])
        write_scene(out, name, image, label, "EPSG:3857", UC_MERCED_CORNER)


def distance_to(line: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return how far each pixel of an image lies beyond the border of a river.

    Args:
        line: (points, 3) columns, rows and half widths, which change evenly between points.
        shape: Height and width of the image.

    Returns:
        (height, width) pixels; negative in the water.
    """
    rows, columns = np.indices(shape)
    distances = []
    for start, end in pairwise(line):
        step = end[:2] - start[:2]
        along = (columns - start[0]) * step[0] + (rows - start[1]) * step[1]
        share = np.clip(along / (step @ step), 0, 1)
        column, row, half_width = (a + share * (b - a) for a, b in zip(start, end, strict=True))
        distances.append(np.hypot(columns - column, rows - row) - half_width)
    return np.asarray(np.min(distances, axis=0))


def possible_classes(folder: Path) -> dict[str, list[str]]:
    """Return the classes that each of UC Merced's crops can hold, by its list of things."""
    with (folder / "multilabels.tsv").open(newline="", encoding="utf-8") as file:
        things, *crops = list(csv.reader(file, delimiter="\t"))
    possible: dict[str, list[str]] = {}
    for name, *flags in crops:
        names = {
            word
            for thing, flag in zip(things[1:], flags, strict=True)
            if int(flag)
            for word in THINGS[thing].split()
        }
        possible[name] = [each for each in CLASSES if each in names]
    return possible


def ucmerced_image(folder: Path, name: str) -> npt.NDArray[np.uint8]:
    """Return a crop, (3, height, width)."""
    path = folder / name.rstrip("0123456789") / f"{name}.jpg"
    return np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)


def label_index(labels: list[list[str]], classes: list[str]) -> int:
    """Return the value of a label in label rasters: a class' own, or one after the classes."""
    if len(classes) == 1:
        return list(CLASSES).index(classes[0])
    together = [label for label in labels if len(label) > 1]
    return len(CLASSES) + together.index(classes)


def write_scheme(out: Path, name: str, labels: list[list[str]]) -> None:
    """Write the scheme of a set, ``scheme.yaml``."""
    together = [label for label in labels if len(label) > 1]
    scheme = {
        "name": name,
        "classes": [{"name": each, "colour": list(CLASSES[each])} for each in CLASSES],
        "partial": [
            {
                "name": " or ".join(label),
                "classes": label,
                # of no meaning, but distinct: the mean of the classes' colours, and a number
                "colour": [*np.mean([CLASSES[c][:2] for c in label], 0).astype(int).tolist(), n],
            }
            for n, label in enumerate(together)
        ],
        "images": ["images/{scene}.tif"],
        "labels": ["labels/{scene}.tif"],
        "label_format": "indices",
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "scheme.yaml").write_text(yaml.safe_dump(scheme, sort_keys=False), encoding="utf-8")


def write_scene(
    out: Path,
    name: str,
    image: npt.NDArray[np.uint8],
    label: npt.NDArray[np.uint8],
    crs: Any,
    transform: Any,
    nodata: int | None = None,
) -> None:
    """Write a scene (3, height, width), and its label (height, width)."""
    place = {"crs": crs, "transform": transform, "compress": "deflate"}
    for kind, pixels, missing in (("images", image, nodata), ("labels", label[None], IGNORED)):
        path = out / kind / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        bands, height, width = pixels.shape
        shape = {"count": bands, "height": height, "width": width, "dtype": "uint8"}
        with rasterio.open(path, "w", driver="GTiff", nodata=missing, **shape, **place) as dataset:
            dataset.write(pixels)


def building_mask(folder: Path, name: str, grid: Any) -> npt.NDArray[np.bool_]:
    """Return where a tile's label has buildings: outlines as GeoJSON, or a PNG of 0 and 1."""
    if (folder / f"{name}.png").is_file():
        with rasterio.open(folder / f"{name}.png") as dataset:
            return np.asarray(dataset.read(1) > 0)
    features = json.loads((folder / f"{name}.geojson").read_text(encoding="utf-8"))["features"]
    outlines = [f["geometry"] for f in features if f["geometry"]]
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
