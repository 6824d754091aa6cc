"""What the labels of a scene are, whatever file they come from, and labels drawn as polygons."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hrrsi.classes import IGNORE_INDEX, UnknownLabels
from hrrsi.errors import InputError
from hrrsi.labels.scheme import Scheme
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window

# Marks pixels whose label the scheme doesn't know; a scheme has at most 254 classes, 0 to 253.
UNKNOWN_LABEL = 254

Indices = npt.NDArray[np.uint8]


class Labels(ABC):
    """The labels of one open scene. Use `open_labels`.

    Args:
        scene: The scene that they belong to, for its size and grid.
        name: The scene's name, for messages.
        path: The label's file, for messages.
        unknown: What to do about labels that the scheme doesn't know: fail, or ignore them.

    Attributes:
        placement: In words, how the label lies on the scene, where that is to be said; else None.
        is_blank: Whether no label lies on the scene: all of it is ignored, or outside polygons.
    """

    placement: str | None = None
    is_blank: bool = False

    def __init__(self, scene: Scene, name: str, path: str, unknown: UnknownLabels) -> None:
        self.scene = scene
        self.name = name
        self.path = path
        self.unknown = unknown

    @abstractmethod
    def _decode(self, window: Window) -> Indices:
        """Return class indices, 255 where ignored, 254 where the label is unknown."""

    @abstractmethod
    def _unknown_error(self) -> InputError:
        """Return the error that describes the scene's unknown labels."""

    def read(self, window: Window) -> Indices:
        """Return the class indices of a window, 255 where no class is given.

        Args:
            window: Lies within the scene.

        Returns:
            (height, width) uint8.

        Raises:
            InputError: The label can't be read there, or holds what the scheme doesn't know.
        """
        return self.read_with_unknown(window)[0]

    def read_with_unknown(self, window: Window) -> tuple[Indices, int]:
        """Return what `read` returns, and how many of its pixels had an unknown label."""
        indices = self._decode(window)
        unknown = indices == UNKNOWN_LABEL
        count = int(unknown.sum())
        if count:
            if self.unknown == "error":
                raise self._unknown_error()
            indices[unknown] = IGNORE_INDEX
        return indices, count


class AbsentLabels(Labels):
    """The labels of a scene that has none: every pixel is ignored.

    Args:
        scene: The scene.
        name: Its name.
    """

    def __init__(self, scene: Scene, name: str) -> None:
        super().__init__(scene, name, "", "ignore")

    def _decode(self, window: Window) -> Indices:
        return np.full((window.height, window.width), IGNORE_INDEX, dtype=np.uint8)

    def _unknown_error(self) -> InputError:
        raise AssertionError("no label is unknown where there is none")


class LabelLayer(NamedTuple):
    """Labels of one of several files of a scene.

    Attributes:
        labels: They, where polygons have no class outside.
        new_index: (256,) uint8, the index of the scene's classes for each of theirs.
        weak: The class that counts only where no file has another, or None.
    """

    labels: Labels
    new_index: Indices
    weak: int | None


class StackedLabels(Labels):
    """The labels of a scene in several files: where some have a class, that of the last counts.

    Args:
        layers: The files, the last over the others.
        scene: The scene.
        name: Its name.
        outside: The class of what lies outside of all polygons; None: it is ignored.
    """

    def __init__(
        self, layers: Sequence[LabelLayer], scene: Scene, name: str, outside: int | None
    ) -> None:
        labels = [layer.labels for layer in layers]
        super().__init__(scene, name, labels[0].path, labels[0].unknown)
        self._layers = layers
        self._outside = outside if any(isinstance(own, PolygonLabels) for own in labels) else None
        self.is_blank = all(own.is_blank for own in labels)
        placements = [(own, own.placement) for own in labels if own.placement is not None]
        if self.is_blank:
            self.placement = labels[0].placement
        elif placements:
            own, words = placements[0]
            file = PurePath(own.path).name
            words = f"has no polygon of {file} there" if own.is_blank else f"{words} ({file})"
            self.placement = words

    def read_with_unknown(self, window: Window) -> tuple[Indices, int]:
        """Return what `read` returns, and how many pixels of files had an unknown label."""
        result = np.full((window.height, window.width), IGNORE_INDEX, dtype=np.uint8)
        is_ignored = np.zeros(result.shape, dtype=bool)
        count = 0
        for labels, new_index, weak in self._layers:
            own, unknown = labels.read_with_unknown(window)
            count += unknown
            indices = new_index[own]
            is_labelled = indices != IGNORE_INDEX
            if self._outside is not None:
                is_ignored |= (
                    labels.ignored(window) if isinstance(labels, PolygonLabels) else ~is_labelled
                )
            if weak is not None:
                is_labelled &= (indices != weak) | (result == IGNORE_INDEX)
            result[is_labelled] = indices[is_labelled]
        if self._outside is not None:
            result[(result == IGNORE_INDEX) & ~is_ignored] = self._outside
        return result, count

    def _decode(self, window: Window) -> Indices:
        return self.read_with_unknown(window)[0]

    def _unknown_error(self) -> InputError:
        raise AssertionError("the files tell of their own unknown labels")


