"""The report's page in a browser, wide and on a phone: what is seen of it, and what it may do."""

import dataclasses
from pathlib import Path

import pytest
from samples.browser_windows import PHONE
from samples.made_evaluation import CLASSES, evaluated_map, made_scene

from hrrsi.report.page import write_page

EVIL = "\"><script>alert(1)</script>'&amp;</script><!--"


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
        dataclasses.replace(entry, name=name)
        for entry, name in zip((one_map, other_map), names, strict=True)
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
        contrasts = opened(name).evaluate(_CONTRASTS)
        assert len(contrasts) > 200
        low = [pair for pair in contrasts if pair[1] < 4.5]
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


def test_evil_names_do_nothing(browser, tmp_path: Path) -> None:
    scenes = [made_scene(tmp_path, f"s{k}{EVIL}", 96, 128, k) for k in (1, 2)]
    evil_map = evaluated_map(EVIL, scenes, 1, classes=[f"{c}{EVIL}" for c in CLASSES])
    path = tmp_path / "evil.html"
    write_page(path, [evil_map])
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
    duration = page.locator(".world").first.evaluate("e => getComputedStyle(e).transitionDuration")
    assert duration == "0s"
    context.close()
