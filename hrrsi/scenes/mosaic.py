"""Neighbouring tiles as one scene: checked for one grid, and shown by a virtual raster (VRT)."""

# gdal.BuildVRT would write the same, but rasterio (1.4) has none.

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import shapely
from rasterio import Affine
from rasterio.enums import ColorInterp

from hrrsi.errors import InputError
from hrrsi.progress import progress
from hrrsi.quantities import area_text, counted
from hrrsi.scenes.georeference import (
    RasterGrid,
    ground_resolution,
)
from hrrsi.scenes.raster_opening import MosaicLabel, many_files
from hrrsi.scenes.tile_headers import (
    GDAL_TYPES,
    Band,
    TileHeader,
    differing_tiles,
    expanded_bands,
    require_alike,
    tile_header,
)
from hrrsi.scenes.windows import Window

# Pixels by which a tile may be off the others' grid. Places that were rounded to a centimetre are
# off by so much at 5 cm a pixel, and nobody sees it.
_TOLERANCE = 0.1
_LARGEST_SIDE = 2**31 - 1  # of a raster, to GDAL
_MOSTLY_EMPTY = 0.5
_MOST_PLACES = 64
_INTERPRETATIONS = {
    ColorInterp.rededge: "RedEdge",
    ColorInterp.nir: "NIR",
    ColorInterp.swir: "SWIR",
    ColorInterp.pan: "Pan",
    ColorInterp.coastal: "Coastal",
}
_COLOURS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)


class Tile(NamedTuple):
    """A raster of a mosaic, and where it lies on it."""

    path: str
    window: Window


def _number(value: float) -> str:
    return "nan" if math.isnan(value) else repr(value)


