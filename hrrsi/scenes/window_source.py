"""What sliding-window inference reads: windows on a network's grid, of a scene or of an array."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from hrrsi.scenes.georeference import scaled_grid
from hrrsi.scenes.resampling import (
    OWN_STEPS,
    GridAxis,
    Steps,
    Valid,
    required_step,
    resampled_window,
    steps_to,
)
from hrrsi.scenes.scene import Scene, open_overview
from hrrsi.scenes.windows import Grid, Window

if TYPE_CHECKING:
    from hrrsi.scenes.polygons import AreaOfInterest


class WindowSource(Protocol):
    """Pixels on two grids: the network's, on which windows lie, and the raster's, which maps have.

    Pixel i of the raster has its centre at ``(i + 0.5) / step - 0.5`` on the network's grid, along
    both axes.
    """

    @property
    def path(self) -> str:
        """What messages call it."""
        ...

    @property
    def network_grid(self) -> Grid:
        """Rows and columns of the pixels that the network sees; they cover the raster."""
        ...

    @property
    def raster_grid(self) -> Grid:
        """Rows and columns of the raster, and of its map."""
        ...

    @property
    def steps(self) -> Steps:
        """The raster's pixels in one of the network's, down and across."""
        ...

    @property
    def dtype(self) -> str:
        """NumPy name of the type of the raster's values."""
        ...

    @property
    def has_height(self) -> bool:
        """Whether the last band is a height."""
        ...

    @property
    def declares_nodata(self) -> bool:
        """Whether some pixels may hold no data."""
        ...

    @property
    def area(self) -> AreaOfInterest | None:
        """The area of interest, on the raster's grid."""
        ...

    def raster_window(self, window: Window) -> Window:
        """Return the raster's pixels that a window covers, wholly or in part."""
        ...

    def read(self, window: Window) -> tuple[npt.NDArray[Any], Valid]:
        """Return the values of a window, and which of its pixels hold data.

        Args:
            window: On the network's grid.

        Returns:
            (bands, height, width) in the raster's type, float32 where the last band is a height;
            and (height, width) bool, None where all hold data.

        Raises:
            InputError: The file can't be read there (truncated, damaged).
        """
        ...

    def read_raster_valid(self, window: Window) -> npt.NDArray[np.bool_]:
        """Return which of the raster's pixels in a window hold data.

        Args:
            window: On the network's grid; `raster_window` says where the pixels lie.

        Raises:
            InputError: The file can't be read there.
        """
        ...


@dataclass(frozen=True)
class SceneWindows:
    """A scene, on its raster's own grid or at another resolution. See `WindowSource`.

    On a coarser grid than the raster's own, pixels are means of those that they cover; on a finer
    one they are interpolated. Pixels without data don't enter into either.

    Attributes:
        scene: The scene; nobody else may read it meanwhile.
        steps: The raster's pixels in one of the network's, down and across.
        area: The area of interest, or None.
        overview: The overview that a coarser grid is read from, or None.
    """

    scene: Scene
    steps: Steps = OWN_STEPS
    area: AreaOfInterest | None = None
    overview: Scene | None = None

    @property
    def path(self) -> str:
        """The scene's path, as given."""
        return self.scene.path

    @property
    def network_grid(self) -> Grid:
        """Rows and columns of the pixels that the network sees; they cover the raster."""
        return _network_grid(self.raster_grid, self.steps)

    @property
    def raster_grid(self) -> Grid:
        """Rows and columns of the raster."""
        return Grid(*self.scene.shape)

    @property
    def dtype(self) -> str:
        """NumPy name of the type of the raster's bands."""
        return self.scene.dtype

    @property
    def has_height(self) -> bool:
        """Whether the last band is a height."""
        return self.scene.has_height

    @property
    def declares_nodata(self) -> bool:
        """Whether some pixels may hold no data."""
        return self.scene.declares_nodata

    @property
    def resolution(self) -> float | None:
        """Metres per pixel of the network's grid, or None where they are not known."""
        own = self.scene.resolution
        return None if own is None else own * math.sqrt(math.prod(self.steps))

    def raster_window(self, window: Window) -> Window:
        """Return the raster's pixels that a window covers, wholly or in part."""
        return _raster_window(window, self.raster_grid, self.steps)

    def read(self, window: Window) -> tuple[npt.NDArray[Any], Valid]:
        """Return the values of a window, and which of its pixels hold data."""
        if self.steps == OWN_STEPS:
            values = self.scene.read(window)
            return values, _valid(self.scene, window, values)
        source, (height, width) = self.overview or self.scene, self.raster_grid
        down, across = self.steps

        def read(place: Window) -> tuple[npt.NDArray[Any], Valid]:
            values = source.read(place)
            return values, _valid(source, place, values)

        return resampled_window(
            window,
            GridAxis(down * source.height / height, source.height, averages=down > 1),
            GridAxis(across * source.width / width, source.width, averages=across > 1),
            read,
        )

    def read_raster_valid(self, window: Window) -> npt.NDArray[np.bool_]:
        """Return which of the raster's pixels in a window hold data."""
        part = self.raster_window(window)
        return self.scene.read_valid(part, self.scene.read(part))


