"""Strips that workers of a cluster have finished: files that all reach, named by their rows.

They lie in the map's hidden folder, on a shared disk or in object storage, until the map is whole.
A file appears whole or not at all, and says in its name which run's strips it belongs to: one that
a worker writes late, for a run that was stopped, is nobody else's.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from hrrsi.errors import DependencyError, HrrsiError, OutputError
from hrrsi.files import prepare_folder, require_regular
from hrrsi.maps.partial_map import (
    STRIPS_FOLDER,
    partial_map_folder,
    refuse_differences,
    remove_strips,
)
from hrrsi.maps.raw_pyramid import write_errors
from hrrsi.prediction.blending import Strip
from hrrsi.quantities import counted

_GO_ON = "free space there, then go on with `resume`"
_RECORD = "map.json"  # what the map depends on
_NAME = re.compile(r"rows-(\d+)-(\d+)-([0-9a-f]+)\.npz")
_LEVEL = 1  # of deflate: labels take a thirtieth of their bytes, at over 100 MB/s
# what object storage raises where it does not answer, or not to us
_REACHED = "check the address, the network and your credentials"


class StripsMissingError(HrrsiError, RuntimeError):
    """Strips of a map are not there, or damaged: they have to be made again."""


class Folder(Protocol):
    """A folder on a shared disk or in object storage; names are of files right in it."""

    def names(self) -> list[str]:
        """Return the names of its files; of a folder that is not there, none."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is none."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...


