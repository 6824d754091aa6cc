"""A map sheet for people: scene, map and legend, with scale, north, and what the map is of."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from rasterio.enums import Resampling

from hrrsi.classes import Colour, class_palette
from hrrsi.files import replacing
from hrrsi.maps.rasters import MapSummary
from hrrsi.quantities import area_text, length_text
from hrrsi.scenes.crs import crs_name, crs_title
from hrrsi.scenes.georeference import GroundPixel, ground_pixel, is_on_earth, map_coordinates
from hrrsi.scenes.pixel_reader import NO_DATA_COLOUR, fitting_text, scene_picture, text_font
from hrrsi.scenes.raster_opening import open_raster
from hrrsi.scenes.scene_rasters import TAG

_PANEL = 900  # longer side of the scene and of the map, in pixels
_MARGIN = 40
_LEGEND_WIDTH = 380
_NARROWEST = 200  # a column of the sheet, whatever the panel in it
_SCALE_HEIGHT = 150  # of scale bar and north arrow below the legend
_LONGEST_BAR = 250
_ENLARGED_AT_MOST = 4
_SQUARE = 0.01  # by how much the sides of square pixels may differ
_PAGE_INCHES = 297 / 25.4  # the width of a page, that of A4 on its side
_INK = (33, 37, 41)
_FAINT = (108, 117, 125)
_RULE = (222, 226, 230)


@dataclass(frozen=True)
class SheetFacts:
    """What a sheet says beside its pictures.

    Attributes:
        pixel: The pixel at the map's centre on the ground, or None where that is not known.
        unit: The unit of lengths, e.g. ``m``.
        unit_length: Its length in metres, or in pixels where these are not known.
        lines: The lines below the pictures.
        map_time: When the map was written.
    """

    pixel: GroundPixel | None
    unit: str
    unit_length: float
    lines: tuple[str, ...]
    map_time: datetime


def write_preview(
    path: Path,
    summary: MapSummary,
    class_map: Path,
    *,
    raster: str | None = None,
    bands: Sequence[int] | None = None,
) -> None:
    """Write a sheet of a scene, its map, and the legend with shares and areas, as PNG or PDF.

    A scale bar, in metres (feet where the CRS has them, pixels without CRS), and an arrow to true
    north hold at the middle of the scene; pixels that are no squares on the ground are drawn as
    they are there. Below stand the CRS, the date of the map's file, and the weights.

    The rasters are read decimated, so their size does not matter.

    Args:
        path: A ``.png``, or a ``.pdf`` of one page as wide as A4 on its side; what is there is
            replaced.
        summary: What the map says.
        class_map: The map.
        raster: What to show as the scene, which lies under the map; by default the summary's scene.
        bands: The 1-based bands that the network saw; the first three (or the first alone) are
            shown.

    Raises:
        HrrsiError: A raster can't be read, or the file not be written.
    """
    facts = _facts(class_map)
    height, width, factor = _panel_size(summary.height, summary.width, facts.pixel)
    scene = scene_picture(raster or summary.scene, bands, height, width)
    labels = _labels(class_map, height, width)
    palette = class_palette(summary.colours, NO_DATA_COLOUR)
    panels = Image.fromarray(scene), Image.fromarray(palette[labels])
    picture = _layout(summary, facts, panels, factor)
    with replacing(path) as temporary:
        if path.suffix.lower() == ".pdf":
            _save_page(picture, temporary, Path(summary.scene).name, facts.map_time)
            return
        tags = PngInfo()
        tags.add_text(TAG + "CONTENT", "preview")  # so that it is not taken for a scene
        picture.save(temporary, format="PNG", pnginfo=tags)


def scale_bar(metres: float, longest: int) -> tuple[float, str]:
    """Return the longest bar of a round length, in pixels, and what it stands for.

    Args:
        metres: Units that a pixel of the picture stands for.
        longest: Pixels that it may take.

    Returns:
        Its pixels, and its length: 1, 2 or 5 times a power of ten, as text.
    """
    possible = metres * longest
    power = 10.0 ** math.floor(math.log10(possible))
    length = next(factor * power for factor in (5, 2, 1) if factor * power <= possible)
    return length / metres, f"{length:,.10g}"


def _facts(class_map: Path) -> SheetFacts:
    """Return what the sheet of a map says beside its pictures."""
    map_time = datetime.fromtimestamp(class_map.stat().st_mtime, UTC)
    with open_raster(class_map) as dataset:
        pixel, crs = ground_pixel(dataset), map_coordinates(dataset).crs
        tags = {key.removeprefix(TAG): value for key, value in dataset.tags().items()}
    unit, unit_length = ("px", 1.0) if pixel is None else ("m", 1.0)
    if pixel is not None and crs is not None and crs.is_projected:
        name, factor = crs.linear_units_factor
        if "foot" in name.lower():
            unit, unit_length = "ft", float(factor)
    if crs is None:
        place = "no coordinate system: lengths are in pixels"
    elif pixel is None:
        place = f"{crs_name(crs)}: no place on the Earth, so lengths are in pixels"
        if is_on_earth(crs):
            place = f"{crs_name(crs)}, which does not reach here: lengths are in pixels"
    else:
        crs_names = dict.fromkeys((crs_name(crs), crs_title(crs)))
        place = ", ".join(crs_names if "unknown" not in crs_names else ["a CRS without a name"])
        place += "; scale and true north at the middle of the scene"
    packaged = tags.get("WEIGHTS_PACKAGED")
    weights = f"{packaged} (packaged)" if packaged else tags.get("WEIGHTS", "unknown")
    lines = (
        f"Coordinates: {place}",
        f"Mapped: {map_time:%Y-%m-%d} by hrrsi {tags.get('VERSION', '')}",
        f"Weights: {weights}, {tags.get('MODEL', 'unknown network')}",
    )
    return SheetFacts(pixel, unit, unit_length, lines, map_time)


def _save_page(picture: Image.Image, path: Path, title: str, map_time: datetime) -> None:
    moment = map_time.timetuple()  # that of writing would make every file another
    picture.save(
        path,
        format="PDF",
        resolution=picture.width / _PAGE_INCHES,
        quality=95,
        subsampling=0,
        title=f"Land cover of {title}",
        creator="hrrsi",
        creationDate=moment,
        modDate=moment,
    )


def _panel_size(height: int, width: int, pixel: GroundPixel | None) -> tuple[int, int, float]:
    """Return rows and columns of a panel with one scale, and its pixels to a column's."""
    tall, wide = float(height), float(width)
    if pixel is not None and abs(pixel.down / pixel.across - 1) > _SQUARE:
        tall *= pixel.down / pixel.across
    factor = min(_PANEL / max(tall, wide), _ENLARGED_AT_MOST)
    return max(1, round(tall * factor)), max(1, round(wide * factor)), factor


