"""What an installed package holds, and whether its dependencies are what the code imports."""

import ast
import email
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from samples.repository import REPOSITORY

from hrrsi.extras import MODULES

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
IMPORT_NAMES = {
    "pillow": "PIL",
    "pyyaml": "yaml",
    "imaug": "imgaug",
    "segmentation-models-pytorch": "segmentation_models_pytorch",
    "torch-pruning": "torch_pruning",
    "lazy-loader": "lazy_loader",
}
# Parts of a dependency that come as packages of their own; their versions follow its.
PARTS = {
    "cv2": "imgaug",
    "fsspec": "distributed",
    "huggingface_hub": "timm",
    "markupsafe": "jinja2",
}
# declared for their version alone: rasterio returns its transforms
NOT_IMPORTED = {"affine"}


def with_extras(extra: str) -> list[Requirement]:
    """Requirements of an extra, those of the extras that it names included."""
    wanted: list[Requirement] = []
    for requirement in requirements(*PROJECT["optional-dependencies"][extra]):
        if requirement.name == "hrrsi":
            for other in sorted(requirement.extras):
                wanted += with_extras(other)
        else:
            wanted.append(requirement)
    return wanted


def import_names(wanted: list[Requirement]) -> set[str]:
    names = {canonicalize_name(requirement.name) for requirement in wanted}
    return {IMPORT_NAMES.get(name, name) for name in names}


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
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
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


def test_links_and_pictures_lead_somewhere_on_the_package_index(wheel: zipfile.ZipFile) -> None:
    info = f"hrrsi-{PROJECT['version']}.dist-info"
    metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = str(metadata.get_payload())
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", text)
    local = re.findall(r"\]\(((?!\w+:|#)[^)]+)\)", (REPOSITORY / "README.md").read_text())
    assert len(local) > 15
    home = PROJECT["urls"]["Repository"].partition("github.com/")[2]
    places = {
        "!": f"https://raw.githubusercontent.com/{home}/v{PROJECT['version']}/",
        "": f"https://github.com/{home}/blob/v{PROJECT['version']}/",
    }
    ours = [(kind, link) for kind, link in links if f"/{home}/" in link]
    assert [link.removeprefix(places[kind]) for kind, link in ours] == local
    assert all("://" in link for _, link in links)


def test_the_wheel_carries_licence_and_executable(wheel: zipfile.ZipFile) -> None:
    info = f"hrrsi-{PROJECT['version']}.dist-info"
    assert b"MIT License" in wheel.read(f"{info}/licenses/LICENSE")
    assert b"Bitstream" in wheel.read(f"{info}/licenses/hrrsi/scenes/fonts/LICENSE_DEJAVU")
    assert b"hrrsi = hrrsi.__main__:main" in wheel.read(f"{info}/entry_points.txt")
    leaflet = wheel.read(f"{info}/licenses/hrrsi/viewer/assets/LICENSE_LEAFLET")
    assert b"BSD 2-Clause" in leaflet
    licences = b"License-Expression: MIT AND Bitstream-Vera AND BSD-2-Clause"
    assert licences in wheel.read(f"{info}/METADATA")


def test_dependencies_are_what_the_code_imports() -> None:
    imported: set[str] = set()
    for path in (REPOSITORY / "hrrsi").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(str(node.module).partition(".")[0])
    imported -= {"hrrsi", *sys.stdlib_module_names}
    declared = import_names([*requirements(*PROJECT["dependencies"]), *with_extras("all")])
    assert {PARTS.get(name, name) for name in imported} <= declared
    assert declared - NOT_IMPORTED <= imported


@pytest.mark.parametrize("extra", MODULES)
def test_extras_bring_what_messages_say_of_them(extra: str) -> None:
    assert set(MODULES[extra]) == import_names(with_extras(extra))


def test_the_light_install_needs_nothing_of_the_extras() -> None:
    light = import_names(requirements(*PROJECT["dependencies"]))
    assert not light & import_names(with_extras("all"))
    assert {"torch", "matplotlib", "onnxruntime"} <= import_names(with_extras("all"))
    assert import_names(with_extras("all")) < import_names(with_extras("test"))


def test_the_conda_recipe_asks_for_the_same_packages() -> None:
    text = (REPOSITORY / "conda" / "recipe.yaml").read_text()
    recipe = yaml.safe_load(text)
    assert recipe["context"]["version"] == PROJECT["version"]
    asked = [
        Requirement(line) for line in recipe["requirements"]["run"] if "python_min" not in line
    ]
    assert {str(requirement) for requirement in asked} == {
        str(requirement) for requirement in requirements(*PROJECT["dependencies"])
    }
    assert recipe["about"]["license"] == PROJECT["license"]
    assert recipe["about"]["license_file"] == PROJECT["license-files"]


def test_constraints_pin_every_requirement_within_its_bounds() -> None:
    extras = [with_extras(extra) for extra in PROJECT["optional-dependencies"]]
    for requirement in [*requirements(*PROJECT["dependencies"]), *(r for e in extras for r in e)]:
        version = pins()[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
