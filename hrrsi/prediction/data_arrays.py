"""Arrays of xarray in and out: bands, missing data and place of one, and labels laid over it.

xarray is not needed to read this: an array is known by its dimensions and coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard, TypeVar

import numpy as np
import numpy.typing as npt
from rasterio import Affine

from hrrsi.classes import IGNORE_INDEX
from hrrsi.errors import InputError
from hrrsi.scenes.georeference import RasterGrid, ground_pixel

_X, _Y = ("x", "lon", "longitude", "easting"), ("y", "lat", "latitude", "northing")


class DataArray(Protocol):
    """What is used of an ``xarray.DataArray``."""

    @property
    def dims(self) -> tuple[Hashable, ...]:
        """Names of the dimensions."""
        ...

    @property
    def coords(self) -> Mapping[Hashable, Any]:
        """Coordinates by name."""
        ...

    @property
    def attrs(self) -> dict[Any, Any]:
        """Attributes by name."""
        ...

    def transpose(self, *dims: Hashable) -> Any:
        """Return the array with its dimensions in another order."""
        ...


DataArrayT = TypeVar("DataArrayT", bound=DataArray)


def is_data_array(image: object) -> TypeGuard[DataArray]:
    """Return whether an image is an array of xarray."""
    return hasattr(image, "dims") and hasattr(image, "coords") and hasattr(image, "transpose")


@dataclass(frozen=True)
class ImageArray:
    """An image of xarray as plain arrays. Use `image_array`.

    Attributes:
        image: The array of xarray.
        pixels: (bands, height, width).
        valid: (height, width), false where all bands hold the value of missing data; None: it
            has no such value.
        resolution: Metres per pixel on the ground, or None where it has no CRS.
        sides: Metres from a pixel to the next column and to the next row, likewise.
        place: Names of the dimensions that rows and columns run along.
    """

    image: DataArray
    pixels: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_] | None
    resolution: float | None
    sides: tuple[float, float] | None
    place: tuple[Hashable, Hashable]

    def labelled(self, labels: npt.NDArray[np.uint8], classes: Sequence[str]) -> Any:
        """Return labels as an array of xarray with the image's place.

        Args:
            labels: (height, width) class indices, 255 where there is no data.
            classes: Class names, kept as the attributes ``flag_values`` and ``flag_meanings`` of
                the CF conventions.
        """
        words = " ".join(name.replace(" ", "_") for name in classes)
        attrs = {
            "long_name": "land cover",
            "flag_values": np.arange(len(classes), dtype=np.uint8),
            "flag_meanings": words,
            "_FillValue": np.uint8(IGNORE_INDEX),
        }
        return self._array(labels, self.place, {}, "class", attrs)

    def scored(self, probabilities: npt.NDArray[np.float32], classes: Sequence[str]) -> Any:
        """Return (classes, height, width) probabilities likewise, with a coordinate of classes."""
        coords: dict[Hashable, Any] = {"class": list(classes)}
        attrs = {"long_name": "probability", "units": "1"}
        return self._array(probabilities, ("class", *self.place), coords, "probability", attrs)

    def _array(
        self,
        values: npt.NDArray[Any],
        dims: tuple[Hashable, ...],
        coords: dict[Hashable, Any],
        name: str,
        attrs: dict[str, Any],
    ) -> Any:
        own = {
            key: coord
            for key, coord in self.image.coords.items()
            if set(coord.dims) <= set(self.place)  # those of bands don't fit classes
        }
        make: Any = type(self.image)
        return make(values, dims=dims, coords={**own, **coords}, name=name, attrs=attrs)


def image_array(image: DataArray) -> ImageArray:
    """Return an image of xarray, with bands in any place, as plain arrays.

    Its missing data are those of ``rio.nodata`` where rioxarray is imported, else of the attribute
    ``_FillValue``; its CRS, by which the ground resolution is known, is that of rioxarray. Its
    coordinates say where its pixels lie: a transform that it was read with may be of others.

    Args:
        image: Three dimensions: one of bands, one along rows and one along columns.

    Raises:
        InputError: Which dimension is which is not clear.
    """
    columns = _dimension(image, _X)
    rows = _dimension(image, _Y)
    (bands,) = (dim for dim in image.dims if dim not in (rows, columns))
    turned = image.transpose(bands, rows, columns)
    pixels = np.asarray(turned)
    rio = getattr(image, "rio", None)
    nodata = image.attrs.get("_FillValue") if rio is None else rio.nodata
    valid = None
    if nodata is not None and not (isinstance(nodata, float) and math.isnan(nodata)):
        valid = (pixels != nodata).any(axis=0)
    pixel = None
    if rio is not None and rio.crs is not None and min(pixels.shape[1:]) > 1:
        transform = _transform(turned, rows, columns)
        grid = RasterGrid("array", rio.crs, transform, ([], None), *pixels.shape[1:])
        pixel = ground_pixel(grid)
    resolution = None if pixel is None else pixel.resolution
    sides = None if pixel is None else (pixel.across, pixel.down)
    return ImageArray(image, pixels, valid, resolution, sides, (rows, columns))


def _transform(image: Any, rows: Hashable, columns: Hashable) -> Affine:
    """Return where pixels lie: by their coordinates, else by what rioxarray has read."""
    if not {rows, columns} <= {name for name in image.coords if image.coords[name].ndim == 1}:
        stored: Affine = image.rio.transform()
        return stored
    x, y = (np.asarray(image.coords[name], dtype=np.float64) for name in (columns, rows))
    across, down = (float(values[-1] - values[0]) / (len(values) - 1) for values in (x, y))
    return Affine(across, 0, float(x[0]) - across / 2, 0, down, float(y[0]) - down / 2)


def _dimension(image: DataArray, names: tuple[str, ...]) -> Hashable:
    matches = [dim for dim in image.dims if str(dim).casefold() in names]
    if len(image.dims) != 3 or len(matches) != 1:
        raise InputError(
            f"an array with the dimensions {', '.join(map(str, image.dims))} is no image",
            fix="give it three: one of bands, and x and y",
        )
    return matches[0]
