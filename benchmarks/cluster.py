"""How well workers of a cluster share the work of one machine, and what passes by the scheduler.

    python benchmarks/cluster.py --rows 20000 --columns 10000 --scenes 1000

Times one process of two threads, and one and two workers of one thread each, in turn, on one scene;
then many small scenes; counts the bytes between the scheduler and the rest; and says on paper what
10^12 pixels would take on 100 workers, from what was measured. Labels are compared byte by byte.
"""

from __future__ import annotations

import argparse
import json
import logging
import socket
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from distributed import Client, LocalCluster, Nanny, get_task_stream
from PIL import Image
from rasterio.transform import from_origin

import hrrsi

TILE = Path(__file__).parents[1] / "examples/dubai/tile1/images/image_part_007.jpg"
PAPER_PIXELS, PAPER_WORKERS = 1e12, 100
COUNTED_ROWS = 1700  # of a task whose bytes are counted


def write_scene(path: Path, rows: int, columns: int) -> Path:
    pixels = np.moveaxis(np.asarray(Image.open(TILE).convert("RGB")), -1, 0)
    across = np.tile(pixels, (1, 1, -(-columns // pixels.shape[2])))[:, :, :columns]
    place = {"crs": "EPSG:32640", "transform": from_origin(3e5, 2.8e6, 0.2, 0.2)}
    form = {"driver": "GTiff", "count": 3, "dtype": "uint8", "tiled": True, "compress": "jpeg"}
    with rasterio.open(path, "w", height=rows, width=columns, **form, **place) as dataset:
        for row in range(0, rows, pixels.shape[1]):
            height = min(pixels.shape[1], rows - row)
            dataset.write(across[:, :height], window=((row, row + height), (0, columns)))
    return path


class Gate:
    """Passes bytes on to a scheduler, and counts them."""

    def __init__(self, port: int) -> None:
        self.count = 0
        self._to = ("127.0.0.1", port)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            near, _ = self._socket.accept()
            far = socket.create_connection(self._to)
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                self.count += len(data)
                target.sendall(data)
        except OSError:
            pass
        target.close()


@contextmanager
def workers(count: int) -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            memory_limit=None,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def seconds_of(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def scene_times(scene: Path, out: Path, rounds: int) -> dict[str, Any]:
    threads = {"one process, two threads": 2, "one worker": 1, "two workers": 1}
    times: dict[str, list[float]] = {name: [] for name in threads}

    def mapped(name: str, client: Client | None) -> None:
        engine = hrrsi.EngineOptions(threads=threads[name])
        overwrite = hrrsi.OutputOptions(overwrite=True)
        hrrsi.predict(scene, out=out / f"{name}.tif", engine=engine, outputs=overwrite,
                      cluster=client)  # fmt: skip

    with workers(1) as worker_one, workers(2) as worker_two:
        ways = {
            "one process, two threads": None,
            "one worker": worker_one,
            "two workers": worker_two,
        }
        for number in range(rounds + 1):
            for name, client in ways.items():
                seconds = seconds_of(lambda name=name, client=client: mapped(name, client))
                if number:  # the first time, everything is loaded and compiled
                    times[name].append(seconds)
    digests = {(out / f"{name}.tif").read_bytes() for name in times}
    base = times["one process, two threads"]
    ratios = [a / b for a, b in zip(base, times["two workers"], strict=True)]
    halves = [a / (2 * b) for a, b in zip(times["one worker"], times["two workers"], strict=True)]
    return {
        "seconds": times,
        "two workers, speed of one process": statistics.median(ratios),
        "two workers, speed of twice one worker": statistics.median(halves),
        "maps are equal": len(digests) == 1,
    }


def many_scenes(folder: Path, out: Path, count: int) -> dict[str, Any]:
    for number in range(count):
        write_scene(folder / f"s{number:04}.tif", 256, 256)
    engine = hrrsi.EngineOptions(threads=2)
    alone = seconds_of(lambda: hrrsi.predict(folder, out=out / "alone", engine=engine))
    with workers(2) as client:
        # as this process, which has mapped before, they have loaded everything by then
        hrrsi.predict(folder / "s0000.tif", out=out / "first", cluster=client)
        dealt = seconds_of(lambda: hrrsi.predict(folder, out=out / "dealt", cluster=client))
    maps = [
        {path.name: path.read_bytes() for path in (out / way).glob("*.tif")}
        for way in ("alone", "dealt")
    ]
    return {
        "scenes": count,
        "one process, two threads, s": alone,
        "two workers, s": dealt,
        "maps are equal": maps[0] == maps[1] and len(maps[0]) == count,
    }


def scheduler_bytes(scene: Path, out: Path) -> dict[str, Any]:
    with LocalCluster(
        n_workers=0, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL
    ) as cluster:
        gate = Gate(cluster.scheduler.port)

        async def started() -> list[Any]:
            return [
                await Nanny(
                    gate.address,
                    nthreads=1,
                    memory_limit=None,
                    dashboard=False,
                    silence_logs=logging.CRITICAL,
                )
                for _ in range(2)
            ]

        with Client(gate.address, set_as_default=False) as client:
            nannies = client.sync(started)
            client.wait_for_workers(2)
            time.sleep(2)
            before, start = gate.count, time.perf_counter()
            time.sleep(5)
            idle = (gate.count - before) / 5
            before, start = gate.count, time.perf_counter()
            dealt = hrrsi.ClusterOptions(client, band_rows=COUNTED_ROWS)
            with get_task_stream(client=client) as stream:
                hrrsi.predict(scene, out=out / "counted.tif", cluster=dealt)
                seconds = time.perf_counter() - start
            passed = gate.count - before

            async def ended() -> None:
                for nanny in nannies:
                    await nanny.close()

            client.sync(ended)
    with rasterio.open(scene) as dataset:
        pixels, tasks = dataset.height * dataset.width, -(-dataset.height // COUNTED_ROWS)
    spans = defaultdict(list)  # of tasks, by what they do
    for record in stream.data:
        first, last = record["startstops"][0]["start"], record["startstops"][-1]["stop"]
        spans[record["key"].partition("-")[0]].append((first, last))
    bands = spans["map bands"]
    busy = sum(last - first for first, last in bands)
    wall = max(last for _, last in bands) - min(first for first, _ in bands)
    tail = max(last for _, last in bands) - sorted(last for _, last in bands)[-2]
    return {
        "seconds of the last task": spans["write maps"][0][1] - spans["write maps"][0][0],
        "seconds a band": busy / len(bands),
        "seconds between two bands of a worker": (2 * wall - tail - busy) / len(bands),
        "bytes": passed,
        "of heartbeats, as when idle": round(idle * seconds),
        "bytes a task, without these": round((passed - idle * seconds) / (tasks + 1)),
        "bytes of pixels": 3 * pixels,
    }


def on_paper(pixels: int, single: dict[str, Any], counted: dict[str, Any]) -> dict[str, Any]:
    """What 10^12 px take on 100 workers of one thread, as far as that follows from one machine."""
    speed = pixels / statistics.median(single["seconds"]["one worker"])
    seconds = PAPER_PIXELS / speed
    tasks = seconds / counted["seconds a band"]
    return {
        "Mpx/s of a worker": speed / 1e6,
        "hours": seconds / PAPER_WORKERS / 3600,
        "tasks": round(tasks),
        "tasks a second at the scheduler": PAPER_WORKERS / counted["seconds a band"],
        "bytes at the scheduler": round(tasks * counted["bytes a task, without these"]),
        "hours of last tasks, if one worker did all": (
            counted["seconds of the last task"] / pixels * PAPER_PIXELS / 3600
        ),
        "raw pixels read, MB/s": 3 * speed * PAPER_WORKERS / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--columns", type=int, default=10_000)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "small").mkdir()
        scene = write_scene(folder / "scene.tif", arguments.rows, arguments.columns)
        single = scene_times(scene, folder, arguments.rounds)
        print(json.dumps(single, indent=1), flush=True)
        small = many_scenes(folder / "small", folder, arguments.scenes)
        print(json.dumps(small, indent=1), flush=True)
        counted = scheduler_bytes(scene, folder)
        print(json.dumps(counted, indent=1), flush=True)
        pixels = arguments.rows * arguments.columns
        print(json.dumps(on_paper(pixels, single, counted), indent=1))


if __name__ == "__main__":
    main()
