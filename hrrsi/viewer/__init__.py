"""Maps in a browser: a page of this machine that shows them over their scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from hrrsi.classes import LabelFormat
from hrrsi.errors import OptionError, require_choice

_HIGHEST_PORT = 65535


@dataclass(frozen=True)
class ViewOptions:
    """How maps, scenes and labels are read, and where the page is.

    Attributes:
        scheme: ``dubai``, ``potsdam``, ``vaihingen``, or a YAML file: what labels mean, and maps
            that don't say it themselves; None: the classes are the values that the file holds.
        label_format: What labels hold, if not what they look like or what the scheme says.
        attribute: The polygons' attribute that holds the class; None: the scheme's, or that of the
            file's style.
        bands: The 1-based bands of the scene that are shown, three or one; None: those that the
            map was made of, else red, green and blue.
        port: The port of the page; 0: one that is free.

    Raises:
        OptionError: One is not usable.
    """

    scheme: str | Path | None = None
    label_format: LabelFormat | None = None
    attribute: str | None = None
    bands: Sequence[int] | None = None
    port: int = 0

    def __post_init__(self) -> None:
        if self.bands is not None:
            object.__setattr__(self, "bands", tuple(self.bands))
            if len(self.bands) not in (1, 3):
                raise OptionError("name three bands, or one", parameter="bands", fix="e.g. 4,1,2")
        if not 0 <= self.port <= _HIGHEST_PORT:
            raise OptionError(
                f"{self.port} is no port", parameter="port", fix=f"give 0 to {_HIGHEST_PORT}"
            )
        require_choice("label_format", self.label_format, (None, *get_args(LabelFormat)))
