"""The command line, built once for all tests of a process.

`CliRunner` builds every command of an app anew for each call, which takes longer than most errors
take to be found.
"""

from typing import Any

import typer.testing

_build = typer.testing._get_command
_built: dict[typer.Typer, tuple[list[Any], Any]] = {}


def share_commands() -> None:
    """Let `CliRunner` build an app once, and again when it has other commands."""
    typer.testing._get_command = _shared


def _shared(app: typer.Typer) -> Any:
    commands = list(app.registered_commands)
    if app not in _built or _built[app][0] != commands:
        _built[app] = commands, _build(app)
    return _built[app][1]
