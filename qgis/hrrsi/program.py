"""The program ``hrrsi``: where it is, whether it fits, and a run of it. Nothing here needs QGIS."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from glob import escape, glob
from typing import IO

FITTING = (0, 1)  # the versions of hrrsi whose commands these are: 0.1 and 0.1.x
INSTALL = "install it, or choose it in Settings > Options > Processing > Providers > hrrsi"
# Where people install programs, and Python's tools their commands.
_PLACES = (
    "~/.local/bin",
    "$VIRTUAL_ENV/bin",
    "$CONDA_PREFIX/bin",
    "/usr/local/bin",
    "/opt/hrrsi/bin",
    "/opt/hrrsi/.venv/bin",
    "~/hrrsi/.venv/bin",
    "~/*/hrrsi/.venv/bin",
    "~/.venv/bin",
    "~/venv/bin",
    "~/.virtualenvs/*/bin",
    "~/.venvs/*/bin",
    "~/miniconda3/envs/*/bin",
    "~/miniforge3/envs/*/bin",
    "~/anaconda3/envs/*/bin",
)
# What QGIS sets for its own Python and libraries, which would be the wrong ones for another.
_OF_QGIS = ("PYTHONHOME", "PYTHONPATH", "GDAL_DATA", "GDAL_DRIVER_PATH", "PROJ_LIB", "PROJ_DATA")
_OF_TERMINALS = ("FORCE_COLOR", "PY_COLORS")  # which put codes of colours into messages
_PROGRESS = re.compile(r"progress: +(?P<percent>\d+(\.\d+)?)% (?P<what>.*?): (?P<figures>.*)$")
_EPOCH = re.compile(r"epoch (\d+)/(\d+)$")
_TRAINING_SHARE = 0.85  # of an epoch; the rest is validation
# Shares of a run of `predict`, in percent: what comes after the network.
_STAGES = {"tiles": (90.0, 94.0), "polygons": (90.0, 97.0), "zones": (97.0, 100.0)}
_NEXT_PERCENT, _NEXT_SECONDS = 5.0, 60.0  # between lines of progress in a log
_PATIENCE_SECONDS = 60.0  # after the request to stop, before it is repeated
_IN_QGIS = (
    (": run the same command with it to go on", ": run it again to go on"),
    (" is kept for --resume", " is kept"),
    ("go on with --resume", "run it again to go on"),
    ("give --overwrite instead of --resume", "tick 'Start over'"),
    ("--overwrite instead of --resume", "tick 'Start over'"),
    ("give --overwrite to replace it", "tick 'Start over' to replace it"),
    ("start over without --resume", "tick 'Start over'"),
    (" --out", " output"),
)
# Programs that fit, by path and time. One that doesn't is asked again: what it lacked may have been
# installed since, beside it.
_fitting: set[tuple[str, float]] = set()


class ProgramError(Exception):
    """What went wrong, where, and what to do, in a line."""


class StoppedError(ProgramError):
    """The run was cancelled, and has ended; says what is kept."""


def fitting_program(chosen: str = "", environment: Mapping[str, str] | None = None) -> str:
    """Return the path of an executable of hrrsi whose version fits.

    Args:
        chosen: The one that the user has chosen, or nothing.
        environment: Variables, by default those of this process.

    Raises:
        ProgramError: There is none, or none fits.
    """
    if chosen.strip():
        path = os.path.expanduser(chosen.strip())
        if os.path.isdir(path):  # of an environment, or its bin
            inside = (os.path.join(path, *part, "hrrsi") for part in ((), ("bin",)))
            path = next(filter(_is_program, inside), path)
        if not _is_program(path):
            raise ProgramError(f"{path}: is no program that can be run; {INSTALL}")
        _require_fitting(path)
        return path
    problems = []
    for path in _candidates(os.environ if environment is None else environment):
        try:
            _require_fitting(path)
        except ProgramError as problem:
            problems.append(problem)
        else:
            return path
    if problems:
        raise problems[0]
    raise ProgramError(f"hrrsi was not found, neither on PATH nor in the usual places; {INSTALL}")


def _candidates(environment: Mapping[str, str]) -> list[str]:
    """Return the executables of that name, those on PATH first."""
    folders = [f for f in environment.get("PATH", "").split(os.pathsep) if f]
    for place in _PLACES:
        name, _, rest = place.partition("/")
        if name.startswith("$"):
            if not environment.get(name[1:]):
                continue
            place = f"{escape(environment[name[1:]])}/{rest}"
        elif name == "~":
            place = f"{escape(environment.get('HOME', os.path.expanduser('~')))}/{rest}"
        folders += sorted(glob(place))
    paths = (os.path.join(folder, "hrrsi") for folder in folders)
    return list(dict.fromkeys(filter(_is_program, paths)))


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _require_fitting(path: str) -> None:
    """Raise unless a program says that it is hrrsi, of a version that fits.

    Raises:
        ProgramError: It doesn't.
    """
    wanted = ".".join(map(str, FITTING))
    key = (path, os.stat(path).st_mtime)
    if key in _fitting:
        return
    version = _version(path)
    numbers = re.match(r"hrrsi (\d+)\.(\d+)", version)
    if numbers is None:
        answer = f" (it says: {version[:80]})" if version else ""
        raise ProgramError(f"{path}: does not say that it is hrrsi{answer}; {INSTALL}")
    if (int(numbers[1]), int(numbers[2])) != FITTING:
        raise ProgramError(
            f"{path}: is {version}, and this plugin is for {wanted}; update the older of the two"
        )
    _fitting.add(key)


def _version(path: str) -> str:
    """Return the last line that a program says of its version."""
    try:
        answer = subprocess.run(
            [path, "--version"],
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProgramError(f"{path}: can't be run ({error}); {INSTALL}") from error
    return (answer.strip().splitlines() or [""])[-1]


def child_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that hrrsi is started with.

    Args:
        environment: Those of this process, by default.
    """
    own = dict(os.environ if environment is None else environment)
    for name in (*_OF_QGIS, *_OF_TERMINALS):
        own.pop(name, None)
    return {
        **own,
        "HRRSI_PROGRESS": "lines",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
        "COLUMNS": "400",  # messages are one line each
    }


