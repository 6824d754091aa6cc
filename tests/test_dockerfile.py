"""The Dockerfile, replayed: no image is built here, since that needs a container engine.

The fast tests read it. The slow one runs its `RUN` steps for Python in a clean environment outside
the checkout, on the files that its `COPY` steps name, and then the entrypoint. The base image and
the installation of system packages are not replayed; their names are only looked up.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from samples.repository import REPOSITORY

EXECUTABLE = Path(sys.executable).with_name("hrrsi")


class Instruction(NamedTuple):
    stage: str
    keyword: str
    text: str


def instructions() -> list[Instruction]:
    text = (REPOSITORY / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    steps: list[Instruction] = []
    stage = ""
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            keyword, _, rest = line.partition(" ")
            if keyword == "FROM":
                stage = rest.split()[-1]
            steps.append(Instruction(stage, keyword, " ".join(rest.split())))
    return steps


def of_target(target: str) -> list[Instruction]:
    """Instructions that make up a target, its bases' included."""
    base = next(
        i.text.split()[0] for i in instructions() if (i.keyword, i.stage) == ("FROM", target)
    )
    own = [i for i in instructions() if i.stage == target]
    stages = {i.stage for i in instructions()}
    return (of_target(base) if base in stages else []) + own


def last(keyword: str, target: str) -> str:
    return [i.text for i in of_target(target) if i.keyword == keyword][-1]


def copied_files() -> list[str]:
    """Sources of the COPY steps that come from the checkout."""
    copies = [i.text for i in instructions() if i.keyword == "COPY" and "--from" not in i.text]
    return [source for text in copies for source in text.split()[:-1]]


def environment_stage(target: str) -> tuple[str, str]:
    """The stage that a target's environment is copied from, and its folder."""
    copies = [i.text.split() for i in of_target(target) if i.text.startswith("--from=")]
    ((stage, folder, _),) = copies
    return stage.removeprefix("--from="), folder


def install_steps(target: str) -> list[str]:
    """Commands that make a target's environment."""
    stage, _ = environment_stage(target)
    return [i.text for i in of_target(stage) if i.keyword == "RUN"]


def test_the_last_target_is_the_cpu_image() -> None:
    assert instructions()[-1].stage == "cpu"
    assert {"board", "cpu", "train", "cuda"} <= {i.stage for i in instructions()}


def test_the_cpu_image_is_the_light_one() -> None:
    assert [step for step in install_steps("cpu") if "[" in step] == []
    assert [step.split()[-1] for step in install_steps("board") if "[" in step] == [
        "'.[onnxruntime]'"
    ]
    assert any("'.[all]'" in step for step in install_steps("train"))
    assert install_steps("cuda") == install_steps("train")


def test_every_copied_file_exists_and_is_sent_to_the_engine() -> None:
    rules = (REPOSITORY / ".dockerignore").read_text().split()
    # what the package is built of
    assert {"pyproject.toml", "setup.py", "README.md", "LICENSE", "hrrsi"} <= {*copied_files()}
    for source in copied_files():
        assert (REPOSITORY / source.removeprefix("./")).exists()
        assert f"!{source.removeprefix('./')}" in rules


@pytest.mark.long
@pytest.mark.parametrize("target", ["board", "cpu", "train", "cuda"])
def test_runs_hrrsi_as_a_user_who_is_not_root(target: str) -> None:
    user = last("USER", target)
    assert user not in ("root", "0")
    assert any(re.search(rf"useradd .*\b{user}\b", i.text) for i in of_target(target))
    entrypoint = json.loads(last("ENTRYPOINT", target))
    assert entrypoint == [EXECUTABLE.name]
    arguments = json.loads(last("CMD", target))
    done = subprocess.run([EXECUTABLE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0
    assert "predict" in done.stdout


@pytest.mark.slow
@pytest.mark.long
def test_system_packages_exist_in_the_base_images_release() -> None:
    """A look-up in the package lists, where this machine runs the release of the base image."""
    steps = [i.text for i in of_target("train") if "apt-get install" in i.text]
    assert len(steps) == 2
    packages = [
        package
        for step in steps
        for package in re.findall(
            r"\blib\S+", step.partition("apt-get install")[2].partition("&&")[0]
        )
    ]
    assert packages
    base = next(i.text.split()[0] for i in of_target("cpu") if i.keyword == "FROM")
    release = Path("/etc/os-release")
    codename = base.rpartition("-")[2]
    if not release.exists() or f"VERSION_CODENAME={codename}\n" not in release.read_text():
        pytest.skip(f"this machine does not run {codename}")
    for package in packages:
        shown = subprocess.run(["apt-cache", "show", package], capture_output=True, text=True)
        if "Unable to locate" in shown.stderr and not any(Path("/var/lib/apt/lists").glob("*_*")):
            pytest.skip("this machine has no package lists")
        assert shown.returncode == 0, package


@pytest.mark.slow  # downloads gigabytes
@pytest.mark.parametrize(
    ("target", "command", "module"),
    [
        ("cpu", ["info", str(REPOSITORY / "examples" / "dubai_tile1.tif")], "rasterio"),
        ("board", ["info", str(REPOSITORY / "examples" / "dubai_tile1.tif")], "onnxruntime"),
        ("train", ["profile", "ued"], "imgaug"),
    ],
)
def test_replay_of_the_install_steps_in_a_clean_environment(
    target: str, command: list[str], module: str, tmp_path: Path
) -> None:
    source, environment = tmp_path / "src", tmp_path / "environment"
    source.mkdir()
    for name in copied_files():
        path = REPOSITORY / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    _, copied_environment = environment_stage(target)
    clean = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ}
    clean["HOME"] = str(tmp_path)
    # how this machine reaches the package index is its own affair
    clean |= {k: v for k, v in os.environ.items() if k.startswith("PIP_") or "proxy" in k.lower()}
    steps = install_steps(target)
    assert len(steps) == {"cpu": 2, "board": 3, "train": 3}[target]
    for step in steps:
        line = re.sub(r"^(--mount=\S+ )*", "", step)
        line = line.replace(copied_environment, str(environment))
        line = re.sub(r"^python ", f"{sys.executable} ", line)
        subprocess.run(line, shell=True, check=True, cwd=source, env=clean)
    shutil.rmtree(source)  # the image does not keep it

    clean["PATH"] = f"{environment / 'bin'}:{clean['PATH']}"
    entrypoint = json.loads(last("ENTRYPOINT", target))
    for arguments in (["--version"], [*command, "--format", "json"]):
        done = subprocess.run(
            [*entrypoint, *arguments], env=clean, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    # what needs the system packages
    subprocess.run(["python", "-c", f"import {module}"], env=clean, cwd=tmp_path, check=True)