def _network_grid(raster: Grid, steps: Steps) -> Grid:
    return Grid(
        *(max(1, math.ceil(n / step - 1e-6)) for n, step in zip(raster, steps, strict=True))
    )


def _raster_window(window: Window, raster: Grid, steps: Steps) -> Window:
    if steps == OWN_STEPS:
        return window
    down, across = steps
    row = min(math.floor(window.row * down), raster.height - 1)
    col = min(math.floor(window.col * across), raster.width - 1)
    stop_row = min(math.ceil((window.row + window.height) * down), raster.height)
    stop_col = min(math.ceil((window.col + window.width) * across), raster.width)
    return Window(row, col, max(1, stop_row - row), max(1, stop_col - col))


def _valid(scene: Scene, window: Window, values: npt.NDArray[Any]) -> Valid:
    if not scene.declares_nodata:
        return None
    valid = scene.read_valid(window, values)
    return None if valid.all() else valid


@contextmanager
def open_scene_windows(
    scene: Scene, *, resolution: float | None = None, aoi: str | Path | None = None
) -> Iterator[SceneWindows]:
    """Open what sliding windows read of a scene.

    Args:
        scene: The open scene.
        resolution: Metres a pixel, down and across, at which it is read; by default the raster's
            own. A difference of less than 1 % is left as it is.
        aoi: A vector file of polygons, the area of interest.

    Raises:
        InputError: No polygon of the area of interest on the scene, or no ground resolution of
            its own to start from.
    """
    with ExitStack() as stack:
        steps = OWN_STEPS
        if resolution is not None:
            step = required_step(scene.resolution, resolution, scene.path)
            steps = steps_to(scene.pixel_sides, resolution) or (step, step)
        overview = None if resolution is None else _coarsest_overview(stack, scene, min(steps))
        area = None
        if aoi is not None:
            from hrrsi.scenes.polygons import area_of_interest  # libraries that few maps need

            area = area_of_interest(aoi, scene)
            if scene.is_part:  # of a map service, maybe: nothing else of it is looked at
                scene = replace(scene, alpha_area=area)
        yield SceneWindows(scene, steps, area, overview)


