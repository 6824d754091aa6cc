"""``--config``: a YAML file of options, such as a run leaves."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

CONFIG_HELP = (
    "YAML file with any of these options, e.g. the config.yaml of a run, which repeats it from "
    "any folder; options of the command line win."
)


def is_given(ctx: typer.Context, option: str) -> bool:
    """Return whether the command line itself holds an option."""
    source = ctx.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def config_defaults(ctx: typer.Context, path: Path) -> dict[str, Any]:
    """Return the options that a file holds, as click takes them for defaults.

    Args:
        ctx: Context of the command whose options they are.
        path: A YAML file: names of options, with ``-`` or ``_``, and their values.

    Raises:
        HrrsiError: It can't be read, names an option twice or one that the command does not have,
            or holds a value that an option does not take.
    """
    from hrrsi.errors import HrrsiError
    from hrrsi.yaml_file import read_yaml

    known: dict[str, Any] = {
        str(p.name): p for p in ctx.command.params if p.name not in ("config", "help")
    }
    given: dict[str, Any] = {}
    for key, value in read_yaml(path).items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise HrrsiError(
                f"unknown option {key!r}", where=path, fix=f"options are {', '.join(known)}"
            )
        if name in given:
            raise HrrsiError(f"holds {name} twice", where=path, fix="remove one")
        try:
            given[name] = _as_typed(value, is_switch=getattr(known[name], "is_flag", False))
            if value is not None:
                known[name].process_value(ctx, given[name])
        except typer.BadParameter as error:
            raise HrrsiError(
                f"{key}: {value}: {error.message.rstrip('.')}", where=path, fix="correct it"
            ) from error
    return {name: value for name, value in given.items() if value is not None}


def _as_typed(value: Any, *, is_switch: bool) -> Any:
    """Return a value of a file as the command line would have it.

    Raises:
        typer.BadParameter: It could not have it.
    """
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        raise typer.BadParameter("a mapping is no value")
    if isinstance(value, bool) and not is_switch:
        raise typer.BadParameter("to YAML, a bare yes, no, on or off is true or false; quote it")
    # `precision: 32` and `lr: 1e-3` (text to YAML) read alike
    return value if value is None or isinstance(value, bool) else str(value)


@contextmanager
def naming_config(ctx: typer.Context, path: Path | None) -> Iterator[None]:
    """Name the file in the error of an option that was taken from it.

    Raises:
        HrrsiError: What is raised within, with the file where its place begins with such an
            option.
    """
    from hrrsi.errors import HrrsiError

    try:
        yield
    except HrrsiError as error:
        parameter = re.match(r"`(\w+)", str(error.where))
        source = ctx.get_parameter_source(parameter[1]) if parameter else None
        if path is None or source is None or source.name != "DEFAULT_MAP":
            raise
        raise error.at(f"{path}: {error.where}") from error


def take_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make a file's values the defaults of the options that the command line leaves out.

    Raises:
        HrrsiError: As `config_defaults`.
    """
    if path is not None:
        ctx.default_map = config_defaults(ctx, path)
    return path
