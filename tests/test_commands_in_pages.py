"""Every command and flag that a page shows is one that the command line takes, by its own parser.

Nothing is run: a command is parsed, and its option classes are made of what was given.
"""

import re
import shlex
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import pytest
import typer.main
from samples.page_commands import Shown, commands_in, prose
from samples.repository import REPOSITORY

from hrrsi.cli import COMMANDS, app
from hrrsi.errors import OptionError

PLACES = (
    "*.md",
    "docs/*.md",
    "benchmarks/*.md",
    "examples/*.md",
    "examples/*/*.md",
    "hrrsi/*/*.md",
)
PAGES = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
    for place in PLACES
    for path in sorted(REPOSITORY.glob(place))
}
# of Dask's workers, of `tools/reliability`, and an earlier name
NOT_OF_HRRSI = {"--nthreads", "--record", "--label-file"}

_FLAGS = re.compile(r"(?<!`)`(--[a-z][^`]*)`(?!`)")


@pytest.fixture(autouse=True)
def _empty_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files that `--config` names be there, and say nothing."""
    monkeypatch.setattr("hrrsi.files.read_yaml", lambda _path: {})


@cache
def command_named(name: str) -> Any:
    return typer.main.get_command(app).get_command(None, name)


def made_options(name: str, values: dict[str, Any]) -> None:
    """Make a command's option classes of what was parsed, without doing what it does."""
    function = getattr(import_module(f"hrrsi.cli.{COMMANDS[name][0]}"), COMMANDS[name][0])
    if "command" not in function.__code__.co_freevars:  # it takes no option classes
        return
    cell = function.__closure__[function.__code__.co_freevars.index("command")]
    command, cell.cell_contents = cell.cell_contents, lambda **_: None
    try:
        command_named(name).callback(**values)
    finally:
        cell.cell_contents = command


@cache
def refusal(shown: Shown) -> str | None:
    """What the command line has against a command, None where it takes it.

    Inline code may only mention a command, with some flags of it: arguments may be missing where
    none is given, and so may the value of its last flag.
    """
    name, *words = shown.words
    if name == "COMMAND" or name.startswith("-"):
        own = [opt for p in typer.main.get_command(app).params for opt in (*p.opts, "--help")]
        unknown = [word for word in shown.words if word != "COMMAND" and word not in own]
        return f"no such option: {unknown[0]}" if unknown else None
    if name not in COMMANDS:
        return f"no such command: {name}"
    command = command_named(name)
    try:
        context = command.make_context(name, [word for word in words if word != "--help"])
        made_options(name, context.params)
    except typer.TyperException as error:
        kind = type(error).__name__
        if not shown.is_whole and kind == "MissingParameter" and not has_arguments(command, words):
            return None
        if not shown.is_whole and kind == "BadOptionUsage" and "requires" in str(error):
            return None
        return error.format_message()
    except OptionError as error:
        return str(error)
    return None


@cache
def flags_of(command: Any, *, with_value: bool = False) -> set[str]:
    """The names of a command's flags, or of those alone that take a value."""
    options = [
        parameter
        for parameter in command.get_params(typer.Context(command))
        if parameter.param_type_name == "option" and not (with_value and parameter.is_flag)
    ]
    return {name for option in options for name in (*option.opts, *option.secondary_opts)}


def has_arguments(command: Any, words: Sequence[str]) -> bool:
    """Whether some words are arguments, not flags or values of flags."""
    before = flags_of(command, with_value=True)
    pairs = zip(["", *words], words, strict=False)
    return any(not word.startswith("-") and last not in before for last, word in pairs)


def flag_refusal(code: str) -> str | None:
    """What every command has against some flags, None where one takes them."""
    words = shlex.split(code)
    flag = words[0].partition("=")[0]
    why: str | None = None if flag in NOT_OF_HRRSI else "no command has it"
    for name in COMMANDS:
        if why is not None and flag in flags_of(command_named(name)):
            why = refusal(Shown((name, *words), is_whole=False))
    return why


def wrong_in(text: str) -> list[str]:
    """What is wrong with the commands and flags of a document, a line each."""
    refused = {f"hrrsi {shlex.join(s.words)}": refusal(s) for s in commands_in(text)}
    refused |= {code: flag_refusal(code) for code in _FLAGS.findall(prose(text))}
    return [f"{shown}: {why}" for shown, why in refused.items() if why is not None]


@pytest.mark.parametrize("page", PAGES)
def test_the_command_line_takes_what_a_page_shows(page: str) -> None:
    assert wrong_in(PAGES[page]) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_line_takes_what_its_help_shows(name: str) -> None:
    # an example is a paragraph of its own, or inline code
    text = re.sub(r"(?<=\n\n) *(hrrsi .*)", r"```\n\1\n```", command_named(name).help)
    assert len(list(commands_in(text))) > 0
    assert wrong_in(text) == []


def test_commands_are_found_in_every_shape() -> None:
    text = """
$ hrrsi no command

```console
first$ hrrsi predict 'a b.tif' \\
      --out maps/   # a remark; more
hrrsi prints this
$ pip install 'hrrsi[cluster]' && hrrsi info b
```

```bash
X=1 srun hrrsi train data --nodes 2 &
```
1. Do
   ```
   torchrun --nproc-per-node 4 -m hrrsi train data > log; hrrsi view c
   ```
```python
hrrsi no command
```
Then `hrrsi
eval DATA`, `hrrsi.evaluate`, ``hrrsi no command`` and `hrrsi eval A ...`.
"""
    assert [(" ".join(words), is_whole) for words, is_whole in commands_in(text)] == [
        ("predict a b.tif --out maps/", True),
        ("info b", True),
        ("train data --nodes 2", True),
        ("train data", True),
        ("view c", True),
        ("eval DATA", False),
        ("eval A", False),
    ]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("hrrsi map scene.tif", "no such command"),
        ("hrrsi predict scene.tif --previews png", "No such option: --previews"),
        ("hrrsi predict scene.tif --confidence int4", "'int4' is not one of"),
        ("hrrsi predict scene.tif --window 0", "greater than or equal to 1"),
        ("hrrsi predict scene.tif --bands red", "'red' is not a list such as"),
        ("hrrsi predict scene.tif --resample 0.3m", "neither auto nor off nor a number"),
        ("hrrsi predict scene.tif --crop", "area of interest"),
        ("hrrsi predict --out maps/", "Missing argument"),
        ("hrrsi predict scene.tif --out", "requires an argument"),
        ("hrrsi profile ued --seconds long", "valid number"),
        ("hrrsi quantize", "Missing option '--data'"),
        ("hrrsi info a b", "unexpected extra argument"),
    ],
)
def test_a_wrong_command_in_a_page_is_found(command: str, why: str) -> None:
    for language in ("bash", "console", ""):
        prompt = "$ " if language == "console" else ""
        (line,) = wrong_in(f"```{language}\n{prompt}{command}\n```\n")
        assert why in line


def test_wrong_flags_in_prose_are_found() -> None:
    text = "`hrrsi predict --vector`, `hrrsi train`, `--tta flip`, `--mosaic`, `--nthreads`"
    assert wrong_in(text) == []
    text = "`hrrsi predict --vectors`, `hrrsi eval --tta e5`, `--tta e5`, `--tiles=3`, `--title`"
    assert len(wrong_in(text)) == 5
