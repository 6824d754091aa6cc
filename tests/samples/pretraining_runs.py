"""Short runs of pre-training, and what they say and leave."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from samples.class_folders import CLASSES
from samples.command_results import run as run_command
from torchvision.transforms import v2
from typer.testing import Result

QUICK = ["--size", "32", "--val-size", "64", "--batch", "8", "--lr", "0.02", "--workers", "0"]
QUICK += ["--loader", "torchvision", "--device", "cpu", "--quiet"]


def run(data: Path, *arguments: object) -> Result:
    return run_command("pretrain", "--data", data, *arguments)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def scores_of(network: torch.nn.Module, folder: Path, size: int) -> tuple[float, float, float]:
    """Return loss, top-1 and top-2 of the validation images, worked out image by image."""
    prepare = v2.Compose(
        [
            v2.Resize(round(size / 0.875), antialias=True),
            v2.CenterCrop(size),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    losses, ranks = [], []
    for path in sorted((folder / "val").glob("*/*")):
        label = CLASSES.index(path.parent.name)
        with torch.no_grad():
            logits = network.eval()(prepare(Image.open(path).convert("RGB"))[None])[0].double()
        losses.append(float(logits.logsumexp(0) - logits[label]))
        ranks.append(int((logits > logits[label]).sum()))
    return float(np.mean(losses)), np.mean(np.array(ranks) < 1), np.mean(np.array(ranks) < 2)
