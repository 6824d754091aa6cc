"""``hrrsi info``: what a file is."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from hrrsi.cli.messages import print_line

_WIDTH = 98  # of a line, as reports have it
_USES = {"encoder weights": [("use", "hrrsi train DATASET --encoder-weights FILE")]}


class Format(StrEnum):
    """How results are printed."""

    TEXT = "text"
    JSON = "json"


def info(
    file: Annotated[
        str,
        typer.Argument(
            help="Weights (.safetensors, .pth; default or light: the package's), a tiled dataset "
            "(folder or dataset.yaml), the folder of a run, or a raster.",
            show_default=False,
        ),
    ],
    output_format: Annotated[
        Format, typer.Option("--format", help="Lines for people, or JSON for programs.")
    ] = Format.TEXT,
) -> None:
    """Say what a weights file, a tiled dataset, a run or a raster is.

    hrrsi info scene.tif

    hrrsi info runs/ued

    hrrsi info mine.safetensors --format json
    """
    import json
    import textwrap

    import hrrsi

    content = hrrsi.info(file)
    lines = [*content.lines, *_USES.get(content.kind, ())]
    if output_format is Format.JSON:
        typer.echo(json.dumps({"file": file, "kind": content.kind, **content.data}, indent=2))
        return
    print_line(f"{file}: {content.kind}")
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        wrapped = textwrap.fill(
            text,
            _WIDTH,
            initial_indent=f"  {label:<{width}}  ",
            subsequent_indent=" " * (width + 4),
            break_long_words=False,
            break_on_hyphens=False,
        )
        print_line(wrapped)
