"""Which scene a map is of: where it was, beside the map, or the tiles that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from rasterio.io import MemoryFile

from hrrsi.errors import HrrsiError, InputError
from hrrsi.labels.laid_classes import on_grid
from hrrsi.labels.scene_labels import Indices
from hrrsi.maps.styles import scene_of, tiles_of
from hrrsi.quantities import counted_names
from hrrsi.scenes.bands import open_imagery
from hrrsi.scenes.raster_opening import RASTER_SUFFIXES, is_local
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window
from hrrsi.viewer.places import MAP_ENDING

_MOST_TEXT = 1 << 24  # bytes of a VRT


def map_scene(path: str, raster: Scene, stack: ExitStack, say: Callable[[str], None]) -> str | None:
    """Return the path of the scene that a map was made of, None where that is not known.

    It is looked for where it was, and beside the map; a map's tiles become one scene in memory.

    Args:
        path: The map.
        raster: The map, open.
        stack: Closes what is made in memory.
        say: Called where no scene is known, with what a person can do.
    """
    if not is_local(path):
        return None
    file = Path(path)
    recorded, tiles = scene_of(file), tiles_of(file)
    candidates = []
    if recorded is not None:
        candidates += [recorded, str(file.with_name(Path(recorded).name))]
    if file.stem.endswith(MAP_ENDING):
        stem = file.stem.removesuffix(MAP_ENDING)
        candidates += [str(file.with_name(stem + end)) for end in sorted(RASTER_SUFFIXES)]
    # a map of a stranger's must not make this machine ask another one
    candidates = [
        name
        for name in candidates
        if is_local(name) and Path(name).is_file() and not _may_name_addresses(Path(name))
    ]
    if tiles:
        candidates = [*_mosaics(file, tiles, stack), *candidates]
    for name in candidates:
        try:
            with open_imagery(name, 3) as dataset:
                on_grid(UnreadRaster(Scene(name, dataset, (1,))), raster, "map")
        except HrrsiError:
            continue
        return name
    words, fix = "does not say which scene it is of", "give it as `scene`"
    if recorded is not None:
        words = f"its scene is not where it was ({recorded})"
        if is_local(recorded) and Path(recorded).exists():
            words = f"its scene lies elsewhere, or can't be read ({recorded})"
        elif not is_local(recorded):
            words = f"its scene is on another machine ({recorded})"
    elif tiles:
        words = f"its tiles are not all where they were ({counted_names(tiles, most=2)})"
        fix = "make them one with `gdalbuildvrt scene.vrt TILES`, and give that as `scene`"
    say(f"note: {path}: {words}; {fix}")
    return None


def _mosaics(map_file: Path, tiles: Sequence[str], stack: ExitStack) -> list[str]:
    """Return the virtual raster of a map's tiles, in memory; none where a tile is gone."""
    # polygons' libraries, seldom asked for
    from hrrsi.scenes.mosaic import tile_mosaic

    for paths in (tiles, [str(map_file.with_name(Path(tile).name)) for tile in tiles]):
        if not all(is_local(tile) and Path(tile).is_file() for tile in paths):
            continue
        with suppress(InputError):  # they were changed since
            mosaic = tile_mosaic(paths)
            file = MemoryFile(mosaic.vrt(), filename=f"{mosaic.name}.vrt")
            return [str(stack.enter_context(file).name)]
    return []


def _may_name_addresses(path: Path) -> bool:
    """Return whether a file is text (a VRT, a map service) that makes GDAL read elsewhere."""
    with path.open("rb") as file:
        head = file.read(64)
        text = head + file.read(_MOST_TEXT) if head.lstrip().startswith(b"<") else b""
    return b"/vsi" in text or b"://" in text


class UnreadRaster:
    """A raster that is laid on another one, of which nothing is read."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def read(self, window: Window) -> Indices:
        """Raise an error: only its place counts."""
        raise NotImplementedError