@dataclass(frozen=True)
class Mosaic:
    """Tiles that lie on one grid. Use `tile_mosaic`.

    Attributes:
        name: What it is called in names of files: the folder of its tiles.
        tiles: The tiles; where they overlap, the later one counts.
        height: Rows of the smallest rectangle that holds them.
        width: Columns of it.
        missing: Share of that rectangle that no tile covers.
        overlapping: Share of it that several tiles cover.
        hidden: Tiles that a later one covers whole, each with that one.
        pixel_area: Square metres of a pixel in the middle, or None where that is not known.
    """

    name: str
    tiles: tuple[Tile, ...]
    height: int
    width: int
    missing: float
    overlapping: float
    hidden: tuple[tuple[str, str], ...]
    pixel_area: float | None
    _transform: Affine = field(repr=False)
    _headers: tuple[TileHeader, ...] = field(repr=False)
    _nodata: float | None = field(default=None, repr=False)

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"{counted(len(self.tiles), 'tile')} of {self.name}"

    def notices(self) -> list[str]:
        """Return what there is to know of gaps and overlaps, a line each."""
        lines = []
        if len(self.tiles) == 1:
            lines.append(f"a mosaic of {self.tiles[0].path} alone")
        if self.missing:
            gap_text = (
                "; tiles that are far apart are mapped faster in several calls"
                if self.missing > _MOSTLY_EMPTY
                else ""
            )
            lines.append(
                f"{self._share(self.missing)} of its rectangle of {self.width} x {self.height} px "
                f"lie in no tile, and get no class{gap_text}"
            )
        if self.overlapping:
            lines.append(
                f"{self._share(self.overlapping)} of its rectangle lie in several tiles; the last "
                "one named that holds data counts there"
            )
        if self.hidden:
            below, above = self.hidden[0]
            more = f" ({len(self.hidden) - 1} more likewise)" if self.hidden[1:] else ""
            lines.append(
                f"{below} lies whole below {above}{more}; leave one out where they are of two dates"
            )
        return [f"{self.title}: {line}" for line in lines]

    def write_vrt(self, path: Path) -> None:
        """Write the virtual raster that shows the tiles as one; it names them absolutely.

        Raises:
            OSError: It can't be written.
        """
        path.write_bytes(self.vrt())

    def vrt(self) -> bytes:
        """Return that virtual raster."""
        body = "".join(self._body())
        digest = hashlib.sha256(body.encode(errors="surrogateescape")).hexdigest()
        sample = self.tiles[:: -(-len(self.tiles) // _MOST_PLACES)]
        label = MosaicLabel(self.title, digest, tuple(tile.window for tile in sample))
        tags = "".join(
            f"<MDI key={quoteattr(key)}>{escape(value)}</MDI>"
            for key, value in label.tags().items()
        )
        text = (
            f'<VRTDataset rasterXSize="{self.width}" rasterYSize="{self.height}">\n'
            f"<Metadata>{tags}</Metadata>\n{body}</VRTDataset>\n"
        )
        return text.encode(errors="surrogateescape")

    def _share(self, share: float) -> str:
        text = f"{max(share, 1e-6):.4%}" if share < 1e-4 else f"{share:.2%}"
        if self.pixel_area is None:
            return text
        return f"{text} ({area_text(share * self.height * self.width * self.pixel_area)})"

    def _body(self) -> Iterator[str]:
        """Yield the virtual raster, without what it is called."""
        first = self._headers[0]
        if first.crs is not None:
            yield f"<SRS>{escape(first.crs.to_wkt())}</SRS>\n"
        numbers = ", ".join(f"{number:.17g}" for number in self._transform.to_gdal())
        yield f"<GeoTransform>{numbers}</GeoTransform>\n"
        if any(header.is_lossy for header in self._headers):
            yield '<Metadata domain="IMAGE_STRUCTURE"><MDI key="COMPRESSION">JPEG</MDI></Metadata>'
        expanded = expanded_bands(self._headers)
        if expanded:
            for number, interpretation in enumerate(_COLOURS[:expanded], start=1):
                colour = f"<ColorTableComponent>{number}</ColorTableComponent>"
                yield f'<VRTRasterBand dataType="Byte" band="{number}">\n'
                yield f"<ColorInterp>{interpretation.name.capitalize()}</ColorInterp>\n"
                yield from self._sources("1", colour)
                yield "</VRTRasterBand>\n"
        else:
            for number in range(1, len(first.bands) + 1):
                yield from self._band(number)
        if self._needs_mask(expanded):
            yield '<MaskBand><VRTRasterBand dataType="Byte">\n'
            # an alpha, which may be near infrared, is a band of its own: the mask says where tiles
            # are. The alpha's mask would be the alpha.
            everywhere = "<ScaleOffset>255</ScaleOffset><ScaleRatio>0</ScaleRatio>"
            below = "<NODATA>0</NODATA>" if self.overlapping else ""
            by_alpha = first.has_alpha and not first.has_mask
            yield from self._sources(*(("1", everywhere) if by_alpha else ("mask,1", below)))
            yield "</VRTRasterBand></MaskBand>\n"

    def _needs_mask(self, expanded: int) -> bool:
        """Return whether a mask has to say where data is, beside nodata values and alpha."""
        if any(header.has_mask for header in self._headers):
            return True
        is_declared = self._headers[0].has_nodata or expanded == len(_COLOURS)
        return self.missing > 0 and not is_declared

    def _band(self, number: int) -> Iterator[str]:
        first = self._headers[0]
        band, description = first.bands[number - 1], first.descriptions[number - 1]
        yield f'<VRTRasterBand dataType="{GDAL_TYPES[band.dtype]}" band="{number}">\n'
        if description:
            yield f"<Description>{escape(description)}</Description>\n"
        if band.bits is not None:
            bits = f'<MDI key="NBITS">{escape(band.bits)}</MDI>'
            yield f'<Metadata domain="IMAGE_STRUCTURE">{bits}</Metadata>\n'
        if band.nodata is not None:
            yield f"<NoDataValue>{_number(band.nodata)}</NoDataValue>\n"
        kind = band.interpretation
        name = _INTERPRETATIONS.get(kind, kind.name.capitalize())
        yield f"<ColorInterp>{name}</ColorInterp>\n"
        if (band.scale, band.offset) != (1.0, 0.0):
            yield f"<Offset>{band.offset!r}</Offset><Scale>{band.scale!r}</Scale>\n"
        if first.palette is not None and kind == ColorInterp.palette:
            entries = "".join(
                f'<Entry c1="{r}" c2="{g}" c3="{b}" c4="{a}"/>' for _, (r, g, b, a) in first.palette
            )
            yield f"<ColorTable>{entries}</ColorTable>\n"
        yield from self._sources(str(number), lambda header: self._compositing(header, band))
        yield "</VRTRasterBand>\n"

    def _compositing(self, header: TileHeader, band: Band) -> str:
        """Return what lets an earlier tile be seen where this one holds no data."""
        if not self.overlapping:
            return ""
        if header.has_mask or (header.has_alpha and band.interpretation != ColorInterp.alpha):
            return "<UseMaskBand>true</UseMaskBand>"
        value = 0.0 if band.interpretation == ColorInterp.alpha else band.nodata
        if value is None:
            value = self._nodata
        if value is None and np.dtype(band.dtype).kind == "f":
            value = math.nan  # which is missing in any scene
        return "" if value is None else f"<NODATA>{_number(value)}</NODATA>"

    def _sources(self, band: str, more: str | Callable[[TileHeader], str]) -> Iterator[str]:
        """Yield the tiles as sources of a band, with what else their XML is to say."""
        for header, tile in zip(self._headers, self.tiles, strict=True):
            path = escape(header.file)
            extra = more if isinstance(more, str) else more(header)
            kind = "ComplexSource" if extra else "SimpleSource"
            size = f'xSize="{header.width}" ySize="{header.height}"'
            rows, columns = header.block
            # with its properties a tile is opened only once it is read, and closed after others
            yield (
                f'<{kind}><SourceFilename relativeToVRT="0">{path}</SourceFilename>'
                f"<SourceBand>{band}</SourceBand>"
                f'<SourceProperties RasterXSize="{header.width}" RasterYSize="{header.height}" '
                f'DataType="{GDAL_TYPES[header.bands[0].dtype]}" BlockXSize="{columns}" '
                f'BlockYSize="{rows}"/>'
                f'<SrcRect xOff="0" yOff="0" {size}/>'
                f'<DstRect xOff="{tile.window.col}" yOff="{tile.window.row}" {size}/>'
                f"{extra}</{kind}>\n"
            )


def tile_mosaic(
    paths: Sequence[str],
    *,
    crs: str | None = None,
    nodata: float | None = None,
    show_progress: bool = False,
) -> Mosaic:
    """Return tiles as one scene.

    They may be turned or lie upside down, as long as all do; their pixels lie on one grid to a
    tenth of a pixel. Only their headers are read.

    Args:
        paths: The tiles; where they overlap, the later one counts.
        crs: The CRS of tiles that hold none, as `georeference.crs_to_assign` says.
        nodata: A value that marks pixels without data in tiles that declare none, through which
            earlier tiles are seen.
        show_progress: Whether to show progress on a terminal.

    Raises:
        InputError: One can't be opened or has no place on the map, or they differ in CRS, grid,
            bands, type, nodata, or what else can't be two things in one raster.
    """
    headers: list[TileHeader] = []
    failed: list[InputError] = []
    bar_of_tiles = progress("tiles", len(paths), " tiles", enabled=show_progress, delay=2)
    with many_files(paths), bar_of_tiles as bar:
        for path in paths:
            try:
                headers.append(tile_header(path, crs))
            except InputError as error:
                failed.append(error)
            bar.update()
    if failed:
        if failed[1:]:
            more = f"{len(failed) - 1} more of {counted(len(paths), 'tile')} can't be used either"
            raise failed[0].with_note(more)
        raise failed[0]
    require_alike(headers)
    windows, transform = _places(headers)
    shapes = shapely.box(*np.array([_corners(window) for window in windows]).T)
    left, top, right, bottom = (round(edge) for edge in shapely.total_bounds(shapes))
    height, width = bottom - top, right - left
    if max(height, width) > _LARGEST_SIDE:
        raise InputError(
            f"lies {max(height, width):,} px from others, too far for one scene",
            where=_farthest(paths, windows),
            fix="leave it out, or check its place",
        )
    union = round(float(shapely.area(shapely.union_all(shapes))))
    overlapping, hidden = _overlaps(shapes)
    grid = RasterGrid("", headers[0].crs, transform, ([], None), height, width)
    resolution = ground_resolution(grid)
    return Mosaic(
        _name(headers),
        tuple(Tile(p, w) for p, w in zip(paths, windows, strict=True)),
        height,
        width,
        missing=1 - union / (height * width),
        overlapping=overlapping / (height * width),
        hidden=tuple((paths[below], paths[above]) for below, above in hidden),
        pixel_area=None if resolution is None else resolution**2,
        _transform=transform,
        _headers=tuple(headers),
        _nodata=nodata,
    )


def _places(headers: Sequence[TileHeader]) -> tuple[list[Window], Affine]:
    """Return where tiles lie on the rectangle that holds them, and its transform.

    Raises:
        InputError: One has another pixel size or direction, or lies between the others' pixels.
    """
    sizes = [tuple(float(f"{n:.9g}") for n in _linear(header.transform)) for header in headers]
    common = Counter(sizes).most_common(1)[0][0]
    grid = headers[sizes.index(common)].transform
    ends = np.array([_ends(~grid, header) for header in headers])  # (tiles, 3 corners, 2)
    lengths = np.array([(header.width, header.height) for header in headers])
    sides = ends[:, 1:] - ends[:, :1]
    expected = np.zeros_like(sides)
    expected[:, 0, 0], expected[:, 1, 1] = lengths[:, 0], lengths[:, 1]
    off = np.abs(sides - expected).max(axis=(1, 2)) > _TOLERANCE
    if off.any():
        odd = [header for header, is_off in zip(headers, off, strict=True) if is_off]
        raise differing_tiles(
            odd,
            headers[sizes.index(common)],
            headers,
            lambda header: f"has pixels of {_pixel_text(header.transform)}",
            "bring all onto one grid with `gdalwarp -tr -tap`",
        )
    corners = ends[:, 0]
    phases = [tuple(phase) for phase in (np.round(corners * 20) % 20).astype(int).tolist()]
    first = corners[phases.index(Counter(phases).most_common(1)[0][0])]
    steps = corners - first
    rest = np.abs(steps - np.round(steps)).max(axis=1)
    if (rest > _TOLERANCE).any():
        odd_number = int(np.argmax(rest > _TOLERANCE))
        count = int((rest > _TOLERANCE).sum())
        more = f" ({count} of {len(headers)} tiles are)" if count > 1 else ""
        raise InputError(
            f"is {rest[odd_number]:.2g} px off the grid of the others{more}",
            where=headers[odd_number].path,
            fix="bring all onto one grid with `gdalwarp -tr -tap`",
        )
    whole = np.round(steps).astype(np.int64)
    left, top = whole.min(axis=0).tolist()
    windows = [
        Window(row - top, col - left, header.height, header.width)
        for (col, row), header in zip(whole.tolist(), headers, strict=True)
    ]
    at_corner = [h for h, window in zip(headers, windows, strict=True) if window[:2] == (0, 0)]
    if at_corner:  # its own numbers, without rounding
        return windows, at_corner[0].transform
    return windows, grid @ Affine.translation(float(first[0]) + left, float(first[1]) + top)


def _linear(transform: Affine) -> tuple[float, float, float, float]:
    return transform.a, transform.b, transform.d, transform.e


def _ends(to_grid: Affine, header: TileHeader) -> list[tuple[float, float]]:
    """Return where a tile's first corner, and those beside and below it, lie on a grid."""
    corners = [(0, 0), (header.width, 0), (0, header.height)]
    return [to_grid @ (header.transform @ corner) for corner in corners]


def _pixel_text(transform: Affine) -> str:
    a, b, d, e = _linear(transform)
    turned = f", turned by {math.degrees(math.atan2(d, a)):.3g} degrees" if b or d else ""
    down = ", the first row at the bottom" if transform.determinant > 0 else ""
    return f"{math.hypot(a, d):.9g} x {math.hypot(b, e):.9g}{turned}{down}"


def _overlaps(shapes: Any) -> tuple[int, list[tuple[int, int]]]:
    """Return how many pixels several tiles cover, and which tiles a later one covers whole."""
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    pairs = first < second
    first, second = first[pairs], second[pairs]
    common = shapely.intersection(shapes[first], shapes[second])
    areas = shapely.area(common)
    several = round(float(shapely.area(shapely.union_all(common[areas > 0]))))
    whole = areas == shapely.area(shapes[first])
    return several, list(zip(first[whole].tolist(), second[whole].tolist(), strict=True))


def _corners(window: Window) -> tuple[int, int, int, int]:
    return window.col, window.row, window.col + window.width, window.row + window.height


def _farthest(paths: Sequence[str], windows: Sequence[Window]) -> str:
    """Return the tile that is farthest from the middle one."""
    places = np.array([window[:2] for window in windows], dtype=float)
    return paths[int(np.abs(places - np.median(places, axis=0)).max(axis=1).argmax())]


def _name(headers: Sequence[TileHeader]) -> str:
    """Return the name of the folder that holds all tiles, else ``mosaic``."""
    folders = [os.path.dirname(header.file) for header in headers]
    try:
        return PurePosixPath(os.path.commonpath(folders)).name or "mosaic"
    except ValueError:  # on this machine and elsewhere
        return "mosaic"