def thumbnail(class_map: Path, colours: Sequence[Colour], longest: int = 480) -> bytes:
    """Return a small picture of a class map, as PNG; what has no data is white.

    Args:
        class_map: The map.
        colours: Class colours in the order of their indices.
        longest: Pixels of the longer side at most.
    """
    with open_raster(class_map) as dataset:
        factor = min(1.0, longest / max(dataset.shape))
        height, width = (max(1, round(side * factor)) for side in dataset.shape)
    picture = io.BytesIO()
    labels = _labels(class_map, height, width)
    Image.fromarray(class_palette(colours, no_class=(255, 255, 255))[labels]).save(picture, "PNG")
    return picture.getvalue()


def _labels(path: Path, height: int, width: int) -> npt.NDArray[np.uint8]:
    with open_raster(path) as dataset:
        enlarged = height > dataset.height
        resampling = Resampling.nearest if enlarged else Resampling.mode
        labels: npt.NDArray[np.uint8] = dataset.read(
            1, out_shape=(height, width), resampling=resampling
        )
    return labels


def _layout(
    summary: MapSummary,
    facts: SheetFacts,
    panels: tuple[Image.Image, Image.Image],
    factor: float,
) -> Image.Image:
    """Return the sheet.

    Args:
        summary: What the map says.
        facts: What the sheet says beside its pictures.
        panels: The scene and the map, of one size.
        factor: Their pixels to a column of the raster.
    """
    title_height, caption_height, line_height = 64, 36, 30
    rows = len(summary.classes) + bool(summary.nodata_pixels)
    row_height = 54 + 12 * (summary.areas is not None)
    legend_height = row_height * rows + 20
    body = max(panels[0].height, legend_height + _SCALE_HEIGHT)
    column = max(panels[0].width, _NARROWEST) + _MARGIN
    top = _MARGIN + title_height + caption_height
    left, right, legend = (_MARGIN + number * column for number in range(3))
    foot = top + body + _MARGIN // 2
    size = (legend + _LEGEND_WIDTH + _MARGIN, foot + line_height * len(facts.lines) + _MARGIN)
    picture = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    wide = legend + _LEGEND_WIDTH - left
    title = fitting_text(draw, Path(summary.scene).name, text_font(30, bold=True), wide)
    draw.text((left, _MARGIN), title, _INK, text_font(30, bold=True), anchor="lt")
    draw.text((left, _MARGIN + 40), _size_line(summary), _FAINT, text_font(19), anchor="lt")
    for x, caption in ((left, "Scene"), (right, "Map"), (legend, "Classes")):
        draw.text((x, top - 10), caption, _INK, text_font(20, bold=True), anchor="ls")
    for x, panel in zip((left, right), panels, strict=True):
        picture.paste(panel, (x, top))
        draw.rectangle((x - 1, top - 1, x + panel.width, top + panel.height), outline=_RULE)
    _draw_legend(draw, summary, legend, top)
    _draw_scale(draw, facts, 1 / factor, (legend, top + body - _SCALE_HEIGHT))
    for number, line in enumerate(facts.lines):
        fitted = fitting_text(draw, line, text_font(18), wide)
        draw.text((left, foot + line_height * number), fitted, _FAINT, text_font(18), anchor="lt")
    return picture


