"""Scenes of UC Merced's crops: what their lists say of them, and what was drawn by hand.

Lists of what a crop shows say which classes it can hold, and colours which of its pixels are
vegetation, if it has any. Rivers and roofs were drawn for these weights (``ucmerced_rivers.csv``,
``ucmerced_roofs.csv``): nothing else shows brown, green and dark water, nor large flat roofs, and
houses under trees, beside car parks.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ImageFilter import MaxFilter, MinFilter
from rasterio.features import rasterize
from rasterio.transform import from_origin
from tqdm import tqdm
from training_scenes import (
    CLASSES,
    IGNORED,
    green_excess,
    label_index,
    write_scene,
    write_scheme,
)

UC_MERCED_PIXEL = 0.3048
# of crops whose place nobody noted
UC_MERCED_CORNER = from_origin(0, 0, UC_MERCED_PIXEL, UC_MERCED_PIXEL)
RIVERS = Path(__file__).with_name("ucmerced_rivers.csv")
ROOFS = Path(__file__).with_name("ucmerced_roofs.csv")
# of a label, until the crop's list has said what lies beside what was drawn
BACKGROUND = 254
# pixels beyond a river's drawn border within which nobody knows whether there is water
SHORE = 16
# pixels to both sides of an outline within which nobody knows whether there is a roof
EAVES = 2
# Which classes the things that UC Merced lists can be; a ship is none of them, an airplane stands
# on one.
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
# What is green in crops with the first is vegetation, unless they have some of the second, which
# can be green, too.
PLANTS = {"chaparral", "field", "grass", "trees"}
GREEN_THINGS = {"court", "dock", "sea", "ship", "water"}
# The excess of green from which on a pixel is vegetation: of the pixels of four cities in NAIP's
# imagery that have more, 92 to 97 % have an NDVI above 0.15, and 2 to 4 % one below 0.05.
GREEN = 0.1
# what lists of crops that seem to be nothing but pavement leave out
UNLISTED = {
    **dict.fromkeys(("parkinglot24", "parkinglot36", "parkinglot37"), "grass"),
    **dict.fromkeys(("runway02", "runway60", "runway63"), "grass"),
    **dict.fromkeys(("parkinglot40", "parkinglot43"), "buildings"),
}


class Shape(NamedTuple):
    """What was drawn: a line or an outline.

    Attributes:
        surface: A class, or ``unsure``.
        points: (points, 2 or 3): columns, rows and, of rivers, how far the water reaches.
    """

    surface: str
    points: npt.NDArray[np.float64]


# turns the shapes of a crop, and its height and width, into a label
ShapesLabel = Callable[[Sequence[Shape], tuple[int, ...]], npt.NDArray[np.uint8]]


def ucmerced(folder: Path, out: Path) -> None:
    """Write UC Merced's crops: vegetation by its colour, and else the classes that it may be."""
    listed = listed_things(folder)
    possible = {name: possible_classes(things) for name, things in listed.items()}
    labels = sorted({tuple(v) for v in possible.values() if 0 < len(v) < len(CLASSES)})
    kinds = [list(label) for label in labels]
    write_scheme(out, "ucmerced", kinds)
    for name, classes in tqdm(possible.items(), "ucmerced", unit=" crops", disable=None):
        if classes not in kinds:
            continue  # nothing, or everything: it says nothing
        image = ucmerced_image(folder, name)
        label = np.full(image.shape[1:], label_index(kinds, classes), np.uint8)
        label[vegetation(image, listed[name])] = label_index(kinds, ["Vegetation"])
        write_scene(out, name, image, label, "EPSG:3857", UC_MERCED_CORNER)


def rivers(folder: Path, out: Path) -> None:
    """Write UC Merced's rivers, with water, and what is none of it, as drawn by hand.

    What lies beyond a river and its shore is what the crop is listed to show, or land or
    vegetation, which lists of rivers don't always name.
    """
    write_shapes(folder, out, RIVERS, river_label, "Water", ("Land", "Vegetation"))


def roofs(folder: Path, out: Path) -> None:
    """Write crops of UC Merced's towns, with buildings and pools, and what is none, as drawn.

    What lies outside of the outlines is vegetation if its colour says so, or anything but a
    building: lists of crops with buildings name neither pools nor every lawn.
    """
    others = [name for name in CLASSES if name != "Building"]
    write_shapes(folder, out, ROOFS, roof_label, "Building", others)


