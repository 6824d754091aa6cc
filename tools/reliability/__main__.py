"""Kills, faults and broken inputs by the hundred: `python tools/reliability --rounds 100`.

Prints what became of them, and keeps broken inputs that failed as small files, each with its error.
With `--record FILE` each round is a line of that file, and rounds that it holds are not run again:
a campaign can be stopped at any moment, and gone on with. `table --record FILE` prints them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from faults import FAULTS, failed_faults
from killed_commands import COMMANDS
from kills import SIGNALS, KilledRuns
from mutations import KINDS, broken_inputs
from rounds import Rounds, is_wrong

from hrrsi.networks.weights_file import packaged_weights


def main() -> int:
    """Run the campaign, or a part of it, and return how many things went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["faults", *KINDS, "kills"])
    parser.add_argument("--rounds", type=int, default=100, help="broken inputs of each kind")
    parser.add_argument("--kills", type=int, default=5, help="in each phase by each signal")
    parser.add_argument("--commands", nargs="*", default=list(COMMANDS))
    parser.add_argument("--phases", nargs="*", help="of these commands; all by default")
    parser.add_argument("--signals", nargs="*", default=list(SIGNALS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("kept"))
    parser.add_argument("--record", type=Path, help="a file of the rounds that were run")
    parser.add_argument("--again", action="store_true", help="run again what went wrong")
    parser.add_argument("--weights", type=Path, default=packaged_weights())
    options = parser.parse_args()
    rounds, failures = Rounds(options.record, again=options.again), 0
    for part in options.parts:
        if part == "kills":
            failures += _kills(options, rounds)
        elif part == "table":
            print(rounds.table())
        elif part == "faults":
            with tempfile.TemporaryDirectory() as folder:
                failed = failed_faults(Path(folder))
            print(f"faults: {len(FAULTS)}, {len(failed)} not as they should be", flush=True)
            print("".join(f"  {line}\n" for line in failed), end="", flush=True)
            failures += len(failed)
        else:
            failures += _broken(part, options, rounds)
    return failures


def _broken(kind: str, options: argparse.Namespace, rounds: Rounds) -> int:
    broken_inputs(kind, options.rounds, options.seed, options.keep, options.weights, rounds)
    entries = list(rounds.of(f"{kind}/"))
    verdicts = Counter(each["verdict"] for each in entries)
    counts = ", ".join(f"{number} {what}" for what, number in verdicts.most_common())
    longest, most = max(e["seconds"] for e in entries), max(e["bytes"] for e in entries)
    limits = f"at most {longest:.1f} s and {most / 2**20:.0f} MiB more"
    print(f"{kind}: {len(entries)}: {counts}; {limits}", flush=True)
    wrong = [each for each in entries if is_wrong(each)]
    for each in wrong:
        print(f"  {each['round']}: {each['verdict']}", flush=True)
    return len(wrong)


def _kills(options: argparse.Namespace, rounds: Rounds) -> int:
    failures = 0
    for command in options.commands:
        with tempfile.TemporaryDirectory() as folder:
            runs = KilledRuns(command, Path(folder), options.weights)
            lengths = ", ".join(
                f"{name} {1000 * s:.0f} ms" for (name, _), s in runs.lengths.items()
            )
            print(f"kills: {command} takes {runs.seconds:.1f} s: {lengths}", flush=True)
            for phase in options.phases or COMMANDS[command].phases:
                for name in options.signals:
                    aimed = runs.kill_in(phase, name, options.kills, options.seed, rounds)
                    hits = Counter(each["hit"] for each in aimed)
                    counts = ", ".join(f"{number} in {what}" for what, number in hits.items())
                    wrong = [each for each in aimed if is_wrong(each)]
                    print(f"  {phase}, {name}: {counts or 'none'}; {len(wrong)} wrong", flush=True)
                    for each in wrong:
                        print(f"    {each['round']}: {'; '.join(each['wrong'])}", flush=True)
                    failures += len(wrong)
    return failures


if __name__ == "__main__":
    sys.exit(main() > 0)
