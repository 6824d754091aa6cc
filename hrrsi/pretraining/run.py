"""A pre-training run: from a folder of images to an encoder that `hrrsi train` starts from.

The run folder holds ``config.yaml`` (every option, as ``--config`` takes it), ``last.ckpt`` (to
resume), ``encoder.safetensors`` (highest validation top-1), ``metrics.csv``, ``curves.png`` and
``environment.yaml`` (what the options don't say).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

from hrrsi.errors import InputError
from hrrsi.extras import requiring
from hrrsi.hardware import chosen_device
from hrrsi.interruption import heeding_signals
from hrrsi.networks.weights_file import ENCODER_WEIGHTS
from hrrsi.pretraining.images import (
    ImageFolders,
    ImageSplit,
    changed_images,
    image_digest,
    image_folders,
    image_states,
)
from hrrsi.pretraining.options import PretrainOptions, require_dali
from hrrsi.runs.options import CHECKPOINT_SECONDS, CONFIG, LAST_CHECKPOINT, run_warnings

if TYPE_CHECKING:
    import torch

    from hrrsi.runs.processes import Processes
    from hrrsi.runs.steps import RunPlan


@dataclass(frozen=True)
class PretrainedRun:
    """What a pre-training run leaves.

    Attributes:
        folder: The run folder.
        encoder: The weights of the best epoch, for `hrrsi train --encoder-weights`.
        best_epoch: The epoch with the highest validation top-1, from 1.
        best_top1: That top-1, 0 to 1.
    """

    folder: Path
    encoder: Path
    best_epoch: int
    best_top1: float


@requiring("train", "pre-training")
@heeding_signals()
def pretrain(
    options: PretrainOptions,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    report: Callable[[str], None] = print,
    warn: Callable[[str], None] = warnings.warn,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> PretrainedRun:
    """Train an encoder to tell classes of images apart.

    With several processes, the first one starts the others by running the program that called
    it again, unless torchrun or SLURM started them; the first one alone writes and reports.

    Args:
        options: What to train, and how.
        resume: Continue the run in the same folder from its last checkpoint; a run that does not
            exist is started.
        overwrite: Replace an existing run.
        quiet: No progress bars.
        report: Called with a line an epoch, and one at the end.
        warn: Called once with each image that is skipped, by the process that met it, and with
            what is odd about the run, though it can be trained.
        checkpoint_seconds: Time between the checkpoints within an epoch.

    Returns:
        Where the encoder of the epoch with the highest validation top-1 is.

    Raises:
        HrrsiError: The images can't be trained on, the run exists (or is another one, with
            `resume`), the loader is not installed, the loss stops being a number, memory or the
            disk is full.
        KeyboardInterrupt: The run was told to stop, and can be resumed.
        SystemExit: Likewise, in any process but the first; in the first where another one has said
            what went wrong.
    """
    # what only training needs, and what takes seconds to import
    from hrrsi.pretraining.batches import training_batches, validation_batches
    from hrrsi.pretraining.classification import ClassifierTraining, PretrainRecord
    from hrrsi.runs.environment import changed_data_text, run_environment, write_environment
    from hrrsi.runs.folder import (
        run_start,
        start_folder,
        starting_line,
    )
    from hrrsi.runs.loop import fit
    from hrrsi.runs.processes import run_processes, say_nothing
    from hrrsi.runs.record import require_best

    processes = run_processes(options)
    quiet = quiet or not processes.is_first
    folders, network = check_pretraining(options, resume=resume, overwrite=overwrite, quiet=quiet)
    recipe, splits = options.recipe, folders.splits
    if processes.is_first:
        for warning in run_warnings(options, len(splits["train"])):
            warn(warning)
    else:
        report = say_nothing
    with (
        run_start(options, processes, resume=resume, overwrite=overwrite) as start,
        silent_pillow(),
        ExitStack() as loading,
    ):
        device = _own_device(options, processes)
        batches = loading.enter_context(
            training_batches(folders, options, device, **start.share, **start.first)
        )
        if resume:
            report(starting_line(options, start.checkpoint, len(batches)))
        validation = loading.enter_context(
            validation_batches(folders, options, device, **start.share)
        )
        if processes.is_first:
            images = len(splits["train"]) + len(splits["val"])
            before = image_states(folders)
            data = {"sha256": image_digest(folders, quiet=quiet), "images": images}
            goes_on = start.checkpoint is not None
            environment = run_environment(options, data, {}, resume=goes_on)
            if not goes_on:
                start_folder(options)
            write_environment(options, environment)
        record = PretrainRecord(options, folders, report, warn)
        names = ImageNames(splits["train"])
        steps = recipe.epochs * len(batches)
        fit(
            ClassifierTraining(network, recipe, steps, names, compiled=options.compile),
            batches,
            validation,
            record,
            options,
            processes,
            checkpoint=start.checkpoint,
            checkpoint_seconds=checkpoint_seconds,
            quiet=quiet,
        )
    changed = changed_images(folders, before) if processes.is_first else []
    if changed:
        warn(changed_data_text(changed[0], len(changed)))
    best, folder = record.best, options.run_folder
    if processes.is_first:
        require_best(folder / ENCODER_WEIGHTS, best)
    run = PretrainedRun(folder, folder / ENCODER_WEIGHTS, int(best["epoch"]), best["val_top1"])
    report(
        f"{options.encoder}: best epoch {run.best_epoch}, validation top-1 "
        f"{100 * run.best_top1:.2f}; encoder in {run.encoder}"
    )
    return run


def check_pretraining(
    options: PretrainOptions,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = True,
) -> tuple[ImageFolders, torch.nn.Module]:
    """Return the images of a run and its network before the first step, having checked both.

    Args:
        options: What to train, and how.
        resume: Whether an existing run is continued; one that does not exist is started.
        overwrite: Whether an existing run is replaced.
        quiet: No progress bar.

    Raises:
        HrrsiError: As `pretrain`, for what shows before training.
    """
    import torch

    from hrrsi.pretraining.classification import classifier
    from hrrsi.runs.folder import check_folder
    from hrrsi.runs.processes import check_precision, run_processes

    processes = run_processes(options)
    check_precision(options)
    if options.loader == "dali":
        require_dali()
    folders = image_folders(options.data, quiet=quiet)
    images = len(folders.splits["train"])
    if images < processes.count:
        raise InputError(
            f"{images} images can't be shared out among {processes.count} processes",
            where=options.data / "train",
            fix="give fewer `devices`",
        )
    torch.manual_seed(options.seed)
    sizes = (options.recipe.size, options.recipe.val_size)
    network = classifier(options.encoder, len(folders.classes), sizes)
    if processes.is_first:  # to the others, the run of the first is there already
        check_folder(options, resume=resume, overwrite=overwrite)
    return folders, network


def _own_device(options: PretrainOptions, processes: Processes) -> torch.device:
    """Return the device of this process."""
    import torch

    kind, _, number = chosen_device(options.device).partition(":")
    if kind == "cpu":
        return torch.device("cpu")
    return torch.device(kind, int(number) if number else processes.environment.local_rank())


class ImageNames(Sequence[str]):
    """The files of a split, made out of their bytes when one is asked for."""

    def __init__(self, split: ImageSplit) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return str(self._split.path(index))


@contextmanager
def silent_pillow() -> Iterator[None]:
    """Keep Pillow's remarks on metadata off the screen, in loading processes too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\..*")
        yield


