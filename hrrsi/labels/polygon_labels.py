"""Labels drawn as polygons."""

from __future__ import annotations

import difflib
from collections import Counter

import numpy as np

from hrrsi.errors import HrrsiError
from hrrsi.labels.scene_labels import UNKNOWN_LABEL, Indices, Labels, Unknown
from hrrsi.labels.scheme import IGNORE_INDEX, Scheme
from hrrsi.scenes.polygons import scene_polygons
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window


class PolygonLabels(Labels):
    """Labels whose polygons hold a class' name, code or index in an attribute.

    A pixel has the class of the last polygon in the file that holds its centre; a pixel in none
    is ignored.
    """

    def __init__(
        self, path: str, scene: Scene, scheme: Scheme, name: str, unknown: Unknown
    ) -> None:
        super().__init__(scene, name, path, unknown)
        self._scheme = scheme
        self._polygons = scene_polygons(path, scene, scheme.attribute)
        if not len(self._polygons.geometries):
            raise HrrsiError(
                f"no polygon lies on scene {name} ({scene.path})",
                where=path,
                fix="check its CRS, or leave the scene out of the split",
            )
        ignored = {i.name.casefold() for i in scheme.ignored}
        ignored |= {str(i.index) for i in scheme.ignored if i.index is not None}
        self._codes = np.full(len(self._polygons.values), UNKNOWN_LABEL, dtype=np.uint8)
        for number, value in enumerate(self._polygons.values):
            index = None if value is None else scheme.index_of(value)
            if index is not None:
                self._codes[number] = index
            elif value is not None and str(value).strip().casefold() in ignored:
                self._codes[number] = IGNORE_INDEX
        if unknown == "error" and (self._codes == UNKNOWN_LABEL).any():
            raise self._unknown_error()

    def _decode(self, window: Window) -> Indices:
        return self._polygons.burned(window, self._codes, IGNORE_INDEX)

    def _unknown_error(self) -> HrrsiError:
        strange = np.flatnonzero(self._codes == UNKNOWN_LABEL)
        first = int(strange[0])
        value = self._polygons.values[first]
        inside = self._polygons.geometries[first].representative_point()
        same = Counter(map(str, self._polygons.values))[str(value)]
        names = self._scheme.class_names
        close = difflib.get_close_matches(str(value), names, n=1, cutoff=0.0)
        return HrrsiError(
            f"scene {self.name}: unknown {self._scheme.attribute} {value!r} of a polygon at row "
            f"{int(inside.y)}, column {int(inside.x)}, {same} "
            f"{'polygon' if same == 1 else 'polygons'}; "
            f"the nearest class is {close[0]}",
            where=self.path,
            fix="correct it, add it to the scheme, or give --unknown ignore",
        )
