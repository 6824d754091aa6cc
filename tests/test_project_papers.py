"""What strangers read and run: that it speaks of this repository as it is."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from samples.repository import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
WORKFLOWS = REPOSITORY / ".github" / "workflows"
_QUOTED = re.compile(r"`([^`]+)`")
_NAME = re.compile(r"_?[A-Za-z]\w*")
_PATH = re.compile(r"\.?[\w.]+/[\w./]*")
CONTRIBUTING = re.sub(r"(`{2,}).*?\1", "", (REPOSITORY / "CONTRIBUTING.md").read_text(), flags=re.S)
ROWS = [row for row in CONTRIBUTING.splitlines() if row.startswith("| `")]


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def steps(workflow: str, job: str) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = parsed(WORKFLOWS / workflow)["jobs"][job]["steps"]
    return steps


def run_step(workflow: str, job: str, name: str, folder: Path, tag: str) -> int:
    """Return the exit code of a step, run as the host runs it."""
    (script,) = (step["run"] for step in steps(workflow, job) if step.get("name") == name)
    binaries = folder / "bin"
    binaries.mkdir(exist_ok=True)
    if not (binaries / "python").exists():
        (binaries / "python").symlink_to(sys.executable)
    environment = {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "GITHUB_REF_NAME": tag,
        "GITHUB_REPOSITORY": "somebody/maps",
    }
    return subprocess.run(
        ["bash", "-e", "-c", script], cwd=folder, env=environment, capture_output=True, check=False
    ).returncode


@pytest.mark.parametrize("row", ROWS)
def test_what_contributing_points_at_is_there(row: str) -> None:
    _, first, second, _ = row.split("|")
    paths = [REPOSITORY / name for name in _QUOTED.findall(row) if _PATH.fullmatch(name)]
    text = "".join(path.read_text() for path in paths if path.is_file())
    names = [name for name in _QUOTED.findall(second) if _NAME.fullmatch(name)]
    if (REPOSITORY / _QUOTED.findall(first)[0]).is_file():
        assert not [name for name in names if name not in text]


def test_contributing_names_paths_that_exist() -> None:
    assert len(ROWS) > 20
    paths = [name for name in _QUOTED.findall(CONTRIBUTING) if _PATH.fullmatch(name)]
    assert len(paths) > 30
    assert not [path for path in paths if not (REPOSITORY / path).exists()]


@pytest.mark.parametrize(
    "paper", ["CONTRIBUTING.md", "RELEASING.md", "SECURITY.md", "ARCHITECTURE.md", "README.md"]
)
def test_links_between_papers_lead_somewhere(paper: str) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)\)", (REPOSITORY / paper).read_text())
    local = [target for target in targets if "://" not in target]
    assert not [target for target in local if not (REPOSITORY / target).exists()]


def test_the_workflow_tests_the_versions_of_python_that_are_promised() -> None:
    (job,) = parsed(WORKFLOWS / "tests.yml")["jobs"].values()
    versions = job["strategy"]["matrix"]["python"]
    classifier = "Programming Language :: Python :: 3."
    promised = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if c.startswith(classifier)]
    assert versions == promised
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert any(step.get("run") == "bash .ci/run" for step in job["steps"])


def test_a_release_needs_the_tag_of_its_version(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    step = ("release.yml", "build", "Check that the tag is the version", tmp_path)
    assert run_step(*step, f"v{PROJECT['version']}") == 0
    assert run_step(*step, "v99.0.0") != 0


def test_what_is_released_names_the_repository_that_releases_it(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    name = "Name the repository that is released, where its clones have a placeholder"
    assert run_step("release.yml", "build", name, tmp_path, "v1") == 0
    text = (tmp_path / "pyproject.toml").read_text()
    urls = tomllib.loads(text)["project"]["urls"]
    assert all(url.startswith("https://github.com/somebody/maps") for url in urls.values())
    assert len(text.splitlines()) == len((REPOSITORY / "pyproject.toml").read_text().splitlines())


def test_the_citation_says_what_the_project_says() -> None:
    citation = parsed(REPOSITORY / "CITATION.cff")
    assert citation["title"] == PROJECT["name"]
    assert citation["license"] in PROJECT["license"].split(" AND ")  # the other is of a font
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in PROJECT["authors"]
    ]
    assert "version" not in citation, "pyproject.toml alone has it"


def test_commits_are_checked_by_what_the_tests_check() -> None:
    (repository,) = parsed(REPOSITORY / ".pre-commit-config.yaml")["repos"]
    makefile = (REPOSITORY / "Makefile").read_text()
    checks = [" ".join(hook["entry"].split(" --")[0].split()) for hook in repository["hooks"]]
    assert checks == ["ruff check", "ruff format", "mypy"]
    assert all(f"$(BIN)/{check}" in makefile for check in checks)


@pytest.mark.parametrize("form", ["bug.yml", "feature.yml"])
def test_issue_forms_are_whole(form: str) -> None:
    content = parsed(REPOSITORY / ".github" / "ISSUE_TEMPLATE" / form)
    assert {"name", "description", "body"} <= set(content)
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)
