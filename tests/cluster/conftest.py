"""A cluster in this process, and a scene for it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples.made_weights import scene_pixels
from samples.predicted_scenes import save_scene


@pytest.fixture(scope="session")
def client() -> Iterator[Any]:
    """A client of a scheduler and a worker in threads of this process."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as connected,
    ):
        yield connected


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of several rows of small windows."""
    values = np.tile(np.moveaxis(scene_pixels(), -1, 0)[:, :150, :100], (1, 2, 1))
    return save_scene(tmp_path_factory.mktemp("scene") / "scene.tif", values)
