"""Names and colours of classes in files and notebooks: QGIS' styles, GDAL's sidecars, legends."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from html import escape
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

from hrrsi.classes import Colour

_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
# As QGIS makes it when it saves a style to a GeoPackage.
_STYLES_TABLE = """
CREATE TABLE layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256),
    f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256),
    styleName TEXT(30), styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT,
    owner TEXT(30), ui TEXT(30), update_time DATETIME
)
"""
_ALWAYS = "1970-01-01T00:00:00.000Z"  # a time of writing would make every file another
_LARGEST_STYLE = 8 << 20  # bytes


class Category(NamedTuple):
    """What a style shows a value as.

    Attributes:
        value: The value, as text.
        label: What legends call it; empty where they don't.
        colour: Its colour, or None where it has none of its own (a picture, a hatching).
    """

    value: str
    label: str
    colour: Colour | None


class PolygonCategories(NamedTuple):
    """A categorised style of polygons.

    Attributes:
        attribute: The attribute that tells categories apart.
        categories: In the order of the legend, without the one for all other values.
    """

    attribute: str
    categories: list[Category]


def legend_html(names: Sequence[str], colours: Sequence[Colour], texts: Sequence[str] = ()) -> str:
    """Return the names of classes beside their colours, as HTML for a notebook.

    Args:
        names: Class names.
        colours: Red, green and blue of each, 0 to 255.
        texts: What follows each name, such as its share; by default nothing.
    """
    style = "border-left:1em solid rgb{colour};padding:0 1em 0 .3em;white-space:nowrap"
    rows = zip(names, colours, texts or [""] * len(names), strict=True)
    parts = [
        f'<span style="{style.format(colour=tuple(colour))}">{escape(name)} {escape(text)}</span>'
        for name, colour, text in rows
    ]
    return f"<p>{' '.join(parts)}</p>"


def polygon_style(
    classes: Sequence[str],
    colours: Sequence[Colour],
    attribute: str,
    *,
    opacity: float = 1,
    outlined: bool = False,
) -> str:
    """Return a QGIS style (QML): polygons filled by class.

    Args:
        classes: Class names, which `attribute` holds.
        colours: Their colours.
        attribute: The attribute that tells classes apart.
        opacity: 0 to 1.
        outlined: Whether polygons have outlines, so that neighbours of one class show; those of no
            class are outlines alone.
    """
    root = ET.Element("qgis", version="3.22.0", styleCategories="Symbology")
    root.append(polygon_renderer(classes, colours, attribute, opacity=opacity, outlined=outlined))
    return qml_text(root)


def polygon_renderer(
    classes: Sequence[str],
    colours: Sequence[Colour],
    attribute: str,
    *,
    opacity: float = 1,
    outlined: bool = False,
) -> ET.Element:
    """Return the part of a QGIS style that shows polygons, as `polygon_style` has it."""
    renderer = ET.Element(
        "renderer-v2", type="categorizedSymbol", attr=attribute, enableorderby="0"
    )
    categories = ET.SubElement(renderer, "categories")
    symbols = ET.SubElement(renderer, "symbols")
    fills = [(name, colour, "solid") for name, colour in zip(classes, colours, strict=True)]
    if outlined:
        fills.append(("", (255, 255, 255), "no"))  # without a value: what QGIS shows all others as
    for index, (name, colour, fill) in enumerate(fills):
        ET.SubElement(
            categories, "category", symbol=str(index), value=name, label=name, render="true"
        )
        symbol = ET.SubElement(
            symbols, "symbol", type="fill", name=str(index), alpha=f"{opacity:g}"
        )
        layer = ET.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1"})
        properties = {
            "color": ",".join(map(str, (*colour, 255))),
            "outline_color": "35,35,35,255",
            "outline_style": "solid" if outlined else "no",
            "outline_width": "0.26",
            "style": fill,
        }
        options = ET.SubElement(layer, "Option", type="Map")
        for key, value in properties.items():
            ET.SubElement(options, "Option", type="QString", name=key, value=value)
    return renderer


def qml_text(root: ET.Element) -> str:
    """Return a QGIS style as the content of a ``.qml``."""
    ET.indent(root)
    return _DOCTYPE + ET.tostring(root, encoding="unicode") + "\n"


def add_default_style(geopackage: Path, layer: str, geometry_column: str, style: str) -> None:
    """Write a style into a GeoPackage as the one with which QGIS opens a layer."""
    with closing(sqlite3.connect(geopackage)) as database, database:
        database.execute(_STYLES_TABLE)
        database.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, description, "
            "last_change) VALUES ('layer_styles', 'attributes', 'layer_styles', '', ?)",
            (_ALWAYS,),
        )
        database.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, "
            "f_geometry_column, styleName, styleQML, styleSLD, useAsDefault, description, owner, "
            "update_time) VALUES ('', '', ?, ?, 'classes', ?, '', 1, '', '', ?)",
            (layer, geometry_column, style, _ALWAYS),
        )


def polygon_categories(path: str | Path, layer: str) -> PolygonCategories | None:
    """Return the categories in which QGIS shows a layer of polygons, or None without such a style.

    A GeoPackage's own default style counts, then one of its others, the newest first; else the
    ``.qml`` beside the file.

    Args:
        path: The vector file.
        layer: The layer's name.
    """
    for text in (*_stored_styles(Path(path), layer), _text_of(Path(path).with_suffix(".qml"))):
        categories = _polygon_categories(text)
        if categories is not None:
            return categories
    return None


def raster_categories(path: str | Path) -> list[Category]:
    """Return the values of a raster that files beside it name or colour.

    Those of GDAL's sidecar (``NAME.tif.aux.xml``) come first, then those of a QGIS style.

    Args:
        path: The raster.
    """
    root = _parsed(_text_of(Path(path).with_suffix(".qml")))
    entries = (
        () if root is None else root.iterfind(".//rasterrenderer[@type='paletted']//paletteEntry")
    )
    styled = [
        Category(entry.get("value", ""), entry.get("label", "").strip(), _hex(entry.get("color")))
        for entry in entries
    ]
    return [*_sidecar_categories(Path(path)), *styled]


def _stored_styles(path: Path, layer: str) -> Iterator[str]:
    if path.suffix.lower() != ".gpkg" or not path.is_file():
        return
    try:
        # immutable: a file that can only be read is no reason to fail
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            rows = database.execute(
                "SELECT styleQML FROM layer_styles WHERE f_table_name = ? "
                "ORDER BY useAsDefault DESC, update_time DESC, id DESC",
                (layer,),
            ).fetchall()
    except sqlite3.Error:  # no such table
        return
    yield from (row[0] for row in rows if isinstance(row[0], str))


def _text_of(path: Path) -> str:
    """Return the content of a style or sidecar, empty where there is none that can be read."""
    try:
        if path.is_file() and path.stat().st_size <= _LARGEST_STYLE:
            return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        pass
    return ""


def _parsed(text: str) -> ET.Element | None:
    try:
        return ET.fromstring(text)
    except (ET.ParseError, ValueError):
        return None


def _polygon_categories(text: str) -> PolygonCategories | None:
    root = _parsed(text)
    renderer = None if root is None else root.find(".//renderer-v2[@type='categorizedSymbol']")
    if renderer is None:
        return None
    colours = {
        symbol.get("name"): _symbol_colour(symbol) for symbol in renderer.iterfind("symbols/symbol")
    }
    categories = []
    for category in renderer.iterfind("categories/category"):
        several = [value.get("value", "") for value in category.iterfind("val")]
        for value in several or [category.get("value", "")]:
            if value and value != "NULL":
                label = category.get("label", "").strip()
                categories.append(Category(value, label, colours.get(category.get("symbol"))))
    return PolygonCategories(renderer.get("attr", "").strip().strip('"'), categories)


def _sidecar_categories(path: Path) -> list[Category]:
    """Return the names and colours in GDAL's sidecar of a raster, ``NAME.tif.aux.xml``."""
    root = _parsed(_text_of(path.with_name(path.name + ".aux.xml")))
    if root is None:
        return []
    names = root.iterfind("PAMRasterBand[@band='1']/CategoryNames/Category")
    categories = {}
    for number, name in enumerate(names):
        categories[str(number)] = Category(str(number), (name.text or "").strip(), None)
    table = root.find("PAMRasterBand[@band='1']/GDALRasterAttributeTable")
    if table is None:
        return [category for category in categories.values() if category.label]
    columns = {
        field.findtext("Usage", ""): int(field.get("index", "0"))
        for field in reversed(table.findall("FieldDefn"))
    }
    for row in table.iterfind("Row"):
        cells = [cell.text or "" for cell in row.iterfind("F")]
        category = _table_row(cells, columns)
        if category is not None:
            categories[category.value] = category
    return [category for category in categories.values() if category.label or category.colour]


