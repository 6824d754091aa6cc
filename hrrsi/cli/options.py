"""Options that several subcommands share, so that they mean the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

from hrrsi.cli.option_classes import Flag, Flags

NETWORK_PANEL = "Windows and network"

DEVICE_HELP = "auto, cpu, cuda or cuda:N; auto takes a GPU if there is one."
DRY_RUN_HELP = (  # of a run
    "Check everything, try a step and say what the run would be; write nothing. A run that is "
    "there is no error here: what --resume and --overwrite would do is said."
)

_OVERWRITE = typer.Option("--overwrite", help="Replace outputs that exist already.")
Overwrite = Annotated[bool, _OVERWRITE]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="A .safetensors of hrrsi, a published .pth checkpoint, or the name of weights inside "
        "the package: default or, where there are such, light (fewer operations).",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, only results.")]


def names(text: str | None) -> list[str]:
    """Return the names of a comma-separated option."""
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


def _bands(text: str) -> list[int]:
    """Return the numbers of ``--bands``.

    Raises:
        typer.BadParameter: The text is no list of numbers.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a list such as 1,2,3", param_hint="--bands"
        ) from None


# Of `OutputOptions` and `ReportOutputs`.
OVERWRITE_FLAG = Flag(_OVERWRITE)


def _resolution(text: str) -> float | str:
    """Return the value of ``--resample``.

    Raises:
        typer.BadParameter: The text is neither one of the words nor a number.
    """
    if text in ("auto", "off"):
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither auto nor off nor a number of metres", param_hint="--resample"
        ) from None


# Flags of `MapOptions` that several commands have.
READING_FLAGS: Flags = {
    "bands": Flag(
        typer.Option("--bands", help="Bands of the raster to read, from 1, e.g. 4,1,2."),
        str | None,
        _bands,
    ),
    "nodata": Flag(
        typer.Option(
            "--nodata",
            help="Value of pixels without data, where the raster does not say so itself "
            "(all bands must hold it), e.g. 0 for black corners. Exact: lossy JPEG leaves a rim.",
        )
    ),
    "resample": Flag(
        typer.Option(
            "--resample",
            metavar="auto|off|METRES",
            help="Ground resolution to read scenes at, in metres a pixel; maps keep the scenes' "
            "grid. auto: the scene's own, or the nearest of the weights' training where it is "
            "outside of them. off: the scene's own.",
        ),
        str,
        _resolution,
        is_usage=True,
    ),
    "height": Flag(
        typer.Option(
            "--height",
            help="Height models (DSM, nDSM) as the last band: one raster, a folder of rasters "
            "named like the scenes, or a template such as 'dsm/dsm_{}.tif' whose {} stands for "
            "the scene's name or number.",
        ),
        str | None,
    ),
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
    "device": Flag(typer.Option("--device", help=DEVICE_HELP)),
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
