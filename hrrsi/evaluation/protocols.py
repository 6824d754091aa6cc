"""Protocols: which labels, and which classes count in which score, as data.

Two figures can be compared only where they were taken under one protocol, so each output names it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from hrrsi.errors import OptionError

LabelKind = Literal["full", "eroded"]
ProtocolName = Literal["all", "no-clutter", "published", "isprs"]
PROTOCOL_NAMES: tuple[str, ...] = get_args(ProtocolName)
CLUTTER_NAMES = ("clutter",)
DEFAULT_BLOCK = 256  # px, the side of the blocks that intervals are estimated from


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
