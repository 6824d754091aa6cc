"""What runs say of themselves, each in a few lines and several beside each other."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hrrsi.errors import HrrsiError, InputError, OutputError
from hrrsi.file_info.geodata import FileInfo
from hrrsi.file_info.networks import of_its_shape
from hrrsi.files import check_unlocked, read_yaml
from hrrsi.networks.model_meta import hardware_text, training_lines
from hrrsi.quantities import counted, share_text, time_text
from hrrsi.runs.environment import read_environment
from hrrsi.runs.options import CONFIG, ENVIRONMENT, LAST_CHECKPOINT, METRICS, NAN_BATCH

_NOT_SETTINGS = ("data", "model", "encoder", "out", "device", "workers")
_SCORES = {"val_mIoU": "mIoU", "val_OA": "OA", "val_top1": "top-1", "val_top5": "top-5"}
# what says where a run was made, not how: runs are compared by the rest
_NOT_COMPARED = ("out", "device", "workers", "epochs", "model", "encoder")


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run."""
    return (folder / CONFIG).is_file() and (folder / ENVIRONMENT).is_file()


def run_info(folder: Path) -> FileInfo:
    """Return what the folder of a run holds.

    Raises:
        InputError: It is damaged.
    """
    with of_its_shape(folder):
        return _run_info(folder)


def _run_info(folder: Path) -> FileInfo:
    config, environment = read_yaml(folder / CONFIG), read_environment(folder)
    epochs = _metrics(folder / METRICS)
    network = config.get("model", config.get("encoder"))
    state = _run_state(folder, _is_whole(config, epochs))
    dataset, starts = environment["dataset"], environment.get("starts", [])
    items = [f"{number:,} {noun}" for noun, number in dataset.items() if isinstance(number, int)]
    data = config.get("data")
    folders = data if isinstance(data, list) else [data]
    settings = {key: value for key, value in config.items() if key not in _NOT_SETTINGS}
    lines = [
        ("network", str(network)),
        ("data", ", ".join([*map(str, folders), *items])),
        *training_lines(settings),
        ("done", f"{len(epochs)} of {counted(config.get('epochs', 0), 'epoch')}; {state}"),
        *_best_line(epochs),
    ]
    if starts:
        lines += _start_lines(starts, sum(row.get("seconds") or 0 for row in epochs))
    weights = [path.name for path in folder.glob("*.safetensors") if path.name != NAN_BATCH]
    lines.append(("weights", ", ".join(weights) or "none yet"))
    kind = "pre-training run" if "encoder" in config else "training run"
    data = {"state": state, "config": config, "environment": environment, "epochs": epochs}
    return FileInfo(kind, lines, data)


def _is_whole(config: dict[str, Any], epochs: list[dict[str, float | None]]) -> bool:
    """Return whether a run has done all of its epochs, or those that its patience left."""
    best, patience = _best(epochs), config.get("patience") or 0
    is_over = best is not None and 0 < patience <= (epochs[-1]["epoch"] or 0) - (best["epoch"] or 0)
    return is_over or len(epochs) >= config.get("epochs", 0)


def _run_state(folder: Path, is_whole: bool) -> str:
    """Return how far a run has come: ``finished``, ``running``, or whether it can be resumed."""
    if is_whole:
        return "finished"
    try:
        check_unlocked(folder)
    except OutputError:
        return "running"
    has_checkpoint = (folder / LAST_CHECKPOINT).is_file()
    return "can be resumed" if has_checkpoint else "cannot be resumed: it has no checkpoint"


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
        raise InputError("is no table of metrics", where=path, fix="copy the run again") from error
    return [{k: v if math.isfinite(v) else None for k, v in row.items()} for row in rows]


def _best(epochs: list[dict[str, float | None]]) -> dict[str, float | None] | None:
    """Return the row of the epoch with the best score on the validation data."""
    chosen_by = next((key for key in ("val_mIoU", "val_top1") if epochs and key in epochs[0]), "")
    scored = [row for row in epochs if row.get(chosen_by) is not None]
    return max(scored, key=lambda row: row[chosen_by] or 0) if scored else None


def _best_line(epochs: list[dict[str, float | None]]) -> list[tuple[str, str]]:
    best = _best(epochs)
    if best is None:
        return []
    scores = [f"{name} {share_text(best[key])}" for key, name in _SCORES.items() if key in best]
    return [("best", f"epoch {best['epoch']:.0f}: validation {', '.join(scores)}")]


