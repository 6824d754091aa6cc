"""The sections on where a map comes from: training curves, model card, provenance."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hrrsi.errors import DependencyError
from hrrsi.evaluation.block_bootstrap import FEWEST_BLOCKS
from hrrsi.evaluation.result import EvaluationResult
from hrrsi.extras import requiring
from hrrsi.report.charts import Series, even_axis, line_chart, percent_axis
from hrrsi.report.evaluated_map import EvaluatedMap
from hrrsi.report.markup import NONE, escaped, percent, section
from hrrsi.report.sentences import blocks_text, source_sentence, unscored_text
from hrrsi.runs.options import METRICS


def model_card(weights: Path, *, latency: bool = True) -> tuple[tuple[str, str], ...]:
    """Return labels and texts: what the weights say of themselves, operations and speed.

    Takes seconds: the network is built, and run in a process of its own.

    Args:
        weights: The weights file.
        latency: Whether its speed on this machine is measured.

    Raises:
        HrrsiError: Not a weights file, or the memory does not hold the network.
    """
    from hrrsi.file_info import info
    from hrrsi.profiling.latency import weights_latency

    size, costs = 512, []
    try:
        with requiring("gpu", "counting operations"):
            from hrrsi.profiling.operations import profile_weights
    except DependencyError:
        operations = "not counted, since PyTorch is not installed"
    else:
        profile = profile_weights(weights, size=size)
        operations = (
            f"{2 * profile.operations.macs / 1e9:.2f} GFLOPs for a window of {size} px "
            f"({profile.operations.macs / 1e9:.2f} G multiply-accumulates; "
            f"{profile.operations.published / 1e9:.2f} G as the published tables count)"
        )
    costs.append(("operations", operations))
    if latency:
        found = weights_latency(weights, size=size)
        costs.append(
            (
                "latency of hrrsi predict",
                f"{found.milliseconds:.1f} ms for a window of {size} px, "
                f"{found.megapixels_per_second:.1f} Mpx/s ({found.engine}, {found.device}), "
                "measured with this page; the scores may have been taken in another precision",
            )
        )
    first, *rest = info(weights).lines
    return (first, *costs, *rest)


_NEEDED = ("epoch", "loss", "val_OA", "val_mIoU")


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


_SCORES = (("val_OA", "OA"), ("val_mF1", "mF1"), ("val_mIoU", "mIoU"))
_LOSSES = (("loss", "training"), ("val_seg_loss", "validation (segmentation)"))


def training_section(maps: Sequence[EvaluatedMap]) -> str:
    """Return the training curves of the maps whose run is known; empty where none is."""
    charts = [
        chart
        for number, one in enumerate(maps)
        if one.training
        for chart in _training_charts(number, one)
    ]
    if not charts:
        return ""
    return section(
        "training",
        "Training",
        "Scores of the validation and losses after each epoch, from the run's folder.",
        f'<div class="charts">{"".join(charts)}</div>',
    )


def _training_charts(number: int, one: EvaluatedMap) -> Iterator[str]:
    rows = one.training
    x = even_axis("epoch", rows[0]["epoch"], max(rows[-1]["epoch"], rows[0]["epoch"] + 1))
    scores = _series(rows, _SCORES)
    best = max(rows, key=lambda row: -1.0 if math.isnan(row["val_mIoU"]) else row["val_mIoU"])
    yield line_chart(
        f"validation-{number}",
        f"Validation scores of {one.name}",
        f"mIoU is highest after epoch {best['epoch']:.0f}: {percent(best['val_mIoU'])} %.",
        x,
        percent_axis("percent"),
        scores,
    )
    losses = _series(rows, _LOSSES)
    values = [y for line in losses for _, y in line.points if math.isfinite(y)]
    yield line_chart(
        f"losses-{number}",
        f"Losses of {one.name}",
        f"The training loss ends at {rows[-1]['loss']:.4g}.",
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


def card_section(maps: Sequence[EvaluatedMap]) -> str:
    """Return what made each map, and what its network is and costs."""
    return section(
        "model",
        "Model card" if any(one.card for one in maps) else "Where the map is from",
        "",
        f'<div class="side-by-side">{"".join(_card(one) for one in maps)}</div>',
    )


def _card(one: EvaluatedMap) -> str:
    rows = [*one.card, ("made by", source_sentence(one.report.source))]
    items = "".join(f"<dt>{escaped(label)}</dt><dd>{escaped(text)}</dd>" for label, text in rows)
    return f'<div class="card"><h3>{escaped(one.name)}</h3><dl>{items}</dl></div>'


def protocol_lines(report: EvaluationResult) -> list[tuple[str, str]]:
    """Return what a reader has to know to compare the figures: labels and texts."""
    e = report.evaluation
    lines = [
        ("Made by", f"{source_sentence(report.source)}."),
        ("Scenes", ", ".join(e.scenes)),
        ("Not scored", f"{unscored_text(report)}."),
        (
            "Intervals",
            f"95 %, from a bootstrap over {blocks_text(report)}; {NONE} of what fewer than "
            f"{FEWEST_BLOCKS} of them hold.",
        ),
    ]
    if e.seen_in_training:
        seen = ", ".join(e.seen_in_training)
        lines.append(("Beware", f"the weights were trained on {seen}: the scores flatter them."))
    return lines
