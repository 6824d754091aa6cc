"""Reaches what client and workers share: a Dask scheduler, and folders on a disk or in a storage.

A cluster is named by its address, by a scheduler file, or as processes of this machine.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from hrrsi.errors import (
    ClusterError,
    DependencyError,
    HrrsiError,
    InputError,
    MissingInputError,
    OptionError,
    OutputError,
    one_line,
    quiet_loggers,
)
from hrrsi.extras import require
from hrrsi.files import prepare_folder, require_regular
from hrrsi.hardware import available_cores
from hrrsi.interruption import interrupt_kept_from_children
from hrrsi.maps.raw_pyramid import write_errors
from hrrsi.prediction.scene_remarks import SceneWarning

if TYPE_CHECKING:
    from distributed import Client

_ANSWER_SECONDS = 8.0  # how long an address may take
RETURN_SECONDS = 60.0  # how long a scheduler that went away may take to come back
_SCHEMES = ("tcp", "tls", "ws", "wss", "ucx", "inproc")
# what object storage raises where it does not answer, or not to us
_REACHED = "check the address, the network and your credentials"
_GO_ON = "free space there, then go on with `resume`"


class ClusterWarning(SceneWarning):
    """Something about a cluster's workers; the maps are made all the same."""


@dataclass(frozen=True)
class ClusterOptions:
    """Which workers map scenes, and how work is dealt to them.

    Attributes:
        cluster: ``tcp://HOST:PORT`` or ``tls://...`` of a Dask scheduler; a scheduler file
            (``.json``); ``local:N``, for N processes of this machine; or a
            `distributed.Client`.
        band_rows: About how many rows of a scene a task maps; None: as many as take half a minute,
            fewer where there are many workers. Maps don't depend on it.
        patience: Seconds after which a task that gets no further is given to another worker, and
            how long the first worker is waited for, above 0.

    Raises:
        OptionError: One is not usable.
    """

    cluster: str | Client
    band_rows: int | None = None
    patience: float = 600.0

    def __post_init__(self) -> None:
        if self.band_rows is not None and self.band_rows < 1:
            raise OptionError("a band has a row or more", parameter="band_rows")
        if not self.patience > 0:
            raise OptionError(f"{self.patience:g} is no time to wait", parameter="patience")
        if isinstance(self.cluster, str):
            _parsed(self.cluster)

    @classmethod
    def of(cls, cluster: str | ClusterOptions | Client) -> ClusterOptions:
        """Return the options that callers name a cluster by."""
        return cluster if isinstance(cluster, ClusterOptions) else cls(cluster)

    @property
    def alone_seconds(self) -> float:
        """How long a run that has lost all workers waits for others."""
        is_local = isinstance(self.cluster, str) and self.cluster.partition(":")[0] == "local"
        # of this machine none joins later, but those that its nannies begin anew
        return min(self.patience, RETURN_SECONDS) if is_local else self.patience


def _parsed(cluster: str) -> tuple[str, str]:
    """Return the kind of a cluster and where it is.

    Raises:
        OptionError: It is none.
    """
    kind, _, rest = cluster.partition(":")
    if kind == "local":
        if rest == "" or (rest.isdecimal() and int(rest) > 0):
            return "local", rest
    elif cluster.lower().endswith(".json"):
        return "file", cluster
    elif "://" in cluster:
        if kind in _SCHEMES:
            return "address", cluster
    elif rest.isdecimal() and kind:
        return "address", f"tcp://{cluster}"
    raise OptionError(
        f"{cluster!r} is no cluster",
        parameter="cluster",
        fix="give the address of a Dask scheduler (tcp://HOST:8786), a scheduler file (.json), or "
        "local:4 for four processes of this machine",
    )


