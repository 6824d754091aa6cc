"""Files and folders: written whole or not at all, locked, digested; the cache; YAML read safely."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import shutil
import socket
import stat
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import platformdirs
import yaml
from filelock import FileLock, Timeout

from hrrsi.errors import InputError, MissingInputError, OutputError, OutputExistsError, one_line

_LARGEST_BYTES = 8 << 20  # of YAML
_MOST_NODES = 1_000_000
_MERGE = "tag:yaml.org,2002:merge"  # `<<`, which may come several times


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` once the block succeeds.

    Works for a file and for a folder (the block creates either at the temporary path). Where the
    block fails, the temporary path is removed and whatever `path` held is untouched. Leftovers
    of killed processes are removed. The suffix is kept, since GDAL picks drivers by it. Errors of
    the system name `path`, not the temporary one.

    Raises:
        OutputError: The folder can't be created or written to, or a file would take the place of
            a folder.
    """
    prepare_folder(path.parent)
    _remove_leftovers(path)
    temporary = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    try:
        with naming(path, temporary):
            yield temporary
        _flush_to_disk(temporary)
        if path.is_dir() and not path.is_symlink():
            if not temporary.is_dir():
                raise OutputError("is a folder", where=path, fix="name a file")
            retired = path.with_name(f".{path.stem}.partial-{os.getpid()}-old{path.suffix}")
            path.rename(retired)
            temporary.rename(path)
            remove(retired)
        else:
            temporary.replace(path)
        _flush_to_disk(path.parent)
    except BaseException:
        remove(temporary)
        raise


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a new hidden folder beside `path` for files that nobody needs later.

    It is removed at the end; leftovers of killed processes are removed, too.

    Raises:
        OutputError: The folder can't be created or written to.
    """
    prepare_folder(path.parent)
    scratch = path.with_name(path.name + ".scratch")
    _remove_leftovers(scratch)
    folder = scratch.with_name(f".{scratch.stem}.partial-{os.getpid()}{scratch.suffix}")
    remove(folder)
    folder.mkdir()
    try:
        with naming(path, folder):
            yield folder
    finally:
        remove(folder)


@contextmanager
def naming(path: Path, temporary: Path) -> Iterator[None]:
    """Let errors of the system name a path that the user knows.

    Args:
        path: What they name instead of `temporary` or what is inside it, and where the disk is
            full, of which the system says no name.
        temporary: A file or folder in its place.
    """
    try:
        yield
    except OSError as error:
        name = error.filename
        if isinstance(name, str | Path) and Path(name).is_relative_to(temporary):
            error.filename = str(path / Path(name).relative_to(temporary))
        elif name is None and is_full_disk(error):
            error.filename = str(path)
        raise


def is_full_disk(error: OSError) -> bool:
    """Return whether a write failed since there is no room for more."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def prepare_folder(folder: Path) -> None:
    """Create a folder for outputs and check that it can be written to.

    Raises:
        OutputError: It can't be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the folder cannot be created ({error.strerror})",
            where=folder,
            fix="choose another output",
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            "the folder is not writable", where=folder, fix="change its permissions, or the output"
        )


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise unless `path` is free or may be replaced.

    Raises:
        OutputExistsError: `path` exists and `overwrite` is false.
    """
    if path.exists() and not overwrite:
        raise OutputExistsError(
            "exists already", where=path, fix="give `overwrite` to replace it, or another path"
        )


def refuse_foreign(folder: Path, own: Collection[str]) -> None:
    """Raise where a folder that is to be replaced holds what hrrsi has not put there.

    Args:
        folder: The folder.
        own: Names of the files and folders that it may hold.

    Raises:
        OutputError: It holds another one; what desktops and killed runs leave doesn't count.
    """
    passed_over = {*own, ".DS_Store", "Thumbs.db", "desktop.ini"}
    names = sorted(p.name for p in folder.iterdir() if not is_leftover(p))
    foreign = [name for name in names if name not in passed_over]
    if foreign:
        more = f" and {len(foreign) - 1} more" if foreign[1:] else ""
        raise OutputError(
            f"holds {foreign[0]}{more}, which would go with what is replaced",
            where=folder,
            fix="move it elsewhere, or give another `out`",
        )


def _flush_to_disk(path: Path) -> None:
    with suppress(FileNotFoundError, PermissionError):  # Windows opens no folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # of a folder, on file systems without that
                raise
        finally:
            os.close(descriptor)


def _remove_leftovers(path: Path) -> None:
    pattern = re.compile(
        re.escape(f".{path.stem}.partial-") + r"(\d+)(?:-old)?" + re.escape(path.suffix)
    )
    with suppress(OSError):
        for candidate in path.parent.iterdir():
            match = pattern.fullmatch(candidate.name)
            if match and not _is_running(int(match[1])):
                remove(candidate)


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def is_leftover(path: Path) -> bool:
    """Return whether a name is one that `replacing` or `scratch_folder` gives until the end."""
    return re.fullmatch(r"\..*\.partial-\d+(-old)?(\.[^.]*)?", path.name) is not None


def remove(path: Path) -> None:
    """Remove a file or folder as far as that is possible; of a link, the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def require_regular(path: Path, *, folders: bool = False) -> None:
    """Raise where something is neither file nor missing: a pipe or device may never end.

    Args:
        path: What is to be read.
        folders: Whether it may be a folder.

    Raises:
        InputError: It is a folder, a pipe, a socket or a device.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return  # whoever opens it says why
    if not stat.S_ISREG(mode) and not (folders and stat.S_ISDIR(mode)):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
        raise InputError(f"is {kind}, not a file", where=path, fix="name a file")


