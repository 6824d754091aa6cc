"""What shows maps and polygons in their classes' colours and names: QGIS styles, GDAL's sidecar."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree as ET

from hrrsi.classes import Colour

_QML_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"

# Field types and usages of GDAL's raster attribute tables (GDALRATFieldType, GDALRATFieldUsage).
_INTEGER, _REAL, _STRING = "0", "1", "2"
_RAT_FIELDS = (
    ("Value", _INTEGER, "5"),
    ("Class", _STRING, "2"),
    ("Count", _REAL, "1"),
    ("Red", _INTEGER, "6"),
    ("Green", _INTEGER, "7"),
    ("Blue", _INTEGER, "8"),
)
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


def qml_style(classes: Sequence[str], colours: Sequence[Colour]) -> str:
    """Return a QGIS style: the paletted renderer with a name and a colour for each class.

    QGIS loads ``NAME.qml`` with ``NAME.tif``, so the layer tree shows the classes.
    """
    root = ET.Element("qgis", version="3.22.0", styleCategories="AllStyleCategories")
    pipe = ET.SubElement(root, "pipe")
    renderer = ET.SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1"
    )
    ET.SubElement(renderer, "rasterTransparency")
    palette = ET.SubElement(renderer, "colorPalette")
    for index, (name, colour) in enumerate(zip(classes, colours, strict=True)):
        ET.SubElement(
            palette,
            "paletteEntry",
            value=str(index),
            label=name,
            color="#{:02x}{:02x}{:02x}".format(*colour),
            alpha="255",
        )
    return _QML_DOCTYPE + _text(root)


def pam_xml(
    classes: Sequence[str],
    colours: Sequence[Colour],
    class_pixels: Sequence[int],
    run: str | None = None,
) -> str:
    """Return GDAL's sidecar: category names and a raster attribute table.

    Args:
        classes: Class names in the order of their indices.
        colours: Class colours, likewise.
        class_pixels: Pixels of each class.
        run: What identifies the run that made the map, as metadata of the domain ``HRRSI``.
    """
    root = ET.Element("PAMDataset")
    if run is not None:
        ET.SubElement(ET.SubElement(root, "Metadata", domain="HRRSI"), "MDI", key="RUN").text = run
    band = ET.SubElement(root, "PAMRasterBand", band="1")
    categories = ET.SubElement(band, "CategoryNames")
    for name in classes:
        ET.SubElement(categories, "Category").text = name
    table = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for position, (field, kind, usage) in enumerate(_RAT_FIELDS):
        definition = ET.SubElement(table, "FieldDefn", index=str(position))
        ET.SubElement(definition, "Name").text = field
        ET.SubElement(definition, "Type").text = kind
        ET.SubElement(definition, "Usage").text = usage
    for index, row in enumerate(zip(classes, class_pixels, colours, strict=True)):
        name, pixels, colour = row
        element = ET.SubElement(table, "Row", index=str(index))
        for value in (index, name, pixels, *colour):
            ET.SubElement(element, "F").text = str(value)
    return _text(root)


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
    return _QML_DOCTYPE + _text(root)


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


def _text(root: ET.Element) -> str:
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"