@dataclass(frozen=True)
class ResampledScene(Scene):
    """A scene on a coarser or finer grid, read as `SceneWindows` reads it. Use `scene_at`.

    Its `dataset` says where the pixels of that grid lie, and is asked for nothing else.

    Attributes:
        original: The scene on its raster's grid.
        step: The raster's pixels in one of these, along each axis.
        metres: The ground sampling distance.
    """

    original: Scene = field(kw_only=True)
    step: float = field(kw_only=True)
    metres: float = field(kw_only=True)

    @property
    def own_grid(self) -> Scene:
        """The scene on its raster's grid."""
        return self.original

    @property
    def resolution(self) -> float:
        """Ground sampling distance in metres per pixel."""
        return self.metres

    @property
    def dtype(self) -> str:
        """NumPy name of the type of the raster's bands."""
        return self.original.dtype

    @cached_property
    def declares_nodata(self) -> bool:
        """Whether some pixels may hold no data."""
        return self.original.declares_nodata

    @cached_property
    def _windows(self) -> SceneWindows:
        # without overviews: these may be of the nearest pixel, or blurred
        return SceneWindows(self.original, (self.step, self.step))

    @cached_property
    def _valid_of(self) -> dict[Window, Valid]:
        """Which pixels of the window that was read last hold data."""
        return {}

    def read(self, window: Window) -> npt.NDArray[Any]:
        """Return the bands of a window, as `Scene.read`."""
        values, valid = self._windows.read(window)
        self._valid_of.clear()
        self._valid_of[window] = valid
        return values

    def read_valid(self, window: Window, pixels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which pixels of a window hold data: those that cover one that does.

        Args:
            window: The window.
            pixels: What `read` returned for it.
        """
        if window not in self._valid_of:
            self.read(window)
        valid = self._valid_of[window]
        return np.ones(pixels.shape[1:], dtype=bool) if valid is None else valid.copy()

    def without_height(
        self, window: Window, pixels: npt.NDArray[Any]
    ) -> npt.NDArray[np.bool_] | None:
        """Return which pixels hold data but for their height, as `Scene.without_height`."""
        if not self.has_height:
            return None
        scene, step = self.original, self.step

        def read(place: Window) -> tuple[npt.NDArray[Any], Valid]:
            heightless = scene.without_height(place, scene.read(place))
            assert heightless is not None
            return heightless[np.newaxis].astype(np.uint8), heightless

        rows, columns = (GridAxis(step, length, averages=step > 1) for length in scene.shape)
        covers = resampled_window(window, rows, columns, read)[1]
        without: npt.NDArray[np.bool_] = ~self.read_valid(window, pixels)
        return without if covers is None else without & covers


def scene_at(scene: Scene, resolution: float | None, own_resolution: float | None = None) -> Scene:
    """Return a scene at a ground resolution, as a scene of its own; itself where it has that.

    Args:
        scene: The scene; nobody else may read it meanwhile.
        resolution: Metres a pixel, within 1 %; None: the scene's own.
        own_resolution: Its own where the raster doesn't tell; None: not known.

    Raises:
        InputError: Its own is not known, or over 16 times as coarse.
    """
    if resolution is None:
        return scene
    own = scene.resolution or own_resolution
    step = required_step(own, resolution, scene.path, parameter="resolution")
    if step == 1:
        return scene
    return ResampledScene(
        scene.path,
        scaled_grid(scene.dataset, step),
        scene.bands,
        scene.nodata,
        scene.height_model,
        imagery_alpha=scene.has_imagery_alpha,
        original=scene,
        step=step,
        metres=resolution,
    )


def _coarsest_overview(stack: ExitStack, scene: Scene, step: float) -> Scene | None:
    """Return the coarsest overview that is no coarser than a grid, or None."""
    factors = scene.dataset.overviews(scene.bands[0])
    fitting = {f: i for i, f in enumerate(factors) if f <= step * 1.001}
    return open_overview(stack, scene, fitting[max(fitting)]) if fitting else None


@dataclass(frozen=True)
class ArrayWindows:
    """An array. See `WindowSource`.

    Attributes:
        pixels: (bands, height, width) of any real type.
        valid: (height, width) bool, which pixels hold data; None where all do.
        has_height: Whether the last band is a height.
        steps: The array's pixels in one of the network's, down and across.
    """

    pixels: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_] | None = None
    has_height: bool = False
    steps: Steps = OWN_STEPS

    path: str = "array"
    area: None = None

    @property
    def network_grid(self) -> Grid:
        """Rows and columns of the pixels that the network sees; they cover the array."""
        return _network_grid(self.raster_grid, self.steps)

    @property
    def raster_grid(self) -> Grid:
        """Rows and columns of the array."""
        return Grid(*self.pixels.shape[1:])

    @property
    def dtype(self) -> str:
        """NumPy name of the values' type."""
        return self.pixels.dtype.name

    @property
    def declares_nodata(self) -> bool:
        """Whether some pixels may hold no data; of floats, those that are not finite."""
        return self.valid is not None or self.pixels.dtype.kind == "f"

    def raster_window(self, window: Window) -> Window:
        """Return the array's pixels that a window covers, wholly or in part."""
        return _raster_window(window, self.raster_grid, self.steps)

    def read(self, window: Window) -> tuple[npt.NDArray[Any], Valid]:
        """Return the values of a window, and which of its pixels hold data."""
        if self.steps == OWN_STEPS:
            return self._part(window)
        rows, columns = (
            GridAxis(step, length, averages=step > 1)
            for step, length in zip(self.steps, self.raster_grid, strict=True)
        )
        return resampled_window(window, rows, columns, self._part)

    def read_raster_valid(self, window: Window) -> npt.NDArray[np.bool_]:
        """Return which of the array's pixels in a window hold data, as (height, width)."""
        part = self.raster_window(window)
        valid = self._part(part)[1]
        return np.ones(part[2:], dtype=bool) if valid is None else valid

    def _part(self, window: Window) -> tuple[npt.NDArray[Any], Valid]:
        """Return a window of the array itself, and which of its pixels hold data."""
        row, col, height, width = window
        part = self.pixels[:, row : row + height, col : col + width]
        values = np.ascontiguousarray(part)
        if not self.declares_nodata:
            return values, None
        valid: npt.NDArray[np.bool_] = np.isfinite(values).all(axis=0)
        if self.valid is not None:
            valid &= self.valid[row : row + height, col : col + width]
        return values, None if valid.all() else valid
