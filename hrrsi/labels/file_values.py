"""The values that a file of labels holds: texts of an attribute, class indices, or colours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rasterio.errors import RasterioError

from hrrsi.class_styles import Category, polygon_categories, raster_categories
from hrrsi.classes import IGNORE_INDEX, LabelFormat
from hrrsi.errors import InputError, OptionError
from hrrsi.files import named_layer
from hrrsi.labels.laid_classes import on_grid
from hrrsi.labels.scene_labels import Indices
from hrrsi.quantities import counted, counted_names, names_text
from hrrsi.scenes.bands import colour_bands, is_palette, open_imagery
from hrrsi.scenes.pixel_reader import PixelReader, rasterio_window
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window

_MOST_CLASSES = 100  # of a file; what holds more is an identifier, a measure or a photograph
_STRIP = 1 << 22  # pixels of labels that are looked at at a time
USUAL_ATTRIBUTE = "class"
_BLURRED = 40  # so far from 0 and 255 do values of a mask lie that was compressed lossily


class FileValues(NamedTuple):
    """What a file of labels holds.

    Attributes:
        categories: The classes; their values are texts.
        ignored: Values that stand for no class, as texts.
        label_format: What labels hold.
        attribute: Of polygons, the one that holds the values.
        source: Where names and colours are from, in words; empty where the file has none.
        notes: As for `FileScheme`.
        is_mask: Whether the first class is the background of the second.
    """

    categories: list[Category]
    ignored: list[str]
    label_format: LabelFormat
    attribute: str | None
    source: str
    notes: list[str]
    is_mask: bool = False


def file_name(labels: str | Path) -> str:
    """Return what a file of labels is called: its layer, where one is chosen, else its stem."""
    file, layer = named_layer(labels)
    return layer or PurePosixPath(Path(file).as_posix()).stem


def whole_number(value: str) -> int | None:
    """Return the whole number that a value is, or None."""
    is_number = value.removeprefix("-").isdecimal() and str(int(value)) == value
    return int(value) if is_number else None


def polygon_values(
    labels: str | Path, images: Sequence[str], attribute: str | None, crs: str | None
) -> FileValues:
    """Return the classes that an attribute of polygons tells apart.

    Args:
        labels: A vector file, or one with ``|layername=NAME`` after it.
        images: The scenes that its polygons lie on.
        attribute: The attribute; None: that of the file's own style, ``class``, or the only one.
        crs: The CRS of scenes that hold none.

    Raises:
        InputError: Not readable, or of the attribute's values no classes can be made.
        OptionError: Which attribute holds classes is not clear, or there is no such attribute.
    """
    from hrrsi.scenes.polygons import scene_polygons  # 40 MB that rasters do without
    from hrrsi.scenes.vector_layers import attribute_values, chosen_layer

    path, layer = chosen_layer(labels)
    style = polygon_categories(path, layer)
    columns = attribute_values(labels)
    if attribute is None and not columns:
        attribute = ""
    elif attribute is None:
        attribute = _attribute(labels, columns, style.attribute if style else None)
    elif attribute not in columns:
        raise OptionError(
            f"{labels} has no attribute {attribute!r}",
            parameter="attribute",
            fix=f"choose from {_described(columns)}" if columns else "it has none: add one",
        )
    spellings: dict[str, Counter[str]] = {}
    empty = 0
    for image in images:
        with open_imagery(image, 3, crs) as dataset:
            scene = Scene(image, dataset, (1,))
            polygons = scene_polygons(labels, scene, attribute or None)
            for number in polygons.near(Window(0, 0, *scene.shape)):
                text = _text(polygons.values[number]) if attribute else file_name(labels)
                empty += not text
                if text:
                    spellings.setdefault(text.casefold(), Counter())[text] += 1
    if not spellings:
        raise InputError(
            f"no polygon {'with a value of ' + repr(attribute) + ' ' if empty else ''}lies on "
            f"{names_text(images, most=3)}",
            where=labels,
            fix=f"fill in {attribute!r}, or choose another `attribute`"
            if empty
            else "check the CRS of polygons and image, and that they are of one place",
        )
    values = [min(counts, key=lambda v: (-counts[v], v)) for counts in spellings.values()]
    _refuse_measures(labels, attribute, values, columns)
    styled: dict[str, Category] = {}
    if style is not None and style.attribute.casefold() == attribute.casefold():
        styled = {category.value.casefold(): category for category in style.categories}
    order = list(styled)
    values.sort(
        key=lambda v: (
            order.index(v.casefold()) if v.casefold() in styled else len(order),
            *_sort_key(v),
        )
    )
    categories = [styled.get(v.casefold(), Category(v, "", None))._replace(value=v) for v in values]
    notes = []
    if empty:
        notes.append(
            f"note: {counted(empty, 'polygon')} of {labels} without a value of {attribute!r}: "
            "ignored"
        )
    everywhere = {text for value in columns.get(attribute, ()) if (text := _text(value))}
    absent = sorted((v for v in everywhere if v.casefold() not in spellings), key=_sort_key)
    if absent:
        notes.append(
            f"note: values of {attribute!r} that lie on no image, so are no classes: "
            f"{counted_names(absent)}"
        )
    source = ", as its QGIS style has them" if any(v.casefold() in styled for v in values) else ""
    return FileValues(categories, [""] if empty else [], "polygons", attribute, source, notes)


def _text(value: object) -> str:
    """Return the value of an attribute as text, empty where there is none."""
    return "" if value is None or value != value else str(value).strip()  # NaN differs from itself


def _sort_key(value: str) -> tuple[int, int, str]:
    index = whole_number(value)
    return (1, 0, value.casefold()) if index is None else (0, index, value)


def _attribute(
    labels: str | Path, columns: Mapping[str, Sequence[object]], styled: str | None
) -> str:
    """Return the attribute that holds classes, where it is clear which one does."""
    by_name = {name.casefold(): name for name in columns}
    for name in (styled, USUAL_ATTRIBUTE):
        if name is not None and name.casefold() in by_name:
            return by_name[name.casefold()]
    if len(columns) == 1:
        return next(iter(columns))
    raise OptionError(
        f"which one of {labels} holds classes is not clear",
        parameter="attribute",
        fix=f"choose from {_described(columns)}",
    )


def _described(columns: Mapping[str, Sequence[object]]) -> str:
    """Return attributes and how many values each has."""
    texts = []
    for name, values in columns.items():
        different = sorted({_text(value) for value in values} - {""}, key=_sort_key)
        values_text = f": {names_text(different)}" if len(different) <= 8 else ""
        texts.append(f"{name} ({counted(len(different), 'value')}{values_text})")
    return counted_names(texts, 12)


def _refuse_measures(
    labels: str | Path,
    attribute: str,
    values: Sequence[str],
    columns: Mapping[str, Sequence[object]],
) -> None:
    """Raise where an attribute holds numbers with decimals, or too many values for classes."""
    fix = f"choose another `attribute` of {_described(columns)}"
    decimals = [v for v in values if whole_number(v) is None and v.replace(".", "", 1).isdecimal()]
    if decimals:
        raise InputError(
            f"{attribute!r} holds numbers with decimals ({names_text(decimals, most=3)}), not "
            "classes",
            where=labels,
            fix=fix,
        )
    if len(values) > _MOST_CLASSES:
        raise InputError(
            f"{attribute!r} has {len(values):,} values ({names_text(values, most=3)}), too many "
            "for classes",
            where=labels,
            fix=f"{fix}; or write a scheme",
        )


class _ValueCollector:
    """The values of a raster of labels, remembered as they are read; its classes say nothing.

    Args:
        scene: The raster.
        bands: One band of numbers, or three of colours.
    """

    def __init__(self, scene: Scene, bands: list[int]) -> None:
        self._scene, self._bands = scene, bands
        self._reader = PixelReader(scene.dataset, bands, scene.path)
        self.values: set[int] = set()

    @property
    def scene(self) -> Scene:
        """The raster."""
        return self._scene

    def read(self, window: Window) -> Indices:
        """Remember what a window holds.

        Raises:
            InputError: It can't be read, or holds no classes.
        """
        step = max(1, _STRIP // window.width)
        for row in range(window.row, window.row + window.height, step):
            rows = min(step, window.row + window.height - row)
            self._look(Window(row, window.col, rows, window.width))
        return np.zeros((window.height, window.width), dtype=np.uint8)

    def _look(self, window: Window) -> None:
        try:
            bands = self._scene.dataset.read(self._bands, window=rasterio_window(window))
        except RasterioError as error:
            raise InputError(
                f"cannot be read at row {window.row}, column {window.col} (truncated or damaged)",
                where=self._scene.path,
                fix="copy the file again",
            ) from error
        if len(bands) == 3:
            red, green, blue = bands.astype(np.int64)
            values: npt.NDArray[Any] = red << 16 | green << 8 | blue
        else:
            values = bands[0]
        if self._reader.declares_nodata:
            values = values[self._reader.valid(window)]
        unique = np.unique(values)
        if unique.dtype.kind == "f":
            unique = unique[~np.isnan(unique)]
            broken = unique[(unique != np.trunc(unique)) | (np.abs(unique) >= 2**31)]
            if broken.size:
                raise InputError(
                    f"holds {broken[0]:g}, which is no class",
                    where=self._scene.path,
                    fix="give a raster of classes as `labels`",
                )
        self.values.update(unique.astype(np.int64).tolist())
        if len(self.values) > _MOST_CLASSES + 1:
            raise InputError(
                f"holds more than {_MOST_CLASSES} {'colours' if len(bands) == 3 else 'values'}, "
                "too many for classes (imagery, or labels that were resampled or lossily "
                "compressed?)",
                where=self._scene.path,
                fix="give a raster of classes as `labels`, or write a scheme",
            )


def _refuse_blurred_mask(path: str, values: Sequence[int]) -> None:
    """Raise where values are 0 and 255 with some beside them, as lossy compression leaves them."""
    low, high = _BLURRED, IGNORE_INDEX - _BLURRED
    between = [value for value in values if low < value < high]
    near_top = [value for value in values if high <= value < IGNORE_INDEX]
    if {0, IGNORE_INDEX} <= set(values) and near_top and not between:
        raise InputError(
            f"holds 0, 255 and values beside them ({names_text([str(v) for v in near_top], 3)}), "
            "as a mask that was lossily compressed or resampled",
            where=path,
            fix="take the original mask, or make one of it with `gdal_calc.py --calc 'A>127'`",
        )


def raster_values(
    path: str, images: Sequence[str], label_format: LabelFormat | None, crs: str | None
) -> FileValues:
    """Return the classes that the values of a raster tell apart on scenes.

    Args:
        path: A raster of labels.
        images: The scenes that it lies on.
        label_format: ``colours`` or ``indices``; None: what it looks like.
        crs: The CRS of scenes that hold none.

    Raises:
        InputError: Not readable, without data on the scenes, or with more values than classes have.
    """
    with open_imagery(path, 1) as dataset:
        bands = colour_bands(dataset)
        own = Scene(path, dataset, (1,))
        if len(bands) not in (1, 3) or (len(bands) == 3 and set(dataset.dtypes) != {"uint8"}):
            raise InputError(
                f"holds {counted(len(bands), 'band')} of {dataset.dtypes[0]}, which are neither "
                "class indices (one band) nor colours (three of uint8)",
                where=path,
                fix="give a raster of classes as `labels`",
            )
        collector = _ValueCollector(own, bands)
        for image in images:
            with open_imagery(image, 3, crs) as opened:
                scene = Scene(image, opened, (1,))
                laid = on_grid(collector, scene, "image")
                step = max(1, _STRIP // scene.width)
                for row in range(0, scene.height, step):
                    laid.read(Window(row, 0, min(step, scene.height - row), scene.width))
        palette = dataset.colormap(1) if is_palette(dataset) else {}
        is_byte = dataset.dtypes[bands[0] - 1] == "uint8"
    values = sorted(collector.values)
    if not values:
        raise InputError(
            "holds no data on the images", where=path, fix="check what it declares as no data"
        )
    if len(bands) == 3 and label_format != "indices":
        shown = [(value >> 16 & 255, value >> 8 & 255, value & 255) for value in values]
        by_colour = [Category(",".join(map(str, colour)), "", colour) for colour in shown]
        return FileValues(by_colour, [], "colours", None, "", [])
    styles = {category.value: category for category in raster_categories(path)}
    ignored = [v for v in values if v in palette and not palette[v][3]]
    notes = []
    if is_byte and IGNORE_INDEX in values and len(values) > 2 and str(IGNORE_INDEX) not in styles:
        ignored.append(IGNORE_INDEX)
        notes.append(f"note: {IGNORE_INDEX} in {path} has no name and counts as no class")
    _refuse_blurred_mask(path, values)
    categories = []
    for value in (v for v in values if v not in ignored):
        _, label, colour = styles.get(str(value), Category("", "", None))
        if colour is None and value in palette:
            red, green, blue, _ = palette[value]
            colour = (red, green, blue)
        categories.append(Category(str(value), label, colour))
    if not categories:
        raise InputError("holds no class", where=path, fix="check its values")
    source = ", as its style or palette has them" if styles or palette else ""
    texts = [str(value) for value in ignored if value != IGNORE_INDEX]
    return FileValues(categories, texts, "indices", None, source, notes)
