"""A place of the viewer: maps on one grid, and what their layers hold in all and at a pixel."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rasterio.errors import RasterioError
from rasterio.warp import transform as transform_coordinates

from hrrsi.classes import Colour
from hrrsi.errors import HrrsiError, InputError
from hrrsi.labels.laid_classes import Classes, has_place
from hrrsi.labels.scene_labels import Indices, Labels
from hrrsi.maps.rasters import (
    ClassAreas,
    ClassRasterContent,
    map_areas,
)
from hrrsi.quantities import area_text, names_text
from hrrsi.scenes.crs import crs_name
from hrrsi.scenes.georeference import ground_pixel, is_on_earth, map_coordinates, pixel_areas
from hrrsi.scenes.raster_opening import unified_gdal_errors
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window
from hrrsi.viewer.layers import (
    ClassLayer,
    ClosedError,
    Layer,
    strips,
)
from hrrsi.viewer.pictures import ScoreLayer

MAP_ENDING = "_classes"


@dataclass
class OpenMap:
    """A map that is open.

    Attributes:
        path: As given.
        classes: Reads it on its own grid.
        names: Class names in the order of their indices.
        colours: Class colours, likewise.
        content: What it says of itself, where it is one of hrrsi's.
        scene_path: Its scene, where that is known and there.
        is_as_written: Whether it is as hrrsi wrote it, so that its overviews and counts are true.
        origin: What it was made of, though that may be gone; None where nothing says so.
        is_on_grid: Whether the grid of its place is its own.
    """

    path: str
    classes: Classes
    names: Sequence[str]
    colours: Sequence[Colour]
    content: ClassRasterContent | None
    scene_path: str | None
    is_as_written: bool
    origin: str | None
    is_on_grid: bool = True

    @property
    def name(self) -> str:
        """What it is called: its file, without what ends names of maps."""
        return Path(self.path).stem.removesuffix(MAP_ENDING)

    @property
    def options(self) -> dict[str, Any]:
        """The options that it was made with, as far as it says."""
        provenance = {} if self.content is None else self.content.provenance
        try:
            options = json.loads(provenance.get("OPTIONS", "{}"))
        except ValueError:
            return {}
        return options if isinstance(options, dict) else {}


class OpenLabels(NamedTuple):
    """Labels on the grid of a place.

    Attributes:
        classes: Reads them.
        names: What each index stands for: classes, then labels that stand for several.
        colours: Their colours.
        class_names: The names of the classes that each index stands for, in lower case.
    """

    classes: Labels
    names: list[str]
    colours: list[Colour]
    class_names: list[set[str]]

    def pairs_with(
        self, viewed_map: OpenMap, path: str
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Return which labels and classes of a map go together, and which are compared.

        Args:
            viewed_map: The map.
            path: The labels' file, for messages.

        Returns:
            Two (256, 256) tables, by index of the label and of the class.

        Raises:
            InputError: They have no class in common.
        """
        names = [name.casefold() for name in viewed_map.names]
        are_same = np.zeros((256, 256), dtype=bool)
        are_scored = np.zeros((256, 256), dtype=bool)
        for label, class_names in enumerate(self.class_names):
            are_same[label, : len(names)] = [name in class_names for name in names]
            are_scored[label, : len(names)] = are_same[label].any()
        if not are_same.any():
            raise InputError(
                f"its classes ({names_text(self.names)}) are not those of {viewed_map.path} "
                f"({names_text(list(viewed_map.names))})",
                where=path,
                fix="give the `scheme` that says what the labels mean",
            )
        return are_same, are_scored


@dataclass
class Count:
    """What a layer of classes holds, once all of it has been counted.

    Attributes:
        pixels: Pixels of each class.
        areas: Their square metres, None where these are not known.
        nodata: Pixels without any class.
    """

    pixels: list[int]
    areas: list[float] | None
    nodata: int


