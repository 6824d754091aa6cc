"""Commands in this process and what they say, and programs of Python in one of their own."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from typer.testing import CliRunner, Result

from hrrsi.cli import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run_line(line: str) -> Result:
    return run(*shlex.split(line))


def done(*arguments: object) -> Result:
    """The result of a command that succeeds."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def error_of(line: str) -> str:
    """The last line of a command that fails."""
    result = run_line(line)
    assert result.exit_code == 1, result.output
    return result.stderr.splitlines()[-1]


def assert_one_line_error(result: Result, *words: str) -> None:
    assert result.exit_code == 1, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


@contextmanager
def python_program(script: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A program that runs a script, and its standard output."""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout
