"""The command line: one module a subcommand, each a thin call of the library.

No module here imports anything heavy at its top, so that ``--help`` answers at once.
"""

import errno
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hrrsi.errors import HrrsiError


class OneLineErrors(TyperGroup):
    """Runs a command, and turns what went wrong into one line and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that `ctx` names."""
        if ctx.params.get("debug"):
            return super().invoke(ctx)
        try:
            return super().invoke(ctx)
        except HrrsiError as error:
            line = str(error)
        except KeyboardInterrupt:
            line = "interrupted; nothing half-written was left under its final name"
        except MemoryError:
            line = "out of memory; lower --batch or --window, or close other programs"
        except OSError as error:
            line = _os_error_line(error)
        except Exception as error:
            if type(error).__module__.startswith("click") or isinstance(error, typer.Exit):
                raise
            line = f"unexpected {type(error).__name__}: {error}; run it with --debug and report it"
        typer.echo(f"error: {' '.join(line.split())}", err=True)
        raise typer.Exit(1)


def _os_error_line(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{place}the disk is full; free space, or choose another --out"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{place}permission denied; change its permissions, or choose another path"
    return f"{place}{error.strerror or error}; check the path"


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from hrrsi import __version__

        typer.echo(f"hrrsi {__version__}")
        raise typer.Exit


@app.callback()
def _hrrsi(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show the traceback of an error, before or after a command."),
    ] = False,
) -> None:
    """Land-cover maps from very-high-resolution orthophotos.

    The way from raw scenes to a map: **tile** → **train** → **eval** → **predict**.
    """


def main() -> None:
    """Run the command line; ``--debug`` counts wherever it stands."""
    arguments = sys.argv[1:]
    if "--debug" in arguments[1:]:
        arguments = ["--debug", *(a for a in arguments if a != "--debug")]
    app(args=arguments)
