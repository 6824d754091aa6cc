"""Maps scenes: from rasters and weights to class rasters and what is made from them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hrrsi.errors import HrrsiError, InputError, MissingInputError, OptionError
from hrrsi.files import named_layer, prepare_folder
from hrrsi.interruption import heeding_signals, stop_if_requested
from hrrsi.maps.outputs import (
    SHAPEFILE_TEXT_BYTES,
    Outputs,
    check_outputs,
    map_paths,
    scene_outputs,
)
from hrrsi.maps.partial_map import PartialMap, open_partial_map
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.weights_file import weights_path
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.map_writer import (
    MapRecord,
    MapWriter,
    is_finished,
    map_identity,
    run_provenance,
)
from hrrsi.prediction.mapped_scene import (
    MappedScene,
    PlannedScene,
    planned_scene,
    scene_files,
    seconds_a_window,
)
from hrrsi.prediction.options import EngineOptions, MapOptions, OutputOptions
from hrrsi.prediction.scene_checks import SceneChecks, require_height_as_trained
from hrrsi.prediction.sliding_window import predict_strips, symmetries
from hrrsi.progress import progress
from hrrsi.scenes.height_files import height_files
from hrrsi.scenes.missing_data import undeclared_gap
from hrrsi.scenes.raster_opening import bounded_block_cache, is_local, open_raster
from hrrsi.scenes.scene import Scene, open_scene
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

_MOST_PIXELS = 10**12  # a map of so many takes a day and a terabyte
_LOOKED_AT = 1 << 22  # pixels of all scenes together that a common estimate rests on


class ScenesFailedError(HrrsiError):
    """Some of several scenes have no map; the others do.

    Attributes:
        mapped: The scenes that have their map.
        failures: Why each of the others has none.
    """

    def __init__(self, mapped: list[MappedScene], failures: dict[str, Exception]) -> None:
        self.mapped = mapped
        self.failures = failures
        names = ", ".join(failures)
        super().__init__(
            f"{len(failures)} of {len(mapped) + len(failures)} scenes failed: {names}",
            fix="see the line of each",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (ScenesFailedError, (self.mapped, self.failures))


@heeding_signals()
def predict(
    scenes: str | Path | Sequence[str | Path],
    weights: str | Path | None = None,
    out: str | Path | None = None,
    options: MapOptions = MapOptions(),
    engine: EngineOptions = EngineOptions(),
    outputs: OutputOptions = OutputOptions(),
    *,
    show_progress: bool = False,
    on_ready: Callable[[ModelMeta], None] | None = None,
    on_mapped: Callable[[MappedScene], None] | None = None,
    on_failed: Callable[[str, Exception], None] | None = None,
) -> list[MappedScene]:
    """Map scenes: write a georeferenced class raster for each, and what else is asked for.

    Memory does not grow with the height of a scene (`sliding_window.predict_strips` says how);
    `hrrsi.maps.rasters.write_class_raster` says what is written. Whatever stops a run,
    it leaves a hidden folder beside the map, from which ``OutputOptions(resume=True)`` goes on.

    Example:
        >>> hrrsi.predict("scene.tif", out="maps/")[0].shares  # doctest: +SKIP
        [0.13, 0.52, 0.09, 0.1, 0.16]

    Args:
        scenes: One or many rasters, patterns (``scenes/*.tif``) or folders.
        weights: A weights file, or the name of weights inside the package: ``default``, which it
            is by default, or ``light``.
        out: A ``.tif`` file for one scene, or a folder; by default the current folder, where maps
            are named ``SCENE_classes.tif``.
        options: How scenes are read and mapped.
        engine: What runs the network.
        outputs: What is written beside the class maps, and what may be there already.
        show_progress: Whether to show progress in megapixels on a terminal.
        on_ready: Called with what the weights say of themselves before the first scene is mapped.
        on_mapped: Called with each scene once it has its map.
        on_failed: Called with each of several scenes that fails, and why.

    Returns:
        What was mapped, in the order of the scenes.

    Raises:
        HrrsiError: A scene, an output or an option is not usable.
        ScenesFailedError: Some of several scenes failed; the others have their maps.
        KeyboardInterrupt: Interrupted; says how to go on.
    """
    names, files = _scenes_and_files(scenes, out, options, outputs)
    for folder in {path.parent for written in files for path in written.files}:
        prepare_folder(folder)
    weights_file = weights_path(weights)
    mapper = SceneMapper(
        open_engine(weights_file, engine),
        weights_file,
        options,
        outputs,
        show_progress=show_progress,
        on_ready=on_ready,
    )
    mapped: list[MappedScene] = []
    failures: dict[str, Exception] = {}
    with bounded_block_cache():
        if len(names) > 1:
            mapper.look(names)
        for name, written in zip(names, files, strict=True):
            try:
                scene = mapper.map(name, written)
            except MemoryError:
                raise  # the next scene would meet it too
            except Exception as error:  # one bad scene must not stop the others, whatever it is
                if len(names) == 1:
                    raise
                failures[name] = error
                if on_failed:
                    on_failed(name, error)
                continue
            mapped.append(scene)
            if on_mapped:
                on_mapped(scene)
    if failures:
        raise ScenesFailedError(mapped, failures)
    return mapped


@heeding_signals()
def plan(
    scenes: str | Path | Sequence[str | Path],
    weights: str | Path | None = None,
    out: str | Path | None = None,
    options: MapOptions = MapOptions(),
    engine: EngineOptions = EngineOptions(),
    outputs: OutputOptions = OutputOptions(),
) -> list[PlannedScene]:
    """Return what `predict` would do with the same arguments, writing nothing.

    The time is estimated from a few windows of noise on this machine.

    Returns:
        A plan for each scene; one that can't be opened says why.

    Raises:
        HrrsiError: An option is not usable.
    """
    names, files = _scenes_and_files(scenes, out, options, outputs)
    weights_file = weights_path(weights)
    runner = open_engine(weights_file, engine)
    mapper = SceneMapper(runner, weights_file, options, outputs, show_progress=False)
    seconds = seconds_a_window(runner, options.window) * len(symmetries(options.augmentation))
    plans = []
    for name, written in zip(names, files, strict=True):
        try:
            with mapper.open(name) as source:
                plans.append(planned_scene(source, written, options, outputs, runner, seconds))
        except HrrsiError as error:
            plans.append(PlannedScene(name, written, problem=str(error)))
    mapper.count_scenes(len(names))
    return plans


def _scenes_and_files(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path | None,
    options: MapOptions,
    outputs: OutputOptions,
) -> tuple[list[str], list[Outputs]]:
    """Return the scenes, with the files that each gets.

    Raises:
        HrrsiError: There are none, one is missing, or outputs collide or exist.
    """
    named = [path for path in (options.aoi, outputs.zones) if path is not None]
    polygons = [Path(named_layer(path)[0]) for path in named]
    for path in polygons:
        if is_local(str(path)) and not path.exists():
            raise MissingInputError("no such file", where=path, fix="check the path")
    scenes = scene_files([inputs] if isinstance(inputs, str | Path) else inputs)
    heights = None if options.height is None else height_files(str(options.height))
    if heights is not None:
        beside = {Path(path).resolve() for path in heights.paths}
        scenes = [s for s in scenes if Path(s).resolve() not in beside] or scenes
        heights.require_own([(scene, None) for scene in scenes])
    if not scenes:
        raise OptionError("no scenes are named", fix="name rasters, folders or patterns")
    files = scene_outputs(
        map_paths(scenes, out),
        confidence=outputs.confidence is not None,
        probabilities=outputs.probabilities is not None,
        vector=outputs.vector,
        zones=outputs.zones is not None,
        preview=outputs.preview,
    )
    if len(scenes) == 1:
        with open_raster(scenes[0]):  # a wrong name should neither wait nor make folders
            pass
    read = [Path(s) for s in scenes if is_local(s)]
    read += [path.with_suffix(".prj") for path in read]
    models = [Path(path) for path in ([] if heights is None else heights.paths)]
    check_outputs(
        files, [*read, *polygons, *models], overwrite=outputs.overwrite, resume=outputs.resume
    )
    return scenes, files


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


class SceneMapper:
    """Maps one scene after the other with the same engine and options.

    Args:
        engine: Runs the network.
        weights: Its weights file.
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
        weights: Path,
        options: MapOptions,
        outputs: OutputOptions,
        *,
        show_progress: bool,
        on_ready: Callable[[ModelMeta], None] | None = None,
    ) -> None:
        self._on_ready = on_ready
        self._engine = engine
        self._options = options
        self._outputs = outputs
        height = None if options.height is None else str(options.height)
        require_height_as_trained(engine.meta, height)
        _require_classes(outputs, engine.meta)
        self._heights = None if height is None else height_files(height)
        engine.prepare(options.window, options.window)  # while the first scene is looked at
        self._show_progress = show_progress
        self._checks = SceneChecks(engine.meta)
        self._scales: dict[str, float] = {}  # of scenes that were looked at
        self._provenance = run_provenance(engine, weights, options)
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
                meanings=meta.known_meanings,
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
                    where=name,
                    fix="name a part of it with `aoi`, and give `crop`",
                )
            yield source

    def _part(self, name: str) -> Window:
        """Return the window of a scene that the area of interest takes."""
        assert self._options.aoi is not None
        with open_scene(name, bands=(1,), expected_bands=1, crs=self._options.crs) as scene:
            from hrrsi.scenes.polygons import area_of_interest  # libraries that few maps need

            return area_of_interest(self._options.aoi, scene).extent

    def _windows(self, scene: Scene) -> AbstractContextManager[SceneWindows]:
        resample, aoi = self._options.resample, self._options.aoi
        resolution = self._checks.reading_resolution(scene.path, scene.resolution, resample)
        self._checks.compare_resolution(scene, resolution)
        return open_scene_windows(scene, resolution=resolution, aoi=aoi)

    def count_scenes(self, scenes: int) -> None:
        """Say of how many scenes something was said."""
        self._checks.count_scenes(scenes)

    def look(self, names: Sequence[str]) -> None:
        """Look at all scenes before the first is mapped, and say what there is to say of them.

        Where full brightness has to be estimated, scenes of one type have one estimate. What can't
        be opened is passed over: `map` says why.

        Args:
            names: The scenes.
        """
        samples: dict[str, list[SceneSample]] = {}
        waiting: dict[str, str] = {}
        for name in names:
            stop_if_requested()
            with suppress(Exception), self.open(name) as source:
                scene = source.scene
                if not self._checks.needs_estimate(scene, self._options.scale):
                    self._scales[name] = self._look_at(source)
                    continue
                waiting[name] = scene.dtype
                gap = undeclared_gap(scene)
                sample = scene_sample(scene, None if gap is None else gap.value)
                most = max(1, _LOOKED_AT // len(names))
                samples.setdefault(scene.dtype, []).append(thinned_sample(sample, most))
        estimates = {dtype: common_scale(own) for dtype, own in samples.items()}
        for name, dtype in waiting.items():
            stop_if_requested()
            with suppress(Exception), self.open(name) as source:
                self._scales[name] = self._look_at(source, estimates[dtype])
        self._checks.count_scenes(len(names))

    def _look_at(self, source: SceneWindows, estimate: EstimatedScale | None = None) -> float:
        """Say what there is to say of a scene, and return its value of full brightness."""
        scene = source.scene
        self._checks.compare_bands(scene, unasked=self._options.bands is None)
        if self._options.nodata == "auto":
            self._checks.say_found_nodata(scene)
        scale = self._checks.scale(scene, self._options.scale, estimate)
        self._checks.compare_likeness(source, scale)
        return scale

    def map(self, name: str, outputs: Outputs) -> MappedScene:
        """Write the files of a scene.

        Args:
            name: The scene.
            outputs: Its files.

        Raises:
            HrrsiError: The scene can't be read, or a file can't be written.
            KeyboardInterrupt: Interrupted; says how to go on.
        """
        start = time.perf_counter()
        with self.open(name) as source:
            scene = source.scene
            scale = self._scales.get(name) or self._look_at(source)
            if self._outputs.zones is not None:  # before hours of work
                # polygons' libraries, seldom asked for
                from hrrsi.maps.zones import check_zones

                check_zones(self._outputs.zones, scene, self._outputs.zone_name)
            record = self._record(source, scale)
            is_there = self._outputs.resume and is_finished(outputs, record)
            if self._on_ready is not None:
                self._on_ready(self._engine.meta)
                self._on_ready = None
            if is_there:
                zones = self._writer.write_derived(scene, outputs, again=False)
                return self._mapped(scene, outputs, zones, start, earlier=True)
            height, width = scene.shape
            with open_partial_map(
                outputs.classes,
                height=height,
                width=width,
                num_classes=len(self._engine.meta.classes),
                fingerprint=record.identity,
                confidence=self._outputs.confidence,
                probabilities=self._outputs.probabilities,
                resume=self._outputs.resume,
            ) as partial:
                try:
                    self._fill(partial, source, scale)
                    if self._record(source, scale) != record:
                        partial.discard()  # nobody knows which rows are of which
                        raise InputError(
                            "was changed while it was mapped",
                            where=name,
                            fix="wait until nothing writes to it, then map it again",
                        )
                    self._writer.write_rasters(partial, source, outputs, record)
                    zones = self._writer.write_derived(scene, outputs, again=True)
                except BaseException as error:
                    if not partial.is_kept:
                        partial.discard()
                        raise
                    kept = f"{partial.rows_done / height:.0%} of the map is kept for `resume`"
                    if isinstance(error, KeyboardInterrupt):
                        raise KeyboardInterrupt(
                            f"{name}: interrupted; {kept}: run the same command with it to go on"
                        ) from None
                    if isinstance(error, HrrsiError):
                        raise error.with_note(kept) from error
                    raise
                partial.discard()
            return self._mapped(scene, outputs, zones, start, earlier=False)

    def _fill(self, partial: PartialMap, source: SceneWindows, scale: float) -> None:
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
            done=partial.rows_done * width / 1e6,
        ) as bar:
            strips = predict_strips(
                source,
                self._engine,
                replace(self._options, scale=scale),
                confidence=self._outputs.confidence,
                probabilities=self._outputs.probabilities,
                first_row=partial.rows_done,
                on_pixels=lambda pixels: bar.update(pixels / 1e6),
            )
            with closing(strips):
                for strip in strips:
                    partial.append(
                        strip.first_row,
                        strip.labels,
                        confidence=strip.confidence,
                        probabilities=strip.probabilities,
                    )

    def _record(self, source: SceneWindows, scale: float) -> MapRecord:
        """Return all that the map of a scene depends on."""
        options, outputs = self._options, self._outputs
        identity = map_identity(source, scale, self._engine.device, outputs, self._provenance)
        return MapRecord(self._provenance, identity, options.min_area)

    def _mapped(
        self,
        scene: Scene,
        outputs: Outputs,
        zones: ZoneAreas | None,
        start: float,
        *,
        earlier: bool,
    ) -> MappedScene:
        """Return what the finished map says."""
        return MappedScene(
            **vars(self._writer.summary(scene, outputs)),
            outputs=outputs,
            zones=zones,
            height_model=None if scene.height_model is None else scene.height_model.path,
            earlier=earlier,
            seconds=time.perf_counter() - start,
        )
