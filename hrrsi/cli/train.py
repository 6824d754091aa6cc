"""``hrrsi train``."""

from pathlib import Path
from typing import Annotated

import typer

from hrrsi.cli.config_option import config_defaults, naming_config
from hrrsi.cli.hardware_options import (
    HARDWARE_PANEL,
    Compile,
    Devices,
    Nodes,
    TrainingDevice,
    TrainingPrecision,
)
from hrrsi.cli.messages import in_flags, print_line, print_warning
from hrrsi.cli.options import Overwrite, Quiet, names
from hrrsi.cli.recipe_options import (
    RECIPE_PANEL,
    AugmentationName,
    Average,
    Batch,
    ClassWeighting,
    Crop,
    Dice,
    Epochs,
    LearningRate,
    OptimizerName,
    RecipeName,
    SamplingName,
    ScheduleName,
    Warmup,
    WeightDecay,
)
from hrrsi.extras import requiring
from hrrsi.runs.options import Precision
from hrrsi.training.options import TrainOptions, automatic_precision
from hrrsi.training.recipes import RECIPE_FIELDS, RECIPES, recipe_named

_START = "Start from"
_LOOK = "Look before a long run"


def _take_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make a file's values the defaults of the options that the command line leaves out."""
    if path is None:
        return None
    defaults = config_defaults(ctx, path)
    recipe = RECIPES.get(defaults.get("recipe", ""))
    if recipe is not None:
        # what the file only repeats of its recipe gives way to another --recipe
        own = recipe.to_config()
        for name in RECIPE_FIELDS:
            if defaults.get(name) == str(own[name]):
                del defaults[name]
    ctx.default_map = defaults
    return path


