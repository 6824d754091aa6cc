"""Kills of commands in each of their phases, and what they leave.

Most runs are processes forked once everything is imported, so that a kill costs a second and not
ten; those that are killed at their start and at their end are programs of their own, with their
imports and their last moments. Its signal is aimed: it comes a moment after the phase shows in the
folder of outputs, and the phase that shows when it comes is the one that counts. Then nothing under
a final name may differ from what an undisturbed run writes, standard error may hold one line, no
process may be left, and going on has to end with the same bytes and without hidden files.
"""

from __future__ import annotations

import importlib
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import util
from pathlib import Path
from typing import Any

from killed_commands import COMMANDS, END, START, write_inputs
from rounds import Rounds

SIGNALS = {"int": signal.SIGINT, "term": signal.SIGTERM, "kill": signal.SIGKILL}
SECONDS = 300.0
_LOOKS = 0.0003  # between looks at the folder of outputs
_GONE_SECONDS = 20.0  # that processes of a run may take to end after it
# as many as the rounds that were wanted, for those that came in another phase
_MOST_AIMS = 4


@dataclass
class Kill:
    """What became of a run that was killed.

    Attributes:
        hit: The phase that it was killed in; ``ended before`` where it was not.
        wrong: A line for each thing that was wrong.
        resumed: Whether it was gone on with.
    """

    hit: str = "ended before"
    wrong: list[str] = field(default_factory=list)
    resumed: bool = False


