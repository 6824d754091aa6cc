"""The site: it builds without a warning, holds every command and name, and asks nobody."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from samples.repository import REPOSITORY

import hrrsi
from hrrsi.cli import COMMANDS

pytestmark = pytest.mark.long


class Loaded(HTMLParser):
    """What a page loads of itself, and the identifiers of its headings.

    Attributes:
        addresses: Of scripts, styles, pictures and frames.
        anchors: Identifiers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.anchors.add(values.get("id", ""))
        is_loaded = tag == "link" and values.get("rel") in ("stylesheet", "preconnect", "icon")
        if "src" in values or is_loaded:
            address = values.get("src", values.get("href", ""))
            self.addresses += [address] if address else []  # scripts that are not needed


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a link that leads nowhere is an error (not with ``--quiet``)."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(out)]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    warnings = [line for line in done.stderr.splitlines() if not line.startswith("INFO")]
    assert (done.returncode, warnings, done.stdout) == (0, [], "")
    return out


def read(page: Path) -> Loaded:
    loaded = Loaded()
    loaded.feed(page.read_text(encoding="utf-8"))
    return loaded


def test_the_reference_is_whole(site: Path) -> None:
    commands = read(site / "reference" / "commands.html").anchors
    assert {f"hrrsi-{name}" for name in COMMANDS} <= commands
    text = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for flag in ("--resample", "--mosaic", "--split-blocks", "--teacher", "--macs"):
        assert f"<code>{flag}</code>" in text
    names = read(site / "reference" / "python.html").anchors
    for name in set(hrrsi.__all__) - {"__version__"}:
        assert any(anchor.startswith("hrrsi.") and anchor.endswith(f".{name}") for anchor in names)


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    assert len(pages) > 12
    for page in pages:
        addresses = read(page).addresses
        assert addresses
        for address in addresses:
            assert not re.match(r"(https?:)?//", address), (page, address)
            assert address.startswith("data:") or (page.parent / address.split("?")[0]).exists()
        assert "search_from_disk.js" in " ".join(addresses)  # workers don't start from the disk
        # what asks a host of repositories for stars, on each visit
        assert 'data-md-component="source"' not in page.read_text(encoding="utf-8")
