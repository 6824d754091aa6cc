"""``hrrsi quantize``: networks in int8 or half precision."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hrrsi.cli.export import EXPORT_FLAGS
from hrrsi.cli.messages import print_line, print_note
from hrrsi.cli.options import Flag, Flags, Overwrite, takes_option_classes
from hrrsi.deployment.options import ExportOptions, QuantizationOptions

if TYPE_CHECKING:
    from hrrsi.deployment.quantization import QuantizedNetwork

_FLAGS: Flags = {
    "precision": Flag(typer.Option("--precision", help="int8, or 16 (half precision).")),
    "patches": Flag(
        typer.Option(
            "--patches", min=1, help="Training patches that the ranges of int8 are taken from."
        )
    ),
    "max_drop": Flag(
        typer.Option(
            "--max-drop", help="Points of mIoU that it may cost; beyond, nothing is written."
        )
    ),
}


@takes_option_classes
def quantize(
    weights: Annotated[
        Path | None,
        typer.Argument(
            help="A weights file; or default, which it is by default, or light: the package's.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            help="A tiled dataset: ranges come from its training split, scores from val.",
        ),
    ] = ...,  # type: ignore[assignment]  # typer's mark of what has to be given
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The file: .onnx, or .xml for OpenVINO.")
    ] = Path("int8.onnx"),
    options: Annotated[QuantizationOptions, _FLAGS] = QuantizationOptions(),
    export: Annotated[ExportOptions, EXPORT_FLAGS] = ExportOptions(),
    overwrite: Overwrite = False,
) -> None:
    """Write a network in int8 for a board, and say what that costs and gains.

    Ranges are taken by the method that keeps most labels, found by trying, as are layers that have
    to stay in float. Takes minutes.

    hrrsi quantize --data dubai/ --out landcover_int8.onnx

    hrrsi quantize runs/ued/best.safetensors --data dataset/ --window 256 --out small.onnx

    hrrsi eval dubai/ --weights landcover_int8.onnx
    """
    import hrrsi
    from hrrsi.cli.messages import print_weights

    print_weights(weights)
    quantized = hrrsi.quantize(
        weights,
        data,
        out,
        options=options,
        export=export,
        overwrite=overwrite,
        show_progress=True,
    )
    _print_result(quantized)


def _print_result(network: "QuantizedNetwork") -> None:
    """Print what quantizing cost and gained."""
    from prettytable import PrettyTable

    from hrrsi.quantities import share_text

    values = network.meta.quantized
    assert values is not None
    before, after = values["before"], values["after"]
    table = PrettyTable(["", "before", "after"], align="r")
    table.align[""] = "l"
    for name in ("mIoU", "OA"):
        table.add_row([name, *(share_text(own[name]) for own in (before, after))])
    for name in before["IoU"]:
        table.add_row(
            [f"IoU of {name}", *(share_text(own["IoU"][name]) for own in (before, after))]
        )
    table.add_row(["file (MB)", *(f"{own['bytes'] / 1e6:.2f}" for own in (before, after))])
    for runtime, times in values["milliseconds"].items():
        table.add_row([f"ms a window, {runtime}", *(f"{time:.1f}" for time in times)])
    print_line(table.get_string())
    print_line(f"scores: {values['protocol']}; times: {values['hardware']}")
    lines = [f"{share_text(values['agreement'])} of labels agree"]
    if values["ranges"] is not None:
        lines.append(f"ranges by {values['ranges']} of {values['patches']} training patches")
        lines.append(f"kept in float: {', '.join(values['float_layers']) or 'no layer'}")
    print_line(f"{network.path}: {'; '.join(lines)}")
    if network.is_slower_than_bf16:
        print_note(
            f"note: this processor calculates in bf16, which takes {network.bf16_milliseconds:.1f} "
            "ms a window in OpenVINO with the float network: no slower, so take that here"
        )
