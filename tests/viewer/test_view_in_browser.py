"""The viewer's page in a browser, wide and on a phone: swipe, click, legend, keyboard."""

import io
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from samples.browser_windows import PHONE, WIDE
from samples.viewed_maps import CLASSES, COLOURS, MadeMap, blobs, made_map, write_scene

import hrrsi
from hrrsi.viewer.places import Place


@pytest.fixture(scope="module")
def class_map(tmp_path_factory: pytest.TempPathFactory) -> MadeMap:
    labels = blobs(420, 640, 5)
    labels[:50, :80] = 255
    return made_map(tmp_path_factory.mktemp("seen"), labels=labels, with_confidence=True)


@pytest.fixture(scope="module")
def truth(class_map: MadeMap) -> tuple[Path, np.ndarray]:
    labels = np.where(blobs(420, 640, 8) == 1, blobs(420, 640, 6), class_map.labels)
    path = write_scene(class_map.path.with_name("truth.tif"), labels[None])
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {n: (*colour, 255) for n, colour in enumerate(COLOURS)})
    path.with_name("truth.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><CategoryNames>'
        + "".join(f"<Category>{name}</Category>" for name in CLASSES)
        + "</CategoryNames></PAMRasterBand></PAMDataset>"
    )
    return path, labels


@pytest.fixture(params=[WIDE, PHONE], ids=["wide", "phone"])
def opened(browser, request) -> Iterator:
    """Return a function that opens the page of maps; in the end nothing may have gone wrong."""
    width, height = request.param
    is_phone = width == PHONE[0]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        has_touch=is_phone,
        device_scale_factor=3 if is_phone else 1,
    )
    context.set_default_timeout(8000)
    complaints, elsewhere, viewers = [], [], []

    def open_page(maps, **options):
        viewers.append(hrrsi.view(maps, **options))
        address = viewers[-1].address
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "response",
            lambda answer: complaints.append(answer.url) if answer.status >= 400 else None,
        )
        page.on(
            "request",
            lambda sent: (
                None if sent.url.startswith((address, "data:")) else elsewhere.append(sent.url)
            ),
        )
        page.goto(address)
        wait(page, "window.page && document.querySelectorAll('.legend tfoot').length > 0")
        wait(page, "document.querySelectorAll('.leaflet-tile-loaded').length > 0")
        return page

    yield open_page
    context.close()
    for viewer in viewers:
        viewer.close()
    assert complaints == []
    assert elsewhere == []


def wait(page, condition: str) -> None:
    """Wait until a condition holds; the page's policy stands in the way of playwright's own way."""
    for _ in range(160):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {condition}")


def place_of(page, row: float, column: float) -> tuple[float, float]:
    """Where a place of the map, in pixels of it, is in the window."""
    box = page.locator("#map").bounding_box()
    script = f"(({{x, y}}) => [x, y])(window.page.map.latLngToContainerPoint([{row}, {column}]))"
    x, y = page.evaluate(script)
    return box["x"] + x, box["y"] + y


def clip(page, side: str) -> list[float]:
    """The left and right end of a side's clip, in pixels of the window."""
    script = f"""() => {{
      const text = window.page.map.getPane("{side}").style.clipPath;
      const numbers = text.match(/-?[\\d.]+(?=px)/g).map(Number);
      const at = (k) => window.page.map.layerPointToContainerPoint([numbers[k], numbers[k + 1]]).x;
      return [at(0), at(2)];
    }}"""
    return page.evaluate(script)


def facts(page) -> dict[str, str]:
    """What is said of a pixel."""
    names = page.locator("#pixel dt").all_inner_texts()
    return dict(zip(names, page.locator("#pixel dd").all_inner_texts(), strict=True))


def test_it_fits_the_window(opened, class_map: MadeMap) -> None:
    page = opened(class_map.path)
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    heights = page.evaluate("[document.documentElement.scrollHeight, innerHeight]")
    assert widths[0] <= widths[1]
    assert heights[0] <= heights[1]
    box = page.locator("#map").bounding_box()
    assert box["width"] >= 380
    assert box["height"] >= 600
    assert page.title() == "scene - hrrsi view"
    for corner in ((0, 0), (420, 640)):
        x, y = place_of(page, *corner)
        assert box["x"] <= x <= box["x"] + box["width"]
        assert box["y"] <= y <= box["y"] + box["height"]


