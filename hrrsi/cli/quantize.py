"""``hrrsi quantize``: networks in int8 or half precision."""

from pathlib import Path
from typing import Annotated

import typer

from hrrsi.cli.export import EXPORT_FLAGS
from hrrsi.cli.messages import print_line, print_note, scene_warnings_in_one_line
from hrrsi.cli.options import (
    ExportedFile,
    Flag,
    Flags,
    NetworkWeights,
    Overwrite,
    Quiet,
    takes_option_classes,
)
from hrrsi.deployment.options import ExportOptions, QuantizationOptions

_FLAGS: Flags = {
    "precision": Flag(typer.Option("--precision", help="int8, or 16 (half precision).")),
    "patches": Flag(
        typer.Option("--patches", help="Training patches that the ranges of int8 are taken from.")
    ),
    "max_drop": Flag(
        typer.Option(
            "--max-drop", help="Points of mIoU that it may cost; beyond, nothing is written."
        )
    ),
}


@takes_option_classes
def quantize(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            help="A tiled dataset: ranges come from its training split, scores from val.",
        ),
    ],
    weights: NetworkWeights = None,
    out: ExportedFile = Path("int8.onnx"),
    options: Annotated[QuantizationOptions, _FLAGS] = QuantizationOptions(),
    export: Annotated[ExportOptions, EXPORT_FLAGS] = ExportOptions(),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write a network in int8 for a board, and say what that costs and gains.

    Ranges are taken by the method that keeps most labels, found by trying, as are layers that have
    to stay in float. Takes minutes.

    hrrsi quantize --data dataset/ --out landcover_int8.onnx

    hrrsi quantize runs/ued/best.safetensors --data dataset/ --window 256 --out small.onnx

    hrrsi eval dataset/ --weights landcover_int8.onnx
    """
    import hrrsi
    from hrrsi.cli.messages import print_weights

    print_weights(weights)
    with scene_warnings_in_one_line():
        quantized = hrrsi.quantize(
            weights,
            data,
            out,
            options=options,
            export=export,
            overwrite=overwrite,
            show_progress=not quiet,
        )
    from hrrsi.deployment.quantization import quantization_table

    print_line(quantization_table(quantized))
    if quantized.is_slower_than_bf16:
        print_note(
            "note: this processor calculates in bf16, which takes "
            f"{quantized.bf16_milliseconds:.1f} ms a window in OpenVINO with the float network: no "
            "slower, so take that here"
        )
