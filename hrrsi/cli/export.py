"""``hrrsi export``: networks for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from hrrsi.cli.messages import print_line
from hrrsi.cli.options import (
    ExportedFile,
    Flag,
    Flags,
    NetworkWeights,
    Overwrite,
    Quiet,
    takes_option_classes,
)
from hrrsi.deployment.options import ExportOptions

EXPORT_FLAGS: Flags = {
    "format": Flag(
        typer.Option("--format", help="onnx, or openvino (an .xml with a .bin beside it)."),
    ),
    "window": Flag(typer.Option("--window", help="Rows and columns of its windows.")),
    "overlap": Flag(
        typer.Option(
            "--overlap",
            help="Pixels that neighbouring windows share, for programs that cut scenes as the file "
            "says. Default: 3/16 of the window.",
        )
    ),
    "resolution": Flag(
        typer.Option(
            "--resolution",
            help="Metres per pixel that other programs read scenes at. Default: the weights' own.",
        )
    ),
}


@takes_option_classes
def export(
    weights: NetworkWeights = None,
    out: ExportedFile = Path("model.onnx"),
    options: Annotated[ExportOptions, EXPORT_FLAGS] = ExportOptions(),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write a network as a file that other programs run.

    Pixels divided by 255 in, class probabilities out; the metadata is what GeoDeep and the QGIS
    plugin Deepness read. The file is kept if it gives the labels that `hrrsi predict` gives.

    hrrsi export --out landcover.onnx

    hrrsi export runs/ued/best.safetensors --out windows_256.onnx --window 256

    geodeep ortho.tif landcover.onnx --output areas.geojson
    """
    import hrrsi
    from hrrsi.cli.messages import print_weights

    print_weights(weights)
    exported = hrrsi.export(
        weights, out, options=options, overwrite=overwrite, show_progress=not quiet
    )
    print_line(
        f"{exported.path}: {exported.file_bytes / 1e6:.1f} MB, windows of {options.window} px at "
        f"{100 * exported.resolution:.3g} cm a pixel; checked with {exported.runtime} on "
        f"{exported.compared:,} px, of which {exported.different:,} have another label than here"
    )
