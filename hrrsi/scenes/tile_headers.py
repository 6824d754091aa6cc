"""What tiles of a mosaic say of themselves, and in what they must not differ."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

from rasterio import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags

from hrrsi.errors import InputError
from hrrsi.quantities import counted
from hrrsi.scenes.bands import band_meanings, is_palette
from hrrsi.scenes.crs import crs_name, crs_to_assign
from hrrsi.scenes.georeference import has_transform
from hrrsi.scenes.missing_data import is_lossy
from hrrsi.scenes.raster_opening import is_local, open_raster

GDAL_TYPES = {
    "uint8": "Byte",
    "int8": "Int8",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "uint64": "UInt64",
    "int64": "Int64",
    "float32": "Float32",
    "float64": "Float64",
}


class Band(NamedTuple):
    """What a band of a tile says of itself; of tiles of one mosaic it is the same."""

    dtype: str
    interpretation: ColorInterp
    meaning: str | None
    nodata: float | None
    scale: float
    offset: float
    bits: str | None


class TileHeader(NamedTuple):
    """What a tile says of itself, without its pixels."""

    path: str
    file: str  # absolute
    height: int
    width: int
    transform: Affine
    crs: CRS | None
    bands: tuple[Band, ...]
    descriptions: tuple[str | None, ...]
    block: tuple[int, int]
    has_mask: bool
    is_lossy: bool
    palette: tuple[tuple[int, tuple[int, ...]], ...] | None

    @property
    def has_nodata(self) -> bool:
        """Whether a value marks pixels without data."""
        return any(band.nodata is not None for band in self.bands)

    @property
    def has_alpha(self) -> bool:
        """Whether a band is called alpha."""
        return any(band.interpretation == ColorInterp.alpha for band in self.bands)


def tile_header(path: str, crs: str | None) -> TileHeader:
    """Return what a tile says of itself.

    Args:
        path: The tile.
        crs: The CRS of tiles that hold none, as `georeference.crs_to_assign` says.

    Raises:
        InputError: It can't be opened, has no place on a grid, or holds complex numbers.
    """
    with open_raster(path) as dataset:
        if not has_transform(dataset):
            by_points = len(dataset.gcps[0]) >= 3
            raise InputError(
                "has control points instead of a transform, so it lies on no grid"
                if by_points
                else "has no place on the map, so it is no tile of a mosaic",
                where=path,
                fix="bring it onto one with `gdalwarp`"
                if by_points
                else "put its world file beside it, or map it without `mosaic`",
            )
        if not dataset.transform.determinant:
            raise InputError(
                "has a transform that puts all pixels on a line", where=path, fix="correct it"
            )
        unknown = set(dataset.dtypes) - GDAL_TYPES.keys()
        if unknown:
            raise InputError(
                f"holds {min(unknown)} numbers", where=path, fix="use rasters of real values"
            )
        flags = dataset.mask_flag_enums[0]
        meanings = band_meanings(dataset)
        bands = tuple(
            Band(
                dataset.dtypes[number],
                dataset.colorinterp[number],
                meanings[number],
                dataset.nodatavals[number],
                dataset.scales[number],
                dataset.offsets[number],
                dataset.tags(number + 1, ns="IMAGE_STRUCTURE").get("NBITS"),
            )
            for number in range(dataset.count)
        )
        return TileHeader(
            path,
            _gdal_name(path, dataset),
            dataset.height,
            dataset.width,
            dataset.transform,
            crs_to_assign(dataset, path, crs) or dataset.crs,
            bands,
            dataset.descriptions,
            dataset.block_shapes[0],
            MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags,
            is_lossy(dataset),
            tuple(dataset.colormap(1).items()) if is_palette(dataset) else None,
        )


def _gdal_name(path: str, dataset: Any) -> str:
    """Return what GDAL opens a raster by, wherever the name is read."""
    if not is_local(path):  # rasterio's own schemes, such as s3://
        return str(dataset.files[0]) if dataset.files else path
    return os.path.realpath(path) if os.path.exists(path) else path


class _Property(NamedTuple):
    """Something in which tiles must not differ: its value, that in words, and what to do."""

    value: Callable[[TileHeader], Hashable]
    text: Callable[[TileHeader], str]
    fix: str


def _words(values: Sequence[object]) -> str:
    """Return the values of bands in words, once where all have the same."""
    texts = ["none" if value is None else str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else ", ".join(texts)


_PROPERTIES = (
    _Property(
        lambda tile: None if tile.crs is None else tile.crs.to_wkt(),
        lambda tile: "has no CRS" if tile.crs is None else f"is in {crs_name(tile.crs)}",
        "bring all into one with `gdalwarp -t_srs`, or name that of tiles without one with `crs`",
    ),
    _Property(
        lambda tile: len(tile.bands),
        lambda tile: f"has {counted(len(tile.bands), 'band')}",
        "give all the same with `gdal_translate -b`",
    ),
    _Property(
        lambda tile: tuple(band.dtype for band in tile.bands),
        lambda tile: f"holds {_words([band.dtype for band in tile.bands])}",
        "convert them to one type and range with `gdal_translate -ot -scale`",
    ),
    _Property(
        lambda tile: tuple((band.interpretation, band.meaning) for band in tile.bands),
        lambda tile: (
            "calls its bands "
            + ", ".join(band.meaning or band.interpretation.name for band in tile.bands)
        ),
        "put them into one order with `gdal_translate -b`, or correct their names with "
        "`gdal_edit.py -colorinterp_1`",
    ),
    _Property(
        lambda tile: tuple(str(band.nodata) for band in tile.bands),
        lambda tile: f"has the nodata value {_words([band.nodata for band in tile.bands])}",
        "give all the same with `gdal_edit.py -a_nodata` (or -unsetnodata)",
    ),
    _Property(
        lambda tile: tile.has_mask and (tile.has_nodata or tile.has_alpha),
        lambda tile: f"has {'a' if tile.has_mask else 'no'} mask beside its nodata value or alpha",
        "mark missing data in all tiles in one way",
    ),
    _Property(
        lambda tile: tuple((band.scale, band.offset) for band in tile.bands),
        lambda tile: (
            f"declares scale {_words([band.scale for band in tile.bands])} and offset "
            + _words([band.offset for band in tile.bands])
        ),
        "give all the same with `gdal_edit.py -scale -offset`",
    ),
    _Property(
        lambda tile: tuple(band.bits for band in tile.bands),
        lambda tile: f"uses {_words([band.bits or 'all' for band in tile.bands])} bits a value",
        "write all with the same NBITS (`gdal_translate -co NBITS`)",
    ),
)


def require_alike(headers: Sequence[TileHeader]) -> None:
    """Raise where tiles differ in anything that a raster has once, naming the first odd one.

    Raises:
        InputError: They do.
    """
    for value, text, fix in _PROPERTIES:
        values = [value(header) for header in headers]
        common = Counter(values).most_common(1)[0][0]
        odd = [header for header, own in zip(headers, values, strict=True) if own != common]
        if value is _PROPERTIES[0].value:  # a CRS may be written in several ways
            crs = headers[values.index(common)].crs
            odd = [header for header in odd if header.crs is None or header.crs != crs]
        if odd:
            raise differing_tiles(odd, headers[values.index(common)], headers, text, fix)
    if any(h.palette for h in headers) and not expanded_bands(headers):
        palettes = [header.palette for header in headers]
        deviating = next((h for h in headers if h.palette != palettes[0]), None)
        if deviating is not None:
            raise InputError(
                f"has another palette than {headers[0].path}, beside an alpha",
                where=deviating.path,
                fix="write the tiles as colours, with `gdal_translate -expand rgb`",
            )


def differing_tiles(
    odd: Sequence[TileHeader],
    other: TileHeader,
    headers: Sequence[TileHeader],
    text: Callable[[TileHeader], str],
    fix: str,
) -> InputError:
    """Return the error of tiles that differ from the others.

    Args:
        odd: They, the first of which is named.
        other: One of the others.
        headers: All tiles.
        text: Returns in words in what they differ.
        fix: What to do.
    """
    more = f" ({len(odd)} of {len(headers)} tiles differ)" if odd[1:] else ""
    return InputError(
        f"{text(odd[0])} where {other.path} {text(other)}{more}", where=odd[0].path, fix=fix
    )


def expanded_bands(headers: Sequence[TileHeader]) -> int:
    """Return as how many bands of colours palettes are shown, 0 where all tiles have one palette.

    Numbers of several palettes mean nothing together.
    """
    palettes = {header.palette for header in headers}
    if len(palettes) == 1 or any(len(header.bands) != 1 for header in headers):
        return 0
    is_whole = not headers[0].has_nodata and all(
        entry[-1] for palette in palettes for _, entry in palette or ()
    )
    return 3 if is_whole else 4