@dataclass
class Progress:
    """How far a run is, from the lines of progress that hrrsi prints.

    Attributes:
        percent: Of the whole run; it never goes back.
        text: What is being done.
    """

    percent: float = 0.0
    text: str = ""
    _epoch: tuple[int, int] = (0, 0)
    _last_news: tuple[str, float, float] | None = None

    @property
    def news(self) -> str:
        """The text where there is something new to tell, else nothing: a log holds all of it."""
        what, now = self.text.partition(": ")[0], time.monotonic()
        last_news = self._last_news
        if last_news and last_news[0] == what:
            percent, seconds = self.percent - last_news[1], now - last_news[2]
            if percent < _NEXT_PERCENT and seconds < _NEXT_SECONDS:
                return ""
        self._last_news = what, self.percent, now
        return self.text

    def take(self, line: str) -> bool:
        """Return whether a line is one of progress, having taken it into account."""
        match = _PROGRESS.match(line)
        if match is None:
            return False
        what, done = match["what"], float(match["percent"])
        self.text = f"{what}: {match['figures']}"
        epoch = _EPOCH.search(what)
        if epoch is not None:
            self._epoch = int(epoch[1]), int(epoch[2])
            overall = self._of_epochs(done * _TRAINING_SHARE)
        elif what == "validation" and self._epoch[1]:
            overall = self._of_epochs(100 * _TRAINING_SHARE + done * (1 - _TRAINING_SHARE))
            self.text = f"epoch {self._epoch[0]}/{self._epoch[1]}, {self.text}"
        elif what in ("files", "reading the dataset", "counting classes"):
            overall = 0.0  # what comes before the work
        else:
            first, last = _STAGES.get(what, (0.0, 90.0))
            overall = first + (last - first) * done / 100
        self.percent = max(self.percent, min(overall, 100.0))
        return True

    def _of_epochs(self, percent: float) -> float:
        epoch, epochs = self._epoch
        return (100 * (epoch - 1) + percent) / epochs


@dataclass
class Listener:
    """Who hears of a run.

    Attributes:
        on_command: Called with the words of a command before it starts.
        on_line: Called with each line that is printed, but those of progress.
        on_warning: Called with warnings.
        on_progress: Called with the share that is done in percent, and what is being done where
            that is worth a line.
        is_cancelled: Asked several times a second.
    """

    on_command: Callable[[Sequence[str]], None] = lambda command: None
    on_line: Callable[[str], None] = lambda line: None
    on_warning: Callable[[str], None] = lambda line: None
    on_progress: Callable[[float, str], None] = lambda percent, text: None
    is_cancelled: Callable[[], bool] = lambda: False


@dataclass
class _Output:
    """What a run has printed."""

    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)


