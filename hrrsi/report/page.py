"""The report: one HTML file that holds everything it shows, and may not use the network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from string import Template

from hrrsi import __version__
from hrrsi.evaluation.evaluation import Inference
from hrrsi.evaluation.result import Comparison, EvaluationResult
from hrrsi.files import replacing
from hrrsi.report.evaluated_map import EvaluatedMap, map_names
from hrrsi.report.markup import escaped, lettered, script_json
from hrrsi.report.model_sections import (
    card_section,
    model_card,
    protocol_lines,
    training_rows,
    training_section,
)
from hrrsi.report.quality_sections import areas_section, borders_section, confidence_section
from hrrsi.report.scene_views import SceneViewCollector
from hrrsi.report.score_sections import (
    classes_section,
    confusion_section,
    grid_section,
    headline,
)
from hrrsi.report.sentences import (
    left_out_warning,
    shared_sentence,
    unequal_pixels_text,
    verdict,
)
from hrrsi.report.viewer_section import class_colour_rules, scenes_section, viewer_data

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
        one = EvaluatedMap(name, result, views)
        if isinstance(result.source, Inference):
            weights = result.source.path
            one = replace(one, card=model_card(weights), training=training_rows(weights))
        maps.append(one)
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
    first = maps[0].report
    if len(maps) == 2 and comparison is None:
        comparison = Comparison(first, maps[1].report)
    differences = comparison.differences if comparison else {}
    boundary_differences = comparison.boundary_differences if comparison else {}
    sections = {
        "scenes": scenes_section(maps),
        "classes": classes_section(maps, differences),
        "confusion": confusion_section(maps),
        "protocols": grid_section(maps),
        "borders": borders_section(maps, boundary_differences),
        "confidence": confidence_section(maps),
        "areas": areas_section(maps),
        "training": training_section(maps),
        "model": card_section(maps),
    }
    links = "".join(
        f'<li><a href="#{anchor}">{_LINKS[anchor]}</a></li>'
        for anchor, content in sections.items()
        if content
    )
    facts = [line for one in maps for line in protocol_lines(one.report)]
    if comparison and unequal_pixels_text(comparison):
        facts.append(("Beware", unequal_pixels_text(comparison)))
    lines = "".join(
        f"<dt>{escaped(label)}</dt><dd>{escaped(text)}</dd>" for label, text in dict.fromkeys(facts)
    )
    names = [one.name for one in maps]
    verdicts = [verdict(comparison, wording)] if comparison else [left_out_warning(first)]
    where = ", ".join(filter(None, (first.evaluation.data, first.evaluation.split)))
    style = _asset("report.css") + class_colour_rules(first.evaluation.colours)
    script = "\n".join(_asset(name) for name in _SCRIPTS)
    return Template(_asset("report.html")).substitute(
        policy=_policy(style, script),
        style=style,
        script=script,
        title=escaped(f"{' and '.join(names)} on {where}"),
        heading=" <i>and</i> ".join(
            f'<span class="name">{lettered(names, number)}</span>' for number in range(len(maps))
        ),
        where=escaped(where),
        headline=headline(maps, differences),
        verdict="".join(f'<p class="verdict">{escaped(said)}</p>' for said in verdicts if said),
        sentence=_sentences(maps, names),
        protocol=lines,
        links=links,
        sections="".join(sections.values()),
        data=script_json(viewer_data(maps)),
        version=escaped(__version__),
    )


def _sentences(maps: Sequence[EvaluatedMap], names: Sequence[str]) -> str:
    """Return the protocol, once for maps that were scored and read alike."""
    alike: dict[str, list[str]] = {}
    for one, name in zip(maps, names, strict=True):
        alike.setdefault(shared_sentence(one.report), []).append(name)
    protocol = escaped(maps[0].report.protocol.name)
    sentences = [f"{said}; {' and '.join(of)}" for said, of in alike.items()]
    return "<br>".join(
        f"In percent, under the protocol <b>{protocol}</b>: {escaped(said)}." for said in sentences
    )


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
