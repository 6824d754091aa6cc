"""What commands say on standard error: one line each, with the library's parameters as flags."""

from __future__ import annotations

import errno
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import typer

from hrrsi.errors import FileWarning, HrrsiError, one_line, printable

if TYPE_CHECKING:
    from pathlib import Path

    from hrrsi.networks.model_meta import ModelMeta

OUT_OF_MEMORY = "out of memory; lower --batch or --window, or close other programs"
INTERRUPTED = "interrupted; nothing half-written was left under its final name"

# The typer command that is running, whose flags messages name.
RUNNING_COMMAND: ContextVar[Any] = ContextVar("running command", default=None)

_NO_MEMORY = re.compile(r"bad_alloc|[Cc]an(no|')t allocate memory|failed to allocate")
_PARAMETER = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`")
_OF_OTHER_COMMAND = re.compile(r"`hrrsi\.([a-z]+)\(([a-z0-9_]+)\)`")


def in_flags(text: str) -> str:
    """Return a message of the library with its parameters as the flags of the running command.

    Args:
        text: Names parameters between backticks: ```min_area```, ```device=cpu``` or
            ```overwrite=True```. What the command doesn't take stays as it is. Those of other
            commands are ```hrrsi.train(encoder_weights)```.
    """
    command = RUNNING_COMMAND.get()
    parameters = {} if command is None else {p.name: p for p in command.params}

    def flag(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in parameters:
            return match.group()
        parameter = parameters[name]
        if parameter.param_type_name == "argument":
            return str(value or parameter.metavar or parameter.name.upper())
        if value == "False" and parameter.secondary_opts:
            return str(parameter.secondary_opts[0])
        option = str(max(parameter.opts, key=len))
        return option if value in (None, "True") else f"{option} {value}"

    def of_other_command(match: re.Match[str]) -> str:
        function, name = match.groups()
        other = {"evaluate": "eval"}.get(function, function)
        return f"`hrrsi {other} --{name.replace('_', '-')}`"

    return _OF_OTHER_COMMAND.sub(of_other_command, _PARAMETER.sub(flag, text))


def error_line(error: BaseException) -> str:
    """Return what went wrong, where, and what to do, in one line."""
    if isinstance(error, HrrsiError):
        line = in_flags(str(error))
    elif isinstance(error, KeyboardInterrupt):
        line = in_flags(str(error)) or INTERRUPTED
    elif isinstance(error, MemoryError):
        line = OUT_OF_MEMORY
    elif isinstance(error, OSError) and error.errno != errno.ENOMEM:
        line = _os_error_line(error)
    elif type(error).__name__ == "OutOfMemoryError" or _NO_MEMORY.search(str(error)):
        line = OUT_OF_MEMORY  # torch's, which takes seconds to import; others' RuntimeErrors
    else:
        line = f"unexpected {type(error).__name__}: {error}; run it with --debug and report it"
    return printable(one_line(line))


def print_line(line: str, *, err: bool = False) -> None:
    """Print a line of a result, or several; what files say in it can't steer the terminal."""
    typer.echo(printable(in_flags(line)), err=err)


def print_note(note: str) -> None:
    """Print a note of the library, which starts with what it is (``warning: ``)."""
    print_line(note, err=True)


def note_printer(notes: list[str]) -> Callable[[str], None]:
    """Return what prints a note at once, and remembers it.

    Args:
        notes: Gets the notes.
    """

    def show(note: str) -> None:
        notes.append(note)
        print_note(note)

    return show


def print_warning(message: object, kind: str = "warning") -> None:
    """Print a warning, or a message of another kind, above whatever progress bar is open."""
    from tqdm import tqdm

    tqdm.write(f"{kind}: {printable(in_flags(str(message)))}", file=sys.stderr)


def print_weights(weights: str | Path | None, meta: ModelMeta | None = None) -> None:
    """Say which weights are used; of those inside the package, also what they are for.

    Args:
        weights: The weights as they were given.
        meta: What they say of themselves, where that was read already.
    """
    from tqdm import tqdm

    from hrrsi.networks.weights_file import weights_line, weights_path
    from hrrsi.networks.weights_reading import read_meta

    path = weights_path(weights)
    line = weights_line(path, meta or read_meta(path))
    tqdm.write(f"weights: {printable(one_line(line))}", file=sys.stderr)


@contextmanager
def scene_warnings_in_one_line() -> Iterator[None]:
    """Print each warning about a scene or file as a line for the user, above any progress bar."""
    from hrrsi.prediction.scene_remarks import SceneNotice, SceneWarning

    with warnings.catch_warnings(action="always", category=SceneWarning):
        warnings.simplefilter("always", FileWarning)
        show = warnings.showwarning

        def show_in_one_line(
            message: Warning | str, category: type[Warning], *place: Any, **more: Any
        ) -> None:
            if issubclass(category, SceneNotice):
                print_warning(message, "note")
            elif issubclass(category, SceneWarning | FileWarning):
                print_warning(message)
            else:
                show(message, category, *place, **more)

        warnings.showwarning = show_in_one_line  # restored by catch_warnings
        yield


def _os_error_line(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{place}the disk is full; free space, or choose another --out"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{place}permission denied; change its permissions, or choose another path"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{place}too many files are open; raise the limit (ulimit -n 4096)"
    return f"{place}{error.strerror or error}; check the path"
