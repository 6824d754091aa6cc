"""The HTML report: what it says, and how it behaves in a browser."""

import base64
import dataclasses
import html
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples.made_evaluation import (
    CLASSES,
    COLOURS,
    begun_views,
    evaluated_map,
    made_prediction,
    made_scene,
)

from hrrsi.errors import HrrsiError
from hrrsi.evaluation.block_bootstrap import Difference, Interval
from hrrsi.evaluation.evaluated_strips import EvaluatedStrip
from hrrsi.evaluation.result import Comparison
from hrrsi.labels.labelled_scenes import SceneFiles
from hrrsi.networks.weights_file import packaged_weights
from hrrsi.profiling import latency
from hrrsi.profiling.figures import Latency
from hrrsi.report import page
from hrrsi.report.figures import points_cell
from hrrsi.report.model_sections import map_names, model_card, training_rows
from hrrsi.report.page import report_page, write_page
from hrrsi.report.scene_views import MOST_SCENES
from hrrsi.report.sentences import (
    shared_sentence,
    source_sentence,
    unscored_text,
    verdict,
)
from hrrsi.report.viewer_section import safe_palette, worst_regions

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")

WIDE, PHONE = (1440, 900), (390, 844)
EVIL = "\"><script>alert(1)</script>'&amp;</script><!--"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list:
    folder = tmp_path_factory.mktemp("scenes")
    return [made_scene(folder, f"area{seed}", 300, 400, seed) for seed in (11, 15)]


@pytest.fixture(scope="module")
def one_map(scenes: list):
    rows = [
        {"epoch": n, "loss": 3 / n, "val_OA": 0.5 + n / 20, "val_mF1": n / 10, "val_mIoU": n / 12}
        for n in range(1, 6)
    ]
    return evaluated_map(
        "weights A",
        scenes,
        1,
        augmented=True,
        card=(("network", "ued_bes_sfm, 2,833,409 parameters"), ("latency", "14 ms")),
        training=tuple(rows),
    )


@pytest.fixture(scope="module")
def other_map(scenes: list):
    return evaluated_map("weights B", scenes, 50, wrong=0.1)


# What the page says -----------------------------------------------------------------------------


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
    assert len(pool) == 8  # labels, clutter and augmentation
    for row in pool:
        clutter = "out" if row.protocol.dropped_from_overall else "in"
        shown = [row.protocol.labels, clutter, row.augmentation]
        figures = [f"{100 * row.scores.overall_accuracy:.2f}", f"{100 * row.scores.mean_f1:.2f}"]
        assert any(cells[:5] == [*shown, *figures] for cells in rows)
    matrix = report.matrix
    for i, name in enumerate(CLASSES):
        found = next(r for r in rows if r[0] == f"mapped as{name}")
        for j in range(len(CLASSES)):
            share = matrix.counts[i, j] / matrix.counts[:, j].sum()
            assert found[1 + j] == f"{100 * share:.2f}{matrix.counts[i, j]:,}"
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
    one = evaluated_map(f"map{EVIL}\udcff", scenes, 1, classes=classes, card=((EVIL, EVIL),))
    other = evaluated_map(f"other{EVIL}", scenes, 2, classes=classes)
    for maps in ([one], [one, other]):
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
    monkeypatch.setattr(latency, "weights_latency", lambda path, size: measured)
    card = dict(model_card(packaged_weights()))
    assert "latency" not in card
    assert "precision bf16, 1 thread), measured with this page" in card["latency of hrrsi predict"]


def test_maps_of_other_scenes_are_refused(tmp_path: Path, one_map) -> None:
    scenes = [made_scene(tmp_path, "elsewhere", 96, 128, 3)]
    with pytest.raises(HrrsiError, match="they have other scenes or blocks"):
        write_page(tmp_path / "r.html", [one_map, evaluated_map("B", scenes, 1)])
    assert not (tmp_path / "r.html").exists()


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


