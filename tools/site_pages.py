"""Pages of the site that are made from the package, for `mkdocs build` (see mkdocs.yml).

The commands' flags come from the command line itself; the Python API and the fields of files come
from docstrings; the changelog and the architecture are the files of the repository. Links to files
that are no pages lead to the repository.
"""

import inspect
import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import hrrsi
from hrrsi.cli import COMMANDS, app
from hrrsi.labels.scheme import IgnoredColour, PartialLabel, Scheme, SchemeClass, Split
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.tiling.dataset import DatasetDescription, SplitContent
from hrrsi.training.options import Recipe

ROOT = Path(__file__).parents[1]
# pages that are files of the repository, and pictures of one of them
FILES = {
    "reference/changes.md": "CHANGELOG.md",
    "reference/architecture.md": "ARCHITECTURE.md",
    "reference/weights.md": "hrrsi/pretrained/MODEL_CARD.md",
    "reference/curves.png": "hrrsi/pretrained/curves.png",
    "reference/weights_maps.png": "hrrsi/pretrained/weights_maps.png",
}
KINDS = {
    "Verbs": str.islower,
    "Options, results and the rest": lambda name: not name.endswith(("Error", "Warning")),
    "Errors and warnings": lambda name: True,
}
# what fields stand in files, by the classes that check them
FIELDS: dict[str, tuple[type, ...]] = {
    "A scheme (`--scheme FILE.yaml`)": (Scheme, SchemeClass, PartialLabel, IgnoredColour, Split),
    "A dataset (`dataset.yaml`)": (DatasetDescription, SplitContent),
    "Weights (metadata of a `.safetensors`)": (ModelMeta,),
    "A recipe (`recipe` in a run's `config.yaml`)": (Recipe,),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    pages = {
        "reference/commands.md": commands_page(),
        "reference/python.md": python_page(),
        "reference/fields.md": fields_page(),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for path, source in FILES.items():
        files.append(File.generated(config, path, content=(ROOT / source).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files that are no pages lead to the repository."""
    here = posixpath.dirname(page.file.src_uri)
    # where the file lies in the repository, by which its own links go
    source = FILES.get(page.file.src_uri, posixpath.join("docs", page.file.src_uri))
    folder = posixpath.dirname(source)
    pages = {source: path for path, source in FILES.items()}

    def rewritten(match: re.Match[str]) -> str:
        target, anchor = match["target"], match["anchor"] or ""
        if not target or ":" in target:
            return match[0]
        place = posixpath.normpath(posixpath.join(folder, target))
        own = pages.get(place, place.removeprefix("docs/"))
        if files.get_file_from_path(own):
            return f"]({posixpath.relpath(own, here or '.')}{anchor})"
        if not (ROOT / place).exists():
            return match[0]  # mkdocs says so
        return f"]({config.extra['repository']}/blob/main/{place}{anchor})"

    return re.sub(r"\](?P<all>\((?P<target>[^)#\s]*)(?P<anchor>#[^)\s]*)?\))", rewritten, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Let pages do without scripts from elsewhere, also for search from the disk."""
    own = posixpath.relpath("javascripts/search_from_disk.js", posixpath.dirname(page.url) or ".")
    output = output.replace("https://unpkg.com/iframe-worker/shim", own)
    # what notebooks would draw diagrams with, from elsewhere; they have none
    return re.sub(
        r'<script type="module">(?:(?!</script>).)*mermaid.*?</script>', "", output, flags=re.S
    )


def commands_page() -> str:
    """Return the reference of every command, as Markdown."""
    group: Any = typer.main.get_command(app)
    lines = ["# Commands", "", "Made from the program: `hrrsi COMMAND --help` says the same.", ""]
    for name in COMMANDS:
        command = group.get_command(None, name)
        lines += [f"## hrrsi {name}", "", command.help or "", ""]
        lines += ["| | what it takes | |", "|---|---|---|"]
        context = typer.Context(command)
        shown = [p for p in command.get_params(context) if not getattr(p, "hidden", False)]
        lines += [_row(parameter, context) for parameter in shown]
        lines.append("")
    return "\n".join(lines)


def _row(parameter: Any, context: typer.Context) -> str:
    is_option = parameter.param_type_name == "option"
    names = [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.name.upper()]
    kind = (parameter.display_type_rich(ctx=context) or "").strip("<>")
    text = " ".join((parameter.help or "").split()).replace("|", "\\|")
    default = parameter.default
    if parameter.required:
        text += " Required."
    elif default not in (None, False, True, "", [], ()) and not callable(default):
        text += f" Default: `{default}`."
    kind = f"`{kind}`".replace("|", "\\|") if kind else ""
    return f"| {'<br>'.join(f'`{n}`' for n in names)} | {kind} | {text} |"


def python_page() -> str:
    """Return the reference of the Python API, as Markdown for mkdocstrings."""
    lines = ["# Python", "", (hrrsi.__doc__ or "").split("\n", 1)[0], ""]
    names = [name for name in hrrsi.__all__ if name != "__version__"]
    for title, holds in KINDS.items():
        chosen = [name for name in names if holds(name)]
        names = [name for name in names if name not in chosen]
        lines += [f"## {title}", ""]
        lines += [f"::: {getattr(hrrsi, name).__module__}.{name}\n" for name in chosen]
    return "\n".join(lines)


def fields_page() -> str:
    """Return what the fields of files mean, as Markdown made of the docstrings of their classes."""
    lines = ["# Fields of files", "", "Made from the classes that read, check and write them.", ""]
    for title, classes in FIELDS.items():
        lines += [f"## {title}", ""]
        for cls in classes:
            lines += _fields(cls, heading=cls is not classes[0])
    return "\n".join(lines)


def _fields(cls: type, *, heading: bool) -> list[str]:
    """Return the table of a class' fields, under its name where that is one of several."""
    kinds: dict[str, Any] = {}
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        parts = griffe.Docstring(inspect.cleandoc(base.__doc__ or "")).parse("google")
        kinds |= inspect.get_annotations(base)
        for part in parts:
            if part.kind is griffe.DocstringSectionKind.attributes:
                meanings |= {a.name: " ".join(a.description.split()) for a in part.value}
    text = next(part.value for part in parts if part.kind is griffe.DocstringSectionKind.text)
    lines = [f"### {cls.__name__}", ""] if heading else []
    lines += [text, "", "| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in inspect.signature(cls).parameters.items():
        kind = kinds[name]
        kind = kind if isinstance(kind, str) else inspect.formatannotation(kind, "typing")
        default = "" if field.default is field.empty else f"`{field.default!r}`"
        cells = (f"`{name}`", f"`{kind}`", default, meanings[name])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""]
