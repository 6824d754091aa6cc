"""The HTML report: what it says, and of what."""

import dataclasses
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from samples.made_evaluation import (
    CLASSES,
    evaluated_map,
    made_scene,
)

from hrrsi.errors import HrrsiError
from hrrsi.evaluation.intervals import Difference, Interval
from hrrsi.evaluation.result import Comparison
from hrrsi.networks.weights_file import packaged_weights
from hrrsi.profiling.figures import Latency
from hrrsi.report import page
from hrrsi.report.figures import points_cell
from hrrsi.report.model_sections import map_names, model_card, training_rows
from hrrsi.report.page import report_page, write_page
from hrrsi.report.sentences import (
    shared_sentence,
    source_sentence,
    unscored_text,
    verdict,
)
from hrrsi.report.viewer_section import safe_palette

EVIL = "\"><script>alert(1)</script>'&amp;</script><!--"


class _Page(HTMLParser):
    """Text, ids, links, scripts and table rows of a page; refuses elements that don't close."""

    void = frozenset({"meta", "link", "img", "br", "input", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs) -> None:  # of SVG
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, text) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += text
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += text

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_it_states_scores_intervals_protocol_and_provenance(one_map) -> None:
    page, report = _Page(report_page([one_map])), one_map.result

    interval = report.intervals["mIoU"]
    assert f"{100 * report.scores.mean_iou:.2f}" in page.text
    assert f"{100 * interval.low:.2f} to {100 * interval.high:.2f}" in page.text
    assert f"{shared_sentence(report)}; weights A" in page.text
    assert source_sentence(report.source) in page.text
    assert unscored_text(report) in page.text
    for words in ("2,833,409 parameters", "14 ms", "mIoU is highest after epoch 5"):
        assert words in page.text


def test_its_tables_hold_the_figures_of_the_evaluation(one_map) -> None:
    page, report = _Page(report_page([one_map])), one_map.result
    rows = page.rows

    for scores in report.scores.classes:
        cells = [r for r in rows if r[0] == scores.name and f"{scores.pixels:,}" in r]
        assert cells
        assert cells[0][1].startswith(f"{100 * scores.iou:.2f}")
        assert cells[0][3] == f"{100 * scores.precision:.2f}"
    pool = [row for row in report.grid if row.scene is None]
    assert len(pool) == 14  # three protocols of full labels, four of eroded; and augmentation
    for row in pool:
        shown = [row.protocol.name, row.protocol.labels, row.augmentation]
        figures = [f"{100 * row.scores.overall_accuracy:.2f}", f"{100 * row.scores.mean_f1:.2f}"]
        assert any(cells[:5] == [*shown, *figures] for cells in rows)
    matrix = report.matrix
    for i, name in enumerate(CLASSES):
        table_row = next(r for r in rows if r[0] == f"mapped as{name}")
        for j in range(len(CLASSES)):
            share = matrix.counts[i, j] / matrix.counts[:, j].sum()
            assert table_row[1 + j] == f"{100 * share:.2f}{matrix.counts[i, j]:,}"
    for at in report.boundaries:
        assert f"{100 * at.mean_f1:.2f}" in page.text
    ece = report.evaluation.counts.reliability.expected_calibration_error
    assert f"{100 * ece:.2f} % expected" in page.text
    near = report.evaluation.counts.border_distances.pixels
    words = "% of the pixels are that near, counted from 0 on the border"
    assert f"{100 * near[:4].sum() / near.sum():.2f} {words}" in page.text
    assert f"± {100 * report.areas[0].half_width:.2f}" in page.text


