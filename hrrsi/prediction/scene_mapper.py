"""Maps one scene: opens it, checks it, and fills its partial map from windows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hrrsi.errors import HrrsiError
from hrrsi.maps.outputs import Outputs
from hrrsi.maps.partial_map import PartialMap, open_partial_map
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.map_writer import (
    MapRecord,
    MapWriter,
    is_finished,
    map_identity,
    run_provenance,
)
from hrrsi.prediction.mapped_scene import MappedScene
from hrrsi.prediction.options import MapOptions, OutputOptions
from hrrsi.prediction.scene_checks import SceneChecks, require_height_as_trained
from hrrsi.prediction.sliding_window import predict_strips
from hrrsi.progress import progress
from hrrsi.scenes.height_files import height_files
from hrrsi.scenes.scene import Scene, open_scene
from hrrsi.scenes.window_source import SceneWindows, open_scene_windows

if TYPE_CHECKING:
    from hrrsi.maps.zones import ZoneAreas


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
        self._heights = None if height is None else height_files(height)
        engine.prepare(options.window, options.window)  # while the first scene is looked at
        self._show_progress = show_progress
        self._checks = SceneChecks(engine.meta)
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
                nodata=options.nodata,
                height_model=None if self._heights is None else self._heights.of(name),
            ) as scene,
            self._windows(scene) as source,
        ):
            yield source

    def _windows(self, scene: Scene) -> AbstractContextManager[SceneWindows]:
        resample, aoi = self._options.resample, self._options.aoi
        resolution = self._checks.reading_resolution(scene.path, scene.resolution, resample)
        self._checks.compare_resolution(scene, resolution)
        return open_scene_windows(scene, resolution=resolution, aoi=aoi)

    def count_scenes(self, scenes: int) -> None:
        """Say of how many scenes something was said."""
        self._checks.count_scenes(scenes)

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
            if self._options.bands is None:
                self._checks.compare_bands(scene)
            scale = self._checks.scale(scene, self._options.scale)
            self._checks.compare_likeness(source, scale)
            if self._outputs.zones is not None:  # before hours of work
                # polygons' libraries, seldom asked for
                from hrrsi.maps.zones import check_zones

                check_zones(self._outputs.zones, scene, self._outputs.zone_name)
            record = self._record(source, scale)
            if self._on_ready is not None:
                self._on_ready(self._engine.meta)
                self._on_ready = None
            if self._outputs.resume and is_finished(outputs, record):
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
                    self._writer.write_rasters(partial, source, outputs, record)
                    zones = self._writer.write_derived(scene, outputs, again=True)
                except BaseException as error:
                    if not partial.rows_done:
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