class KilledRuns:
    """Runs of one command, undisturbed and killed.

    Args:
        name: Of the command.
        folder: Where inputs and outputs are.
        weights: A weights file.

    Attributes:
        seconds: How long an undisturbed run takes.
        lengths: The seconds that each phase takes, in a program or in what is forked.
        whole: What an undisturbed run leaves.
    """

    def __init__(self, name: str, folder: Path, weights: Path) -> None:
        self._name = name
        self._command = COMMANDS[name]
        self._folder = folder
        if not (folder / "scene.tif").exists():
            write_inputs(folder)
        whole = folder / "whole"
        self._weights = weights
        self._times: Counter[str] = Counter()
        for module in self._command.imports.split():
            importlib.import_module(module)
        self.lengths: dict[tuple[str, bool], float] = {}
        for is_program in (True, False):
            shutil.rmtree(whole, ignore_errors=True)
            self.seconds = self._measured(whole, is_program=is_program)
        self.whole = self._command.content(_final_files(whole))

    def kill_in(
        self, phase: str, name: str, number: int, seed: int, rounds: Rounds
    ) -> list[dict[str, Any]]:
        """Kill runs until so many were killed in a phase by a signal, and return what became."""
        start = f"kills/{self._name}/{phase}/{name}/"
        for aim in range(_MOST_AIMS * number):
            key = f"{start}{seed + aim}"
            hits = [r for r in rounds.of(f"kills/{self._name}/") if f"/{name}/" in r["round"]]
            if sum(r["hit"] == phase for r in hits) >= number:
                break
            if key not in rounds:
                begun = time.monotonic()
                kill = self.kill(phase, SIGNALS[name], random.Random(key))
                seconds = round(time.monotonic() - begun, 2)
                rounds.add(
                    key, hit=kill.hit, wrong=kill.wrong, resumed=kill.resumed, seconds=seconds
                )
        return list(rounds.of(start))

    def kill(self, phase: str, number: signal.Signals, rng: random.Random) -> Kill:
        """Kill one run, look at what it leaves, and go on with it."""
        kill, out = Kill(), self._folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        is_program = phase in (START, END)
        child, errors = self._started(out, is_program=is_program)
        length = self.lengths.get((phase, is_program), 0.01)
        ended, status = self._until(lambda: self._shows(phase, out, child), child)
        for _ in range(rng.randrange(self._times[phase] or 1)):  # not always in the first epoch
            if not ended:
                ended, status = self._until(lambda: self._phase(out, child) != phase, child)
            if not ended:
                ended, status = self._until(lambda: self._phase(out, child) == phase, child)
        if not ended:
            time.sleep(rng.random() * length)
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            kill.hit = self._phase(out, child) or START
            # a terminal's Ctrl-C reaches every process of the command
            (os.killpg if number == signal.SIGINT else os.kill)(child, number)
            ended, status = self._until(lambda: False, child)
            if not ended:
                kill.wrong.append("hung")
                os.killpg(child, signal.SIGKILL)
                _, status = os.waitpid(child, 0)
        if kill.hit != phase:  # other runs on this machine make phases longer and shorter
            self.lengths[phase, is_program] = 0.8 * length
        self._look_at_processes(child, kill)
        self._look(out, status, number, errors.read_text(), kill)
        if not out.exists() or not any(out.iterdir()):
            return kill  # it would be a first run
        child, errors = self._started(out, *self._command.going_on)
        _, status = os.waitpid(child, 0)
        kill.resumed = True
        if status:
            kill.wrong.append(f"going on failed: {errors.read_text()}")
            return kill
        different = self._different(out)
        if different:
            kill.wrong.append(f"went on otherwise: {sorted(different)}")
        left = sorted(p.name for p in out.rglob("*") if p.name.startswith("."))
        if left:
            kill.wrong.append(f"left {left}")
        return kill

    def _look(self, out: Path, status: int, number: int, errors: str, kill: Kill) -> None:
        """Look at what a run has left."""
        lines = [line for line in errors.splitlines() if not line.startswith(("warning:", "note:"))]
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        # after a kill, Python's own process that looks after semaphores says that it does
        if "Traceback" in errors or (len(lines) > 1 and ended_by != signal.SIGKILL):
            kill.wrong.append(f"not one line: {errors}")
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) not in (0, 1):
            kill.wrong.append(f"exit code {os.WEXITSTATUS(status)}")
        try:
            files = self._command.content(_final_files(out))
        except Exception as error:
            kill.wrong.append(f"damaged: {error!r}")
            return
        # Python gives signals back when it ends, and all is done then
        last = next(reversed(self._command.phases))
        at_the_end = kill.hit == last and ended_by == number and files == self.whole
        if ended_by not in (None, signal.SIGKILL) and not at_the_end:
            kill.wrong.append(f"ended by signal {ended_by}")
        finished = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
        sidecar = "scene_classes.tif.aux.xml"  # it also says which files were made later
        damaged = [n for n, b in files.items() if n != sidecar and self.whole.get(n) != b]
        if damaged and not self._command.grows:
            kill.wrong.append(f"damaged: {damaged}")
        if finished and files != self.whole:
            kill.wrong.append("finished, but not whole")

    def _look_at_processes(self, group: int, kill: Kill) -> None:
        deadline = time.monotonic() + _GONE_SECONDS
        while time.monotonic() < deadline:
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return
            time.sleep(0.01)
        kill.wrong.append("left processes")
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)

    def _different(self, out: Path) -> list[str]:
        files = self._command.content(_final_files(out))
        return [n for n in files.keys() | self.whole if files.get(n) != self.whole.get(n)]

    def _measured(self, out: Path, *, is_program: bool) -> float:
        """Run once undisturbed, and return its seconds; how long its phases last is kept."""
        begun = time.monotonic()
        child, errors = self._started(out, is_program=is_program)
        shown: list[tuple[str, float]] = []

        def look() -> bool:
            phase = self._phase(out, child)
            if phase is not None and (not shown or shown[-1][0] != phase):
                shown.append((phase, time.monotonic()))
            return False

        _, status = self._until(look, child)
        end = time.monotonic()
        if status:
            raise RuntimeError(errors.read_text())
        ends = [at for _, at in shown[1:]] + [end]
        for (phase, at), until in zip(shown, ends, strict=True):
            before = self.lengths.get((phase, is_program), 0.0)
            self.lengths[phase, is_program] = max(before, until - at)
        self._times |= Counter(phase for phase, _ in shown)
        return end - begun

    def _phase(self, out: Path, child: int) -> str | None:
        phases = reversed(self._command.phases)
        return next((phase for phase in phases if self._shows(phase, out, child)), None)

    def _shows(self, phase: str, out: Path, child: int) -> bool:
        if phase == START:
            return _heeds_signals(child)
        with suppress(OSError):  # what is hidden comes and goes
            presence = {
                pattern: next(iter(out.glob(pattern.removeprefix("!"))), None) is not None
                for pattern in self._command.phases[phase]
            }
            hindered = [is_present for pattern, is_present in presence.items() if pattern[0] == "!"]
            showing = [is_present for pattern, is_present in presence.items() if pattern[0] != "!"]
            return any(showing) and not any(hindered)
        return False

    def _until(self, is_there: Callable[[], bool], child: int) -> tuple[int, int]:
        """Wait for something, or until the child ends; return what `os.waitpid` does."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended or is_there():
                return ended, status
            time.sleep(_LOOKS)
        return 0, 0

    def _started(self, out: Path, *more: str, is_program: bool = False) -> tuple[int, Path]:
        """Start a run in a group of its own, and return it and the file of what it says."""
        errors = self._folder / "errors.txt"
        line = [*self._command.line(self._folder, out, self._weights), "--quiet", *more]
        out.mkdir(exist_ok=True)
        child = os.fork()
        if child:
            with suppress(OSError):
                os.setpgid(child, child)
            return child, errors
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not is_program:
            leave_curves_undrawn()
        else:
            os.execv(sys.executable, [sys.executable, "-m", "hrrsi", *line])
        _command(line)
        raise AssertionError


def leave_curves_undrawn() -> None:
    """Write a pixel in place of a run's curves, which take longer to draw than it trains."""
    from PIL import Image

    from hrrsi.files import replacing

    def write(*arguments: object) -> None:
        path = next(each for each in arguments if isinstance(each, Path))
        with replacing(path) as temporary:
            Image.new("RGB", (1, 1)).save(temporary)

    drawing = {
        "hrrsi.training.record": "write_curves",
        "hrrsi.pretraining.classification": "write_pretraining_curves",
    }
    for module, function in drawing.items():
        if module in sys.modules:
            setattr(sys.modules[module], function, write)


def _heeds_signals(process: int) -> bool:
    """Return whether a process has a handler of SIGTERM, as commands have from their start."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def _final_files(folder: Path) -> dict[str, Path]:
    """Return what stands under final names."""
    paths = {path.relative_to(folder): path for path in folder.rglob("*")}
    return {
        str(name): path
        for name, path in paths.items()
        if path.is_file() and not any(part.startswith(".") for part in name.parts)
    }


def _command(line: Sequence[str]) -> None:
    """Be the command line, and end this process as it does."""
    from hrrsi.__main__ import main

    sys.argv = ["hrrsi", *line]
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
        util._run_finalizers()  # of semaphores, as a program's end does; no public way calls them
    os._exit(int(code or 0) if isinstance(code, int | None) else 1)
