"""``hrrsi train``: networks trained on a tiled dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from hrrsi.cli.messages import print_line, print_warning
from hrrsi.cli.options import (
    DRY_RUN_HELP,
    FieldValues,
    Flag,
    Flags,
    Overwrite,
    Quiet,
    names,
    takes_option_classes,
)
from hrrsi.cli.training_options import (
    CONFIG_HELP,
    RECIPE_FLAGS,
    RECIPE_PANEL,
    RecipeName,
    hardware_flags,
    is_on_command_line,
    naming_config,
    parsed_mix,
    recipe_precision,
    require_run_folder,
    take_recipe_config,
)
from hrrsi.extras import requiring
from hrrsi.hardware import LEAST_TO_TRAIN, require_memory
from hrrsi.training.options import Recipe, TrainOptions, recipe_named

_START = "Start from"
_LOOK = "Look before a long run"

_FLAGS: Flags = {
    "out": Flag(
        typer.Option(
            "--out",
            help="Folder of the runs; a run is the folder OUT/MODEL, with --overfit "
            "OUT/MODEL-overfit.",
        )
    ),
    "seed": Flag(
        typer.Option(
            "--seed",
            help="Seed of weights, order and augmentation: the same gives the same run.",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "patience": Flag(
        typer.Option(
            "--patience",
            help="End the run after this many epochs without a better validation mIoU; 0: never.",
            rich_help_panel=RECIPE_PANEL,
        )
    ),
    "encoder_weights": Flag(
        typer.Option(
            "--encoder-weights",
            help="What the encoder starts from: imagenet (fetched by timm), none, or a file: of "
            "`hrrsi pretrain`, of timm, or a published GhostNet .pth. Goes without --init.",
            rich_help_panel=_START,
        )
    ),
    "init": Flag(
        typer.Option(
            "--init",
            metavar="[FILE]",
            help="Weights to fine-tune: the whole network starts from them, as far as they fit "
            "this dataset's classes and bands. A file, or those inside the package: default "
            "(--init alone means these), or light. none: not even where --config names some.",
            rich_help_panel=_START,
        ),
        value=lambda path: None if path == Path("none") else path,
    ),
    "teachers": Flag(
        typer.Option(
            "--teacher",
            metavar="W.safetensors",
            help="Weights of another network, usually a larger one, whose probabilities the "
            "network learns beside the labels, and where there are none (`hrrsi tile "
            "--unlabelled`). Its classes have the same names. Can be given several times: the "
            "mean of theirs is learned. none: not even those that --config names.",
            rich_help_panel=RECIPE_PANEL,
        ),
        kind=list[Path] | None,
        value=lambda paths: tuple(path for path in paths if path != Path("none")),
    ),
    "mix": Flag(
        typer.Option(
            "--mix",
            metavar="SHARES",
            help="Of several datasets, how much is drawn of each, e.g. 2,1,1; 0: nothing, it is "
            "only validated on. Default: as many patches as each has.",
            rich_help_panel=RECIPE_PANEL,
        ),
        kind=str | None,
        value=parsed_mix,
    ),
    "freeze_encoder": Flag(
        typer.Option(
            "--freeze-encoder",
            help="Epochs at the start in which the encoder keeps its weights.",
            rich_help_panel=_START,
        )
    ),
    **hardware_flags(
        "Processes that read and augment patches, for each device.",
        "; and 32 for the published recipe",
    ),
    "overfit": Flag(
        typer.Option(
            "--overfit",
            help="Train and validate on this many training patches, whole and unchanged, in a "
            "folder of its own (OUT/MODEL-overfit): a network that can't learn these by heart has "
            "something wrong with it. 0: all patches.",
            rich_help_panel=_LOOK,
        )
    ),
}


_Data = Annotated[
    list[Path] | None,
    typer.Argument(help="Folder of a tiled dataset, made by `hrrsi tile`, or folders of several."),
]
_Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="auto (ued_bes_sfm; with --init default or light, the network of these weights), ued, "
        "ued_bes or ued_bes_sfm; wider with _1p3 or _1p5 (ued_1p3); with another "
        "encoder as ued-resnet18; or a baseline: deeplabv3plus, fcn, pspnet, segnet, unet "
        "(unet-ENCODER, too). `hrrsi profile` lists them. Several, separated by commas, are "
        "trained one after the other.",
    ),
]
_Encoder = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        help="An encoder of timm instead of GhostNet, e.g. mobilenetv4_conv_small: short for "
        "--model MODEL-ENCODER. It has to yield maps at strides 4, 8, 16 and 32.",
    ),
]
_Config = Annotated[
    Path | None,
    typer.Option("--config", is_eager=True, callback=take_recipe_config, help=CONFIG_HELP),
]
_Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue each run from its last checkpoint, or start it. It takes the options "
        "that the run was started with: --config OUT/MODEL/config.yaml --resume.",
    ),
]
_ShowBatches = Annotated[
    Path | None,
    typer.Option(
        "--show-batches",
        metavar="FILE.png",
        help="Draw the first patches as the network would see them, with labels, edge target "
        "and what the losses ignore; train nothing.",
        rich_help_panel=_LOOK,
    ),
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help=DRY_RUN_HELP, rich_help_panel=_LOOK)]


@requiring("train", "training")
@takes_option_classes
def train(
    ctx: typer.Context,
    data: _Data = None,
    model: _Model = TrainOptions.model,
    encoder: _Encoder = None,
    recipe: RecipeName = "default",
    *,
    changes: Annotated[dict[str, Any], FieldValues(Recipe, RECIPE_FLAGS, explicit_only=True)],
    settings: Annotated[dict[str, Any], FieldValues(TrainOptions, _FLAGS)],
    config: _Config = None,
    resume: _Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    dry_run: _DryRun = False,
    show_batches: _ShowBatches = None,
) -> None:
    """Train networks on a tiled dataset, or on several at once.

    The weights of the epoch with the highest validation mIoU are kept as
    OUT/MODEL/best.safetensors, beside metrics.csv, curves.png, samples/, tensorboard/,
    config.yaml, environment.yaml and last.ckpt.

    **Examples**

    - `hrrsi train dataset/`: ued_bes_sfm with the default recipe

    - `hrrsi train dataset/ --recipe published --model ued,ued_bes,ued_bes_sfm`: the paper's

    - `hrrsi train dataset/ --init default --freeze-encoder 5 --epochs 30`: fine-tune the weights
      inside the package; with a file for default, others

    - `hrrsi train dataset/ --teacher large.safetensors --teacher another.safetensors`: distillation

    - `hrrsi train dubai/ naip/ --mix 2,1 --resolutions 0.25-0.8 --crop 256`: two datasets

    - `hrrsi train dataset/ --devices 4 --batch 32 --precision bf16 --compile`: several GPUs

    - `hrrsi train --config runs/ued/config.yaml --resume`: go on after an interruption

    - `hrrsi train dataset/ --show-batches batches.png`, `hrrsi train dataset/ --dry-run`,
      `hrrsi train dataset/ --overfit 4 --epochs 50`: quick checks

    - `hrrsi train --config runs/ued/config.yaml --seed 1 --out runs_seed1`: again, but for a seed
    """
    require_memory(LEAST_TO_TRAIN, "training")
    if not data:
        _refuse_missing_data(settings["init"])
    if resume and overwrite:
        raise typer.BadParameter("goes without --overwrite", param_hint="--resume")
    _check_picture(show_batches, dry_run=dry_run)
    _check_start(ctx, settings["init"])
    with naming_config(ctx, config):
        settings["precision"] = recipe_precision(ctx, recipe, **settings)
        own = recipe_named(recipe, **changes)
        models = _model_names(model, encoder)
        runs = [
            TrainOptions(data=tuple(data), model=name, recipe=own, **settings) for name in models
        ]
        if resume:
            require_run_folder(ctx, config, [options.run_folder for options in runs])
        if show_batches is not None:
            from hrrsi.training.patch_pictures import write_batch_picture

            write_batch_picture(runs[0], show_batches, overwrite=overwrite)
            print_line(f"{show_batches}: what the network sees first")
        elif dry_run:
            from hrrsi.training.run_checks import planned_run

            for options in runs:
                plan = planned_run(options, resume=resume, overwrite=overwrite)
                print_line(str(plan))
        else:
            from hrrsi.training.run import train_all

            lines = {"report": print_line, "warn": print_warning}
            train_all(runs, resume=resume, overwrite=overwrite, quiet=quiet, **lines)


def _refuse_missing_data(init: Path | None) -> NoReturn:
    problem = "name the folder of a tiled dataset"
    if init is not None and init.is_dir():
        problem += f"; {init} holds no dataset.yaml, so it was taken for the weights of --init"
    raise typer.BadParameter(problem, param_hint="DATA")


def _check_start(ctx: typer.Context, init: Path | None) -> None:
    if init is not None and is_on_command_line(ctx, "encoder_weights"):
        raise typer.BadParameter(
            f"has no effect beside --init {init}, which holds an encoder; give --init none to "
            "start from an encoder alone",
            param_hint="--encoder-weights",
        )


def _check_picture(path: Path | None, *, dry_run: bool) -> None:
    if path is not None and path.suffix.lower() != ".png":
        raise typer.BadParameter("name a .png file", param_hint="--show-batches")
    if dry_run and path is not None:
        raise typer.BadParameter(
            "goes without --dry-run, which writes nothing", param_hint="--show-batches"
        )


def _model_names(models: str, encoder: str | None) -> list[str]:
    """Return the full name of each network of ``--model`` and ``--encoder``."""
    chosen = names(models)
    if not chosen or len(set(chosen)) < len(chosen):
        raise typer.BadParameter("name each model once", param_hint="--model")
    if encoder is None:
        return chosen
    if chosen == ["auto"]:
        chosen = ["ued_bes_sfm"]
    for name in chosen:
        if "-" in name:
            raise typer.BadParameter(f"{name} names one already", param_hint="--encoder")
    return [f"{name}-{encoder}" for name in chosen]