def run(command: Sequence[str], listener: Listener, *, silent: bool = False) -> list[str]:
    """Run a command to its end, and return the lines of its standard output.

    Where the listener has cancelled, the command is asked to stop as by Ctrl-C, and waited for.

    Args:
        command: The program and its arguments.
        listener: Who hears of it.
        silent: Whether lines of standard output are only returned.

    Raises:
        ProgramError: It can't be started, or has failed: its own line.
        StoppedError: It was cancelled.
    """
    listener.on_command(command)
    try:
        process = subprocess.Popen(
            list(command),
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise ProgramError(f"{command[0]}: can't be run ({error.strerror}); {INSTALL}") from error
    assert process.stdout is not None
    assert process.stderr is not None
    lines: queue.Queue[tuple[bool, str] | None] = queue.Queue()
    for is_error, stream in ((False, process.stdout), (True, process.stderr)):
        threading.Thread(target=_read, args=(stream, is_error, lines), daemon=True).start()
    try:
        output, cancelled = _output_of(process, lines, listener, silent)
    except BaseException:  # a fault of the listener: nobody would end the command
        _ask_to_stop(process)
        process.wait()
        raise
    code = process.wait()
    if cancelled and code:
        raise StoppedError(_error_line(output, code))
    if code:
        raise ProgramError(_error_line(output, code))
    return output.out


def _read(stream: IO[bytes], is_error: bool, lines: queue.Queue[tuple[bool, str] | None]) -> None:
    with stream:
        for line in stream:
            lines.put((is_error, line.decode("utf-8", "replace").rstrip("\r\n")))
    lines.put(None)


def _output_of(
    process: subprocess.Popen[bytes],
    lines: queue.Queue[tuple[bool, str] | None],
    listener: Listener,
    silent: bool,
) -> tuple[_Output, bool]:
    """Pass on what a command says until both of its streams end; return it, and if cancelled."""
    output, progress, open_streams = _Output(), Progress(), 2
    asked_at: float | None = None
    while open_streams:
        if asked_at is None and listener.is_cancelled():
            asked_at = time.monotonic()
            _ask_to_stop(process)
            listener.on_line("stopping where nothing is lost")
        elif asked_at is not None and time.monotonic() - asked_at > _PATIENCE_SECONDS:
            asked_at = float("inf")
            process.terminate()  # the second request ends it; what was done before is kept
        try:
            message = lines.get(timeout=0.1)
        except queue.Empty:
            continue
        if message is None:
            open_streams -= 1
        elif message[0] and progress.take(message[1]):
            listener.on_progress(progress.percent, progress.news)
        else:
            _pass_on(output, listener, silent, *message)
    return output, asked_at is not None


def _pass_on(output: _Output, listener: Listener, silent: bool, is_error: bool, line: str) -> None:
    if not is_error:
        output.out.append(line)
        if not silent:
            listener.on_line(line)
        return
    output.err.append(line)
    if line.startswith("warning: "):
        listener.on_warning(line[len("warning: ") :])
    elif not line.startswith("error: "):
        listener.on_line(line)


def _ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    if os.name == "nt":
        process.terminate()
        return
    # who ignores Ctrl-C has children that do: QGIS as a shell's background job
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    process.send_signal(signal.SIGTERM if ignored else signal.SIGINT)


def _error_line(output: _Output, code: int) -> str:
    """Return hrrsi's own line about what went wrong."""
    errors = [line[len("error: ") :] for line in output.err if line.startswith("error: ")]
    if errors:
        return errors[-1]
    boxed = [_unboxed(line) for line in output.err if line.startswith("│")]
    if boxed:  # wrong usage, in a frame
        return " ".join(filter(None, boxed))
    if code < 0:
        name = signal.Signals(-code).name
        memory = "; likely for its memory: lower the window, or close other programs"
        return f"hrrsi was ended by {name}{memory if -code == signal.SIGKILL else ''}"
    last = next((line for line in reversed(output.err) if line.strip()), "")
    return f"hrrsi ended with exit code {code}{f': {last.strip()}' if last else ''}"


def _unboxed(line: str) -> str:
    return line.strip("│ ").strip()


def in_qgis(line: str) -> str:
    """Return a line of hrrsi with what to do in QGIS, where it speaks of flags that QGIS gives."""
    start_over = "tick 'Start over' to begin anew"
    if "was begun otherwise" in line or "exists already, and was made otherwise" in line:
        return f"{line.partition('; give ')[0]}; give what it was begun with, or {start_over}"
    if "was started with" in line:
        text = line.partition("; continue it")[0]
        return f"{text}; give that, choose another folder, or {start_over}"
    for of_commands, of_qgis in _IN_QGIS:
        line = line.replace(of_commands, of_qgis)
    return line
