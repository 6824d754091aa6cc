"""``hrrsi pretrain``: an encoder trained on images sorted into classes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hrrsi.cli.messages import print_line, print_warning
from hrrsi.cli.options import (
    DRY_RUN_HELP,
    FieldValues,
    Flag,
    Flags,
    Overwrite,
    Quiet,
    takes_option_classes,
)
from hrrsi.cli.training_options import (
    CONFIG_HELP,
    HARDWARE_PANEL,
    hardware_flags,
    naming_config,
    require_run_folder,
    take_config,
)
from hrrsi.extras import requiring
from hrrsi.hardware import LEAST_TO_TRAIN, require_memory
from hrrsi.pretraining.options import PretrainOptions, PretrainRecipe

_RECIPE = "Recipe (by default the published one)"

_FLAGS: Flags = {
    "encoder": Flag(
        typer.Option(
            "--encoder",
            "-e",
            help="ghostnet_100, ghostnet_130, ghostnet_150 (GhostNet, the number is the width in "
            "percent; hrrsi train takes these three and timm's 050), or any network of timm, e.g. "
            "mobilenetv4_conv_small.",
        )
    ),
    "out": Flag(typer.Option("--out", help="Folder of the runs; a run is the folder OUT/ENCODER.")),
    "seed": Flag(
        typer.Option(
            "--seed",
            help="Seed of weights, order, crops and flips: the same gives the same run.",
            rich_help_panel=_RECIPE,
        )
    ),
    "loader": Flag(
        typer.Option(
            "--loader",
            help="What reads and crops images: torchvision, or dali (NVIDIA DALI, from "
            "hrrsi[dali]), which decodes on the GPU where there is one, and is as fast on a "
            "processor; auto is dali where it is installed. Order, labels and crops are the same.",
            rich_help_panel=HARDWARE_PANEL,
        )
    ),
    **hardware_flags(
        "Processes (torchvision) or threads (dali) that read and decode, for each device."
    ),
}
_RECIPE_FLAGS: Flags = {
    "epochs": Flag(
        typer.Option("--epochs", help="Passes over the images.", rich_help_panel=_RECIPE)
    ),
    "batch": Flag(
        typer.Option(
            "--batch",
            help="Images a step, over all devices. --lr is for this many: lower both together.",
            rich_help_panel=_RECIPE,
        )
    ),
    "lr": Flag(
        typer.Option(
            "--lr",
            help="Learning rate of SGD; divided by ten after each quarter of the steps.",
            rich_help_panel=_RECIPE,
        )
    ),
    "momentum": Flag(typer.Option("--momentum", help="Momentum of SGD.", rich_help_panel=_RECIPE)),
    "weight_decay": Flag(
        typer.Option("--weight-decay", help="Weight decay.", rich_help_panel=_RECIPE)
    ),
    "label_smoothing": Flag(
        typer.Option(
            "--label-smoothing",
            help="Share of the target that is spread over all classes.",
            rich_help_panel=_RECIPE,
        )
    ),
    "size": Flag(
        typer.Option(
            "--size",
            help="Rows and columns of the random crops that are trained on.",
            rich_help_panel=_RECIPE,
        )
    ),
    "val_size": Flag(
        typer.Option(
            "--val-size",
            help="Rows and columns of the centres that are validated on: of each image, its "
            "middle square is resized to 8/7 of that.",
            rich_help_panel=_RECIPE,
        )
    ),
}


_Data = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Folder of images: train/CLASS/NAME.jpg and val/CLASS/NAME.jpg, as ImageNet is "
        "published.",
    ),
]
_Config = Annotated[
    Path | None,
    typer.Option("--config", is_eager=True, callback=take_config, help=CONFIG_HELP),
]
_Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue the run from its last checkpoint, or start it. It takes the options "
        "that the run was started with: --config OUT/ENCODER/config.yaml --resume.",
    ),
]


@requiring("train", "pre-training")
@takes_option_classes
def pretrain(
    ctx: typer.Context,
    data: _Data,
    recipe: Annotated[dict[str, Any], FieldValues(PretrainRecipe, _RECIPE_FLAGS)],
    settings: Annotated[dict[str, Any], FieldValues(PretrainOptions, _FLAGS)],
    config: _Config = None,
    resume: _Resume = False,
    overwrite: Overwrite = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=DRY_RUN_HELP)] = False,
    quiet: Quiet = False,
) -> None:
    """Train an encoder on images sorted into classes, such as ImageNet.

    The encoder of the epoch with the highest validation top-1 is kept as
    OUT/ENCODER/encoder.safetensors, which `hrrsi train --encoder-weights` takes, beside
    metrics.csv, curves.png, config.yaml, environment.yaml and last.ckpt. Images that can't be
    decoded are skipped, named and counted.

    **Examples**

    - `hrrsi pretrain --data imagenet/ --encoder ghostnet_150`: the published recipe

    - `hrrsi pretrain --data imagenet/ --devices 8 --precision bf16 --workers 12`: eight GPUs

    - `hrrsi pretrain --config pretrained/ghostnet_150/config.yaml --resume`: go on after an
      interruption

    - `hrrsi pretrain --config pretrained/ghostnet_150/config.yaml --seed 1 --out again`: but for a
      seed

    - `hrrsi pretrain --data tiles/ --epochs 30 --batch 64 --lr 0.0125`: own images

    - `hrrsi train dataset/ --model ued_bes_sfm_1p5
      --encoder-weights pretrained/ghostnet_150/encoder.safetensors`: what it is for
    """
    if resume and overwrite:
        raise typer.BadParameter("goes without --overwrite", param_hint="--resume")
    require_memory(LEAST_TO_TRAIN, "pre-training")
    with naming_config(ctx, config):
        options = PretrainOptions(data=data, recipe=PretrainRecipe(**recipe), **settings)
        if resume:
            require_run_folder(ctx, config, [options.run_folder])
        if dry_run:
            from hrrsi.pretraining.run import planned_pretraining

            plan = planned_pretraining(options, resume=resume, overwrite=overwrite)
            print_line(str(plan))
            return
        from hrrsi.pretraining.run import pretrain as pretrain_encoder

        pretrain_encoder(
            options,
            resume=resume,
            overwrite=overwrite,
            quiet=quiet,
            report=print_line,
            warn=print_warning,
        )
