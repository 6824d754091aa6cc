"""``hrrsi train``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hrrsi.cli.options import BatchSize, Device, Overwrite, Quiet, names
from hrrsi.training.options import Precision, TrainOptions


def _take_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make a file's values the defaults of the options that the command line leaves out."""
    if path is None:
        return None
    from hrrsi.errors import HrrsiError
    from hrrsi.yaml_file import read_yaml

    known = {p.name: p for p in ctx.command.params if p.name not in ("config", "help")}
    defaults: dict[str, Any] = {}
    for key, value in read_yaml(path).items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise HrrsiError(
                f"unknown option {key!r}", where=path, fix=f"options are {', '.join(known)}"
            )
        defaults[name] = ",".join(map(str, value)) if isinstance(value, list) else value
    ctx.default_map = defaults
    return path


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
            help="ued, ued_bes, ued_bes_sfm, or a wider one of them (ued_1p3, ued_bes_sfm_1p5). "
            "Several, separated by commas, are trained one after the other.",
        ),
    ] = TrainOptions.model,
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the runs; a run is the folder OUT/MODEL.")
    ] = TrainOptions.out,
    epochs: Annotated[
        int, typer.Option("--epochs", min=1, help="Passes over the training patches.")
    ] = TrainOptions.epochs,
    batch: BatchSize = TrainOptions.batch,
    lr: Annotated[
        float, typer.Option("--lr", min=0.0, help="Learning rate at the first step.")
    ] = TrainOptions.lr,
    weight_decay: Annotated[
        float, typer.Option("--weight-decay", min=0.0, help="Weight decay of SGD.")
    ] = TrainOptions.weight_decay,
    encoder_weights: Annotated[
        str,
        typer.Option(
            "--encoder-weights",
            help="What the encoder starts from: imagenet (fetched by timm), none, or a file with "
            "GhostNet's weights.",
        ),
    ] = TrainOptions.encoder_weights,
    seed: Annotated[
        int,
        typer.Option(
            "--seed", min=0, max=2**32 - 1, help="Seed of weights, order and augmentation."
        ),
    ] = TrainOptions.seed,
    precision: Annotated[
        Precision,
        typer.Option("--precision", help="32, or mixed precision: bf16, or 16 (GPU only)."),
    ] = TrainOptions.precision,
    device: Device = TrainOptions.device,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes that read and augment patches.")
    ] = TrainOptions.workers,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            is_eager=True,
            callback=_take_config,
            help="YAML file with any of these options, e.g. the config.yaml of a run; options of "
            "the command line win.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue each run from its last checkpoint, or start it."),
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train networks on a tiled dataset, by default with the published recipe.

    The weights of the epoch with the highest validation mIoU are kept as
    OUT/MODEL/best.safetensors, beside metrics.csv, curves.png, config.yaml and last.ckpt.

    **Examples**

    - `hrrsi train dataset/ --model ued_bes_sfm --epochs 100`

    - `hrrsi train dataset/ --model ued,ued_bes,ued_bes_sfm --encoder-weights none --lr 0.05`

    - `hrrsi train dataset/ --resume`
    """
    if data is None:
        raise typer.BadParameter("name the folder of a tiled dataset", param_hint="DATA")
    if resume and overwrite:
        raise typer.BadParameter("goes without --overwrite", param_hint="--resume")
    from hrrsi.networks.names import split_width
    from hrrsi.training.run import check_run
    from hrrsi.training.run import train as train_network

    models = names(model)
    if not models or len(set(models)) < len(models):
        raise typer.BadParameter("name each model once", param_hint="--model")
    for name in models:
        split_width(name)
    runs = [
        TrainOptions(
            data=data,
            model=name,
            out=out,
            epochs=epochs,
            batch=batch,
            lr=lr,
            weight_decay=weight_decay,
            encoder_weights=encoder_weights,
            seed=seed,
            precision=precision,
            device=device,
            workers=workers,
        )
        for name in models
    ]
    for options in runs:  # what is wrong with the last model should not show after days
        check_run(options, resume=resume, overwrite=overwrite)
    for options in runs:
        run = train_network(
            options, resume=resume, overwrite=overwrite, quiet=quiet, report=typer.echo
        )
        typer.echo(
            f"{options.model}: best epoch {run.best_epoch}, validation mIoU "
            f"{100 * run.best_miou:.2f}; weights in {run.weights}"
        )