def _table_row(cells: Sequence[str], columns: dict[str, int]) -> Category | None:
    """Return a row of GDAL's raster attribute table, whose usages are numbered as there."""

    def cell(usage: str) -> str:
        place = columns.get(usage, len(cells))
        return cells[place].strip() if place < len(cells) else ""

    try:
        value = str(int(float(cell("5"))))
    except ValueError:
        return None
    try:
        red, green, blue = (int(float(cell(usage))) for usage in ("6", "7", "8"))
    except ValueError:
        return Category(value, cell("2"), None)
    return Category(value, cell("2"), (red, green, blue))


def _symbol_colour(symbol: ET.Element) -> Colour | None:
    """Return the colour with which the first plain layer of a symbol fills polygons, or None."""
    for layer in symbol.iterfind("layer"):
        if layer.get("class") != "SimpleFill" or layer.get("enabled", "1") == "0":
            continue
        for entry in layer.iter():  # of QGIS 3.16 and newer, then of older ones
            pair = (entry.get("name"), entry.get("value")) if entry.tag == "Option" else ()
            if entry.tag == "prop":
                pair = (entry.get("k"), entry.get("v"))
            if pair and pair[0] == "color":
                return _triple(pair[1] or "")
    return None


def _triple(text: str) -> Colour | None:
    match = re.match(r"(\d{1,3}),(\d{1,3}),(\d{1,3})(?:,|$)", text)
    if match is None:
        return None
    red, green, blue = (min(int(part), 255) for part in match.groups())
    return red, green, blue


def _hex(text: str | None) -> Colour | None:
    match = re.fullmatch(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", text or "")
    if match is None:
        return None
    red, green, blue = (int(part, 16) for part in match.groups())
    return red, green, blue
