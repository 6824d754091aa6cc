"""What rasters, maps and vector files say of themselves, in a few lines a person reads."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError

from hrrsi.class_styles import polygon_categories
from hrrsi.classes import IGNORE_INDEX
from hrrsi.errors import InputError, MissingInputError
from hrrsi.files import content_digest, named_layer
from hrrsi.maps.rasters import ClassRasterContent, map_areas, map_strips, read_class_raster
from hrrsi.maps.styles import CLASS_FIELD, files_beside, is_as_written, scene_of, tiles_of
from hrrsi.quantities import area_text, counted, counted_names, length_text
from hrrsi.scenes.bands import alpha_bands, open_imagery
from hrrsi.scenes.crs import crs_name
from hrrsi.scenes.raster_opening import is_local, open_raster, require_vector_path
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.scene_rasters import TAG
from hrrsi.scenes.windows import DEFAULT_WINDOW, default_overlap, window_starts

VECTOR_SUFFIXES = (".gpkg", ".geojson", ".json", ".fgb", ".shp", ".kml", ".gml", ".gdb", ".parquet")
_SQUARE = 1.01  # longer than wide, or wider than long, up to which one length says it
_WINDOW, _OVERLAP = DEFAULT_WINDOW, default_overlap(DEFAULT_WINDOW)
_MOST_VALUES = 50  # of an attribute that could hold classes
_MOST_ATTRIBUTES, _MOST_LAYERS = 3, 12
_SHAPES = {"Polygon": "polygon", "LineString": "line", "Point": "point"}
_FIELD_KINDS = {"O": "text", "i": "whole number", "u": "whole number", "f": "number", "b": "yes/no"}


@dataclass(frozen=True)
class FileInfo:
    """What a file is.

    Attributes:
        kind: ``weights``, ``encoder weights``, ``tiled dataset``, ``training run``,
            ``pre-training run``, ``class map``, ``map of confidences``, ``map of probabilities``,
            ``map sheet``, ``raster``, ``vector file`` or ``folder``.
        lines: Label and text, for people.
        data: The same and more as plain values, for programs.
        table: What the lines hold several of, such as runs, beside each other: rows of words, the
            header first; empty where there is nothing to compare.
    """

    kind: str
    lines: list[tuple[str, str]]
    data: dict[str, Any]
    table: Sequence[Sequence[str]] = ()


def raster_info(path: str) -> FileInfo:
    """Return what a raster is: a scene, or a map of ours.

    Raises:
        InputError: GDAL can't open it.
    """
    # one as it is stored, one with the CRS that stands beside it
    with open_raster(path) as dataset, open_imagery(path, 1) as placed:
        scene = Scene(path, placed, tuple(range(1, dataset.count + 1)))
        resolution, sides = scene.resolution, scene.pixel_sides
        meanings = [meaning.name for meaning in dataset.colorinterp]
        types = sorted(set(dataset.dtypes))
        windows = len(window_starts(scene.height, _WINDOW, _WINDOW - _OVERLAP)) * len(
            window_starts(scene.width, _WINDOW, _WINDOW - _OVERLAP)
        )
        compression = dataset.compression.value if dataset.compression else "none"
        data: dict[str, Any] = {
            "driver": dataset.driver,
            "width": scene.width,
            "height": scene.height,
            "bands": dataset.count,
            "band_meanings": meanings,
            "dtypes": list(dataset.dtypes),
            "crs": _crs_name(placed),
            "bounds": None if placed.crs is None else list(placed.bounds),
            "resolution": resolution,
            "pixel_sides": sides,
            "nodata": _nodata_sources(dataset, masks_nothing=scene.has_imagery_alpha),
            "compression": compression,
            "overviews": dataset.overviews(1),
            "windows": windows,
        }
        tags = {k.removeprefix(TAG): v for k, v in dataset.tags().items() if k.startswith(TAG)}
        content = read_class_raster(path)
        if content is not None and not (is_local(path) and is_as_written(Path(path))):
            with suppress(InputError):  # of a damaged one, a line says so
                content = _counted(path, content)  # tags travel with what other tools made of it
        areas = None if content is None else map_areas(Path(path), placed, content.class_pixels)
    megapixels = scene.width * scene.height / 1e6
    lines = [
        ("size", f"{scene.width} x {scene.height} px ({megapixels:.1f} Mpx), {data['driver']}"),
        (
            "bands",
            f"{counted(data['bands'], 'band')} ({', '.join(meanings)}), {', '.join(types)}",
        ),
        ("CRS", data["crs"] or "none"),
        ("resolution", _resolution_text(resolution, sides)),
        ("no data", data["nodata"] or "not declared"),
        ("stored", f"compression {compression}, {counted(len(data['overviews']), 'overview')}"),
    ]
    if resolution is not None:
        area = scene.width * scene.height * resolution**2
        lines.insert(4, ("area", area_text(area)))
    if content is not None:
        data["areas"] = areas
        return _map_info(path, content, areas, lines, data)
    if tags.get("CONTENT") == "preview":
        return FileInfo("map sheet", lines[:1], data)
    if tags.get("CONTENT") in ("confidence", "probabilities") and "WEIGHTS" in tags:
        kind = {"confidence": "map of confidences"}.get(tags["CONTENT"], "map of probabilities")
        return FileInfo(
            kind, [*lines, *_origin_lines(path, tags, data)], {**data, "provenance": tags}
        )
    fits = max(scene.width, scene.height) <= _WINDOW
    several = f"{windows:,} of {_WINDOW} px that overlap by {_OVERLAP} px"
    lines.append(("windows", "1 (the raster is no larger than a window)" if fits else several))
    return FileInfo("raster", lines, data)


def _counted(path: str, content: ClassRasterContent) -> ClassRasterContent:
    """Return what a map says of itself, with the pixels that it holds."""
    counts = np.zeros(IGNORE_INDEX + 1, dtype=np.int64)
    for labels in map_strips(Path(path)):
        counts += np.bincount(labels.ravel(), minlength=len(counts))
    class_pixels = counts[: len(content.classes)].tolist()
    return content._replace(
        class_pixels=class_pixels, nodata_pixels=int(counts.sum()) - sum(class_pixels)
    )


def _map_info(
    path: str,
    content: ClassRasterContent,
    areas: Sequence[float] | None,
    lines: list[tuple[str, str]],
    data: dict[str, Any],
) -> FileInfo:
    nodata = content.nodata_pixels
    without = f"; no data in {nodata / (data['width'] * data['height']):.1%} of the raster"
    lines.append(
        (
            "classes",
            shares_text(content.classes, content.class_pixels) + (without if nodata else ""),
        )
    )
    if areas is not None:
        pairs = zip(content.classes, areas, strict=True)
        lines.append(("areas", ", ".join(f"{name} {area_text(area)}" for name, area in pairs)))
    lines += _origin_lines(path, content.provenance, data)
    scene = scene_of(Path(path)) if is_local(path) else None
    if scene is not None:
        is_gone = is_local(scene) and not Path(scene).exists()
        lines.append(("scene", f"{scene}{' (not there any more)' if is_gone else ''}"))
    tiles = tiles_of(Path(path)) if is_local(path) else []
    if tiles:
        gone = sum(is_local(tile) and not Path(tile).exists() for tile in tiles)
        text = f"{counted(len(tiles), 'tile')}: {counted_names(tiles, most=2)}"
        lines.append(("scene", f"{text}{f' ({gone} not there any more)' if gone else ''}"))
    as_written = is_as_written(Path(path)) if is_local(path) else None
    if as_written is False:
        lines.append(("damage", "it was damaged or changed since it was written: map it again"))
    beside = _beside(Path(path)) if is_local(path) else {}
    if beside:
        lines.append(("made of it", ", ".join(f"{name}{how}" for name, how in beside.items())))
    data |= {
        "as_written": as_written,
        "scene": scene,
        **({"tiles": tiles} if tiles else {}),
        "classes": content.classes,
        "class_pixels": content.class_pixels,
        "nodata_pixels": content.nodata_pixels,
        "provenance": content.provenance,
    }
    return FileInfo("class map", lines, data)


def _origin_lines(
    path: str, provenance: Mapping[str, str], raster: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Return what made a map, in words."""
    packaged = provenance.get("WEIGHTS_PACKAGED")
    weights = f"{packaged} (packaged)" if packaged else provenance.get("WEIGHTS", "?")
    digest = provenance.get("WEIGHTS_SHA256")
    digest_text = f", sha256 {digest[:12]}" if digest else ""
    engine = f" with {provenance['ENGINE']}" if "ENGINE" in provenance else ""
    lines = [
        ("weights", f"{weights}, {provenance.get('MODEL', '?')}{digest_text}"),
        ("made by", f"hrrsi {provenance.get('VERSION', '?')}{engine}"),
        *([("file of", _time_of_change(Path(path)))] if is_local(path) else []),
    ]
    try:
        options = json.loads(provenance.get("OPTIONS", "{}"))
    except ValueError:
        options = {}
    if not isinstance(options, dict):
        return lines
    if "window" in options:
        augmented = f"; test-time augmentation {options['tta']}" if "tta" in options else ""
        overlap = f" that overlap by {options.get('overlap')} px" if options.get("overlap") else ""
        lines.append(("windows", f"{options['window']} px{overlap}{augmented}"))
    small = provenance.get("MIN_AREA")
    unit = "px" if raster["resolution"] is None else "m²"
    merged = [("merged", f"areas below {small} {unit}")] if small else []
    return [*lines, *_reading_lines(provenance, options), *merged]


