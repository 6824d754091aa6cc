"""Label schemes: classes, colours, file patterns, splits and statistics of a data set, as data."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hrrsi.classes import IGNORE_INDEX, Colour, LabelFormat
from hrrsi.errors import InputError, OptionError
from hrrsi.files import named_layer, read_yaml
from hrrsi.scenes.raster_opening import RASTER_SUFFIXES

VECTOR_SUFFIXES = frozenset({".gpkg", ".geojson", ".json", ".fgb", ".shp", ".gml", ".kml"})

Byte = Annotated[int, Field(ge=0, le=255)]
ValidatedColour = tuple[Byte, Byte, Byte]

_MOST_LABELS = 254  # of the values of a byte, 255 is "ignored" and 254 "unknown"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SchemeClass(_Strict):
    """One class; its position in the scheme is its index in labels and maps.

    Attributes:
        name: What legends show.
        colour: Red, green, blue, 0 to 255.
        code: Short name, also accepted as an attribute of polygons.
        index: Value in labels that hold class indices; the position where not given.
    """

    name: str
    colour: ValidatedColour
    code: str | None = None
    index: int | None = None


class PartialLabel(SchemeClass):
    """A label that tells only some classes apart: its pixels are of one of several classes.

    "Not a building" is one, which stands for every other class. Training takes the probability of
    those classes together, and scores count what can be decided.

    Attributes:
        classes: Names of the classes that it stands for: two or more, but not all.
    """

    classes: tuple[str, ...] = Field(min_length=2)


class IgnoredColour(_Strict):
    """A colour (or index) of the labels that stands for no class: its pixels are ignored.

    Attributes:
        name: What it marks.
        colour: Red, green, blue, 0 to 255.
        index: Value in labels that hold class indices.
    """

    name: str
    colour: ValidatedColour
    index: int | None = None


class Split(_Strict):
    """Scene names, or patterns such as ``tile8_*``, of each part of a split.

    Attributes:
        train: Scenes that networks learn from.
        val: Scenes on which they are validated during training, and an epoch is chosen.
        test: Scenes that are scored at the end.
    """

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


class Scheme(_Strict):
    """A label scheme.

    Attributes:
        name: Short name, by which it is chosen.
        title: One line that says what it is.
        classes: The classes in the order of their indices.
        partial: Labels that stand for several classes; their indices follow those of the classes.
        ignored: Colours that stand for no class.
        outside: The class, or partial label, of pixels outside all polygons; None: they are
            ignored. Of several rasters of a scene, those that say it count only where none has
            another class.
        images: Patterns of image paths, tried in this order. ``{scene}`` (or any other
            placeholder) stands for a part of a name; a pattern matches the end of a path, and a
            zip archive counts as a folder.
        labels: Patterns of label paths with the same placeholders.
        join_labels: Whether all files that fit patterns are labels of a scene, by patterns and
            then by name; where several have a class, that of the last counts. Otherwise a scene
            has one label, that of the earliest pattern.
        eroded_labels: The same for labels whose class borders are eroded.
        heights: The same for height models; the first pattern that fits a file counts for all
            scenes, so that kinds of heights don't mix, and leading zeros make no difference.
        scene: How placeholders make up a scene's name.
        label_format: What labels hold: colours, class indices, or polygons (a vector file).
        attribute: The polygons' attribute that holds a class' name, code or index; empty: they
            are all of the first class.
        splits: Known splits by name.
        resolution: Ground sampling distance in metres per pixel, where it is known.
        band_meanings: What the first bands of scenes show, as `hrrsi.scenes.bands.band_meanings`
            calls it; without it, scenes say it themselves.
        mean: Mean of each band of uint8 scenes, divided by 255. It counts where these are read so
            and just the first bands; statistics of other scenes and bands are measured.
        std: Standard deviation of each band, likewise.
        files: Schemes of some files of labels, by their names, which are read by these: their
            classes are those of the same names here.
    """

    name: str
    title: str = ""
    classes: tuple[SchemeClass, ...] = Field(min_length=1, max_length=254)
    partial: tuple[PartialLabel, ...] = ()
    ignored: tuple[IgnoredColour, ...] = ()
    outside: str | None = None
    images: tuple[str, ...] = ("images/{scene}.tif",)
    labels: tuple[str, ...] = ("labels/{scene}.tif",)
    join_labels: bool = False
    eroded_labels: tuple[str, ...] = ()
    heights: tuple[str, ...] = ()
    scene: str = "{scene}"
    label_format: LabelFormat = "colours"
    attribute: str = "class"
    splits: dict[str, Split] = {}
    resolution: float | None = Field(default=None, gt=0)
    band_meanings: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    files: dict[str, Scheme] = {}

    @model_validator(mode="after")
    def _check(self) -> Scheme:
        labels = self.all_labels
        colours = [c.colour for c in labels] + [c.colour for c in self.ignored]
        _refuse_twice("class name", [c.name for c in labels])
        _refuse_twice("colour", colours)
        _refuse_twice("code", [c.code for c in labels if c.code is not None])
        _refuse_twice(
            "index",
            [position if c.index is None else c.index for position, c in enumerate(labels)]
            + [c.index for c in self.ignored if c.index is not None],
        )
        self._check_partial()
        fields = set(_placeholders(self.scene))
        if not fields:
            raise ValueError("scene must contain a placeholder such as {scene}")
        for pattern in (*self.images, *self.labels, *self.eroded_labels, *self.heights):
            if not fields <= set(_placeholders(pattern)):
                raise ValueError(f"pattern {pattern!r} lacks {{{'} and {'.join(sorted(fields))}}}")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together")
        if self.mean is not None and self.std is not None:
            check_statistics(self.mean, self.std)
        return self

    def _check_partial(self) -> None:
        if len(self.all_labels) > _MOST_LABELS:
            raise ValueError(f"{len(self.all_labels)} classes and partial labels, over 254")
        for label in self.partial:
            unknown = [name for name in label.classes if name not in self.class_names]
            if unknown:
                raise ValueError(f"partial label {label.name}: no class is named {unknown[0]!r}")
            _refuse_twice(f"partial label {label.name}: class", label.classes)
            if len(label.classes) == len(self.classes):
                raise ValueError(
                    f"partial label {label.name} stands for all classes; put it into ignored"
                )
        if self.outside is not None and self.index_of(self.outside) is None:
            raise ValueError(f"outside: no class or partial label is named {self.outside!r}")

    @property
    def all_labels(self) -> tuple[SchemeClass, ...]:
        """Classes, then partial labels: what a label can say, in the order of its indices."""
        return (*self.classes, *self.partial)

    @property
    def class_names(self) -> list[str]:
        """Class names in the order of their indices."""
        return [c.name for c in self.classes]

    @property
    def colours(self) -> list[Colour]:
        """Class colours in the order of their indices."""
        return [c.colour for c in self.classes]

    def scene_name(self, groups: Mapping[str, str]) -> str | None:
        """Return the scene that some placeholders name, or None where they don't tell."""
        if set(_placeholders(self.scene)) <= set(groups):
            return self.scene.format(**groups)
        return next(iter(groups.values())) if len(groups) == 1 else None

    def read_as(self, label_format: LabelFormat | None, attribute: str | None = None) -> Scheme:
        """Return the scheme with another label format or attribute, where they are given."""
        changed = {"label_format": label_format, "attribute": attribute}
        return self.model_copy(update={k: v for k, v in changed.items() if v is not None})

    def with_outside(self, name: str) -> Scheme:
        """Return the scheme with a class for what lies outside of all polygons.

        Args:
            name: The name or code of a class or partial label; any other is a class of its own, the
                last, in the lightest grey that is free.

        Raises:
            OptionError: There is no room for it, or partial labels would not know it.
        """
        index = self.index_of(name)
        if index is not None:
            return self.model_copy(update={"outside": self.all_labels[index].name})
        if self.partial or len(self.classes) >= _MOST_LABELS:
            raise OptionError(
                f"the scheme {self.name} has no class {name!r}, and none can be added "
                + ("beside its partial labels" if self.partial else "to so many"),
                parameter="background",
                fix="choose one of its classes or partial labels, or add it to the scheme",
            )
        colours = {label.colour for label in self.all_labels} | {i.colour for i in self.ignored}
        grey = next(g for g in range(220, -1, -1) if (g, g, g) not in colours)
        try:
            added = SchemeClass(name=name, colour=(grey, grey, grey), index=self._free_index())
            changed = {"classes": (*self.classes, added), "outside": name}
            return Scheme.model_validate(dict(self) | changed)
        except ValidationError as error:
            raise OptionError(
                f"{name!r} can't be a class of the scheme {self.name} "
                f"({error.errors(include_url=False)[0]['msg']})",
                parameter="background",
                fix="choose another name",
            ) from error

    def _free_index(self) -> int | None:
        """Return an index for one more class; None where its position is one."""
        own = [n if label.index is None else label.index for n, label in enumerate(self.all_labels)]
        taken = {*own, *(entry.index for entry in self.ignored)}
        if len(own) not in taken:
            return None
        return next(index for index in range(len(taken) + 1) if index not in taken)

    @property
    def leaves_255_open(self) -> bool:
        """Whether labels are class indices, and 255 is no class and not ignored by name."""
        indices = {label.index for label in self.all_labels} | {i.index for i in self.ignored}
        return self.label_format == "indices" and not self.files and IGNORE_INDEX not in indices

    def with_mask_values(self, values: Collection[float]) -> Scheme:
        """Return the scheme with 255 as the index of its second class, where only that makes sense.

        That is, where labels hold 0 and 255 alone, and classes are two, with the indices 0 and 1.

        Args:
            values: What labels hold.
        """
        indices = [n if c.index is None else c.index for n, c in enumerate(self.all_labels)]
        if not self.leaves_255_open or indices != [0, 1] or set(values) != {0, IGNORE_INDEX}:
            return self
        if self.partial or any(i.index is not None for i in self.ignored):
            return self
        second = self.classes[1].model_copy(update={"index": IGNORE_INDEX})
        return self.model_copy(update={"classes": (self.classes[0], second)})

    def of_file(self, label: str) -> Scheme | None:
        """Return the scheme of `files` by which a label is read, None where it is by this one.

        Args:
            label: The label's file; one of the same name in another folder counts too.

        Raises:
            InputError: It is a raster, and `files` tells of others alone.
        """
        if label in self.files or not self.files:
            return self.files.get(label)
        name = PurePosixPath(label).name
        alike = [own for file, own in self.files.items() if PurePosixPath(file).name == name]
        if len(alike) == 1:
            return alike[0]
        if PurePosixPath(label).suffix.lower() not in RASTER_SUFFIXES:
            return None
        raise InputError(
            f"the scheme {self.name} says what {', '.join(self.files)} hold, not what it does",
            where=label,
            fix="add it to `files` of the scheme, or leave the scheme out to make another",
        )

    def reading(self, label: str) -> Scheme:
        """Return the scheme that a label is read with: a vector file holds polygons, whatever else.

        And a raster holds indices where other labels hold polygons.

        Args:
            label: The label's file.
        """
        if self.reads_polygons(label):
            return self.read_as("polygons")
        is_raster = PurePosixPath(label).suffix.lower() in RASTER_SUFFIXES
        return self.read_as("indices" if is_raster and self.label_format == "polygons" else None)

    @staticmethod
    def reads_polygons(label: str) -> bool:
        """Return whether a label is a vector file, by its suffix."""
        return PurePosixPath(named_layer(label)[0]).suffix.lower() in VECTOR_SUFFIXES

    def index_of(self, value: object) -> int | None:
        """Return the index that a name, code or value of a label stands for, or None.

        Returns:
            That of a class, or, from the number of classes on, of a partial label.
        """
        text = str(value).strip().casefold()
        for position, c in enumerate(self.all_labels):
            if text in (c.name.casefold(), (c.code or c.name).casefold()):
                return position
        for position, c in enumerate(self.all_labels):
            if text == str(position if c.index is None else c.index):
                return position
        return None


