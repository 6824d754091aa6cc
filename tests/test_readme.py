"""The README's tour, run as it stands on the imagery that ships with the repository."""

import re
import shlex
from pathlib import Path

import pytest
from samples.repository import REPOSITORY
from typer.testing import CliRunner

from hrrsi.cli import app

_BLOCK = re.compile(r"<!-- tour: (\w+) -->\n```console\n\$ (.*)\n((?:.*\n)*?)```\n")
TOUR = [(m[1], m[2], m[3]) for m in _BLOCK.finditer((REPOSITORY / "README.md").read_text())]


def without_figures(text: str) -> str:
    """The words of an output: figures, widths and rules differ from machine to machine."""
    text = text.replace("| best so far", "")  # which epoch is the best is chance
    return " ".join(re.sub(r"[-+|\d.,:%]+", " ", text).split())


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone")
    (folder / "examples").symlink_to(REPOSITORY / "examples")
    return folder


def test_the_tour_shows_every_step() -> None:
    assert [command.split()[1] for _, command, _ in TOUR] == [
        "tile",
        "train",
        "eval",
        "predict",
        "info",
        "profile",
    ]


def test_the_readme_shows_what_happens(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clone)
    # without a GPU: the report says what predicted
    for name, value in {"COLUMNS": "100", "CUDA_VISIBLE_DEVICES": ""}.items():
        monkeypatch.setenv(name, value)
    for kind, command, shown in TOUR:  # in order: each step takes what the one before made
        program, *arguments = shlex.split(command)
        assert program == "hrrsi"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        if kind == "exact":
            assert result.stdout.strip() == shown.strip(), command
        else:
            assert without_figures(result.stdout) == without_figures(shown), command
    assert (clone / "dubai_tile1_classes.tif").exists()
    assert (clone / "dubai_tile1.png").exists()


_PAPERS = [
    path.relative_to(REPOSITORY).as_posix()
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "examples/*.md", "hrrsi/*/*.md")
    for path in sorted(REPOSITORY.glob(pattern))
]


def long_lines_of_prose(text: str) -> list[str]:
    """The lines of more than 100 columns that could break: no code, tables, headings, pictures."""
    prose = re.sub(r"^( *)(`{3,}).*?^ *\2$", "", text, flags=re.DOTALL | re.MULTILINE)
    unbroken = re.compile(r" *(\||#|!\[|<!--|([-*]|\d+\.) \S+$|\S+$)")
    return [line for line in prose.splitlines() if len(line) > 100 and not unbroken.match(line)]


@pytest.mark.parametrize("paper", _PAPERS)
def test_prose_breaks_at_100_columns(paper: str) -> None:
    assert len(_PAPERS) > 12
    assert long_lines_of_prose((REPOSITORY / paper).read_text(encoding="utf-8")) == []


def test_code_tables_and_links_may_be_longer_than_prose() -> None:
    words, word = "word " * 30, "w" * 120
    assert long_lines_of_prose(f"{words}\n\n- {words}") == [words, f"- {words}"]
    assert long_lines_of_prose(f"```\n{words}\n```\n| {words}|\n# {words}\n- {word}\n{word}") == []
