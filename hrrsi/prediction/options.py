"""How scenes are mapped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hrrsi.maps.score_rasters import ScoreType


@dataclass(frozen=True)
class MapOptions:
    """How scenes are mapped; `hrrsi.predict` says what each means.

    Attributes:
        window: Rows and columns of a window.
        overlap: Pixels that windows share.
        augmentation: ``none``, ``flip`` or ``d4``.
        bands: The 1-based bands, or None.
        nodata: Value of pixels without data, or None.
        scale: Value of full brightness, or None.
        height: Where height models come from, or None.
        aoi: Polygons of the area of interest, or None.
        resample: Whether scenes are read at the weights' resolution.
        min_area: Area below which components are merged into their neighbours, or None.
        confidence: Type of the confidences, or None.
        probabilities: Type of the class probabilities, or None.
        zones: Polygons of the zones, or None.
        zone_name: Attribute that names zones, or None.
    """

    window: int
    overlap: int
    augmentation: str = "none"
    bands: tuple[int, ...] | None = None
    nodata: float | None = None
    scale: float | None = None
    height: str | None = None
    aoi: Path | None = None
    resample: bool = False
    min_area: float | None = None
    confidence: ScoreType | None = None
    probabilities: ScoreType | None = None
    zones: Path | None = None
    zone_name: str | None = None
