"""A short slice of `python tools/reliability`: faults, broken inputs, and kills in each phase."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from reliability.killed_commands import COMMANDS
from samples.repository import REPOSITORY

pytestmark = pytest.mark.long


def campaign(made_weights: Path, tmp_path: Path, *arguments: str) -> str:
    command = [sys.executable, str(REPOSITORY / "tools" / "reliability"), *arguments]
    command += ["--weights", str(made_weights), "--keep", str(tmp_path / "kept")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# a campaign too: each fault and each kind of broken input has tests of its room
@pytest.mark.slow
def test_faults_and_broken_inputs_end_in_one_line(made_weights: Path, tmp_path: Path) -> None:
    parts = ("faults", "rasters", "weights", "yaml", "archives")
    said = campaign(made_weights, tmp_path, *parts, "--rounds", "2")
    assert "0 not as they should be" in said
    for kind in parts[1:]:
        assert f"{kind}: 2: " in said
    assert "refused" in said


def test_what_is_imported_before_a_kill_is_there() -> None:
    for command in COMMANDS.values():
        assert all(find_spec(module) for module in command.imports.split()), command.imports


# a campaign: prediction/test_resume.py stops runs by either signal, maps/test_partial_map.py at
# any moment
@pytest.mark.slow
def test_kills_damage_nothing_and_can_be_resumed(made_weights: Path, tmp_path: Path) -> None:
    chosen = (
        "--commands",
        "predict",
        "--phases",
        "class map",
        "polygons",
        "--signals",
        "int",
        "kill",
    )
    said = campaign(made_weights, tmp_path, "kills", "--kills", "1", *chosen)
    for phase in ("class map", "polygons"):
        for name in ("int", "kill"):
            assert f"  {phase}, {name}: " in said
    assert said.count("; 0 wrong") == 4


@pytest.mark.slow
def test_what_commands_go_on_with_may_be_broken(made_weights: Path, tmp_path: Path) -> None:
    parts, record = ("runs", "checkpoints", "partial maps"), tmp_path / "rounds.jsonl"
    arguments = (*parts, "--rounds", "3", "--record", str(record))
    said = campaign(made_weights, tmp_path, *arguments)
    assert all(f"{kind}: 3: " in said for kind in parts)
    campaign(made_weights, tmp_path, "table", *arguments)
    assert len(record.read_text().splitlines()) == 9, "no round is run twice"
