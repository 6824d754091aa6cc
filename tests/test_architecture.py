"""The house is built as ARCHITECTURE.md says: what may import what, how long, how wide.

The package is read, not imported: imports within functions count like those at the top, those for
type checkers alone don't.
"""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module

import pytest
import typer
from samples.repository import REPOSITORY

from hrrsi.cli import COMMANDS, app

PACKAGE = REPOSITORY / "hrrsi"
MOST_PARAMETERS = 10
LONGEST_COMMAND = 80
# what the modules of cli/ may load before a command runs, besides the standard library
LIGHT_PACKAGES = {"typer", "hrrsi"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _without_type_checking(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    return tree


@cache
def modules() -> dict[str, ast.Module]:
    """The modules of the package by name, the package itself as ``hrrsi``."""
    trees = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        source = path.read_text(encoding="utf-8")
        trees[name.removesuffix(".__init__")] = _without_type_checking(ast.parse(source))
    return trees


def imported(statements: list[ast.stmt], *, inside_functions: bool = True) -> Iterator[str]:
    """What statements import: ``package.module``, and ``package.module.name`` where names do."""
    for statement in statements:
        nodes = ast.walk(statement) if inside_functions else _outside_functions(statement)
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, "imports name their modules in full"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    if not isinstance(node, Function | ast.Lambda):
        yield node
        for child in ast.iter_child_nodes(node):
            yield from _outside_functions(child)


def module_of(name: str) -> str | None:
    """The module of the package that an imported name lies in; `hrrsi`'s version is no import."""
    while name and name not in modules():
        if name == "hrrsi.__version__":
            return None
        name = name.rpartition(".")[0]
    return name or None


@cache
def graph() -> dict[str, set[str]]:
    """The modules that each module imports, wherever it does."""
    return {
        name: {m for n in imported(tree.body) if (m := module_of(n)) and m != name}
        for name, tree in modules().items()
    }


def room_of(module: str) -> str:
    """The folder, or the module, right below the package."""
    return module.split(".")[1] if "." in module else "hrrsi"


@cache
def reachable(module: str) -> set[str]:
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        new = graph()[waiting.pop()] - reached
        reached |= new
        waiting += new
    return reached


def cycles() -> set[str]:
    return {
        " and ".join(sorted([module, other]))
        for module in modules()
        for other in graph()[module]
        if module in reachable(other)
    }


@cache
def table() -> list[tuple[tuple[str, ...], str]]:
    """Rooms and what they may import, as the rows of ARCHITECTURE.md say it."""
    text = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
    _, _, rows = text.partition("| room | holds | may import |\n| --- | --- | --- |\n")
    cells = [row.strip("|").split("|") for row in rows.partition("\n\n")[0].splitlines()]
    return [(tuple(re.findall(r"`(\w+)`", first)), last.strip()) for first, _, last in cells]


@cache
def allowed_rooms() -> dict[str, set[str]]:
    """The rooms that each room may import by the table."""
    rooms = [room for names, _ in table() for room in names]
    shared, _ = table()[-1]
    allowed = {}
    for number, (names, words) in enumerate(table()):
        below = {room for later, _ in table()[number + 1 :] for room in later}
        for place, room in enumerate(names):
            if number == len(table()) - 1:
                allowed[room] = set(shared[:place])  # those on its left
            elif words == "every room below":
                allowed[room] = below
            else:
                named = set(re.findall(r"`(\w+)`", words))
                assert named <= below, f"{room} may import what stands above it: {named - below}"
                allowed[room] = named | set(shared)
    assert len(allowed) == len(rooms), "a room stands in the table twice"
    return allowed


def upward_imports() -> set[str]:
    return {
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in others
        if (room := room_of(module)) != (target := room_of(other))
        and target not in allowed_rooms().get(room, set())
    }


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def library() -> Iterator[tuple[str, ast.Module]]:
    return ((name, tree) for name, tree in modules().items() if room_of(name) != "cli")


def wide_functions() -> set[str]:
    wide = set()
    for module, tree in library():
        for function in functions(tree):
            arguments = function.args
            names = [a.arg for a in arguments.posonlyargs + arguments.args + arguments.kwonlyargs]
            if len([n for n in names if n not in ("self", "cls")]) > MOST_PARAMETERS:
                wide.add(f"{module}.{function.name}")
    return wide


def commands() -> Iterator[tuple[str, Function]]:
    """Functions of cli/ that are commands: `hrrsi.cli.COMMANDS` names them and their modules."""
    for name, _ in COMMANDS.values():
        (command,) = (f for f in functions(modules()[f"hrrsi.cli.{name}"]) if f.name == name)
        yield f"hrrsi.cli.{name}.{name}", command


def long_commands() -> set[str]:
    return {
        name
        for name, function in commands()
        if (function.end_lineno or 0) - function.lineno >= LONGEST_COMMAND
    }


def commands_with_functions_inside() -> set[str]:
    return {name for name, function in commands() if len(list(functions(function))) > 1}


def docstrings(tree: ast.AST) -> set[ast.AST]:
    return {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | Function)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }


@cache
def flags() -> set[str]:
    """The long flags of every command."""
    group = typer.main.get_command(app)
    commands = [group.get_command(None, name) for name in COMMANDS]
    return {
        flag
        for command in commands
        for parameter in command.params
        for flag in [*parameter.opts, *parameter.secondary_opts]
        if flag.startswith("--")
    }


def speaks_of_flags(tree: ast.AST) -> bool:
    prose = docstrings(tree)
    return any(
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node not in prose
        and flags() & set(re.findall(r"--[a-z][a-z-]+", node.value))
        for node in ast.walk(tree)
    )


def modules_that_speak_of_flags() -> set[str]:
    return {module for module, tree in library() if speaks_of_flags(tree)}


@cache
def packages_loaded_with(module: str) -> set[str]:
    """Packages besides the standard library that importing a module of hrrsi imports."""
    seen, waiting, packages = {module}, [module], set()
    while waiting:
        for name in imported(modules()[waiting.pop()].body, inside_functions=False):
            packages.add(name.partition(".")[0])
            if (other := module_of(name)) and other not in seen:
                seen.add(other)
                waiting.append(other)
    return packages - sys.stdlib_module_names


def heavy_modules_of_cli() -> set[str]:
    return {
        module
        for module in modules()
        if room_of(module) == "cli" and packages_loaded_with(module) - LIGHT_PACKAGES
    }


RULES = {
    "modules don't import each other in a circle": cycles,
    "rooms import what the table of ARCHITECTURE.md allows": upward_imports,
    "a function of the library takes ten parameters at most": wide_functions,
    "a command is a function of 80 lines at most": long_commands,
    "a command holds no functions": commands_with_functions_inside,
    "the library names its parameters, not flags of the command line": modules_that_speak_of_flags,
    "modules of the command line load nothing heavy": heavy_modules_of_cli,
}


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps_its_rules(rule: str) -> None:
    assert not RULES[rule]()


def test_every_room_is_in_the_table_and_there() -> None:
    assert set(allowed_rooms()) == {room_of(module) for module in modules()}


def test_the_table_has_a_use() -> None:
    """Rooms don't import all that they may by the table without need: each arrow is used."""
    used = {(room_of(m), room_of(other)) for m, others in graph().items() for other in others}
    named = {
        (room, target)
        for names, words in table()[:-1]
        for room in names
        for target in re.findall(r"`(\w+)`", words)
    }
    assert not named - used


def test_each_subcommand_is_a_command() -> None:
    assert {"hrrsi.cli.tile.tile", "hrrsi.cli.predict.predict"} <= {name for name, _ in commands()}


def test_no_test_module_imports_another() -> None:
    texts = {path.stem: path.read_text("utf-8") for path in (REPOSITORY / "tests").rglob("*.py")}
    lines = re.compile(r"^\s*(?:from|import)\b.*\btest_.*$", re.MULTILINE)
    imports = {
        f"{stem}: {line.strip()}"
        for stem, text in texts.items()
        for line in lines.findall(text)
        if set(re.findall(r"\w+", line)) & texts.keys() - {stem, "conftest"}
    }
    assert not imports


def _names_of_the_package(tree: ast.Module) -> Iterator[str]:
    """What a script imports of the package, and names of it in texts, as patches have them."""
    yield from (name for name in imported(tree.body) if name.startswith("hrrsi."))
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and re.fullmatch(r"hrrsi(\.\w+)+", node.value):
            yield node.value


@pytest.mark.parametrize("folder", ["benchmarks", "tools", "examples"])
def test_scripts_know_the_package_as_it_is(folder: str) -> None:
    scripts = sorted((REPOSITORY / folder).rglob("*.py"))
    assert scripts
    for script in scripts:
        tree = ast.parse(script.read_text(encoding="utf-8"))
        for name in _names_of_the_package(tree):
            module = module_of(name)
            left = name.removeprefix(module or "").strip(".").split(".")[0]
            own = import_module(module or "hrrsi")
            assert not left or hasattr(own, left), f"{script}: {name}"