# Pictures and worst regions ---------------------------------------------------------------------


def _decoded(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(image)))


def test_views_show_truth_prediction_and_errors(scenes: list, one_map) -> None:
    view, scene = one_map.views[0], scenes[0]
    prediction, _ = made_prediction(scene, 1)
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(COLOURS)] = COLOURS
    palette[255] = (43, 48, 54)

    shown = np.asarray(Image.open(BytesIO(view.truth)).convert("RGB"))
    assert np.array_equal(shown, palette[scene.truth])
    shown = np.asarray(Image.open(BytesIO(view.prediction)).convert("RGB"))
    assert np.array_equal(shown, palette[prediction])
    opacity = np.asarray(Image.open(BytesIO(view.errors)).convert("RGBA"))[..., 3]
    wrong = (scene.truth != 255) & (scene.truth != prediction)
    assert np.array_equal(opacity == 255, wrong)
    assert np.array_equal((opacity > 0) & ~wrong, scene.truth == 255)
    assert _decoded(view.picture).shape == (300, 400, 3)


def _views(height: int, width: int, scenes: int = 1, rows: int = 100) -> tuple:
    truth = (np.add.outer(np.arange(height) // 7, np.arange(width) // 5) % 6).astype(np.uint8)
    files = [SceneFiles(f"s{number}", "none") for number in range(scenes)]
    collector = begun_views(files, are_maps=True)
    for file in files:
        for row in range(0, height, rows):
            part = truth[row : row + rows]
            collector.add(file, EvaluatedStrip(row, part, part))
    return truth, collector.views


@pytest.mark.parametrize(
    ("height", "width", "step", "rows"),
    [
        (2000, 2500, 2, 1),
        (2000, 2500, 2, 97),
        (1400, 1400, 1, 4000),
        (3100, 3100, 3, 97),
        (9000, 700, 8, 97),
        (9000, 700, 8, 9000),
        (1, 1, 1, 1),
    ],
)
def test_large_scenes_are_thinned_evenly(height: int, width: int, step: int, rows: int) -> None:
    truth, (view,) = _views(height, width, rows=rows)
    assert (view.height, view.width, view.step) == (height, width, step)
    assert np.array_equal(_decoded(view.truth), truth[::step, ::step])
    assert max(_decoded(view.truth).shape) <= 1400 * 1.3


def test_many_scenes_have_smaller_pictures_and_the_first_only() -> None:
    _, views = _views(400, 500, scenes=MOST_SCENES + 5)
    assert len(views) == MOST_SCENES
    assert views[0].step == 1
    _, views = _views(2000, 2500, scenes=24, rows=2000)
    assert views[0].step == 4


def test_a_picture_of_another_grid_is_left_out(scenes: list) -> None:
    file = SceneFiles("cut", str(scenes[0].path))
    collector = begun_views([file])
    part = scenes[0].truth[:200]
    collector.add(file, EvaluatedStrip(0, part, part))
    assert collector.views[0].picture is None


def test_worst_regions_are_the_blocks_with_most_wrong_pixels(scenes: list, one_map) -> None:
    scene, counts = scenes[0], one_map.result.evaluation.counts.scenes[0]
    prediction, _ = made_prediction(scene, 1)
    wrong = (scene.truth != 255) & (scene.truth != prediction)
    blocks = {
        (row, column): int(wrong[row : row + 64, column : column + 64].sum())
        for row in range(0, 300, 64)
        for column in range(0, 400, 64)
    }
    expected = sorted(blocks.values(), reverse=True)[:6]

    regions = worst_regions(counts, "full")
    assert [r.wrong for r in regions] == expected
    for region in regions:
        assert blocks[region.row, region.column] == region.wrong
        assert region.share_of_errors == pytest.approx(region.wrong / wrong.sum())
        part = np.s_[region.row : region.row + 64, region.column : region.column + 64]
        pairs = [
            ((scene.truth[part] == t) & (prediction[part] == p)).sum()
            for t in range(6)
            for p in range(6)
            if t != p
        ]
        led = (scene.truth[part] == region.true) & (prediction[part] == region.predicted)
        assert led.sum() == max(pairs)
        assert region.share_of_wrong == pytest.approx(max(pairs) / region.wrong)


@pytest.mark.long
def test_a_page_of_five_large_scenes_stays_below_15_mb(tmp_path: Path) -> None:
    names = [f"area{n}" for n in (11, 15, 28, 30, 34)]
    small = [made_scene(tmp_path, name, 64, 96, seed) for seed, name in enumerate(names)]
    one, other = (evaluated_map(name, small, seed) for name, seed in (("A", 1), ("B", 50)))
    large = made_scene(tmp_path, "large", 2000, 2500, 90)
    maps = []
    for seed, found in ((1, one), (2, other)):
        files = [SceneFiles(name, str(large.path)) for name in names]
        collector = begun_views(files)
        prediction, _ = made_prediction(large, seed)
        for row in range(0, 2000, 250):
            rows = slice(row, row + 250)
            strip = EvaluatedStrip(row, large.truth[rows], prediction[rows])
            collector.add(files[0], strip)
        (view,) = collector.views
        views = tuple(dataclasses.replace(view, name=name) for name in names)
        maps.append(dataclasses.replace(found, views=views))
    assert all(view.picture for view in maps[0].views)
    for count in (1, 2):
        path = tmp_path / "large.html"
        write_page(path, maps[:count])
        assert 2e6 < path.stat().st_size < 15e6


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


# In a browser -----------------------------------------------------------------------------------

_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=list(_ARGUMENTS))
        yield started
        started.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, one_map, other_map) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    paths = {"one": folder / "one.html", "two": folder / "two.html"}
    write_page(paths["one"], [one_map])
    write_page(paths["two"], [one_map, other_map])
    return paths