def _reading_lines(
    provenance: Mapping[str, str], options: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Return how a map's scene was read, and what was left out of it, where that was asked for."""
    height = provenance.get("HEIGHT") or options.get("height")
    bands = options.get("bands")
    read = [
        f"bands {', '.join(map(str, bands))}" if isinstance(bands, list) else "",
        f"no data {options['nodata']}" if "nodata" in options else "",
        f"CRS {options['crs']}" if "crs" in options else "",
        f"full brightness {options['scale']:g}" if "scale" in options else "",
        *(
            f"full brightness {provenance[f'{word.upper()}_SCALE']} ({word})"
            for word in ("estimated", "declared")
            if f"{word.upper()}_SCALE" in provenance
        ),
        f"{provenance['READ_RESOLUTION']} m a pixel" if "READ_RESOLUTION" in provenance else "",
        f"heights of {height}" if height else "",
    ]
    cropped = ", cropped to it" if options.get("crop") else ""
    texts = {
        "scene read": ", ".join(filter(None, read)),
        "inside of": f"{options['aoi']}{cropped}" if "aoi" in options else "",
    }
    return [(label, text) for label, text in texts.items() if text]


def _time_of_change(path: Path) -> str:
    return f"{datetime.fromtimestamp(path.stat().st_mtime).astimezone():%Y-%m-%d %H:%M}"


def _beside(path: Path) -> dict[str, str]:
    """Return the files that were made of a map or with it, each with what became of it."""
    states = {}
    for name, digest in files_beside(path).items():
        file = path.with_name(name)
        if Path(name).name == name and (file.exists() or digest is None):
            is_same = digest is not None and file.is_file() and content_digest(file) == digest
            states[name] = "" if is_same else " (changed since, or unfinished)"
    return states


def is_vector_file(path: str) -> bool:
    """Return whether a file holds shapes or tables as GDAL's vector drivers read them."""
    try:
        return len(_layers(path)) > 0
    except InputError:
        return False


def vector_info(source: str) -> FileInfo:
    """Return what a vector file holds, or one layer of it.

    Args:
        source: The file, or with ``|layername=NAME`` after it.

    Raises:
        InputError: It can't be read, or has no such layer.
    """
    import pyogrio  # seconds that those who ask for weights don't wait for

    path, layer_name = named_layer(source)
    layers = _layers(path)
    if layer_name is not None and layer_name not in layers:
        raise InputError(
            f"has no layer {layer_name!r}", where=path, fix=f"choose from {', '.join(layers)}"
        )
    shapes = [name for name, has_shapes in layers.items() if has_shapes]
    chosen = [layer_name] if layer_name is not None else shapes or list(layers)
    try:
        contents = [_layer_data(path, layer) for layer in chosen]
        drivers = [content.pop("driver") for content in contents]
        if len(chosen) == 1:
            contents[0]["values"] = _class_values(path, chosen[0])
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, ValueError) as error:
        raise InputError(f"cannot be read ({error})", where=path, fix="repair the file") from error
    data = {"driver": drivers[0], "layers": contents}
    if len(chosen) == 1:
        return FileInfo("vector file", _layer_lines(path, contents[0], data["driver"]), data)
    lines = [("format", data["driver"]), ("layers", counted(len(contents), "layer"))]
    for content in contents[:_MOST_LAYERS]:
        fields = counted_names(list(content["fields"])) or "none"
        lines.append(
            (
                content["name"],
                f"{_counted_shapes(content)}, {content['crs'] or 'no CRS'}; fields: {fields}",
            )
        )
    if len(contents) > _MOST_LAYERS:
        lines.append(("...", f"and {len(contents) - _MOST_LAYERS} more"))
    return FileInfo("vector file", lines, data)


