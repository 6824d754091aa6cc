"""Ctrl-C and SIGTERM as a request to stop, which long work sees where it can stop cleanly.

Python's own KeyboardInterrupt comes between any two instructions: within a callback of GDAL,
which swallows it, or while a queue's lock is held, which then nobody gives back. Here a signal only
leaves a mark. `stop_if_requested` raises between windows, strips, files and jobs, and so does every
step of a progress bar (`hrrsi.progress`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hrrsi.errors import DeviceError

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

_STOPPING = (signal.SIGINT, signal.SIGTERM)
# a terminal, a shell and a cluster's scheduler may all pass the same signal on
_SAME_REQUEST_SECONDS = 0.2
_UNDER_MAIN = 'under `if __name__ == "__main__":`'
_HINT = b"\nstopping where nothing is lost; Ctrl-C again ends it at once\n"


class _Request:
    """What signals of this process have asked for."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.handlers: dict[int, Any] = {}  # those that were in place before

    def take(self, number: int, frame: FrameType | None) -> None:
        """Note a request; let a second one do what the first would have done without this."""
        now = time.monotonic()
        if self.since is None:
            self.since = now
            if number == signal.SIGINT and sys.stderr is not None:
                with suppress(OSError, ValueError, AttributeError):
                    if os.isatty(2):
                        os.write(2, _HINT)
        elif number in _STOPPING and now - self.since > _SAME_REQUEST_SECONDS:
            before = self.handlers.get(number)
            if callable(before):
                before(number, frame)
            else:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)


_request = _Request()


def stop_requested() -> bool:
    """Return whether a signal has asked this process to stop."""
    return _request.since is not None


def stop_if_requested() -> None:
    """Stop here if a signal has asked for it.

    Raises:
        KeyboardInterrupt: It has.
    """
    if stop_requested():
        raise KeyboardInterrupt


@contextmanager
def heeding_signals(*, also: Sequence[signal.Signals] = ()) -> Iterator[None]:
    """Take the first SIGINT or SIGTERM as a request until the block ends; also a decorator.

    The second one does what it would do otherwise. What ignores a signal goes on doing so, as a
    shell's background jobs do. Within another such block, and in other threads than the main one,
    which alone get signals, nothing changes but for `also`.

    Args:
        also: Further signals that are requests, however often they come.

    Raises:
        KeyboardInterrupt: A request came before the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stop_if_requested()
    is_outermost = not _request.handlers
    handlers = {}
    for number in (*_STOPPING, *also):
        before = signal.getsignal(number)
        # None: of a handler that is not Python's, which can't be put back
        if number not in _request.handlers and before not in (signal.SIG_IGN, None):
            handlers[number] = before
            _request.handlers[number] = before
            signal.signal(number, _request.take)
    try:
        yield
    finally:
        for number, before in handlers.items():
            signal.signal(number, before)
            del _request.handlers[number]
        if is_outermost:
            _request.since = None


def heed_signals_for_good() -> None:
    """Take the first SIGINT or SIGTERM of this process as a request; the second one ends it."""
    for number in _STOPPING:
        if signal.getsignal(number) not in (signal.SIG_IGN, _request.take):
            _request.handlers[number] = signal.SIG_DFL
            signal.signal(number, _request.take)


@contextmanager
def interrupt_kept_from_children() -> Iterator[None]:
    """Block Ctrl-C while processes start: they inherit that, and only the parent reports it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before: Any = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def spawned_processes(count: int, *, fix: str) -> Iterator[ProcessPoolExecutor]:
    """Yield an executor whose processes begin as programs of their own; they end with the block.

    An error, Ctrl-C or a closed generator ends them at once; so does the end of this process. Jobs
    are submitted within `interrupt_kept_from_children`.

    Args:
        count: How many processes.
        fix: What to do where one was killed for its memory.

    Raises:
        DeviceError: This program can't be read again, as the processes have to; or one died.
    """
    import multiprocessing  # which `hrrsi --help` does without
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    program = sys.modules["__main__"]
    file = getattr(program, "__file__", None)
    if getattr(program, "__spec__", None) is None and file and not Path(file).exists():
        raise DeviceError(
            "processes of their own read the calling program again, and this one is in no file "
            f"({Path(file).name})",
            fix=f"save it as one, with its calls {_UNDER_MAIN}",
        )
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    before = set(multiprocessing.active_children())
    with ProcessPoolExecutor(
        count, mp_context=context, initializer=_begin_process, initargs=(started,)
    ) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            stop_if_requested()  # a signal to the whole group has ended them
            if started.is_set():
                raise DeviceError(
                    "a process of its own was killed, likely for its memory", fix=fix
                ) from error
            raise DeviceError(
                "a process of its own could not start: it reads the calling program again",
                fix=f"let that make its calls {_UNDER_MAIN}",
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
            raise


def _begin_process(started: Any) -> None:
    """Say that this process has started, and end it when its parent does, however that ends."""
    import multiprocessing
    from multiprocessing.connection import wait

    started.set()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Keep the memory that signals of this thread run on, whatever a library puts in its place.

    OpenVINO's plugin for processors with AMX brings memory of its own, and frees it with itself. Of
    several plugins that end in another order than they began, signals are left with what is freed:
    the next Ctrl-C, or the end of a child, is a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    import ctypes  # which `hrrsi --help` does without

    class Stack(ctypes.Structure):
        _fields_ = (
            ("pointer", ctypes.c_void_p),
            ("flags", ctypes.c_int),
            ("size", ctypes.c_size_t),
        )

    exchange = ctypes.CDLL(None).sigaltstack
    before = Stack()
    exchange(None, ctypes.byref(before))
    try:
        yield
    finally:
        exchange(ctypes.byref(before), None)
