"""The classes of a map that any tool may have made, read window by window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp

from hrrsi.errors import HrrsiError
from hrrsi.evaluation.evaluation import class_lookup
from hrrsi.labels.class_merging import MergedClasses
from hrrsi.labels.raster_labels import ColourLabels, IndexLabels
from hrrsi.labels.scene_labels import Indices, Unknown
from hrrsi.labels.scheme import IGNORE_INDEX, Scheme
from hrrsi.maps.class_raster import read_class_raster
from hrrsi.quantities import counted
from hrrsi.scenes.band_choice import colour_bands
from hrrsi.scenes.raster_opening import open_raster
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window

MapFormat = Literal["colours", "indices"]

_NO_DATA = np.iinfo(np.int64).min  # stands for pixels without data; no file holds it


class MapClasses:
    """The classes of an open map on its own grid. Use `open_map`.

    Args:
        scene: The map as a raster.
        values: Reads the classes that its values stand for.
        index: (256,) uint8, the merged class of each of those.
        model: The network that made it, where it says so.
    """

    def __init__(
        self, scene: Scene, values: _ColourMap | _IndexMap, index: Indices, model: str | None
    ) -> None:
        self.scene = scene
        self.model = model
        self._values = values
        self._index = index

    def read(self, window: Window) -> Indices:
        """Return the merged classes of a window, 255 where there is no prediction.

        Args:
            window: Lies within the map.

        Returns:
            (height, width) uint8.

        Raises:
            HrrsiError: The map can't be read there, or holds what the scheme doesn't know.
        """
        found: Indices = self._index[self._values.read(window)]
        return found


@contextmanager
def open_map(
    path: str,
    scheme: Scheme,
    merged: MergedClasses,
    *,
    name: str,
    unknown: Unknown = "error",
    map_format: MapFormat | None = None,
) -> Iterator[MapClasses]:
    """Open a map, whatever tool made it.

    Three bands are colours, and so is a palette; one band without palette holds class indices; a
    class map of ours says itself what its indices mean. Alpha, masks, values declared as no data,
    255 among indices, and what the scheme ignores are no prediction.

    Args:
        path: A raster.
        scheme: Says what colours and indices mean.
        merged: The classes that are left of the scheme's.
        name: The scene's name, for messages.
        unknown: ``"error"`` fails on values that the scheme doesn't know, ``"ignore"`` takes them
            for no prediction.
        map_format: What it holds, if not what it looks like.

    Raises:
        HrrsiError: Not a readable raster, not a map of classes, one of other classes, or one
            whose value for no data is a class too.
    """
    with open_raster(path) as dataset:
        scene = Scene(path, dataset, tuple(colour_bands(dataset)))
        content = None if map_format is not None else read_class_raster(path)
        index, model = merged.new_index, None
        values: _ColourMap | _IndexMap
        if content is not None:
            index = _named_classes(path, content.classes, scheme, merged)
            model = content.provenance.get("MODEL")
            codes = {position: position for position in range(len(content.classes))}
            values = _IndexMap(path, scene, scheme, name, unknown, codes)
        elif (map_format or _format_of(path, scene)) == "indices":
            codes = {i.index: IGNORE_INDEX for i in scheme.ignored if i.index is not None}
            codes |= {
                position if c.index is None else c.index: position
                for position, c in enumerate(scheme.classes)
            }
            values = _IndexMap(path, scene, scheme, name, unknown, codes)
        else:
            values = _ColourMap(path, dataset, scene, scheme, name, unknown)
        _refuse_class_as_nodata(values, scheme)
        yield MapClasses(scene, values, index, model)


def _format_of(path: str, scene: Scene) -> MapFormat:
    """Return what a raster that is no class map of ours looks like it holds.

    Raises:
        HrrsiError: No classes.
    """
    dataset, bands = scene.dataset, scene.bands
    types = {dataset.dtypes[band - 1] for band in bands}
    is_palette = bool(bands) and dataset.colorinterp[bands[0] - 1] == ColorInterp.palette
    if types == {"uint8"} and (len(bands) == 3 or (len(bands) == 1 and is_palette)):
        return "colours"
    if len(bands) == 1 and np.issubdtype(np.dtype(dataset.dtypes[bands[0] - 1]), np.integer):
        return "indices"
    many = "band" if len(bands) == 1 else "bands"
    raise HrrsiError(
        f"is no map of classes: it has {len(bands)} {many} of {' and '.join(sorted(types))}, "
        "not three of colours (uint8), a palette, or one of whole numbers",
        where=path,
        fix="convert it, e.g. with `gdal_translate -ot Byte` where it holds class indices",
    )


def _named_classes(
    path: str, names: list[str], scheme: Scheme, merged: MergedClasses
) -> npt.NDArray[np.uint8]:
    """Return the merged class of each class that a map of ours names, (256,) uint8."""
    apart = {name.casefold() for name in scheme.class_names}
    is_apart = {name.casefold() for name in names} == apart
    known = scheme.class_names if is_apart else merged.names
    try:
        lookup = class_lookup(names, known, path)
    except HrrsiError as error:
        raise HrrsiError(
            f"its classes ({', '.join(names)}) are not those of the scheme {scheme.name} "
            f"({', '.join(known)})",
            where=path,
            fix="give the map's own scheme, or --merge the scheme's classes into the map's",
        ) from error
    return merged.new_index[lookup] if is_apart else lookup


class _ColourMap(ColourLabels):
    """A map whose colours, or those of its palette, stand for classes."""

    noun = "map"

    def _known_values(self) -> tuple[npt.NDArray[np.int64], Indices]:
        values, indices = super()._known_values()
        if self._palette is not None:
            for entry, (*_, opacity) in self.dataset.colormap(1).items():
                if not opacity:
                    self._palette[entry] = _NO_DATA
        return np.append(values, _NO_DATA), np.append(indices, np.uint8(IGNORE_INDEX))

    def _read_values(self, window: Window) -> npt.NDArray[np.int64]:
        return _with_nodata(super()._read_values(window), self.scene, window)

    def _describe(self, value: int) -> tuple[str, str]:
        text, nearest = super()._describe(value)
        if self._palette is not None:
            text += " (of a palette; if its numbers are class indices, give --map-format indices)"
        return text, nearest

    def indices_of(self, value: int) -> Indices:
        """Return the class index of a pixel that holds a value in all bands, as (1,)."""
        colour = value * 0x010101 if self._palette is None else self._palette[value]
        return self._indices_of(np.array([colour], dtype=np.int64))


class _IndexMap(IndexLabels):
    """A map whose values are class indices.

    Args:
        codes: The class that each value stands for.
    """

    noun = "map"

    def __init__(
        self,
        path: str,
        scene: Scene,
        scheme: Scheme,
        name: str,
        unknown: Unknown,
        codes: Mapping[int, int],
    ) -> None:
        dtype = np.dtype(scene.dtype)
        if len(scene.bands) != 1 or not np.issubdtype(dtype, np.integer):
            raise HrrsiError(
                f"has {counted(len(scene.bands), 'band')} of {dtype}, not one of class indices "
                "(whole numbers)",
                where=path,
                fix="convert it, e.g. with `gdal_translate -ot Byte`"
                if len(scene.bands) == 1
                else "leave out --map-format",
            )
        self._codes = codes
        super().__init__(path, scene.dataset, scene, scheme, name, unknown)

    def _known_values(self) -> tuple[npt.NDArray[np.int64], Indices]:
        known = {_NO_DATA: IGNORE_INDEX, IGNORE_INDEX: IGNORE_INDEX, **self._codes}
        return np.array(list(known), np.int64), np.array(list(known.values()), np.uint8)

    def _read_values(self, window: Window) -> npt.NDArray[np.int64]:
        bands = self._bands(list(self.scene.bands), window)
        return _with_nodata(bands[0].astype(np.int64), self.scene, window)

    def indices_of(self, value: int) -> Indices:
        """Return the class index of a pixel that holds a value, as (1,)."""
        return self._indices_of(np.array([value], dtype=np.int64))


def _with_nodata(
    values: npt.NDArray[np.int64], scene: Scene, window: Window
) -> npt.NDArray[np.int64]:
    if scene.reader.declares_nodata:
        values[~scene.reader.valid(window)] = _NO_DATA
    return values


def _refuse_class_as_nodata(values: _ColourMap | _IndexMap, scheme: Scheme) -> None:
    """Raise where pixels of a class could not be told from pixels without data.

    Maps often keep the declaration of the image that they were made from.
    """
    nodata: Any = values.dataset.nodata
    limits = np.iinfo(values.dataset.dtypes[0])
    if nodata is None or not limits.min <= nodata <= limits.max or nodata != int(nodata):
        return
    index = int(values.indices_of(int(nodata))[0])
    if index < len(scheme.classes):
        raise HrrsiError(
            f"declares {nodata:g} as no data, which stands for {scheme.class_names[index]} too",
            where=values.path,
            fix="take the declaration away (`gdal_edit.py -unsetnodata`), or write missing data "
            "as another value",
        )
