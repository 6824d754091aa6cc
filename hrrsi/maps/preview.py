"""A picture of a mapped scene for people: scene, map and legend side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from rasterio.enums import Resampling

from hrrsi.classes import class_palette
from hrrsi.files import replacing
from hrrsi.maps.rasters import TAG, MapSummary
from hrrsi.quantities import area_text
from hrrsi.scenes.pixel_reader import NO_DATA_COLOUR, fitting_text, scene_picture, text_font
from hrrsi.scenes.raster_opening import open_raster

_PANEL = 900  # longer side of the scene and of the map, in pixels
_MARGIN = 40
_LEGEND_WIDTH = 380
_ENLARGED_AT_MOST = 4
_INK = (33, 37, 41)
_FAINT = (108, 117, 125)
_RULE = (222, 226, 230)


def write_preview(
    path: Path, summary: MapSummary, class_map: Path, *, bands: Sequence[int] | None = None
) -> None:
    """Write a PNG of a scene, its map and the legend with shares and areas.

    The rasters are read decimated, so their size does not matter.

    Args:
        path: The PNG; what is there is replaced.
        summary: What the map says.
        class_map: The map.
        bands: The 1-based bands that the network saw; the first three (or the first alone) are
            shown.

    Raises:
        HrrsiError: A raster can't be read, or the PNG not be written.
    """
    height, width = _panel_size(summary.height, summary.width)
    scene = scene_picture(summary.scene, bands, height, width)
    labels = _labels(class_map, height, width)
    palette = class_palette(summary.colours, NO_DATA_COLOUR)
    picture = _layout(summary, Image.fromarray(scene), Image.fromarray(palette[labels]))
    with replacing(path) as temporary:
        tags = PngInfo()
        tags.add_text(TAG + "CONTENT", "preview")  # so that it is not taken for a scene
        picture.save(temporary, format="PNG", pnginfo=tags)


def _panel_size(height: int, width: int) -> tuple[int, int]:
    factor = min(_PANEL / max(height, width), _ENLARGED_AT_MOST)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _labels(path: Path, height: int, width: int) -> npt.NDArray[np.uint8]:
    with open_raster(path) as dataset:
        enlarged = height > dataset.height
        resampling = Resampling.nearest if enlarged else Resampling.mode
        labels: npt.NDArray[np.uint8] = dataset.read(
            1, out_shape=(height, width), resampling=resampling
        )
    return labels


def _layout(summary: MapSummary, scene: Image.Image, class_map: Image.Image) -> Image.Image:
    title_height, caption_height = 64, 36
    rows = len(summary.classes) + 1 + bool(summary.nodata_pixels)
    body = max(scene.height, 54 * rows + 20)
    top = _MARGIN + title_height + caption_height
    left, right = _MARGIN, 2 * _MARGIN + scene.width
    legend = right + class_map.width + _MARGIN
    picture = Image.new(
        "RGB", (legend + _LEGEND_WIDTH + _MARGIN, top + body + _MARGIN), (255, 255, 255)
    )
    draw = ImageDraw.Draw(picture)
    legend_right = legend + _LEGEND_WIDTH
    title = fitting_text(
        draw, Path(summary.scene).name, text_font(30, bold=True), legend_right - left
    )
    draw.text((left, _MARGIN), title, _INK, text_font(30, bold=True), anchor="lt")
    draw.text((left, _MARGIN + 40), _size_line(summary), _FAINT, text_font(19), anchor="lt")
    for x, caption in ((left, "Scene"), (right, "Map"), (legend, "Classes")):
        draw.text((x, top - 10), caption, _INK, text_font(20, bold=True), anchor="ls")
    for x, panel in ((left, scene), (right, class_map)):
        picture.paste(panel, (x, top))
        draw.rectangle((x - 1, top - 1, x + panel.width, top + panel.height), outline=_RULE)
    _draw_legend(draw, summary, legend, top)
    return picture


def _size_line(summary: MapSummary) -> str:
    parts = [f"{summary.width} x {summary.height} px"]
    if summary.pixel_area is not None:
        parts.append(f"{summary.pixel_area**0.5 * 100:.3g} cm per pixel")
        parts.append(area_text(summary.width * summary.height * summary.pixel_area))
    return "  ·  ".join(parts)


def _draw_legend(draw: ImageDraw.ImageDraw, summary: MapSummary, left: int, top: int) -> None:
    right = left + _LEGEND_WIDTH
    areas = summary.areas
    y = top
    for index, name in enumerate(summary.classes):
        share = summary.shares[index]
        draw.rounded_rectangle((left, y, left + 30, y + 30), 5, summary.colours[index], _RULE)
        figure = f"{share:.1%}"
        figure_left = right - draw.textlength(figure, text_font(20))
        label = fitting_text(draw, name, text_font(20), int(figure_left) - left - 56)
        draw.text((left + 44, y + 15), label, _INK, text_font(20), anchor="lm")
        draw.text((right, y + 15), figure, _INK, text_font(20), anchor="rm")
        bar_left, bar_right = left + 44, right
        draw.rectangle((bar_left, y + 34, bar_right, y + 37), _RULE)
        if share > 0:
            end = bar_left + max(1, round(share * (bar_right - bar_left)))
            draw.rectangle((bar_left, y + 34, end, y + 37), summary.colours[index])
        y += 54
        if areas is not None:
            draw.text(
                (left + 44, y - 13), area_text(areas[index]), _FAINT, text_font(14), anchor="lt"
            )
            y += 12
    if summary.nodata_pixels:
        share = summary.nodata_pixels / (summary.width * summary.height)
        draw.rounded_rectangle((left, y, left + 30, y + 30), 5, NO_DATA_COLOUR, _RULE)
        draw.text((left + 44, y + 15), "no data", _FAINT, text_font(20), anchor="lm")
        draw.text((right, y + 15), f"{share:.1%} of scene", _FAINT, text_font(20), anchor="rm")