def test_every_picture_and_chart_has_a_text_alternative(one_map) -> None:
    page = _Page(report_page([one_map]))

    pictures = page.all("img")
    assert len(pictures) == 2 * 4  # scene, truth, prediction, errors
    assert all(a["alt"] for a in pictures)
    charts = [a for a in page.all("svg") if a.get("role") == "img"]
    assert len(charts) == 4  # distance, reliability, validation, losses
    ids = {a["id"] for _, a in page.tags if "id" in a}
    for chart in charts:
        assert set(chart["aria-labelledby"].split()) <= ids
    unlabelled = [a for a in page.all("svg") if a.get("role") != "img"]
    assert all(a.get("aria-hidden") == "true" for a in unlabelled)
    assert len(ids) == len([a for _, a in page.tags if "id" in a])  # each once
    links = [a["href"] for a in page.all("a")]
    assert links
    assert all(link[0] == "#" and link[1:] in ids for link in links)


def test_it_names_no_place_outside_itself(one_map, other_map) -> None:
    text = report_page([one_map, other_map])
    page = _Page(text)

    sources = [a["src"] for _, a in page.tags if a.get("src")]
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", re.sub(r"base64,[^\"]*", "", text))
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert not any(name.startswith("on") or name == "style" for _, a in page.tags for name in a)


def test_names_are_escaped_wherever_they_appear(tmp_path: Path) -> None:
    scenes = [made_scene(tmp_path, f"scene{EVIL}", 96, 128, 3)]
    classes = [f"{name}{EVIL}" for name in CLASSES]
    first = evaluated_map(f"map{EVIL}\udcff", scenes, 1, classes=classes, card=((EVIL, EVIL),))
    second = evaluated_map(f"other{EVIL}", scenes, 2, classes=classes)
    for maps in ([first], [first, second]):
        path = tmp_path / "report.html"
        write_page(path, maps)
        text = path.read_text(encoding="utf-8")
        page = _Page(text)

        assert "<script>alert" not in text
        assert len(page.all("script")) == 2
        assert f"scene{EVIL}" in page.text
        assert all(name in page.text for name in classes)
        alts = " ".join(a["alt"] for a in page.all("img"))
        assert f"scene{EVIL}" in alts
        data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
        assert data is not None
        assert json.loads(data[1])["classes"] == classes
        assert html.unescape(text).count("alert(1)") > 5


def test_two_maps_are_compared_over_the_same_blocks(one_map, other_map) -> None:
    page = _Page(report_page([one_map, other_map]))
    first, second = one_map.result, other_map.result

    difference = second.scores.mean_iou - first.scores.mean_iou
    assert difference > 0
    assert f"+{100 * difference:.2f}" in page.text
    assert "p < 0.001" in page.text
    for scores, others in zip(first.scores.classes, second.scores.classes, strict=True):
        cells = next(r for r in page.rows if r[0] == scores.name and len(r) == 8)
        assert cells[1:3] == [f"{100 * scores.iou:.2f}", f"{100 * others.iou:.2f}"]
    layers = json.loads(
        re.search(r'id="data">(.*?)</script>', report_page([one_map, other_map]))[1]
    )["scenes"][0]["layers"]
    assert [layer["label"] for layer in layers] == [
        "Scene",
        "Truth",
        "Prediction A",
        "Errors A",
        "Prediction B",
        "Errors B",
    ]


@pytest.mark.long
def test_a_comparison_says_what_follows_from_it(one_map, other_map, monkeypatch) -> None:
    said = verdict(Comparison(one_map.result, other_map.result))
    assert "B is better" in said
    assert said in _Page(report_page([one_map, other_map])).text
    assert "told apart" not in report_page([one_map])
    monkeypatch.setattr(page, "verdict", lambda *_: EVIL)
    text = report_page([one_map, other_map])
    assert EVIL not in text
    assert EVIL in _Page(text).text


def test_only_a_difference_that_interval_and_test_agree_on_has_a_colour() -> None:
    up, down, unsure = Interval(0.02, 0.01, 0.03), Interval(-0.02, -0.03, -0.01), (0.06, 0.2)
    assert points_cell(Difference(up, 0.01)).classes == "number up"
    assert points_cell(Difference(down, 0.01)).classes == "number down"
    assert {points_cell(Difference(up, p)).classes for p in unsure} == {"number unsure"}
    assert points_cell(Difference(Interval(0.02, -0.01, 0.03), 0.01)).classes == "number unsure"