def _layers(path: str) -> dict[str, bool]:
    """Return the layers of a vector file, with whether each holds shapes.

    Raises:
        InputError: GDAL can't open it, or it has none.
    """
    import pyogrio

    require_vector_path(path)
    if is_local(path) and not Path(path).exists():
        raise MissingInputError("no such file", where=path, fix="check the path")
    try:
        with warnings.catch_warnings(action="ignore"):  # of what may be no vector file at all
            layers = {str(name): kind is not None for name, kind in pyogrio.list_layers(path)}
    except (pyogrio.errors.DataSourceError, ValueError):
        layers = {}
    if not layers:
        raise InputError(
            "is not a vector file that GDAL can read", where=path, fix="check that it opens in QGIS"
        )
    return layers


def _layer_data(path: str, layer: str) -> dict[str, Any]:
    import pyogrio

    info = pyogrio.read_info(path, layer=layer, force_feature_count=True, force_total_bounds=True)
    bounds = info["total_bounds"]
    kinds = [
        np.dtype(kind).kind if "list" not in kind else "O" for kind in map(str, info["dtypes"])
    ]
    return {
        "driver": info["driver"],
        "name": layer,
        "geometry_type": info["geometry_type"],
        "features": int(info["features"]),
        "crs": _named_crs(info["crs"]),
        "bounds": None if bounds is None or not np.isfinite(bounds).all() else list(bounds),
        "fields": {
            str(name): _FIELD_KINDS.get(kind, "date")
            for name, kind in zip(info["fields"], kinds, strict=True)
        },
    }


