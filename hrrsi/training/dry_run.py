"""What a training run would be: everything checked, one step tried, nothing written."""

from __future__ import annotations

from dataclasses import replace

from hrrsi.quantities import counted
from hrrsi.runs.folder import has_checkpoint, present_run_notes
from hrrsi.runs.options import CONFIG, LAST_CHECKPOINT
from hrrsi.runs.plan import RunPlan, tried
from hrrsi.runs.processes import run_processes
from hrrsi.tiling.dataset import SplitContent, TiledDataset
from hrrsi.training.initial_weights import first_network
from hrrsi.training.module import SegmentationTraining
from hrrsi.training.options import TrainOptions
from hrrsi.training.patch_batches import training_batches, validation_batches
from hrrsi.training.run_checks import check_run, training_warnings

_FILES = (CONFIG, LAST_CHECKPOINT, "best.safetensors", "metrics.csv", "curves.png",
          "environment.yaml", "samples/", "tensorboard/")  # fmt: skip


def planned_run(options: TrainOptions, *, resume: bool = False, overwrite: bool = False) -> RunPlan:
    """Return what a run would be, having checked everything and tried a step and a validation.

    It runs in this process alone, with its share of the batch, and writes nothing. A run that is
    there already is no error, since nothing happens to it: the notes say what would.

    Args:
        options: What to train, and how.
        resume: As for `hrrsi.training.run.train`.
        overwrite: Likewise.

    Raises:
        HrrsiError: What `hrrsi.training.run.train` would raise at its start or in a first step,
            but for a run that is there.
    """
    dataset = check_run(options, resume=resume, overwrite=not resume)
    notes = [f"warning: {line}" for line in training_warnings(options, dataset)]
    going_on = has_checkpoint(options, resume=resume)
    here = replace(options, workers=0, devices=1, nodes=1)
    network = first_network(here, dataset, resume=going_on, report=notes.append)
    count = run_processes(options).count
    batches = training_batches(dataset, here, processes=count)
    validation = validation_batches(dataset, here, processes=count)
    notes += present_run_notes(options, resume=resume, overwrite=overwrite, steps=len(batches))
    steps = options.recipe.epochs * len(batches)
    names = [patch.name for patch in dataset.patches("train")]
    task = SegmentationTraining(network, options, dataset.description, steps, names)
    patches = options.overfit or len(names)
    repeats = options.recipe.sampling == "rare" and not options.overfit
    return RunPlan(
        options=options,
        parameters=sum(p.numel() for p in network.parameters()),
        about=_about(options, dataset),
        images=patches,
        left_out=0 if repeats else patches - batches.images,
        validation_images=validation.images,
        steps_per_epoch=len(batches),
        trial=tried(task, batches, validation, options),
        files=_FILES,
        notes=notes,
    )


def _about(options: TrainOptions, dataset: TiledDataset) -> dict[str, str]:
    recipe, description = options.recipe, dataset.description
    lines = {
        "starts from": _start(options),
        "recipe": recipe.described,
        "optimiser": f"{recipe.optimizer}, learning rate up to {recipe.lr:g} ({recipe.schedule}, "
        f"warm-up {recipe.warmup:g}), weight decay {recipe.weight_decay:g}, average of weights "
        f"{recipe.average:g}",
        "losses": f"class weights {recipe.class_weights}, Dice {recipe.dice:g}",
        "seen as": _views(options, description.patch_size),
        "data": f"{description.patch_size} px, {', '.join(description.band_names)} "
        f"({description.patch_dtype})",
    }
    shares = {
        name: _labelled_share(content)
        for name, content in description.splits.items()
        if name == "train" or (name == "val" and not options.overfit)
    }
    said = ", ".join(f"{share:.3g} % of the pixels of {name}" for name, share in shares.items())
    lines["labelled"] = f"{said}; the others are ignored"
    return lines


def _start(options: TrainOptions) -> str:
    if options.init is not None:
        start = f"`init={options.init}`"
    elif options.encoder_weights == "none":
        start = "random weights"
    else:
        start = f"encoder weights {options.encoder_weights}"
    frozen = options.freeze_encoder
    return f"{start}; encoder frozen for {counted(frozen, 'epoch')}" if frozen else start


def _views(options: TrainOptions, size: int) -> str:
    recipe = options.recipe
    if options.overfit:
        return "the same whole patches each time (`overfit`)"
    crop = f"crops of {recipe.crop} px" if recipe.crop else f"whole patches of {size} px"
    return f"{crop}, augmentation {recipe.augmentation}, sampling {recipe.sampling}"


def _labelled_share(content: SplitContent) -> float:
    """Return how many percent of a split's pixels have a class."""
    labelled = sum(content.class_pixels)
    return 100 * labelled / (labelled + content.ignored_pixels)
