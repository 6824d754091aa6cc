"""The classes of a map, whatever tool made it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp

from hrrsi.classes import UnknownLabels
from hrrsi.errors import InputError
from hrrsi.evaluation.evaluation import (
    class_lookup,
)
from hrrsi.evaluation.options import MapFormat
from hrrsi.labels.merged_classes import MergedClasses
from hrrsi.labels.raster_labels import ColourLabels, IndexLabels
from hrrsi.labels.scene_labels import Indices
from hrrsi.labels.scheme import Scheme
from hrrsi.maps.rasters import read_class_raster
from hrrsi.scenes.bands import colour_bands, open_imagery
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window


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

    @property
    def counts_by_scheme(self) -> bool:
        """Whether its values are indices that the scheme gives, not ones that the map names."""
        return isinstance(self._values, _IndexMap) and not isinstance(self._values, _NamedMap)

    def read(self, window: Window) -> Indices:
        """Return the merged classes of a window, 255 where there is no prediction.

        Args:
            window: Lies within the map.

        Returns:
            (height, width) uint8.

        Raises:
            InputError: The map can't be read there, or holds what the scheme doesn't know.
        """
        classes: Indices = self._index[self._values.read(window)]
        return classes


@contextmanager
def open_map(
    path: str,
    scheme: Scheme,
    merged: MergedClasses,
    *,
    name: str,
    unknown: UnknownLabels = "error",
    map_format: MapFormat | None = None,
    first_index: int | None = None,
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
        first_index: The value of the first class among indices; None: as the scheme says.

    Raises:
        InputError: Not a readable raster, not a map of classes, one of other classes, or one
            whose value for no data is a class too.
    """
    scheme = scheme.model_copy(update={"partial": ()})  # a map tells all classes apart
    with open_imagery(path, 1) as dataset:
        scene = Scene(path, dataset, tuple(colour_bands(dataset)))
        content = None if map_format is not None else read_class_raster(path)
        index, model = merged.new_index, None
        values: _ColourMap | _IndexMap
        is_indices = content is None and (map_format or _format_of(path, scene)) == "indices"
        if first_index is not None and not is_indices:
            raise InputError(
                "says itself which classes it holds, so that `first_index` has no meaning",
                where=path,
                fix="leave it out" if content is not None else "give `map_format=indices` too",
            )
        if content is not None:
            index = _named_classes(path, content.classes, scheme, merged)
            model = content.provenance.get("MODEL")
            count = len(content.classes)
            values = _NamedMap(path, dataset, scene, scheme, name, unknown, count)
        elif is_indices:
            if first_index is not None:
                scheme = _counted_from(scheme, first_index)
            values = _IndexMap(path, dataset, scene, scheme, name, unknown)
        else:
            values = _ColourMap(path, dataset, scene, scheme, name, unknown)
        yield MapClasses(scene, values, index, model)


def _counted_from(scheme: Scheme, first: int) -> Scheme:
    """Return the scheme with the indices of its classes in their order, from one on."""
    classes = (c.model_copy(update={"index": n}) for n, c in enumerate(scheme.classes, first))
    return scheme.model_copy(update={"classes": tuple(classes)})


def _format_of(path: str, scene: Scene) -> MapFormat:
    """Return what a raster that is no class map of ours looks like it holds.

    Raises:
        InputError: No classes.
    """
    dataset, bands = scene.dataset, scene.bands
    types = {dataset.dtypes[band - 1] for band in bands}
    is_palette = bool(bands) and dataset.colorinterp[bands[0] - 1] == ColorInterp.palette
    if types == {"uint8"} and (len(bands) == 3 or (len(bands) == 1 and is_palette)):
        return "colours"
    if len(bands) == 1 and np.dtype(dataset.dtypes[bands[0] - 1]).kind in "iuf":
        return "indices"
    noun = "band" if len(bands) == 1 else "bands"
    raise InputError(
        f"is no map of classes: it has {len(bands)} {noun} of {' and '.join(sorted(types))}, "
        "not three of colours (uint8), a palette, or one of class indices",
        where=path,
        fix="score the classes, not what they were made from",
    )


def _named_classes(
    path: str, names: list[str], scheme: Scheme, merged: MergedClasses
) -> npt.NDArray[np.uint8]:
    """Return the merged class of each class that a map of ours names, (256,) uint8."""
    separate = {name.casefold() for name in scheme.class_names}
    is_separate = {name.casefold() for name in names} == separate
    expected = scheme.class_names if is_separate else merged.names
    try:
        lookup = class_lookup(names, expected, path)
    except InputError as error:
        raise InputError(
            f"its classes ({', '.join(names)}) are not those of the scheme {scheme.name} "
            f"({', '.join(expected)})",
            where=path,
            fix="give the map's own scheme, or `merges` the scheme's classes into the map's",
        ) from error
    return merged.new_index[lookup] if is_separate else lookup


class _ColourMap(ColourLabels):
    """A map whose colours, or those of its palette, stand for classes."""

    noun = "map"

    def _describe(self, value: int) -> tuple[str, str]:
        text, nearest = super()._describe(value)
        if self._palette is not None:
            text += " (of a palette; if its numbers are class indices, give `map_format=indices`)"
        return text, nearest


class _IndexMap(IndexLabels):
    """A map whose values are class indices."""

    noun = "map"

    def _describe(self, value: int) -> tuple[str, str]:
        text, nearest = super()._describe(value)
        return text.replace("do at 0 here)", "do at 0 here; else give `first_index=1`)"), nearest


class _NamedMap(_IndexMap):
    """A map of ours, whose indices are those of the classes that it names.

    Args:
        classes: How many it names.
    """

    def __init__(
        self,
        path: str,
        dataset: Any,
        scene: Scene,
        scheme: Scheme,
        name: str,
        unknown: UnknownLabels,
        classes: int,
    ) -> None:
        self._classes = classes
        super().__init__(path, dataset, scene, scheme, name, unknown)

    def _codes(self) -> dict[int, int]:
        return {position: position for position in range(self._classes)}
