"""The files that a virtual mosaic (VRT) refers to, which must all be there."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from hrrsi.errors import HrrsiError

# GDAL remembers for as long as the process runs that it could not open a file for a mosaic, and
# then reads zeros in its place without a word. So mosaics of such files are not read again.
_failed: set[str] = set()


def require_mosaic_files(dataset: Any, where: str) -> None:
    """Raise unless the files of a mosaic, and of the mosaics in it, are there.

    Args:
        dataset: An open VRT.
        where: Its name, for messages.

    Raises:
        HrrsiError: A file on this machine is missing, or an earlier mosaic of this process failed
            over one of the files.
    """
    files = _files(dataset, {where})
    missing = [name for name in files if is_local(name) and not Path(name).exists()]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise HrrsiError(
            f"refers to {missing[0]}{others}, which {'are' if others else 'is'} not there",
            where=where,
            fix="correct the paths in it, or make it anew",
        )
    again = [name for name in files if name in _failed]
    if again:
        raise HrrsiError(
            f"refers to {again[0]}, which could not be read for another mosaic",
            where=where,
            fix="check that file, and map this scene in a new process",
        )


def remember_failure(dataset: Any, cause: str) -> None:
    """Keep in mind which file of a mosaic could not be read, or all where that is not clear."""
    files = _files(dataset, {dataset.name})
    named = [name for name in files if Path(name).name in cause]
    _failed.update(named or files)


def is_local(name: str) -> bool:
    """Return whether a name is a path on this machine, not ``/vsi...`` or a URL."""
    return not name.startswith("/vsi") and "://" not in name


def _files(dataset: Any, seen: set[str]) -> list[str]:
    """Return the files of a mosaic and of those in it, without the mosaics themselves."""
    found: list[str] = []
    for name in dataset.files:
        if name in seen:
            continue
        seen.add(name)
        if not name.lower().endswith(".vrt") or not (is_local(name) and Path(name).exists()):
            found.append(name)
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                with rasterio.open(name) as inner:
                    found += _files(inner, seen)
        except RasterioError:
            found.append(name)
    return found
