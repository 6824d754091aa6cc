"""Scenes opened as sliding windows read them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.window_source import SceneWindows, open_scene_windows


@contextmanager
def opened_windows(
    path: Path, *, resolution: float | None = None, aoi: Path | None = None, **options: Any
) -> Iterator[SceneWindows]:
    """Open a raster with options of `open_scene`, and of `open_scene_windows`."""
    with (
        open_scene(path, **options) as scene,
        open_scene_windows(scene, resolution=resolution, aoi=aoi) as source,
    ):
        yield source
