"""Options that several subcommands share, so that they mean the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

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
    int, typer.Option("--window", min=32, help="Rows and columns of a window, in pixels.")
]
Overlap = Annotated[
    int, typer.Option("--overlap", min=0, help="Pixels that neighbouring windows share.")
]
BatchSize = Annotated[int, typer.Option("--batch", min=1, help="Windows or patches a step.")]
Device = Annotated[
    str,
    typer.Option("--device", help="auto, cpu, cuda or cuda:N; auto takes a GPU if there is one."),
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
        help="Value that counts as full brightness, for rasters of another type "
        "than the weights were trained on.",
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
