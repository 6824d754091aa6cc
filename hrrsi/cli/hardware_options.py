"""Flags of ``hrrsi train`` and ``hrrsi pretrain`` that say what a run computes on, and how."""

import typer

from hrrsi.cli.option_classes import Flag, Flags

HARDWARE_PANEL = "Hardware"


def hardware_flags(workers: str, precision: str = "") -> Flags:
    """Return the flags of fields that option classes of runs share.

    Args:
        workers: What the workers do.
        precision: What else decides the precision ``auto``.
    """
    return {
        "device": Flag(
            typer.Option(
                "--device",
                help="auto, cpu, cuda or cuda:N; auto takes a GPU if there is one.",
                rich_help_panel=HARDWARE_PANEL,
            )
        ),
        "devices": Flag(
            typer.Option(
                "--devices",
                min=1,
                help="Processes on each machine, each with a GPU (or, on the CPU, a share of the "
                "cores) of its own. --batch is shared out among them.",
                rich_help_panel=HARDWARE_PANEL,
            )
        ),
        "nodes": Flag(
            typer.Option(
                "--nodes",
                min=1,
                help="Machines. Start the same command on each with torchrun or SLURM's srun.",
                rich_help_panel=HARDWARE_PANEL,
            )
        ),
        "precision": Flag(
            typer.Option(
                "--precision",
                help="32, or mixed precision: bf16, or 16 (GPU only). auto: bf16 where the "
                f"hardware computes in it, else 32{precision}.",
                rich_help_panel=HARDWARE_PANEL,
            )
        ),
        "compile": Flag(
            typer.Option(
                "--compile/--no-compile",
                help="Compile the network and the losses first: a minute or more at the start, "
                "then faster steps. It pays on a GPU, and in long runs.",
                rich_help_panel=HARDWARE_PANEL,
            )
        ),
        "workers": Flag(
            typer.Option("--workers", min=0, help=workers, rich_help_panel=HARDWARE_PANEL)
        ),
    }
