"""What the bands of a raster show, and which of them a network sees."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio.shutil
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.windows import Window as RasterWindow

from hrrsi.errors import InputError
from hrrsi.scenes.crs import crs_to_assign
from hrrsi.scenes.raster_opening import open_raster, opened_raster
from hrrsi.scenes.windows import Window, spread_starts

if TYPE_CHECKING:
    from hrrsi.scenes.polygons import AreaOfInterest

RED, GREEN, BLUE, NEAR_INFRARED = "red", "green", "blue", "near infrared"
# The order that networks see known bands in, where nobody says another.
NATURAL_ORDER = (RED, GREEN, BLUE, NEAR_INFRARED)
_INTERPRETATIONS = {
    ColorInterp.red: RED,
    ColorInterp.green: GREEN,
    ColorInterp.blue: BLUE,
    ColorInterp.nir: NEAR_INFRARED,
    ColorInterp.rededge: "red edge",
    ColorInterp.coastal: "coastal",
    ColorInterp.swir: "shortwave infrared",
    ColorInterp.pan: "panchromatic",
}
# Words of band descriptions, in some languages; a single letter counts where it stands alone.
_WORDS = (
    ("red edge", r"red ?edge\w*|rededge\w*"),
    ("shortwave infrared", r"swir\w*|short ?wave infra ?red"),
    (NEAR_INFRARED, r"nir\w*|(near )?infra ?red|nah(es )?infrarot|proche infrarouge"),
    ("coastal", r"coastal( blue| aerosol)?"),
    ("panchromatic", r"pan|panchromatic"),
    (RED, r"red|rot|rouge|rojo|rosso"),
    (GREEN, r"green|grün|gruen|vert|verde"),
    (BLUE, r"blue|blau|bleu|azul|blu"),
)
_LETTERS = {"r": RED, "g": GREEN, "b": BLUE, "n": NEAR_INFRARED, "ir": NEAR_INFRARED}
_WAVELENGTHS = (  # in micrometres, up to
    (0.445, "coastal"),
    (0.515, BLUE),
    (0.6, GREEN),
    (0.69, RED),
    (0.75, "red edge"),
    (1.0, NEAR_INFRARED),
)
_PIECES, _PIECE = 8, 64  # squares of an alpha that are looked at: along each axis, px
_FEWEST_VALUES = 16  # that imagery has; an alpha that fades out at edges has them in few pixels


def colour_bands(dataset: Any) -> list[int]:
    """Return the 1-based bands of a rasterio dataset that are not alpha."""
    return [
        band
        for band, meaning in enumerate(dataset.colorinterp, start=1)
        if meaning != ColorInterp.alpha
    ]


def alpha_bands(dataset: Any) -> list[int]:
    """Return the 1-based bands of a rasterio dataset that it calls alpha."""
    colours = colour_bands(dataset)
    return [band for band in range(1, dataset.count + 1) if band not in colours]


def band_meanings(dataset: Any) -> tuple[str | None, ...]:
    """Return what a rasterio dataset itself says that each of its bands shows.

    Its descriptions count first, then the wavelengths that GDAL knows, then colour
    interpretations: ``red``, ``green``, ``blue``, ``near infrared`` and the like, None where it
    does not say.
    """
    return tuple(
        _described(dataset.descriptions[number])
        or _wavelength_meaning(dataset.tags(number + 1, ns="IMAGERY"))
        or _INTERPRETATIONS.get(dataset.colorinterp[number])
        for number in range(dataset.count)
    )


def names_bands(dataset: Any) -> bool:
    """Return whether a rasterio dataset says what its bands show, by more than a default.

    Three or four bands are called red, green and blue by any program that is not told otherwise.
    """
    meanings = band_meanings(dataset)
    if meanings[:3] != NATURAL_ORDER[:3]:
        return any(meanings)
    return any(map(_described, dataset.descriptions)) or NEAR_INFRARED in meanings


def bands_showing(dataset: Any, meanings: Sequence[str | None] | None) -> list[int] | None:
    """Return the 1-based bands that a rasterio dataset itself says show what is wanted, or None.

    None where one is not known, or the dataset does not name each just once.
    """
    own = band_meanings(dataset)
    if (
        not meanings
        or len(set(meanings)) < len(meanings)
        or any(own.count(w) != 1 for w in meanings)
    ):
        return None
    return None if None in meanings else [own.index(meaning) + 1 for meaning in meanings]


def alpha_is_imagery(dataset: Any, area: AreaOfInterest | None = None) -> bool:
    """Return whether the band that a rasterio dataset calls alpha holds values as imagery does.

    GDAL calls the fourth of four 8-bit bands alpha unless it is told otherwise: near infrared too,
    which is 0 in clear water and shadow. An alpha has mostly one value beside 0, whatever it is;
    near infrared has many. 64 squares of 64 px are looked at.

    Args:
        dataset: A rasterio dataset.
        area: Where the squares lie; None: all over.
    """
    alphas = alpha_bands(dataset)
    if not alphas:
        return False
    height, width = dataset.shape
    counts: dict[float, int] = {}
    for row in spread_starts(height, _PIECE, _PIECES):
        for column in spread_starts(width, _PIECE, _PIECES):
            place = Window(row, column, min(_PIECE, height), min(_PIECE, width))
            if area is not None and not area.touches(place):
                continue
            window = RasterWindow(place.col, place.row, place.width, place.height)
            try:
                piece = dataset.read(alphas[0], window=window)
            except RasterioError:  # whoever reads the pixels says so
                return False
            for value, count in zip(*np.unique(piece[piece != 0], return_counts=True), strict=True):
                counts[float(value)] = counts.get(float(value), 0) + int(count)
    return len(counts) >= _FEWEST_VALUES and 2 * max(counts.values()) < sum(counts.values())


@contextmanager
def open_imagery(
    path: str | Path, expected_bands: int, crs: str | None = None, part: Window | None = None
) -> Iterator[Any]:
    """Open a raster as `open_raster`, a palette picture as its colours where three are wanted.

    Args:
        path: As for `open_raster`.
        expected_bands: How many bands are wanted.
        crs: The CRS of a raster that holds none, as `crs_to_assign` says.
        part: A window of it to open as if it were the raster; by default the whole.

    Raises:
        InputError: As `open_raster` and `crs_to_assign`.
    """
    with open_raster(path) as dataset, ExitStack() as stack:
        changes = []
        if expected_bands >= 3 and is_palette(dataset):
            entries = dataset.colormap(1).values()
            is_whole = dataset.nodata is None and all(opacity for *_, opacity in entries)
            changes.append(f"expand={'rgb' if is_whole else 'rgba'}")
        assigned = crs_to_assign(dataset, path, crs)
        if assigned is not None:
            changes.append(f"a_srs={assigned.to_string()}")
        if part is not None:
            changes.append(f"srcwin={part.col},{part.row},{part.width},{part.height}")
        if not changes:
            yield dataset
            return
        source = path
        if "?" in str(path):  # what GDAL takes for the start of the changes
            source = stack.enter_context(_virtual_copy(dataset))
        yield stack.enter_context(opened_raster(f"vrt://{source}?{'&'.join(changes)}"))


@contextmanager
def _virtual_copy(dataset: Any) -> Iterator[str]:
    """Yield the name of a virtual raster in memory that shows a rasterio dataset."""
    with MemoryFile(ext=".vrt") as file:
        rasterio.shutil.copy(dataset, file.name, driver="VRT")
        yield file.name


def is_palette(dataset: Any) -> bool:
    """Return whether the bands of a rasterio dataset are a palette's numbers, beside an alpha."""
    return len(colour_bands(dataset)) == 1 and dataset.colorinterp[0] == ColorInterp.palette


