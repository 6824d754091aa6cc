"""A cluster in this process, a scene for it, and what maps the scene."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples.cluster_maps import SCORES, SINGLE, SMALL, client_of_one_worker
from samples.made_weights import scene_pixels
from samples.predicted_scenes import save_scene

import hrrsi


@pytest.fixture(scope="session")
def client() -> Iterator[Any]:
    """A client of a scheduler and a worker in threads of this process."""
    with client_of_one_worker() as connected:
        yield connected


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of several rows of small windows."""
    values = np.tile(np.moveaxis(scene_pixels(), -1, 0)[:, :150, :100], (1, 2, 1))
    return save_scene(tmp_path_factory.mktemp("scene") / "scene.tif", values)


@pytest.fixture(scope="session")
def alone(scene: Path, made_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what one process makes of the scene."""
    out = tmp_path_factory.mktemp("alone")
    hrrsi.predict(scene, made_weights, out, SMALL, SINGLE, SCORES)
    return out


@pytest.fixture
def on_cluster(made_weights: Path, client: Any) -> Callable[..., Any]:
    """Map a scene in bands of a few rows of windows."""

    def predict(scenes: Any, out: Any, outputs: Any = SCORES, rows: int = 48, **more: Any) -> Any:
        cluster = hrrsi.ClusterOptions(client, band_rows=rows, patience=20)
        more = {"options": SMALL, "engine": SINGLE, "weights": made_weights, **more}
        return hrrsi.predict(scenes, out=out, outputs=outputs, cluster=cluster, **more)

    return predict
