"""What can be said of a run before it starts: what is wrong with it, and what it would be."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from hrrsi.errors import InputError, MissingInputError, OptionError
from hrrsi.files import require_regular
from hrrsi.labels.splits import Part
from hrrsi.networks.architecture import parsed_model
from hrrsi.networks.weights_file import is_weights_file
from hrrsi.quantities import counted
from hrrsi.runs.folder import (
    check_folder,
    has_checkpoint,
    present_run_notes,
    starting_checkpoint,
)
from hrrsi.runs.options import CONFIG, LAST_CHECKPOINT, run_warnings
from hrrsi.runs.precision import step_precision
from hrrsi.runs.processes import Processes, check_precision, run_processes
from hrrsi.runs.steps import RunPlan, timed, tried
from hrrsi.runs.task import EpochBatches
from hrrsi.tiling.dataset import DatasetDescription, SplitContent, TiledDataset
from hrrsi.training.distillation import Teachers, check_teacher, run_teachers, teacher_warnings
from hrrsi.training.encoder_weights import check_encoder_source
from hrrsi.training.initial_weights import first_network, normalised_data
from hrrsi.training.module import SegmentationTraining
from hrrsi.training.network_input import input_resolutions, input_size, middle_input_resolution
from hrrsi.training.options import OF_TEACHERS, RECIPES, TrainOptions
from hrrsi.training.patch_batches import training_batches, validation_batches
from hrrsi.training.run_data import RunData, Source, as_run_data, run_data

_ENCODER_STRIDE = 32
_TILE_VALIDATION = (
    "tile it with `hrrsi.tile(val_scenes)`: the best weights are chosen on them, never on test"
)


def check_run(options: TrainOptions, *, resume: bool = False, overwrite: bool = False) -> RunData:
    """Return the datasets of a run, having checked what can be checked before it starts.

    Args:
        options: What to train, and how.
        resume: Whether an existing run is continued; one that does not exist is started.
        overwrite: Whether an existing run is replaced.

    Raises:
        HrrsiError: As `hrrsi.training.run.train`, for what shows before training.
    """
    if is_weights_file(Path(options.model)):
        raise OptionError(
            f"{options.model!r} names weights, no model", fix=f"give `init={options.model}`"
        )
    parsed_model(options.model)
    processes = run_processes(options)
    data = run_data(options)
    _check_trainable(data, options, processes)
    check_precision(options)
    for teacher in options.teachers:
        check_teacher(teacher, data.description, options.recipe)
    if processes.is_first:  # to the others, the run of the first is there already
        check_folder(options, resume=resume, overwrite=overwrite)
    if has_checkpoint(options, resume=resume):
        return data  # what the network started from is not read again
    if options.init_file is None:
        check_encoder_source(options.model, options.encoder_weights)
        return data
    require_regular(options.init_file)
    if not options.init_file.is_file():
        raise MissingInputError(
            "no such file", where=f"`init={options.init}`", fix="give a weights file of hrrsi"
        )
    return data


def training_warnings(options: TrainOptions, dataset: TiledDataset | RunData) -> list[str]:
    """Return what is odd about a training run, as `run_warnings`."""
    data = as_run_data(dataset)
    # to overfit, a batch of all patches is what is meant
    patches = options.recipe.batch if options.overfit else data.epoch_length()
    lines = run_warnings(options, patches)
    first, *others = data.sources
    for source in others:
        bands = source.description.input_bands.difference(first.description.input_bands)
        if bands is not None:
            own, of_first = (", ".join(names) for names in bands)
            lines.append(
                f"{source.dataset.folder}: its patches show {own}, those of {first.dataset.folder} "
                f"{of_first}: the network sees them as the same, in this order"
            )
    bounds = options.recipe.resolutions
    for source, span in zip(data.sources, input_resolutions(data, options), strict=True):
        if bounds and span and (span.low > bounds[1] or span.high < bounds[0]):
            lines.append(
                f"`resolutions={bounds[0]:g}-{bounds[1]:g}`: the patches of {source.name} "
                f"({source.resolution:g} m a pixel) are seen at {span.low:.3g} m, the nearest that "
                "they allow"
            )
    frozen, epochs = options.freeze_encoder, options.recipe.epochs
    if frozen >= epochs:
        lines.append(
            f"`freeze_encoder={frozen}`: the encoder is never trained in {counted(epochs, 'epoch')}"
        )
    if frozen and options.init is None and options.encoder_weights == "none":
        lines.append(f"`freeze_encoder={frozen}`: the encoder's weights are random")
    if not options.teachers:
        of_recipe = RECIPES.get(options.recipe.name, options.recipe)
        for name in OF_TEACHERS:
            value = getattr(options.recipe, name)
            if value != getattr(of_recipe, name):
                lines.append(f"`{name}={value:g}`: has no effect without `teachers`")
    resolution = middle_input_resolution(data, options)
    return lines + teacher_warnings(options.teachers, data.description, resolution)


def _check_trainable(data: RunData, options: TrainOptions, processes: Processes) -> None:
    for source in data.sources:
        _check_source(source, data, options)
    if data.is_mixed:
        if not options.teachers:
            _check_classes(data.description, "train", 2, data.place)
        if not options.overfit:
            if data.description.split_content("val") is None:
                raise InputError("have no val split", where=data.place, fix=_TILE_VALIDATION)
            _check_classes(data.description, "val", 1, data.place)
    if not options.overfit and not sum(data.description.splits["val"].class_pixels):
        raise InputError(
            "the labels of its val split are partial, each of several classes, so no score tells "
            "which weights are the best",
            where=data.place,
            fix="tile validation scenes that show a single class (of outlines: with polygons)",
        )
    if options.recipe.crop > data.smallest_patch:
        raise OptionError(
            f"is more than the {data.smallest_patch} px of the patches",
            fix="give a smaller one, or tile larger patches",
            parameter="crop",
        ).at(f"`crop={options.recipe.crop}`")
    patches = len(data.patches("train"))
    if options.overfit > patches:
        raise OptionError(
            f"there are {patches} patches to train on",
            fix="give as many or fewer",
            parameter="overfit",
        ).at(f"`overfit={options.overfit}`")
    patches = data.epoch_length(options.overfit)
    batch = min(options.recipe.batch, patches)
    if batch % processes.count:
        raise InputError(
            f"{batch} training patches can't be shared out among {processes.count} processes",
            where=data.place,
            fix="give fewer `devices`",
        )
    if batch == processes.count and data.smallest_patch <= _ENCODER_STRIDE:
        raise InputError(
            "BatchNorm can't learn from a single pixel, which is what one patch of "
            f"{data.smallest_patch} px becomes at stride {_ENCODER_STRIDE}",
            where=data.place,
            fix="tile larger or more patches, or raise `batch`",
        )


def _check_source(source: Source, data: RunData, options: TrainOptions) -> None:
    dataset = source.dataset
    is_drawn = bool(source.share) or not data.has_mix
    if is_drawn and source.description.is_unlabelled and not options.teachers:
        raise InputError(
            "has no labels to learn from",
            where=dataset.folder,
            fix="give the weights of networks that know its classes as `teachers`, or tile it with "
            "labels",
        )
    if is_drawn:
        # several datasets have two classes together; and what teachers say of the pixels makes up
        # for labels, also for such as hold one class only
        least = 0 if options.teachers else 1 if data.is_mixed else 2
        _check_split(dataset, "train", least, "tile it with scenes for training")
    # among others, a dataset without labels may have nothing to be validated on
    if not options.overfit and not (data.is_mixed and source.description.is_unlabelled):
        _check_split(dataset, "val", 1, _TILE_VALIDATION)
    if options.recipe.resolutions and source.resolution is None:
        raise InputError(
            "its ground resolution is unknown, so its patches can't be scaled to `resolutions`",
            where=dataset.folder,
            fix="tile it with a scheme that has a `resolution`, or georeferenced scenes",
        )


def _check_split(dataset: TiledDataset, split: str, classes: int, fix: str) -> None:
    if dataset.description.split_content(split) is None:
        raise InputError(f"has no {split} split", where=dataset.folder, fix=fix)
    dataset.patches(split)
    _check_classes(dataset.description, split, classes, dataset.folder)


def _check_classes(
    description: DatasetDescription, split: str, classes: int, where: object
) -> None:
    content = description.splits[cast(Part, split)]
    names = description.label_names
    present = [n for n, pixels in zip(names, content.label_pixels, strict=True) if pixels]
    if len(present) < classes:
        raise InputError(
            f"the labels of its {split} split hold "
            + (f"one class only ({present[0]})" if present else "no class at all"),
            where=where,
            fix="tile scenes whose labels hold at least two classes; of outlines, "
            "`hrrsi.tile(background)` makes a class of what lies outside",
        )


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
    data = check_run(options, resume=resume, overwrite=not resume)
    notes = [f"warning: {line}" for line in training_warnings(options, data)]
    checkpoint = starting_checkpoint(options, resume=resume)
    data = normalised_data(data, options, checkpoint)
    here = replace(options, workers=0, devices=1, nodes=1)
    network = first_network(
        here, data, resume=checkpoint is not None, report=notes.append, checkpoint=checkpoint
    )
    teachers = run_teachers(options, data.description)
    count = run_processes(options).count
    batches = training_batches(data, here, processes=count)
    validation = validation_batches(data, here, processes=count)
    notes += present_run_notes(options, resume=resume, overwrite=overwrite, steps=len(batches))
    steps = options.recipe.epochs * len(batches)
    names = [patch.name for patch in data.patches("train", options.overfit)]
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
    trial = tried(task, batches, validation, options)
    taught = {} if teachers is None else {"teachers": _teaching(task, teachers, batches)}
    patches = data.epoch_length(options.overfit)
    repeats = not options.overfit and (options.recipe.sampling == "rare" or data.has_mix)
    return RunPlan(
        options=options,
        parameters=sum(p.numel() for p in network.parameters()),
        about={**_about(options, data), **taught},
        images=patches,
        left_out=0 if repeats else patches - batches.images,
        validation_images=validation.images,
        steps_per_epoch=len(batches),
        trial=trial,
        files=_FILES,
        notes=notes,
    )


def _about(options: TrainOptions, data: RunData) -> dict[str, str]:
    recipe, description = options.recipe, data.description
    lines = {
        "starts from": _start(options),
        "recipe": recipe.described,
        "optimiser": f"{recipe.optimizer}, learning rate up to {recipe.lr:g} ({recipe.schedule}, "
        f"warm-up {recipe.warmup:g}), weight decay {recipe.weight_decay:g}, average of weights "
        f"{recipe.average:g}",
        "losses": f"class weights {recipe.class_weights}, Dice {recipe.dice:g}",
        "seen as": _views(options, data),
        "data": f"{_sizes(data)} px, {', '.join(description.band_names)} ({data.pixel_dtype})",
    }
    if data.is_mixed:
        lines["classes"] = ", ".join(description.label_names)
    if data.is_mixed or recipe.resolutions:
        lines["datasets"] = "; ".join(_source_lines(data, options))
    shares = {
        name: _labelled_share(content)
        for name, content in description.splits.items()
        if name == "train" or (name == "val" and not options.overfit)
    }
    text = ", ".join(f"{share:.3g} % of the pixels of {name}" for name, share in shares.items())
    taught = " but by the teachers" if options.teachers else ""
    lines["labelled"] = f"{text}; the others are ignored{taught}"
    return lines


def _teaching(task: SegmentationTraining, teachers: Teachers, batches: EpochBatches) -> str:
    """Return who the teachers are, how they count, and what they take of a step."""
    recipe = task.options.recipe
    image = next(iter(batches))[0].to(task.device)
    with step_precision(task.options, task.device):
        pixels = task.normalised(image)
        seconds = timed(task.device, partial(teachers.teaching, pixels))
    return (
        f"{', '.join(teachers.names)}; distillation {recipe.distillation:g}, temperature "
        f"{recipe.temperature:g}, features {recipe.features:g}; {seconds:.3g} s of a step"
    )


def _start(options: TrainOptions) -> str:
    if options.init is not None:
        start = f"`init={options.init}`"
    elif options.encoder_weights == "none":
        start = "random weights"
    else:
        start = f"encoder weights {options.encoder_weights}"
    frozen = options.freeze_encoder
    return f"{start}; encoder frozen for {counted(frozen, 'epoch')}" if frozen else start


def _source_lines(data: RunData, options: TrainOptions) -> list[str]:
    """Return what is drawn of each dataset, and at which ground resolutions."""
    lines = []
    spans, shares = input_resolutions(data, options), data.drawn_shares(options.overfit)
    for source, span, share in zip(data.sources, spans, shares, strict=True):
        line = f"{source.name} {share:.1%} of the patches drawn"
        if source.resolution is not None:
            line += f", {source.resolution:g} m a pixel"
        lines.append(line if span is None else f"{line} seen at {span.low:.3g} to {span.high:.3g}")
    return lines


def _sizes(data: RunData) -> str:
    sizes = sorted({source.description.patch_size for source in data.sources})
    return ", ".join(map(str, sizes))


def _views(options: TrainOptions, data: RunData) -> str:
    recipe = options.recipe
    if options.overfit and _sizes(data) != str(data.smallest_patch):
        return (
            f"the same patches each time, larger ones cut to {data.smallest_patch} px (`overfit`)"
        )
    if options.overfit:
        return "the same whole patches each time (`overfit`)"
    if recipe.crop or _sizes(data) != str(data.smallest_patch):
        crop = f"crops of {input_size(data, options)} px"
    else:
        crop = f"whole patches of {data.smallest_patch} px"
    if recipe.resolutions:
        low, high = recipe.resolutions
        crop += f" at {low:g} to {high:g} m a pixel"
    return (
        f"{crop}, augmentation {recipe.augmentation}, camera {recipe.camera}, "
        f"sampling {recipe.sampling}"
    )


def _labelled_share(content: SplitContent) -> float:
    """Return how many percent of a split's pixels have a class."""
    labelled = sum(content.label_pixels)
    return 100 * labelled / (labelled + content.ignored_pixels)
