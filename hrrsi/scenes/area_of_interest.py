"""The area of interest on a scene: polygons outside which nothing is asked for."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

from hrrsi.errors import HrrsiError
from hrrsi.scenes.polygons import ScenePolygons, scene_polygons
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window


class AreaOfInterest:
    """Which pixels of a scene lie in a polygon.

    Args:
        polygons: At least one.
    """

    def __init__(self, polygons: ScenePolygons) -> None:
        self._polygons = polygons
        self._codes = np.ones(len(polygons.geometries), dtype=np.uint8)

    @cached_property
    def digest(self) -> str:
        """A digest of the polygons' corners on the scene, by which two areas are told apart."""
        content = b"".join(shapely.to_wkb(self._polygons.geometries))
        return hashlib.sha256(content).hexdigest()

    def touches(self, window: Window) -> bool:
        """Return whether a polygon touches a window of the raster's own grid."""
        return bool(self._polygons.near(window).size)

    def inside(self, window: Window) -> npt.NDArray[np.bool_]:
        """Return which pixels of a window have their centre in a polygon.

        Args:
            window: On the raster's own grid.

        Returns:
            (height, width) bool.
        """
        return self._polygons.burned(window, self._codes, 0).view(np.bool_)


def area_of_interest(path: str | Path, scene: Scene) -> AreaOfInterest:
    """Return the polygons of a vector file as a scene's area of interest.

    Args:
        path: Any vector file that GDAL reads, with one layer of polygons.
        scene: The open scene; polygons in another CRS are reprojected to its.

    Raises:
        HrrsiError: As `scene_polygons`, or no polygon lies on the scene.
    """
    polygons = scene_polygons(path, scene)
    whole = Window(0, 0, scene.dataset.height, scene.dataset.width)
    if not len(polygons.geometries) or not polygons.near(whole).size:
        raise HrrsiError(
            f"no polygon lies on {scene.path}",
            where=path,
            fix="check its CRS, or leave the scene out",
        )
    return AreaOfInterest(polygons)
