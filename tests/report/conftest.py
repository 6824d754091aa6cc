"""Made maps of two scenes, whose reports several test modules read, and pages of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from samples.browser_windows import PHONE, WIDE
from samples.made_evaluation import evaluated_map, made_scene

from hrrsi.report.page import write_page


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list:
    folder = tmp_path_factory.mktemp("scenes")
    return [made_scene(folder, f"area{seed}", 300, 400, seed) for seed in (11, 15)]


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def other_map(scenes: list):
    return evaluated_map("weights B", scenes, 50, wrong=0.1)


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
