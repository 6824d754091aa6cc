"""Reaches a Dask cluster: by its address, by a scheduler file, or as processes of this machine."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrrsi.errors import (
    ClusterError,
    InputError,
    MissingInputError,
    OptionError,
)
from hrrsi.extras import require
from hrrsi.hardware import available_cores
from hrrsi.interruption import interrupt_kept_from_children
from hrrsi.prediction.scene_checks import SceneWarning

if TYPE_CHECKING:
    from distributed import Client

_ANSWER_SECONDS = 8.0  # how long an address may take
RETURN_SECONDS = 60.0  # how long a scheduler that went away may take to come back
_SCHEMES = ("tcp", "tls", "ws", "wss", "ucx", "inproc")


class ClusterWarning(SceneWarning):
    """Something about a cluster's workers; the maps are made all the same."""


@dataclass(frozen=True)
class ClusterOptions:
    """Which workers map scenes, and how work is dealt to them.

    Attributes:
        cluster: ``tcp://HOST:PORT`` or ``tls://...`` of a Dask scheduler; a scheduler file
            (``.json``); ``local:N``, for N processes of this machine; or a
            `distributed.Client`.
        band_rows: About how many rows of a scene a task maps; None: as many as take a quarter of a
            minute, fewer where there are many workers. Maps don't depend on it.
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
            _quiet_loggers(),
            _local_cluster(int(where or available_cores())) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client
        return
    if kind == "file":
        where = _address_in(Path(where))
    with _quiet_loggers(), _answering(where) as client:
        yield client


@contextmanager
def _answering(address: str) -> Iterator[Client]:
    from distributed import Client

    try:
        client = Client(address, timeout=_ANSWER_SECONDS, set_as_default=False)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        cause = " ".join(str(error).split())
        raise ClusterError(
            f"no scheduler answers ({cause[:100]})",
            where=address,
            fix="start one there (`dask scheduler`), or check address, network and firewall",
        ) from error
    client._timeout = RETURN_SECONDS  # now of how long it tries to reach one that went away
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

    with interrupt_kept_from_children():
        try:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=max(1, available_cores() // workers),
                processes=True,
                memory_limit=None,  # what an engine needs is no task's
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
        except (OSError, RuntimeError) as error:
            cause = " ".join(str(error).split())
            raise ClusterError(
                f"processes of this machine don't start ({cause[:100]})",
                fix='in a program, make the call under `if __name__ == "__main__":`',
            ) from error
    try:
        yield cluster
    finally:
        with suppress(Exception):
            cluster.close(timeout=10)


@contextmanager
def _quiet_loggers() -> Iterator[None]:
    """Leave what goes wrong to one line of ours: Dask's loggers say it in many."""
    names = ["distributed", *logging.Logger.manager.loggerDict]
    own = [name for name in names if name.partition(".")[0] == "distributed"]
    before = {name: logging.getLogger(name).level for name in own}
    for name in own:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
