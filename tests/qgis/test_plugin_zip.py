"""The plugin as QGIS and its repository want it."""

import ast
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from plugin_zip import PLUGIN, write_plugin
from samples.repository import REPOSITORY

import hrrsi

MODULES = sorted(PLUGIN.glob("*.py"))
# What plugins.qgis.org refuses a plugin without.
MANDATORY = (
    *("name", "qgisMinimumVersion", "description", "about", "version", "author", "email"),
    *("repository", "tracker", "homepage", "license"),
)


def test_the_zip_is_one_folder_with_all_that_the_repository_wants(tmp_path: Path) -> None:
    path = write_plugin(tmp_path)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        metadata = ConfigParser(interpolation=None)
        metadata.read_string(archive.read("hrrsi/metadata.txt").decode())
        licence = archive.read("hrrsi/LICENSE").decode()
    assert {name.split("/")[0] for name in names} == {"hrrsi"}
    assert {f"hrrsi/{module.name}" for module in MODULES} < set(names)
    assert not [name for name in names if "__pycache__" in name]
    general = metadata["general"]
    assert all(general[name] for name in MANDATORY)
    assert general["hasProcessingProvider"] == "yes"
    assert (general["version"], general["qgisMinimumVersion"]) == (hrrsi.__version__, "3.22")
    assert f"hrrsi/{general['icon']}" in names
    assert licence == (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert general["license"] in licence


def test_the_zip_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    first, second = write_plugin(tmp_path / "1"), write_plugin(tmp_path / "2")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_modules_are_for_the_python_of_old_qgis(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"), feature_version=(3, 9))
    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    if module.stem in ("program", "commands", "map_files", "__init__"):
        assert not [name for name in imported if name.startswith(("qgis", "processing"))]
    assert "hrrsi" not in imported  # which is the plugin itself there


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_modules_take_from_each_other_what_is_there(module: Path) -> None:
    """QGIS alone imports most of them, and it has its own tests, which are slow."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            other = PLUGIN / f"{node.module}.py"
            assert {alias.name for alias in node.names} <= names_of(other), other.name


def names_of(module: Path) -> set[str]:
    """The functions, classes and constants that a module defines."""
    names: set[str] = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else []
        names |= {each.id for each in targets if isinstance(each, ast.Name)}
    return names
