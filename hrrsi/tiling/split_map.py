"""Where the blocks of a split lie: as polygons for QGIS, and as a picture for people."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from rasterio.warp import transform

from hrrsi.class_styles import add_default_style, polygon_style
from hrrsi.classes import Colour
from hrrsi.errors import OutputError
from hrrsi.quantities import counted
from hrrsi.scenes.bands import open_imagery
from hrrsi.scenes.georeference import is_on_earth, map_coordinates
from hrrsi.scenes.pixel_reader import fitting_text, scene_picture, text_font
from hrrsi.scenes.raster_opening import open_raster
from hrrsi.scenes.windows import Window
from hrrsi.tiling.block_dealing import PARTS
from hrrsi.tiling.blocks import Block, BlockSplit

POLYGONS, PICTURE = "split.gpkg", "split.png"  # names in a dataset
_LAYER = "split"
_LEFT_OUT = "left out"
# Of Okabe & Ito, "Color Universal Design" (2008): apart for people who see few colours, too.
_COLOURS: dict[str, Colour] = {
    "train": (0, 114, 178),
    "val": (230, 159, 0),
    "test": (204, 121, 167),
    _LEFT_OUT: (150, 150, 150),
}
_OPACITY = 0.4
_PANEL = 900  # pixels of the longer side of a scene, or of several together
_MOST_SCENES = 9  # shown in the picture
_MOST_CLASSES = 20
_MARGIN, _GAP, _LEGEND = 40, 16, 470
_ROW = 34
_INK, _FAINT, _RULE = (33, 37, 41), (108, 117, 125), (222, 226, 230)


class BlockScene(NamedTuple):
    """A scene that is split into blocks.

    Attributes:
        name: Its name.
        image: Path of its image.
        bands: The 1-based bands that patches hold.
        step: The image's pixels in one of the grid of patches.
    """

    name: str
    image: str
    bands: tuple[int, ...]
    step: float = 1.0


def write_split_map(
    folder: Path,
    split: BlockSplit,
    scenes: Sequence[BlockScene],
    colours: Sequence[Colour],
    crs: str | None = None,
) -> None:
    """Write ``split.gpkg`` and ``split.png`` into a dataset's folder.

    Polygons are what patches are cut from, in the CRS of the first scene, with the attributes
    ``block``, ``scene``, ``split``, ``blocks`` (how many it is), ``pixels`` (that have a label) and
    ``px_CLASS`` of each class. QGIS shows them by split.

    Args:
        folder: The folder.
        split: The blocks.
        scenes: The scenes.
        colours: Colours of the classes, then of partial labels.
        crs: The CRS of scenes that hold none, as `TileOptions.crs`.

    Raises:
        InputError: A scene can't be read.
        OutputError: A file can't be written.
    """
    _write_polygons(folder / POLYGONS, split, scenes, crs)
    _picture(split, scenes, colours).save(folder / PICTURE, format="PNG")


def _write_polygons(
    path: Path, split: BlockSplit, scenes: Sequence[BlockScene], assigned_crs: str | None
) -> None:
    import pyogrio  # 40 MB that other datasets do without
    import shapely
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

    from hrrsi.scenes.vector_layers import undated_vector_files

    shapes: list[Any] = []
    blocks: list[Block] = []
    crs: Any = None
    for number, scene in enumerate(scenes):
        with open_imagery(scene.image, 1, assigned_crs) as dataset:
            places = map_coordinates(dataset)
        crs = places.crs if not number else crs
        for block in (block for block in split.blocks if block.scene == scene.name):
            corners = np.array(_corners(block.window), dtype=float) * scene.step
            x, y = places.of_pixels(corners[:, 0], corners[:, 1])
            if places.crs != crs and is_on_earth(places.crs) and is_on_earth(crs):
                x, y = map(np.asarray, transform(places.crs, crs, x, y))
            shapes.append(shapely.Polygon(np.column_stack([x, y])))
            blocks.append(block)
    pixels = np.array([block.class_pixels for block in blocks], dtype=np.int64)
    columns: dict[str, Any] = {
        "block": np.array([block.name for block in blocks], dtype=object),
        "scene": np.array([block.scene for block in blocks], dtype=object),
        "split": np.array([block.part or _LEFT_OUT for block in blocks], dtype=object),
        "blocks": np.array([block.blocks for block in blocks], dtype=np.int32),
        "pixels": pixels.sum(axis=1),
        **{f"px_{name}": pixels[:, number] for number, name in enumerate(split.labels)},
    }
    style = polygon_style(list(_COLOURS), list(_COLOURS.values()), "split", opacity=_OPACITY)
    with undated_vector_files():
        try:
            pyogrio.raw.write(
                path,
                shapely.to_wkb(np.array(shapes)),
                list(columns.values()),
                list(columns),
                layer=_LAYER,
                driver="GPKG",
                geometry_type="Polygon",
                crs=None if crs is None else crs.to_wkt(),
            )
            add_default_style(path, _LAYER, "geom", style)
        except (DataSourceError, DataLayerError, FeatureError, sqlite3.Error) as error:
            raise OutputError(
                f"cannot be written ({error})", where=path, fix="free disk space"
            ) from error


def _corners(window: Window) -> list[tuple[int, int]]:
    """Return the columns and rows of a window's corners."""
    right, bottom = window.col + window.width, window.row + window.height
    return [(window.col, window.row), (right, window.row), (right, bottom), (window.col, bottom)]


