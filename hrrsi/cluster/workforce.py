"""The workers of a Dask cluster: checked, given tasks, and relieved of those that fail.

Dask chooses which worker does a task, and repeats those of workers that were killed. What it does
not see is watched here: a worker that hangs, one that joins later, a scheduler that begins anew.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hrrsi.cluster.connection import RETURN_SECONDS, ClusterOptions, ClusterWarning
from hrrsi.cluster.run import StripsMissingError, WorkerFacts
from hrrsi.cluster.worker import NotReadyError, end_run
from hrrsi.errors import ClusterError, HrrsiError, OptionError, OutputError, warn
from hrrsi.interruption import stop_if_requested
from hrrsi.quantities import counted, time_text

if TYPE_CHECKING:
    from distributed import Client, Future

_LOOK_SECONDS = 1.0  # how often workers are looked for
_TICK_SECONDS = 0.02
_END_SECONDS = 10.0  # how long workers are waited for that are told that a run has ended
_ATTEMPTS = 3
# what is not tried again
_FOR_GOOD = (OptionError, OutputError, StripsMissingError)


@dataclass
class Job:
    """A task that is given to workers until it is done, or has failed too often.

    Attributes:
        title: What people call it: ``map bands-scene.tif rows 0-4096``; before the first hyphen
            is what Dask's dashboard groups tasks by.
        function: What a worker calls, with `arguments` and the task's key.
        arguments: Of the run, after the run itself.
        owner: Whose job it is.
        pixels: How many it had done when it was last heard of.
    """

    title: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    owner: Any
    pixels: int = 0
    attempts: int = field(default=0, init=False)
    _best: int = field(default=0, init=False)

    def failed(self) -> int:
        """Count a failure; return how many there were since it last got further."""
        if self.pixels > self._best:
            self._best, self.attempts = self.pixels, 0
        self.attempts += 1
        return self.attempts


@dataclass
class _Running:
    job: Job
    future: Future
    workers: tuple[str, ...]
    worker: str | None = None
    is_watched: bool = True
    heard: float = field(default_factory=time.monotonic)


class Workforce:
    """The workers that do a run's tasks.

    Args:
        client: Of the cluster.
        options: Of the cluster.
        run: What every task gets first; its `id` names the run.
        check: Makes a worker ready; a task with the arguments that `check_arguments` gives.
        check_arguments: Given whether to measure.
    """

    def __init__(
        self,
        client: Client,
        options: ClusterOptions,
        run: Any,
        check: Callable[..., WorkerFacts],
        check_arguments: Callable[[bool], tuple[Any, ...]],
    ) -> None:
        self._client = client
        self._options = options
        self._run = run
        self._check, self._check_arguments = check, check_arguments
        self.facts: dict[str, WorkerFacts] = {}  # of workers that may be given tasks
        # that of the run, also once it is gone: it is named in the maps' records
        self._first: WorkerFacts | None = None
        self._refused: set[str] = set()
        self._checks: dict[str, Future] = {}
        self._running: dict[str, _Running] = {}
        self._later: deque[tuple[float, Job]] = deque()
        self._reports: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._addresses: set[str] = set()
        self._looked = 0.0
        self._alone_since: float | None = None
        self._number = 0
        self._topic = f"hrrsi-{run.id}"

    def __enter__(self) -> Workforce:
        self._subscribe()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster as it was: without tasks, weights and engines of the run."""
        futures = [*(r.future for r in self._running.values()), *self._checks.values()]
        with suppress(Exception):
            self._client.unsubscribe_topic(self._topic)
        if self._client.status != "running":
            return
        with suppress(Exception):
            self._client.cancel(futures, force=True)
        # a worker that hangs never answers, and what it was to do is done
        ending = threading.Thread(target=self._end_run, daemon=True)
        ending.start()
        ending.join(_END_SECONDS)

    def _end_run(self) -> None:
        with suppress(Exception):
            workers = list(self._workers())
            self._client.run(end_run, self._run.id, workers=workers, on_error="ignore")

    def gather(self, on_waiting: Callable[[str], None]) -> list[WorkerFacts]:
        """Wait for a worker, make those that are there ready, and return what they say.

        Args:
            on_waiting: Called with what is waited for, if that takes a while.

        Raises:
            ClusterError: None comes, or one does not fit.
        """
        start, has_said = time.monotonic(), False
        while self._checks or not self.facts:
            stop_if_requested()
            self._require_scheduler()
            workers = self._workers()
            for address in set(self._checks) - workers:
                self._checks.pop(address).cancel()
            self._end_checks(strict=True)
            expected = {*self.facts, *self._checks}
            self._begin_checks([a for a in workers if a not in expected], measure=True)
            waited = time.monotonic() - start
            if waited > self._options.patience:
                late = ", ".join(self._checks)
                raise ClusterError(
                    f"workers don't answer ({late})" if late else "the cluster has no workers",
                    where=f"waited {time_text(waited)}",
                    fix="start some (`dask worker ADDRESS`), or see what those do that are there",
                )
            if not workers and waited > 2 and not has_said:
                has_said = True
                on_waiting("the cluster has no workers yet; waiting for the first")
            time.sleep(_TICK_SECONDS if workers else 0.1)
        return list(self.facts.values())

    def work(
        self,
        next_job: Callable[[], Job | None],
        on_done: Callable[[Job, Any], None],
        on_failed: Callable[[Job, Exception], None],
        on_heard: Callable[[Job], None],
        ahead: float,
    ) -> None:
        """Have jobs done until there are none.

        Args:
            next_job: Gives one, or None where there is none now.
            on_done: Called with each that is done, and what it has given.
            on_failed: Called with each that has failed for good, and why.
            on_heard: Called with each that has got further.
            ahead: How many tasks a worker has at a time.

        Raises:
            ClusterError: The scheduler or all workers are gone.
            KeyboardInterrupt: Interrupted.
        """
        while True:
            stop_if_requested()
            self._require_scheduler()
            self._look_for_workers()
            gave, is_all_given = self._give(next_job, ahead)
            is_idle = not gave
            self._listen(on_heard)
            for key in [k for k, running in self._running.items() if running.future.done()]:
                is_idle = False
                if key in self._running:  # a scene that fails takes its other tasks along
                    self._take(self._running.pop(key), on_done, on_failed)
            if is_all_given and is_idle and not (self._running or self._later):
                return
            self._relieve_hanging()
            time.sleep(_TICK_SECONDS if is_idle else 0)

    def drop(self, owner: Any) -> None:
        """Forget the jobs of one whose maps nobody wants any more."""
        self._later = deque(item for item in self._later if item[1].owner is not owner)
        for key in [k for k, r in self._running.items() if r.job.owner is owner]:
            self._running.pop(key).future.cancel(force=True)

    def _workers(self) -> set[str]:
        """Return the addresses of the workers that are there; the last ones where none answers."""
        if self._client.status == "running":
            with suppress(OSError):
                # what `Client.scheduler_info` returns, Dask itself empties now and then
                self._addresses = set(self._client.nthreads())
        return self._addresses

    def _require_scheduler(self) -> None:
        """Wait for a scheduler that went away.

        Raises:
            ClusterError: It does not come back.
        """
        if self._client.status == "running":
            return
        deadline = time.monotonic() + RETURN_SECONDS
        while self._client.status != "running":
            stop_if_requested()
            if self._client.status == "closed" or time.monotonic() > deadline:
                raise ClusterError(
                    "the scheduler is gone",
                    fix="start it again, then run the same command with `resume`",
                )
            time.sleep(0.1)
        self.facts.clear()  # its workers have begun anew, too
        self._subscribe()

    def _subscribe(self) -> None:
        with suppress(Exception):
            self._client.unsubscribe_topic(self._topic)
        self._client.subscribe_topic(self._topic, self._reports.put)

    def _begin_checks(self, addresses: Iterable[str], *, measure: bool) -> None:
        for address in addresses:
            self._checks[address] = self._client.submit(
                self._check,
                self._run,
                *self._check_arguments(measure),
                key=f"check worker-{address}-{self._run.id}.{self._next_number()}",
                workers=[address],
                allow_other_workers=False,
                pure=False,
                priority=10,
            )

    def _end_checks(self, *, strict: bool) -> None:
        """Take what workers say of themselves.

        Raises:
            ClusterError: One does not fit, and nothing has begun yet.
        """
        for address in [a for a, future in self._checks.items() if future.done()]:
            future = self._checks.pop(address)
            if future.status == "cancelled":
                continue
            error = future.exception()
            if error is None:
                facts = future.result()
                error = self._unlike(facts)
                if error is None:
                    self.facts[address] = facts
                    continue
            if type(error).__name__ in ("KilledWorker", "FutureCancelledError"):
                continue
            self._refused.add(address)
            refusal = _of_worker(error, address)
            if strict:
                raise refusal from error
            warn(f"{refusal}; it gets no tasks", ClusterWarning)

    def _unlike(self, facts: WorkerFacts) -> ClusterError | None:
        """Return what is wrong with a worker whose labels would differ from the others'."""
        self._first = first = self._first or facts
        for parameter, own, other in zip(
            ("engine", "precision", "device"), facts.engine, first.engine, strict=True
        ):
            if own != other:
                return ClusterError(
                    f"worker {facts.name} would compute with {parameter} {own}, {first.name} "
                    f"with {other}",
                    fix=f"say which with `{parameter}`, or use workers of one kind",
                )
        if facts.processor != first.processor:
            warn(
                f"worker {facts.name} has a {facts.processor}, {first.name} a {first.processor}: "
                "roundings differ between processors, so a few labels may",
                ClusterWarning,
            )
        return None

    def _look_for_workers(self) -> None:
        """Make workers that have joined ready, and forget those that are gone.

        Raises:
            ClusterError: There are none for too long.
        """
        self._end_checks(strict=False)
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        workers = self._workers()
        self._refused &= workers  # another one may come under that address
        for address in self.facts.keys() - workers:
            del self.facts[address]
        for address in self._checks.keys() - workers:
            self._checks.pop(address).cancel(force=True)
        expected = {*self.facts, *self._refused, *self._checks}
        self._begin_checks([a for a in workers if a not in expected], measure=False)
        for key, running in list(self._running.items()):
            if not set(running.workers) & workers:  # nobody is left who may do it
                del self._running[key]
                running.future.cancel(force=True)
                self._later.append((0.0, running.job))
        if self.facts:
            self._alone_since = None
            return
        self._alone_since = self._alone_since or time.monotonic()
        if time.monotonic() - self._alone_since > self._options.alone_seconds:
            raise ClusterError(
                "no workers are left",
                fix="start some, then run the same command with `resume`",
            )

    def _give(self, next_job: Callable[[], Job | None], ahead: float) -> tuple[bool, bool]:
        """Submit jobs as far as workers are free; return whether there were some, and no more."""
        gave = False
        while self.facts and len(self._running) < len(self.facts) * ahead:
            job = None
            if self._later and self._later[0][0] <= time.monotonic():
                job = self._later.popleft()[1]
            job = job or next_job()
            if job is None:
                return gave, True
            self._submit(job)
            gave = True
        return gave, False  # without a worker, nobody knows

    def _submit(self, job: Job) -> None:
        key = f"{job.title}-{self._run.id}.{self._next_number()}"
        workers = tuple(self.facts)
        future = self._client.submit(
            job.function,
            self._run,
            *job.arguments,
            key,
            key=key,
            workers=list(workers),
            allow_other_workers=False,
            pure=False,
        )
        self._running[key] = _Running(job, future, workers)

    def _listen(self, on_heard: Callable[[Job], None]) -> None:
        with suppress(queue.Empty):
            while True:
                _, report = self._reports.get_nowait()
                running = self._running.get(report["task"])
                if running is not None:
                    running.heard = time.monotonic()
                    running.worker = report["worker"]
                    running.is_watched = report["is_watched"]
                    running.job.pixels = report["pixels"]
                    on_heard(running.job)

    def _take(
        self,
        running: _Running,
        on_done: Callable[[Job, Any], None],
        on_failed: Callable[[Job, Exception], None],
    ) -> None:
        job, future = running.job, running.future
        if future.status == "finished":
            try:
                result = future.result()
            except Exception:  # who held it was lost before it was fetched
                self._later.append((0.0, job))
                return
            on_done(job, result)
            return
        if future.status == "cancelled":  # by a scheduler that began anew
            self._subscribe()
            self._later.append((0.0, job))
            return
        error = future.exception()
        if isinstance(error, NotReadyError):  # a worker began anew under its old address
            self.facts.pop(str(error.where), None)
            self._later.append((time.monotonic() + _LOOK_SECONDS, job))
            return
        if isinstance(error, _FOR_GOOD) or job.failed() >= _ATTEMPTS:
            on_failed(job, _plain(error, job))
            return
        self._later.append((time.monotonic() + job.attempts, job))

    def _relieve_hanging(self) -> None:
        """Give tasks that don't get further to other workers, and begin theirs anew."""
        now = time.monotonic()
        for key, running in list(self._running.items()):
            job, address = running.job, running.worker
            is_late = now - running.heard >= self._options.patience
            if address is None or not (is_late and running.is_watched):
                continue
            del self._running[key]
            running.future.cancel(force=True)
            self.facts.pop(address, None)
            warn(
                f"worker {address} hangs: no pixel more of {job.title.partition('-')[2]} for "
                f"{time_text(now - running.heard)}; others take its tasks",
                ClusterWarning,
            )
            if job.failed() >= _ATTEMPTS:
                self._refused.add(address)
            with suppress(Exception):  # one without a nanny stays as it is
                self._client.restart_workers([address], timeout=10, raise_for_error=False)
            self._later.append((0.0, job))

    def _next_number(self) -> int:
        self._number += 1
        return self._number


def _of_worker(error: BaseException, address: str) -> HrrsiError:
    """Return why a worker can't be used, in one line."""
    if isinstance(error, HrrsiError):
        return error
    if isinstance(error, ModuleNotFoundError | AttributeError):
        return ClusterError(
            f"worker {address} has no hrrsi of this version ({error})",
            fix="install the same one there as here",
        )
    return ClusterError(f"worker {address} can't be used ({type(error).__name__}: {error})")


def _plain(error: BaseException | None, job: Job) -> Exception:
    """Return why a job failed; what Dask raises of it in one line."""
    if type(error).__name__ == "KilledWorker":
        return ClusterError(
            f"workers that did {job.title.partition('-')[2]} were lost again and again",
            fix=f"give {counted(1, 'worker')} more memory, or see what they say",
        )
    if isinstance(error, Exception):
        return error
    return ClusterError(f"a task ended with {type(error).__name__}")
