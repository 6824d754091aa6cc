"""Classes that are left of one scheme's, or of several schemes', after some are joined."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hrrsi.classes import IGNORE_INDEX, Colour, chosen_colours
from hrrsi.errors import OptionError
from hrrsi.labels.scheme import IgnoredColour, PartialLabel, Scheme, SchemeClass


@dataclass(frozen=True)
class MergedClasses:
    """The classes that are left, and what became of the scheme's.

    Attributes:
        names: Class names in the order of their new indices.
        colours: Class colours, likewise.
        partial: Labels that stand for several of the classes, whose indices follow.
        new_index: (256,) uint8, the new index of each of the scheme's; 255 stays 255.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    partial: tuple[PartialLabel, ...]
    new_index: npt.NDArray[np.uint8]

    @property
    def candidates(self) -> list[list[int]]:
        """Indices of the classes that each label index stands for: one, or several."""
        return label_candidates(self.names, self.partial)

    @property
    def label_colours(self) -> list[Colour]:
        """Colours of classes and partial labels in the order of their indices."""
        return label_colours(self.colours, self.partial)


def label_candidates(classes: Sequence[str], partial: Iterable[PartialLabel]) -> list[list[int]]:
    """Return the indices of the classes that each label index stands for, classes first."""
    position = {name: index for index, name in enumerate(classes)}
    together = [[position[name] for name in label.classes] for label in partial]
    return [[index] for index in range(len(classes))] + together


def label_colours(colours: Sequence[Colour], partial: Iterable[PartialLabel]) -> list[Colour]:
    """Return the colours that label indices are shown in, those of classes first."""
    return [*colours, *(label.colour for label in partial)]


def joined_scheme(schemes: Sequence[Scheme], **changes: object) -> Scheme:
    """Return one scheme with the classes of several, of which those of one name are one class.

    Args:
        schemes: They, without partial labels. A class has the
            code of the first that has it, its colour where that is free, and no index.
        changes: Values of other fields that are not those of the first one.
    """
    by_name: dict[str, list[SchemeClass]] = {}
    for scheme in schemes:
        for own in scheme.classes:
            by_name.setdefault(own.name.casefold(), []).append(own)
    ignored: dict[str, IgnoredColour] = {}
    for scheme in schemes:
        for entry in scheme.ignored:
            ignored.setdefault(entry.name.casefold(), entry)
    first = [alike[0] for alike in by_name.values()]
    names = [c.name for c in first] + [entry.name for entry in ignored.values()]
    own_colours = [c.colour for c in first] + [entry.colour for entry in ignored.values()]
    colours = chosen_colours(names, own_colours)
    codes = Counter(c.code for c in first)
    classes = [
        own.model_copy(
            update={
                "colour": colour,
                "code": own.code if codes[own.code] == 1 else None,
                "index": None,
            }
        )
        for own, colour in zip(first, colours, strict=False)
    ]
    rest = [
        entry.model_copy(update={"colour": colour, "index": None})
        for entry, colour in zip(ignored.values(), colours[len(first) :], strict=True)
    ]
    fields = {"classes": tuple(classes), "ignored": tuple(rest), **changes}
    return Scheme.model_validate(dict(schemes[0]) | fields)


def index_by_name(own: Scheme, scheme: Scheme) -> npt.NDArray[np.uint8]:
    """Return the index in one scheme of each label of another, (256,) uint8, 255 where ignored."""
    lookup = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    positions = {label.name.casefold(): n for n, label in enumerate(scheme.all_labels)}
    for number, label in enumerate(own.all_labels):
        lookup[number] = positions.get(label.name.casefold(), IGNORE_INDEX)
    return lookup


def merged_classes(scheme: Scheme, merges: Sequence[str] = ()) -> MergedClasses:
    """Return a scheme's classes after joining some.

    A joined class stands where the first of its members in the scheme's order stood, and takes
    the colour of the member named first. Where a partial label is left with one class, it is that
    class; where it is left with all of them, it says nothing, and is ignored.

    Args:
        scheme: The classes.
        merges: Texts such as ``"tree+low vegetation=vegetation"``, of class names or codes.

    Raises:
        OptionError: Not such a text, an unknown class, or a class joined twice.
    """
    joined: dict[int, tuple[str, Colour]] = {}
    for text in merges:
        members, new_name = _members(scheme, text)
        for member in members:
            if member in joined:
                raise _merge_error(
                    text, f"joins {scheme.class_names[member]!r} twice", "name each class once"
                )
            joined[member] = (new_name, scheme.colours[members[0]])
    lookup = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    classes: dict[str, Colour] = {}
    for position, old in enumerate(scheme.classes):
        name, colour = joined.get(position, (old.name, old.colour))
        is_taken = name in classes and position not in joined
        if is_taken or (name in classes and classes[name] != colour):
            raise OptionError(
                f"two classes would be named {name!r}",
                parameter="merges",
                fix="choose another name",
            )
        classes.setdefault(name, colour)
        lookup[position] = list(classes).index(name)
    partial: dict[tuple[str, ...], PartialLabel] = {}
    for position, label in enumerate(scheme.partial, start=len(scheme.classes)):
        positions = sorted({int(lookup[scheme.class_names.index(name)]) for name in label.classes})
        if len(positions) == 1:
            lookup[position] = positions[0]
        elif len(positions) < len(classes):
            names = tuple(list(classes)[index] for index in positions)
            partial.setdefault(names, label.model_copy(update={"classes": names}))
            lookup[position] = len(classes) + list(partial).index(names)
    return MergedClasses(tuple(classes), tuple(classes.values()), tuple(partial.values()), lookup)


def _members(scheme: Scheme, text: str) -> tuple[list[int], str]:
    left, equals, new_name = text.rpartition("=")
    parts = [part.strip() for part in left.split("+")]
    if not equals or not new_name.strip() or len(parts) < 2:
        raise _merge_error(
            text,
            "is not of the form A+B=NEW",
            'write for example "tree+low vegetation=vegetation"',
        )
    members = []
    for part in parts:
        index = scheme.index_of(part)
        if index is None or index >= len(scheme.classes):
            close = difflib.get_close_matches(part, scheme.class_names, n=1)
            raise _merge_error(
                text,
                f"no class {part!r} in the scheme {scheme.name}",
                f"did you mean {close[0]!r}?"
                if close
                else f"it has {', '.join(scheme.class_names)}",
            )
        members.append(index)
    return members, new_name.strip()


def _merge_error(text: str, message: str, fix: str) -> OptionError:
    return OptionError(message, parameter="merges", fix=fix).at(f"`merges={text!r}`")
