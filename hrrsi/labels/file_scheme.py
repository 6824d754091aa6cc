"""A scheme made of a file of labels: the classes that it holds, their names and colours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from rasterio.errors import RasterioError

from hrrsi.class_styles import Category, polygon_categories, raster_categories
from hrrsi.classes import IGNORE_INDEX, Colour, LabelFormat, chosen_colours
from hrrsi.errors import InputError, OptionError
from hrrsi.files import dump_yaml, named_layer
from hrrsi.labels.laid_classes import on_grid
from hrrsi.labels.merged_classes import joined_scheme
from hrrsi.labels.scene_labels import Indices
from hrrsi.labels.scheme import IgnoredColour, Scheme, SchemeClass
from hrrsi.quantities import counted, counted_names, names_text
from hrrsi.scenes.bands import colour_bands, is_palette, open_imagery
from hrrsi.scenes.height_files import RASTER_SUFFIXES
from hrrsi.scenes.pixel_reader import PixelReader, rasterio_window
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window

_MOST_CLASSES = 100  # of a file; what holds more is an identifier, a measure or a photograph
_STRIP = 1 << 22  # pixels of labels that are looked at at a time
_USUAL_ATTRIBUTE = "class"
_BACKGROUND = "background"  # of masks
_BLURRED = 40  # so far from 0 and 255 do values of a mask lie that was compressed lossily
_LONGEST_NAME = 60  # of a scheme made of several files
# Patterns under which any raster of a folder is a scene.
_ANY_IMAGE = tuple(f"{{scene}}{suffix}" for suffix in sorted(RASTER_SUFFIXES))


@dataclass(frozen=True)
class FileScheme:
    """A scheme that was made of a file of labels.

    Attributes:
        scheme: The scheme.
        notes: What a person should know of it: lines that start with what they are.
    """

    scheme: Scheme
    notes: tuple[str, ...]


class _Found(NamedTuple):
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


def is_label_raster(labels: str | Path) -> bool:
    """Return whether a file of labels is a raster, by its suffix; any other holds polygons."""
    return PurePosixPath(named_layer(labels)[0]).suffix.lower() in RASTER_SUFFIXES


def file_scheme(
    labels: Sequence[str | Path],
    images: Sequence[str],
    *,
    attribute: str | None = None,
    label_format: LabelFormat | None = None,
    crs: str | None = None,
    background: str | None = None,
) -> FileScheme:
    """Return the scheme of files with the labels of some scenes, as `one_file_scheme` of each.

    Classes of one name are one class.

    Args:
        labels: The files, or layers of them.
        images: As for `one_file_scheme`.
        attribute: Likewise.
        label_format: Likewise.
        crs: Likewise.
        background: Likewise.

    Raises:
        InputError: As `one_file_scheme`.
        OptionError: Likewise.
    """
    made = [
        one_file_scheme(
            label,
            images,
            attribute=attribute,
            label_format=label_format,
            crs=crs,
            background=background,
        )
        for label in labels
    ]
    if len(made) == 1:
        return made[0]
    own = [of_file.scheme for of_file in made]
    formats = [scheme.label_format for scheme in own]
    rasters = [kind for kind in formats if kind != "polygons"]
    scheme = joined_scheme(
        own,
        name="_".join(dict.fromkeys(_name(label) for label in labels))[:_LONGEST_NAME],
        title="Made of " + ", ".join(PurePosixPath(str(label)).name for label in labels),
        label_format=rasters[0] if rasters else "polygons",
        outside=next((s.outside for s in own if s.outside is not None), None),
        files={str(label): _of_file(scheme) for label, scheme in zip(labels, own, strict=True)},
    )
    last = (
        f"note: {len(scheme.classes)} classes in all: "
        f"{', '.join(scheme.class_names)}; where several files have a class, that of the last "
        "counts"
    )
    notes = [note for of_file in made for note in of_file.notes]
    return FileScheme(scheme, (*notes, last))


def _of_file(scheme: Scheme) -> Scheme:
    """Return a scheme without what says which files are whose: it is of one file of labels."""
    defaults = Scheme.model_fields
    names = ("title", "images", "labels")
    return scheme.model_copy(update={name: defaults[name].default for name in names})


def image_patterns(labels: str | Path) -> Scheme:
    """Return a scheme under which every raster in a folder is a scene, still without classes."""
    nothing = SchemeClass(name="any", colour=(0, 0, 0))
    return Scheme(name=_name(labels), classes=(nothing,), images=_ANY_IMAGE, labels=())


def one_file_scheme(
    labels: str | Path,
    images: Sequence[str],
    *,
    attribute: str | None = None,
    label_format: LabelFormat | None = None,
    crs: str | None = None,
    background: str | None = None,
) -> FileScheme:
    """Return the scheme of one file with the labels of some scenes: polygons, or a raster.

    Classes are the values that lie on the scenes. Names and colours are those of the file's QGIS
    style (in a GeoPackage, or the ``.qml`` beside it), of GDAL's sidecar or palette of a raster,
    else chosen (`hrrsi.classes.chosen_colours`). Empty values are ignored, and so is 255 in rasters
    of uint8 that hold more than two values. A mask, of 0 and either 1, 255 or 65535 (or black and
    white) without names, has two classes: the background, and one named after the file.

    Args:
        labels: The file, or a layer of it as ``areas.gpkg|layername=parcels``.
        images: The scenes' images.
        attribute: The polygons' attribute that holds classes; None: that of the style, ``class``,
            or the only one; where there is none at all, polygons are of one class, named after the
            file or layer.
        label_format: ``colours`` or ``indices`` for a raster whose look deceives.
        crs: The CRS of images that hold none.
        background: The name of the background of a mask; None: ``background``.

    Raises:
        InputError: The file can't be read, or holds no classes on the scenes.
        OptionError: Which attribute holds classes is not clear, or there is none of this name.
    """
    if is_label_raster(labels):
        found = _as_mask(labels, _raster_values(str(labels), images, label_format, crs), background)
    else:
        found = _polygon_values(labels, images, attribute, crs)
    names = _distinct_names(found)
    given = [category.colour for category in found.categories]
    # those of values that are no class come after, so that classes keep theirs
    rest: list[Colour | None] = [(0, 0, 0), *[None] * len(found.ignored)][: len(found.ignored)]
    colours = chosen_colours([*names, *found.ignored], [*given, *rest])
    are_colours = found.label_format == "colours"
    classes = [
        _scheme_class(name, category.value, colour, are_colours=are_colours)
        for name, category, colour in zip(names, found.categories, colours, strict=False)
    ]
    ignored = [
        IgnoredColour(name=value, colour=colour, index=_index(value))
        for value, colour in zip(found.ignored, colours[len(names) :], strict=True)
    ]
    try:
        scheme = Scheme(
            name=_name(labels),
            title=f"Made of {PurePosixPath(str(labels)).name}",
            classes=tuple(classes),
            ignored=tuple(ignored),
            images=_ANY_IMAGE,
            labels=(),
            label_format=found.label_format,
            outside=names[0] if found.is_mask else None,
            attribute=_USUAL_ATTRIBUTE if found.attribute is None else found.attribute,
        )
    except ValidationError as error:
        raise InputError(
            f"gives no scheme ({error.errors(include_url=False)[0]['msg']})",
            where=labels,
            fix="rename its classes, or write a scheme",
        ) from error
    listed = [f"{c.name} ({','.join(map(str, c.colour))})" for c in classes]
    by = f"the attribute {found.attribute!r}" if found.attribute else "the values"
    if found.attribute == "":
        by = "the name"
    first = (
        f"note: {len(listed)} {'class' if len(listed) == 1 else 'classes'} by {by} of {labels}"
        f"{found.source}: {', '.join(listed)}"
    )
    return FileScheme(scheme, (first, *found.notes))


def scheme_yaml(scheme: Scheme) -> str:
    """Return a scheme as the content of a YAML file, without what is a default."""
    values = _without_nulls(scheme.model_dump(mode="json", exclude_defaults=True))
    return (
        "# A label scheme: names, colours and the order of classes may be changed, and it may be\n"
        "# given again with the same labels.\n" + dump_yaml(values)
    )


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _name(labels: str | Path) -> str:
    file, layer = named_layer(labels)
    return layer or PurePosixPath(Path(file).as_posix()).stem


def _distinct_names(found: _Found) -> list[str]:
    """Return the names of classes: their labels, with the value after those that come twice."""
    plain = [
        category.label or _plain_name(category.value, found.label_format)
        for category in found.categories
    ]
    count = Counter(name.casefold() for name in plain)
    return [
        f"{name} ({category.value})" if count[name.casefold()] > 1 else name
        for name, category in zip(plain, found.categories, strict=True)
    ]


def _plain_name(value: str, label_format: LabelFormat) -> str:
    if label_format == "colours":
        return f"colour {value}"
    return value if _index(value) is None else f"class {value}"


def _index(value: str) -> int | None:
    """Return the whole number that a value is, or None."""
    is_number = value.removeprefix("-").isdecimal() and str(int(value)) == value
    return int(value) if is_number else None


def _scheme_class(name: str, value: str, colour: Colour, *, are_colours: bool) -> SchemeClass:
    index = None if are_colours else _index(value)
    code = value if index is None and not are_colours and value != name else None
    return SchemeClass(name=name, colour=colour, code=code, index=index)


def _as_mask(labels: str | Path, found: _Found, background: str | None) -> _Found:
    """Return what a raster holds, with names where it is a mask of one class."""
    first, *rest = [category.value for category in found.categories]
    has_names = any(category.label for category in found.categories)
    if found.label_format == "colours":
        is_mask = first == "0,0,0" and rest == ["255,255,255"]
    else:
        is_mask = first == "0" and rest in (["1"], ["255"], ["65535"]) and not found.source
    if not is_mask or has_names or found.ignored:
        return found
    names = (background or _BACKGROUND, _name(labels))
    categories = [c._replace(label=n) for c, n in zip(found.categories, names, strict=True)]
    source = f", a mask of {first} and {rest[0]} that is named after its file"
    return found._replace(categories=categories, source=source, is_mask=True)


def _polygon_values(
    labels: str | Path, images: Sequence[str], attribute: str | None, crs: str | None
) -> _Found:
    from hrrsi.scenes.polygons import (  # 40 MB that rasters do without
        attribute_values,
        chosen_layer,
        scene_polygons,
    )

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
                text = _text(polygons.values[number]) if attribute else _name(labels)
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
    values = [min(found, key=lambda v: (-found[v], v)) for found in spellings.values()]
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
    categories = [
        Category(v, found.label, found.colour)
        if (found := styled.get(v.casefold()))
        else Category(v, "", None)
        for v in values
    ]
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
    return _Found(categories, [""] if empty else [], "polygons", attribute, source, notes)


def _text(value: object) -> str:
    """Return the value of an attribute as text, empty where there is none."""
    return "" if value is None or value != value else str(value).strip()  # NaN differs from itself


def _sort_key(value: str) -> tuple[int, int, str]:
    index = _index(value)
    return (1, 0, value.casefold()) if index is None else (0, index, value)


def _attribute(
    labels: str | Path, columns: Mapping[str, Sequence[object]], styled: str | None
) -> str:
    """Return the attribute that holds classes, where it is clear which one does."""
    by_name = {name.casefold(): name for name in columns}
    for name in (styled, _USUAL_ATTRIBUTE):
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
        few = f": {names_text(different)}" if len(different) <= 8 else ""
        texts.append(f"{name} ({counted(len(different), 'value')}{few})")
    return counted_names(texts, 12)


def _refuse_measures(
    labels: str | Path,
    attribute: str,
    values: Sequence[str],
    columns: Mapping[str, Sequence[object]],
) -> None:
    """Raise where an attribute holds numbers with decimals, or too many values for classes."""
    fix = f"choose another `attribute` of {_described(columns)}"
    decimals = [v for v in values if _index(v) is None and v.replace(".", "", 1).isdecimal()]
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


class _ValuesRead:
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
        found = np.unique(values)
        if found.dtype.kind == "f":
            found = found[~np.isnan(found)]
            broken = found[(found != np.trunc(found)) | (np.abs(found) >= 2**31)]
            if broken.size:
                raise InputError(
                    f"holds {broken[0]:g}, which is no class",
                    where=self._scene.path,
                    fix="give a raster of classes as `labels`",
                )
        self.values.update(found.astype(np.int64).tolist())
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


def _raster_values(
    path: str, images: Sequence[str], label_format: LabelFormat | None, crs: str | None
) -> _Found:
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
        read = _ValuesRead(own, bands)
        for image in images:
            with open_imagery(image, 3, crs) as opened:
                scene = Scene(image, opened, (1,))
                laid = on_grid(read, scene, "image")
                step = max(1, _STRIP // scene.width)
                for row in range(0, scene.height, step):
                    laid.read(Window(row, 0, min(step, scene.height - row), scene.width))
        palette = dataset.colormap(1) if is_palette(dataset) else {}
        is_byte = dataset.dtypes[bands[0] - 1] == "uint8"
    values = sorted(read.values)
    if not values:
        raise InputError(
            "holds no data on the images", where=path, fix="check what it declares as no data"
        )
    if len(bands) == 3 and label_format != "indices":
        shown = [(value >> 16 & 255, value >> 8 & 255, value & 255) for value in values]
        by_colour = [Category(",".join(map(str, colour)), "", colour) for colour in shown]
        return _Found(by_colour, [], "colours", None, "", [])
    known = {category.value: category for category in raster_categories(path)}
    ignored = [v for v in values if v in palette and not palette[v][3]]
    notes = []
    if is_byte and IGNORE_INDEX in values and len(values) > 2 and str(IGNORE_INDEX) not in known:
        ignored.append(IGNORE_INDEX)
        notes.append(f"note: {IGNORE_INDEX} in {path} has no name and counts as no class")
    _refuse_blurred_mask(path, values)
    categories = []
    for value in (v for v in values if v not in ignored):
        _, label, colour = known.get(str(value), Category("", "", None))
        if colour is None and value in palette:
            red, green, blue, _ = palette[value]
            colour = (red, green, blue)
        categories.append(Category(str(value), label, colour))
    if not categories:
        raise InputError("holds no class", where=path, fix="check its values")
    source = ", as its style or palette has them" if known or palette else ""
    texts = [str(value) for value in ignored if value != IGNORE_INDEX]
    return _Found(categories, texts, "indices", None, source, notes)