def chosen_bands(
    path: str | Path,
    dataset: Any,
    bands: Sequence[int] | None,
    expected_bands: int,
    trained_bands: Sequence[int] | None = None,
    meanings: Sequence[str | None] | None = None,
) -> tuple[int, ...]:
    """Return the 1-based bands of a raster that a network sees.

    Args:
        path: The raster's name, for messages.
        dataset: Its rasterio dataset.
        bands: Those that the user names. Without any it is those that the raster itself says show
            what the network wants (`meanings`), else `unnamed_bands`.
        expected_bands: How many the network sees.
        trained_bands: Those of the scenes that the network was trained on.
        meanings: What these show, as `band_meanings` calls it; None where it is not known.

    Raises:
        InputError: The raster lacks one, they are too many or too few, or of several types.
    """
    band_numbers = bands or bands_showing(dataset, meanings)
    chosen = list(band_numbers or unnamed_bands(dataset, trained_bands))
    require_bands(path, dataset, chosen)
    if len(chosen) != expected_bands:
        noun = "band" if len(chosen) == 1 else "bands"
        example = ",".join(str(b) for b in range(1, expected_bands + 1))
        fix = (
            f"choose {expected_bands} with `bands`, e.g. `bands={example}`"
            if dataset.count >= expected_bands
            else f"use a raster with at least {expected_bands} bands"
        )
        raise InputError(
            f"has {len(chosen)} {noun} where {expected_bands} are needed", where=path, fix=fix
        )
    types = {dataset.dtypes[b - 1] for b in chosen}
    if len(types) > 1:
        raise InputError(
            f"its bands have different types ({', '.join(sorted(types))})",
            where=path,
            fix="convert them to one type",
        )
    return tuple(chosen)


