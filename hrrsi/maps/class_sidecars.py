"""The files beside a class map that hold its class names: a QGIS style, and GDAL's sidecar."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from hrrsi.labels.scheme import Colour

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
    doctype = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return doctype + _text(root)


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


def _text(root: ET.Element) -> str:
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"
