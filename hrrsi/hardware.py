"""Which device, cores and memory a command computes with."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from hrrsi.errors import DeviceError, OptionError
from hrrsi.extras import is_installed, requiring

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
# Below, the system ends a process in the middle: measured as killed with 0.2 and 0.9 GB.
LEAST_TO_PREDICT = 300_000_000
LEAST_TO_TRAIN = 1_000_000_000
_TRIM, _MMAP = -1, -3  # of glibc's mallopt: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
_UNBOUNDED = 1 << 60  # what says so is a number near the largest


def available_cores() -> int:
    """Return how many cores this process may use: by its affinity, and its container's quota."""
    is_linux = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if is_linux else os.cpu_count() or 1
    for folder in _control_groups("cpu"):
        if (folder / "cpu.max").is_file():
            quota, period = [*_words(folder / "cpu.max"), "", ""][:2]
        else:
            quota = next(iter(_words(folder / "cpu.cfs_quota_us")), "")
            period = next(iter(_words(folder / "cpu.cfs_period_us")), "")
        if quota.isdecimal() and period.isdecimal() and int(period):
            cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


def processor_name() -> str:
    """Return the name of the processor, as the system tells it."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def memory_limit() -> int | None:
    """Return the bytes that this process' container may use, None where nothing bounds them."""
    limits = [
        int(word)
        for folder in _control_groups("memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        for word in _words(folder / name)
        if word.isdecimal()
    ]
    bounded = [limit for limit in limits if limit < _UNBOUNDED]
    return min(bounded, default=None)


def require_memory(least: int, doing: str) -> None:
    """Raise where this process' container may use too little memory for anything to end well.

    Args:
        least: Bytes that are needed in any case.
        doing: What they are needed for.

    Raises:
        DeviceError: Less is allowed here.
    """
    limit = memory_limit()
    if limit is not None and limit < least:
        raise DeviceError(
            f"this container may use {limit / 1e6:,.0f} MB of memory, and {doing} takes at least "
            f"{least / 1e6:,.0f} MB",
            fix="give it more, such as `docker run --memory 4g`",
        )


def reuse_freed_memory(*, of_run: bool) -> None:
    """Let arrays take memory that others have freed, where Dask has it given back at once.

    Its nannies set MALLOC_TRIM_THRESHOLD_, with which glibc asks the system anew for each array:
    workers that map took a fifth more processor time.

    Args:
        of_run: Whether a run begins here; else all is as Dask has set it.
    """
    trim = os.environ.get("MALLOC_TRIM_THRESHOLD_", "")
    if not trim.isdecimal():
        return
    import ctypes  # which --help does without

    with suppress(AttributeError, OSError):  # the C library is another one
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM, 1 << 28 if of_run else int(trim))
        mallopt(_MMAP, 1 << 25 if of_run else 1 << 17)  # the largest there is, and the usual


def _control_groups(controller: str) -> list[Path]:
    """Return the folders of the control groups that this process is in, and of those around."""
    folders = []
    for line in _lines(Path("/proc/self/cgroup")):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        root = _CONTROL_GROUPS / controller if controllers else _CONTROL_GROUPS
        place = root / path.lstrip("/")
        # within a container its own group is mounted at the root, and the path is that outside
        folders += [p for p in (place, *place.parents) if p.is_relative_to(root) and p.is_dir()]
    return folders


def _words(file: Path) -> list[str]:
    return [word for line in _lines(file) for word in line.split()]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def chosen_device(name: str) -> str:
    """Return the device that a name stands for: ``cpu``, ``cuda`` or ``cuda:N``.

    Args:
        name: One of these, or ``auto``: a GPU if there is one that PyTorch can use.

    Raises:
        DeviceError: No such device here.
        OptionError: The name is none of these.
        DependencyError: A GPU is asked for, and PyTorch is not installed.
    """
    kind, _, number = name.partition(":")
    if name not in ("auto", "cpu") and (kind != "cuda" or (number and not number.isdecimal())):
        raise OptionError(
            f"unknown device {name!r}", parameter="device", fix="give auto, cpu, cuda or cuda:N"
        )
    if name == "cpu" or (name == "auto" and not is_installed("torch")):
        return "cpu"
    with requiring("gpu", "a GPU"):
        import torch  # takes seconds, and only GPUs and training need it
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.cuda.is_available():
        raise DeviceError(
            "there is no CUDA device here that PyTorch can use",
            where=f"`device={name}`",
            fix="give `device=cpu`",
        )
    if number and int(number) >= torch.cuda.device_count():
        raise DeviceError(
            f"there are {torch.cuda.device_count()} CUDA devices here, counted from 0",
            where=f"`device={name}`",
            fix="choose one of them",
        )
    return name


def computes_in_bf16(device: str) -> bool:
    """Return whether a device has instructions for bf16, which make it faster than float32.

    Args:
        device: What `chosen_device` returns.
    """
    import torch

    if device != "cpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: Mapping[str, object] = {}
    if hasattr(torch.cpu, "get_capabilities"):  # newer than torch 2.11
        capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
