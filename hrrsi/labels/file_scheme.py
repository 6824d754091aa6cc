"""A scheme made of a file of labels: the classes that it holds, their names and colours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from hrrsi.classes import Colour, LabelFormat, chosen_colours
from hrrsi.errors import InputError
from hrrsi.files import dump_yaml, named_layer
from hrrsi.labels.file_values import (
    USUAL_ATTRIBUTE,
    FileValues,
    file_name,
    polygon_values,
    raster_values,
    whole_number,
)
from hrrsi.labels.merged_classes import joined_scheme
from hrrsi.labels.scheme import IgnoredColour, Scheme, SchemeClass
from hrrsi.scenes.raster_opening import RASTER_SUFFIXES

_BACKGROUND = "background"  # of masks
_LONGEST_NAME = 60  # of a scheme made of several files
# Patterns under which any raster of a folder is a scene; what may be its quick-look comes last.
_PICTURES = (".png", ".jpg", ".jpeg")
_SUFFIXES = (".tif", ".tiff", *sorted(RASTER_SUFFIXES - {".tif", ".tiff", *_PICTURES}), *_PICTURES)
_ANY_IMAGE = tuple(f"{{scene}}{suffix}" for suffix in _SUFFIXES)


@dataclass(frozen=True)
class FileScheme:
    """A scheme that was made of a file of labels.

    Attributes:
        scheme: The scheme.
        notes: What a person should know of it: lines that start with what they are.
    """

    scheme: Scheme
    notes: tuple[str, ...]


@dataclass(frozen=True)
class FileSchemeOptions:
    """How files of labels are read to make a scheme of them.

    Attributes:
        attribute: The polygons' attribute that holds classes; None: that of the style, ``class``,
            or the only one; where there is none at all, polygons are of one class, named after the
            file or layer.
        label_format: ``colours`` or ``indices`` for a raster whose look deceives.
        crs: The CRS of images that hold none.
        background: The name of the background of a mask; None: ``background``.
    """

    attribute: str | None = None
    label_format: LabelFormat | None = None
    crs: str | None = None
    background: str | None = None


def is_label_raster(labels: str | Path) -> bool:
    """Return whether a file of labels is a raster, by its suffix; any other holds polygons."""
    return PurePosixPath(named_layer(labels)[0]).suffix.lower() in RASTER_SUFFIXES


def file_scheme(
    labels: Sequence[str | Path],
    images: Sequence[str],
    options: FileSchemeOptions = FileSchemeOptions(),
) -> FileScheme:
    """Return the scheme of files with the labels of some scenes: polygons, or rasters.

    Classes are the values that lie on the scenes; classes of one name are one class. Names and
    colours are those of the file's QGIS style (in a GeoPackage, or the ``.qml`` beside it), of
    GDAL's sidecar or palette of a raster, else chosen (`hrrsi.classes.chosen_colours`). Empty
    values are ignored, and so is 255 in rasters of uint8 that hold more than two values. A mask, of
    0 and either 1, 255 or 65535 (or black and white) without names, has two classes: the
    background, and one named after the file.

    Args:
        labels: The files, or layers of them as ``areas.gpkg|layername=parcels``.
        images: The scenes' images.
        options: How they are read.

    Raises:
        InputError: A file can't be read, or holds no classes on the scenes.
        OptionError: Which attribute holds classes is not clear, or there is none of this name.
    """
    file_schemes = [_scheme_of(label, images, options) for label in labels]
    if len(file_schemes) == 1:
        return file_schemes[0]
    schemes = [of_file.scheme for of_file in file_schemes]
    formats = [scheme.label_format for scheme in schemes]
    rasters = [kind for kind in formats if kind != "polygons"]
    scheme = joined_scheme(
        schemes,
        name="_".join(dict.fromkeys(file_name(label) for label in labels))[:_LONGEST_NAME],
        title="Made of " + ", ".join(PurePosixPath(str(label)).name for label in labels),
        label_format=rasters[0] if rasters else "polygons",
        outside=next((s.outside for s in schemes if s.outside is not None), None),
        files={str(label): _of_file(scheme) for label, scheme in zip(labels, schemes, strict=True)},
    )
    last = (
        f"note: {len(scheme.classes)} classes in all: "
        f"{', '.join(scheme.class_names)}; where several files have a class, that of the last "
        "counts"
    )
    notes = [note for of_file in file_schemes for note in of_file.notes]
    return FileScheme(scheme, (*notes, last))


def _of_file(scheme: Scheme) -> Scheme:
    """Return a scheme without what says which files are whose: it is of one file of labels."""
    defaults = Scheme.model_fields
    names = ("title", "images", "labels")
    return scheme.model_copy(update={name: defaults[name].default for name in names})


def image_patterns(labels: str | Path) -> Scheme:
    """Return a scheme under which every raster in a folder is a scene, still without classes."""
    nothing = SchemeClass(name="any", colour=(0, 0, 0))
    return Scheme(name=file_name(labels), classes=(nothing,), images=_ANY_IMAGE, labels=())


def _scheme_of(labels: str | Path, images: Sequence[str], options: FileSchemeOptions) -> FileScheme:
    """Return the scheme of one file of labels, as `file_scheme`."""
    if is_label_raster(labels):
        values = raster_values(str(labels), images, options.label_format, options.crs)
        values = _as_mask(labels, values, options.background)
    else:
        values = polygon_values(labels, images, options.attribute, options.crs)
    names = _distinct_names(values)
    own_colours = [category.colour for category in values.categories]
    # those of values that are no class come after, so that classes keep theirs
    rest: list[Colour | None] = [(0, 0, 0), *[None] * len(values.ignored)][: len(values.ignored)]
    colours = chosen_colours([*names, *values.ignored], [*own_colours, *rest])
    are_colours = values.label_format == "colours"
    classes = [
        _scheme_class(name, category.value, colour, are_colours=are_colours)
        for name, category, colour in zip(names, values.categories, colours, strict=False)
    ]
    ignored = [
        IgnoredColour(name=value, colour=colour, index=whole_number(value))
        for value, colour in zip(values.ignored, colours[len(names) :], strict=True)
    ]
    try:
        scheme = Scheme(
            name=file_name(labels),
            title=f"Made of {PurePosixPath(str(labels)).name}",
            classes=tuple(classes),
            ignored=tuple(ignored),
            images=_ANY_IMAGE,
            labels=(),
            label_format=values.label_format,
            outside=names[0] if values.is_mask else None,
            attribute=USUAL_ATTRIBUTE if values.attribute is None else values.attribute,
        )
    except ValidationError as error:
        raise InputError(
            f"gives no scheme ({error.errors(include_url=False)[0]['msg']})",
            where=labels,
            fix="rename its classes, or write a scheme",
        ) from error
    listed = [f"{c.name} ({','.join(map(str, c.colour))})" for c in classes]
    by = f"the attribute {values.attribute!r}" if values.attribute else "the values"
    if values.attribute == "":
        by = "the name"
    first = (
        f"note: {len(listed)} {'class' if len(listed) == 1 else 'classes'} by {by} of {labels}"
        f"{values.source}: {', '.join(listed)}"
    )
    return FileScheme(scheme, (first, *values.notes))


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


def _distinct_names(values: FileValues) -> list[str]:
    """Return the names of classes: their labels, with the value after those that come twice."""
    plain = [
        category.label or _plain_name(category.value, values.label_format)
        for category in values.categories
    ]
    count = Counter(name.casefold() for name in plain)
    return [
        f"{name} ({category.value})" if count[name.casefold()] > 1 else name
        for name, category in zip(plain, values.categories, strict=True)
    ]


def _plain_name(value: str, label_format: LabelFormat) -> str:
    if label_format == "colours":
        return f"colour {value}"
    return value if whole_number(value) is None else f"class {value}"


def _scheme_class(name: str, value: str, colour: Colour, *, are_colours: bool) -> SchemeClass:
    index = None if are_colours else whole_number(value)
    code = value if index is None and not are_colours and value != name else None
    return SchemeClass(name=name, colour=colour, code=code, index=index)


def _as_mask(labels: str | Path, values: FileValues, background: str | None) -> FileValues:
    """Return what a raster holds, with names where it is a mask of one class."""
    first, *rest = [category.value for category in values.categories]
    has_names = any(category.label for category in values.categories)
    if values.label_format == "colours":
        is_mask = first == "0,0,0" and rest == ["255,255,255"]
    else:
        is_mask = first == "0" and rest in (["1"], ["255"], ["65535"]) and not values.source
    if not is_mask or has_names or values.ignored:
        return values
    names = (background or _BACKGROUND, file_name(labels))
    categories = [c._replace(label=n) for c, n in zip(values.categories, names, strict=True)]
    source = f", a mask of {first} and {rest[0]} that is named after its file"
    return values._replace(categories=categories, source=source, is_mask=True)
