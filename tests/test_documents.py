"""The tour of all commands, run as it stands on imagery that ships; and how prose is set."""

import re
from pathlib import Path

import pytest
from samples.console_tour import clone, follow, tour
from samples.repository import REPOSITORY

TOUR = tour("docs/tour.md")


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clone(tmp_path_factory.mktemp("clone"))


def test_the_tour_shows_every_step() -> None:
    assert [command.split()[1] for _, command, *_ in TOUR] == [
        "tile",
        "train",
        "eval",
        "predict",
        "info",
        "profile",
    ]


@pytest.mark.slow
def test_the_tour_shows_what_happens(cloned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follow(TOUR, cloned, monkeypatch)
    assert (cloned / "dubai_tile1_classes.tif").exists()
    assert (cloned / "dubai_tile1.png").exists()


_PAPERS = [
    path.relative_to(REPOSITORY).as_posix()
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "examples/**/*.md", "hrrsi/*/*.md")
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