def test_the_swipe_moves_what_is_seen_of_each_side(opened, class_map: MadeMap) -> None:
    page = opened(class_map.path)
    box = page.locator("#stage").bounding_box()
    width, middle = box["width"], box["y"] + box["height"] / 2
    assert clip(page, "left") == pytest.approx([0, width / 2], abs=1)
    assert clip(page, "right") == pytest.approx([width / 2, width], abs=1)
    page.mouse.move(box["x"] + width / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + width / 4, middle, steps=4)
    page.mouse.up()
    slider = page.get_by_role("slider", name="Swipe")
    assert slider.get_attribute("aria-valuenow") == "25"
    assert slider.get_attribute("aria-valuetext") == "25 % Scene, 75 % Map"
    assert clip(page, "right") == pytest.approx([width / 4, width], abs=1)
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuenow") == "27"
    page.keyboard.press("Home")
    assert clip(page, "right") == pytest.approx([0, width], abs=1)
    page.keyboard.press("End")
    assert clip(page, "left") == pytest.approx([0, width], abs=1)
    page.locator("#map").focus()
    page.keyboard.press(",")
    assert slider.get_attribute("aria-valuenow") == "98"
    before = page.evaluate("window.page.map.getZoom()")
    page.keyboard.press("+")
    wait(page, f"window.page.map.getZoom() > {before} + 0.9")
    page.wait_for_timeout(400)
    assert clip(page, "left") == pytest.approx([0, 0.98 * width], abs=1)  # wherever the map is


def test_a_pixel_tells_what_rasterio_reads_there(opened, class_map: MadeMap) -> None:
    page = opened(class_map.path)
    is_phone = page.viewport_size["width"] == PHONE[0]
    with rasterio.open(class_map.path) as file:
        # beside the handle's line, beside it, on it, and where there is no class
        for row, column, aside in ((101, 333, 9), (300, 50, -12), (200, 201, 0), (12, 30, 7)):
            page.evaluate(
                f"window.page.map.setView([{row}, {column + aside}], 3, {{animate: false}})"
            )
            x, y = place_of(page, row + 0.5, column + 0.5)
            page.touchscreen.tap(x, y) if is_phone else page.mouse.click(x, y)
            wait(page, f"document.querySelector('#pixel.shown')?.innerText.includes('row {row}')")
            shown_facts = facts(page)
            value = int(file.read(1, window=((row, row + 1), (column, column + 1)))[0, 0])
            assert shown_facts["Pixel"] == f"column {column}, row {row}"
            assert shown_facts["Class"] == ("no class" if value == 255 else CLASSES[value])
            if value != 255:
                share = class_map.confidence[row, column] / 250
                assert shown_facts["Confidence"] == f"{100 * share:.1f} %"
            assert shown_facts["EPSG:25832"] == "{:.2f}, {:.2f}".format(*file.xy(row, column))
            assert re.fullmatch(r"49\.\d{6}° N, 8\.\d{6}° E", shown_facts["WGS 84"])
            mark = page.locator(".leaflet-overlay-pane path").last.bounding_box()
            assert mark["x"] < x < mark["x"] + mark["width"]
            page.keyboard.press("Escape")
            assert not page.locator("#pixel").is_visible()
            page.wait_for_timeout(300)  # two taps at once would zoom


