"""``hrrsi info``: what a file is."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hrrsi.cli.messages import print_line

if TYPE_CHECKING:
    from hrrsi.file_info import FileInfo

_WIDTH = 98  # of a line, as reports have it


class Format(StrEnum):
    """How results are printed."""

    TEXT = "text"
    JSON = "json"


def info(
    file: Annotated[
        str,
        typer.Argument(
            help="Weights (.safetensors, .pth, .onnx, .xml; default or light: the package's), a "
            "tiled dataset (folder or dataset.yaml), the folder of a run, any other folder, a "
            "raster, a map, or a vector file (one layer of it: 'areas.gpkg|layername=parcels').",
            show_default=False,
        ),
    ],
    output_format: Annotated[
        Format, typer.Option("--format", help="Lines for people, or JSON for programs.")
    ] = Format.TEXT,
) -> None:
    """Say what a file or folder is: imagery, a map, polygons, weights, a dataset or a run.

    hrrsi info scene.tif

    hrrsi info runs/ued

    hrrsi info runs/

    hrrsi info areas.gpkg

    hrrsi info .

    hrrsi info mine.safetensors --format json
    """
    import json
    import textwrap

    import hrrsi
    from hrrsi.quantities import TextTable

    content = hrrsi.info(file)
    lines = [*content.lines, *_uses(file, content)]
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
    if content.table:
        header, *rows = content.table
        table = TextTable(header, left=range(len(header)), widest=_WIDTH // 2)
        for row in rows:
            table.add_row(row)
        print_line(str(table))


def _uses(file: str, content: FileInfo) -> list[tuple[str, str]]:
    """Return the commands that the content of a file is for, where they are not plain."""
    import shlex

    name = shlex.quote(file)
    if content.kind == "class map":
        return [("look at it", f"hrrsi view {name}")]
    if content.kind == "encoder weights":
        return [("use", "hrrsi train DATASET --encoder-weights FILE")]
    if content.data.get("state") == "can be resumed":
        command = "pretrain" if content.kind == "pre-training run" else "train"
        config = shlex.quote(str(Path(file) / "config.yaml"))
        return [("go on", f"hrrsi {command} --config {config} --resume")]
    if content.kind == "vector file":
        layers = content.data["layers"]
        if len(layers) > 1:
            return [("one layer", f"hrrsi info {shlex.quote(f'{file}|layername=NAME')}")]
        if "olygon" in str(layers[0]["geometry_type"]) and layers[0]["values"]:
            attribute = shlex.quote(next(iter(layers[0]["values"])))
            return [("as labels", f"hrrsi tile ORTHO.tif --labels {name} --attribute {attribute}")]
    return []
