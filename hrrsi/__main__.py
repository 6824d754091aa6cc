"""The program: ``hrrsi``, and ``python -m hrrsi``."""

from hrrsi.interruption import heed_signals_for_good


def main() -> None:
    """Run the command line."""
    heed_signals_for_good()  # before imports, which Ctrl-C would break in the middle
    from hrrsi.cli import main as run_command_line

    run_command_line()


if __name__ == "__main__":
    main()
