"""Pictures of a run that are left undrawn: drawing them takes longer than most runs of the tests.

A run writes a picture of one pixel in the place of its curves and of its sample patches. What they
show is tested with the functions that draw them, and `drawn_pictures` lets a run draw them as it
does for users.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from hrrsi.files import replacing

_pixel = Image.new("L", (1, 1))


def _write_pixel(_epochs: Any, *arguments: Any) -> None:
    path = next(argument for argument in arguments if isinstance(argument, Path))
    with replacing(path) as temporary:
        _pixel.save(temporary, "png")


_UNDRAWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("hrrsi.training.record", "write_curves"): _write_pixel,
    ("hrrsi.pretraining.classification", "write_pretraining_curves"): _write_pixel,
    ("hrrsi.training.sample_pictures", "_picture"): lambda *_: _pixel,
}
_drawing: dict[tuple[str, str], Callable[..., Any]] = {}


def leave_pictures_undrawn() -> None:
    """Let runs draw no pictures, once something has loaded what draws them."""
    for (module, name), undrawn in _UNDRAWN.items():
        if module in sys.modules and (module, name) not in _drawing:
            _drawing[module, name] = getattr(sys.modules[module], name)
            setattr(sys.modules[module], name, undrawn)


@contextmanager
def drawn_pictures(*functions: str) -> Iterator[None]:
    """Let runs within the context draw all their pictures, or those that some functions draw."""
    for module, name in [key for key in _drawing if not functions or key[1] in functions]:
        setattr(sys.modules[module], name, _drawing.pop((module, name)))
    yield
    leave_pictures_undrawn()
