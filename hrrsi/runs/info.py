"""What a run folder holds, in lines for people."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from hrrsi.errors import HrrsiError
from hrrsi.file_info import FileInfo
from hrrsi.quantities import counted, share_text, time_text
from hrrsi.runs.options import CONFIG, ENVIRONMENT, METRICS, NAN_BATCH
from hrrsi.runs.training_lines import hardware_text, training_lines
from hrrsi.yaml_file import read_yaml

_NOT_SETTINGS = ("data", "model", "encoder", "out", "device", "workers")
_SCORES = {"val_mIoU": "mIoU", "val_OA": "OA", "val_top1": "top-1", "val_top5": "top-5"}


def run_info(folder: Path) -> FileInfo | None:
    """Return what a run folder holds, or None where a folder is none.

    Args:
        folder: A folder of `hrrsi train` or `hrrsi pretrain`.

    Raises:
        HrrsiError: A file of it is damaged.
    """
    if not ((folder / CONFIG).is_file() and (folder / ENVIRONMENT).is_file()):
        return None
    config, environment = read_yaml(folder / CONFIG), read_yaml(folder / ENVIRONMENT)
    epochs = _metrics(folder / METRICS)
    network = config.get("model", config.get("encoder"))
    dataset, starts = environment.get("dataset", {}), environment.get("starts", [])
    items = [f"{number:,} {what}" for what, number in dataset.items() if what != "sha256"]
    settings = {key: value for key, value in config.items() if key not in _NOT_SETTINGS}
    lines = [
        ("network", str(network)),
        ("data", ", ".join([str(config.get("data")), *items])),
        *training_lines(settings),
        ("done", f"{len(epochs)} of {counted(config.get('epochs', 0), 'epoch')}"),
        *_best_line(epochs),
    ]
    if starts:
        lines += _start_lines(starts, sum(row.get("seconds") or 0 for row in epochs))
    weights = [path.name for path in folder.glob("*.safetensors") if path.name != NAN_BATCH]
    lines.append(("weights", ", ".join(weights) or "none yet"))
    kind = "pre-training run" if "encoder" in config else "training run"
    return FileInfo(kind, lines, {"config": config, "environment": environment, "epochs": epochs})


def _metrics(path: Path) -> list[dict[str, float | None]]:
    """Return a row an epoch; None stands for what is not defined."""
    if not path.is_file():  # before the first epoch ends
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)
            ]
    except (ValueError, TypeError) as error:
        raise HrrsiError("is no table of metrics", where=path, fix="copy the run again") from error
    return [{k: v if math.isfinite(v) else None for k, v in row.items()} for row in rows]


def _best_line(epochs: list[dict[str, float | None]]) -> list[tuple[str, str]]:
    chosen_by = next((key for key in ("val_mIoU", "val_top1") if epochs and key in epochs[0]), "")
    known = [row for row in epochs if row.get(chosen_by) is not None]
    if not known:
        return []
    best = max(known, key=lambda row: row[chosen_by] or 0)
    scores = [f"{name} {share_text(best[key])}" for key, name in _SCORES.items() if key in best]
    return [("best", f"epoch {best['epoch']:.0f}: validation {', '.join(scores)}")]


def _start_lines(starts: list[dict[str, Any]], seconds: float) -> list[tuple[str, str]]:
    first, last = starts[0], starts[-1]
    resumed = f"; resumed {counted(len(starts) - 1, 'time')}" if len(starts) > 1 else ""
    versions = last.get("versions", {})
    kinds = ("python", "torch", "cuda")
    named = [f"{name} {versions[name]}" for name in kinds if versions.get(name, "none") != "none"]
    return [
        ("started", f"{first.get('time')}{resumed}"),
        ("took", f"{time_text(seconds)} on {hardware_text(last.get('hardware', {}))}"),
        ("software", ", ".join([f"hrrsi {last.get('hrrsi', {}).get('version')}", *named])),
    ]
