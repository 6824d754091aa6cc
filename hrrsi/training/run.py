"""A training run: its folder, its checkpoints, and what it says while it works.

The run folder holds ``config.yaml`` (every option, as ``--config`` takes it), ``last.ckpt`` (to
resume), ``best.safetensors`` (highest validation mIoU) and the run's record.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from hrrsi.networks.weights_file import BEST_WEIGHTS
from hrrsi.runs.checkpoints import CHECKPOINT_SECONDS, Checkpoints
from hrrsi.runs.environment import training_environment, write_environment
from hrrsi.runs.fitting import fit
from hrrsi.runs.folder import held_folder, start_folder, starting_line, starting_position
from hrrsi.runs.processes import run_processes
from hrrsi.runs.progress import EpochProgress
from hrrsi.runs.tensorboard_log import TensorBoardLog
from hrrsi.training.initial_weights import first_network
from hrrsi.training.module import SegmentationTraining
from hrrsi.training.options import TrainOptions
from hrrsi.training.patch_batches import training_batches, validation_batches
from hrrsi.training.record import RunRecord
from hrrsi.training.run_checks import check_run, training_warnings
from hrrsi.training.sample_pictures import SamplePictures


class EarlyStop(Callback):
    """Ends a run after some epochs without a better validation mIoU.

    Args:
        patience: That many epochs; 0: never.

    Attributes:
        stopped: Whether the run has been ended.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._best = -1.0
        self._waited = 0

    @property
    def stopped(self) -> bool:
        """Whether the last epochs were no better."""
        return 0 < self._patience <= self._waited

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what a checkpoint kept."""
        self._best, self._waited = state_dict["best"], state_dict["waited"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Train no further where a run had ended before it was started again."""
        trainer.should_stop = self.stopped

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Compare the epoch with the best so far."""
        miou = pl_module.matrix.scores().mean_iou
        if miou > self._best:
            self._best, self._waited = miou, 0
        else:
            self._waited += 1
        trainer.should_stop = self.stopped


@dataclass(frozen=True)
class TrainedRun:
    """What a training run leaves.

    Attributes:
        folder: The run folder.
        weights: The weights of the best epoch.
        best_epoch: The epoch with the highest validation mIoU, from 1.
        best_miou: That mIoU, 0 to 1.
        stopped_early: Whether it ended since it got no better.
    """

    folder: Path
    weights: Path
    best_epoch: int
    best_miou: float
    stopped_early: bool


def train(
    options: TrainOptions,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    report: Callable[[str], None] = print,
    warn: Callable[[str], None] = warnings.warn,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> TrainedRun:
    """Train a network on a tiled dataset.

    With several processes, the first one starts the others by running the program that called
    it again, unless torchrun or SLURM started them; the first one alone writes and reports.

    Args:
        options: What to train, and how.
        resume: Continue the run in the same folder from its last checkpoint; a run that does not
            exist is started.
        overwrite: Replace an existing run.
        quiet: No progress bars.
        report: Called with a line an epoch, and at the end with a table and a line.
        warn: Called with what is odd about the run, though it can be trained.
        checkpoint_seconds: Time between the checkpoints within an epoch.

    Returns:
        Where the weights of the epoch with the highest validation mIoU are.

    Raises:
        HrrsiError: The dataset can't be trained on, the run exists (or is another one, with
            `resume`), weights can't be had, the loss stops being a number, memory or the disk is
            full.
        KeyboardInterrupt: The run was told to stop, and can be resumed.
        SystemExit: Likewise, in any process but the first; in the first where another one has said
            what went wrong.
    """
    processes = run_processes(options)
    dataset = check_run(options, resume=resume, overwrite=overwrite)
    if not processes.is_first:
        report, warn, quiet = _say_nothing, _say_nothing, True
    for warning in training_warnings(options, dataset):
        warn(warning)
    with held_folder(options, processes, resume=resume, overwrite=overwrite):
        position = starting_position(options, resume=resume)
        is_asked, resume = resume, not position.is_start
        share = {"rank": processes.rank, "processes": processes.count}
        batches = training_batches(
            dataset, options, epoch=position.epoch, first=position.batches, quiet=quiet, **share
        )
        if is_asked:
            report(starting_line(options, position, len(batches)))
        validation = validation_batches(dataset, options, **share)
        network = first_network(options, dataset, resume=resume, report=report)
        if processes.is_first:
            environment = training_environment(options, dataset, resume=resume, quiet=quiet)
            if not resume:
                start_folder(options)
            write_environment(options, environment)
        record = RunRecord(options, dataset, report)
        early_stop = EarlyStop(options.patience)
        batch = min(options.recipe.batch, len(batches.dataset))
        images = (len(batches) * batch, len(validation.dataset))
        patches = [patch.name for patch in dataset.patches("train")]
        steps = options.recipe.epochs * len(batches)
        fit(
            SegmentationTraining(network, options, dataset.description, steps),
            batches,
            validation,
            options,
            processes,
            [
                record,
                EpochProgress(images, options.recipe.batch, _miou, enabled=not quiet),
                SamplePictures(options, dataset),
                TensorBoardLog(options),
                early_stop,
                # after what it keeps
                Checkpoints(options, processes, patches, checkpoint_seconds, record.write),
            ],
            resume=resume,
        )
    best, folder = record.best, options.run_folder
    run = TrainedRun(
        folder, folder / BEST_WEIGHTS, int(best["epoch"]), best["val_mIoU"], early_stop.stopped
    )
    report(_summary(run, options))
    return run


def _miou(module: SegmentationTraining) -> str:
    return f"mIoU {100 * module.matrix.scores().mean_iou:.2f}"


def _summary(run: TrainedRun, options: TrainOptions) -> str:
    ended = (
        f"stopped early, {options.patience} epochs after the best; " if run.stopped_early else ""
    )
    scored = "training" if options.overfit else "validation"
    return (
        f"{options.model}: {ended}best epoch {run.best_epoch}, {scored} mIoU "
        f"{100 * run.best_miou:.2f}; weights in {run.weights}"
    )


def _say_nothing(_line: str) -> None:
    """Report nothing."""
