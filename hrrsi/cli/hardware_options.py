"""Options of ``hrrsi train`` and ``hrrsi pretrain`` that say what a run computes on, and how."""

from typing import Annotated, Any

import typer

from hrrsi.runs.options import Precision

HARDWARE_PANEL = "Hardware"


def _precision(more: str) -> Any:
    return typer.Option(
        "--precision",
        help="32, or mixed precision: bf16, or 16 (GPU only). auto: bf16 where the hardware "
        f"computes in it, else 32{more}.",
        rich_help_panel=HARDWARE_PANEL,
    )


TrainingDevice = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto, cpu, cuda or cuda:N; auto takes a GPU if there is one.",
        rich_help_panel=HARDWARE_PANEL,
    ),
]
Devices = Annotated[
    int,
    typer.Option(
        "--devices",
        min=1,
        help="Processes on each machine, each with a GPU (or, on the CPU, a share of the cores) "
        "of its own. --batch is shared out among them.",
        rich_help_panel=HARDWARE_PANEL,
    ),
]
Nodes = Annotated[
    int,
    typer.Option(
        "--nodes",
        min=1,
        help="Machines. Start the same command on each with torchrun or SLURM's srun.",
        rich_help_panel=HARDWARE_PANEL,
    ),
]
TrainingPrecision = Annotated[Precision, _precision("; and 32 for the published recipe")]
PretrainingPrecision = Annotated[Precision, _precision("")]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile/--no-compile",
        help="Compile the network and the losses first: a minute or more at the start, then "
        "faster steps. It pays on a GPU, and in long runs.",
        rich_help_panel=HARDWARE_PANEL,
    ),
]
