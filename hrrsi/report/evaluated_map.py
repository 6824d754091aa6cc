"""What the page shows of one evaluated map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hrrsi.evaluation.report import EvaluationReport
from hrrsi.report.scene_views import SceneView


@dataclass(frozen=True)
class EvaluatedMap:
    """One evaluated map, or the maps that one file of weights made.

    Attributes:
        name: What the page calls it, e.g. the weights' file name.
        report: Its scores.
        views: Pictures of its scenes (`hrrsi.report.scene_views.SceneViewCollector`).
        card: The model card: labels and texts (`hrrsi.report.model_card.model_card`).
        training: The epochs of its training (`hrrsi.report.training_rows.training_rows`).
    """

    name: str
    report: EvaluationReport
    views: tuple[SceneView, ...] = ()
    card: tuple[tuple[str, str], ...] = ()
    training: tuple[Mapping[str, float], ...] = ()
