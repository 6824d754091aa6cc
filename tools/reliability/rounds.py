"""The rounds of a campaign: a line of JSON each, so that a stop loses none and counts add up."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SIGNALS = {"int": "Ctrl-C", "term": "SIGTERM", "kill": "`kill -9`"}
_ALLOWED = ("read", "refused")


class Rounds:
    """What became of each round, by its name.

    Args:
        path: Where they are kept; those that are there are not run again. None: nowhere.
        again: Whether those that went wrong are run again.
    """

    def __init__(self, path: Path | None, *, again: bool = False) -> None:
        self._path = path
        self._commit = _commit()
        self._rounds: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            self._rounds = {each["round"]: each for each in map(json.loads, lines)}
        if again:
            self._rounds = {name: each for name, each in self._rounds.items() if not is_wrong(each)}

    def __contains__(self, name: str) -> bool:
        return name in self._rounds

    def of(self, start: str) -> Iterator[dict[str, Any]]:
        """Return the rounds whose name starts so."""
        return (each for name, each in self._rounds.items() if name.startswith(start))

    def add(self, name: str, **what: Any) -> dict[str, Any]:
        """Keep what became of a round."""
        self._rounds[name] = {"round": name, "commit": self._commit, **what}
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self._rounds[name]) + "\n")
        return self._rounds[name]

    def table(self) -> str:
        """Return all of them as tables of Markdown, with the commits that they were run at."""
        kills: dict[tuple[str, str], Counter[str]] = {}
        for each in self.of("kills/"):
            command, _, signal = each["round"].split("/")[1:4]
            counts = kills.setdefault((command, each["hit"]), Counter())
            counts[signal] += 1
            counts["wrong"] += bool(each["wrong"])
        lines = [f"| command | killed in | {' | '.join(_SIGNALS.values())} | wrong |"]
        lines.append("|---" * 6 + "|")
        for (command, phase), counts in kills.items():
            numbers = " | ".join(str(counts[name]) for name in (*_SIGNALS, "wrong"))
            lines.append(f"| `{command}` | {phase} | {numbers} |")
        inputs: dict[str, list[dict[str, Any]]] = {}
        for each in self.of(""):
            if "verdict" in each:
                inputs.setdefault(each["round"].partition("/")[0], []).append(each)
        lines += ["", "| broken | read | refused in a line | wrong | most seconds | most MiB |"]
        lines.append("|---" * 6 + "|")
        for kind, entries in inputs.items():
            verdicts = Counter(each["verdict"] for each in entries)
            seconds = max(each["seconds"] for each in entries)
            size = max(each["bytes"] for each in entries) / 2**20
            wrong = sum(map(is_wrong, entries))
            lines.append(
                f"| {kind} | {verdicts['read']} | {verdicts['refused']} | {wrong} | {seconds:.1f} "
                f"| {size:.0f} |"
            )
        commits = Counter(each["commit"] for each in self.of(""))
        lines += ["", *(f"{number} rounds at {commit}" for commit, number in commits.items())]
        return "\n".join(lines)


def is_wrong(what: dict[str, Any]) -> bool:
    """Return whether a round did not end as it should."""
    return what["verdict"] not in _ALLOWED if "verdict" in what else bool(what["wrong"])


def _commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(git, capture_output=True, text=True).stdout.strip() or "no checkout"
