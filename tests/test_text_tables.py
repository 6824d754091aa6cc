"""Tables for people: where figures stand, what is drawn around them, and that text stays text."""

import unicodedata

import pytest

from hrrsi.quantities import TextTable


def scores() -> TextTable:
    table = TextTable(["class", "pixels\n(thousands)", "share"])
    table.add_row(["Building", 12, "50.00%"])
    table.add_row(["Car", "1,204", "-"])
    table.add_divider()
    table.add_row(["all with data", "", 100])
    table.add_divider()  # nothing follows it
    return table


def test_names_stand_left_and_figures_right() -> None:
    assert str(scores()).splitlines() == [
        "+---------------+-------------+--------+",
        "| class         |      pixels |  share |",
        "|               | (thousands) |        |",
        "+---------------+-------------+--------+",
        "| Building      |          12 | 50.00% |",
        "| Car           |       1,204 |      - |",
        "+---------------+-------------+--------+",
        "| all with data |             |    100 |",
        "+---------------+-------------+--------+",
    ]


def test_markdown_says_where_columns_stand() -> None:
    assert scores().markdown().splitlines() == [
        "| class         | pixels (thousands) |  share |",
        "| :-------------|------------------: |------: |",
        "| Building      |                 12 | 50.00% |",
        "| Car           |              1,204 |      - |",
        "| all with data |                    |    100 |",
    ]


def test_a_table_of_no_rows_has_its_headings() -> None:
    assert str(TextTable(["split", "scenes"])).splitlines() == [
        "+-------+--------+",
        "| split | scenes |",
        "+-------+--------+",
    ]


def test_long_text_of_the_last_column_goes_on_below() -> None:
    table = TextTable(["run", "what"], left=(0, 1), widest=12)
    table.add_row(["first run", "a sentence of many words"])
    assert str(table).splitlines()[3:-1] == [
        "| first run | a sentence   |",
        "|           | of many      |",
        "|           | words        |",
    ]


@pytest.mark.parametrize("name", ["[bold]wall[/bold]", ":house: \\[x]", "水域と草地", "Straße é"])
def test_names_are_shown_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("FORCE_COLOR", "TTY_INTERACTIVE"):
        monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("COLUMNS", "10")  # of a terminal, which it may not go to
    table = TextTable(["class", "pixels"])
    for cells in ((name, 1), ("Land", 123_456_789)):
        table.add_row(cells)
    lines = str(table).splitlines()
    assert lines[3].startswith(f"| {name} ")
    columns = {
        sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in line)
        for line in lines
    }
    assert len(columns) == 1


def test_html_escapes_names() -> None:
    table = TextTable(["class", "IoU"])
    table.add_row(["<b> & c", "50.00%"])
    assert table.html() == (
        "<table><tr><th>class</th><th>IoU</th></tr>"
        "<tr><td>&lt;b&gt; &amp; c</td><td>50.00%</td></tr></table>"
    )


def test_a_class_may_be_called_like_a_heading() -> None:
    table = TextTable(["zone", "zone", "mapped px"])
    table.add_row(["north", "1.00%", 200])
    assert str(table).splitlines()[1] == "| zone  |  zone | mapped px |"