@requiring("train", "training")
def train(
    ctx: typer.Context,
    data: Annotated[
        Path | None, typer.Argument(help="Folder of a tiled dataset, made by `hrrsi tile`.")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="ued, ued_bes or ued_bes_sfm; wider with _1p3 or _1p5 (ued_1p3); with another "
            "encoder as ued-resnet18; or a baseline: deeplabv3plus, fcn, pspnet, segnet, unet. "
            "`hrrsi profile` lists them. Several, separated by commas, are trained one after the "
            "other.",
        ),
    ] = TrainOptions.model,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            help="An encoder of timm instead of GhostNet, e.g. mobilenetv4_conv_small: short for "
            "--model MODEL-ENCODER. It has to yield maps at strides 4, 8, 16 and 32.",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder of the runs; a run is the folder OUT/MODEL, with --overfit "
            "OUT/MODEL-overfit.",
        ),
    ] = TrainOptions.out,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            is_eager=True,
            callback=_take_config,
            help="YAML file with any of these options, e.g. the config.yaml of a run, which "
            "repeats it from any folder; options of the command line win.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue each run from its last checkpoint, or start it. It takes the options "
            "that the run was started with: --config OUT/MODEL/config.yaml --resume.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    recipe: RecipeName = "default",
    epochs: Epochs = None,
    batch: Batch = None,
    optimizer: OptimizerName = None,
    lr: LearningRate = None,
    weight_decay: WeightDecay = None,
    schedule: ScheduleName = None,
    warmup: Warmup = None,
    average: Average = None,
    augmentation: AugmentationName = None,
    crop: Crop = None,
    sampling: SamplingName = None,
    class_weights: ClassWeighting = None,
    dice: Dice = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            min=0,
            max=2**32 - 1,
            help="Seed of weights, order and augmentation: the same gives the same run.",
            rich_help_panel=RECIPE_PANEL,
        ),
    ] = TrainOptions.seed,
    patience: Annotated[
        int,
        typer.Option(
            "--patience",
            min=0,
            help="End the run after this many epochs without a better validation mIoU; 0: never.",
            rich_help_panel=RECIPE_PANEL,
        ),
    ] = TrainOptions.patience,
    encoder_weights: Annotated[
        str,
        typer.Option(
            "--encoder-weights",
            help="What the encoder starts from: imagenet (fetched by timm), none, or a file: of "
            "`hrrsi pretrain`, of timm, or a published GhostNet .pth. Goes without --init.",
            rich_help_panel=_START,
        ),
    ] = TrainOptions.encoder_weights,
    init: Annotated[
        Path | None,
        typer.Option(
            "--init",
            help="Weights file to fine-tune: the whole network starts from it, as far as it fits "
            "this dataset's classes and bands. none: not even where --config names one.",
            rich_help_panel=_START,
        ),
    ] = TrainOptions.init,
    freeze_encoder: Annotated[
        int,
        typer.Option(
            "--freeze-encoder",
            min=0,
            help="Epochs at the start in which the encoder keeps its weights.",
            rich_help_panel=_START,
        ),
    ] = TrainOptions.freeze_encoder,
    device: TrainingDevice = TrainOptions.device,
    devices: Devices = TrainOptions.devices,
    nodes: Nodes = TrainOptions.nodes,
    precision: TrainingPrecision = TrainOptions.precision,
    compile: Compile = TrainOptions.compile,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            min=0,
            help="Processes that read and augment patches, for each device.",
            rich_help_panel=HARDWARE_PANEL,
        ),
    ] = TrainOptions.workers,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check everything, try a step and say what the run would be; write nothing. A run "
            "that is there is no error here: what --resume and --overwrite would do is said.",
            rich_help_panel=_LOOK,
        ),
    ] = False,
    show_batches: Annotated[
        Path | None,
        typer.Option(
            "--show-batches",
            metavar="FILE.png",
            help="Draw the first patches as the network would see them, with labels, edge target "
            "and what the losses ignore; train nothing.",
            rich_help_panel=_LOOK,
        ),
    ] = None,
    overfit: Annotated[
        int,
        typer.Option(
            "--overfit",
            min=0,
            help="Train and validate on this many training patches, whole and unchanged, in a "
            "folder of its own (OUT/MODEL-overfit): a network that can't learn these by heart has "
            "something wrong with it. 0: all patches.",
            rich_help_panel=_LOOK,
        ),
    ] = TrainOptions.overfit,
) -> None:
    """Train networks on a tiled dataset.

    The weights of the epoch with the highest validation mIoU are kept as
    OUT/MODEL/best.safetensors, beside metrics.csv, curves.png, samples/, tensorboard/,
    config.yaml, environment.yaml and last.ckpt.

    **Examples**

    - `hrrsi train dataset/`: ued_bes_sfm with the default recipe

    - `hrrsi train dataset/ --recipe published --model ued,ued_bes,ued_bes_sfm`: the paper's

    - `hrrsi train dataset/ --init best.safetensors --freeze-encoder 5 --epochs 30`: fine-tune

    - `hrrsi train dataset/ --devices 4 --batch 32 --precision bf16 --compile`: several GPUs

    - `hrrsi train --config runs/ued/config.yaml --resume`: go on after an interruption

    - `hrrsi train dataset/ --show-batches batches.png`, `hrrsi train dataset/ --dry-run`,
      `hrrsi train dataset/ --overfit 4 --epochs 50`: quick checks

    - `hrrsi train --config runs/ued/config.yaml --seed 1 --out runs_seed1`: again, but for a seed
    """
    if data is None:
        raise typer.BadParameter("name the folder of a tiled dataset", param_hint="DATA")
    if resume and overwrite:
        raise typer.BadParameter("goes without --overwrite", param_hint="--resume")
    if show_batches is not None and show_batches.suffix.lower() != ".png":
        raise typer.BadParameter("name a .png file", param_hint="--show-batches")
    if dry_run and show_batches is not None:
        raise typer.BadParameter(
            "goes without --dry-run, which writes nothing", param_hint="--show-batches"
        )
    if init == Path("none"):
        init = None
    if init is not None and _is_given(ctx, "encoder_weights"):
        raise typer.BadParameter(
            f"has no effect beside --init {init}, which holds an encoder; give --init none to "
            "start from an encoder alone",
            param_hint="--encoder-weights",
        )
    from dataclasses import replace

    with naming_config(ctx, config):
        options = TrainOptions(
            data=data,
            out=out,
            recipe=recipe_named(
                recipe,
                epochs=epochs,
                batch=batch,
                optimizer=optimizer,
                lr=lr,
                weight_decay=weight_decay,
                schedule=schedule,
                warmup=warmup,
                average=average,
                augmentation=augmentation,
                crop=crop,
                sampling=sampling,
                class_weights=class_weights,
                dice=dice,
            ),
            encoder_weights=encoder_weights,
            init=init,
            freeze_encoder=freeze_encoder,
            seed=seed,
            patience=patience,
            overfit=overfit,
            precision=_asked_precision(ctx, precision, recipe, device),
            device=device,
            devices=devices,
            nodes=nodes,
            compile=compile,
            workers=workers,
        )
        runs = [replace(options, model=name) for name in _model_names(model, encoder)]
        if show_batches is not None:
            from hrrsi.training.batch_picture import write_batch_picture

            write_batch_picture(runs[0], show_batches, overwrite=overwrite)
            typer.echo(f"{show_batches}: what the network sees first")
            return
        if dry_run:
            from hrrsi.training.dry_run import planned_run

            for run_options in runs:
                plan = planned_run(run_options, resume=resume, overwrite=overwrite)
                typer.echo(in_flags(str(plan)))
            return
        from hrrsi.training.run import train as train_network
        from hrrsi.training.run_checks import check_run

        for run_options in runs:  # what is wrong with the last model should not show after days
            check_run(run_options, resume=resume, overwrite=overwrite)
        for run_options in runs:
            train_network(
                run_options,
                resume=resume,
                overwrite=overwrite,
                quiet=quiet,
                report=print_line,
                warn=print_warning,
            )


def _is_given(ctx: typer.Context, option: str) -> bool:
    """Return whether the command line itself holds an option."""
    source = ctx.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _asked_precision(
    ctx: typer.Context, precision: Precision, recipe: str, device: str
) -> Precision:
    """Return the precision to ask for: another --recipe than a file's brings its own.

    As with the recipe's fields, what the file only repeats of its recipe gives way.
    """
    file = ctx.default_map or {}
    of_file = file.get("recipe", recipe)
    if recipe == of_file or "precision" not in file or _is_given(ctx, "precision"):
        return precision
    return "auto" if precision == automatic_precision(of_file, device) else precision


def _model_names(models: str, encoder: str | None) -> list[str]:
    """Return the full name of each network of ``--model`` and ``--encoder``."""
    found = names(models)
    if not found or len(set(found)) < len(found):
        raise typer.BadParameter("name each model once", param_hint="--model")
    if encoder is None:
        return found
    for name in found:
        if "-" in name:
            raise typer.BadParameter(f"{name} names one already", param_hint="--encoder")
    return [f"{name}-{encoder}" for name in found]