def _class_values(path: str, layer: str) -> dict[str, dict[str, int]]:
    """Return the values of attributes that could be classes, and how often each comes."""
    import pyogrio

    info = pyogrio.read_info(path, layer=layer)
    texts = [
        str(name)
        for name, kind in zip(info["fields"], info["dtypes"], strict=True)
        if str(kind) == "object"
    ]
    if not texts:
        return {}
    attributes = {}
    _, _, _, columns = pyogrio.raw.read(path, layer=layer, columns=texts, read_geometry=False)
    # in the file's own order of columns
    for name, column in zip([t for t in info["fields"] if t in texts], columns, strict=True):
        values = Counter(str(value).strip() for value in column if isinstance(value, str))
        values.pop("", None)
        repeats = len(values) < values.total() or len(column) == 1
        if 0 < len(values) <= _MOST_VALUES and repeats:
            attributes[str(name)] = dict(values.most_common())
    style = polygon_categories(path, layer)
    usual = ("" if style is None else style.attribute.casefold(), CLASS_FIELD)
    return dict(sorted(attributes.items(), key=lambda item: item[0].casefold() not in usual))


def _layer_lines(path: str, content: dict[str, Any], driver: str) -> list[tuple[str, str]]:
    fields = [f"{name} ({kind})" for name, kind in content["fields"].items()]
    style = polygon_categories(path, content["name"])
    lines = [
        ("format", driver),
        ("layer", f"{content['name']}: {_counted_shapes(content)}"),
        ("CRS", content["crs"] or "none"),
        ("extent", _extent_text(content["bounds"])),
        ("fields", counted_names(fields, 20) or "none"),
    ]
    for name, values in list(content["values"].items())[:_MOST_ATTRIBUTES]:
        texts = [f"{value} ({number:,})" for value, number in values.items()]
        lines.append((f"values of {name}", counted_names(texts, 12)))
    if style is not None:
        categories = counted(len(style.categories), "colour")
        lines.append(("QGIS style", f"by {style.attribute}, {categories}"))
    return lines


def _counted_shapes(content: Mapping[str, Any]) -> str:
    kind = str(content["geometry_type"]).removeprefix("Multi").split(" ")[0].removeprefix("2.5D")
    if content["geometry_type"] is None:
        return f"{counted(content['features'], 'row')} without shapes"
    return counted(content["features"], _SHAPES.get(kind, "shape"))


def _extent_text(bounds: Sequence[float] | None) -> str:
    if bounds is None:
        return "empty"
    left, bottom, right, top = (f"{value:.10g}" for value in bounds)
    return f"x {left} to {right}, y {bottom} to {top}"


def _named_crs(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        crs = CRS.from_user_input(text)
    except CRSError:
        return "a CRS that is not known"
    return crs_name(crs)


def _crs_name(dataset: Any) -> str | None:
    if dataset.crs is None:
        points, crs = dataset.gcps
        return f"{len(points)} ground control points, {crs}" if points else None
    return crs_name(dataset.crs)


def _resolution_text(resolution: float | None, sides: tuple[float, float] | None) -> str:
    if resolution is None or sides is None:
        return "unknown"
    text = f"{length_text(resolution)} a pixel"
    if max(sides) > min(sides) * _SQUARE:
        across, down = map(length_text, sides)
        text += f" ({across} across, {down} down)"
    return text


def _nodata_sources(dataset: Any, *, masks_nothing: bool) -> str | None:
    """Return what marks pixels without data; an alpha with values of imagery doesn't."""
    alpha = alpha_bands(dataset)  # before the masks, as `PixelReader` says
    flags = {flag.name for flags in dataset.mask_flag_enums for flag in flags}
    if "nodata" in flags:
        values = list(dict.fromkeys(f"{v:g}" for v in dataset.nodatavals if v is not None))
        return f"value {', '.join(values)}"
    if masks_nothing:
        return "none (the alpha band holds values of imagery)"
    if "alpha" in flags or alpha:
        return "alpha band"
    return "mask" if "per_dataset" in flags else None


def shares_text(classes: Sequence[str], pixels: Sequence[int]) -> str:
    """Return the share of each class, by its name."""
    total = max(1, sum(pixels))
    return ", ".join(f"{c} {n / total:.1%}" for c, n in zip(classes, pixels, strict=True))
