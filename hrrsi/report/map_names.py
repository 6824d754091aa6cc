"""What a page calls maps: names that are short and tell two maps apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def map_names(maps: Sequence[Sequence[Path]]) -> list[str]:
    """Return the shortest ends of paths that tell maps apart: names, else with folders.

    Args:
        maps: The files or folders of each map, or the weights that made it; one map or two.

    Returns:
        A name for each, e.g. ``a/best.safetensors`` and ``b/best.safetensors``; the same where
        they are the same files. A map of several files is called after its first.
    """
    parts = [Path(os.path.abspath(paths[0])).parts for paths in maps]
    depth = next(
        (n for n in range(1, max(map(len, parts)) + 1) if len({p[-n:] for p in parts}) > 1), 1
    )
    return [
        str(Path(*own[-depth:])) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        for own, paths in zip(parts, maps, strict=True)
    ]
