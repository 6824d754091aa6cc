"""Warnings on standard error, one line each."""

import sys


def print_warning(message: object) -> None:
    """Print a warning above whatever progress bar is open."""
    from tqdm import tqdm

    tqdm.write(f"warning: {message}", file=sys.stderr)
