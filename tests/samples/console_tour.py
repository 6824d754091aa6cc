"""Commands that documents show with what they print, run as they stand."""

import re
import runpy
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from samples.repository import REPOSITORY
from typer.testing import CliRunner

from hrrsi.cli import app

_BLOCK = re.compile(
    r"<!-- tour: (\w+) -->\n```console\n\$ (.*)\n((?:.*\n)*?)```\n"
    r"(?:(?:.+\n|\n(?!<!--))*?\n<!-- tour: said -->\n```text\n((?:.*\n)*?)```\n)?"
)
_SAID = re.compile(r"(?:note|warning|weights): .*")


class Step(NamedTuple):
    """A command: how exactly its output is shown, the command, and what it prints and says.

    ``exact``, ``runs`` (all but figures), ``head`` (the first lines, but for figures), or
    ``command``, which shows no output.
    """

    kind: str
    command: str
    shown: str
    notes: str


def tour(paper: str) -> list[Step]:
    """Return the commands of a document in their order."""
    text = (REPOSITORY / paper).read_text(encoding="utf-8")
    return [Step(m[1], m[2], m[3], m[4] or "") for m in _BLOCK.finditer(text)]


def clone(folder: Path) -> Path:
    """Make a folder look like a clone of the repository."""
    (folder / "examples").symlink_to(REPOSITORY / "examples")
    return folder


def without_figures(text: str) -> str:
    """The words of an output: figures, widths and rules differ from machine to machine."""
    text = text.replace("| best so far", "")  # which epoch is the best is chance
    return " ".join(re.sub(r"[-+|\d.,:%]+", " ", text).split())


def follow(
    steps: list[Step],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    shortened: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Run the commands in a folder: each takes what the one before made.

    `shortened` holds flags of subcommands that make them cheaper, and come after those shown.
    """
    monkeypatch.chdir(folder)
    # without a GPU: the report says what predicted
    for name, value in {"COLUMNS": "100", "CUDA_VISIBLE_DEVICES": ""}.items():
        monkeypatch.setenv(name, value)
    for kind, command, shown, said in steps:
        program, *arguments = shlex.split(command)
        if program == "python":
            monkeypatch.setattr("sys.argv", arguments)
            runpy.run_path(arguments[0], run_name="__main__")
            continue
        assert program == "hrrsi"
        arguments += (shortened or {}).get(arguments[0], ())
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        if kind == "exact":
            assert result.stdout.strip() == shown.strip(), command
        elif kind == "head":
            assert without_figures(result.stdout).startswith(without_figures(shown)), command
        elif kind == "runs":
            assert without_figures(result.stdout) == without_figures(shown), command
        if kind != "command":
            # what stands in the document, with ... for folders, and nothing beside it
            lines = [re.escape(line).replace(r"\.\.\.", ".*") for line in said.splitlines()]
            heard = _SAID.findall(result.stderr)
            assert len(heard) == len(lines), heard
            for line, pattern in zip(heard, lines, strict=True):
                assert re.fullmatch(pattern, line), line