def _picture(
    split: BlockSplit, scenes: Sequence[BlockScene], colours: Sequence[Colour]
) -> Image.Image:
    shown = scenes[:_MOST_SCENES]
    across = next(n for n in (1, 2, 3) if n * n >= len(shown))
    side = (_PANEL - (across - 1) * _GAP) // across
    panels = [_panel(scene, split, side) for scene in shown]
    rows = [panels[i : i + across] for i in range(0, len(panels), across)]
    width = max(sum(p.width for p in row) + _GAP * (len(row) - 1) for row in rows)
    height = sum(max(p.height for p in row) for row in rows) + _GAP * (len(rows) - 1)
    top = _MARGIN + 70
    classes = min(len(split.labels), _MOST_CLASSES)
    height = max(height, _ROW * (classes + len(_COLOURS) + 2))
    left = _MARGIN + width + _MARGIN
    size = left + _LEGEND + _MARGIN, top + height + _MARGIN
    picture = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    names = ", ".join(scene.name for scene in shown)
    if len(scenes) > len(shown):
        names += f" and {len(scenes) - len(shown)} more"
    bold = text_font(30, bold=True)
    title = fitting_text(draw, names, bold, size[0] - 2 * _MARGIN)
    draw.text((_MARGIN, _MARGIN), title, _INK, bold, anchor="lt")
    draw.text((_MARGIN, _MARGIN + 40), _subtitle(split), _FAINT, text_font(19), anchor="lt")
    y = top
    for row in rows:
        x = _MARGIN
        for panel in row:
            picture.paste(panel, (x, y))
            draw.rectangle((x - 1, y - 1, x + panel.width, y + panel.height), outline=_RULE)
            x += panel.width + _GAP
        y += max(panel.height for panel in row) + _GAP
    _draw_legend(draw, split, colours, left, top)
    return picture


def _subtitle(split: BlockSplit) -> str:
    parts = [split.name, f"blocks of {split.side} px", f"guard band {split.guard} px"]
    if split.resolution is not None:
        parts[1] += f" ({split.side * split.resolution:.4g} m)"
        parts[2] += f" ({split.guard * split.resolution:.4g} m)"
    return "  ·  ".join(parts)


def _panel(scene: BlockScene, split: BlockSplit, side: int) -> Image.Image:
    """Return a scene with its blocks over it."""
    with open_raster(scene.image) as dataset:
        rows, columns = dataset.shape
    factor = side / max(rows, columns)
    drawn = factor * scene.step
    height, width = max(1, round(rows * factor)), max(1, round(columns * factor))
    picture = Image.fromarray(scene_picture(scene.image, scene.bands, height, width))
    faint = Image.blend(picture, Image.new("RGB", picture.size, (255, 255, 255)), 0.15)
    over = faint.copy()
    draw = ImageDraw.Draw(over)
    boxes = []
    for block in (block for block in split.blocks if block.scene == scene.name):
        (left, top), _, (right, bottom), _ = _corners(block.window)
        box = (left * drawn, top * drawn, right * drawn - 1, bottom * drawn - 1)
        colour = _COLOURS[block.part or _LEFT_OUT]
        draw.rectangle(box, fill=colour)
        boxes.append((box, colour))
    picture = Image.blend(faint, over, _OPACITY)
    draw = ImageDraw.Draw(picture)
    for box, colour in boxes:
        draw.rectangle(box, outline=colour, width=2)
    return picture


def _draw_legend(
    draw: ImageDraw.ImageDraw, split: BlockSplit, colours: Sequence[Colour], left: int, top: int
) -> None:
    counts = np.array([split.class_pixels(part) for part in PARTS])
    plain, bold = text_font(19), text_font(19, bold=True)
    columns = [left + _LEGEND - 90 * n for n in (2, 1, 0)]

    def line(y: int, name: str, colour: Colour, cells: Mapping[int, str]) -> None:
        draw.rounded_rectangle((left, y, left + 24, y + 24), 5, colour, _RULE)
        room = min(cells, default=left + _LEGEND) - 90 - left
        shown = fitting_text(draw, name, plain, max(60, room))
        draw.text((left + 36, y + 12), shown, _INK, plain, anchor="lm")
        for x, cell in cells.items():
            draw.text((x, y + 12), cell, _INK, plain, anchor="rm")

    draw.text((left, top), "Splits", _INK, bold, anchor="lt")
    draw.text((columns[2], top), "labelled pixels", _FAINT, plain, anchor="rt")
    y = top + _ROW
    for number, part in enumerate(PARTS):
        blocks = sum(block.blocks for block in split.of(part))
        share = f"{counts[number].sum() / max(counts.sum(), 1):.1%}"
        line(y, f"{part}: {counted(blocks, 'block')}", _COLOURS[part], {columns[2]: share})
        y += _ROW
    unused = sum(block.blocks for block in split.of(None))
    if unused:
        line(y, f"{_LEFT_OUT}: {counted(unused, 'block')}", _COLOURS[_LEFT_OUT], {})
        y += _ROW
    y += _ROW
    draw.text((left, y), "Classes", _INK, bold, anchor="lt")
    for x, part in zip(columns, PARTS, strict=True):
        draw.text((x, y), part, _FAINT, plain, anchor="rt")
    y += _ROW
    for number, name in enumerate(split.labels[:_MOST_CLASSES]):
        whole = counts[:, number].sum()
        shares = [f"{count / whole:.1%}" if whole else "-" for count in counts[:, number]]
        line(y, name, colours[number], dict(zip(columns, shares, strict=True)))
        y += _ROW
    if len(split.labels) > _MOST_CLASSES:
        rest = f"and {len(split.labels) - _MOST_CLASSES} more"
        draw.text((left + 36, y), rest, _FAINT, plain, anchor="lt")
