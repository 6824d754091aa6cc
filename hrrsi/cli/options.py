"""Options that several subcommands share, so that they mean the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

NETWORK_PANEL = "Windows and network"

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist already.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="A .safetensors of hrrsi or a published .pth checkpoint. "
        "Default: the weights inside the package.",
    ),
]
WindowSize = Annotated[
    int,
    typer.Option(
        "--window",
        min=32,
        help="Rows and columns of a window, in pixels.",
        rich_help_panel=NETWORK_PANEL,
    ),
]
Overlap = Annotated[
    int | None,
    typer.Option(
        "--overlap",
        min=0,
        help="Pixels that neighbouring windows share. Default: 3/16 of a window, 96 of 512.",
        rich_help_panel=NETWORK_PANEL,
    ),
]
BatchSize = Annotated[int, typer.Option("--batch", min=1, help="Windows or patches a step.")]
Device = Annotated[
    str,
    typer.Option("--device", help="auto, cpu, cuda or cuda:N; auto takes a GPU if there is one."),
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        help="auto, openvino, onnxruntime or torch; auto is openvino, and torch on a GPU and for "
        "networks without GhostNet.",
        rich_help_panel=NETWORK_PANEL,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="auto, 32, bf16, 16 or fast; auto is bf16 where the hardware calculates in it (torch: "
        "on a GPU only), else 32; fast rounds more of the network.",
        rich_help_panel=NETWORK_PANEL,
    ),
]
WindowBatch = Annotated[
    int | None,
    typer.Option(
        "--batch",
        min=1,
        help="Windows a step. Default: 1 on a CPU, 8 on a GPU.",
        rich_help_panel=NETWORK_PANEL,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        help="Processor threads. Default: one a core.",
        rich_help_panel=NETWORK_PANEL,
    ),
]
Bands = Annotated[
    str | None,
    typer.Option("--bands", help="Bands of the raster to read, from 1, e.g. 4,1,2."),
]
Nodata = Annotated[
    float | None,
    typer.Option(
        "--nodata",
        help="Value of pixels without data, where the raster does not say so itself "
        "(all bands must hold it), e.g. 0 for black corners. Exact: lossy JPEG leaves a rim.",
    ),
]
Scale = Annotated[
    float | None,
    typer.Option(
        "--scale",
        help="Value that counts as full brightness. Default: what the rasters declare (GDAL's "
        "scale, NBITS), else the weights' own; needed for rasters of another type than the "
        "weights were trained on.",
    ),
]
Height = Annotated[
    str | None,
    typer.Option(
        "--height",
        help="Height models (DSM, nDSM) as the last band: one raster, a folder of rasters named "
        "like the scenes, or a template such as 'dsm/dsm_{}.tif' whose {} stands for the scene's "
        "name or number.",
    ),
]
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
