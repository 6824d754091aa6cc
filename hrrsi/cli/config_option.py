"""``--config``: a YAML file of options, such as a run leaves."""

from pathlib import Path
from typing import Any

import typer


def config_defaults(ctx: typer.Context, path: Path) -> dict[str, Any]:
    """Return the options that a file holds, as click takes them for defaults.

    Args:
        ctx: Context of the command whose options they are.
        path: A YAML file: names of options, with ``-`` or ``_``, and their values.

    Raises:
        HrrsiError: It can't be read, or names an option that the command does not have.
    """
    from hrrsi.errors import HrrsiError
    from hrrsi.yaml_file import read_yaml

    known = {p.name: p for p in ctx.command.params if p.name not in ("config", "help")}
    defaults: dict[str, Any] = {}
    for key, value in read_yaml(path).items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise HrrsiError(
                f"unknown option {key!r}", where=path, fix=f"options are {', '.join(known)}"
            )
        if isinstance(value, list):
            defaults[name] = ",".join(map(str, value))
        elif value is not None:
            # as text, so that `precision: 32` and `lr: 1e-3` (text to YAML) read alike
            defaults[name] = value if isinstance(value, bool) else str(value)
    return defaults


def take_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make a file's values the defaults of the options that the command line leaves out.

    Raises:
        HrrsiError: As `config_defaults`.
    """
    if path is not None:
        ctx.default_map = config_defaults(ctx, path)
    return path
