"""What mapping a scene yields."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MappedScene:
    """A scene that has its map.

    Attributes:
        scene: The raster, as given.
        path: Its class map.
        height: Rows of pixels.
        width: Columns of pixels.
        classes: Class names in the order of their indices.
        colours: Class colours (red, green, blue, 0 to 255), likewise.
        class_pixels: Pixels of each class.
        nodata_pixels: Pixels without data.
        pixel_area: Square metres of a pixel, or None where the ground resolution is not known.
        seconds: Wall time from opening the scene to the finished map.
    """

    scene: str
    path: Path
    height: int
    width: int
    classes: list[str]
    colours: list[tuple[int, int, int]]
    class_pixels: list[int]
    nodata_pixels: int
    pixel_area: float | None
    seconds: float

    @property
    def shares(self) -> list[float]:
        """Share of each class in the pixels that hold data, 0 to 1."""
        return [n / max(1, sum(self.class_pixels)) for n in self.class_pixels]

    @property
    def areas(self) -> list[float] | None:
        """Square metres of each class, or None where the ground resolution is not known."""
        area = self.pixel_area
        return None if area is None else [n * area for n in self.class_pixels]