@contextmanager
def connected(options: ClusterOptions) -> Iterator[Client]:
    """Yield a client of a cluster; one of this machine ends with the block.

    Raises:
        ClusterError: Nobody answers.
        DependencyError: Dask is not installed.
    """
    require("cluster", "work on a cluster")
    from distributed import Client

    if not isinstance(options.cluster, str):
        if not isinstance(options.cluster, Client) or options.cluster.asynchronous:
            raise OptionError(
                "is no client that waits for its results", parameter="cluster",
                fix="give a `distributed.Client` that is not asynchronous, or an address",
            )  # fmt: skip
        if options.cluster.status != "running":
            raise ClusterError(
                f"the client is {options.cluster.status}", fix="give one that is connected"
            )
        yield options.cluster
        return
    kind, where = _parsed(options.cluster)
    if kind == "local":
        with (
            quiet_loggers(_loggers()),
            _local_cluster(int(where or available_cores())) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client
        return
    if kind == "file":
        where = _address_in(Path(where))
    with quiet_loggers(_loggers()), _answering(where) as client:
        yield client


@contextmanager
def _answering(address: str) -> Iterator[Client]:
    from distributed import Client

    try:
        # as long as for the first answer it waits for a scheduler that went away: so one client
        # asks, and another one, which waits longer, works
        Client(address, timeout=_ANSWER_SECONDS, set_as_default=False).close(timeout=5)
        client = Client(address, timeout=RETURN_SECONDS, set_as_default=False)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        cause = one_line(error)
        raise ClusterError(
            f"no scheduler answers ({cause[:100]})",
            where=address,
            fix="start one there (`dask scheduler`), or check address, network and firewall",
        ) from error
    try:
        yield client
    finally:
        with suppress(Exception):
            client.close(timeout=5)


def _address_in(file: Path) -> str:
    """Return the address that a scheduler file names.

    Raises:
        MissingInputError: There is none.
        InputError: It is no scheduler file.
    """
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["address"])
    except FileNotFoundError:
        raise MissingInputError(
            "no such scheduler file", where=file, fix="start the scheduler, or check the path"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "is no scheduler file of Dask",
            where=file,
            fix="let `dask scheduler --scheduler-file` write it",
        ) from error


@contextmanager
def _local_cluster(workers: int) -> Iterator[Any]:
    """Yield a cluster of processes of this machine, which share its cores."""
    from distributed import LocalCluster

    # a look at the stack every 10 ms would take a twentieth of a core from each worker
    config = {"distributed.worker.profile.interval": "100ms"}
    with interrupt_kept_from_children():
        try:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=max(1, available_cores() // workers),
                processes=True,
                memory_limit=None,  # what an engine needs is no task's
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
                config=config,
            )
        except (OSError, RuntimeError) as error:
            cause = one_line(error)
            raise ClusterError(
                f"processes of this machine don't start ({cause[:100]})",
                fix='in a program, make the call under `if __name__ == "__main__":`',
            ) from error
    try:
        yield cluster
    finally:
        with suppress(Exception):
            cluster.close(timeout=10)


def _loggers() -> list[str]:
    """Return the names of Dask's loggers."""
    names = ["distributed", *logging.Logger.manager.loggerDict]
    return [name for name in names if name.partition(".")[0] == "distributed"]


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
                paths = self._files.ls(self._path, detail=False)
            except FileNotFoundError:
                return []
        return [path.rpartition("/")[2] for path in paths]

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

    def empty(self) -> None:
        """Remove its files."""
        for name in self.names():
            self.remove(name)

    def changed(self, name: str) -> datetime | None:
        """Return when a file was written last, by the storage's clock; None where there is none."""
        with self._errors():
            try:
                self._files.invalidate_cache()
                written_at: datetime = self._files.modified(f"{self._path}/{name}")
            except FileNotFoundError:
                return None
        return written_at

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
        if self.names():  # not `exists`, which takes every error for an answer
            return
        with self._errors():
            bucket = self._path.partition("/")[0]
            if not self._files.exists(bucket):
                raise FileNotFoundError(f"there is no bucket {bucket}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except HrrsiError:
            raise
        except Exception as error:  # each storage has its own, few of them OSErrors
            cause = one_line(error) or type(error).__name__
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
