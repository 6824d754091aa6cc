"""What a caller decides about evaluations, and the protocols they are taken under.

Two figures can be compared only where they were taken under one protocol, so each output names it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from hrrsi.classes import LabelFormat, UnknownLabels
from hrrsi.errors import OptionError, require_choice
from hrrsi.prediction.options import EngineOptions, MapOptions

LabelKind = Literal["full", "eroded"]
MapFormat = Literal["colours", "indices"]
ProtocolName = Literal["all", "no-clutter", "published", "isprs"]
PROTOCOL_NAMES: tuple[str, ...] = get_args(ProtocolName)
CLUTTER_NAMES = ("clutter",)
DEFAULT_BLOCK = 256  # px, the side of the blocks that intervals are estimated from
SMALLEST_BLOCK = 16  # px
# Rounding changes scores: what is published was calculated in single precision.
SINGLE_PRECISION = EngineOptions(precision="32")
_OF_SCENES = ("scenes", "eroded", "merges", "label_format", "attribute", "unknown", "block")
_OF_WHOLE_SCENES = (
    *("window", "overlap", "bands", "nodata", "crs", "scale", "height", "augmentation"),
)
_OF_MAPPING = (*_OF_WHOLE_SCENES, "resample")


@dataclass(frozen=True)
class Protocol:
    """Which labels are the truth, and which classes count in which score.

    Attributes:
        name: One of `PROTOCOL_NAMES`.
        labels: ``full``, or ``eroded``: without the borders of classes, which are ignored.
        dropped_from_overall: Classes whose pixels (by truth or prediction) are taken out before
            OA and kappa.
        dropped_from_means: The same before per-class scores, mF1 and mIoU.
        left_out_of_means: Classes that keep their pixels, as errors of other classes too, but are
            no part of mF1 and mIoU.
    """

    name: str
    labels: LabelKind = "full"
    dropped_from_overall: tuple[str, ...] = ()
    dropped_from_means: tuple[str, ...] = ()
    left_out_of_means: tuple[str, ...] = ()

    def averaged(self, classes: Sequence[str]) -> list[int]:
        """Return the indices of the classes that means are of."""
        left_out = {*self.dropped_from_means, *self.left_out_of_means}
        return [index for index, name in enumerate(classes) if name not in left_out]

    @property
    def sentence(self) -> str:
        """What counts, in words; the labels are said elsewhere, with where they come from."""
        if self.left_out_of_means:
            names = " and ".join(self.left_out_of_means)
            verb = "are" if len(self.left_out_of_means) > 1 else "is"
            return f"every class counts in every score, but {names} {verb} no part of mF1 and mIoU"
        if not self.dropped_from_means:
            return "every class counts in every score"
        names = " and ".join(self.dropped_from_means)
        if self.dropped_from_overall:
            return f"{names} dropped (row and column) from every score"
        verb = "count" if len(self.dropped_from_means) > 1 else "counts"
        return f"{names} {verb} in OA and kappa, dropped (row and column) from the other scores"


ALL = Protocol("all")


def named_protocol(
    name: str,
    classes: Sequence[str],
    clutter: Collection[str] = CLUTTER_NAMES,
    labels: LabelKind = "full",
) -> Protocol:
    """Return a protocol by name.

    ``all``: every class counts. ``no-clutter``: clutter is dropped everywhere. ``published``: the
    convention of the networks' published table, whose OA counts clutter while its mF1 and mIoU
    drop clutter's row and column. ``isprs``: the benchmark's (ISPRS 2D Semantic Labeling Contest):
    eroded labels, every pixel counts, and the mean F1 is that of the classes but clutter.

    Args:
        name: One of `PROTOCOL_NAMES`.
        classes: The class names.
        clutter: The classes that clutter stands for, in any case.
        labels: Which labels are the truth, unless the protocol says.

    Raises:
        OptionError: No such protocol, no class is clutter, or a class that was named is none.
    """
    if name not in PROTOCOL_NAMES:
        raise OptionError(
            f"unknown protocol {name!r}", fix=f"choose from {', '.join(PROTOCOL_NAMES)}"
        )
    clutter_names = {c.casefold() for c in clutter}
    if clutter_names != {c.casefold() for c in CLUTTER_NAMES}:  # somebody named them
        class_names = {c.casefold() for c in classes}
        unknown = next((c for c in clutter if c.casefold() not in class_names), None)
        if unknown is not None:
            raise OptionError(
                f"{unknown!r} is no class",
                parameter="clutter",
                fix=f"name some of {', '.join(classes)}",
            )
    if name == "all":
        return Protocol(name, labels)
    dropped = tuple(c for c in classes if c.casefold() in clutter_names)
    if name == "isprs":  # where no class is clutter, nothing is left out
        return Protocol(name, "eroded", left_out_of_means=dropped)
    if not dropped:
        raise OptionError(
            f"the protocol {name!r} drops clutter, and no class is named "
            f"{' or '.join(repr(c) for c in clutter)} (the classes are {', '.join(classes)})",
            fix="give `protocol=all`, or name the class with `clutter`",
        )
    return Protocol(name, labels, dropped if name == "no-clutter" else (), dropped)


@dataclass(frozen=True)
class EvaluationOptions:
    """What is scored, and under which protocol.

    Attributes:
        scheme: ``dubai``, ``potsdam``, ``vaihingen``, or a YAML file: what labels of whole scenes
            and of maps mean; None: the data is a tiled dataset, which says so itself.
        split: Of a tiled dataset ``test``, ``val`` or ``train``, by default test if there is one,
            else val. Of scenes a split of the scheme, e.g. ``paper`` or ``paper:val``, by default
            every labelled scene.
        scenes: Names of scenes, or patterns such as ``tile1_*``, beside or instead of a split.
        protocol: ``all``, ``no-clutter``, ``published`` or ``isprs``
            (`hrrsi.evaluation.options.named_protocol` says which classes count where).
        clutter: Names of the classes that are clutter, in any case.
        eroded: Whether labels with eroded class borders are the truth: the scheme's own where
            they are there, else eroded by discs of 3 px.
        merges: Classes to join, e.g. ``"tree+low vegetation=vegetation"``.
        label_format: What labels hold, if not what the scheme says.
        attribute: The polygons' attribute that holds the class; None: the scheme's.
        unknown: Whether labels (and values of maps) that the scheme doesn't know are an error, or
            ignored.
        block: Rows and columns of the blocks that intervals are estimated from, in pixels, 16 or
            more: more than what is wrong in one piece.

    Raises:
        OptionError: One is not usable.
    """

    scheme: str | Path | None = None
    split: str | None = None
    scenes: Sequence[str] = ()
    protocol: ProtocolName = "all"
    clutter: Sequence[str] = CLUTTER_NAMES
    eroded: bool = False
    merges: Sequence[str] = ()
    label_format: LabelFormat | None = None
    attribute: str | None = None
    unknown: UnknownLabels = "error"
    block: int = DEFAULT_BLOCK

    def __post_init__(self) -> None:
        for name in ("scenes", "clutter", "merges"):  # equal, and hashed, by their values
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        require_choice("protocol", self.protocol, PROTOCOL_NAMES)
        require_choice("label_format", self.label_format, (None, *get_args(LabelFormat)))
        require_choice("unknown", self.unknown, get_args(UnknownLabels))
        if self.block < SMALLEST_BLOCK:
            raise OptionError(
                f"blocks of {self.block} px are too small",
                parameter="block",
                fix=f"give {SMALLEST_BLOCK} or more",
            )

    @property
    def words(self) -> tuple[str, ...]:
        """What changes how labels are read, for the record of an evaluation."""
        return (
            *(f"merged {merge}" for merge in self.merges),
            *(["unknown labels ignored"] if self.unknown == "ignore" else []),
        )


@dataclass(frozen=True)
class MapReading:
    """How maps that are there are read.

    Attributes:
        map_format: What they hold, ``colours`` or ``indices``, if not what they look like.
        aoi: Vector file of the polygons outside of which nothing counts, or None.
        first_index: The value of the first class in maps of class indices, 1 for those that count
            from 1; None: what the scheme says.

    Raises:
        OptionError: There is no such format, or a negative index.
    """

    map_format: MapFormat | None = None
    aoi: str | Path | None = None
    first_index: int | None = None

    def __post_init__(self) -> None:
        if self.first_index is not None and self.first_index < 0:
            raise OptionError("must be 0 or more", parameter="first_index")
        require_choice("map_format", self.map_format, (None, *get_args(MapFormat)))

    @property
    def words(self) -> tuple[str, ...]:
        """What differs from reading them as they are, for the record of an evaluation."""
        return (
            *([f"maps read as {self.map_format}"] if self.map_format else []),
            *(
                [f"indices of maps counted from {self.first_index}"]
                if self.first_index is not None
                else []
            ),
            *([f"only inside of {Path(self.aoi).name}"] if self.aoi is not None else []),
        )


def mapping_words(mapping: MapOptions) -> tuple[str, ...]:
    """Return what differs from reading scenes as they are, for the record of an evaluation."""
    m = mapping
    return (
        *([f"bands {','.join(map(str, m.bands))}"] if m.bands else []),
        *(
            [f"no data = {m.nodata if m.nodata == 'auto' else format(m.nodata, 'g')}"]
            if m.nodata is not None
            else []
        ),
        *([f"placed in {m.crs}"] if m.crs else []),
        *([f"full brightness = {m.scale:g}"] if m.scale is not None else []),
        *(["read at their own resolution"] if m.resample == "off" else []),
        *([f"heights {m.height}"] if m.height is not None else []),
    )


def check_combination(
    data: Sequence[Path],
    maps: Sequence[Path],
    weights: str | Path | None,
    options: EvaluationOptions,
    mapping: MapOptions,
    reading: MapReading,
) -> None:
    """Raise unless the arguments of `hrrsi.evaluate` go together.

    Args:
        data: A tiled dataset, raw scenes and labels, or the labels of maps.
        maps: Maps that are there.
        weights: A weights file, or None.
        options: What is scored.
        mapping: How whole scenes are mapped.
        reading: How maps are read.

    Raises:
        OptionError: They don't.
    """
    unused = [f.name for f in fields(mapping) if f.name not in (*_OF_MAPPING, "aoi")]
    for name in _changed(mapping, unused):
        raise OptionError("is for maps that are written, not for scores", parameter=name)
    if maps:
        if options.scheme is None:
            raise OptionError("needs `scheme`", parameter="maps")
        if not data:
            raise OptionError("name the labels of the maps", parameter="data")
        named = ["weights"] if weights is not None else []
        for name in (*named, *_changed(mapping, _OF_MAPPING)):
            raise OptionError("is for weights, not for maps that are there", parameter=name)
        return
    for name in (
        *_changed(reading, ("aoi", "map_format", "first_index")),
        *_changed(mapping, ("aoi",)),
    ):
        raise OptionError("is for maps that are there; give `maps`", parameter=name)
    if not data:
        raise OptionError("name what to evaluate", parameter="data")
    if options.scheme is None:
        if len(data) != 1:
            raise OptionError("name one tiled dataset, or give `scheme`", parameter="data")
        for name in (*_changed(options, _OF_SCENES), *_changed(mapping, _OF_WHOLE_SCENES)):
            raise OptionError("is for whole scenes; give `scheme` too", parameter=name)


def _changed(options: Any, names: Sequence[str]) -> Iterator[str]:
    """Yield those of an option class' fields that don't have their default."""
    default = type(options)()
    yield from (name for name in names if getattr(options, name) != getattr(default, name))
