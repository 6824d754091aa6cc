"""`hrrsi profile`: what the networks cost."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hrrsi.cli.messages import print_weights
from hrrsi.cli.options import ENGINE_FLAGS, Flag, Flags, Quiet, takes_option_classes
from hrrsi.profiling.figures import ProfileOptions

_FLAGS: Flags = {
    "classes": Flag(typer.Option("--classes", min=1, max=254, help="Classes of networks by name.")),
    "size": Flag(typer.Option("--size", min=32, help="Rows and columns of the window, in pixels.")),
    "latency": Flag(
        typer.Option("--latency", help="Measure speed and peak memory on this device as well.")
    ),
    "batch": Flag(typer.Option("--batch", min=1, help="Windows or patches a step.")),
    "device": ENGINE_FLAGS["device"],
}


@takes_option_classes
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
    `--batch` and `--device` are those of `--latency`.

    For example `hrrsi profile` for all networks,
    `hrrsi profile ued_bes_sfm --classes 5 --latency --format json`, or
    `hrrsi profile ued_bes_sfm-mobilenetv4_conv_small unet` to compare two.
    """
    import json

    import hrrsi

    profiles = hrrsi.profile(
        models or (), weights=weights, options=options, show_progress=not quiet
    )
    if weights is not None and not quiet:
        print_weights(weights)
    if output == "json":
        typer.echo(json.dumps([profile.to_dict() for profile in profiles], indent=2))
        return
    from hrrsi.profiling.profile import profile_table

    typer.echo(profile_table(profiles, style=output))
