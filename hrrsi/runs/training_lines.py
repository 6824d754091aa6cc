"""How networks were trained, in lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hrrsi.quantities import counted, share_text, time_text

_OF_TEACHERS = ("distillation", "temperature", "features")
_SEED = "seed"
_COUNTS = ("devices", "nodes")  # of which a single one is not worth a word


def training_lines(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a label and a text for each side of a training: data, start, settings, what was kept.

    What is switched off (None, False, 0) is left out.

    Args:
        training: What weights say of it (`hrrsi.networks.model_meta.ModelMeta`), or options
            of a run.
    """
    left = dict(training)
    lines = [
        (
            "trained on",
            _data_text(*(left.pop(k, None) for k in ("data", "scenes", "patches", "patch_size"))),
        ),
        (
            "start",
            _start_text(
                *(left.pop(k, None) for k in ("init", "encoder_weights", "freeze_encoder"))
            ),
        ),
    ]
    teachers = left.pop("teachers", None)
    taught = [_setting_text(key, left.pop(key)) for key in _OF_TEACHERS if key in left]
    if teachers:
        names = ", ".join(t if isinstance(t, str) else t["name"] for t in teachers)
        lines.append(("taught by", f"{names}; {', '.join(filter(None, taught))}"))
    if "epoch" in left:
        epoch, epochs, seen = (left.pop(key, None) for key in ("epoch", "epochs", "images_seen"))
        of_all = f" of {epochs}" if epochs else ""
        images = f", {counted(seen, 'image')} seen" if seen else ""
        lines.append(("kept", f"epoch {epoch}{of_all}{images}"))
    # of weights written before these were left to the run's folder
    seconds, hardware = left.pop("seconds", None), left.pop("hardware", None)
    if seconds is not None and hardware is not None:
        lines.append(("took", f"{time_text(seconds)} on {hardware_text(hardware)}"))
    settings = (_setting_text(key, value) for key, value in left.items())
    lines.append(("settings", ", ".join(filter(None, settings))))
    return [(label, text) for label, text in lines if text]


def score_lines(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a line for each set of scores: figures and classes' IoU in percent, then protocol."""
    lines = []
    for name, values in scores.items():
        figures = [f"{k} {share_text(v)}" for k, v in values.items() if isinstance(v, float | None)]
        classes = [f"{k} {share_text(v)}" for k, v in values.get("IoU", {}).items()]
        text = ", ".join(figures) + (f"; IoU of {', '.join(classes)}" if classes else "")
        lines.append((name, f"{text} ({values.get('protocol', 'protocol unknown')})"))
    return lines


def hardware_text(hardware: Mapping[str, Any]) -> str:
    """Return in words what `hrrsi.runs.environment.hardware` finds."""
    parts = [
        str(hardware.get("cpu", "unknown processor")),
        counted(hardware.get("cores", 0), "core"),
        f"{hardware.get('memory_gb', '?')} GB of memory",
        *hardware.get("gpus", []),
    ]
    return ", ".join(parts)


def _data_text(
    data: str | None, scenes: list[str] | None, patches: int | None, size: int | None
) -> str:
    parts = [counted(len(scenes), "scene")] if scenes else []
    if patches:
        parts.append(f"{patches:,} patches" + (f" of {size} px" if size else ""))
    return ": ".join(filter(None, (data, ", ".join(parts))))


def _start_text(init: str | None, encoder: str | None, frozen: int | None) -> str:
    if init is not None:
        start = f"{init}, as far as it fits"
    elif encoder is None:
        return ""
    else:
        start = {"none": "random numbers", "imagenet": "an encoder of timm's, from ImageNet"}.get(
            encoder, f"the encoder of {encoder}"
        )
    return start + (f"; encoder kept for {counted(frozen, 'epoch')}" if frozen else "")


def _setting_text(key: str, value: Any) -> str:
    words = key.replace("_", " ")
    if value is True:
        return words
    if key != _SEED and (not value or (key in _COUNTS and value == 1)):
        return ""
    return f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}"
