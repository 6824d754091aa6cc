"""The report's viewer of scenes in a browser, wide and on a phone: what it does when it is used."""

import re

import pytest
from samples.browser_windows import PHONE
from samples.made_evaluation import CLASSES, COLOURS, made_prediction

from hrrsi.report.viewer_section import safe_palette, worst_regions


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
