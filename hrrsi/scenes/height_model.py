"""A height model: one more band of a scene, brought to the scene's grid window by window."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform as transform_coordinates, transform_bounds

from hrrsi.errors import InputError
from hrrsi.scenes.bands import colour_bands
from hrrsi.scenes.georeference import has_transform, is_same_grid, map_coordinates
from hrrsi.scenes.pixel_reader import PixelReader
from hrrsi.scenes.raster_opening import unified_gdal_errors
from hrrsi.scenes.windows import Window

# No ground lies there, in metres or feet. -9999, -32768 and the largest floats mark missing data.
_LOWEST, _HIGHEST = -1500.0, 1e6
_TOLERANCE = 0.01  # pixels by which places may be off where another CRS is approximated
_FULL_ALPHA = 1e-6  # any alpha but 0 is data, as in scenes; GDAL would weigh heights by it
# Stands for the CRS of rasters that have none: both get it, so nothing is projected.
_NO_CRS = CRS.from_epsg(3857)


class HeightModel:
    """The heights of a scene's pixels. Use `open_height_model`.

    Args:
        path: Its file, for messages.
        dataset: A rasterio dataset with one band, on the scene's grid; nobody else may read it.
        original: The dataset as it was opened, which says what its values stand for. Where it is
            another one, NaN says in `dataset` where no height is known.
    """

    def __init__(self, path: str, dataset: Any, original: Any) -> None:
        self.path = path
        self._original = original
        self._reader = PixelReader(dataset, [1], path)
        self._masked = dataset is original and self._reader.declares_nodata
        self._gain, self._offset = float(original.scales[0]), float(original.offsets[0])

    @property
    def files(self) -> list[str]:
        """The files that it is made of."""
        return list(self._original.files)

    def read(self, window: Window) -> npt.NDArray[np.float32]:
        """Return the heights of a window of the scene, NaN where none is known.

        Values are converted by the scale and offset that the file declares.

        Args:
            window: On the scene's own grid.

        Returns:
            (height, width) float32.

        Raises:
            InputError: The file can't be read there, or holds what can be no height.
        """
        values = self._reader.values(window)[0]
        valid = np.isfinite(values)
        if self._masked:
            valid &= self._reader.valid(window)
        with np.errstate(over="ignore", invalid="ignore"):
            heights: npt.NDArray[np.float32] = (values * self._gain + self._offset).astype(
                np.float32
            )
        heights[~valid] = np.nan
        impossible = values[(heights < _LOWEST) | (heights > _HIGHEST)]
        if impossible.size:
            extreme = float(impossible[np.abs(impossible).argmax()])  # others may be mixed with it
            raise InputError(
                f"holds {extreme:g}, which can be no height",
                where=self.path,
                fix=f"declare what marks missing data, e.g. `gdal_edit.py -a_nodata {extreme:g}`",
            )
        return heights


def open_height_model(
    stack: ExitStack, path: str | Path, dataset: Any, scene_path: str, opened: Any
) -> HeightModel:
    """Open a raster of heights on a scene's grid, until `stack` closes.

    A raster on another grid is resampled by GDAL (bilinear, over as many pixels as one of the
    scene's covers, without those that hold no data; a pixel of the scene has a height where the
    height model's pixel at its centre has one). Where only one of the two says in which CRS it is,
    the other is taken to be in the same.

    Args:
        stack: Closes what is opened.
        path: The height model: a raster with one band.
        dataset: The scene's rasterio dataset.
        scene_path: The scene's name, for messages.
        opened: The height model's rasterio dataset.

    Raises:
        InputError: It has several bands, lies elsewhere, or can't be laid over the scene.
    """
    name = str(path)
    _require_one_band(opened, name)
    if is_same_grid(opened, dataset):
        return HeightModel(name, opened, opened)
    if not (has_transform(opened) and has_transform(dataset)):
        raise InputError(
            f"has {opened.height} rows and {opened.width} columns where {scene_path} has "
            f"{dataset.height} and {dataset.width}, and not both have a place on the map",
            where=name,
            fix="give both a CRS and a transform, or put the height model on the scene's grid",
        )
    own = opened.crs or dataset.crs or _NO_CRS
    target = dataset.crs or own
    _require_overlap(opened, own, dataset, target, name, scene_path)
    missing = opened.nodata
    if missing is None and "float" in opened.dtypes[0]:
        missing = np.nan
    try:
        with unified_gdal_errors():
            across, down = _covered(opened, own, dataset, target)
            warped = WarpedVRT(
                opened,
                src_crs=own,
                src_nodata=missing,
                crs=target,
                transform=dataset.transform,
                height=dataset.height,
                width=dataset.width,
                nodata=np.nan,
                dtype="float32",
                resampling=Resampling.bilinear,
                tolerance=_TOLERANCE,
                SRC_ALPHA_MAX=_FULL_ALPHA,
                # GDAL would estimate them for each window anew, and windows would not agree
                XSCALE=1 / across,
                YSCALE=1 / down,
            )
    except RasterioError as error:
        raise _not_projected(name, scene_path, error) from error
    return HeightModel(name, stack.enter_context(warped), opened)


def _require_one_band(dataset: Any, name: str) -> None:
    bands = colour_bands(dataset)
    if bands != [1]:
        raise InputError(
            f"has {len(bands)} bands where a height model has one",
            where=name,
            fix="name a raster that holds heights only, e.g. `gdal_translate -b 1`",
        )
    if "complex" in dataset.dtypes[0]:
        raise InputError("holds complex numbers", where=name, fix="use a raster of real values")


def _require_overlap(
    opened: Any, own: CRS, dataset: Any, target: CRS, name: str, scene_path: str
) -> None:
    left, bottom, right, top = map_coordinates(opened).bounds()
    bounds = map_coordinates(dataset).bounds()
    if own != target:
        try:
            with unified_gdal_errors():
                bounds = transform_bounds(target, own, *bounds)
        except RasterioError as error:
            raise _not_projected(name, scene_path, error) from error
    if bounds[2] <= left or bounds[0] >= right or bounds[3] <= bottom or bounds[1] >= top:
        raise InputError(
            f"does not lie on {scene_path}",
            where=name,
            fix="name its own height model, and check the CRS of both",
        )


def _covered(opened: Any, own: CRS, dataset: Any, target: CRS) -> tuple[float, float]:
    """Return how many columns and rows of a height model a pixel of a scene covers."""
    middle = np.array([dataset.width / 2, dataset.height / 2])
    pixels = middle + np.array([[0, 0], [1, 0], [0, 1]])
    x, y = map_coordinates(dataset).of_pixels(pixels[:, 0], pixels[:, 1])
    if own != target:
        x, y = map(np.array, transform_coordinates(target, own, x.tolist(), y.tolist()))
    columns, rows = map_coordinates(opened).pixels_of(x, y)
    across, down = (float(np.hypot(*(p[1:] - p[0]))) for p in (columns, rows))
    return round(across, 9), round(down, 9)


def _not_projected(name: str, scene_path: str, error: Exception) -> InputError:
    reason = re.sub(r"\s+", " ", str(error)).strip()
    return InputError(
        f"can't be laid over {scene_path} ({reason})", where=name, fix="check the CRS of both"
    )
