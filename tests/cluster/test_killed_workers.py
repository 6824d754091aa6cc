"""Processes of workers are killed again and again, and the map is whole all the same."""

import logging
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples.made_weights import scene_pixels
from samples.predicted_scenes import save_scene
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import app

SINGLE = hrrsi.EngineOptions(precision="32", threads=1)
SMALL = hrrsi.MapOptions(window=64, overlap=16)
_BEGUN_SECONDS = 8  # Dask gives a worker up that is killed while it starts


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
# on a busy machine they take longer to start than nothing is said
@pytest.mark.filterwarnings("ignore:the cluster has no workers yet")
def test_killed_workers_cost_no_byte(tmp_path: Path, made_weights: Path) -> None:
    from distributed import Client, LocalCluster

    values = np.tile(np.moveaxis(scene_pixels(), -1, 0), (1, 24, 4))
    scene = save_scene(tmp_path / "scene.tif", values)
    hrrsi.predict(scene, made_weights, tmp_path / "alone", SMALL, SINGLE)
    done, killed = threading.Event(), []

    def kill(cluster: Any) -> None:
        start_times: dict[int, float] = {}
        chance = random.Random(3)
        while not done.wait(1):
            now = time.monotonic()
            pids = [nanny.process.pid for nanny in list(cluster.workers.values()) if nanny.process]
            for pid in filter(None, pids):
                old = now - start_times.setdefault(pid, now) > _BEGUN_SECONDS
                if old and len(killed) < 6 and chance.random() < 0.4:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    break

    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            memory_limit=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        killer = threading.Thread(target=kill, args=(cluster,), daemon=True)
        killer.start()
        try:
            hrrsi.predict(scene, made_weights, tmp_path / "dealt", SMALL, SINGLE, cluster=client)
        finally:
            done.set()
            killer.join()
    assert killed
    assert files_of(tmp_path / "dealt") == files_of(tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_processes_of_this_machine_write_the_bytes_of_one(
    tmp_path: Path, made_weights: Path, workers: int
) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    line = ["predict", str(scene), "--weights", str(made_weights), "--window", "64"]
    line += ["--overlap", "16", "--precision", "32", "--confidence", "uint8", "--out"]
    assert CliRunner().invoke(app, [*line, str(tmp_path / "a")]).exit_code == 0
    result = CliRunner().invoke(app, [*line, str(tmp_path / "b"), "--cluster", f"local:{workers}"])
    assert result.exit_code == 0, result.output
    assert "scene_classes.tif" in files_of(tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
