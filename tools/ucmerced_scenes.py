"""Scenes of UC Merced's crops: what their lists say of them, and what was drawn by hand.

Lists of what a crop shows say which classes it can hold. Rivers and roofs were drawn for these
weights (``ucmerced_rivers.csv``, ``ucmerced_roofs.csv``): nothing else shows brown, green and dark
water, nor large flat roofs, and houses under trees, beside car parks.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ImageFilter import MaxFilter, MinFilter
from rasterio.features import rasterize
from rasterio.transform import from_origin
from tqdm import tqdm
from training_scenes import CLASSES, IGNORED, label_index, write_scene, write_scheme

UC_MERCED_PIXEL = 0.3048
# of crops whose place nobody noted
UC_MERCED_CORNER = from_origin(0, 0, UC_MERCED_PIXEL, UC_MERCED_PIXEL)
RIVERS = Path(__file__).with_name("ucmerced_rivers.csv")
ROOFS = Path(__file__).with_name("ucmerced_roofs.csv")
# of a drawn label, until the crop's list has said what lies beside what was drawn
DRAWN, BESIDE = 0, 1
# pixels beyond a river's drawn border within which nobody knows whether there is water
SHORE = 16
# pixels to both sides of an outline within which nobody knows whether there is a roof
EAVES = 2
# Which classes the things that UC Merced lists can be; a ship or an airplane is none of them.
THINGS = {
    "airplane": "Road Land",
    "bare-soil": "Land",
    "buildings": "Building",
    "cars": "Road",
    "chaparral": "Land Vegetation",
    "court": "Road Land Vegetation",
    "dock": "Road Land Building",
    "field": "Land Vegetation",
    "grass": "Vegetation",
    "mobile-home": "Building",
    "pavement": "Road",
    "sand": "Land",
    "sea": "Water",
    "ship": "",
    "tanks": "Building",
    "trees": "Vegetation",
    "water": "Water",
}


class Shape(NamedTuple):
    """What was drawn: a line or an outline.

    Attributes:
        shows: ``water``, ``building``, or ``unsure``: nobody knows.
        points: (points, 2 or 3): columns, rows and, of rivers, how far the water reaches.
    """

    shows: str
    points: npt.NDArray[np.float64]


# turns the shapes of a crop, and its height and width, into a label
DrawnLabel = Callable[[Sequence[Shape], tuple[int, ...]], npt.NDArray[Any]]


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

    What lies beyond a river and its shore is what the crop is listed to show, or land or
    vegetation, which lists of rivers don't always name.
    """
    write_drawn(folder, out, RIVERS, river_label, "Water", ("Land", "Vegetation"))


def roofs(folder: Path, out: Path) -> None:
    """Write crops of UC Merced's towns, with buildings, and what is none, as drawn by hand.

    What lies outside of the outlines is what the crop is listed to show, or road.
    """
    write_drawn(folder, out, ROOFS, roof_label, "Building", ("Road",))


def write_drawn(
    folder: Path,
    out: Path,
    table: Path,
    drawn_label: DrawnLabel,
    drawn: str,
    beside: Sequence[str],
) -> None:
    """Write crops in which one class was drawn.

    Args:
        folder: UC Merced's.
        out: The set's.
        table: What was drawn: a row for each shape.
        drawn_label: Returns the label of a crop's shapes.
        drawn: The class that was drawn.
        beside: What every crop can hold beside it, whatever its list says.
    """
    shapes: dict[str, list[Shape]] = defaultdict(list)
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            points = np.array([point.split() for point in row["points"].split(",")], float)
            shapes[row["crop"]].append(Shape(row["shows"], points))
    others = {
        name: [each for each in CLASSES if each in {*classes, *beside} - {drawn}]
        for name, classes in possible_classes(folder).items()
        if name in shapes
    }
    kinds = [[drawn], *(list(kind) for kind in sorted({tuple(k) for k in others.values()}))]
    write_scheme(out, out.name, kinds)
    for name, kind in tqdm(sorted(others.items()), out.name, unit=" crops", disable=None):
        image = ucmerced_image(folder, name)
        shown = drawn_label(shapes[name], image.shape[1:])
        label = np.full(shown.shape, IGNORED, np.uint8)
        label[shown == DRAWN] = label_index(kinds, [drawn])
        label[shown == BESIDE] = label_index(kinds, kind)
        write_scene(out, name, image, label, "EPSG:3857", UC_MERCED_CORNER)


def river_label(rivers: Sequence[Shape], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return where there is water, (height, width) of `DRAWN`, `BESIDE` and `IGNORED`.

    Args:
        rivers: Lines through their middles.
        shape: Height and width of the crop.
    """
    beyond = np.min([distance_to(river.points, shape) for river in rivers], axis=0)
    return np.select([beyond <= 0, beyond <= SHORE], [DRAWN, IGNORED], BESIDE)


def roof_label(outlines: Sequence[Shape], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return where there are buildings, (height, width) of `DRAWN`, `BESIDE` and `IGNORED`.

    Args:
        outlines: Of roofs with the walls that show, and of what may be a building or not (a tree
            above a roof, say), which is ignored. So is what lies within `EAVES` of an outline.
        shape: Height and width of the crop.
    """
    label = np.full(shape, BESIDE)
    for outline in sorted(outlines, key=lambda outline: outline.shows != "building"):
        ring = [*outline.points.tolist(), outline.points[0].tolist()]
        polygon = {"type": "Polygon", "coordinates": [ring]}
        mask = Image.fromarray(rasterize([polygon], shape, dtype="uint8"))
        inside, around = (
            np.asarray(mask.filter(extreme(2 * EAVES + 1))) > 0
            for extreme in (MinFilter, MaxFilter)
        )
        if outline.shows == "building":
            label[around & (label == BESIDE)] = IGNORED
            label[inside] = DRAWN
        else:
            label[around] = IGNORED
    return label


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