class DiskFolder:
    """A folder of a file system. See `Folder`.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        """Return the names of its files; of a folder that is not there, none."""
        try:
            return os.listdir(self._path)
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is none."""
        require_regular(self._path / name)
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            OutputError: The disk is full, or the folder can't be written to.
        """
        prepare_folder(self._path)
        # of this machine's process 17 and another's: several may write one file at a time
        meanwhile = self._path / f".{name}.{uuid.uuid4().hex}.part"
        with write_errors(self._path / name, _GO_ON):
            try:
                with meanwhile.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                meanwhile.replace(self._path / name)
            finally:
                with suppress(OSError):
                    meanwhile.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self._path / name).unlink(missing_ok=True)


class ObjectFolder:
    """A prefix of object storage, by fsspec. See `Folder`.

    Args:
        url: E.g. ``s3://bucket/maps``.

    Raises:
        DependencyError: What reads that storage is not installed.
        OutputError: It can't be reached.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        with self._errors():
            self._files, self._path = storage_of(self.url)

    def names(self) -> list[str]:
        """Return the names of its files; of a folder that is not there, none."""
        with self._errors():
            try:
                self._files.invalidate_cache()  # others write there
                found = self._files.ls(self._path, detail=False)
            except FileNotFoundError:
                return []
        return [name.rpartition("/")[2] for name in found]

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is none."""
        with self._errors():
            try:
                return bytes(self._files.cat_file(f"{self._path}/{name}"))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all, as object storage does."""
        with self._errors():
            self._files.pipe_file(f"{self._path}/{name}", content)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with self._errors(), suppress(FileNotFoundError):
            self._files.rm_file(f"{self._path}/{name}")

    def upload(self, file: Path) -> None:
        """Write a file of this machine under its own name."""
        with self._errors():
            self._files.put_file(str(file), f"{self._path}/{file.name}")

    def download(self, name: str, file: Path) -> bool:
        """Write a file to this machine; return whether it is there."""
        with self._errors():
            try:
                self._files.get_file(f"{self._path}/{name}", str(file))
            except FileNotFoundError:
                return False
        return True

    def require_reachable(self) -> None:
        """Raise where its bucket is not there, or not for us.

        Raises:
            OutputError: It is not.
        """
        with self._errors():
            bucket = self._path.partition("/")[0]
            if not self._files.exists(bucket):
                raise FileNotFoundError(f"there is no {bucket}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except HrrsiError:
            raise
        except Exception as error:  # each storage has its own, few of them OSErrors
            cause = " ".join(str(error).split()) or type(error).__name__
            raise OutputError(
                f"cannot be used ({cause[:120]})", where=self.url, fix=_REACHED
            ) from (error)


class RemotePath(PurePosixPath):
    """A file in object storage: its text is its address, ``s3://bucket/maps/a_classes.tif``."""

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def exists(self) -> bool:
        """Return whether it is there."""
        parent, _, name = str(self).rpartition("/")
        return name in ObjectFolder(parent).names()


def storage_of(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address, and the path in it.

    Raises:
        DependencyError: What reads that storage is not installed.
    """
    import fsspec  # type: ignore[import-untyped] # comes with distributed

    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise DependencyError(
            f"{url} needs packages that are not installed ({' '.join(str(error).split())})",
            extra="cluster",
        ) from error
    return files, str(path)


def folder_of(place: str) -> Folder:
    """Return a folder by its path or address."""
    return ObjectFolder(place) if "://" in place else DiskFolder(Path(place))


def identity_mark(identity: Mapping[str, Any]) -> str:
    """Return what tells strips of a map from those of another one, of all that these depend on."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class StripFiles:
    """The finished strips of one map.

    Attributes:
        map: The map: a path that all see, or an address such as ``s3://bucket/maps/a.tif``.
        mark: What tells its strips from those of another one, `identity_mark`.
    """

    map: str
    mark: str

    @property
    def _folder(self) -> Folder:
        if "://" in self.map:
            parent, _, name = self.map.rpartition("/")
            return ObjectFolder(f"{parent}/.{name}.unfinished/{STRIPS_FOLDER}")
        return DiskFolder(partial_map_folder(Path(self.map)) / STRIPS_FOLDER)

    def begin(self, identity: Mapping[str, Any], *, resume: bool) -> dict[int, int]:
        """Take up the strips that are there, or remove them; return the rows of those kept.

        Args:
            identity: All that the map depends on.
            resume: Whether those that are there count.

        Raises:
            OutputError: They are of a map that was begun otherwise, or can't be written.
        """
        folder = self._folder
        identity = json.loads(json.dumps(identity))
        record = folder.read(_RECORD) if resume else None
        if record is not None:
            before = identity
            with suppress(ValueError, TypeError):  # damaged: what is of this map has its mark
                before = dict(json.loads(record))
            refuse_differences(self.map, before, identity)
        if not resume:
            self.remove()
        folder.write(_RECORD, json.dumps(identity).encode())
        return self.rows()

    def rows(self) -> dict[int, int]:
        """Return the strips that are there: the row after the last one by the first."""
        found = map(_NAME.fullmatch, self._folder.names())
        return {int(m[1]): int(m[2]) for m in found if m and m[3] == self.mark}

    def write(self, strip: Strip) -> None:
        """Write a strip.

        Raises:
            OutputError: It can't be written.
        """
        stop = strip.first_row + len(strip.labels)
        self._folder.write(self._name(strip.first_row, stop), _packed(strip))

    def read(self, first_row: int, height: int) -> Iterator[Strip]:
        """Yield the strips from a row on to the last one, from top to bottom.

        Args:
            first_row: Where the first one begins.
            height: Rows of the map.

        Raises:
            StripsMissingError: One is not there, or damaged; it is removed then.
        """
        folder, rows, row = self._folder, self.rows(), first_row
        missing = height - first_row - sum(b - a for a, b in rows.items() if a >= first_row)
        if missing:
            raise StripsMissingError(
                f"{counted(missing, 'row')} of it are not there", where=self.map, fix="`resume`"
            )
        while row < height:
            stop = rows.get(row, 0)
            content = folder.read(self._name(row, stop)) if stop else None
            strip = None if content is None else _unpacked(row, stop, content)
            if strip is None:
                if stop:
                    folder.remove(self._name(row, stop))
                raise StripsMissingError(
                    f"its rows from {row} on are damaged", where=self.map, fix="`resume`"
                )
            yield strip
            row = stop

    def remove(self) -> None:
        """Remove all strips of the map, of whatever run."""
        if "://" not in self.map:
            remove_strips(partial_map_folder(Path(self.map)) / STRIPS_FOLDER)
            return
        folder = self._folder
        for name in folder.names():
            if _NAME.fullmatch(name) or name == _RECORD:
                folder.remove(name)

    def _name(self, first_row: int, stop_row: int) -> str:
        return f"rows-{first_row:08d}-{stop_row:08d}-{self.mark}.npz"


def _packed(strip: Strip) -> bytes:
    """Return a strip as NumPy's .npz, deflated; its parts carry checksums."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        for name in ("labels", "confidence", "probabilities"):
            values = getattr(strip, name)
            if values is not None:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as part:
                    np.save(part, np.ascontiguousarray(values), allow_pickle=False)
    return content.getvalue()


def _unpacked(first_row: int, stop_row: int, content: bytes) -> Strip | None:
    """Return a strip from its file, or None where it is damaged."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as parts:
            labels = parts["labels"]
            confidence = parts.get("confidence")
            probabilities = parts.get("probabilities")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    if len(labels) != stop_row - first_row:
        return None
    return Strip(first_row, labels, confidence, probabilities)