def write_shapes(
    folder: Path,
    out: Path,
    table: Path,
    shapes_label: ShapesLabel,
    target: str,
    background: Sequence[str],
) -> None:
    """Write crops in which a class was drawn by hand.

    Args:
        folder: UC Merced's.
        out: The set's.
        table: What was drawn: a row for each shape.
        shapes_label: Returns the label of a crop's shapes.
        target: The class that was drawn wherever it is.
        background: What every crop can hold beside it, whatever its list says.
    """
    shapes = drawn_shapes(table)
    listed = {name: things for name, things in listed_things(folder).items() if name in shapes}
    backgrounds = {
        name: [c for c in CLASSES if c in {*possible_classes(things), *background} - {target}]
        for name, things in listed.items()
    }
    surfaces = {shape.surface for name in backgrounds for shape in shapes[name]}
    labels = [[name] for name in CLASSES if name in surfaces]
    labels += [list(label) for label in sorted({tuple(b) for b in backgrounds.values()})]
    write_scheme(out, out.name, labels)
    for name, classes in tqdm(sorted(backgrounds.items()), out.name, unit=" crops", disable=None):
        image = ucmerced_image(folder, name)
        label = shapes_label(shapes[name], image.shape[1:])
        is_green = (label == BACKGROUND) & vegetation(image, listed[name])
        label[is_green] = label_index(labels, ["Vegetation"])
        label[label == BACKGROUND] = label_index(labels, classes)
        write_scene(out, name, image, label, "EPSG:3857", UC_MERCED_CORNER)


def drawn_shapes(table: Path) -> dict[str, list[Shape]]:
    """Return the shapes of each crop in a table that was drawn by hand.

    Raises:
        ValueError: A shape shows what is neither a class nor unsure.
    """
    shapes: dict[str, list[Shape]] = defaultdict(list)
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["surface"] not in (*CLASSES, "unsure"):
                raise ValueError(f"{table.name}: {row['crop']}: no class {row['surface']!r}")
            points = np.array([point.split() for point in row["points"].split(",")], float)
            shapes[row["crop"]].append(Shape(row["surface"], points))
    return dict(shapes)


def river_label(lines: Sequence[Shape], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return where there is water, where `BACKGROUND`, and where nobody knows: `IGNORED`.

    Args:
        lines: Through the middles of rivers.
        shape: Height and width of the crop.

    Returns:
        (height, width).
    """
    beyond = np.min([distance_to(line.points, shape) for line in lines], axis=0)
    water = list(CLASSES).index("Water")
    label = np.select([beyond <= 0, beyond <= SHORE], [water, IGNORED], BACKGROUND)
    return label.astype(np.uint8)


def roof_label(outlines: Sequence[Shape], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return what outlines hold, `BACKGROUND`, and `IGNORED` where nobody knows.

    Args:
        outlines: Of roofs with the walls that show, of pools, and of what may be a building or not
            (a tree above a roof, say), which is ignored. So is what lies within `EAVES` of an
            outline.
        shape: Height and width of the crop.

    Returns:
        (height, width).
    """
    label = np.full(shape, BACKGROUND, np.uint8)
    for outline in sorted(outlines, key=lambda outline: outline.surface == "unsure"):
        ring = [*outline.points.tolist(), outline.points[0].tolist()]
        polygon = {"type": "Polygon", "coordinates": [ring]}
        mask = Image.fromarray(rasterize([polygon], shape, dtype="uint8"))
        inside, around = (
            np.asarray(mask.filter(extreme(2 * EAVES + 1))) > 0
            for extreme in (MinFilter, MaxFilter)
        )
        if outline.surface == "unsure":
            label[around] = IGNORED
        else:
            label[around & (label == BACKGROUND)] = IGNORED
            label[inside] = list(CLASSES).index(outline.surface)
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


def listed_things(folder: Path) -> dict[str, set[str]]:
    """Return the things that each of UC Merced's crops is listed to show."""
    with (folder / "multilabels.tsv").open(newline="", encoding="utf-8") as file:
        things, *crops = list(csv.reader(file, delimiter="\t"))
    listed: dict[str, set[str]] = {}
    for name, *flags in crops:
        listed[name] = {t for t, flag in zip(things[1:], flags, strict=True) if int(flag)}
        listed[name] |= {UNLISTED[name]} if name in UNLISTED else set()
    return listed


def possible_classes(things: Collection[str]) -> list[str]:
    """Return the classes that a crop can hold, by what it is listed to show."""
    names = {word for thing in things for word in THINGS[thing].split()}
    return [each for each in CLASSES if each in names]


def vegetation(image: npt.NDArray[np.uint8], things: Collection[str]) -> npt.NDArray[np.bool_]:
    """Return which pixels of a crop (3, height, width) are green, where that means plants."""
    if not PLANTS & set(things) or GREEN_THINGS & set(things):
        return np.zeros(image.shape[1:], bool)
    return np.asarray(green_excess(image, UC_MERCED_PIXEL) > GREEN)


def ucmerced_image(folder: Path, name: str) -> npt.NDArray[np.uint8]:
    """Return a crop, (3, height, width)."""
    path = folder / name.rstrip("0123456789") / f"{name}.jpg"
    return np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