def require_bands(path: str | Path, dataset: Any, bands: Sequence[int]) -> None:
    """Raise where a raster lacks bands, or holds no real numbers in them.

    Args:
        path: The raster's name, for messages.
        dataset: Its rasterio dataset.
        bands: 1-based.

    Raises:
        InputError: It does.
    """
    absent = [band for band in bands if not 1 <= band <= dataset.count]
    if absent:
        raise InputError(
            f"has no band {absent[0]} (it has {dataset.count})",
            where=path,
            fix="correct `bands`",
        )
    if any("complex" in dataset.dtypes[band - 1] for band in bands):
        raise InputError("holds complex numbers", where=path, fix="use a raster of real values")


def unnamed_bands(dataset: Any, trained: Sequence[int] | None) -> Sequence[int]:
    """Return the 1-based bands that a network sees of a raster that does not say what they show.

    All bands but alpha where those of training are just the first ones and these are as many; else
    those of training where the raster has them all; else all bands but alpha.

    Args:
        dataset: Its rasterio dataset.
        trained: The bands of the scenes that the network was trained on, where there are such.
    """
    colours = colour_bands(dataset)
    if not trained or max(trained) > dataset.count:
        return colours
    are_first = list(trained) == list(range(1, len(trained) + 1))
    # an alpha that comes first doesn't make the colours others
    return colours if are_first and len(colours) == len(trained) else trained


def _described(description: str | None) -> str | None:
    """Return what a band shows by the words of its description, or None."""
    text = (description or "").strip().casefold()
    if text in _LETTERS:
        return _LETTERS[text]
    text = " ".join(re.findall(r"[^\W\d_]+", text))
    meanings = []
    for meaning, words in _WORDS:
        text, count = re.subn(rf"\b(?:{words})\b", " ", text)
        meanings += [meaning] * (count > 0)
    return meanings[0] if len(meanings) == 1 else None


def _wavelength_meaning(tags: dict[str, str]) -> str | None:
    try:
        wavelength = float(tags.get("CENTRAL_WAVELENGTH_UM", "nan"))
    except ValueError:
        return None
    if not wavelength >= 0.4:
        return None
    return next((meaning for end, meaning in _WAVELENGTHS if wavelength < end), None)
