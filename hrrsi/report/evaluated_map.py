"""What the page shows of one evaluated map, and what it calls it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hrrsi.evaluation.result import EvaluationResult
from hrrsi.report.scene_views import SceneView


@dataclass(frozen=True)
class EvaluatedMap:
    """One evaluated map, or the maps that one file of weights made.

    Attributes:
        name: What the page calls it, e.g. the weights' file name.
        report: Its scores.
        views: Pictures of its scenes (`hrrsi.report.scene_views.SceneViewCollector`).
        card: The model card: labels and texts (`hrrsi.report.model_sections.model_card`).
        training: The epochs of its training (`hrrsi.report.model_sections.training_rows`).
    """

    name: str
    report: EvaluationResult
    views: tuple[SceneView, ...] = ()
    card: tuple[tuple[str, str], ...] = ()
    training: tuple[Mapping[str, float], ...] = ()


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
