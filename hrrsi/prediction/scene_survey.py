"""Opens scenes and looks at them before the first is mapped."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hrrsi.errors import InputError
from hrrsi.interruption import stop_if_requested
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.prediction.options import MapOptions
from hrrsi.prediction.reading_resolution import ReadingResolution
from hrrsi.prediction.scene_checks import SceneChecks, require_height_as_trained
from hrrsi.prediction.scene_remarks import SceneRemark, SceneRemarks
from hrrsi.scenes.bands import open_imagery
from hrrsi.scenes.georeference import has_transform
from hrrsi.scenes.height_files import height_files
from hrrsi.scenes.missing_data import undeclared_gap
from hrrsi.scenes.scene import Scene, open_scene, scene_title
from hrrsi.scenes.value_scale import (
    EstimatedScale,
    SceneSample,
    common_scale,
    scene_sample,
    thinned_sample,
)
from hrrsi.scenes.window_source import SceneWindows, open_scene_windows
from hrrsi.scenes.windows import Window

if TYPE_CHECKING:
    from hrrsi.scenes.polygons import AreaOfInterest

_MOST_PIXELS = 10**12  # a map of so many takes a day and a terabyte
_LOOKED_AT = 1 << 22  # pixels of all scenes together that a common estimate rests on


class SceneLook(NamedTuple):
    """What another process has found, looking at a scene.

    Attributes:
        scale: The value that counts as full brightness.
        remarks: What there is to say of the scene.
    """

    scale: float
    remarks: tuple[SceneRemark, ...]


class SceneSurvey:
    """Opens scenes as a run wants them, and says what there is to say of them, each thing once.

    Args:
        meta: What the weights say of themselves.
        options: How scenes are mapped.

    Raises:
        OptionError: The weights see a height model and none is given, or the other way round.
    """

    def __init__(self, meta: ModelMeta, options: MapOptions) -> None:
        height = None if options.height is None else str(options.height)
        require_height_as_trained(meta, height)
        self._meta = meta
        self._options = options
        self._heights = None if height is None else height_files(height)
        self._remarks = SceneRemarks()
        self._checks = SceneChecks(meta, self._remarks)
        self._reading = ReadingResolution(meta, options.resample, self._remarks)
        self._scales: dict[str, float] = {}  # of scenes that were looked at

    @contextmanager
    def open(self, name: str) -> Iterator[SceneWindows]:
        """Open a scene as the options want it.

        Raises:
            InputError: It can't be read, or does not fit the weights or the options.
        """
        meta, options = self._meta, self._options
        with (
            open_scene(
                name,
                bands=options.bands,
                expected_bands=meta.image_bands,
                trained_bands=meta.bands,
                meanings=meta.input_meanings,
                nodata=options.nodata,
                crs=options.crs,
                part=self._part(name) if options.crop else None,
                height_model=None if self._heights is None else self._heights.of(name),
            ) as scene,
            self._windows(scene) as source,
        ):
            if math.prod(source.raster_grid) > _MOST_PIXELS:
                raise InputError(
                    f"has {scene.width} x {scene.height} px, too many for one map",
                    where=scene.path,
                    fix="choose a smaller area of interest"
                    if options.crop
                    else "name a part of it with `aoi`, and give `crop`",
                )
            yield source

    def looked_at(self, name: str, called: str) -> SceneLook | None:
        """Return what there is to find at a scene and to say of it, for another process' `look`.

        Args:
            name: The scene.
            called: What the other process calls it.

        Returns:
            None: it takes an estimate of all scenes.

        Raises:
            HrrsiError: It can't be read, or does not fit.
        """
        remarks: list[SceneRemark] = []
        self._remarks.on_remark = remarks.append
        try:
            with self.open(name) as source:
                if self._checks.needs_estimate(source.scene, self._options.scale):
                    return None
                scale, path = self._look_at(source), source.path
            own_remarks = (r._replace(path=called) if r.path == path else r for r in remarks)
            return SceneLook(scale, tuple(own_remarks))
        finally:
            self._remarks.on_remark = None

    def look(self, names: Sequence[str], looks: Mapping[str, SceneLook] | None = None) -> None:
        """Look at all scenes before the first is mapped, and say what there is to say of them.

        Where full brightness has to be estimated, scenes of one type have one estimate. What can't
        be opened is passed over: `map` says why.

        Args:
            names: The scenes.
            looks: What other processes have found at some of them.
        """
        looks = looks or {}
        samples: dict[str, list[SceneSample]] = {}
        waiting: dict[str, str] = {}
        for name in names:
            stop_if_requested()
            if name in looks:
                self._scales[name] = looks[name].scale
                for remark in looks[name].remarks:
                    self._remarks.say(remark)
                continue
            with suppress(Exception), self.open(name) as source:
                scene = source.scene
                if not self._checks.needs_estimate(scene, self._options.scale):
                    self._scales[name] = self._look_at(source)
                    continue
                waiting[name] = scene.dtype
                area = self._sampled_area(source)
                gap = undeclared_gap(scene, area)
                sample = scene_sample(scene, None if gap is None else gap.value, area)
                most = max(1, _LOOKED_AT // len(names))
                samples.setdefault(scene.dtype, []).append(thinned_sample(sample, most))
        estimates = {dtype: common_scale(own) for dtype, own in samples.items()}
        for name, dtype in waiting.items():
            stop_if_requested()
            with suppress(Exception), self.open(name) as source:
                self._scales[name] = self._look_at(source, estimates[dtype])
        self._remarks.count_scenes(len(names))

    def count_scenes(self, scenes: int) -> None:
        """Say of how many scenes something was said."""
        self._remarks.count_scenes(scenes)

    def scale(self, name: str, source: SceneWindows) -> float:
        """Return a scene's value of full brightness; look at the scene where nobody has.

        Args:
            name: The scene, as it was opened.
            source: The open scene.

        Raises:
            InputError: It can't be read somewhere.
        """
        return self._scales.get(name) or self._look_at(source)

    def check_zones(self, source: SceneWindows, zones: str | Path, attribute: str | None) -> None:
        """Look at the zones of an open scene, as `SceneChecks.check_zones`."""
        self._checks.check_zones(source.scene, zones, attribute)

    def _look_at(self, source: SceneWindows, estimate: EstimatedScale | None = None) -> float:
        """Say what there is to say of a scene, and return its value of full brightness."""
        scene = source.scene
        self._checks.compare_bands(scene, unasked=self._options.bands is None)
        if self._options.nodata == "auto":
            self._checks.note_nodata(scene)
        area = self._sampled_area(source)
        scale = self._checks.scale(scene, self._options.scale, estimate, area)
        self._checks.compare_likeness(source, scale)
        return scale

    def _sampled_area(self, source: SceneWindows) -> AreaOfInterest | None:
        """Return where a scene is looked at: all over, but for a part of a larger one."""
        return source.area if self._options.crop else None

    def _part(self, name: str) -> Window:
        """Return the window of a scene that the area of interest takes.

        Raises:
            InputError: It has no place on the map, or no polygon lies on it.
        """
        assert self._options.aoi is not None
        # not `open_scene`, which may look at pixels all over a map service
        with open_imagery(name, 1, self._options.crs) as dataset:
            from hrrsi.scenes.polygons import area_of_interest  # libraries that few maps need

            scene = Scene(scene_title(dataset, name), dataset, (1,))
            if not has_transform(dataset) and len(dataset.gcps[0]) < 3:
                # columns and rows of the part would be others than those of the polygons
                raise InputError(
                    "has no place on the map, so no part of it can be mapped by itself",
                    where=scene.path,
                    fix="leave `crop` out, or put its world file beside it",
                )
            return area_of_interest(self._options.aoi, scene).extent

    def _windows(self, scene: Scene) -> AbstractContextManager[SceneWindows]:
        resolution = self._reading.of_scene(scene)
        return open_scene_windows(scene, resolution=resolution, aoi=self._options.aoi)