def named_layer(name: str | Path) -> tuple[str, str | None]:
    """Return a vector file and the layer of it that a name such as QGIS shows it chooses.

    Args:
        name: A file, or ``areas.gpkg|layername=parcels``.

    Returns:
        The file, and the layer's name or None.

    Raises:
        InputError: What follows the first ``|`` is anything else.
    """
    file, bar, rest = str(name).partition("|")
    if not bar or Path(str(name)).exists():
        return str(name), None
    key, _, layer = rest.partition("=")
    if key.strip().lower() != "layername" or not layer or "|" in layer:
        raise InputError(
            f"what follows its name, {bar + rest!r}, is not understood",
            where=file,
            fix="choose a layer with '|layername=NAME' alone",
        )
    return file, layer


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits.

    Raises:
        MissingInputError: There is no such file.
        InputError: It can't be read.
    """
    require_regular(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise MissingInputError("no such file", where=path, fix="check the path") from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path) from error


def cache_folder() -> Path:
    """Return the folder of what is prepared once and used by many runs.

    It is ``$HRRSI_CACHE``, by default ``hrrsi`` in the user's cache folder.
    """
    folder = os.environ.get("HRRSI_CACHE")
    return Path(folder) if folder else platformdirs.user_cache_path("hrrsi", appauthor=False)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder, which need not exist, until the block ends.

    The file beside the folder that carries the lock says who holds it.

    Raises:
        OutputError: Another process holds it, or the folder around it can't be written to.
    """
    prepare_folder(folder.parent)
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    with naming(folder, _lock_path(folder)), lock_held(_lock_path(folder), holder, _busy(folder)):
        yield


def check_unlocked(folder: Path) -> None:
    """Raise where another process holds a run's folder.

    Raises:
        OutputError: It does.
    """
    refuse_held(_lock_path(folder), _busy(folder))


def refuse_held(path: Path, refusal: Callable[[str], OutputError]) -> None:
    """Raise where another process holds a lock.

    Args:
        path: The file that carries it.
        refusal: As for `lock_held`.

    Raises:
        OutputError: It does.
    """
    if path.is_file():
        _acquired(path, refusal).release()


@contextmanager
def lock_held(path: Path, holder: str, refusal: Callable[[str], OutputError]) -> Iterator[None]:
    """Hold a lock until the block ends.

    The lock is the system's: it ends with this process, however that ends, and processes that it
    forks don't share it. On file systems without locks this does nothing.

    Args:
        path: The file that carries it; it is removed at the end.
        holder: What the file says meanwhile of who holds it.
        refusal: Makes the error of what the file says, where another process holds it.

    Raises:
        OutputError: Another process holds it.
    """
    lock = _acquired(path, refusal)
    try:
        with suppress(OSError):  # Windows lets nobody write or remove a locked file
            path.write_text(holder, encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        lock.release()


def _acquired(path: Path, refusal: Callable[[str], OutputError]) -> FileLock:
    # a moment, since a holder that ends may remove the file just as it is opened here
    lock = FileLock(path, timeout=0.1, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        try:
            holder = path.read_text(encoding="utf-8")
        except OSError:  # on Windows
            holder = ""
        raise refusal(holder) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
    return lock


def _busy(folder: Path) -> Callable[[str], OutputError]:
    return lambda holder: OutputError(
        f"{holder or 'another process'} is working on this run",
        where=folder,
        fix="wait until it has ended, or give another `out`",
    )


def _lock_path(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


class _Loader(yaml.SafeLoader):
    """YAML's own, which of a name that comes twice would take the last value without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in keys:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value!r} comes twice", problem_mark=key.start_mark
                    )
                keys.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Tags that build objects are refused, never run.

    Raises:
        InputError: The file is missing, not readable, not YAML, or not a mapping, or a name comes
            twice in it.
    """
    require_regular(path)
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise InputError(
                f"is larger than {_LARGEST_BYTES >> 20} MiB", where=path, fix="name a YAML file"
            )
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingInputError("no such file", where=path, fix="check the path") from None
    except UnicodeDecodeError:
        raise InputError("is not a text file", where=path, fix="name a YAML file") from None
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path) from error
    try:
        data = _plain_data(text)
    except yaml.MarkedYAMLError as error:
        if isinstance(error, yaml.constructor.ConstructorError) and "tag" in str(error.problem):
            raise InputError(
                f"holds a tag that is not plain data ({error.problem})",
                where=_position(path, error),
                fix="use only mappings, lists, text and numbers",
            ) from error
        raise InputError(
            f"is not valid YAML ({error.problem})", where=_position(path, error), fix="correct it"
        ) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # of numbers and dates, too
        raise InputError(
            f"is not valid YAML ({_short(error)})", where=path, fix="correct it"
        ) from error
    except RecursionError:
        raise InputError("is nested too deeply", where=path, fix="correct it") from None
    if not isinstance(data, dict):
        raise InputError("is not a mapping of names to values", where=path, fix="correct it")
    return data


def _plain_data(text: str) -> Any:
    """Return what YAML holds, where repetitions by alias don't make it endless.

    Raises:
        ValueError: They do.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > _MOST_NODES:
            raise ValueError("aliases repeat too much")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: yaml.Node, sizes: dict[int, float]) -> float:
    """Return how many nodes there are where each alias counts as all that it repeats."""
    if id(node) not in sizes:
        sizes[id(node)] = math.inf  # of one that holds itself
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        pairs = (part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,)))
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in pairs)
    return sizes[id(node)]


def _short(error: Exception) -> str:
    text = one_line(error)
    return text if len(text) <= 80 else text[:77] + "..."


def _position(path: Path, error: yaml.MarkedYAMLError) -> str:
    return f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else str(path)


def dump_yaml(data: dict[str, Any]) -> str:
    """Return data as YAML text, in the order given."""
    text: str = yaml.safe_dump(
        data, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100
    )
    return text