@pytest.fixture(params=[WIDE, PHONE], ids=["wide", "phone"])
def opened(browser, files, request) -> Iterator:
    """Return a function that opens a page; in the end nothing may have gone wrong in it."""
    width, height = request.param
    context = browser.new_context(
        viewport={"width": width, "height": height}, has_touch=width == PHONE[0]
    )
    context.set_default_timeout(5000)
    complaints, requests, pages = [], [], []

    def open_page(name: str):
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda sent: requests.append(sent.url))
        pages.append(files[name].as_uri())
        page.goto(pages[-1])
        return page

    yield open_page
    context.close()
    assert complaints == []
    assert [u for u in requests if not u.startswith(("data:", "blob:"))] == pages


def _wait(page, condition: str) -> None:
    """Wait until a condition holds; the page's policy stands in the way of playwright's own way."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {condition}")


def _scale(page) -> float:
    return page.locator(".pane.left .world").first.evaluate(
        "world => new DOMMatrix(world.style.transform).a"
    )


def _corner(page) -> list[float]:
    return page.locator(".pane.left .world").first.evaluate(
        "world => { const m = new DOMMatrix(world.style.transform); return [m.e, m.f]; }"
    )


def _share(page) -> int:
    return int(page.get_by_role("slider").get_attribute("aria-valuenow"))


@pytest.mark.parametrize("width", [718, 794])  # A4 with and without margins
def test_on_paper_tables_are_whole_and_nothing_is_folded(browser, files, width: int) -> None:
    for name in ("one", "two"):
        page = browser.new_page(viewport={"width": width, "height": 1000})
        page.goto(files[name].as_uri())
        page.locator("#protocols summary").first.click()
        page.evaluate(
            """addEventListener("beforeprint", () => {
              window.printed = document.querySelectorAll("details:not([open])").length;
            })"""
        )
        page.pdf()
        assert page.evaluate("printed") == 0
        assert page.locator("details[open]").count() == 1  # as before
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        boxes = page.locator(".scroller").evaluate_all(
            """all => all.map((one) => [one.scrollWidth - one.clientWidth,
              one.scrollHeight - one.clientHeight, one.querySelector("table").offsetWidth])"""
        )
        assert len(boxes) > 8
        assert [box for box in boxes if box[0] > 0 or box[1] > 0 or box[2] < 300] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        headings = page.locator("article.scene h3")
        assert headings.all_inner_texts() == ["area11", "area15"]
        assert all(box["height"] > 10 for box in (h.bounding_box() for h in headings.all()))
        page.close()


def test_long_names_leave_a_phone_room(browser, one_map, other_map, tmp_path: Path) -> None:
    width, height = PHONE
    page = browser.new_page(viewport={"width": width, "height": height})
    names = [f"ued_bes_sfm_seed{k}/ued/best.safetensors" for k in (0, 1)]
    maps = [
        dataclasses.replace(one, name=name)
        for one, name in zip((one_map, other_map), names, strict=True)
    ]
    write_page(tmp_path / "long.html", maps)
    page.goto((tmp_path / "long.html").as_uri())
    lines = """heading => {
      const walker = document.createTreeWalker(heading, NodeFilter.SHOW_TEXT);
      const found = [];
      while (walker.nextNode()) {
        const range = document.createRange();
        range.selectNodeContents(walker.currentNode);
        found.push([walker.currentNode.data, range.getClientRects().length]);
      }
      return found.filter(([text]) => text.trim());
    }"""
    parts = page.locator("h1").evaluate(lines)
    assert "".join(text for text, _ in parts) == f"A{names[0]}andB{names[1]}"
    assert [part for part in parts if part[1] != 1] == []  # no line ends within
    grid = page.locator("#protocols .scroller").first
    labels = grid.locator("tbody td:nth-child(2)").first.bounding_box()
    box = grid.bounding_box()
    assert labels["x"] + labels["width"] <= box["x"] + box["width"]
    page.close()


def test_it_fits_the_window(opened) -> None:
    for name in ("one", "two"):
        page = opened(name)
        widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1]
        boxes = page.locator(".stage").first.bounding_box()
        assert boxes["width"] > 250
        assert 200 < boxes["height"] <= page.viewport_size["height"]


# of every text that is seen: itself, and its contrast (WCAG 2.2, 1.4.3) with what is behind it;
# of a gradient, and of translucent colours over pictures, the colour that contrasts least
_CONTRASTS = """() => {
  const parsed = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] + below[i] * (1 - top[3]));
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, two) => {
    const [dark, bright] = [light(one), light(two)].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const style = getComputedStyle(e);
      const stops = style.backgroundImage.match(/rgba?\\([^)]*\\)/g) || [];
      const own = [...stops, style.backgroundColor].map(parsed).filter((c) => c[3] > 0);
      if (own.length) layers.push(own);
      if (own.some((c) => c[3] === 1)) break;
    }
    let seen = layers.length && layers.at(-1)[0][3] === 1 ? [] : [[255, 255, 255], [0, 0, 0]];
    for (const own of layers.reverse())
      seen = own.flatMap((c) => (c[3] === 1 ? [c.slice(0, 3)] : seen.map((b) => over(c, b))));
    return seen;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    const text = node.data.trim();
    if (!text || !element.checkVisibility({ opacityProperty: true })) continue;
    const style = getComputedStyle(element);
    const ink = parsed(element instanceof SVGElement ? style.fill : style.color);
    const worst = Math.min(...behind(element).map((b) => contrast(over(ink, b), b)));
    found.push([text.slice(0, 40), worst]);
  }
  return found;
}"""


def test_every_text_contrasts_with_what_is_behind_it(opened) -> None:
    for name in ("one", "two"):
        found = opened(name).evaluate(_CONTRASTS)
        assert len(found) > 200
        low = [pair for pair in found if pair[1] < 4.5]
        assert low == []


def test_its_policy_keeps_the_network_closed(browser, files) -> None:
    page = browser.new_page()
    page.goto(files["one"].as_uri())
    blocked = """(attempt) => new Promise((found) => {
      document.addEventListener("securitypolicyviolation", (e) => found(e.effectiveDirective));
      if (attempt === "image") new Image().src = "http://127.0.0.1:9/x.png";
      if (attempt === "fetch") fetch("http://127.0.0.1:9/x").catch(() => {});
      if (attempt === "script") {
        const script = document.createElement("script");
        script.textContent = "window.ran = true";
        document.body.append(script);
      }
    })"""
    for attempt, directive in (("image", "img-src"), ("fetch", "connect-src")):
        assert page.evaluate(blocked, attempt) == directive
    assert page.evaluate(blocked, "script").startswith("script-src")
    assert page.evaluate("window.ran") is None
    page.close()


def test_a_table_is_sorted_by_click_and_by_keyboard(opened, one_map) -> None:
    page = opened("one")
    table = page.locator("#classes table")
    iou = {c.name: c.iou for c in one_map.result.scores.classes}
    names = table.locator("tbody th")

    heading = table.get_by_role("columnheader", name="IoU")
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert names.all_inner_texts() == sorted(iou, key=lambda n: -iou[n])
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert names.all_inner_texts() == sorted(iou, key=lambda n: iou[n])
    first = table.get_by_role("columnheader", name="class")
    first.get_by_role("button").focus()
    page.keyboard.press("Space")
    assert heading.get_attribute("aria-sort") is None
    assert first.get_attribute("aria-sort") == "ascending"
    assert names.all_inner_texts() == sorted(iou)


def test_the_divider_is_swiped_by_mouse_and_by_keyboard(opened) -> None:
    page = opened("one")
    stage, divider = page.locator(".stage").first, page.get_by_role("slider")
    divider.scroll_into_view_if_needed()
    assert _share(page) == 50
    box = stage.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, middle, steps=4)
    page.mouse.up()
    assert _share(page) == 25
    clip = page.locator(".pane.left").evaluate("pane => getComputedStyle(pane).clipPath")
    assert float(re.match(r"inset\(0px ([\d.]+)%", clip)[1]) == pytest.approx(75, abs=0.1)
    page.keyboard.press("ArrowRight")
    assert _share(page) == 27
    page.keyboard.press("PageUp")
    assert _share(page) == 37
    page.keyboard.press("End")
    assert _share(page) == 100
    page.keyboard.press("Home")
    assert _share(page) == 0
    assert divider.get_attribute("aria-valuetext") == "0 % Scene, 100 % Prediction"


def test_the_map_is_zoomed_and_panned_by_mouse_and_by_keyboard(opened) -> None:
    page = opened("one")
    stage = page.locator(".stage").first
    stage.scroll_into_view_if_needed()
    fitted = _scale(page)
    box = stage.bounding_box()
    x, y = box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.25
    page.mouse.move(x, y)
    before = page.evaluate("scrollY")
    page.mouse.click(x, y)
    page.mouse.wheel(0, -400)
    _wait(
        page, f"new DOMMatrix(document.querySelector('.world').style.transform).a > {fitted * 1.5}"
    )
    assert page.evaluate("scrollY") == before
    zoomed, corner = _scale(page), _corner(page)
    page.mouse.down()
    page.mouse.move(x + 30, y + 20, steps=3)
    page.mouse.up()
    assert _corner(page) == pytest.approx([corner[0] + 30, corner[1] + 20], abs=1)
    stage.focus()
    page.keyboard.press("ArrowRight")
    assert _corner(page)[0] < corner[0] + 30
    page.keyboard.press("+")
    assert _scale(page) == pytest.approx(1.5 * zoomed)
    page.keyboard.press("-")
    page.keyboard.press("0")
    assert _scale(page) == pytest.approx(fitted)
    page.get_by_role("button", name="Zoom in").click()
    assert _scale(page) == pytest.approx(1.5 * fitted)
    page.get_by_role("button", name="Fit").click()
    assert _scale(page) == pytest.approx(fitted)


@pytest.mark.parametrize("opened", [PHONE], indirect=True, ids=["phone"])
def test_two_fingers_zoom_and_one_pans(opened) -> None:
    page = opened("one")
    stage = page.locator(".stage").first
    stage.scroll_into_view_if_needed()
    box, fitted = stage.bounding_box(), _scale(page)
    x, y = box["x"] + 0.25 * box["width"], box["y"] + 0.3 * box["height"]
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": a, "y": b, "id": k} for k, (a, b) in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (x, y))
    touch("touchStart", (x, y), (x + 40, y))
    touch("touchMove", (x, y), (x + 80, y))
    touch("touchMove", (x, y), (x + 120, y))
    touch("touchEnd")
    assert _scale(page) == pytest.approx(3 * fitted, rel=0.05)
    corner = _corner(page)
    touch("touchStart", (x, y))
    touch("touchMove", (x + 10, y + 5))
    touch("touchMove", (x + 25, y + 15))
    touch("touchEnd")
    assert _corner(page) == pytest.approx([corner[0] + 25, corner[1] + 15], abs=1)


def test_a_wheel_over_a_map_that_was_not_clicked_scrolls_the_page(opened) -> None:
    page = opened("one")
    stage = page.locator(".stage").first
    stage.scroll_into_view_if_needed()
    fitted, before = _scale(page), page.evaluate("scrollY")
    stage.hover()
    page.mouse.wheel(0, 200)
    _wait(page, f"scrollY > {before}")
    assert _scale(page) == fitted


def test_a_worst_region_is_one_click_away(opened, one_map) -> None:
    page = opened("one")
    region = worst_regions(one_map.result.evaluation.counts.scenes[0], "full")[0]
    link = page.locator("a[data-region]").first
    link.scroll_into_view_if_needed()
    fitted = _scale(page)
    link.click()
    page.wait_for_timeout(600)

    stage, mark = page.locator(".stage").first, page.locator(".mark").first
    assert _scale(page) > 1.5 * fitted
    outer, inner = stage.bounding_box(), mark.bounding_box()
    assert inner["x"] >= outer["x"]
    assert inner["x"] + inner["width"] <= outer["x"] + outer["width"] + 1
    assert inner["width"] == pytest.approx(min(64, 400 - region.column) * _scale(page), abs=6)
    assert page.locator(".right-layer").input_value() == "errors-0"
    assert CLASSES[region.true] in page.get_by_role("status").inner_text()
    _wait(page, "document.querySelector('.readout').textContent.includes('truth: ')")
    row, column = region.row + 32, region.column + 32
    words = page.locator(".readout").inner_text()
    if region.row + 64 <= 300 and region.column + 64 <= 400:
        assert f"column {column}, row {row}" in words


def test_the_readout_names_the_classes_under_the_pointer(opened, scenes: list) -> None:
    page = opened("one")
    stage = page.locator(".stage").first
    stage.scroll_into_view_if_needed()
    prediction, _ = made_prediction(scenes[0], 1)
    box = stage.bounding_box()
    for across, down in ((0.3, 0.4), (0.7, 0.8), (0.02, 0.05)):
        page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
        _wait(page, "document.querySelector('.readout').textContent.includes('truth')")
        words = page.locator(".readout").inner_text()
        column, row = map(int, re.match(r"column (\d+), row (\d+)", words).groups())
        truth = scenes[0].truth[row, column]
        name = "no class" if truth == 255 else CLASSES[truth]
        assert f"truth: {name}" in words
        assert f"prediction: {CLASSES[prediction[row, column]]}" in words


def test_the_safe_palette_recolours_maps_and_legend(opened) -> None:
    page = opened("one")
    page.locator(".right-layer").select_option("truth")
    colours = """async () => {
      const image = document.querySelector(".pane.right img.classes");
      await image.decode();
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
      const context = canvas.getContext("2d");
      context.drawImage(image, 0, 0);
      const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
      const found = new Set();
      for (let i = 0; i < pixels.length; i += 4) found.add(pixels.slice(i, i + 3).join());
      return [...found].sort();
    }"""
    switch = page.get_by_role("switch")
    swatch = page.locator(".legend .class-1")
    own = sorted(",".join(map(str, c)) for c in (*COLOURS, (43, 48, 54)))
    assert page.evaluate(colours) == own
    assert swatch.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(0, 0, 255)"
    switch.focus()
    page.keyboard.press("Space")
    assert switch.get_attribute("aria-checked") == "true"
    safe = safe_palette(COLOURS)
    assert page.evaluate(colours) == sorted(",".join(map(str, c)) for c in (*safe, (43, 48, 54)))
    shown = swatch.evaluate("e => getComputedStyle(e).backgroundColor")
    assert shown == f"rgb({', '.join(map(str, safe[1]))})"
    switch.click()
    assert page.evaluate(colours) == own


def test_another_scene_is_chosen(opened) -> None:
    page = opened("one")
    assert page.locator("article.scene:visible").count() == 1
    page.get_by_label("Scene", exact=True).select_option(label="area15")
    shown = page.locator("article.scene:visible")
    assert shown.get_attribute("id") == "scene-1"
    assert shown.locator(".stage").bounding_box()["height"] > 200


def test_two_predictions_are_swiped_against_each_other(opened) -> None:
    page = opened("two")
    value = page.get_by_role("slider").get_attribute("aria-valuetext")
    assert value == "50 % Prediction A, 50 % Prediction B"
    sources = [
        page.locator(f".pane.{side} img").first.get_attribute("src") for side in ("left", "right")
    ]
    assert sources[0] != sources[1]
    page.locator(".stage").first.hover(position={"x": 40, "y": 60})
    _wait(page, "document.querySelector('.readout').textContent.includes('prediction B: ')")
    words = page.locator(".readout").inner_text()
    assert re.search(r"truth: .* · prediction A: .* · prediction B: ", words)


def test_evil_names_do_nothing(browser, tmp_path: Path) -> None:
    scenes = [made_scene(tmp_path, f"s{k}{EVIL}", 96, 128, k) for k in (1, 2)]
    one = evaluated_map(EVIL, scenes, 1, classes=[f"{c}{EVIL}" for c in CLASSES])
    path = tmp_path / "evil.html"
    write_page(path, [one])
    page = browser.new_page()
    dialogs, errors = [], []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message) or dialog.dismiss())
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    page.locator("a[data-region]").first.click()
    page.get_by_label("Scene", exact=True).select_option(index=1)
    page.wait_for_timeout(200)
    assert (dialogs, errors) == ([], [])
    assert page.locator("h1").inner_text() == EVIL
    page.close()


def test_without_scripts_tables_and_pictures_are_there(browser, files) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(files["one"].as_uri())
    assert page.locator("article.scene:visible").count() == 2
    pictures = page.locator(".stills img:visible")
    assert pictures.count() == 8
    sizes = pictures.evaluate_all("all => all.map((one) => one.naturalWidth)")
    assert sizes == [400] * 8
    assert page.locator("#classes tbody tr:visible").count() == 6
    assert not page.get_by_role("switch").is_visible()
    context.close()


def test_motion_is_reduced_where_that_is_asked_for(browser, files) -> None:
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.goto(files["one"].as_uri())
    page.locator("a[data-region]").first.click()
    found = page.locator(".world").first.evaluate("e => getComputedStyle(e).transitionDuration")
    assert found == "0s"
    context.close()


def test_pictures_are_those_of_the_views(one_map) -> None:
    text = report_page([one_map])
    assert base64.b64encode(one_map.views[1].errors).decode() in text
