"""What the page calls a map, and where that comes from: training, model card, provenance."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrrsi.errors import DependencyError, DeviceError
from hrrsi.evaluation.intervals import FEWEST_BLOCKS
from hrrsi.evaluation.result import EvaluationResult
from hrrsi.profiling.figures import ProfileOptions
from hrrsi.report.figures import NONE, Chart, Series, even_axis, line_chart, percent, percent_axis
from hrrsi.report.scene_views import SceneView
from hrrsi.report.sentences import (
    blocks_text,
    partial_text,
    scenes_text,
    source_sentence,
    unscored_text,
)
from hrrsi.runs.options import METRICS

# columns of the table of epochs: those that charts need, and what lines of them are called
_NEEDED = ("epoch", "loss", "val_OA", "val_mIoU")
_SCORES = (("val_OA", "OA"), ("val_mF1", "mF1"), ("val_mIoU", "mIoU"))
_LOSSES = (("loss", "training"), ("val_seg_loss", "validation (segmentation)"))


@dataclass(frozen=True)
class EvaluatedMap:
    """One evaluated map, or the maps that one file of weights made.

    Attributes:
        name: What the page calls it, e.g. the weights' file name.
        result: Its scores.
        views: Pictures of its scenes (`hrrsi.report.scene_views.SceneViewCollector`).
        card: The model card: labels and texts (`model_card`).
        training: The epochs of its training (`training_rows`).
    """

    name: str
    result: EvaluationResult
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


def model_card(weights: Path, *, latency: bool = True) -> tuple[tuple[str, str], ...]:
    """Return labels and texts: what the weights say of themselves, operations and speed.

    Takes seconds: the network is built, and run in a process of its own.

    Args:
        weights: The weights file.
        latency: Whether its speed on this machine is measured.

    Raises:
        HrrsiError: Not a weights file.
    """
    from hrrsi.file_info import info
    from hrrsi.profiling.profile import costs_of, weights_latency

    about = info(weights)
    size, costs = about.data.get("window") or 512, []
    try:
        counted = costs_of(weights, ProfileOptions(size=size)).operations
    except DependencyError:
        operations = "not counted, since PyTorch is not installed"
    else:
        assert counted is not None
        figures = [f"{counted.macs / 1e9:.2f} G multiply-accumulates"]
        if counted.published is not None:
            figures.append(f"{counted.published / 1e9:.2f} G as the published tables count")
        operations = (
            f"{2 * counted.macs / 1e9:.2f} GFLOPs for a window of {size} px ({'; '.join(figures)})"
        )
    costs.append(("operations", operations))
    if latency:
        try:
            speed = weights_latency(weights, size=size)
        except DeviceError as error:  # scores that took hours don't depend on it
            words = f"not measured: {error}"
        else:
            words = (
                f"{speed.milliseconds:.1f} ms for a window of {size} px, "
                f"{speed.megapixels_per_second:.1f} Mpx/s ({speed.engine}, {speed.device}), "
                "measured with this page; the scores may have been taken in another precision"
            )
        costs.append(("latency of hrrsi predict", words))
    first, *rest = about.lines
    return (first, *costs, *rest)


def training_rows(weights: Path) -> tuple[Mapping[str, float], ...]:
    """Return the rows of ``metrics.csv`` beside weights; none where there is no such table.

    Args:
        weights: The weights file, as `hrrsi train` leaves it in its run folder.
    """
    path = weights.parent / METRICS
    if not path.is_file():
        return ()
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, TypeError, ValueError, csv.Error):
        return ()  # a table of another kind: the report does not depend on it
    return tuple(rows) if rows and all(key in rows[0] for key in _NEEDED) else ()


def training_charts(maps: Sequence[EvaluatedMap]) -> list[Chart]:
    """Return the training curves of the maps whose run is known."""
    return [
        chart
        for number, entry in enumerate(maps)
        if entry.training
        for chart in _training_charts(number, entry)
    ]


def _training_charts(number: int, entry: EvaluatedMap) -> Iterator[Chart]:
    rows = entry.training
    x = even_axis("epoch", rows[0]["epoch"], max(rows[-1]["epoch"], rows[0]["epoch"] + 1))
    best = max(rows, key=lambda row: -1.0 if math.isnan(row["val_mIoU"]) else row["val_mIoU"])
    yield line_chart(
        (
            f"validation-{number}",
            f"Validation scores of {entry.name}",
            f"mIoU is highest after epoch {best['epoch']:.0f}: {percent(best['val_mIoU'])} %.",
        ),
        x,
        percent_axis("percent"),
        _series(rows, _SCORES),
    )
    losses = _series(rows, _LOSSES)
    values = [y for line in losses for _, y in line.points if math.isfinite(y)]
    yield line_chart(
        (
            f"losses-{number}",
            f"Losses of {entry.name}",
            f"The training loss ends at {rows[-1]['loss']:.4g}.",
        ),
        x,
        even_axis("loss", 0.0, max(values, default=1.0) or 1.0),
        losses,
    )


def _series(rows: Sequence[Mapping[str, float]], keys: Sequence[tuple[str, str]]) -> list[Series]:
    return [
        Series(name, [(row["epoch"], _finite(row[key])) for row in rows], dots=False)
        for key, name in keys
        if all(key in row for row in rows)
    ]


def _finite(value: float) -> float:
    return value if math.isfinite(value) else float("nan")


def model_cards(maps: Sequence[EvaluatedMap]) -> dict[str, Any]:
    """Return what made each map, and what its network is and costs."""
    return {
        "title": "Model card" if any(entry.card for entry in maps) else "Where the map is from",
        "cards": [
            {
                "name": entry.name,
                "rows": [*entry.card, ("made by", source_sentence(entry.result.source))],
            }
            for entry in maps
        ],
    }


def protocol_lines(result: EvaluationResult) -> list[tuple[str, str]]:
    """Return what a reader has to know to compare the figures: labels and texts."""
    e = result.evaluation
    lines = [
        ("Made by", f"{source_sentence(result.source)}."),
        ("Scenes", ", ".join(e.scenes)),
        ("Not scored", f"{unscored_text(result)}."),
        *([("Partial labels", f"{partial_text(result)}.")] if partial_text(result) else []),
        (
            "Intervals",
            f"95 %, from a bootstrap over {blocks_text(result)}; {NONE} of what fewer than "
            f"{FEWEST_BLOCKS} of them hold.",
        ),
        *([("Beware of intervals", f"{scenes_text(result)}.")] if scenes_text(result) else []),
    ]
    if e.seen_in_training:
        scenes = ", ".join(e.seen_in_training)
        lines.append(("Beware", f"the weights were trained on {scenes}: the scores flatter them."))
    return lines
