"""Tiles of a mosaic, cut from one scene."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin
from rasterio.windows import Window
from samples.made_weights import scene_pixels
from samples.predicted_scenes import save_scene

PLACE = from_origin(500000.1, 2790000.3, 0.3, 0.3)
PIXELS = np.moveaxis(scene_pixels(), -1, 0)[:, :200, :260]
# rows and columns where tiles meet, which are none of the windows'
ROWS, COLS = (0, 90, 200), (0, 70, 150, 260)
WINDOWS = {
    f"t{i}{j}.tif": Window(COLS[j], ROWS[i], COLS[j + 1] - COLS[j], ROWS[i + 1] - ROWS[i])
    for i in range(2)
    for j in range(3)
}
REVERSED = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]


def save_tile(path: Path, window: Window, pixels: np.ndarray = PIXELS, **profile: Any) -> Path:
    rows, cols = window.toslices()
    place = PLACE @ rasterio.Affine.translation(window.col_off, window.row_off)
    form = {"crs": "EPSG:32640", "transform": place, **profile}
    return save_scene(path, np.ascontiguousarray(pixels[:, rows, cols]), **form)
