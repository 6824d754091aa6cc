"""Kills, faults and broken inputs by the hundred: `python tools/reliability --rounds 100`.

Prints what became of them, and keeps broken inputs that failed as small files, each with its error.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from faults import FAULTS, failed_faults
from kills import COMMANDS, SIGNALS, KilledRuns, Kills
from mutations import KINDS, broken_inputs

from hrrsi.networks.weights_file import packaged_weights


def main() -> int:
    """Run the campaign, or a part of it, and return how many things went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["faults", *KINDS, "kills"])
    parser.add_argument("--rounds", type=int, default=100, help="broken inputs of each kind")
    parser.add_argument("--kills", type=int, default=5, help="of each phase by each signal")
    parser.add_argument("--commands", nargs="*", default=list(COMMANDS))
    parser.add_argument("--phases", nargs="*", help="of these commands; all by default")
    parser.add_argument("--signals", nargs="*", default=list(SIGNALS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("kept"))
    parser.add_argument("--weights", type=Path, default=packaged_weights())
    options = parser.parse_args()
    failures = 0
    for part in options.parts:
        if part == "kills":
            failures += _kills(options)
        elif part == "faults":
            with tempfile.TemporaryDirectory() as folder:
                failed = failed_faults(Path(folder))
            print(f"faults: {len(FAULTS)}, {len(failed)} not as they should be", flush=True)
            print("".join(f"  {line}\n" for line in failed), end="", flush=True)
            failures += len(failed)
        else:
            failures += _broken(part, options)
    return failures


def _broken(kind: str, options: argparse.Namespace) -> int:
    outcome = broken_inputs(kind, options.rounds, options.seed, options.keep, options.weights)
    counts = ", ".join(f"{number} {what}" for what, number in outcome.counts.most_common())
    limits = f"at most {outcome.longest:.1f} s and {outcome.most_bytes / 2**20:.0f} MiB more"
    print(f"{kind}: {options.rounds}: {counts}; {limits}", flush=True)
    for path in outcome.kept:
        print(f"  {path}", flush=True)
    return len(outcome.kept)


def _kills(options: argparse.Namespace) -> int:
    rng, failures = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        for command in options.commands:
            runs = KilledRuns(command, Path(folder), options.weights)
            print(f"kills: an undisturbed {command} takes {runs.seconds:.1f} s", flush=True)
            for phase in options.phases or COMMANDS[command].phases:
                for name in options.signals:
                    failures += _kills_in(runs, phase, name, options.kills, rng)
    return failures


def _kills_in(runs: KilledRuns, phase: str, name: str, number: int, rng: random.Random) -> int:
    kills, start = Kills(), time.monotonic()
    for _ in range(number):
        runs.kill(phase, SIGNALS[name], rng, kills)
    counts = ", ".join(f"{number} {what}" for what, number in kills.counts.items())
    print(f"  {phase}, {name}: {counts} ({time.monotonic() - start:.0f} s)", flush=True)
    print("".join(f"    {note}\n" for note in kills.notes), end="", flush=True)
    return len(kills.notes)


if __name__ == "__main__":
    sys.exit(main() > 0)
