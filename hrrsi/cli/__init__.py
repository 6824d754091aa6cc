"""The command line: one module a subcommand, each a thin call of the library.

No module here imports anything heavy at its top, so that ``--help`` answers at once.
"""

import errno
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hrrsi.cli.evaluate import evaluate
from hrrsi.cli.info import info
from hrrsi.cli.predict import predict
from hrrsi.cli.pretrain import pretrain
from hrrsi.cli.profile import profile
from hrrsi.cli.tile import tile
from hrrsi.cli.train import train
from hrrsi.errors import HrrsiError

_OUT_OF_MEMORY = "out of memory; lower --batch or --window, or close other programs"

_INTERRUPTED = "interrupted; nothing half-written was left under its final name"


class OneLineErrors(TyperGroup):
    """Runs a command, and turns what went wrong into one line and exit code 1."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; ``--debug`` counts before and after the command."""
        end = args.index("--") if "--" in args else len(args)
        if "--debug" in args[1:end]:
            args = ["--debug", *(a for a in args[:end] if a != "--debug"), *args[end:]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that `ctx` names."""
        if ctx.params.get("debug"):
            return super().invoke(ctx)
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise  # typer's own: usage errors among them, which exit with 2
        except HrrsiError as error:
            line = str(error)
        except KeyboardInterrupt as interruption:
            line = str(interruption) or _INTERRUPTED
        except MemoryError:
            line = _OUT_OF_MEMORY
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # `hrrsi ... | head` is no error; typer ends it without a word
            line = _os_error_line(error)
        except Exception as error:
            kind = type(error).__name__
            line = f"unexpected {kind}: {error}; run it with --debug and report it"
            if kind == "OutOfMemoryError":  # torch's, which takes seconds to import
                line = _OUT_OF_MEMORY
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


app.command("predict")(predict)
app.command("eval")(evaluate)
app.command("profile")(profile)
app.command("info")(info)
app.command("tile")(tile)
app.command("train")(train)
app.command("pretrain")(pretrain)


def main() -> None:
    """Run the command line."""
    app()