@dataclass
class Place:
    """Maps on one grid, with what is shown beside them.

    Attributes:
        name: What the page calls it.
        grid: The first map's raster.
        layers: What can be shown.
        maps: Those of the layers that are maps.
        notes: What a person should know, in a line each.
        counts: By number of a layer, what it holds.
        counted_share: The share of the grid that has been counted, 0 to 1.
        failure: Why counting has ended early, or None.
        scores: By number of a map's layer, that of its confidences.
        labels: The number of the labels' layer, or None.
        label_source: The labels, or None.
        unknown: Pixels counted so far whose label the scheme does not know.
        errors: By number of a map's layer, that of where it is right and wrong.
    """

    name: str
    grid: Scene
    first: OpenMap
    layers: list[Layer] = field(default_factory=list)
    maps: list[tuple[OpenMap, ClassLayer]] = field(default_factory=list)
    scores: dict[int, int] = field(default_factory=dict)
    labels: int | None = None
    label_source: Labels | None = None
    unknown: int = 0
    errors: dict[int, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    counts: dict[int, Count] = field(default_factory=dict)
    counted_share: float = 0.0
    failure: str | None = None
    _counting: threading.Thread | None = None
    _beginning: threading.Lock = field(default_factory=threading.Lock)
    _closing: threading.Event = field(default_factory=threading.Event)

    def add(self, layer: Layer) -> int:
        """Add a layer, and return its number."""
        self.layers.append(layer)
        return len(self.layers) - 1

    def take_names(self) -> None:
        """Call the place by its maps, and each of several maps by its name, or its path."""
        names = [viewed_map.name for viewed_map, _ in self.maps]
        self.name = names_text(list(dict.fromkeys(names)), most=2)
        if len(names) > 1:
            for viewed_map, layer in self.maps:
                is_alone = names.count(viewed_map.name) == 1
                layer.label = viewed_map.name if is_alone else viewed_map.path

    def count(self) -> None:
        """Begin to count what layers hold, in a thread of its own, unless that has begun."""
        with self._beginning:  # several pages may ask at once
            if self._counting is None and not self._closing.is_set():
                self._counting = threading.Thread(target=self._count_all, daemon=True)
                self._counting.start()

    def close(self) -> None:
        """Stop counting, and let nothing be read any more."""
        self._closing.set()
        for layer in self.layers:
            layer.close()
        with self._beginning:
            if self._counting is not None:
                self._counting.join()

    def _count_all(self) -> None:
        try:
            self.counts.update(self._written_counts())
            uncounted = {
                number: layer
                for number, layer in enumerate(self.layers)
                if isinstance(layer, ClassLayer) and number not in self.counts
            }
            pictures = [
                layer
                for layer in self.layers
                if layer.needs_pass and layer not in uncounted.values()
            ]
            if uncounted or pictures:
                self._pass(uncounted, pictures)
            self.counted_share = 1.0
        except (ClosedError, KeyboardInterrupt):  # the viewer ends
            pass
        except HrrsiError as error:
            self.failure = str(error)
        except Exception as error:
            self.failure = f"counting failed: {type(error).__name__}: {error}"
            raise

    def _written_counts(self) -> dict[int, Count]:
        """Return the counts that hrrsi wrote into maps which are as it wrote them."""
        counts = {}
        for viewed_map, layer in self.maps:
            content = viewed_map.content
            if content is not None and viewed_map.is_as_written and viewed_map.is_on_grid:
                areas = map_areas(Path(viewed_map.path), self.grid.dataset, content.class_pixels)
                number = self.layers.index(layer)
                counts[number] = Count(content.class_pixels, areas, content.nodata_pixels)
        return counts

    def _pass(self, uncounted: dict[int, ClassLayer], pictures: Sequence[Layer]) -> None:
        """Read the grid once from top to bottom, for counts and for levels kept in memory."""
        by_row = pixel_areas(self.grid.dataset)
        sums = {number: ClassAreas(len(layer.names), by_row) for number, layer in uncounted.items()}
        for window in strips(self.grid.shape):
            if self._closing.is_set():
                raise ClosedError
            for number, layer in uncounted.items():
                classes = self._strip(number, layer, window)
                sums[number].add(classes)
                layer.see(window, classes)
            for picture in pictures:
                picture.take(window)
            self.counted_share = (window.row + window.height) / self.grid.height
        for number, total in sums.items():
            self.counts[number] = Count(total.pixels, total.areas, total.nodata_pixels)

    def _strip(self, number: int, layer: ClassLayer, window: Window) -> Indices:
        """Return a strip of a layer; of labels, count those that the scheme does not know."""
        if number != self.labels or self.label_source is None:
            return layer.reader.read(window)
        with layer.reader.alone():
            classes, unknown = self.label_source.read_with_unknown(window)
        self.unknown += unknown
        return classes

    def point(self, row: int, column: int) -> dict[str, Any]:
        """Return what lies at a pixel: classes and confidences by layer, and where it is."""
        values: dict[str, Any] = {}
        for number, layer in enumerate(self.layers):
            if isinstance(layer, ClassLayer):
                index = layer.at(row, column)
                values[str(number)] = None if index >= len(layer.names) else index
            elif isinstance(layer, ScoreLayer):
                values[str(number)] = layer.at(row, column)
        return {"row": row, "column": column, "layers": values, **self._coordinates(row, column)}

    def _coordinates(self, row: int, column: int) -> dict[str, str]:
        """Return where the middle of a pixel lies, in the map's CRS and in WGS 84, as text."""
        if not has_place(self.grid):
            return {}
        places = map_coordinates(self.grid.dataset)
        x, y = places.of_pixels(np.array([column + 0.5]), np.array([row + 0.5]))
        crs = places.crs
        if crs is None or not is_on_earth(crs):
            return {"crs": f"{x[0]:,.2f}, {y[0]:,.2f}"}
        digits = 7 if crs.is_geographic else 2
        texts = {"crs": f"{x[0]:.{digits}f}, {y[0]:.{digits}f}"}
        try:
            with unified_gdal_errors():
                longitude, latitude = transform_coordinates(crs, "EPSG:4326", x, y)
        except RasterioError:  # the CRS does not reach there
            return texts
        north, east = "N" if latitude[0] >= 0 else "S", "E" if longitude[0] >= 0 else "W"
        texts["wgs84"] = f"{abs(latitude[0]):.6f}° {north}, {abs(longitude[0]):.6f}° {east}"
        return texts

    def described(self) -> dict[str, Any]:
        """Return what the page has to know before it shows the place."""
        pixel = ground_pixel(self.grid.dataset)
        crs = map_coordinates(self.grid.dataset).crs
        return {
            "name": self.name,
            "width": self.grid.width,
            "height": self.grid.height,
            "metres": None if pixel is None else pixel.across,
            "crs": None if crs is None else crs_name(crs),
            "notes": self.notes,
            "layers": [_described(layer) for layer in self.layers],
            "maps": [self.layers.index(layer) for _, layer in self.maps],
            "scores": self.scores,
            "labels": self.labels,
            "errors": self.errors,
        }

    def counted(self) -> dict[str, Any]:
        """Return how far counting is, and what has been counted."""
        return {
            "done": self.counted_share,
            "failure": self.failure,
            "unknown": self.unknown,
            "layers": {str(number): _shares(count) for number, count in self.counts.items()},
        }


def _described(layer: Layer) -> dict[str, Any]:
    described: dict[str, Any] = {
        "kind": layer.kind,
        "label": layer.label,
        "grows": layer.needs_pass,
    }
    if isinstance(layer, ClassLayer):
        described |= {"names": layer.names, "colours": layer.colours}
    if isinstance(layer, ScoreLayer):
        described["colours"] = layer.colours
    return described


def _shares(count: Count) -> dict[str, Any]:
    total = max(1, sum(count.pixels))
    areas = count.areas
    return {
        "pixels": count.pixels,
        "shares": [pixels / total for pixels in count.pixels],
        "areas": None if areas is None else [area_words(area) for area in areas],
        "total": None if areas is None else area_words(sum(areas)),
        "nodata": count.nodata,
    }


def area_words(square_metres: float) -> str:
    """Return an area in square kilometres from one on, in hectares, or in square metres."""
    if square_metres >= 1e6:
        return f"{square_metres / 1e6:,.2f} km²"
    return area_text(square_metres)
