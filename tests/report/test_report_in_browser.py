"""The HTML report in a browser, wide and on a phone: what it does when it is used."""

import dataclasses
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from samples.made_evaluation import (
    CLASSES,
    COLOURS,
    evaluated_map,
    made_prediction,
    made_scene,
)

from hrrsi.report.page import write_page
from hrrsi.report.viewer_section import safe_palette, worst_regions

EVIL = "\"><script>alert(1)</script>'&amp;</script><!--"


WIDE, PHONE = (1440, 900), (390, 844)


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
