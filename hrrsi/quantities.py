"""Figures with units, and lists, as people read them."""

from collections.abc import Sequence


def area_text(square_metres: float) -> str:
    """Return an area in hectares, or in square metres below one hectare."""
    if square_metres >= 10_000:
        return f"{square_metres / 10_000:,.2f} ha"
    return f"{square_metres:,.0f} m²"


def length_text(metres: float) -> str:
    """Return a ground sampling distance, in centimetres below a metre."""
    return f"{metres * 100:.3g} cm" if metres < 1 else f"{metres:.3g} m"


def byte_text(count: int) -> str:
    """Return a number of bytes in gigabytes, in megabytes below one."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def time_text(seconds: float) -> str:
    """Return a time in seconds, from two minutes on in minutes, from two hours on in hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def counted(number: int, noun: str) -> str:
    """Return a number of things, e.g. ``1 epoch`` or ``2,000 steps``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def share_text(share: float | None) -> str:
    """Return a share (0 to 1) in percent, or a dash where it is not defined."""
    return "-" if share is None or share != share else f"{share:.2%}"


def names_text(names: Sequence[str], most: int = 8) -> str:
    """Return the first of some names, and dots where there are more than `most`."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def counted_names(names: Sequence[str], most: int = 8) -> str:
    """Return the first of some names, and how many more than `most` there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