_FILES = (CONFIG, LAST_CHECKPOINT, ENCODER_WEIGHTS, "metrics.csv", "curves.png", "environment.yaml")
_QUARTERS = (1, 0.1, 0.01, 0.001)


def planned_pretraining(
    options: PretrainOptions, *, resume: bool = False, overwrite: bool = False
) -> RunPlan:
    """Return what a run would be, as `hrrsi.training.run_checks.planned_run` does.

    What is tried reads with torchvision, whichever loader the run has.

    Args:
        options: What to train, and how.
        resume: As for `hrrsi.pretraining.run.pretrain`.
        overwrite: Likewise.

    Raises:
        HrrsiError: What `hrrsi.pretraining.run.pretrain` would raise at its start or in a first
            step, but for a run that is there.
    """
    import torch

    from hrrsi.pretraining.batches import training_batches, validation_batches
    from hrrsi.pretraining.classification import ClassifierTraining
    from hrrsi.runs.folder import present_run_notes
    from hrrsi.runs.processes import run_processes
    from hrrsi.runs.steps import RunPlan, tried

    folders, network = check_pretraining(options, resume=resume, overwrite=not resume)
    images, recipe = len(folders.splits["train"]), options.recipe
    notes = [f"warning: {line}" for line in run_warnings(options, images)]
    here = replace(options, workers=0, loader="torchvision")
    device = torch.device(chosen_device(options.device))
    count = run_processes(options).count
    batches = training_batches(folders, here, device, processes=count)
    validation = validation_batches(folders, here, device, processes=count)
    notes += present_run_notes(options, resume=resume, overwrite=overwrite, steps=len(batches))
    steps = recipe.epochs * len(batches)
    names = ImageNames(folders.splits["train"])
    task = ClassifierTraining(network, recipe, steps, names, compiled=options.compile)
    with silent_pillow():
        trial = tried(task, batches, validation, options)
    return RunPlan(
        options=options,
        parameters=sum(p.numel() for p in network.parameters()),
        about=_about(options, len(folders.classes)),
        images=images,
        left_out=0,
        validation_images=len(folders.splits["val"]),
        steps_per_epoch=len(batches),
        trial=trial,
        files=_FILES,
        notes=notes,
    )


def _about(options: PretrainOptions, classes: int) -> dict[str, str]:
    recipe = options.recipe
    rates = ", ".join(f"{recipe.lr * share:.4g}" for share in _QUARTERS)
    return {
        "starts from": "random weights",
        "recipe": recipe.described,
        "optimiser": f"sgd, learning rate {rates} in a quarter of the steps each, momentum "
        f"{recipe.momentum:g}, weight decay {recipe.weight_decay:g}",
        "losses": f"cross-entropy of {classes} classes, label smoothing {recipe.label_smoothing:g}",
        "seen as": f"random crops of {recipe.size} px, validated on centres of "
        f"{recipe.val_size} px; read by {options.loader}",
    }
