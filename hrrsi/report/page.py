"""The report: one HTML file that holds everything it shows, and may not use the network."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hrrsi import __version__
from hrrsi.evaluation.evaluation import Inference
from hrrsi.evaluation.result import Comparison, EvaluationResult
from hrrsi.files import replacing
from hrrsi.report.figures import LETTERS
from hrrsi.report.model_sections import (
    EvaluatedMap,
    map_names,
    model_card,
    model_cards,
    protocol_lines,
    training_charts,
    training_rows,
)
from hrrsi.report.scene_views import SceneViewCollector
from hrrsi.report.score_sections import (
    area_tables,
    borders,
    classes_table,
    confidence,
    confusion_table,
    headline,
    protocol_grids,
)
from hrrsi.report.sentences import (
    left_out_warning,
    printable,
    scenes_text,
    shared_sentence,
    unequal_pixels_text,
    verdict,
)
from hrrsi.report.viewer_section import class_colour_rules, scenes, viewer_data

_BREAKS = re.compile(r"(?<=[/_])(?=.)|(?<=.)(?=\.)")
_SCRIPTS = ("report.js", "viewer.js", "scenes.js")
_LINKS = {
    "scenes": "Scenes",
    "classes": "Classes",
    "confusion": "Confusion",
    "protocols": "Protocols",
    "borders": "Borders",
    "confidence": "Confidence",
    "areas": "Areas",
    "training": "Training",
    "model": "Model",
}


def write_report(
    path: Path,
    outcome: EvaluationResult | Comparison,
    collectors: Sequence[SceneViewCollector] = (),
    wording: Callable[[str], str] = str,
) -> None:
    """Write a page that a browser opens from disk.

    Two evaluations are compared side by side. Of weights it has a model card, for which their
    network is built and its speed measured, and the training curves of their run folder.

    Args:
        path: The ``.html``; replaced where it exists.
        outcome: One evaluation, or two.
        collectors: What observed each evaluation's scenes (``hrrsi.evaluate(..., observer=)``),
            for pictures.
        wording: As for `hrrsi.report.sentences.verdict`.

    Raises:
        OutputError: The file can't be written.
    """
    comparison = outcome if isinstance(outcome, Comparison) else None
    results = (outcome.first, outcome.second) if isinstance(outcome, Comparison) else (outcome,)
    maps = []
    for number, (name, result) in enumerate(
        zip(map_names([result.source.inputs for result in results]), results, strict=True)
    ):
        views = collectors[number].views if collectors else ()
        entry = EvaluatedMap(name, result, views)
        if isinstance(result.source, Inference):
            weights = result.source.path
            entry = replace(entry, card=model_card(weights), training=training_rows(weights))
        maps.append(entry)
    write_page(path, maps, comparison, wording)


def write_page(
    path: Path,
    maps: Sequence[EvaluatedMap],
    comparison: Comparison | None = None,
    wording: Callable[[str], str] = str,
) -> None:
    """Write what `report_page` returns to a file, which is replaced where it exists.

    Raises:
        OutputError: The file can't be written.
    """
    page = report_page(maps, comparison, wording)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


def report_page(
    maps: Sequence[EvaluatedMap],
    comparison: Comparison | None = None,
    wording: Callable[[str], str] = str,
) -> str:
    """Return the page of some maps.

    Args:
        maps: One map, or two of the same scenes under the same protocol.
        comparison: That of the two, where it is known already.
        wording: As for `hrrsi.report.sentences.verdict`.

    Raises:
        InputError: Two maps that can't be compared.
        ValueError: Neither one map nor two.
    """
    if not 1 <= len(maps) <= 2:
        raise ValueError(f"a page shows one map or two, not {len(maps)}")
    first = maps[0].result
    if len(maps) == 2 and comparison is None:
        comparison = Comparison(first, maps[1].result)
    differences = comparison.differences if comparison else {}
    boundary_differences = comparison.boundary_differences if comparison else {}
    sections = {
        "scenes": scenes(maps),
        "classes": classes_table(maps, differences),
        "confusion": [confusion_table(entry, named=len(maps) > 1) for entry in maps],
        "protocols": protocol_grids(maps),
        "borders": borders(maps, boundary_differences),
        "confidence": confidence(maps),
        "areas": area_tables(maps),
        "training": training_charts(maps),
        "model": model_cards(maps),
    }
    facts = [line for entry in maps for line in protocol_lines(entry.result)]
    if comparison and (unequal := unequal_pixels_text(comparison)):
        facts.append(("Beware", unequal))
    if comparison and (wider := scenes_text(comparison)):
        facts.append(("Beware of the differences' intervals", f"{wider}."))
    style = _asset("report.css") + class_colour_rules(first.evaluation.colours)
    script = "\n".join(_asset(name) for name in _SCRIPTS)
    page = (
        _environment()
        .get_template("page.html.j2")
        .render(
            policy=_policy(style, script),
            style=Markup(style),  # ours, and what its digest is of
            script=Markup(script),
            names=[entry.name for entry in maps],
            where=", ".join(filter(None, (first.evaluation.data, first.evaluation.split))),
            headline=headline(maps, differences),
            verdict=verdict(comparison, wording) if comparison else left_out_warning(first),
            protocol=first.protocol.name,
            sentences=_sentences(maps),
            facts=list(dict.fromkeys(facts)),
            links=[(anchor, _LINKS[anchor]) for anchor, content in sections.items() if content],
            sections=sections,
            data=viewer_data(maps),
            version=__version__,
        )
    )
    return printable(page)


def _sentences(maps: Sequence[EvaluatedMap]) -> list[str]:
    """Return the protocol, once for maps that were scored and read alike."""
    alike: dict[str, list[str]] = {}
    for entry in maps:
        alike.setdefault(shared_sentence(entry.result), []).append(entry.name)
    return [f"{sentence}; {' and '.join(names)}" for sentence, names in alike.items()]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hrrsi", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["letters"] = LETTERS
    environment.filters["breakable"] = breakable
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment


def breakable(name: str) -> Markup:
    """Return a name, escaped, that lines may break within where words of it end."""
    return Markup("<wbr>").join(_BREAKS.split(name))


def _policy(style: str, script: str) -> str:
    """Return a Content-Security-Policy that allows this style, this script, and own pictures."""
    return (
        "default-src 'none'; img-src data: blob:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _asset(name: str) -> str:
    return (resources.files("hrrsi.report") / "assets" / name).read_text(encoding="utf-8")
