"""Workers that are lost, hang, differ or are stopped while they are checked."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from samples.cluster_maps import files_of

import hrrsi
from hrrsi.cluster import worker, workforce
from hrrsi.cluster.connection import ClusterWarning
from hrrsi.cluster.run import WorkerFacts
from hrrsi.cluster.workforce import Workforce
from hrrsi.errors import ClusterError


def test_nothing_is_left_out_where_workers_are_lost_between_tasks(
    tmp_path: Path,
    scene: Path,
    alone: Path,
    on_cluster: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take, lost = Workforce._take, []

    def taken(self: Any, *arguments: Any) -> None:
        take(self, *arguments)
        if not lost and not self._running:
            lost.append(dict(self.facts))
            self.facts.clear()

    monkeypatch.setattr(Workforce, "_take", taken)
    other = shutil.copy(scene, tmp_path / "other.tif")
    maps = on_cluster([scene, other], tmp_path / "maps", rows=10_000)
    assert lost
    assert [m.scene for m in maps] == [str(scene), str(other)]
    on_cluster(scene, tmp_path / "again", rows=48)
    assert files_of(tmp_path / "again") == files_of(alone)


def test_a_run_that_ends_while_a_worker_is_checked_leaves_no_engine_there(
    tmp_path: Path,
    scene: Path,
    client: Any,
    on_cluster: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened, begun, go_on = worker.open_engine, threading.Event(), threading.Event()

    def slowly_opened(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return opened(*arguments)

    def interrupted() -> None:
        if begun.is_set():
            raise KeyboardInterrupt

    monkeypatch.setattr(worker, "open_engine", slowly_opened)
    monkeypatch.setattr(workforce, "stop_if_requested", interrupted)
    with pytest.raises(KeyboardInterrupt):
        on_cluster(scene, tmp_path / "maps")
    go_on.set()
    with worker.one_at_a_time:  # its check has ended
        kept = client.run(lambda dask_worker: os.listdir(dask_worker.local_directory))
    assert not [name for names in kept.values() for name in names if name.startswith("hrrsi-")]
    assert not worker._ready


class ClusterOfOneWorker:
    """A client of workers that are ready at once, one after the other."""

    status = "running"

    def __init__(self, *facts: WorkerFacts) -> None:
        self._facts = list(facts)

    def nthreads(self) -> dict[str, int]:
        return {facts.name: 1 for facts in self._facts[:1]}

    def next_worker(self) -> None:
        self._facts.pop(0)

    def submit(self, *_: Any, **__: Any) -> Any:
        facts = self._facts[0]
        return SimpleNamespace(
            done=lambda: True, exception=lambda: None, result=lambda: facts, status="finished"
        )

    def subscribe_topic(self, *_: Any) -> None: ...

    unsubscribe_topic = cancel = run = subscribe_topic


def test_another_engine_gets_no_task_even_where_the_first_worker_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workforce, "_LOOK_SECONDS", 0)
    first, other = (
        WorkerFacts(name, ("openvino", precision, "CPU"), "a processor", 1, 0.1)
        for name, precision in (("a", "32"), ("b", "bf16"))
    )
    cluster: Any = ClusterOfOneWorker(first, other)
    options = hrrsi.ClusterOptions("tcp://a:1", patience=0.05)
    run: Any = SimpleNamespace(id="run")
    with Workforce(cluster, options, run, worker.check_worker, lambda measure: ()) as force:
        assert force.gather(lambda _: None) == [first]
        cluster.next_worker()
        with (
            pytest.warns(ClusterWarning, match="b would compute with precision bf16, a with 32"),
            pytest.raises(ClusterError, match="no workers are left"),
        ):
            force.work(lambda: None, *[lambda *_: None] * 3, 1)


def test_a_worker_that_never_answers_does_not_keep_a_run_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workforce, "_END_SECONDS", 0.05)
    cluster: Any = ClusterOfOneWorker(WorkerFacts("a", ("openvino", "32", "CPU"), "", 1, 0.1))
    hangs, answered = threading.Event(), threading.Event()
    cluster.run = lambda *_, **__: (hangs.wait(20), answered.set())
    options = hrrsi.ClusterOptions("tcp://a:1")
    run: Any = SimpleNamespace(id="run")
    with Workforce(cluster, options, run, worker.check_worker, lambda measure: ()) as force:
        force.gather(lambda _: None)
    assert not answered.is_set()
    hangs.set()
    assert answered.wait(20)
