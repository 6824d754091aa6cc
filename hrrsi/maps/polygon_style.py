"""QGIS styles that show polygons in the colours of their classes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree as ET

from hrrsi.labels.scheme import Colour

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


def polygon_style(classes: Sequence[str], colours: Sequence[Colour], attribute: str) -> str:
    """Return a QGIS style (QML): polygons filled by class, without outlines.

    Args:
        classes: Class names, which `attribute` holds.
        colours: Their colours.
        attribute: The attribute that tells classes apart.
    """
    root = ET.Element("qgis", version="3.22.0", styleCategories="Symbology")
    renderer = ET.SubElement(
        root, "renderer-v2", type="categorizedSymbol", attr=attribute, enableorderby="0"
    )
    categories = ET.SubElement(renderer, "categories")
    symbols = ET.SubElement(renderer, "symbols")
    for index, (name, colour) in enumerate(zip(classes, colours, strict=True)):
        ET.SubElement(
            categories, "category", symbol=str(index), value=name, label=name, render="true"
        )
        symbol = ET.SubElement(symbols, "symbol", type="fill", name=str(index), alpha="1")
        layer = ET.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1"})
        properties = {"color": ",".join(map(str, (*colour, 255))), "outline_style": "no"}
        options = ET.SubElement(layer, "Option", type="Map")
        for key, value in {**properties, "style": "solid"}.items():
            ET.SubElement(options, "Option", type="QString", name=key, value=value)
    ET.indent(root)
    doctype = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return doctype + ET.tostring(root, encoding="unicode") + "\n"


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
