"""What an installed package holds, and whether its dependencies are what the code imports."""

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from samples.repository import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
IMPORT_NAMES = {
    "pillow": "PIL",
    "pyyaml": "yaml",
    "imaug": "imgaug",
    "segmentation-models-pytorch": "segmentation_models_pytorch",
    "typing-extensions": "typing_extensions",
}
# Parts of a dependency that come as packages of their own; their versions follow its.
PARTS = {"affine": "rasterio", "cv2": "imgaug", "huggingface_hub": "timm"}


def requirements(*texts: str) -> list[Requirement]:
    return [Requirement(text) for text in texts]


def pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    # a copy, since the build leaves folders behind
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "hrrsi", source / "hrrsi", ignore=ignored)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--no-index", "--wheel-dir", source, source], check=True)
    (path,) = source.glob("hrrsi-*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    expected = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "hrrsi").rglob("*")
        if path.is_file() and path.parent.name != "__pycache__" and not path.name.startswith(".")
    }
    assert {"hrrsi/py.typed", "hrrsi/labels/schemes/dubai.yaml", "hrrsi/cli/train.py"} <= expected
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == expected


def test_the_wheel_carries_licence_and_executable(wheel: zipfile.ZipFile) -> None:
    info = f"hrrsi-{PROJECT['version']}.dist-info"
    assert b"MIT License" in wheel.read(f"{info}/licenses/LICENSE")
    assert b"hrrsi = hrrsi.cli:main" in wheel.read(f"{info}/entry_points.txt")
    assert b"License-Expression: MIT" in wheel.read(f"{info}/METADATA")


def test_dependencies_are_what_the_code_imports() -> None:
    imported: set[str] = set()
    for path in (REPOSITORY / "hrrsi").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(str(node.module).partition(".")[0])
    imported -= {"hrrsi", "onnxruntime", *sys.stdlib_module_names}  # the extra's
    names = {canonicalize_name(r.name) for r in requirements(*PROJECT["dependencies"])}
    declared = {IMPORT_NAMES.get(name, name) for name in names}
    assert {PARTS.get(name, name) for name in imported} <= declared
    assert declared <= imported


def test_constraints_pin_every_requirement_within_its_bounds() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = requirements(
        *PROJECT["dependencies"], *(r for extra in extras.values() for r in extra)
    )
    for requirement in wanted:
        version = pins()[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
