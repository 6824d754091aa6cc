"""Measures the shape of a package: modules, lines, imports in circles, long and wide functions.

It reads the code, so any two states can be compared:

    python tools/package_shape.py hrrsi ../another_checkout/hrrsi
"""

import ast
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from hrrsi.quantities import TextTable

Function = ast.FunctionDef | ast.AsyncFunctionDef


def shape(package: Path) -> dict[str, str]:
    """Return figures of a package, each with its name.

    Args:
        package: The folder that holds its ``__init__.py``.
    """
    sources = {_module(path, package): path.read_text() for path in package.rglob("*.py")}
    trees = {name: ast.parse(source) for name, source in sources.items()}
    lines = {name: len(source.splitlines()) for name, source in sources.items()}
    imports = {name: _imports(name, tree, set(trees)) for name, tree in trees.items()}
    importers = {name: sum(name in of for of in imports.values()) for name in trees}
    functions = [
        (node, name)
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, Function)
    ]
    library = [(f, name) for f, name in functions if name.split(".")[1:2] != ["cli"]]
    commands = [(f, name) for f, name in functions if name.split(".")[1:2] == ["cli"]]
    return {
        "modules": f"{len(trees)}",
        "lines": f"{sum(lines.values()):,}",
        "median lines of a module": f"{statistics.median(lines.values()):.0f}",
        "modules under 60 lines": f"{sum(count < 60 for count in lines.values())}",
        "modules over 400 lines": f"{sum(count > 400 for count in lines.values())}",
        "modules with one importer": f"{sum(count == 1 for count in importers.values())}",
        "modules that import each other in circles": f"{sum(map(len, _circles(imports)))}",
        "longest function of the library": _largest(library, _length, "lines"),
        "longest function of the command line": _largest(commands, _length, "lines"),
        "most parameters in the library": _largest(library, _parameters, "parameters"),
    }


def _module(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def _imports(name: str, tree: ast.Module, modules: set[str]) -> set[str]:
    """Return the modules of the package that one imports, within functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & modules - {name}


def _circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules that reach each other."""

    def reach(start: str) -> set[str]:
        reached: set[str] = set()
        waiting = [start]
        while waiting:
            new = imports[waiting.pop()] - reached
            reached |= new
            waiting += new
        return reached

    reaches = {name: reach(name) for name in imports}
    circles = {
        frozenset(other for other in reaches[name] if name in reaches[other])
        for name in imports
        if name in reaches[name]
    }
    return [set(circle) for circle in circles]


def _length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _parameters(function: Function) -> int:
    names = [a.arg for a in (*function.args.args, *function.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def _largest(
    functions: list[tuple[Function, str]], measure: Callable[[Function], int], unit: str
) -> str:
    function, module = max(functions, key=lambda pair: measure(pair[0]))
    return f"{measure(function)} {unit}: {module}.{function.name}"


def main() -> None:
    """Print the figures of each package side by side."""
    packages = [Path(argument) for argument in sys.argv[1:]] or [Path("hrrsi")]
    figures = [shape(package.resolve()) for package in packages]
    table = TextTable(["", *map(str, packages)], left=range(len(packages) + 1))
    for name in figures[0]:
        table.add_row([name, *(column[name] for column in figures)])
    print(table)


if __name__ == "__main__":
    main()
