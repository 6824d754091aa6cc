"""A lock on a run's folder, so that two commands don't work in it at once."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from hrrsi.atomic_write import naming, prepare_folder
from hrrsi.errors import HrrsiError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder, which need not exist, until the block ends.

    The lock is the system's: it ends with this process, however that ends, and processes that
    it forks don't share it. The file beside the folder that carries it says who holds it. On
    file systems without locks this does nothing.

    Raises:
        HrrsiError: Another process holds it, or the folder around it can't be written to.
    """
    prepare_folder(folder.parent)
    with _locked_file(folder) as file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            _lock_path(folder).unlink(missing_ok=True)


def check_unlocked(folder: Path) -> None:
    """Raise where another process holds a run's folder.

    Not for the process that holds it: to close any handle of its file ends the lock.

    Raises:
        HrrsiError: It does.
    """
    try:
        with _lock_path(folder).open(encoding="utf-8") as file:
            _lock(file, fcntl.LOCK_SH, folder)
    except OSError:
        return  # nobody works there; whether it can be a folder shows when it is made


def _locked_file(folder: Path) -> TextIO:
    path = _lock_path(folder)
    while True:
        with naming(folder, path):
            file = path.open("a+", encoding="utf-8")
        try:
            _lock(file, fcntl.LOCK_EX, folder)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()  # its holder removed it before it was locked here


def _lock(file: TextIO, kind: int, folder: Path) -> None:
    try:
        fcntl.lockf(file, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        raise HrrsiError(
            f"{file.read() or 'another process'} is working on this run",
            where=folder,
            fix="wait until it has ended, or give another --out",
        ) from None
    except OSError:
        return  # a file system without locks


def _lock_path(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")
