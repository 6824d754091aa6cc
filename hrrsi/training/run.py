"""A training run: its folder, its checkpoints, and what it says while it works.

The run folder holds ``config.yaml`` (every option, as ``--config`` takes it), ``last.ckpt`` (to
resume), ``best.safetensors`` (highest validation mIoU) and the run's record.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrrsi.extras import requiring
from hrrsi.files import content_digest
from hrrsi.interruption import heeding_signals
from hrrsi.networks.architecture import parsed_model
from hrrsi.networks.weights_file import BEST_WEIGHTS
from hrrsi.progress import progress
from hrrsi.runs.environment import changed_data_text, file_source, run_environment
from hrrsi.runs.options import CHECKPOINT_SECONDS
from hrrsi.scenes.raster_opening import changed_files, file_states
from hrrsi.tiling.dataset import DESCRIPTION, TiledDataset
from hrrsi.training.options import TrainOptions

if TYPE_CHECKING:
    from hrrsi.training.run_data import RunData

_SPLITS = ("train", "val")  # what a run looks at


def training_environment(
    options: TrainOptions, dataset: TiledDataset | RunData, *, resume: bool, quiet: bool = False
) -> dict[str, Any]:
    """Return what ``environment.yaml`` is to hold once a training run starts or goes on.

    Args:
        options: Options of the run.
        dataset: The dataset that it is trained on, or several as one; all files are read.
        resume: Whether the run goes on.
        quiet: No progress bar.

    Raises:
        InputError: The run was started with other data or teachers, or a file can't be read.
    """
    from hrrsi.training.run_data import as_run_data

    datasets = {source.name: source.dataset for source in as_run_data(dataset).sources}
    patches = sum(len(d.patches(s)) for d in datasets.values() for s in _present_splits(d))
    digests = {name: dataset_digest(d, quiet=quiet) for name, d in datasets.items()}
    data: dict[str, Any] = {"sha256": next(iter(digests.values())), "patches": patches}
    if len(digests) > 1:
        data["sha256"] = hashlib.sha256("\n".join(digests.values()).encode()).hexdigest()
        data["datasets"] = digests
    sources = {} if resume else _sources(options)  # nothing is read of them again
    teachers = [file_source(path) for path in options.teachers]
    return run_environment(options, data, sources, resume=resume, teachers=teachers)


def dataset_digest(dataset: TiledDataset, *, quiet: bool = False) -> str:
    """Return the SHA-256 of what a run reads of a dataset, in hexadecimal digits.

    It covers ``dataset.yaml`` and, of each patch to train or validate on, the names, sizes and
    contents of its two files; not where the dataset lies, nor what viewers leave beside patches.

    Raises:
        InputError: A file can't be read.
    """
    splits = [(split, dataset.patches(split)) for split in _present_splits(dataset)]
    files = [path for _, patches in splits for p in patches for path in (p.image, p.label)]
    whole = hashlib.sha256()
    with progress("reading the dataset", len(files) + 1, " files", enabled=not quiet) as bar:
        for path in [dataset.folder / DESCRIPTION, *files]:
            name = path.relative_to(dataset.folder).as_posix()
            whole.update(f"{name}\0{path.stat().st_size}\0{content_digest(path)}\n".encode())
            bar.update()
    return whole.hexdigest()


def _patch_files(data: RunData, options: TrainOptions) -> list[Path]:
    splits = ("train",) if options.overfit else _SPLITS
    patches = (p for split in splits for p in data.patches(split, options.overfit))
    return [path for patch in patches for path in (patch.image, patch.label)]


def _present_splits(dataset: TiledDataset) -> list[str]:
    return [split for split in _SPLITS if split in dataset.description.splits]


def _sources(options: TrainOptions) -> dict[str, Any]:
    """Return what the network starts from: names, and digests of the files."""
    if options.init_file is not None:
        return {"init": file_source(options.init_file)}
    source = options.encoder_weights
    if source == "none":
        return {"encoder_weights": {"name": source}}
    if source != "imagenet":
        return {"encoder_weights": file_source(Path(source))}
    return {
        "encoder_weights": {"name": source, **_hub_weights(parsed_model(options.model).encoder)}
    }


def _hub_weights(encoder: str) -> dict[str, Any]:
    """Return where timm's weights of an encoder come from, and the digest of the cached file."""
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    described = timm.get_pretrained_cfg(encoder) if timm.is_model(encoder) else None
    repository = described and described.hf_hub_id
    if not repository:
        return {"url": str(described.url)} if described and described.url else {}
    source: dict[str, Any] = {"repository": str(repository)}
    for name in (constants.SAFETENSORS_SINGLE_FILE, "pytorch_model.bin"):
        cached = try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return {**source, "revision": Path(cached).parent.name, **file_source(Path(cached))}
    return source


