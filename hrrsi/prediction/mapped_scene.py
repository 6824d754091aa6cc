"""Which scenes inputs name, what mapping one will take, and what it yields."""

from __future__ import annotations

import base64
import glob
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hrrsi.class_styles import legend_html
from hrrsi.errors import InputError, warn
from hrrsi.maps.outputs import Outputs
from hrrsi.maps.partial_map import rows_kept
from hrrsi.maps.rasters import MapSummary
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.options import MapOptions, OutputOptions
from hrrsi.prediction.scene_remarks import SceneNotice
from hrrsi.progress import progress
from hrrsi.quantities import area_text, share_text
from hrrsi.scenes.raster_opening import (
    RASTER_SUFFIXES,
    is_local,
    many_files,
    raster_parts,
)
from hrrsi.scenes.scene_rasters import distinct_rasters, may_be_scene
from hrrsi.scenes.window_source import SceneWindows
from hrrsi.scenes.windows import Window, window_starts

if TYPE_CHECKING:
    from hrrsi.maps.zones import ZoneAreas

_GEOPACKAGE = ".gpkg"
_TIMED_WINDOWS = 8
_SECONDS_A_PIXEL = 2.5e-8  # for all but the network: 2.5 s in 100 Mpx


@dataclass(frozen=True, repr=False)
class MappedScene(MapSummary):
    """A scene that has its map.

    Attributes:
        outputs: The files that were written.
        zones: The classes in each zone, or None where no zones were given.
        height_model: The height model that the network saw, or None.
        earlier: Whether the map was there already when the run was resumed.
        seconds: Wall time from opening the scene to the finished files.
    """

    outputs: Outputs
    zones: ZoneAreas | None
    height_model: str | None
    earlier: bool
    seconds: float

    @property
    def path(self) -> Path:
        """The class map."""
        return self.outputs.classes

    def __repr__(self) -> str:
        """Return scene, map, size and shares in a line."""
        shares = (f"{n} {share_text(s)}" for n, s in zip(self.classes, self.shares, strict=True))
        size = f"{self.width} x {self.height} px"
        return f"<MappedScene: {self.scene} → {self.path} ({size}); {', '.join(shares)}>"

    def _repr_html_(self) -> str:
        """Return the map, if it is there, small and with its legend, for notebooks."""
        size = f"{self.width} x {self.height} px"
        title = f"<p>{escape(f'{self.scene} → {self.path} ({size})')}</p>"
        texts = [
            share_text(share) if self.areas is None else f"{share_text(share)}, {area_text(area)}"
            for share, area in zip(self.shares, self.areas or self.shares, strict=True)
        ]
        legend = legend_html(self.classes, self.colours, texts)
        if not self.path.is_file():
            return title + legend
        from hrrsi.maps.preview import thumbnail  # fonts and pictures, which few need

        data = base64.b64encode(thumbnail(self.path, self.colours)).decode()
        return f'{title}<img alt="class map" src="data:image/png;base64,{data}">{legend}'


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
        kept_rows: Rows of an unfinished map that is there: those that ``resume`` need not map.
        problem: Why it can't be mapped, or None.
    """

    scene: str
    outputs: Outputs
    height: int = 0
    width: int = 0
    windows: int = 0
    seconds: float = 0.0
    disk_bytes: int = 0
    kept_rows: int = 0
    problem: str | None = None


def scene_files(
    inputs: Sequence[str | Path], *, tiles: bool = False, show_progress: bool = False
) -> list[str]:
    """Return the rasters that inputs name, each once, in the order given.

    Args:
        inputs: Files, folders (every raster in them, by name, but what hrrsi wrote and the files
            of a mosaic that lies beside them), patterns such as ``scenes/*.tif`` (likewise), or
            whatever GDAL opens (``/vsizip/...``). Of a GeoPackage each raster in it counts.
        tiles: Whether to take the files of a mosaic instead of it.
        show_progress: Whether to show progress on a terminal where many are looked at.

    Raises:
        InputError: A pattern matches nothing, or a folder holds no raster.
    """
    rasters: dict[str, None] = {}
    bar_of_files = progress("files", None, " files", enabled=show_progress, delay=2)
    with many_files([str(name) for name in inputs]), bar_of_files as bar:
        for name in inputs:
            rasters.update(dict.fromkeys(_expanded(str(name), bar, tiles=tiles)))
    return list(rasters)


def seconds_a_window(engine: Engine, window: int) -> float:
    """Return the wall time that a window takes, measured on windows of noise.

    Args:
        engine: Runs the network.
        window: Rows and columns of a window.
    """
    meta = engine.meta
    noise = np.random.default_rng(0).integers(
        0, 256, (meta.band_count, window, window), dtype=np.uint8
    )
    if meta.height:
        noise = noise.astype(np.float32)
    seconds = 0.0
    for _ in range(2):  # the first time, the graph is compiled
        start = time.perf_counter()
        for _ in engine.logits([noise] * _TIMED_WINDOWS, *meta.normalisation(255)):
            pass
        seconds = time.perf_counter() - start
    return seconds / _TIMED_WINDOWS


def planned_scene(
    source: SceneWindows,
    files: Outputs,
    options: MapOptions,
    outputs: OutputOptions,
    engine: Engine,
    seconds: float,
) -> PlannedScene:
    """Return what mapping a scene will take.

    Args:
        source: The open scene.
        files: Its files.
        options: How it will be mapped.
        outputs: What will be written.
        engine: Runs the network.
        seconds: Wall time that a window takes.
    """
    window = options.effective_window
    starts = [
        window_starts(length, window, window - options.effective_overlap)
        for length in source.network_grid
    ]
    windows = len(starts[0]) * len(starts[1])
    if source.area is not None:
        extent, raster_window = source.area.extent, source.raster_window
        rows = _reaching(starts[0], window, source.steps[0], extent.row, extent.height)
        cols = _reaching(starts[1], window, source.steps[1], extent.col, extent.width)
        windows = 0
        places = np.array([raster_window(Window(0, col, window, window)) for col in cols])
        for row in rows:  # a row at a time: there may be millions
            places[:, [0, 2]] = raster_window(Window(row, 0, window, window))[::2]
            windows += int(source.area.touched(places).sum())
    height, width = source.raster_grid
    itemsize = {None: 0, "uint8": 1, "float32": 4}
    classes = len(engine.meta.classes)
    bytes_a_pixel = 1 + itemsize[outputs.confidence] + classes * itemsize[outputs.probabilities]
    return PlannedScene(
        source.path,
        files,
        height=height,
        width=width,
        windows=windows,
        seconds=windows * seconds + height * width * _SECONDS_A_PIXEL,
        disk_bytes=height * width * bytes_a_pixel * 4 // 3,  # overviews make a third more
        kept_rows=rows_kept(files.classes, {}),
    )


def _reaching(
    starts: Sequence[int], window: int, step: float, first: int, length: int
) -> list[int]:
    """Return the starts of windows that reach some pixels of the raster along an axis."""
    stop = first + length
    return [s for s in starts if s * step <= stop and (s + window) * step >= first]


def _expanded(name: str, bar: Any, *, tiles: bool) -> list[str]:
    path = Path(name)
    if is_local(name) and path.is_file() and path.suffix.lower() == _GEOPACKAGE:
        return raster_parts(name) or [name]
    if not is_local(name) or path.is_file():
        return [name]
    if path.is_dir():
        files = sorted(str(p) for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        rasters = [f for f in files if Path(f).suffix.lower() in RASTER_SUFFIXES]
        rasters += [
            part for f in files if Path(f).suffix.lower() == _GEOPACKAGE for part in raster_parts(f)
        ]
        scenes = _scenes_among(rasters, bar, tiles=tiles)
        if not scenes:
            raise InputError("holds no rasters", where=name, fix="name a folder of scenes")
        return scenes
    if glob.has_magic(name):
        matches = sorted(m for m in glob.glob(name, recursive=True) if Path(m).is_file())
        scenes = _scenes_among(matches, bar, tiles=tiles)
        if not scenes:
            reason = "matches class maps only" if matches else "matches no file"
            raise InputError(reason, where=name, fix="check the pattern")
        return scenes
    return [name]


def _scenes_among(rasters: Sequence[str], bar: Any, *, tiles: bool) -> list[str]:
    """Return rasters without what hrrsi wrote, and without what mosaics show; say the latter.

    Args:
        rasters: The rasters.
        bar: From `progress`: counts those that were looked at.
        tiles: Whether to take the files of a mosaic instead of it.
    """
    scenes = []
    for raster in rasters:
        if may_be_scene(raster):
            scenes.append(raster)
        bar.update()
    distinct = distinct_rasters(scenes, tiles=tiles)
    for note in distinct.notes:
        warn(note, SceneNotice)
    return distinct.rasters
