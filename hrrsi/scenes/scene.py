"""A scene: a raster on disk, read window by window."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.warp import transform as transform_coordinates
from rasterio.windows import Window as RasterioWindow

from hrrsi.errors import HrrsiError
from hrrsi.scenes.windows import Window

# GDAL's shortcut for reading a whole PNG returns noise instead of an error where the file is cut.
os.environ.setdefault("GDAL_PNG_WHOLE_IMAGE_OPTIM", "NO")

# What the largest value of a type counts as: values are divided by it before normalisation.
FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0, "int16": 32767.0}


@dataclass
class Scene:
    """An open raster, limited to the bands that a network sees.

    Use `open_scene`.

    Attributes:
        path: As given, for messages.
        dataset: The rasterio dataset.
        bands: The 1-based bands that `read` returns.
        nodata: A value that marks pixels without data where every band in `bands` holds it, on
            top of what the file itself declares.
    """

    path: str
    dataset: Any
    bands: tuple[int, ...]
    nodata: float | None = None

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return int(self.dataset.height)

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return int(self.dataset.width)

    @property
    def dtype(self) -> str:
        """NumPy name of the bands' type."""
        return str(self.dataset.dtypes[self.bands[0] - 1])

    @property
    def resolution(self) -> float | None:
        """Ground sampling distance in metres per pixel, or None where it is not known."""
        return ground_resolution(self.dataset)

    @property
    def declares_nodata(self) -> bool:
        """Whether some pixels may hold no data, by the file's word or by `nodata`."""
        flags = {f.name for band in self.bands for f in self.dataset.mask_flag_enums[band - 1]}
        return self.nodata is not None or flags != {"all_valid"} or "float" in self.dtype

    def read(self, window: Window) -> npt.NDArray[Any]:
        """Return the bands of a window as (bands, height, width) in the file's type.

        Raises:
            HrrsiError: The file can't be read there (truncated, damaged).
        """
        array: npt.NDArray[Any] = self._read(self.dataset.read, window, list(self.bands))
        return array

    def read_valid(self, window: Window, pixels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which pixels of a window hold data, as (height, width).

        Args:
            window: The window.
            pixels: What `read` returned for it.
        """
        if not self.declares_nodata:
            return np.ones(pixels.shape[1:], dtype=bool)
        masks = self._read(self.dataset.read_masks, window, list(self.bands))
        valid: npt.NDArray[np.bool_] = (masks != 0).any(axis=0)
        if self.nodata is not None:
            valid &= ~(pixels == self.nodata).all(axis=0)
        if np.issubdtype(pixels.dtype, np.floating):
            valid &= np.isfinite(pixels).all(axis=0)
        return valid

    def _read(self, reader: Any, window: Window, bands: list[int]) -> npt.NDArray[Any]:
        try:
            array: npt.NDArray[Any] = reader(bands, window=rasterio_window(window))
        except RasterioError as error:
            raise HrrsiError(
                f"cannot be read at row {window.row}, column {window.col} (truncated or damaged)",
                where=self.path,
                fix="check the files that it refers to"
                if self.dataset.driver == "VRT"
                else "copy the file again",
            ) from error
        return array


def rasterio_window(window: Window) -> RasterioWindow:
    """Return a window in rasterio's terms."""
    return RasterioWindow(window.col, window.row, window.width, window.height)


@contextmanager
def open_raster(path: str | Path) -> Iterator[Any]:
    """Open a raster with rasterio, with one-line errors and without the warnings about no CRS.

    Args:
        path: A file, or whatever GDAL opens (``/vsizip/...``).

    Raises:
        HrrsiError: Missing, empty, or not a raster that GDAL can read.
    """
    import warnings

    name = str(path)
    local = not name.startswith("/vsi") and "://" not in name
    if local:
        file = Path(name)
        if not file.exists():
            raise HrrsiError("no such file", where=name, fix="check the path")
        if file.is_dir():
            raise HrrsiError("is a folder, not a raster", where=name, fix="name a file in it")
        if file.stat().st_size == 0:
            raise HrrsiError("is empty (0 bytes)", where=name, fix="copy the file again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(name)
    except RasterioError as error:
        raise HrrsiError(
            "is not a raster that GDAL can read", where=name, fix="check that it opens in QGIS"
        ) from error
    with dataset:
        if dataset.count == 0:
            raise HrrsiError(
                "holds no bands of its own", where=name, fix="name one of its subdatasets"
            )
        yield dataset


@contextmanager
def open_scene(
    path: str | Path,
    *,
    bands: Sequence[int] | None = None,
    expected_bands: int = 3,
    nodata: float | None = None,
) -> Iterator[Scene]:
    """Open a raster as a scene.

    Args:
        path: A file, or whatever GDAL opens.
        bands: The 1-based bands to read; by default all but alpha, which must then be
            `expected_bands`.
        expected_bands: How many bands the network sees.
        nodata: A value that marks pixels without data beside what the file declares.

    Raises:
        HrrsiError: Not a readable raster, or not the right bands.
    """
    with open_raster(path) as dataset:
        colour_bands = [
            band
            for band, meaning in enumerate(dataset.colorinterp, start=1)
            if meaning != ColorInterp.alpha
        ]
        chosen = list(bands) if bands else colour_bands
        wrong = [b for b in chosen if not 1 <= b <= dataset.count]
        if wrong:
            raise HrrsiError(
                f"has no band {wrong[0]} (it has {dataset.count})",
                where=path,
                fix="correct --bands",
            )
        if len(chosen) != expected_bands:
            many = "band" if len(chosen) == 1 else "bands"
            example = ",".join(str(b) for b in range(1, expected_bands + 1))
            fix = (
                f"choose {expected_bands} with --bands, e.g. --bands {example}"
                if dataset.count >= expected_bands
                else f"use a raster with at least {expected_bands} bands"
            )
            raise HrrsiError(
                f"has {len(chosen)} {many} where {expected_bands} are needed", where=path, fix=fix
            )
        types = {dataset.dtypes[b - 1] for b in chosen}
        if len(types) > 1:
            raise HrrsiError(
                f"its bands have different types ({', '.join(sorted(types))})",
                where=path,
                fix="convert them to one type",
            )
        if "complex" in next(iter(types)):
            raise HrrsiError("holds complex numbers", where=path, fix="use a raster of real values")
        yield Scene(str(path), dataset, tuple(chosen), nodata)


def ground_resolution(dataset: Any) -> float | None:
    """Return a rasterio dataset's ground sampling distance in metres per pixel, or None.

    It is taken at the raster's centre, on the WGS 84 ellipsoid: the map units of a Web Mercator
    are far from metres on the ground. Where a projection is true to within 1 %, as national grids
    and UTM are, its own units count, so that 25 cm stay 25 cm.

    A raster without CRS, or with one that has no place on the Earth, has no known resolution.
    """
    if dataset.crs is None or not (dataset.crs.is_geographic or dataset.crs.is_projected):
        return None
    transform = dataset.transform
    if not transform.determinant:
        return None
    centre = (dataset.width / 2, dataset.height / 2)
    steps = [centre, (centre[0] + 1, centre[1]), (centre[0], centre[1] + 1)]
    xs, ys = zip(*(transform * step for step in steps), strict=True)
    try:
        longitudes, latitudes = transform_coordinates(dataset.crs, "EPSG:4326", xs, ys)
    except RasterioError:  # the CRS does not reach there
        return None
    east, north = _metres_per_degree(latitudes[0])
    across, down = (
        float(
            np.hypot((longitudes[i] - longitudes[0]) * east, (latitudes[i] - latitudes[0]) * north)
        )
        for i in (1, 2)
    )
    on_the_ground = float(np.sqrt(across * down))
    if dataset.crs.is_projected:
        nominal = float(np.sqrt(abs(transform.determinant))) * dataset.crs.linear_units_factor[1]
        if abs(on_the_ground / nominal - 1) < 0.01:
            return float(nominal)
    return on_the_ground if np.isfinite(on_the_ground) else None


def _metres_per_degree(latitude: float) -> tuple[float, float]:
    """Return the lengths of a degree of longitude and of latitude on the WGS 84 ellipsoid."""
    semi_major, eccentricity_squared = 6378137.0, 0.00669437999014
    curvature = 1 - eccentricity_squared * np.sin(np.radians(latitude)) ** 2
    east = semi_major / np.sqrt(curvature) * np.cos(np.radians(latitude))
    north = semi_major * (1 - eccentricity_squared) / curvature**1.5
    return float(np.radians(east)), float(np.radians(north))
