"""Memory that a process frees is kept for its next allocation."""

import ctypes
import sys

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let the allocator keep what tensors on the processor free, instead of giving it back.

    By default glibc takes large blocks from the system and gives them back each time, and the
    system clears each page that it hands out: a third of the time of a training step on a
    processor. The process keeps its highest amount of memory from then on. Elsewhere than on
    Linux with glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_MMAP_MAX, 0)
