"""What mapping a scene yields, and what it will take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hrrsi.maps.outputs import Outputs

if TYPE_CHECKING:
    from hrrsi.maps.zone_areas import ZoneAreas


@dataclass(frozen=True)
class MappedScene:
    """A scene that has its map.

    Attributes:
        scene: The raster, as given.
        outputs: The files that were written.
        height: Rows of pixels.
        width: Columns of pixels.
        classes: Class names in the order of their indices.
        colours: Class colours (red, green, blue, 0 to 255), likewise.
        class_pixels: Pixels of each class.
        nodata_pixels: Pixels without data.
        pixel_area: Square metres of a pixel in the middle of the scene, or None where the ground
            resolution is not known.
        areas: Square metres of each class on the ground, or None where they are not known.
        zones: The classes in each zone, or None where no zones were given.
        height_model: The height model that the network saw, or None.
        earlier: Whether the map was there already when the run was resumed.
        seconds: Wall time from opening the scene to the finished files.
    """

    scene: str
    outputs: Outputs
    height: int
    width: int
    classes: list[str]
    colours: list[tuple[int, int, int]]
    class_pixels: list[int]
    nodata_pixels: int
    pixel_area: float | None
    areas: list[float] | None
    zones: ZoneAreas | None
    height_model: str | None
    earlier: bool
    seconds: float

    @property
    def path(self) -> Path:
        """The class map."""
        return self.outputs.classes

    @property
    def shares(self) -> list[float]:
        """Share of each class in the pixels that hold data, 0 to 1."""
        return [n / max(1, sum(self.class_pixels)) for n in self.class_pixels]


@dataclass(frozen=True)
class PlannedScene:
    """What mapping a scene will take.

    Attributes:
        scene: The raster, as given.
        outputs: The files that will be written.
        height: Rows of pixels.
        width: Columns of pixels.
        windows: Windows that the network will see.
        seconds: Estimated wall time.
        disk_bytes: Disk space that the unfinished map needs beside the finished one.
        problem: Why it can't be mapped, or None.
    """

    scene: str
    outputs: Outputs
    height: int = 0
    width: int = 0
    windows: int = 0
    seconds: float = 0.0
    disk_bytes: int = 0
    problem: str | None = None