@pytest.mark.parametrize(
    ("maps", "names"),
    [
        ([["/a/b/best.safetensors"]], ["best.safetensors"]),
        ([["old.tif"], ["/b/new.tif"]], ["old.tif", "new.tif"]),
        ([["/r/1/ued/b.st"], ["/r/2/ued/b.st"]], ["1/ued/b.st", "2/ued/b.st"]),
        ([["/r/1/./b.st"], ["/r/2/x/../b.st"]], ["1/b.st", "2/b.st"]),
        ([["/r/b.st"], ["/r/b.st"]], ["b.st", "b.st"]),
        ([["/b.st"], ["/r/b.st"]], ["/b.st", "r/b.st"]),
        ([["/m/1.tif", "/m/2.tif", "/m/3.tif"]], ["1.tif and 2 more"]),
    ],
)
def test_names_are_the_shortest_that_tell_maps_apart(maps: list, names: list[str]) -> None:
    assert map_names([[Path(path) for path in paths] for paths in maps]) == names


@pytest.mark.long
def test_the_latency_of_the_model_card_is_not_taken_for_that_of_the_scores(monkeypatch) -> None:
    measured = Latency("1 thread", "onnx, precision bf16", 1, 14.0, 18.7, 1)
    monkeypatch.setattr("hrrsi.profiling.profile.weights_latency", lambda path, size: measured)
    card = dict(model_card(packaged_weights()))
    assert "latency" not in card
    assert "precision bf16, 1 thread), measured with this page" in card["latency of hrrsi predict"]


def test_maps_of_other_scenes_are_refused(tmp_path: Path, one_map) -> None:
    scenes = [made_scene(tmp_path, "elsewhere", 96, 128, 3)]
    with pytest.raises(HrrsiError, match="they have other scenes or blocks"):
        write_page(tmp_path / "r.html", [one_map, evaluated_map("B", scenes, 1)])
    assert not (tmp_path / "r.html").exists()


@pytest.mark.long
def test_it_is_the_same_each_time(scenes: list, one_map) -> None:
    again = evaluated_map(
        "weights A", scenes, 1, augmented=True, card=one_map.card, training=one_map.training
    )
    assert report_page([again]) == report_page([one_map])


def test_a_map_without_pictures_confidence_or_borders_has_a_shorter_page(one_map) -> None:
    bare = dataclasses.replace(one_map, views=(), card=(), training=())
    ids = {a.get("id") for _, a in _Page(report_page([bare])).tags}
    assert "classes" in ids
    assert not {"scenes", "training"} & ids


def test_safe_colours_differ_in_the_eyes_of_the_colour_blind() -> None:
    # Viénot, Brettel and Mollon 1999: what protanopes and deuteranopes see of linear RGB
    seen = {
        "protan": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "deutan": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    }
    for count in range(2, 9):
        colours = safe_palette([(k * 30, 255 - k * 20, k * 11) for k in range(count)])
        assert len(set(colours)) == count
        for matrix in seen.values():
            linear = (np.asarray(colours) / 255) ** 2.2
            shown = np.clip(linear @ np.transpose(matrix), 0, 1) ** (1 / 2.2)
            apart = np.linalg.norm(shown[:, None] - shown[None], axis=2)
            assert apart[~np.eye(count, dtype=bool)].min() > 0.12
    many = safe_palette([(k, k, 255 - k) for k in range(40)])
    light = np.asarray(many) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > 0).all()


def test_training_rows_come_from_the_run_folder(tmp_path: Path) -> None:
    weights = tmp_path / "best.safetensors"
    assert training_rows(weights) == ()
    table = tmp_path / "metrics.csv"
    table.write_text("epoch,loss,val_OA,val_mIoU\n1,2.5,0.5,nan\n2,1.5,0.6,0.4\n")
    assert [row["loss"] for row in training_rows(weights)] == [2.5, 1.5]
    for other in ("when,what\nnow,that\n", "epoch,loss\n1,2\n", "epoch\n1,2,3\n", ""):
        table.write_text(other)
        assert training_rows(weights) == ()