class PolygonLabels(Labels):
    """Labels whose polygons hold a class' name, code or index in an attribute.

    A pixel has the class of the last polygon in the file that holds its centre; a pixel in none
    has that of `Scheme.outside`, or is ignored.
    """

    def __init__(
        self,
        path: str,
        scene: Scene,
        scheme: Scheme,
        name: str,
        unknown: UnknownLabels,
        within: Window | None = None,
    ) -> None:
        from hrrsi.scenes.polygons import scene_polygons  # 40 MB that other labels do without

        super().__init__(scene, name, path, unknown)
        self._scheme = scheme
        self._polygons = scene_polygons(path, scene, scheme.attribute or None, within)
        values = self._polygons.values
        if not scheme.attribute:
            values = [scheme.class_names[0]] * len(self._polygons.geometries)
        outside = None if scheme.outside is None else scheme.index_of(scheme.outside)
        self._outside = IGNORE_INDEX if outside is None else outside
        whole = Window(0, 0, *scene.shape)
        if not self._polygons.near(whole).size:
            self.is_blank = True
            counts = "is ignored" if scheme.outside is None else f"counts as {scheme.outside}"
            self.placement = f"has no polygon there: all of the scene {counts}"
        ignored = {i.name.casefold() for i in scheme.ignored}
        ignored |= {str(i.index) for i in scheme.ignored if i.index is not None}
        self._codes = np.full(len(values), UNKNOWN_LABEL, dtype=np.uint8)
        indices: dict[object, int | None] = {}
        for number, value in enumerate(values):
            if value not in indices:
                indices[value] = None if value is None else scheme.index_of(value)
            index = indices[value]
            if index is not None:
                self._codes[number] = index
            elif ("" if value is None else str(value).strip().casefold()) in ignored:
                self._codes[number] = IGNORE_INDEX
        # where it isn't all of the scene, whoever looked at that has told
        order_matters = within is None and not self._polygons.is_ordered
        if order_matters and self._polygons.overlap_of_others(self._codes):
            self.placement = (
                "has polygons of different classes that overlap, and FlatGeobuf with a spatial "
                "index doesn't keep which one came last: write it as GeoPackage"
            )
        if unknown == "error" and (self._codes == UNKNOWN_LABEL).any():
            raise self._unknown_error()

    def _decode(self, window: Window) -> Indices:
        return self._polygons.burned(window, self._codes, self._outside)

    def ignored(self, window: Window) -> npt.NDArray[np.bool_]:
        """Return which pixels of a window lie in polygons without a class, (height, width)."""
        are_ignored = self._codes >= UNKNOWN_LABEL
        if not are_ignored.any():
            return np.zeros((window.height, window.width), dtype=bool)
        return self._polygons.burned(window, are_ignored.view(np.uint8), 0).view(np.bool_)

    def _unknown_error(self) -> InputError:
        first = int(np.flatnonzero(self._codes == UNKNOWN_LABEL)[0])
        value = self._polygons.values[first]
        inside = self._polygons.geometries[first].representative_point()
        count = Counter(map(str, self._polygons.values))[str(value)]
        names = [label.name for label in self._scheme.all_labels]
        close = difflib.get_close_matches(str(value), names, n=1, cutoff=0.0)
        return InputError(
            f"scene {self.name}: unknown {self._scheme.attribute} {value!r} of a polygon at row "
            f"{int(inside.y)}, column {int(inside.x)}, {count} "
            f"{'polygon' if count == 1 else 'polygons'}; "
            f"the nearest class is {close[0]}",
            where=self.path,
            fix="correct it, add it to the scheme, or give `unknown=ignore`",
        )
