"""Work spread over processes that stop quietly on Ctrl-C and when their parent dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, TypeVar

from hrrsi.errors import DeviceError

Job = TypeVar("Job")
Result = TypeVar("Result")


def results_as_completed(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Generator[tuple[int, Result], None, None]:
    """Yield the position of each job and its result, in the order in which they finish.

    The first error, Ctrl-C, or closing the generator ends the processes at once.

    Args:
        function: Runs in the processes, so it must be importable; it and the jobs are pickled.
        jobs: What to call it with.
        workers: Number of processes; with one, everything runs in this process.

    Raises:
        DeviceError: A process died.
    """
    if min(workers, len(jobs)) <= 1:
        for position, job in enumerate(jobs):
            yield position, function(job)
        return
    processes_before = set(multiprocessing.active_children())
    with ProcessPoolExecutor(
        max_workers=min(workers, len(jobs)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_end_with_parent,
    ) as pool:
        try:
            with _interrupt_kept_from_children():
                futures = {pool.submit(function, job): i for i, job in enumerate(jobs)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise DeviceError(
                "a worker process died (out of memory?)", fix="give fewer `workers`"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - processes_before:
                process.terminate()
            raise


@contextmanager
def _interrupt_kept_from_children() -> Iterator[None]:
    """Block Ctrl-C while processes start: they inherit that, and only the parent reports it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before: Any = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """End this process when its parent dies, which a killed parent can't ask for."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
