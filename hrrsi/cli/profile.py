"""`hrrsi profile`: what the networks cost."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hrrsi.cli.options import BatchSize, Device, Quiet
from hrrsi.extras import requiring


@requiring("gpu", "profiling")
def profile(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="ued, ued_bes or ued_bes_sfm, with _1p3 or _1p5 for their wider versions, or with "
            "-ENCODER for one of timm's encoders (ued-resnet18); or deeplabv3plus, fcn, pspnet, "
            "segnet, unet. Default: our nine, the ResNets and these five.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="Profile the network in this weights file (too)."),
    ] = None,
    classes: Annotated[
        int, typer.Option("--classes", min=1, max=254, help="Classes of networks by name.")
    ] = 6,
    size: Annotated[
        int, typer.Option("--size", min=32, help="Rows and columns of the window, in pixels.")
    ] = 512,
    output: Annotated[
        Literal["table", "json", "markdown"], typer.Option("--format", help="How to print it.")
    ] = "table",
    latency: Annotated[
        bool,
        typer.Option("--latency", help="Measure speed and peak memory on this device as well."),
    ] = False,
    batch: BatchSize = 1,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Count a network's parameters and operations, and measure its speed.

    Published operation counts follow different conventions; every column names its own.
    `--batch` and `--device` are those of `--latency`.

    For example `hrrsi profile` for all networks,
    `hrrsi profile ued_bes_sfm --classes 5 --latency --format json`, or
    `hrrsi profile ued_bes_sfm-mobilenetv4_conv_small unet` to compare two.
    """
    import json

    from hrrsi.hardware import chosen_device
    from hrrsi.networks.names import BASELINE_MODELS, GHOSTNET_MODELS, parsed_model
    from hrrsi.profiling.latency import model_latency, weights_latency
    from hrrsi.profiling.profile import profile_model, profile_weights
    from hrrsi.profiling.table import profile_table
    from hrrsi.progress import progress

    names = list(models or (() if weights else (*GHOSTNET_MODELS, *BASELINE_MODELS)))
    for name in names:
        parsed_model(name)  # an unknown name fails before the first is measured
    where = chosen_device(device)
    profiles, latencies = [], []
    total = len(names) + (weights is not None)
    with progress("profiling", total, " models", enabled=not quiet) as bar:
        for name in names:
            profiles.append(profile_model(name, classes=classes, size=size))
            if latency:
                latencies.append(
                    model_latency(name, classes=classes, size=size, batch=batch, device=where)
                )
            bar.update()
        if weights:
            profiles.append(profile_weights(weights, size=size))
            if latency:
                latencies.append(weights_latency(weights, size=size, batch=batch, device=where))
            bar.update()
    if output == "json":
        rows = [p.to_dict() for p in profiles]
        for row, measured in zip(rows, latencies, strict=False):
            row["latency"] = measured.to_dict()
        typer.echo(json.dumps(rows, indent=2))
    else:
        typer.echo(profile_table(profiles, latencies, style=output))
