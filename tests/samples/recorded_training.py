"""Trains as `hrrsi train` does, and writes down what each process saw and counted.

A checkpoint is written after each step, so that a run can be killed after any.

python recorded_training.py FOLDER "train DATA --devices 2" "train ..."
"""

import inspect
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrrsi.cli import app
from hrrsi.runs.processes import rank
from hrrsi.training import run
from hrrsi.training.module import SegmentationTraining


def recording_methods(folder: Path) -> dict[str, Callable[..., Any]]:
    """Return methods of `SegmentationTraining` that write into a folder what they see.

    ``MODEL-RECIPE-RANK.txt`` gets a line of patches for each step, ``MODEL-RECIPE-RANK-EPOCH.npy``
    the confusion matrix of an epoch. Under the published recipe BatchNorms keep their statistics,
    so that what a patch yields does not depend on the patches beside it.
    """
    forward = SegmentationTraining.forward
    start = SegmentationTraining.start_epoch
    end = SegmentationTraining.end_validation

    def name(module: SegmentationTraining) -> str:
        return f"{module.options.model}-{module.options.recipe.name}-{rank()}"

    def recorded_forward(self: SegmentationTraining, batch: Any) -> torch.Tensor:
        with (folder / f"{name(self)}.txt").open("a") as file:
            file.write(" ".join(map(str, batch[2].tolist())) + "\n")
        return forward(self, batch)

    def recorded_start(self: SegmentationTraining) -> None:
        start(self)
        if self.options.recipe.name == "published":
            for module in self.network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eval()

    def recorded_end(self: SegmentationTraining) -> None:
        end(self)
        np.save(folder / f"{name(self)}-{self.epoch + 1}.npy", self.matrix.counts)

    return {
        "forward": recorded_forward,
        "start_epoch": recorded_start,
        "end_validation": recorded_end,
    }


if __name__ == "__main__":
    for method, recording in recording_methods(Path(sys.argv[1])).items():
        setattr(SegmentationTraining, method, recording)
    inspect.unwrap(run.train).__kwdefaults__["checkpoint_seconds"] = 0
    code = 0
    for line in sys.argv[2:]:
        code = app(shlex.split(line), standalone_mode=False) or 0
        if code:
            break
    sys.exit(code)
