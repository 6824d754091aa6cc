"""Make one orthophoto and one file of labels of the crops in examples/dubai, for the tutorials.

`python examples/make_ortho.py [FOLDER]` writes ``ortho.tif``, five crops wide and two high, and
``areas.gpkg``, the polygons of their masks with the attribute ``class``, and ``parcels.gpkg``, its
four quarters without a strip along the edge, with the attribute ``name``. The imagery and labels
are real; that the crops lie side by side, and where, is made up.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyogrio
import rasterio
import shapely
from PIL import Image
from rasterio.features import shapes
from rasterio.transform import array_bounds, from_origin

from hrrsi.labels.scheme import load_scheme

_CROPS = Path(__file__).parent / "dubai"
_ACROSS = 5
_PLACE = {"crs": "EPSG:32640", "transform": from_origin(325000, 2780000, 0.5, 0.5)}


def make_ortho(folder: Path) -> None:
    """Write the orthophoto and its labels into a folder."""
    scheme = load_scheme("dubai")
    images, classes = [], []
    for path in sorted(_CROPS.rglob("*.jpg")):
        mask = path.parent.parent / "masks" / f"{path.stem}.png"
        images.append(np.asarray(Image.open(path)))
        colours = np.asarray(Image.open(mask).convert("RGB"))
        indices = np.full(colours.shape[:2], 255, dtype=np.uint8)
        for index, colour in enumerate(scheme.colours):
            indices[(colours == colour).all(axis=-1)] = index
        classes.append(indices)
    image, labels = (_side_by_side(crops) for crops in (images, classes))
    with rasterio.open(
        folder / "ortho.tif",
        "w",
        driver="GTiff",
        count=3,
        dtype="uint8",
        height=image.shape[0],
        width=image.shape[1],
        tiled=True,
        compress="deflate",
        **_PLACE,
    ) as dataset:
        dataset.write(image.transpose(2, 0, 1))
    areas = list(shapes(labels, mask=labels != 255, transform=_PLACE["transform"]))
    names = [scheme.class_names[int(index)] for _, index in areas]
    polygons = [shapely.geometry.shape(shape) for shape, _ in areas]
    _write_polygons(folder / "areas.gpkg", polygons, "class", names)
    left, bottom, right, top = array_bounds(*labels.shape, _PLACE["transform"])
    middle, half = (left + right) / 2, (bottom + top) / 2
    parcels = {
        "north-west": shapely.box(left + 20, half, middle, top - 20),
        "north-east": shapely.box(middle, half, right - 20, top - 20),
        "south-west": shapely.box(left + 20, bottom + 20, middle, half),
        "south-east": shapely.box(middle, bottom + 20, right - 20, half),
    }
    _write_polygons(folder / "parcels.gpkg", list(parcels.values()), "name", list(parcels))


def _write_polygons(
    path: Path, polygons: list[shapely.Geometry], attribute: str, values: list[str]
) -> None:
    pyogrio.raw.write(
        path,
        shapely.to_wkb(polygons),
        [np.array(values, dtype=object)],
        [attribute],
        layer=path.stem,
        driver="GPKG",
        geometry_type="Polygon",
        crs=_PLACE["crs"],
    )


def _side_by_side(crops: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    rows = [np.concatenate(crops[i : i + _ACROSS], axis=1) for i in range(0, len(crops), _ACROSS)]
    return np.concatenate(rows)


if __name__ == "__main__":
    make_ortho(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
