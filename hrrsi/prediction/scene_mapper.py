"""Maps one scene after the other with an engine that is made ready once."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hrrsi.errors import HrrsiError, InputError, OptionError
from hrrsi.interruption import stop_if_requested
from hrrsi.maps.outputs import SHAPEFILE_TEXT_BYTES, Outputs
from hrrsi.maps.partial_map import PartialMap, open_partial_map, rows_kept
from hrrsi.maps.rasters import MapSummary
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.prediction.blending import Strip
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.map_writer import MapRecord, MapWriter, is_finished, map_identity
from hrrsi.prediction.mapped_scene import MappedScene
from hrrsi.prediction.options import MapOptions, OutputOptions
from hrrsi.prediction.reading_resolution import ReadingResolution
from hrrsi.prediction.scene_checks import SceneChecks, require_height_as_trained
from hrrsi.prediction.scene_remarks import SceneNotice, SceneRemark, SceneRemarks
from hrrsi.prediction.sliding_window import predict_strips, require_mirrored_windows
from hrrsi.progress import progress
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
    from hrrsi.maps.zones import ZoneAreas
    from hrrsi.scenes.polygons import AreaOfInterest

_MOST_PIXELS = 10**12  # a map of so many takes a day and a terabyte
_LOOKED_AT = 1 << 22  # pixels of all scenes together that a common estimate rests on


def _require_classes(outputs: OutputOptions, meta: ModelMeta) -> None:
    for name in outputs.vector_classes or ():
        if name not in meta.classes:
            raise OptionError(
                f"the weights know no class {name!r}",
                parameter="vector_classes",
                fix=f"choose from {', '.join(meta.classes)}",
            )
    as_shapefile = str(outputs.vector).lower().rpartition(".")[2] == "shp"
    longest = max(meta.classes, key=lambda name: len(name.encode()))
    if as_shapefile and len(longest.encode()) > SHAPEFILE_TEXT_BYTES:
        raise OptionError(
            f"a shapefile holds names of {SHAPEFILE_TEXT_BYTES} bytes, and the class "
            f"{longest[:20]!r}... has {len(longest.encode())}",
            parameter="vector",
            fix="give `vector=gpkg`",
        )


@dataclass(frozen=True)
class SceneFacts:
    """What is found out of a scene before it is mapped.

    Attributes:
        scale: The value that counts as full brightness.
        record: All that its map depends on.
    """

    scale: float
    record: MapRecord


class SceneLook(NamedTuple):
    """What another process has found, looking at a scene.

    Attributes:
        scale: The value that counts as full brightness.
        remarks: What there is to say of the scene.
    """

    scale: float
    remarks: tuple[SceneRemark, ...]


# strips of a scene's map from a row on, of who has made them: (scene, full brightness, row)
StripSource = Callable[[SceneWindows, float, int], Generator[Strip, None, None]]


def _say_unfinished(path: Path, height: int) -> None:
    """Say that an unfinished map is begun anew."""
    rows = rows_kept(path, {})
    if rows:
        warnings.warn(
            f"{path}: an unfinished map of it ({rows / height:.0%}) is begun anew; with `resume` "
            "a run goes on where another one was stopped",
            SceneNotice,
            stacklevel=3,
        )


class SceneMapper:
    """Maps one scene after the other with the same engine and options.

    Args:
        engine: Runs the network.
        provenance: What makes the maps, from `run_provenance`.
        options: How scenes are mapped.
        outputs: What is written.
        show_progress: Whether to show progress on a terminal.
        on_ready: Called with what the weights say of themselves before the first scene is mapped.

    Raises:
        HrrsiError: The weights see a height model and none is given, or the other way round.
    """

    def __init__(
        self,
        engine: Engine,
        provenance: dict[str, str],
        options: MapOptions,
        outputs: OutputOptions,
        *,
        show_progress: bool,
        on_ready: Callable[[ModelMeta], object] | None = None,
    ) -> None:
        self._on_ready = on_ready
        self._engine = engine
        self._options = options
        self._outputs = outputs
        height = None if options.height is None else str(options.height)
        require_height_as_trained(engine.meta, height)
        _require_classes(outputs, engine.meta)
        require_mirrored_windows(options, engine.logit_grid)
        self._heights = None if height is None else height_files(height)
        window = options.effective_window
        engine.prepare(window, window)  # while the first scene is looked at
        self._show_progress = show_progress
        self._remarks = SceneRemarks()
        self._checks = SceneChecks(engine.meta, self._remarks)
        self._reading = ReadingResolution(engine.meta, options.resample, self._remarks)
        self._scales: dict[str, float] = {}  # of scenes that were looked at
        self._provenance = provenance
        self._writer = MapWriter(engine.meta, options, outputs, show_progress=show_progress)

    @contextmanager
    def open(self, name: str) -> Iterator[SceneWindows]:
        """Open a scene as the options want it.

        Raises:
            InputError: It can't be read, or does not fit the weights or the options.
        """
        meta, options = self._engine.meta, self._options
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

    def count_scenes(self, scenes: int) -> None:
        """Say of how many scenes something was said."""
        self._remarks.count_scenes(scenes)

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

    def facts(self, name: str, source: SceneWindows) -> SceneFacts:
        """Return what is found out of an open scene, and say what there is to say of it.

        Args:
            name: The scene, as it was opened.
            source: The open scene.

        Raises:
            HrrsiError: It can't be read, or zones don't fit it.
        """
        scale = self._scales.get(name) or self._look_at(source)
        self.check_zones(source)  # before hours of work
        return SceneFacts(scale, self._record(source, scale))

    def check_zones(self, source: SceneWindows) -> None:
        """Look at the zones of an open scene, where there are any; as `SceneChecks.check_zones`."""
        if self._outputs.zones is not None:
            self._checks.check_zones(source.scene, self._outputs.zones, self._outputs.zone_name)

    def map(
        self,
        name: str,
        outputs: Outputs,
        *,
        facts: SceneFacts | None = None,
        strips: StripSource | None = None,
        resume: bool = False,
    ) -> list[MappedScene]:
        """Write the files of a scene.

        Args:
            name: The scene.
            outputs: Its files.
            facts: What is known of it, where this is a worker of who has found that out.
            strips: Where its strips come from; None: the engine.
            resume: Whether to go on with what is there, also where the options don't say so.

        Returns:
            Its map, or those of a mosaic's tiles.

        Raises:
            HrrsiError: The scene can't be read, or a file can't be written.
            KeyboardInterrupt: Interrupted; says how to go on.
        """
        start = time.perf_counter()
        resume = resume or self._outputs.resume
        with self.open(name) as source:
            scene = source.scene
            in_cluster = facts is not None
            facts = facts or self.facts(name, source)
            outputs = _within(outputs, source)
            scale, record = facts.scale, facts.record
            before = self._record(source, scale) if in_cluster else record
            is_there = resume and is_finished(outputs, record)
            if self._on_ready is not None:
                self._on_ready(self._engine.meta)
                self._on_ready = None
            if is_there:
                maps = self._writer.write_derived(scene, outputs, again=False)
                return _mapped(scene, maps, start, earlier=True)
            height, width = scene.shape
            if not (resume or in_cluster):
                _say_unfinished(outputs.classes, height)
            with open_partial_map(
                outputs.classes,
                height=height,
                width=width,
                num_classes=len(self._engine.meta.classes),
                fingerprint=record.identity,
                confidence=self._outputs.confidence,
                probabilities=self._outputs.probabilities,
                resume=resume,
                in_cluster=in_cluster,
            ) as partial:
                try:
                    self._fill(partial, source, scale, strips)
                    if self._record(source, scale) != before:
                        partial.discard()  # nobody knows which rows are of which
                        raise InputError(
                            "was changed while it was mapped",
                            where=scene.path,
                            fix="wait until nothing writes to it, then map it again",
                        )
                    self._writer.write_rasters(partial, source, outputs, record)
                    maps = self._writer.write_derived(scene, outputs, again=True)
                except BaseException as error:
                    if not partial.is_kept:
                        partial.discard(strips=False)
                        raise
                    note = f"{partial.rows_done / height:.0%} of the map is kept for `resume`"
                    if isinstance(error, KeyboardInterrupt):
                        raise KeyboardInterrupt(
                            f"{scene.path}: interrupted; {note}: run the same command with it to "
                            "go on"
                        ) from None
                    if isinstance(error, HrrsiError):
                        raise error.with_note(note) from error
                    raise
                partial.discard()
            return _mapped(scene, maps, start, earlier=False)

    def _fill(
        self,
        partial: PartialMap,
        source: SceneWindows,
        scale: float,
        strips: StripSource | None,
    ) -> None:
        """Map what the partial map lacks."""
        if partial.complete:
            return
        height, width = source.raster_grid
        with progress(
            Path(source.path).name,
            height * width / 1e6,
            " Mpx",
            scale=True,
            enabled=self._show_progress,
            initial=partial.rows_done * width / 1e6,
        ) as bar:
            if strips is None:
                rows = (partial.rows_done, None)
                mapped_strips = self.strips(source, scale, rows, lambda n: bar.update(n / 1e6))
            else:
                mapped_strips = strips(source, scale, partial.rows_done)
            with closing(mapped_strips):
                for strip in mapped_strips:
                    partial.append(
                        strip.first_row,
                        strip.labels,
                        confidence=strip.confidence,
                        probabilities=strip.probabilities,
                    )

    def strips(
        self,
        source: SceneWindows,
        scale: float,
        rows: tuple[int, int | None],
        on_pixels: Callable[[int], None] | None = None,
    ) -> Generator[Strip, None, None]:
        """Yield strips of an open scene, as the run's options want them.

        Args:
            source: The scene.
            scale: The value that counts as full brightness.
            rows: Where to begin and to end, as in `predict_strips`.
            on_pixels: As there.
        """
        return predict_strips(
            source,
            self._engine,
            replace(self._options, scale=scale),
            confidence=self._outputs.confidence,
            probabilities=self._outputs.probabilities,
            first_row=rows[0],
            stop_row=rows[1],
            on_pixels=on_pixels,
        )

    def _record(self, source: SceneWindows, scale: float) -> MapRecord:
        """Return all that the map of a scene depends on."""
        options, outputs = self._options, self._outputs
        identity = map_identity(source, scale, self._engine.device, outputs, self._provenance)
        return MapRecord(self._provenance, identity, options.min_area)


def _within(outputs: Outputs, source: SceneWindows) -> Outputs:
    """Return the files without those of tiles that lie outside of the area of interest.

    Raises:
        InputError: All tiles do.
    """
    area = source.area
    if area is None or not outputs.tiles:
        return outputs
    reached = tuple(tile for tile in outputs.tiles if area.touches(tile.window))
    if not reached:
        raise InputError(
            "no tile lies in the area of interest",
            where=source.path,
            fix="check its CRS, or leave the mosaic out",
        )
    if len(reached) < len(outputs.tiles):
        warnings.warn(
            f"{source.path}: {len(outputs.tiles) - len(reached):,} lie outside of the area of "
            "interest, and get no map",
            SceneNotice,
            stacklevel=2,
        )
    return replace(outputs, tiles=reached)


def _mapped(
    scene: Scene,
    maps: Sequence[tuple[Outputs, MapSummary, ZoneAreas | None]],
    start: float,
    *,
    earlier: bool,
) -> list[MappedScene]:
    """Return what finished maps say; the time is shared out to those of tiles by their pixels."""
    seconds = time.perf_counter() - start
    pixels = sum(summary.height * summary.width for _, summary, _ in maps)
    return [
        MappedScene(
            **vars(summary),
            outputs=outputs,
            zones=zones,
            height_model=None if scene.height_model is None else scene.height_model.path,
            earlier=earlier,
            seconds=seconds * summary.height * summary.width / pixels,
        )
        for outputs, summary, zones in maps
    ]
