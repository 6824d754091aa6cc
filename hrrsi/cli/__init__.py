"""The command line: one module a subcommand, each a thin call of the library.

No module here imports anything heavy at its top, so that ``--help`` answers at once.
"""

import errno
import io
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hrrsi.cli.evaluate import evaluate
from hrrsi.cli.export import export
from hrrsi.cli.info import info
from hrrsi.cli.messages import RUNNING_COMMAND, error_line
from hrrsi.cli.predict import predict
from hrrsi.cli.pretrain import pretrain
from hrrsi.cli.profile import profile
from hrrsi.cli.prune import prune
from hrrsi.cli.quantize import quantize
from hrrsi.cli.tile import tile
from hrrsi.cli.train import train
from hrrsi.interruption import heed_signals_for_good


class OneLineErrors(TyperGroup):
    """Runs a command, and turns what went wrong into one line and exit code 1."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; ``--debug`` counts before and after the command."""
        end = args.index("--") if "--" in args else len(args)
        if "--debug" in args[1:end]:
            args = ["--debug", *(a for a in args[:end] if a != "--debug"), *args[end:]]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is asked for; messages name its flags."""
        name, command, rest = super().resolve_command(ctx, args)
        RUNNING_COMMAND.set(command)
        _keep_caches_of_libraries()
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command that `ctx` names."""
        if ctx.params.get("debug"):
            return super().invoke(ctx)
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise  # typer's own: usage errors among them, which exit with 2
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # `hrrsi ... | head` is no error; typer ends it without a word
            line = error_line(error)
        typer.echo(f"error: {line}", err=True)
        raise typer.Exit(1)


def _keep_caches_of_libraries() -> None:
    """Give libraries a place in hrrsi's cache for what they would write at home or in ``/tmp``."""
    import platformdirs  # `files.cache_folder` would bring YAML into every --help

    own = os.environ.get("HRRSI_CACHE") or platformdirs.user_cache_dir("hrrsi", appauthor=False)
    os.environ.setdefault("MPLCONFIGDIR", os.path.join(own, "matplotlib"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(own, "torchinductor"))


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_asked_for: bool) -> None:
    if is_asked_for:
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
app.command("export")(export)
app.command("prune")(prune)
app.command("quantize")(quantize)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal of Latin-1 has no arrows
            stream.reconfigure(errors="backslashreplace" if stream is sys.stderr else "replace")
    heed_signals_for_good()  # again, where a script of an earlier install calls this one
    # before anything loads torch, and for the processes that a run starts: threads of OpenMP that
    # spin while they wait take the cores from other processes. Some 20,000 turns before they sleep
    # make training as fast as with endless ones (5.2 images/s; 4.6 without any).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    app()