def load_scheme(name_or_path: str | Path) -> Scheme:
    """Return a built-in scheme by name, or the one that a YAML file describes.

    Raises:
        OptionError: No such scheme.
        InputError: The file is not a valid scheme.
    """
    name = str(name_or_path)
    if name in scheme_names():
        source = resources.files("hrrsi.labels") / "schemes" / f"{name}.yaml"
        with resources.as_file(source) as path:
            return _parse(path)
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise OptionError(
            f"unknown scheme {name!r}",
            fix=f"choose from {', '.join(scheme_names())}, or name a .yaml file",
        )
    return _parse(path)


def scheme_names() -> list[str]:
    """Return the names of the built-in schemes."""
    folder = resources.files("hrrsi.labels") / "schemes"
    return sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".yaml"))


@cache
def built_in_meanings(name: str, bands: tuple[int, ...]) -> tuple[str, ...] | None:
    """Return what bands of scenes show by the word of a built-in scheme, or None.

    Args:
        name: The scheme's name, which may be of none that is built in.
        bands: The 1-based bands.
    """
    meanings = load_scheme(name).band_meanings if name in scheme_names() else ()
    within = meanings and max(bands) <= len(meanings)
    return tuple(meanings[band - 1] for band in bands) if within else None


def match_scene(scheme: Scheme, patterns: Sequence[str], path: str) -> str | None:
    """Return the scene that a relative POSIX path belongs to under the first pattern that fits.

    Args:
        scheme: Says how placeholders make up the scene's name.
        patterns: `scheme.images`, `scheme.labels` or `scheme.eroded_labels`.
        path: For example ``archive.zip/top/top_mosaic_09cm_area1.tif``.
    """
    for pattern in patterns:
        match = _pattern_regex(pattern).search(path)
        if match:
            return scheme.scene.format(**match.groupdict())
    return None


