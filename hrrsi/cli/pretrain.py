"""``hrrsi pretrain``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hrrsi.cli.config_option import naming_config, take_config
from hrrsi.cli.hardware_options import (
    HARDWARE_PANEL,
    Compile,
    Devices,
    Nodes,
    PretrainingPrecision,
    TrainingDevice,
)
from hrrsi.cli.messages import in_flags, print_line, print_warning
from hrrsi.cli.options import Overwrite, Quiet
from hrrsi.extras import requiring
from hrrsi.pretraining.options import PretrainOptions, PretrainRecipe

_RECIPE = "Recipe (by default the published one)"


@requiring("train", "pre-training")
def pretrain(
    ctx: typer.Context,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            help="Folder of images: train/CLASS/NAME.jpg and val/CLASS/NAME.jpg, as ImageNet is "
            "published.",
        ),
    ],
    encoder: Annotated[
        str,
        typer.Option(
            "--encoder",
            "-e",
            help="ghostnet_100, ghostnet_130, ghostnet_150 (GhostNet, the number is the width in "
            "percent: any will do), or any network of timm, e.g. mobilenetv4_conv_small.",
        ),
    ] = PretrainOptions.encoder,
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the runs; a run is the folder OUT/ENCODER.")
    ] = PretrainOptions.out,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            is_eager=True,
            callback=take_config,
            help="YAML file with any of these options, e.g. the config.yaml of a run, which "
            "repeats it from any folder; options of the command line win.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the run from its last checkpoint, or start it. It takes the options "
            "that the run was started with: --config OUT/ENCODER/config.yaml --resume.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check everything, try a step and say what the run would be; write nothing. A run "
            "that is there is no error here: what --resume and --overwrite would do is said.",
        ),
    ] = False,
    quiet: Quiet = False,
    epochs: Annotated[
        int,
        typer.Option("--epochs", min=1, help="Passes over the images.", rich_help_panel=_RECIPE),
    ] = PretrainRecipe.epochs,
    batch: Annotated[
        int,
        typer.Option(
            "--batch",
            min=1,
            help="Images a step, over all devices. --lr is for this many: lower both together.",
            rich_help_panel=_RECIPE,
        ),
    ] = PretrainRecipe.batch,
    lr: Annotated[
        float,
        typer.Option(
            "--lr",
            min=0,
            help="Learning rate of SGD; divided by ten after each quarter of the steps.",
            rich_help_panel=_RECIPE,
        ),
    ] = PretrainRecipe.lr,
    momentum: Annotated[
        float,
        typer.Option("--momentum", min=0, max=1, help="Momentum of SGD.", rich_help_panel=_RECIPE),
    ] = PretrainRecipe.momentum,
    weight_decay: Annotated[
        float,
        typer.Option("--weight-decay", min=0, help="Weight decay.", rich_help_panel=_RECIPE),
    ] = PretrainRecipe.weight_decay,
    label_smoothing: Annotated[
        float,
        typer.Option(
            "--label-smoothing",
            min=0,
            max=1,
            help="Share of the target that is spread over all classes.",
            rich_help_panel=_RECIPE,
        ),
    ] = PretrainRecipe.label_smoothing,
    size: Annotated[
        int,
        typer.Option(
            "--size",
            min=32,
            help="Rows and columns of the random crops that are trained on.",
            rich_help_panel=_RECIPE,
        ),
    ] = PretrainRecipe.size,
    val_size: Annotated[
        int,
        typer.Option(
            "--val-size",
            min=32,
            help="Rows and columns of the centres that are validated on: of each image, its "
            "middle square is resized to 8/7 of that.",
            rich_help_panel=_RECIPE,
        ),
    ] = PretrainRecipe.val_size,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            min=0,
            max=2**32 - 1,
            help="Seed of weights, order, crops and flips: the same gives the same run.",
            rich_help_panel=_RECIPE,
        ),
    ] = PretrainOptions.seed,
    loader: Annotated[
        Literal["auto", "torchvision", "dali"],
        typer.Option(
            "--loader",
            help="What reads and crops images: torchvision, or dali (NVIDIA DALI, from "
            "hrrsi[dali]), which is faster and decodes on the GPU where there is one; auto is dali "
            "where it is installed. Order, labels and crops are the same.",
            rich_help_panel=HARDWARE_PANEL,
        ),
    ] = "auto",
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            min=0,
            help="Processes (torchvision) or threads (dali) that read and decode, for each device.",
            rich_help_panel=HARDWARE_PANEL,
        ),
    ] = PretrainOptions.workers,
    device: TrainingDevice = PretrainOptions.device,
    devices: Devices = PretrainOptions.devices,
    nodes: Nodes = PretrainOptions.nodes,
    precision: PretrainingPrecision = PretrainOptions.precision,
    compile: Compile = PretrainOptions.compile,
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
    from hrrsi.pretraining.run import chosen_loader
    from hrrsi.pretraining.run import pretrain as pretrain_encoder

    with naming_config(ctx, config):
        options = PretrainOptions(
            data=data,
            encoder=encoder,
            out=out,
            recipe=PretrainRecipe(
                epochs=epochs,
                batch=batch,
                lr=lr,
                momentum=momentum,
                weight_decay=weight_decay,
                label_smoothing=label_smoothing,
                size=size,
                val_size=val_size,
            ),
            seed=seed,
            loader=chosen_loader(loader),
            precision=precision,
            device=device,
            devices=devices,
            nodes=nodes,
            compile=compile,
            workers=workers,
        )
        if dry_run:
            from hrrsi.pretraining.dry_run import planned_pretraining

            plan = planned_pretraining(options, resume=resume, overwrite=overwrite)
            typer.echo(in_flags(str(plan)))
            return
        pretrain_encoder(
            options,
            resume=resume,
            overwrite=overwrite,
            quiet=quiet,
            report=print_line,
            warn=print_warning,
        )
