"""Errors that the user can put right, one class a kind, each the matching built-in too; warnings.

A message names parameters of the library between backticks, e.g. ```min_area``` or
```overwrite=True```; the command line turns them into its flags (`hrrsi.cli.messages`).
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Self, TypeVar

# control characters but tab and line feed, and what turns the direction of writing
_UNSHOWN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

_Error = TypeVar("_Error", bound="HrrsiError")


class HrrsiError(Exception):
    """Something that the user can put right.

    The command line prints it as ``error: WHERE: WHAT; FIX`` and exits with 1.

    Args:
        what: What went wrong, in a few words.
        where: The file, scene, parameter or place it went wrong in.
        fix: What to do about it.
    """

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        self.what = what
        self.where = where
        self.fix = fix
        super().__init__(_line(what, where, fix))

    def __str__(self) -> str:  # OSError's would show its errno and filename
        return _line(self.what, self.where, self.fix)

    def at(self, where: object) -> Self:
        """Return the error as one of another place."""
        return self._changed(where=where)

    def with_note(self, note: str) -> Self:
        """Return the error with something more to know at its end."""
        return self._changed(fix=f"{self.fix}; {note}" if self.fix else note)

    def _changed(self, **changes: object) -> Self:
        return _rebuilt(type(self), self._own_arguments(), {**self.__dict__, **changes})

    def _own_arguments(self) -> dict[str, str | None]:
        """Return the keyword arguments of this class that have no default."""
        return {}

    def __reduce__(self) -> tuple[object, ...]:  # keyword arguments must survive worker processes
        return (_rebuilt, (type(self), self._own_arguments(), self.__dict__))


class InputError(HrrsiError, ValueError):
    """A file or folder that is read can't be used: damaged, of another kind, unfit for the rest."""


class MissingInputError(InputError, FileNotFoundError):
    """A file or folder that is read is not there."""


class WeightsError(InputError):
    """A weights file can't be used, or not for this."""


class OptionError(HrrsiError, ValueError):
    """A parameter has a value that it can't have, or one that others exclude.

    Attributes:
        parameter: Its name in the library.

    Args:
        what: What is wrong with it.
        parameter: Its name in the library; None where several share the blame.
        fix: What to do about it.
    """

    def __init__(self, what: str, *, parameter: str | None = None, fix: str | None = None) -> None:
        super().__init__(what, where=None if parameter is None else f"`{parameter}`", fix=fix)
        self.parameter = parameter


class OutputError(HrrsiError, OSError):
    """A file or folder can't be written."""


class OutputExistsError(OutputError, FileExistsError):
    """A file or folder to be written is there already."""


class DeviceError(HrrsiError, RuntimeError):
    """A device, precision or engine is not to be had here, or its memory is short."""


class RunError(HrrsiError, RuntimeError):
    """A training run can't go on."""


class ClusterError(HrrsiError, RuntimeError):
    """A cluster's scheduler or workers can't be reached, differ, or don't do what was asked."""


class DependencyError(HrrsiError, ImportError):
    """What was asked for needs packages that are not installed.

    Args:
        what: What needs them, and which they are.
        extra: The extra of hrrsi that brings them.
    """

    def __init__(self, what: str, *, extra: str) -> None:
        super().__init__(what, fix=f"install them: pip install 'hrrsi[{extra}]'")
        self.extra = extra

    def _own_arguments(self) -> dict[str, str | None]:
        return {"extra": self.extra}


def printable(text: str) -> str:
    """Return a text for a terminal: what files say can't move its cursor or change colours."""
    return _UNSHOWN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def require_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise unless an option has one of the values that it may have.

    Args:
        name: The parameter.
        value: What was given for it.
        choices: What it may be; None, which is no choice to name, where it may be left out.

    Raises:
        OptionError: It has another value.
    """
    if value not in choices:
        listed = ", ".join(str(choice) for choice in choices if choice is not None)
        raise OptionError(f"is not {value!r}", parameter=name, fix=f"choose from {listed}")


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def one_line(text: object) -> str:
    """Return a text, or an error's, without the line breaks and tabs that names may have."""
    return " ".join(str(text).split())


@contextmanager
def quiet_loggers(names: Iterable[str]) -> Iterator[None]:
    """Silence loggers of libraries: what they say in many lines ends up in one of ours."""
    import logging  # which --help does without

    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _rebuilt(
    kind: type[_Error], arguments: dict[str, str | None], attributes: dict[str, object]
) -> _Error:
    error = kind(str(attributes["what"]), **arguments)
    error.__dict__.update(attributes)
    error.args = (_line(error.what, error.where, error.fix),)
    return error


def _line(what: str, where: object, fix: str | None) -> str:
    line = what if where is None else f"{where}: {what}"
    return f"{line}; {fix}" if fix else line


class FileWarning(UserWarning):
    """What GDAL says of a vector file that is read all the same."""


def warn(text: str, kind: type[Warning]) -> None:
    """Warn who called hrrsi: Python shows their own line, however deep in hrrsi this is said.

    Args:
        text: The warning, in one line.
        kind: Its class.
    """
    level = depth = 1
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        # a decorated function of ours is called by its decorator's module
        if module.partition(".")[0] == "hrrsi" or (module == "contextlib" and level == depth - 1):
            level = depth
        frame, depth = frame.f_back, depth + 1
    warnings.warn(text, kind, stacklevel=level + 1)
