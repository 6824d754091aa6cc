"""Curves that are left undrawn: drawing them takes longer than most runs of the tests.

A run writes a picture of one pixel in their place. What curves show is tested with the functions
that draw them, and `drawn_curves` lets a run draw them as it does for users.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from hrrsi.files import replacing

_PLACES = [
    ("hrrsi.training.record", "write_curves"),
    ("hrrsi.pretraining.classification", "write_pretraining_curves"),
]
_drawing: dict[str, Callable[..., None]] = {}


def leave_curves_undrawn() -> None:
    """Let runs draw no curves, once something has loaded what draws them."""
    for module, name in _PLACES:
        if module in sys.modules and name not in _drawing:
            _drawing[name] = getattr(sys.modules[module], name)
            setattr(sys.modules[module], name, _write_pixel)


@contextmanager
def drawn_curves() -> Iterator[None]:
    """Let runs within the context draw their curves."""
    for module, name in _PLACES:
        if name in _drawing:
            setattr(sys.modules[module], name, _drawing.pop(name))
    yield
    leave_curves_undrawn()


def _write_pixel(_epochs: Any, *arguments: Any) -> None:
    path = next(argument for argument in arguments if isinstance(argument, Path))
    with replacing(path) as temporary:
        Image.new("L", (1, 1)).save(temporary, "png")