def _start_lines(starts: list[dict[str, Any]], seconds: float) -> list[tuple[str, str]]:
    first, last = starts[0], starts[-1]
    resumed = f"; resumed {counted(len(starts) - 1, 'time')}" if len(starts) > 1 else ""
    versions = last.get("versions", {})
    kinds = ("python", "torch", "cuda")
    texts = [f"{name} {versions[name]}" for name in kinds if versions.get(name, "none") != "none"]
    return [
        ("started", f"{first.get('time')}{resumed}"),
        ("took", f"{time_text(seconds)} on {hardware_text(last.get('hardware', {}))}"),
        ("software", ", ".join([f"hrrsi {last.get('hrrsi', {}).get('version')}", *texts])),
    ]


class ComparedRun(NamedTuple):
    """A run beside others.

    Attributes:
        name: Its folder within the one that holds all.
        network: The network, or the encoder of a pre-training run.
        best_epoch: The epoch with the best score on the validation data; None before the first.
        scores: Scores of that epoch on the validation data, 0 to 1, by name.
        epochs: How many have been trained, and how many there are to be.
        state: ``finished``, ``running``, or whether it can be resumed.
        seconds: What its epochs took.
        settings: Settings in which it differs from most of them.
    """

    name: str
    network: str
    best_epoch: int | None
    scores: dict[str, float | None]
    epochs: tuple[int, int]
    state: str
    seconds: float
    settings: dict[str, Any]


def compared_runs(folder: Path, runs: Sequence[Path]) -> list[ComparedRun]:
    """Return runs beside each other, the best first; those that are damaged are left out.

    Args:
        folder: What holds them, by which they are called.
        runs: Their folders.
    """
    contents = {}
    for path in runs:
        try:
            contents[path] = run_info(path).data
        except HrrsiError:
            continue
    settings = [
        {key: value for key, value in data["config"].items() if key not in _NOT_COMPARED}
        for data in contents.values()
    ]
    names = dict.fromkeys(key for of_run in settings for key in of_run)
    usual = {name: _most_frequent([of_run.get(name) for of_run in settings]) for name in names}
    rows = []
    for (path, data), of_run in zip(contents.items(), settings, strict=True):
        epochs, best = data["epochs"], _best(data["epochs"])
        row = ComparedRun(
            path.relative_to(folder).as_posix(),
            str(data["config"].get("model", data["config"].get("encoder"))),
            None if best is None else int(best["epoch"] or 0),
            {name: best[key] for key, name in _SCORES.items() if best and key in best},
            (len(epochs), int(data["config"].get("epochs") or 0)),
            data["state"],
            sum(epoch.get("seconds") or 0 for epoch in epochs),
            {name: of_run.get(name) for name in names if of_run.get(name) != usual[name]},
        )
        rows.append(row)
    return sorted(rows, key=lambda row: -(next(iter(row.scores.values()), None) or 0))


def _most_frequent(values: Sequence[Any]) -> Any:
    """Return the value that most of them are, the first of several such."""
    return max(values, key=values.count)


def run_table(runs: Sequence[ComparedRun]) -> list[list[str]]:
    """Return compared runs as rows of words, the header first."""
    scores = list(dict.fromkeys(name for run in runs for name in run.scores))
    table = [["run", "network", "best epoch", *scores, "epochs", "took", "differs in"]]
    for run in runs:
        trained_epochs, epochs = run.epochs
        values = [run.scores.get(name) for name in scores]
        table.append(
            [
                run.name,
                run.network,
                "-" if run.best_epoch is None else str(run.best_epoch),
                *("-" if value is None else share_text(value) for value in values),
                f"{trained_epochs} of {epochs}"
                + ("" if run.state == "finished" else f", {run.state}"),
                time_text(run.seconds),
                ", ".join(f"{name} {_short(value)}" for name, value in run.settings.items()) or "-",
            ]
        )
    return table


def _short(value: Any) -> str:
    """Return a setting in few letters: files and folders by their last names."""
    if isinstance(value, list):
        last = f" and {len(value) - 2} more" if len(value) > 2 else ""
        return "+".join(map(_short, value[:2])) + last or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value).rstrip("/").rpartition("/")[2]
