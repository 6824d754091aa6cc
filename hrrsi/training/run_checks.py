"""What can be said of a run before it starts."""

from __future__ import annotations

from hrrsi.errors import InputError, MissingInputError, OptionError
from hrrsi.networks.names import parsed_model
from hrrsi.quantities import counted
from hrrsi.runs.folder import check_folder, has_checkpoint
from hrrsi.runs.options import run_warnings
from hrrsi.runs.processes import Processes, check_precision, run_processes
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.training.encoder_weights import check_encoder_source
from hrrsi.training.options import TrainOptions

_ENCODER_STRIDE = 32


def check_run(
    options: TrainOptions, *, resume: bool = False, overwrite: bool = False
) -> TiledDataset:
    """Return the dataset of a run, having checked what can be checked before it starts.

    Args:
        options: What to train, and how.
        resume: Whether an existing run is continued; one that does not exist is started.
        overwrite: Whether an existing run is replaced.

    Raises:
        HrrsiError: As `hrrsi.training.run.train`, for what shows before training.
    """
    parsed_model(options.model)
    processes = run_processes(options)
    dataset = TiledDataset(options.data)
    _check_trainable(dataset, options, processes)
    check_precision(options)
    if processes.is_first:  # to the others, the run of the first is there already
        check_folder(options, resume=resume, overwrite=overwrite)
    if has_checkpoint(options, resume=resume):
        return dataset  # what the network started from is not read again
    if options.init is None:
        check_encoder_source(options.model, options.encoder_weights)
    elif not options.init.is_file():
        raise MissingInputError(
            "no such file", where=f"`init={options.init}`", fix="give a weights file of hrrsi"
        )
    return dataset


def training_warnings(options: TrainOptions, dataset: TiledDataset) -> list[str]:
    """Return what is odd about a training run, as `run_warnings`."""
    # to overfit, a batch of all patches is what is meant
    patches = options.recipe.batch if options.overfit else len(dataset.patches("train"))
    found = run_warnings(options, patches)
    frozen, epochs = options.freeze_encoder, options.recipe.epochs
    if frozen >= epochs:
        found.append(
            f"`freeze_encoder={frozen}`: the encoder is never trained in {counted(epochs, 'epoch')}"
        )
    if frozen and options.init is None and options.encoder_weights == "none":
        found.append(f"`freeze_encoder={frozen}`: the encoder's weights are random")
    return found


def _check_trainable(dataset: TiledDataset, options: TrainOptions, processes: Processes) -> None:
    _check_split(dataset, "train", 2, "tile it with scenes for training")
    if not options.overfit:
        _check_split(
            dataset,
            "val",
            1,
            "tile it with `hrrsi tile --val-scenes`: the best weights are chosen on them, never on "
            "test",
        )
    description = dataset.description
    if options.recipe.crop > description.patch_size:
        raise OptionError(
            f"is more than the {description.patch_size} px of the patches",
            fix="give a smaller one, or tile larger patches",
            parameter="crop",
        ).at(f"`crop={options.recipe.crop}`")
    patches = len(dataset.patches("train"))
    if options.overfit > patches:
        raise OptionError(
            f"there are {patches} patches to train on",
            fix="give as many or fewer",
            parameter="overfit",
        ).at(f"`overfit={options.overfit}`")
    patches = options.overfit or patches
    batch = min(options.recipe.batch, patches)
    if batch % processes.count:
        raise InputError(
            f"{batch} training patches can't be shared out among {processes.count} processes",
            where=dataset.folder,
            fix="give fewer `devices`",
        )
    if batch == processes.count and description.patch_size <= _ENCODER_STRIDE:
        raise InputError(
            "BatchNorm can't learn from a single pixel, which is what one patch of "
            f"{description.patch_size} px becomes at stride {_ENCODER_STRIDE}",
            where=dataset.folder,
            fix="tile larger or more patches, or raise `batch`",
        )


def _check_split(dataset: TiledDataset, split: str, classes: int, fix: str) -> None:
    content = dataset.description.split_content(split)
    if content is None:
        raise InputError(f"has no {split} split", where=dataset.folder, fix=fix)
    dataset.patches(split)
    names = dataset.description.classes
    present = [n for n, pixels in zip(names, content.class_pixels, strict=True) if pixels]
    if len(present) < classes:
        raise InputError(
            f"the labels of its {split} split hold "
            + (f"one class only ({present[0]})" if present else "no class at all"),
            where=dataset.folder,
            fix="tile scenes whose labels hold at least two classes",
        )
