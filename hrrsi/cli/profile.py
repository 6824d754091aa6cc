"""`hrrsi profile`: what the networks cost."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hrrsi.cli.messages import print_weights
from hrrsi.cli.options import ENGINE_FLAGS, Flag, Flags, Quiet, takes_option_classes
from hrrsi.profiling.figures import SMALLEST_SIZE, ProfileOptions, ProfileStopped, profile_table

_FLAGS: Flags = {
    "classes": Flag(typer.Option("--classes", help="Classes of networks by name.")),
    "size": Flag(
        typer.Option("--size", min=SMALLEST_SIZE, help="Rows and columns of the window, in pixels.")
    ),
    "latency": Flag(
        typer.Option("--latency", help="Measure speed and peak memory on this device as well.")
    ),
    "seconds": Flag(
        typer.Option(
            "--seconds",
            help="With --latency: let each runtime and precision compute windows for so long, on "
            "one thread and then on all: p50, p99, windows per second over all that time, and "
            "energy where the kernel tells it. All of it takes a dozen times as long on a "
            "processor; --engine and --precision choose. Without MODEL or --weights, of the "
            "packaged weights.",
        )
    ),
    "batch": Flag(typer.Option("--batch", help="Windows or patches a step.")),
    "device": ENGINE_FLAGS["device"],
    "engine": ENGINE_FLAGS["engine"],
    "precision": ENGINE_FLAGS["precision"],
}


@takes_option_classes
def profile(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="ued, ued_bes or ued_bes_sfm, with _1p3 or _1p5 for their wider versions, or with "
            "-ENCODER for one of timm's encoders (ued-resnet18); or deeplabv3plus, fcn, pspnet, "
            "segnet, unet (unet-ENCODER, too). Default: our nine, the ResNets and these five.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            help="Profile the network in this weights file (too), or default, or light.",
        ),
    ] = None,
    options: Annotated[ProfileOptions, _FLAGS] = ProfileOptions(),
    output: Annotated[
        Literal["table", "json", "markdown"], typer.Option("--format", help="How to print it.")
    ] = "table",
    quiet: Quiet = False,
) -> None:
    """Count a network's parameters and operations, and measure its speed.

    Published operation counts follow different conventions; every column names its own.
    `--batch`, `--device`, `--engine` and `--precision` are those of `--latency`.

    For example `hrrsi profile` for all networks,
    `hrrsi profile ued_bes_sfm --classes 5 --latency --format json`,
    `hrrsi profile ued_bes_sfm-mobilenetv4_conv_small unet` to compare two, or
    `hrrsi profile --latency --seconds 60` for the packaged weights by each runtime.
    """
    import json

    import hrrsi

    stopped = None
    try:
        profiles = hrrsi.profile(
            models or (), weights=weights, options=options, show_progress=not quiet
        )
    except ProfileStopped as error:
        profiles, stopped = error.profiles, error
    is_of_package = not models and options.seconds is not None
    if (weights is not None or is_of_package) and not quiet:
        print_weights(weights)
    if output == "json":
        typer.echo(json.dumps([profile.to_dict() for profile in profiles], indent=2))
    else:
        typer.echo(profile_table(profiles, style=output))
    if stopped is not None:
        raise stopped
