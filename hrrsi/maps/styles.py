"""What shows maps in their classes' colours and names: QGIS' style, GDAL's sidecar."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from xml.etree import ElementTree as ET

from hrrsi.class_styles import polygon_renderer, qml_text
from hrrsi.classes import Colour
from hrrsi.errors import OutputExistsError
from hrrsi.files import content_digest, replacing
from hrrsi.maps.raw_pyramid import write_errors

CLASS_FIELD = "class"  # the attribute of polygons that names their class
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
_OPTIONS_KEY = ": made with"
_CHECK = "free space on the disk"
_RECORD = "Metadata[@domain='HRRSI']"


def qml_style(classes: Sequence[str], colours: Sequence[Colour]) -> str:
    """Return a QGIS style of a class map and of its polygons, a name and a colour for each class.

    QGIS loads ``NAME.qml`` with ``NAME.tif``, and with polygons beside it (``NAME.shp``), so one
    file has to show both.
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
    root.append(polygon_renderer(classes, colours, CLASS_FIELD))
    return qml_text(root)


def pam_xml(
    classes: Sequence[str],
    colours: Sequence[Colour],
    class_pixels: Sequence[int],
    record: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return GDAL's sidecar: category names and a raster attribute table.

    Args:
        classes: Class names in the order of their indices.
        colours: Class colours, likewise.
        class_pixels: Pixels of each class.
        record: Metadata of the domain ``HRRSI``.
    """
    root = ET.Element("PAMDataset")
    if record:
        _set_record(root, record)
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


def _pam_record(xml: str) -> dict[str, str]:
    """Return the metadata of the domain ``HRRSI`` in GDAL's sidecar, none where it is no XML."""
    try:
        root = ET.fromstring(xml)
    except ET.ParseError:
        return {}
    items = root.iterfind(f"{_RECORD}/MDI")
    return {item.get("key", ""): item.text or "" for item in items}


def _pam_xml_with(xml: str, record: Mapping[str, str]) -> str:
    """Return GDAL's sidecar with other metadata of the domain ``HRRSI``."""
    root = ET.fromstring(xml)
    for metadata in root.findall(_RECORD):
        root.remove(metadata)
    _set_record(root, record)
    return _text(root)


def _set_record(root: ET.Element, record: Mapping[str, str]) -> None:
    metadata = ET.Element("Metadata", domain="HRRSI")
    for key, value in record.items():
        ET.SubElement(metadata, "MDI", key=key).text = value
    root.insert(0, metadata)


def run_of(path: Path) -> str | None:
    """Return what identifies the run that made a map, or None where nothing says so."""
    return _sidecar_record(path).get("RUN")


def scene_of(path: Path) -> str | None:
    """Return the scene that a map was made of, or None where nothing says so.

    It is where it was then; it may be gone, or have been changed since.
    """
    return _sidecar_record(path).get("SCENE")


def tiles_of(path: Path) -> list[str]:
    """Return the tiles of the mosaic that a map was made of, in their order, or none.

    They are where they were then; some may be gone, or have been changed since.
    """
    try:
        tiles = json.loads(_sidecar_record(path).get("TILES", "[]"))
    except ValueError:
        return []
    return [tile for tile in tiles if isinstance(tile, str)] if isinstance(tiles, list) else []


def is_as_written(path: Path) -> bool | None:
    """Return whether a map has the bytes that it was written with, None where nothing says so.

    Raises:
        InputError: It can't be read.
    """
    digest = _sidecar_record(path).get("SHA256")
    return None if digest is None else content_digest(path) == digest


def files_beside(path: Path) -> dict[str, str | None]:
    """Return the files that runs made from a map or with it, by name.

    Returns:
        The SHA-256 of each; None where it was begun, and nothing says that it was finished, or was
        made of a map that had this one's place before.
    """
    try:
        files = json.loads(_sidecar_record(path).get("FILES", "{}"))
    except ValueError:
        return {}
    return files if isinstance(files, dict) else {}


def files_left(path: Path) -> list[str]:
    """Return the names of files that runs made of a map, and that are still as they were then.

    Once another map has its place, they are of the map before.
    """
    return [
        name
        for name, digest in files_beside(path).items()
        if path.with_name(name).is_file() and digest in (None, content_digest(path.with_name(name)))
    ]


def is_current(path: Path, parts: Sequence[Path], options: str = "") -> bool:
    """Return whether a file was made from a map with some options, and is as it was then.

    Args:
        path: The map.
        parts: The file, and others that belong to it.
        options: The options that it is to be made with.

    Raises:
        OutputExistsError: Nothing says that a run of ours made it, or it was changed since.
    """
    digests = files_beside(path)
    present = [part for part in parts if part.exists()]
    if not present or any(part.name in digests and digests[part.name] is None for part in parts):
        return False
    for part in present:
        if digests.get(part.name) != content_digest(part):
            raise OutputExistsError(
                "exists already, and is not what was made from this map",
                where=part,
                fix="give it another name, or `overwrite` instead of `resume`",
            )
    if any(part.name in digests and part not in present for part in parts):
        return False
    return (digests.get(parts[0].name + _OPTIONS_KEY) or "") == options


@contextmanager
def derivation_record(path: Path, parts: Sequence[Path], options: str = "") -> Iterator[None]:
    """Say in a map's sidecar that a file is being made from it, and what it holds at the end.

    Args:
        path: The map.
        parts: The file, which is made meanwhile, and others that belong to it; those that are not
            there at the end do not.
        options: The options that it is made with.

    Raises:
        OutputError: The sidecar can't be written.
    """
    _record(path, parts, finished=False)
    yield
    _record(path, parts, finished=True, options=options)


def _record(path: Path, parts: Sequence[Path], *, finished: bool, options: str = "") -> None:
    """Keep in a map's sidecar that a file was begun, or what it holds once it is finished."""
    sidecar, record = sidecar_path(path), _sidecar_record(path)
    files = files_beside(path)
    for part in parts:
        files.pop(part.name, None)
        if not finished or part.exists():
            files[part.name] = content_digest(part) if finished else None
    files.pop(parts[0].name + _OPTIONS_KEY, None)
    if options:
        files[parts[0].name + _OPTIONS_KEY] = options
    record |= map_record(files=files)
    with replacing(sidecar) as temporary, write_errors(sidecar, _CHECK):
        content = _pam_xml_with(sidecar.read_text(encoding="utf-8"), record)
        temporary.write_text(content, encoding="utf-8")


def sidecar_state(path: Path) -> int | None:
    """Return what tells GDAL's sidecars apart by all but statistics and histograms.

    QGIS writes those beside a raster that it shows, whenever it likes; they change no pixel.

    Args:
        path: The sidecar.

    Returns:
        A checksum; None where it holds nothing else, which is as if it were not there.

    Raises:
        ParseError: It is no XML.
    """
    root = ET.fromstring(path.read_bytes())
    for parent in reversed(list(root.iter())):  # children first
        for child in list(parent):
            is_statistic = child.get("key", "").startswith("STATISTICS_")
            is_empty = child.tag in ("Metadata", "PAMRasterBand") and not len(child)
            if is_statistic or is_empty or child.tag == "Histograms":
                parent.remove(child)
    return (
        zlib.crc32(ET.canonicalize(ET.tostring(root), strip_text=True).encode())
        if len(root)
        else None
    )


def sidecar_path(path: Path) -> Path:
    """Return where GDAL's sidecar of a map is."""
    return path.with_name(path.name + ".aux.xml")


def _sidecar_record(path: Path) -> dict[str, str]:
    # read without GDAL: what the environment lets that see must not decide what is finished
    try:
        return _pam_record(sidecar_path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}


def map_record(
    run: str | None = None,
    digest: str | None = None,
    *,
    files: Mapping[str, str | None],
    scene: str | Sequence[str] | None = None,
) -> dict[str, str]:
    """Return what a sidecar keeps: run, SHA-256 of the map and of files beside it, scene or tiles.

    Args:
        run: What identifies the run that made the map.
        digest: SHA-256 of the map.
        files: As `files_beside` returns them.
        scene: What the map was made of, the tiles of a mosaic one by one.
    """
    tiles = None if scene is None or isinstance(scene, str) else json.dumps(list(scene))
    record = {
        "RUN": run,
        "SHA256": digest,
        "FILES": json.dumps(files, sort_keys=True),
        "SCENE": scene if isinstance(scene, str) else None,
        "TILES": tiles,
    }
    return {key: value for key, value in record.items() if value is not None}


def _text(root: ET.Element) -> str:
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"
