"""The command line itself: help, version, errors, completion; what commands do is tested apart."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import typer.main
from samples.command_results import python_program
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import COMMANDS, app, main
from hrrsi.errors import HrrsiError

EXECUTABLE = Path(sys.executable).with_name("hrrsi")
HEAVY = {
    *("torch", "torchvision", "timm", "lightning", "numpy", "rasterio", "matplotlib", "PIL"),
    *("pydantic", "yaml", "imgaug", "cv2", "pyogrio", "shapely", "safetensors", "ptflops"),
    *("pandas", "scipy"),
}
runner = CliRunner(env={"TERMINAL_WIDTH": "160"})


@pytest.fixture
def command_raising() -> Iterator[Callable[[BaseException], list[str]]]:
    """A command of the real application that raises what it is given."""
    before = list(app.registered_commands)

    def register(error: BaseException) -> list[str]:
        def fail() -> None:
            raise error

        app.command("fail")(fail)
        return ["fail"]

    yield register
    app.registered_commands[:] = before


def test_help_lists_every_command() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    assert {"tile", "train", "eval", "predict", "profile", "info"} <= set(COMMANDS)
    for name in COMMANDS:
        assert f" {name} " in result.output
    assert "bool" not in result.output, "a flag takes no value"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_teaches(name: str) -> None:
    result = runner.invoke(app, [name, "--help"])
    assert result.exit_code == 0
    lines = [line for line in result.output.splitlines() if "Usage: " not in line]
    assert f"hrrsi {name}" in " ".join(" ".join(lines).split()), "no example"
    assert "bool" not in result.output, "a flag takes no value"
    group: Any = typer.main.get_command(app)
    command = group.get_command(None, name)
    assert command.help.splitlines()[0] == COMMANDS[name][1]  # which the list of commands shows
    for parameter in command.params:
        assert parameter.help, f"{parameter.name} has no help"


@pytest.mark.long
def test_answers_without_importing_anything_heavy() -> None:
    calls = [["--version"], ["-h"], *([name, "-h"] for name in COMMANDS)]
    script = (
        "import json, sys\n"
        "from hrrsi.cli import app\n"
        "imported = [sorted(sys.modules)]\n"
        f"for arguments in {calls!r}:\n"
        "    app(arguments, standalone_mode=False)\n"
        "    imported.append(sorted(sys.modules))\n"
        "print(json.dumps(imported))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    on_import, *after = (
        {m.partition(".")[0] for m in modules}
        for modules in json.loads(done.stdout.splitlines()[-1])
    )
    assert "hrrsi" in on_import
    assert not on_import & HEAVY
    for arguments, modules in zip(calls, after, strict=True):
        # typer reads the arguments of some types with pydantic
        assert not modules & (HEAVY - {"pydantic"}), arguments


@pytest.mark.parametrize("command", [[str(EXECUTABLE)], [sys.executable, "-m", "hrrsi"]])
def test_version(command: list[str]) -> None:
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"hrrsi {hrrsi.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["--nope"], ["profile", "--nope"], ["preidct", "scene.tif"], ["predict"], []]
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.output
    assert "Traceback" not in result.output
    assert "unexpected" not in result.output


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (HrrsiError("is empty", where="a.tif", fix="copy it"), "a.tif: is empty; copy it"),
        (HrrsiError("has two\nlines"), "has two lines"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out.tif"),
            "out.tif: the disk is full; free space, or choose another --out",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "out.tif"),
            "out.tif: permission denied; change its permissions, or choose another path",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a.tif"),
            "a.tif: No such file or directory; check the path",
        ),
        (
            KeyboardInterrupt(),
            "interrupted; nothing half-written was left under its final name",
        ),
        (MemoryError(), "out of memory; lower --batch or --window, or close other programs"),
        (
            torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB"),
            "out of memory; lower --batch or --window, or close other programs",
        ),
        (
            ZeroDivisionError("division by zero"),
            "unexpected ZeroDivisionError: division by zero; run it with --debug and report it",
        ),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(
    error: BaseException, line: str, command_raising: Callable[[BaseException], list[str]]
) -> None:
    result = runner.invoke(app, command_raising(error))
    assert result.exit_code == 1
    assert result.stderr == f"error: {line}\n"
    assert result.stdout == ""


@pytest.mark.parametrize("place", [0, 1])
def test_debug_shows_the_traceback_before_and_after_the_command(
    place: int, command_raising: Callable[[BaseException], list[str]]
) -> None:
    error = HrrsiError("is empty", where="a.tif")
    arguments = command_raising(error)
    arguments.insert(place, "--debug")
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    assert result.exception is error  # left to Python, which prints the traceback


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        pytest.param(
            ["--debug", "info", "missing.tif"],
            "Traceback (most recent call last):",
            marks=pytest.mark.slow,
        ),
        (["info", "--", "--debug"], "error: --debug: "),  # a file of that name
    ],
)
def test_debug_prints_a_traceback(arguments: list[str], start: str, tmp_path: Path) -> None:
    done = subprocess.run([EXECUTABLE, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(start)
    assert "no such file" in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [(typer.Exit(0), 0), (typer.Exit(3), 3), (typer.Abort(), 1), (typer.BadParameter("bad"), 2)],
)
def test_typers_own_exceptions_pass(
    error: Exception, code: int, command_raising: Callable[[BaseException], list[str]]
) -> None:
    result = runner.invoke(app, command_raising(error))
    assert result.exit_code == code
    assert "unexpected" not in result.output


def test_ctrl_c_is_one_line_and_exit_code_1() -> None:
    script = (
        "import signal, time\n"
        "from hrrsi.cli import app\n"
        # a shell's background jobs ignore the signal, and children inherit that
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def wait():\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
        "app.command('wait')(wait)\n"
        "app(['wait'])\n"
    )
    with python_program(script) as (process, output):
        assert output.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == "error: interrupted; nothing half-written was left under its final name\n"


def test_a_reader_that_stops_early_is_no_error() -> None:
    script = (
        "from hrrsi.cli import app\n"
        "def count():\n"
        "    for number in range(10**6):\n"
        "        print(number)\n"
        "app.command('count')(count)\n"
        "app(['count'])\n"
    )
    with python_program(script) as (process, output):
        assert process.stderr is not None
        assert output.readline() == "0\n"
        output.close()
        assert process.stderr.read() == ""


def test_completion_installs_and_completes(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{EXECUTABLE.parent}:/usr/bin:/bin",
    }
    subprocess.run(
        # the second command keeps bash from handing its process over, as an interactive one does
        ["bash", "-c", "hrrsi --install-completion; exit $?"],
        env=environment,
        check=True,
        capture_output=True,
    )
    assert "hrrsi" in (tmp_path / ".bashrc").read_text()
    completed = subprocess.run(
        [
            "bash",
            "-c",
            "source ~/.bash_completions/hrrsi.sh; COMP_WORDS=(hrrsi pro); COMP_CWORD=1; "
            "_hrrsi_completion hrrsi; echo ${COMPREPLY[@]}",
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert completed.stdout.split() == ["profile"]


def test_completion_is_shown(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{EXECUTABLE} --show-completion; exit $?"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "complete -o default -F _hrrsi_completion hrrsi" in done.stdout


def test_threads_that_wait_sleep_unless_the_user_wants_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hrrsi.cli.app", lambda: None)
    for before, after, turns in ((None, "PASSIVE", "20000"), ("ACTIVE", "ACTIVE", None)):
        monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
        if before is None:
            monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        else:
            monkeypatch.setenv("OMP_WAIT_POLICY", before)
        main()
        assert os.environ["OMP_WAIT_POLICY"] == after
        assert os.environ.get("GOMP_SPINCOUNT") == turns
