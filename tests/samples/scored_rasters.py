"""Made maps and labels, and what counting them must give.

The reference lays maps on labels with `rasterio.warp.reproject`, and counts with `numpy.add.at`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import rasterio
import shapely
from rasterio import Affine
from rasterio.warp import Resampling, reproject
from samples.raw_layouts import class_map, own_scheme, utm, write_raster

from hrrsi.evaluation.evaluation import Evaluation
from hrrsi.evaluation.map_evaluation import evaluate_maps
from hrrsi.evaluation.options import EvaluationOptions, MapReading
from hrrsi.labels.labelled_scenes import SceneFiles
from hrrsi.labels.scheme import Scheme, load_scheme
from hrrsi.maps.rasters import write_class_raster

SHAPE = (300, 130)  # more than one strip
UTM = utm()
PLACE: Affine = UTM["transform"]
MAP = class_map(1, *SHAPE, 3, block=7)
TRUTH = class_map(2, *SHAPE, 3, block=11)
TRUTH[20:33, :40] = 255


def scheme_of(folder: Path, label_format: str = "indices") -> Scheme:
    return load_scheme(own_scheme(folder, label_format=label_format))


def scored(
    path: Path,
    label: Path,
    scheme: Scheme,
    block: int = 64,
    reading: MapReading = MapReading(),
    **options: object,
) -> Evaluation:
    files = [SceneFiles("s", str(path), str(label))]
    evaluation = evaluate_maps(files, scheme, EvaluationOptions(block=block, **options), reading)
    assert evaluation.unit == "maps"
    return evaluation


def matrix_of(prediction: np.ndarray, truth: np.ndarray, classes: int = 3) -> np.ndarray:
    """Return counts with one more row: labelled pixels without prediction."""
    labelled = truth != 255
    rows = np.where(prediction == 255, classes, prediction)
    counts = np.zeros((classes + 1, classes), dtype=np.int64)
    np.add.at(counts, (rows[labelled], truth[labelled]), 1)
    return counts


def assert_counted(evaluation: Evaluation, prediction: np.ndarray, truth: np.ndarray) -> None:
    matrix = evaluation.counts.matrix("full")
    counts = np.vstack([matrix.counts, matrix.unpredicted])
    np.testing.assert_array_equal(counts, matrix_of(prediction, truth, len(matrix.classes)))
    assert evaluation.counts.ignored_pixels == (truth == 255).sum()


def label_file(folder: Path, **place: object) -> Path:
    return write_raster(folder / "label.tif", TRUTH, **(place or UTM))


def palette_file(path: Path, indices: np.ndarray, palette: dict[int, tuple[int, ...]]) -> Path:
    driver = {".tif": "GTiff", ".png": "PNG"}[path.suffix]
    profile = {"driver": driver, "count": 1, "dtype": "uint8", "width": indices.shape[1]}
    with rasterio.open(path, "w", height=len(indices), **profile, **UTM) as raster:
        raster.write(indices, 1)
        raster.write_colormap(1, palette)
    return path


@dataclass
class ClassRaster:
    """Writes maps as `hrrsi predict` does."""

    folder: Path
    classes: tuple[str, ...]

    def write(self, indices: np.ndarray, **place: object) -> Path:
        path = self.folder / "own_classes.tif"
        grid = write_raster(self.folder / "grid.tif", indices, **place)
        with rasterio.open(grid) as scene:
            write_class_raster(
                path,
                scene,
                [indices[:100], indices[100:]],
                classes=self.classes,
                colours=[(9, 9, i) for i in range(len(self.classes))],
                has_nodata=True,
                provenance={"MODEL": "ued"},
            )
        return path


SHAPES = [
    ("roof", shapely.box(5.2, 6.1, 70.4, 120.73)),
    ("water", shapely.Polygon([(20.3, 100.4), (120.8, 90.2), (80.1, 290.6)])),
    ("grass", shapely.Point(90.3, 40.1).buffer(30)),
    ("unsure", shapely.box(100.1, 200.2, 129.9, 280.3)),
]


def polygon_file(
    path: Path,
    shapes: list[tuple[str, Any]],
    place: Affine = PLACE,
    crs: str | None = "EPSG:32632",
) -> Path:
    """Write polygons given in pixels, columns and rows, as what they are on the ground."""
    moved = [
        shapely.transform(shape, lambda xy: np.column_stack(place @ (xy[:, 0], xy[:, 1])))
        for _, shape in shapes
    ]
    names = np.array([name for name, _ in shapes], dtype=object)
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(moved)), [names], ["class"], geometry_type="Polygon", crs=crs
    )
    return path


def inside(shape: tuple[int, int], place: Affine, grid: Affine, polygon: Any) -> np.ndarray:
    """Return which pixels of a grid have their centre in a polygon given in those of a place."""
    rows, columns = np.indices(shape) + 0.5
    within: np.ndarray = shapely.contains_xy(polygon, *((~place @ grid) @ (columns, rows)))
    return within


def burned(shape: tuple[int, int], place: Affine, grid: Affine) -> np.ndarray:
    codes = {"roof": 0, "grass": 1, "water": 2, "unsure": 255}
    classes = np.full(shape, 255, dtype=np.uint8)
    for name, polygon in SHAPES:
        classes[inside(shape, place, grid, polygon)] = codes[name]
    return classes


GRIDS = {
    "shifted by whole pixels": PLACE @ Affine.translation(-31, 17),
    "shifted within a pixel": PLACE @ Affine.translation(-31.3, 17.4),
    "larger pixels": PLACE @ Affine.translation(3, -40) @ Affine.scale(3.1),
    "smaller pixels": PLACE @ Affine.translation(-4, 20) @ Affine.scale(0.37),
    "half as large": PLACE @ Affine.scale(0.5),
    "south up": PLACE @ Affine.translation(0, 290) @ Affine.scale(1, -1),
    "turned": PLACE @ Affine.translation(60, 10) @ Affine.rotation(27),
    "rows for columns": PLACE @ Affine(0, 1, -20, 1, 0, -10),
}


def laid(
    values: np.ndarray, place: Affine, crs: str, shape: tuple[int, int], grid: Affine, onto: str
) -> np.ndarray:
    """Return a map on a grid, by GDAL."""
    on_grid = np.full(shape, 255, dtype=np.uint8)
    reproject(
        values,
        on_grid,
        src_transform=place,
        src_crs=crs,
        src_nodata=255,
        dst_transform=grid,
        dst_crs=onto,
        dst_nodata=255,
        resampling=Resampling.nearest,
        tolerance=0,
    )
    return on_grid
