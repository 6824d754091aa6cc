"""Opens whatever GDAL reads, mosaics' files checked, with its failures in one line."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import rasterio
from rasterio._err import CPLE_BaseError  # what rasterio lets pass: no public class is its base
from rasterio.env import get_gdal_config, set_proj_data_search_path
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError

from hrrsi.errors import FileWarning, InputError, MissingInputError, one_line, warn
from hrrsi.files import require_regular
from hrrsi.hardware import memory_limit
from hrrsi.scenes.windows import Window

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

# What changes what a raster says without a word: masks, world files and class names stand in files
# beside it. "TRUE" looks for these by their names, without listing the folder.
if os.environ.get("GDAL_DISABLE_READDIR_ON_OPEN", "").upper() == "EMPTY_DIR":
    os.environ["GDAL_DISABLE_READDIR_ON_OPEN"] = "TRUE"
if os.environ.get("GDAL_PAM_ENABLED", "YES").upper() in ("NO", "OFF", "FALSE", "0"):
    os.environ["GDAL_PAM_ENABLED"] = "YES"

# The database of coordinate systems that comes with rasterio fits it; one of PostGIS, conda or QGIS
# that these name may be of another version, or none.
_own_proj = Path(rasterio.__file__).parent / "proj_data"
if {"PROJ_LIB", "PROJ_DATA"} & os.environ.keys() and (_own_proj / "proj.db").is_file():
    for _name in ("PROJ_LIB", "PROJ_DATA"):
        os.environ.pop(_name, None)
    set_proj_data_search_path(str(_own_proj))  # it may have been looked for already

GDAL_ERRORS = (RasterioError, CPLE_BaseError)
# What rasterio raises of a file that is damaged or not UTF-8.
_OF_DAMAGE = (*GDAL_ERRORS, CRSError, UnicodeDecodeError)

# pyogrio takes these for parts of an address
NOT_IN_VECTOR_PATHS = re.compile(r"[\x00-\x1f\x7f!;]")

RASTER_SUFFIXES = frozenset(
    {".tif", ".tiff", ".vrt", ".jp2", ".j2k", ".jpg", ".jpeg", ".png", ".img", ".ecw", ".sid"}
    | {".mbtiles"}
)

# Rows of windows need the blocks of two rows of tiles, 184 MB where a scene is 60000 px wide.
_BLOCK_CACHE = 256 * 2**20

NOT_A_RASTER = "is not a raster that GDAL can read"

# What needs libraries of their makers.
_CLOSED_FORMATS = {".ecw": "an ECW", ".sid": "a MrSID"}

_MOSAIC_TAGS = ("MOSAIC_OF", "MOSAIC_SHA256", "MOSAIC_PLACES")

# GDAL remembers for as long as the process runs that it could not open a file for a mosaic, and
# then reads zeros in its place without a word. So mosaics of such files are not read again.
_failed: set[str] = set()
# What GDAL has said of vector files, each time they were read.
_file_messages: set[str] = set()


@contextmanager
def bounded_block_cache() -> Iterator[None]:
    """Bound GDAL's cache of decoded blocks, unless the environment says how large it is.

    Without a bound it takes 5 % of the machine's memory, also in a container that has less.
    """
    chosen = "GDAL_CACHEMAX" in os.environ
    size = int(get_gdal_config("GDAL_CACHEMAX")) if chosen else _BLOCK_CACHE
    limit = memory_limit()
    if limit is not None and not chosen:
        size = min(size, limit // 8)
    with rasterio.Env(GDAL_CACHEMAX=size):  # named in any case: what it was is restored then
        yield


@contextmanager
def many_files(names: Sequence[str]) -> Iterator[None]:
    """Let GDAL look for files beside rasters by name, where folders hold thousands of them.

    Otherwise it lists a folder each time that it opens a raster in it. A server's, of which each
    look is a request, it lists once.

    Args:
        names: The rasters.
    """
    keeps_default = "GDAL_DISABLE_READDIR_ON_OPEN" in os.environ or not all(map(is_local, names))
    with rasterio.Env(**{} if keeps_default else {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}):
        yield


@contextmanager
def open_raster(path: str | Path) -> Iterator[Any]:
    """Open a raster with rasterio, with one-line errors and without the warnings about no CRS.

    Args:
        path: A file, or whatever GDAL opens (``/vsizip/...``, ``https://...``, ``s3://...``).

    Raises:
        InputError: Missing, empty, not a raster that GDAL can read, or a mosaic of files of which
            one is missing; at the end, where it was changed meanwhile.
    """
    name = str(path)
    before = file_states([name])
    with opened_raster(name) as dataset:
        try:
            if dataset.count == 0:
                raise InputError(
                    "holds no bands of its own", where=name, fix="name one of its subdatasets"
                )
            if dataset.driver == "VRT":
                before |= file_states(require_mosaic_files(dataset, name))
            yield dataset
        except _OF_DAMAGE as error:  # what GDAL says of it is of no public class
            raise InputError(
                f"is damaged ({_cause(error)})", where=name, fix="copy the file again"
            ) from error
        refuse_changed(before)


def opened_raster(name: str, **options: Any) -> Any:
    """Return an open rasterio dataset, which says nothing of a missing georeference.

    Args:
        name: As for `open_raster`.
        options: For `rasterio.open`.

    Raises:
        InputError: GDAL can't open it.
    """
    if is_local(name):
        require_regular(Path(name), folders=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(name, **options)
    except _OF_DAMAGE as error:
        raise _not_opened(name, error) from error
    except UnicodeEncodeError as error:
        printable = name.encode("utf-8", "replace").decode()
        raise InputError(
            "has a name that is not UTF-8", where=printable, fix="rename it"
        ) from error


@contextmanager
def unified_gdal_errors() -> Iterator[None]:
    """Raise all of GDAL's errors as `RasterioError`.

    Where rasterio lets them pass as they are, their classes are none of its public ones.

    Raises:
        RasterioError: GDAL failed.
    """
    try:
        yield
    except RasterioError:
        raise
    except Exception as error:
        raise RasterioError(str(error)) from error


@contextmanager
def vector_warnings_once(path: str | Path, *, muted: bool = False) -> Iterator[None]:
    """Warn of what GDAL says while a vector file is read once a process, as `FileWarning`.

    Args:
        path: The file.
        muted: Whether who has looked at the file before has told already.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if not issubclass(warning.category, RuntimeWarning):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
            continue
        line = f"{path}: {' '.join(str(warning.message).split())}"
        if not muted and line not in _file_messages:
            _file_messages.add(line)
            warn(line, FileWarning)


def require_mosaic_files(dataset: Any, where: str) -> list[str]:
    """Return the files of a mosaic, and of the mosaics in it; all that are local are there.

    Args:
        dataset: An open VRT.
        where: Its name, for messages.

    Raises:
        InputError: A file on this machine is missing, or an earlier mosaic of this process failed
            over one of the files.
    """
    files = mosaic_files(dataset)
    absent_files = [name for name in files if is_local(name) and not Path(name).exists()]
    if absent_files:
        rest = f" and {len(absent_files) - 1} more" if len(absent_files) > 1 else ""
        raise MissingInputError(
            f"refers to {absent_files[0]}{rest}, which {'are' if rest else 'is'} not there",
            where=where,
            fix="correct the paths in it, or make it anew",
        )
    unreadable = [name for name in files if name in _failed]
    if unreadable:
        raise InputError(
            f"refers to {unreadable[0]}, which could not be read for another mosaic",
            where=where,
            fix="check that file, and map this scene in a new process",
        )
    return files


def mosaic_files(dataset: Any) -> list[str]:
    """Return the files of an open VRT and of the mosaics in it, without the mosaics themselves."""
    return _files(dataset, {dataset.name})


def mosaic_tiles(dataset: Any) -> list[str]:
    """Return the tiles of the open virtual raster of a `Mosaic`, or of a part of it, in order."""
    files: list[str] = dataset.files
    if len(files) == 1:
        with opened_raster(files[0]) as whole:
            files = whole.files
    return files[1:]


class MosaicLabel(NamedTuple):
    """What the virtual raster of a mosaic says of it (`hrrsi.scenes.mosaic` writes them).

    Attributes:
        title: What messages call it.
        digest: What identifies it: its tiles by name, their order and their places.
        places: Where some tiles lie, spread over all.
    """

    title: str
    digest: str
    places: tuple[Window, ...]

    def tags(self) -> dict[str, str]:
        """Return it as tags of a raster."""
        places = ";".join(",".join(map(str, place)) for place in self.places)
        return dict(zip(_MOSAIC_TAGS, (self.title, self.digest, places), strict=True))

    @classmethod
    def of(cls, dataset: Any) -> Self | None:
        """Return that of an open raster, None where it is no virtual raster of a mosaic."""
        tags = dataset.tags() if dataset.driver == "VRT" else {}
        if not set(_MOSAIC_TAGS) <= tags.keys():
            return None
        title, digest, places = (tags[key] for key in _MOSAIC_TAGS)
        listed = (map(int, place.split(",")) for place in places.split(";"))
        return cls(title, digest, tuple(Window(*place) for place in listed))


def file_states(names: Iterable[str | Path]) -> dict[str, tuple[int, int]]:
    """Return size and time of change, in ns, of those files that are on this machine.

    Args:
        names: Files as GDAL opens them; of one within an archive, the archive counts.
    """
    states = {}
    for name in names:
        file = _file_on_disk(str(name))
        with suppress(OSError, ValueError):
            status = os.stat(file)
            states[file] = (status.st_size, status.st_mtime_ns)
    return states


def changed_files(before: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return the files that are not as `file_states` found them, or gone."""
    now = file_states(before)
    return [name for name, state in before.items() if now.get(name) != state]


def refuse_changed(before: Mapping[str, tuple[int, int]]) -> None:
    """Raise where a file is not as `file_states` found it.

    Raises:
        InputError: It was changed, or is gone.
    """
    for name in changed_files(before):
        raise InputError(
            "was changed while it was read",
            where=name,
            fix="wait until nothing writes to it, then run this again",
        )


@contextmanager
def unchanged(names: Iterable[str | Path]) -> Iterator[None]:
    """Raise at the end of the block where one of the files was changed meanwhile.

    Args:
        names: As for `file_states`.

    Raises:
        InputError: One was.
    """
    before = file_states(names)
    yield
    refuse_changed(before)


def _file_on_disk(name: str) -> str:
    """Return the file in which a name of GDAL's lies: itself, or the archive around it."""
    archive = re.fullmatch(r"/vsi(?:zip|tar|gzip|7z|rar)/(.*)", name)
    if archive is None:
        return name if os.path.isfile(name) else name.partition("|")[0]  # a layer may be named
    braced = re.match(r"\{(.*?)\}", archive[1])
    file = braced[1] if braced else archive[1]
    while not os.path.isfile(file) and len(parent := os.path.dirname(file)) < len(file):
        file = parent
    return file


def remember_failure(dataset: Any, cause: str) -> None:
    """Keep in mind which file of a mosaic could not be read, or all where that is not clear."""
    files = mosaic_files(dataset)
    unreadable = [name for name in files if Path(name).name in cause]
    _failed.update(unreadable or files)


def subdataset_parts(name: str) -> tuple[str, str] | None:
    """Return file and part of a name such as ``GPKG:folder/file.gpkg:part``, or None of others."""
    parts = re.fullmatch(r'[A-Za-z0-9_]{2,}:"?([^"]+?)"?:(?://)?([^:]+)', name)
    return None if parts is None or parts[1].startswith("//") else (parts[1], parts[2])


def raster_parts(path: str) -> list[str]:
    """Return the rasters in a GeoPackage as GDAL opens them, none where it holds only vectors.

    Raises:
        InputError: It is damaged.
    """
    try:
        with opened_raster(path, driver="GPKG") as dataset:
            return list(dataset.subdatasets) or [path]
    except InputError:
        import pyogrio  # seconds that those who map files don't wait for

        require_vector_path(path)
        try:
            pyogrio.list_layers(path)
        except pyogrio.errors.DataSourceError as error:
            raise _not_opened(path, error) from error
        return []


def is_local(name: str) -> bool:
    """Return whether a name is a path on this machine, not ``/vsi...`` or a URL."""
    return not name.startswith("/vsi") and "://" not in name


def require_vector_path(path: str | Path) -> None:
    """Raise where pyogrio would open another file, or none: at ``!``, ``;`` and line breaks.

    Raises:
        InputError: Such a path.
    """
    if is_local(str(path)) and NOT_IN_VECTOR_PATHS.search(str(path)):
        raise InputError(
            "has a !, a ; or a control character in its path, which vector files can't have",
            where=path,
            fix="rename the file or its folder",
        )


def _files(dataset: Any, mosaics: set[str]) -> list[str]:
    """Return the files of a mosaic and of those in it, without the mosaics themselves."""
    files: list[str] = []
    for name in dataset.files:
        if name in mosaics:
            continue
        mosaics.add(name)
        is_there = name.startswith("/vsimem/") or (is_local(name) and Path(name).exists())
        if not name.lower().endswith(".vrt") or not is_there:
            files.append(name)
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                with rasterio.open(name) as inner:
                    files += _files(inner, mosaics)
        except RasterioError:
            files.append(name)
    return files


def _cause(error: Exception) -> str:
    text = one_line(getattr(error, "errmsg", None) or error)
    return text if len(text) <= 120 else text[:117] + "..."


def _not_opened(name: str, error: Exception) -> InputError:
    archive = _file_on_disk(name)
    if not is_local(name) and os.path.isfile(archive):
        return InputError(
            f"is missing in {archive}, or damaged ({_cause(error)})",
            where=name,
            fix="copy the archive again",
        )
    if not is_local(name):
        return InputError(
            f"cannot be opened ({' '.join(str(error).split())})",
            where=name,
            fix="check the address, the network and your access to it",
        )
    file = Path(name)
    if not file.exists():
        return MissingInputError("no such file", where=name, fix="check the path")
    if file.is_dir():
        return InputError("is a folder, not a raster", where=name, fix="name a file in it")
    if file.stat().st_size == 0:
        return InputError("is empty (0 bytes)", where=name, fix="copy the file again")
    own_format = _CLOSED_FORMATS.get(file.suffix.lower())
    if own_format is not None:
        return InputError(
            f"is {own_format} file, a closed format that the GDAL here can't read",
            where=name,
            fix="convert it to GeoTIFF with a program that can, e.g. QGIS (Export > Save As)",
        )
    return InputError(NOT_A_RASTER, where=name, fix="check that it opens in QGIS")