def scenes_matching(scenes: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Return the scenes, in their order, that equal a name or fit a pattern such as ``tile8_*``."""
    patterns = list(patterns)
    return [s for s in scenes if any(fnmatch.fnmatchcase(s, p) for p in patterns)]


def check_statistics(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise unless bands can be normalised by these means and standard deviations.

    Raises:
        ValueError: They are not as many, not finite, or a deviation is not above 0.
    """
    if len(mean) != len(std):
        raise ValueError(f"mean has {len(mean)} bands and std {len(std)}")
    wrong = [value for value in mean if not math.isfinite(value)]
    wrong += [value for value in std if not (math.isfinite(value) and value > 0)]
    if wrong:
        raise ValueError(f"mean must be finite and std above 0, not {wrong[0]:g}")


def invalid_file(path: Path, error: ValidationError, fix: str) -> InputError:
    """Return the one-line error for a file whose content pydantic refused."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return InputError(f"{place}: {message}" if place else message, where=path, fix=fix)


def _parse(path: Path) -> Scheme:
    try:
        return Scheme.model_validate(read_yaml(path))
    except ValidationError as error:
        raise invalid_file(path, error, "see the built-in schemes in the documentation") from error


def _refuse_twice(kind: str, values: Sequence[object]) -> None:
    twice = [v for v in values if values.count(v) > 1]
    if twice:
        raise ValueError(f"{kind} {twice[0]} stands for two things")


def _placeholders(pattern: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", pattern)


def _pattern_regex(pattern: str) -> re.Pattern[str]:
    names: set[str] = set()

    def group(match: re.Match[str]) -> str:
        name = match[1]
        if name in names:
            return f"(?P={name})"
        names.add(name)
        return f"(?P<{name}>[^/]+?)"

    parts = re.split(r"(\{\w+\})", pattern)
    regex = "".join(
        re.sub(r"\{(\w+)\}", group, p) if p.startswith("{") else re.escape(p) for p in parts
    )
    return re.compile(rf"(?:^|/){regex}$", re.IGNORECASE)
