"""Options that several subcommands share, so that they mean the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

from hrrsi.cli.option_classes import Flag, Flags

NETWORK_PANEL = "Windows and network"

DRY_RUN_HELP = (  # of a run
    "Check everything, try a step and say what the run would be; write nothing. A run that is "
    "there is no error here: what --resume and --overwrite would do is said."
)

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist already.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="A .safetensors of hrrsi or a published .pth checkpoint. "
        "Default: the weights inside the package.",
    ),
]
_DEVICE = typer.Option(
    "--device", help="auto, cpu, cuda or cuda:N; auto takes a GPU if there is one."
)
Device = Annotated[str, _DEVICE]
_BANDS = typer.Option("--bands", help="Bands of the raster to read, from 1, e.g. 4,1,2.")
Bands = Annotated[str | None, _BANDS]
_NODATA = typer.Option(
    "--nodata",
    help="Value of pixels without data, where the raster does not say so itself "
    "(all bands must hold it), e.g. 0 for black corners. Exact: lossy JPEG leaves a rim.",
)
Nodata = Annotated[float | None, _NODATA]
Scale = Annotated[
    float | None,
    typer.Option(
        "--scale",
        help="Value that counts as full brightness. Default: what the rasters declare (GDAL's "
        "scale, NBITS), else the weights' own; needed for rasters of another type than the "
        "weights were trained on.",
    ),
]
_HEIGHT = typer.Option(
    "--height",
    help="Height models (DSM, nDSM) as the last band: one raster, a folder of rasters named "
    "like the scenes, or a template such as 'dsm/dsm_{}.tif' whose {} stands for the scene's "
    "name or number.",
)
Height = Annotated[str | None, _HEIGHT]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, only results.")]


def integers(text: str | None, option: str) -> list[int] | None:
    """Return the whole numbers of a comma-separated option, or None where it was not given.

    Raises:
        typer.BadParameter: The text is not such a list.
    """
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a list such as 1,2,3", param_hint=option
        ) from None


def names(text: str | None) -> list[str]:
    """Return the names of a comma-separated option."""
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


def _bands(text: str) -> list[int] | None:
    return integers(text, "--bands")


# Flags of `MapOptions` that several commands have.
READING_FLAGS: Flags = {
    "bands": Flag(_BANDS, str | None, _bands),
    "nodata": Flag(_NODATA),
    "height": Flag(_HEIGHT, str | None),
}
WINDOW_FLAGS: Flags = {
    "window": Flag(
        typer.Option(
            "--window",
            min=32,
            help="Rows and columns of a window, in pixels.",
            rich_help_panel=NETWORK_PANEL,
        )
    ),
    "overlap": Flag(
        typer.Option(
            "--overlap",
            min=0,
            help="Pixels that neighbouring windows share. Default: 3/16 of a window, 96 of 512.",
            rich_help_panel=NETWORK_PANEL,
        )
    ),
}
# Flags of `EngineOptions`.
ENGINE_FLAGS: Flags = {
    "engine": Flag(
        typer.Option(
            "--engine",
            help="auto, openvino, onnxruntime or torch; auto is openvino, and torch on a GPU and "
            "for networks without GhostNet.",
            rich_help_panel=NETWORK_PANEL,
        )
    ),
    "precision": Flag(
        typer.Option(
            "--precision",
            help="auto, 32, bf16, 16 or fast; auto is bf16 where the hardware calculates in it "
            "(torch: on a GPU only), else 32; fast rounds more of the network.",
            rich_help_panel=NETWORK_PANEL,
        )
    ),
    "device": Flag(_DEVICE),
    "threads": Flag(
        typer.Option(
            "--threads",
            min=1,
            help="Processor threads. Default: one a core.",
            rich_help_panel=NETWORK_PANEL,
        )
    ),
    "batch": Flag(
        typer.Option(
            "--batch",
            min=1,
            help="Windows a step. Default: 1 on a CPU, 8 on a GPU.",
            rich_help_panel=NETWORK_PANEL,
        )
    ),
}
# The same for commands that take them one by one.
WindowSize = Annotated[int, WINDOW_FLAGS["window"].option]
Overlap = Annotated[int | None, WINDOW_FLAGS["overlap"].option]
Engine = Annotated[str, ENGINE_FLAGS["engine"].option]
Precision = Annotated[str, ENGINE_FLAGS["precision"].option]
Threads = Annotated[int | None, ENGINE_FLAGS["threads"].option]
WindowBatch = Annotated[int | None, ENGINE_FLAGS["batch"].option]