@dataclass(frozen=True)
class TrainedRun:
    """What a training run leaves.

    Attributes:
        folder: The run folder.
        weights: The weights of the best epoch.
        best_epoch: The epoch with the highest validation mIoU, from 1.
        best_miou: That mIoU, 0 to 1; of several datasets, the mean of theirs.
        stopped_early: Whether it ended since it got no better.
    """

    folder: Path
    weights: Path
    best_epoch: int
    best_miou: float
    stopped_early: bool


@requiring("train", "training")
@heeding_signals()
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
    """Train a network on a tiled dataset, or on several in one run.

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
            `resume`), weights can't be had, teachers have other classes or bands, the loss stops
            being a number, memory or the disk is full.
        KeyboardInterrupt: The run was told to stop, and can be resumed.
        SystemExit: Likewise, in any process but the first; in the first where another one has said
            what went wrong.
    """
    # what only training needs, and what takes seconds to import
    from hrrsi.runs.environment import write_environment
    from hrrsi.runs.folder import (
        run_start,
        start_folder,
        starting_line,
    )
    from hrrsi.runs.loop import fit
    from hrrsi.runs.processes import run_processes, say_nothing
    from hrrsi.runs.record import require_best
    from hrrsi.training.distillation import run_teachers
    from hrrsi.training.initial_weights import first_network, normalised_data
    from hrrsi.training.module import SegmentationTraining
    from hrrsi.training.patch_batches import training_batches, validation_batches
    from hrrsi.training.record import RunRecord, recorded_names
    from hrrsi.training.run_checks import check_run, training_warnings
    from hrrsi.training.run_data import run_data

    processes = run_processes(options)
    data = check_run(options, resume=resume, overwrite=overwrite)
    if not processes.is_first:
        report, warn, quiet = say_nothing, say_nothing, True
    for warning in training_warnings(options, data):
        warn(warning)
    before = file_states(_patch_files(data, options))
    with (
        run_start(options, processes, resume=resume, overwrite=overwrite) as start,
        ExitStack() as open_files,
    ):
        names = recorded_names(start.checkpoint)
        if len(names) == len(data.sources):  # whatever their folders are called now
            data = run_data(options, names)
        data = normalised_data(data, options, start.checkpoint)
        batches = open_files.enter_context(
            training_batches(data, options, quiet=quiet, **start.share, **start.first)
        )
        if resume:
            report(starting_line(options, start.checkpoint, len(batches)))
        validation = open_files.enter_context(validation_batches(data, options, **start.share))
        goes_on = start.checkpoint is not None
        network = first_network(
            options, data, resume=goes_on, report=report, checkpoint=start.checkpoint
        )
        teachers = run_teachers(options, data.description)
        for words in () if teachers is None else teachers.words:
            report(f"weights: teacher {words}")
        if processes.is_first:
            environment = training_environment(options, data, resume=goes_on, quiet=quiet)
            if not goes_on:
                start_folder(options)
            write_environment(options, environment)
        record = RunRecord(
            options, data, report, is_first=processes.is_first, pruned=network.pruned
        )
        open_files.callback(record.close)
        names = [patch.name for patch in data.patches("train", options.overfit)]
        steps = options.recipe.epochs * len(batches)
        task = SegmentationTraining(
            network,
            options,
            data.description,
            steps,
            names,
            teachers,
            len(data.sources),
            # after pruning they have to be found anew
            keeps_statistics=data.has_initial_statistics and not network.pruned,
        )
        fit(
            task,
            batches,
            validation,
            record,
            options,
            processes,
            checkpoint=start.checkpoint,
            checkpoint_seconds=checkpoint_seconds,
            quiet=quiet,
        )
    changed = changed_files(before)
    if changed:
        warn(changed_data_text(changed[0], len(changed)))
    best, folder = record.best, options.run_folder
    if processes.is_first:
        require_best(folder / BEST_WEIGHTS, best)
    run = TrainedRun(
        folder, folder / BEST_WEIGHTS, int(best["epoch"]), best["val_mIoU"], record.is_over
    )
    report(_summary(run, options))
    return run


@requiring("train", "training")
@heeding_signals()
def train_all(
    runs: Sequence[TrainOptions], *, resume: bool = False, overwrite: bool = False, **named: Any
) -> list[TrainedRun]:
    """Train one network after the other, having checked them all before the first.

    What is wrong with the last one so doesn't show after days.

    Args:
        runs: What to train, and how.
        resume: As for `train`.
        overwrite: Likewise.
        **named: Further arguments of `train`.

    Raises:
        HrrsiError: As `train`.
    """
    from hrrsi.training.run_checks import check_run

    for options in runs:
        check_run(options, resume=resume, overwrite=overwrite)
    return [train(options, resume=resume, overwrite=overwrite, **named) for options in runs]


def _summary(run: TrainedRun, options: TrainOptions) -> str:
    ended = (
        f"stopped early, {options.patience} epochs after the best; " if run.stopped_early else ""
    )
    scored = "training" if options.overfit else "validation"
    return (
        f"{options.model}: {ended}best epoch {run.best_epoch}, {scored} mIoU "
        f"{100 * run.best_miou:.2f}; weights in {run.weights}"
    )
