"""Opens whatever GDAL reads, with its failures in one line."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rasterio
from rasterio.env import get_gdal_config
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from hrrsi.errors import HrrsiError
from hrrsi.scenes.mosaic import is_local, require_mosaic_files

# GDAL's settings, where the environment doesn't hold others. Its shortcut for reading a whole PNG
# returns noise instead of an error where the file is cut; by default it waits forever for a server
# that says nothing, and never tries twice.
for _name, _value in {
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "1",
}.items():
    os.environ.setdefault(_name, _value)


# Rows of windows need the blocks of two rows of tiles, 184 MB where a scene is 60000 px wide.
_BLOCK_CACHE = 256 * 2**20


@contextmanager
def bounded_block_cache() -> Iterator[None]:
    """Bound GDAL's cache of decoded blocks, unless the environment says how large it is.

    Without a bound it takes 5 % of the machine's memory.
    """
    chosen = "GDAL_CACHEMAX" in os.environ
    size = int(get_gdal_config("GDAL_CACHEMAX")) if chosen else _BLOCK_CACHE
    with rasterio.Env(GDAL_CACHEMAX=size):  # named in any case: what it was is restored then
        yield


@contextmanager
def open_raster(path: str | Path) -> Iterator[Any]:
    """Open a raster with rasterio, with one-line errors and without the warnings about no CRS.

    Args:
        path: A file, or whatever GDAL opens (``/vsizip/...``, ``https://...``, ``s3://...``).

    Raises:
        HrrsiError: Missing, empty, not a raster that GDAL can read, or a mosaic of files of which
            one is missing.
    """
    name = str(path)
    with opened_raster(name) as dataset:
        if dataset.count == 0:
            raise HrrsiError(
                "holds no bands of its own", where=name, fix="name one of its subdatasets"
            )
        if dataset.driver == "VRT":
            require_mosaic_files(dataset, name)
        yield dataset


def opened_raster(name: str, **options: Any) -> Any:
    """Return an open rasterio dataset, which says nothing of a missing georeference.

    Args:
        name: As for `open_raster`.
        options: For `rasterio.open`.

    Raises:
        HrrsiError: GDAL can't open it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(name, **options)
    except RasterioError as error:
        raise _not_opened(name, error) from error
    except UnicodeEncodeError as error:
        printable = name.encode("utf-8", "replace").decode()
        raise HrrsiError(
            "has a name that is not UTF-8", where=printable, fix="rename it"
        ) from error


def _not_opened(name: str, error: RasterioError) -> HrrsiError:
    if not is_local(name):
        return HrrsiError(
            f"cannot be opened ({' '.join(str(error).split())})",
            where=name,
            fix="check the address, the network and your access to it",
        )
    file = Path(name)
    if not file.exists():
        return HrrsiError("no such file", where=name, fix="check the path")
    if file.is_dir():
        return HrrsiError("is a folder, not a raster", where=name, fix="name a file in it")
    if file.stat().st_size == 0:
        return HrrsiError("is empty (0 bytes)", where=name, fix="copy the file again")
    return HrrsiError(
        "is not a raster that GDAL can read", where=name, fix="check that it opens in QGIS"
    )
