"""``hrrsi view``: maps over their scenes in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hrrsi.cli.messages import print_line, print_note, scene_warnings_in_one_line
from hrrsi.cli.options import (
    READING_FLAGS,
    Flag,
    Flags,
    Layer,
    takes_option_classes,
    with_layers,
)
from hrrsi.viewer import ViewOptions

_LABELS = "Labels to compare with"

_VIEW_FLAGS: Flags = {
    "bands": Flag(
        typer.Option(
            "--bands",
            help="Bands of the scene to show, from 1, e.g. 4,1,2. Default: those that the map was "
            "made of, else red, green and blue.",
        ),
        str | None,
        READING_FLAGS["bands"].value,
    ),
    "scheme": Flag(
        typer.Option(
            "--scheme",
            help="What labels mean, and maps that don't say it: dubai, potsdam, vaihingen, or your "
            "own .yaml file. Default: the values that the file holds.",
            rich_help_panel=_LABELS,
        ),
        str | None,
    ),
    "label_format": Flag(
        typer.Option(
            "--label-format",
            help="What labels hold, if not what they look like.",
            rich_help_panel=_LABELS,
        )
    ),
    "attribute": Flag(
        typer.Option(
            "--attribute",
            help="The polygons' attribute that holds the class.",
            rich_help_panel=_LABELS,
        )
    ),
    "port": Flag(typer.Option("--port", help="Port of the page. Default: one that is free.")),
}


@takes_option_classes
def view(
    maps: Annotated[
        list[str],
        typer.Argument(help="Class rasters, or folders with class rasters of hrrsi's."),
    ],
    *,
    scene: Annotated[
        str | None,
        typer.Option(
            "--scene",
            help="The scene below the maps. Default: the one that each was made of, where it "
            "still is.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="A raster or polygons: shows them, and where the maps are right and wrong.",
            rich_help_panel=_LABELS,
        ),
    ] = None,
    options: Annotated[ViewOptions, _VIEW_FLAGS],
    layer: Layer = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address alone, and open no browser.")
    ] = False,
) -> None:
    """Show maps over their scenes in a browser, in a page of this machine.

    Swipe between scene and map, click a pixel for its class and confidence, read the area of each
    class, compare two maps of a place or a map with its labels. Rasters are read tile by tile, and
    nobody but this machine can ask for the page. Ctrl-C ends it.

    - `hrrsi view scene_classes.tif`

    - `hrrsi view before.tif after.tif --scene scene.tif`

    - `hrrsi view scene_classes.tif --labels truth.gpkg --attribute class`
    """
    import hrrsi

    (layers,) = with_layers([layer] if layer else [], [] if labels is None else [labels])
    with scene_warnings_in_one_line():
        viewer = hrrsi.view(maps, scene=scene, labels=next(iter(layers), None), options=options)
    with viewer:
        for note in viewer.notes:
            print_note(note)
        opened = not no_browser and viewer.open_browser()
        print_line(f"{viewer.address}  (Ctrl-C ends it)")
        if not opened:
            _print_ways(viewer.port, no_browser)
        viewer.wait()


def _print_ways(port: int, was_asked: bool) -> None:
    """Say how to see the page where no browser was opened."""
    import getpass
    import os
    import socket
    from contextlib import suppress

    if not was_asked:
        print_note("note: no browser was opened: there is no screen here; open the address in one")
    if not was_asked or os.environ.get("SSH_CONNECTION"):
        host = socket.gethostname()
        with suppress(KeyError, OSError):  # in containers users may have no name
            host = f"{getpass.getuser()}@{host}"
        tunnel = f"ssh -N -L {port}:127.0.0.1:{port} {host}"
        print_note(f"note: from another machine: {tunnel}, then open the address there")
