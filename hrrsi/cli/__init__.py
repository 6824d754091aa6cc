"""The command line: one module a subcommand, each a thin call of the library.

A command's module is imported when it is called, and imports nothing heavy at its top, so that
``--help`` answers at once.
"""

import errno
import io
import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from hrrsi.cli.messages import RUNNING_COMMAND, error_line
from hrrsi.interruption import heed_signals_for_good

# In the order of --help: the function, in a module of its name, and the first line of its docstring
# (a test compares them), so that the list of commands imports none of them.
COMMANDS = {
    "predict": ("predict", "Map the land cover of scenes."),
    "view": ("view", "Show maps over their scenes in a browser, in a page of this machine."),
    "eval": (
        "evaluate",
        "Score weights on labelled data: every pixel counts once, in one confusion matrix.",
    ),
    "profile": ("profile", "Count a network's parameters and operations, and measure its speed."),
    "info": (
        "info",
        "Say what a file or folder is: imagery, a map, polygons, weights, a dataset or a run.",
    ),
    "tile": ("tile", "Cut raw scenes and their labels into a tiled dataset for `hrrsi train`."),
    "train": ("train", "Train networks on a tiled dataset, or on several at once."),
    "pretrain": (
        "pretrain",
        "Train an encoder on images sorted into classes, such as ImageNet.",
    ),
    "export": ("export", "Write a network as a file that other programs run."),
    "prune": ("prune", "Cut channels out of a network, so that its file and its time shrink."),
    "quantize": (
        "quantize",
        "Write a network in int8 for a board, and say what that costs and gains.",
    ),
}


# What an option stands for that is given without a value; typer has no such options.
IMPLIED_VALUES = {"train": {"--init": "default"}}


class Command(TyperCommand):
    """A command whose help says no type of flags, and whose options may imply a value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return arguments and options, ``--help`` among them."""
        return _without_types_of_flags(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, the values that options imply among them."""
        values = IMPLIED_VALUES.get(self.name or "", {})
        complete: list[str] = []
        for place, argument in enumerate(args):
            complete.append(argument)
            if argument in values and "--" not in args[:place] and _lacks_value(args[place + 1 :]):
                complete.append(values[argument])
        return super().parse_args(ctx, complete)


class CommandGroup(TyperGroup):
    """Runs a command, and turns what went wrong into one line and exit code 1."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._lists_only = False
        self._built: dict[str, Any] = {}
        commands = {name: TyperCommand(name, help=line) for name, (_, line) in COMMANDS.items()}
        self.commands = {**commands, **self.commands}

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options of the program itself."""
        return _without_types_of_flags(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, imported where more than its name and first line is asked for."""
        if cmd_name not in COMMANDS or self._lists_only:
            return super().get_command(ctx, cmd_name)
        if cmd_name not in self._built:
            function = COMMANDS[cmd_name][0]
            single = typer.Typer(
                rich_markup_mode=self.rich_markup_mode,
                add_completion=False,
                pretty_exceptions_enable=False,
            )
            decorator = single.command(cmd_name, cls=Command)
            decorator(getattr(import_module(f"hrrsi.cli.{function}"), function))
            self._built[cmd_name] = typer.main.get_command(single)
        return self._built[cmd_name]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, with the list of commands."""
        self._lists_only = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._lists_only = False

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


def _without_types_of_flags(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    return parameters


def _lacks_value(rest: list[str]) -> bool:
    """Return whether an option stands alone: what follows is another option, or a dataset."""
    return not rest or rest[0].startswith("-") or os.path.isfile(f"{rest[0]}/dataset.yaml")


def _keep_caches_of_libraries() -> None:
    """Give libraries a place in hrrsi's cache for what they would write at home or in ``/tmp``."""
    import platformdirs  # `files.cache_folder` would bring YAML into every --help

    own = os.environ.get("HRRSI_CACHE") or platformdirs.user_cache_dir("hrrsi", appauthor=False)
    os.environ.setdefault("MPLCONFIGDIR", os.path.join(own, "matplotlib"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(own, "torchinductor"))


app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(show: bool) -> None:
    if show:
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
