"""Small maps by the worker of a cluster in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hrrsi

SMALL = hrrsi.MapOptions(window=64, overlap=16)
SINGLE = hrrsi.EngineOptions(precision="32")
SCORES = hrrsi.OutputOptions(confidence="uint8", probabilities="float32")


@contextmanager
def client_of_one_worker() -> Iterator[Any]:
    """Yield a client of a scheduler and a worker in threads of this process."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def hidden(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]