def _size_line(summary: MapSummary) -> str:
    parts = [f"{summary.width} x {summary.height} px"]
    if summary.pixel_area is not None:
        parts.append(f"{length_text(summary.pixel_area**0.5)} per pixel")
        parts.append(area_text(summary.width * summary.height * summary.pixel_area))
    return "  ·  ".join(parts)


def _draw_scale(
    draw: ImageDraw.ImageDraw, facts: SheetFacts, columns: float, place: tuple[int, int]
) -> None:
    """Draw the scale bar, and the arrow to the north where that is known.

    Args:
        draw: Draws on the sheet.
        facts: What the sheet says.
        columns: Columns of the raster to a pixel of the panels.
        place: Left and top of what it may take.
    """
    left, top = place
    bottom = top + _SCALE_HEIGHT
    across = 1.0 if facts.pixel is None else facts.pixel.across
    pixels, length = scale_bar(columns * across / facts.unit_length, _LONGEST_BAR)
    bar = (left, bottom - 24, left + round(pixels), bottom - 14)
    draw.rectangle(bar, _INK)
    draw.rectangle((left + round(pixels / 2), bar[1] + 2, bar[2] - 2, bar[3] - 2), (255, 255, 255))
    for x, text in ((bar[0], "0"), (bar[2], f"{length} {facts.unit}")):
        draw.text((x, bar[1] - 8), text, _INK, text_font(18), anchor="ls" if x == left else "ms")
    if facts.pixel is not None:
        centre = (left + _LEGEND_WIDTH - 50, bottom - 76)
        _draw_arrow(draw, centre, facts.pixel.north)


def _draw_arrow(
    draw: ImageDraw.ImageDraw, centre: tuple[int, int], north: tuple[float, float]
) -> None:
    """Draw an arrow to the north, half of it dark, with an N before its tip."""
    ahead, beside = np.array(north), np.array((-north[1], north[0]))

    def at(forward: float, right: float) -> tuple[float, float]:
        x, y = np.array(centre) + forward * ahead + right * beside
        return float(x), float(y)

    draw.polygon([at(36, 0), at(-36, 17), at(-22, 0)], _INK, _INK)
    draw.polygon([at(36, 0), at(-36, -17), at(-22, 0)], (255, 255, 255), _INK)
    draw.text(at(54, 0), "N", _INK, text_font(20, bold=True), anchor="mm")


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
