"""``hrrsi prune``: networks with fewer channels."""

from pathlib import Path
from typing import Annotated

import typer

from hrrsi.cli.messages import print_line, print_note, scene_warnings_in_one_line
from hrrsi.cli.options import (
    DEVICE_HELP,
    Flag,
    Flags,
    NetworkWeights,
    Overwrite,
    Quiet,
    takes_option_classes,
)
from hrrsi.deployment.options import PruneOptions

_FLAGS: Flags = {
    "macs": Flag(
        typer.Option(
            "--macs",
            help="Share of the multiply-accumulates to be left at most, between 0 and 1.",
        )
    ),
    "patches": Flag(
        typer.Option(
            "--patches",
            help="Training patches that say which channels count, spread over all.",
        )
    ),
    "multiple": Flag(
        typer.Option(
            "--multiple",
            help="What is left of a layer's channels is a multiple of it. Processors compute them "
            "in groups of 8 or 16.",
        )
    ),
    "device": Flag(typer.Option("--device", help=DEVICE_HELP)),
}


@takes_option_classes
def prune(
    data: Annotated[
        Path,
        typer.Option(
            "--data", help="Folder of a tiled dataset with the weights' classes and bands."
        ),
    ],
    weights: NetworkWeights = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file: .safetensors.")] = Path(
        "pruned.safetensors"
    ),
    options: Annotated[PruneOptions, _FLAGS] = PruneOptions(),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be cut; write nothing.")
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Cut channels out of a network, so that its file and its time shrink.

    Those go that the loss on training patches would miss least, for each multiply-accumulate that
    they save. What is left is a weights file like any other: it maps, is exported and profiled,
    and `hrrsi train --init` lets it learn on where too much was lost.

    hrrsi prune light --data dataset/ --macs 0.7 --dry-run

    hrrsi prune runs/ued/best.safetensors --data dataset/ --macs 0.7 --out pruned.safetensors

    hrrsi train dataset/ --model ued --init pruned.safetensors --epochs 10 --lr 0.001 --out pruned
    """
    import hrrsi
    from hrrsi.cli.messages import print_weights

    print_weights(weights)
    with scene_warnings_in_one_line():
        pruned = hrrsi.prune(
            weights,
            data,
            out,
            options=options,
            dry_run=dry_run,
            overwrite=overwrite,
            show_progress=not quiet,
        )
    from hrrsi.deployment.pruning import pruning_table

    print_line(pruning_table(pruned))
    if pruned.path is None:
        print_note("dry run: nothing was written")
        return
    print_line(
        f"{pruned.path}: to let it learn on, hrrsi train {data} --model {pruned.meta.model} "
        f"--init {pruned.path} --epochs 10 --lr 0.001 --out runs_pruned"
    )