@pytest.mark.parametrize("opened", [WIDE], indirect=True, ids=["wide"])
def test_the_pixel_that_was_clicked_last_is_told(
    opened, class_map: MadeMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    point, second_is_told = Place.point, threading.Event()

    def late_for_the_first(self: Place, row: int, column: int) -> dict:
        if row == 100:
            second_is_told.wait(10)
        return point(self, row, column)

    monkeypatch.setattr(Place, "point", late_for_the_first)
    page = opened(class_map.path)
    page.evaluate(
        "window.first = window.page.showPixel({lat: 100.5, lng: 90.5});"
        "window.page.showPixel({lat: 200.5, lng: 90.5}).then(() => (window.told = true))"
    )
    wait(page, "window.told")
    second_is_told.set()
    page.evaluate("window.first")
    assert facts(page)["Pixel"] == "column 90, row 200"


def test_the_map_is_drawn_where_its_pixels_are(opened, class_map: MadeMap) -> None:
    """What is on the screen is the class's own colour, at full opacity and far zoomed in."""
    page = opened(class_map.path)
    page.evaluate("window.page.divide(0); window.page.setOpacity(100)")
    page.evaluate("window.page.map.setView([200.5, 320.5], 4, {animate: false})")
    wait(
        page,
        "!document.querySelector('.leaflet-right-pane')?.querySelector('img:not(.leaflet-tile-loaded)')",
    )
    page.wait_for_timeout(300)
    shown = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    density = 3 if page.viewport_size["width"] == PHONE[0] else 1
    box = page.locator("#map").bounding_box()
    left, top = place_of(page, 0, 0)
    right, bottom = place_of(page, 420, 640)
    compared = 0
    for row in range(194, 207):
        for column in range(314, 327):
            x = left + (column + 0.5) * (right - left) / 640
            y = top + (row + 0.5) * (bottom - top) / 420
            # not under the tags and buttons
            if not box["x"] + 60 < x < box["x"] + box["width"] - 70:
                continue
            if not box["y"] + 60 < y < box["y"] + box["height"] - 220:
                continue
            pixel = shown.getpixel((round(x * density), round(y * density)))
            assert pixel == COLOURS[class_map.labels[row, column]], (row, column)
            compared += 1
    assert compared > 100


def test_the_legend_counts_and_hides(opened, class_map: MadeMap) -> None:
    page = opened(class_map.path)
    if page.viewport_size["width"] == PHONE[0]:
        page.get_by_role("button", name="Legend").click()
    pixels = np.bincount(class_map.labels.ravel(), minlength=256)
    cells = page.locator(".legend tbody tr")
    for index, row in enumerate(cells.all()):
        name, share, area = (row.locator("th, td").nth(k).inner_text() for k in range(3))
        assert name == CLASSES[index]
        assert share == f"{100 * pixels[index] / pixels[:4].sum():.1f} %"
        assert area.endswith(("m²", "ha"))
    assert f"{pixels[255]:,} px" in page.locator(".legend tfoot").inner_text()
    page.evaluate("window.page.map.setZoom(-1.3, {animate: false})")
    button = page.get_by_role("button", name="road")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    wait(
        page,
        "[...document.querySelectorAll('img.leaflet-tile-loaded')]"
        ".some((image) => image.src.endsWith('hide=2'))",
    )
    page.locator("#map").focus()
    page.keyboard.press("3")
    assert button.get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("opened", [WIDE], indirect=True, ids=["wide"])
def test_a_class_can_be_hidden_while_others_are_counted(
    opened, class_map: MadeMap, truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    polled, goes_on = [], threading.Event()
    described = Place.counted
    monkeypatch.setattr(Place, "_pass", lambda *_: goes_on.wait(30))
    monkeypatch.setattr(Place, "counted", lambda self: polled.append(self) or described(self))
    try:
        page = opened(class_map.path, labels=truth[0])
        button = page.locator(".legend", has_text="Map").get_by_role("button", name="road")
        button.hover()
        page.mouse.down()
        seen = len(polled)
        for _ in range(100):
            page.wait_for_timeout(50)
            if len(polled) > seen + 1:
                break
        page.mouse.up()
        assert button.get_attribute("aria-pressed") == "false"
    finally:
        goes_on.set()


def test_errors_are_a_layer_and_said_of_a_pixel(opened, class_map: MadeMap, truth) -> None:
    path, labels = truth
    page = opened(class_map.path, labels=path)
    assert page.locator("#left-tag").inner_text() == "Labels"
    if page.viewport_size["width"] == PHONE[0]:
        page.get_by_role("button", name="Legend").click()
    page.get_by_label("Right").select_option("Errors")
    compared = class_map.labels != 255
    right = (class_map.labels == labels)[compared].mean()
    wait(page, "document.querySelector('.summary')")
    words = page.locator(".summary").inner_text()
    assert words == f"{100 * right:.2f} % of {compared.sum():,} compared pixels are right."
    wrong = np.argwhere(compared & (class_map.labels != labels))
    row, column = (int(k) for k in wrong[len(wrong) // 2])
    page.evaluate(f"window.page.showPixel({{lat: {row}.5, lng: {column}.5}})")
    wait(page, "document.querySelector('#pixel.shown')")
    shown_facts = facts(page)
    assert shown_facts["The map is"] == "wrong"
    assert shown_facts["Label"] == CLASSES[labels[row, column]]


@pytest.mark.parametrize("opened", [PHONE], indirect=True, ids=["phone"])
def test_two_maps_are_swiped_against_each_other(opened, tmp_path: Path) -> None:
    names = ("ortho_2024_flown_in_the_last_week_of_march", "ortho_2025_flown_in_the_first_of_may")
    first, second = (made_map(tmp_path, name, seed=7 + n) for n, name in enumerate(names))
    page = opened([first.path, second.path])
    tags = [page.locator(f"#{side}-tag").inner_text() for side in ("left", "right")]
    assert tags == list(names)
    assert page.locator(".legend").count() == 2
    page.locator("#map").focus()
    page.keyboard.press("x")
    assert page.locator("#left-tag").inner_text() == names[1]
    page.keyboard.press("i")
    wait(page, "document.querySelector('#pixel.shown')")
    shown_facts = facts(page)
    for name, one in zip(names, (first, second), strict=True):
        assert shown_facts[name.replace("ortho_", "…")] == CLASSES[one.labels[150, 210]]
    box = page.locator("#pixel").bounding_box()
    inner = [one.bounding_box() for one in page.locator("#pixel dt, #pixel dd").all()]
    assert box["x"] + box["width"] < PHONE[0] - 60  # beside the buttons
    assert all(one["x"] + one["width"] <= box["x"] + box["width"] for one in inner)
    assert box["height"] < 200


@pytest.mark.parametrize("opened", [WIDE], indirect=True, ids=["wide"])
def test_places_are_chosen_in_a_list(opened, tmp_path: Path) -> None:
    nowhere = {"crs": None, "transform": None}
    class_maps = [
        made_map(tmp_path, name, height=900 - 820 * n, width=1100 - 970 * n, **nowhere)
        for n, name in enumerate("ab")
    ]
    page = opened([one.path for one in class_maps])
    assert page.locator("#scale").inner_text().endswith(" px")
    page.locator("#map").focus()
    page.keyboard.press("n")
    assert page.locator("h1").inner_text() == "b"
    wait(page, "document.querySelectorAll('.legend tfoot').length > 0")
    assert page.evaluate("window.page.place.width") == 130
    page.wait_for_timeout(500)  # nothing moves it any more
    box = page.locator("#map").bounding_box()
    x, y = place_of(page, 40, 65)
    assert x == pytest.approx(box["x"] + box["width"] / 2, abs=2)
    assert y == pytest.approx(box["y"] + box["height"] / 2, abs=2)
    assert place_of(page, 0, 130)[0] > box["x"] + 0.9 * box["width"]
    page.keyboard.press("p")
    assert page.locator("h1").inner_text() == "a"


@pytest.mark.parametrize("opened", [WIDE], indirect=True, ids=["wide"])
def test_keys_are_told_and_work(opened, class_map: MadeMap) -> None:
    page = opened(class_map.path)
    page.locator("#map").focus()
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.get_by_role("dialog").is_visible()
    page.locator("#map").focus()
    page.keyboard.press("[")
    assert page.evaluate("window.page.opacity") == 70
    page.keyboard.press("m")
    assert page.evaluate("window.page.right.tiles.options.opacity") == 0
    page.keyboard.press("m")
    assert page.evaluate("window.page.right.tiles.options.opacity") == 0.7
    fitted = page.evaluate("window.page.map.getZoom()")
    page.keyboard.press("+")
    wait(page, f"window.page.map.getZoom() > {fitted} + 0.9")
    page.keyboard.press("0")
    wait(page, f"Math.abs(window.page.map.getZoom() - {fitted}) < 0.01")
    is_folded = page.evaluate("document.body.classList.contains('folded')")
    page.keyboard.press("l")
    assert page.evaluate("document.body.classList.contains('folded')") != is_folded


@pytest.mark.parametrize("opened", [WIDE], indirect=True, ids=["wide"])
def test_names_of_classes_are_text(opened, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    path = write_scene(tmp_path / "evil.tif", blobs(60, 80, 1, 2)[None])
    path.with_name("evil.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><CategoryNames><Category>&lt;img src=x '
        "onerror=alert(1)&gt;</Category><Category>b</Category></CategoryNames></PAMRasterBand>"
        "</PAMDataset>"
    )
    page = opened(path)
    assert page.locator(".legend tbody th").first.inner_text(timeout=4000) == evil or (
        evil in page.locator(".legend tbody").first.text_content()
    )
    assert page.locator("img[src='x']").count() == 0
