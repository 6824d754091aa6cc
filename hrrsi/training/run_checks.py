"""What can be said of a run before it starts."""

from __future__ import annotations

from hrrsi.errors import HrrsiError
from hrrsi.networks.names import parsed_model
from hrrsi.quantities import counted
from hrrsi.runs.folder import check_folder, has_checkpoint
from hrrsi.runs.options import RunOptions
from hrrsi.runs.processes import Processes, accelerator_and_devices, run_processes
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
        raise HrrsiError(
            "no such file", where=f"--init {options.init}", fix="give a weights file of hrrsi"
        )
    return dataset


def check_precision(options: RunOptions) -> None:
    """Raise where the device does not compute in the precision of a run.

    Raises:
        HrrsiError: It does not.
    """
    accelerator, _ = accelerator_and_devices(options)
    if accelerator == "cpu" and options.precision == "16":
        raise HrrsiError(
            "half precision needs a GPU", where="--precision 16", fix="give --precision bf16 or 32"
        )


def run_warnings(options: RunOptions, images: int) -> list[str]:
    """Return what is odd about a run, though it can be trained, a line each.

    Args:
        options: What to train, and how.
        images: What there is to train on.
    """
    found = []
    if options.recipe.lr == 0:
        found.append("--lr 0: no step changes a weight")
    if options.recipe.batch > images:
        found.append(
            f"--batch {options.recipe.batch}: there are {images} {options.items} to train on, so a "
            "step has no more"
        )
    return found


def training_warnings(options: TrainOptions, dataset: TiledDataset) -> list[str]:
    """Return what is odd about a training run, as `run_warnings`."""
    # to overfit, a batch of all patches is what is meant
    patches = options.recipe.batch if options.overfit else len(dataset.patches("train"))
    found = run_warnings(options, patches)
    frozen, epochs = options.freeze_encoder, options.recipe.epochs
    if frozen >= epochs:
        found.append(
            f"--freeze-encoder {frozen}: the encoder is never trained in {counted(epochs, 'epoch')}"
        )
    if frozen and options.init is None and options.encoder_weights == "none":
        found.append(f"--freeze-encoder {frozen}: the encoder's weights are random")
    return found


def _check_trainable(dataset: TiledDataset, options: TrainOptions, processes: Processes) -> None:
    _check_split(dataset, "train", 2, "tile it with scenes for training")
    if not options.overfit:
        _check_split(
            dataset,
            "val",
            1,
            "tile it with --val-scenes: the best weights are chosen on them, never on test",
        )
    description = dataset.description
    if options.recipe.crop > description.patch_size:
        raise HrrsiError(
            f"is more than the {description.patch_size} px of the patches",
            where=f"--crop {options.recipe.crop}",
            fix="give a smaller one, or tile larger patches",
        )
    patches = len(dataset.patches("train"))
    if options.overfit > patches:
        raise HrrsiError(
            f"there are {patches} patches to train on",
            where=f"--overfit {options.overfit}",
            fix="give as many or fewer",
        )
    patches = options.overfit or patches
    batch = min(options.recipe.batch, patches)
    if batch % processes.count:
        raise HrrsiError(
            f"{batch} training patches can't be shared out among {processes.count} processes",
            where=dataset.folder,
            fix="give fewer --devices",
        )
    if batch == processes.count and description.patch_size <= _ENCODER_STRIDE:
        raise HrrsiError(
            "BatchNorm can't learn from a single pixel, which is what one patch of "
            f"{description.patch_size} px becomes at stride {_ENCODER_STRIDE}",
            where=dataset.folder,
            fix="tile larger or more patches, or raise --batch",
        )


def _check_split(dataset: TiledDataset, split: str, classes: int, fix: str) -> None:
    content = dataset.description.split_content(split)
    if content is None:
        raise HrrsiError(f"has no {split} split", where=dataset.folder, fix=fix)
    dataset.patches(split)
    names = dataset.description.classes
    present = [n for n, pixels in zip(names, content.class_pixels, strict=True) if pixels]
    if len(present) < classes:
        raise HrrsiError(
            f"the labels of its {split} split hold "
            + (f"one class only ({present[0]})" if present else "no class at all"),
            where=dataset.folder,
            fix="tile scenes whose labels hold at least two classes",
        )
