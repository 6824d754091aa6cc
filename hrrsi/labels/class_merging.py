"""Classes of a scheme joined into fewer."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hrrsi.errors import HrrsiError
from hrrsi.labels.scheme import IGNORE_INDEX, Colour, Scheme


@dataclass(frozen=True)
class MergedClasses:
    """The classes that are left, and what became of the scheme's.

    Attributes:
        names: Class names in the order of their new indices.
        colours: Class colours, likewise.
        new_index: (256,) uint8, the new index of each of the scheme's; 255 stays 255.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    new_index: npt.NDArray[np.uint8]


def merged_classes(scheme: Scheme, merges: Sequence[str] = ()) -> MergedClasses:
    """Return a scheme's classes after joining some.

    A joined class stands where the first of its members in the scheme's order stood, and takes
    the colour of the member named first.

    Args:
        scheme: The classes.
        merges: Texts such as ``"tree+low vegetation=vegetation"``, of class names or codes.

    Raises:
        HrrsiError: Not such a text, an unknown class, or a class joined twice.
    """
    joined: dict[int, tuple[str, Colour]] = {}
    for text in merges:
        members, new_name = _members(scheme, text)
        for member in members:
            if member in joined:
                raise HrrsiError(
                    f"joins {scheme.class_names[member]!r} twice",
                    where=f"--merge {text!r}",
                    fix="name each class once",
                )
            joined[member] = (new_name, scheme.colours[members[0]])
    lookup = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    classes: dict[str, Colour] = {}
    for position, old in enumerate(scheme.classes):
        name, colour = joined.get(position, (old.name, old.colour))
        taken = name in classes and position not in joined
        if taken or (name in classes and classes[name] != colour):
            raise HrrsiError(
                f"two classes would be named {name!r}", where="--merge", fix="choose another name"
            )
        classes.setdefault(name, colour)
        lookup[position] = list(classes).index(name)
    return MergedClasses(tuple(classes), tuple(classes.values()), lookup)


def _members(scheme: Scheme, text: str) -> tuple[list[int], str]:
    left, equals, new_name = text.rpartition("=")
    parts = [part.strip() for part in left.split("+")]
    if not equals or not new_name.strip() or len(parts) < 2:
        raise HrrsiError(
            "is not of the form A+B=NEW",
            where=f"--merge {text!r}",
            fix='write for example "tree+low vegetation=vegetation"',
        )
    members = []
    for part in parts:
        index = scheme.index_of(part)
        if index is None:
            close = difflib.get_close_matches(part, scheme.class_names, n=1)
            raise HrrsiError(
                f"no class {part!r} in the scheme {scheme.name}",
                where=f"--merge {text!r}",
                fix=f"did you mean {close[0]!r}?" if close else f"it has {_list(scheme)}",
            )
        members.append(index)
    return members, new_name.strip()


def _list(scheme: Scheme) -> str:
    return ", ".join(scheme.class_names)
