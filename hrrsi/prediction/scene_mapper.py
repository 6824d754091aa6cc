"""Maps one scene after the other with an engine that is made ready once."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hrrsi.errors import HrrsiError, InputError, OptionError, warn
from hrrsi.maps.outputs import SHAPEFILE_TEXT_BYTES, Outputs
from hrrsi.maps.partial_map import PartialMap, open_partial_map, rows_kept
from hrrsi.maps.rasters import MapSummary
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.prediction.blending import Strip
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.map_writer import MapRecord, MapWriter, is_finished, map_identity
from hrrsi.prediction.mapped_scene import MappedScene
from hrrsi.prediction.options import MapOptions, OutputOptions
from hrrsi.prediction.scene_remarks import SceneNotice
from hrrsi.prediction.scene_survey import SceneSurvey
from hrrsi.prediction.sliding_window import predict_strips, require_mirrored_windows
from hrrsi.progress import progress
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.window_source import SceneWindows

if TYPE_CHECKING:
    from hrrsi.maps.zones import ZoneAreas


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


# strips of a scene's map from a row on, of who has made them: (scene, full brightness, row)
StripSource = Callable[[SceneWindows, float, int], Generator[Strip, None, None]]


def _say_unfinished(path: Path, height: int) -> None:
    """Say that an unfinished map is begun anew."""
    rows = rows_kept(path, {})
    if rows:
        warn(
            f"{path}: an unfinished map of it ({rows / height:.0%}) is begun anew; with `resume` "
            "a run goes on where another one was stopped",
            SceneNotice,
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

    Attributes:
        survey: Opens the scenes, and has looked at them.

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
        self.survey = SceneSurvey(engine.meta, options)
        _require_classes(outputs, engine.meta)
        require_mirrored_windows(options, engine.logit_grid)
        window = options.effective_window
        engine.prepare(window, window)  # while the first scene is looked at
        self._show_progress = show_progress
        self._provenance = provenance
        self._writer = MapWriter(engine.meta, options, outputs, show_progress=show_progress)

    def facts(self, name: str, source: SceneWindows) -> SceneFacts:
        """Return what is found out of an open scene, and say what there is to say of it.

        Args:
            name: The scene, as it was opened.
            source: The open scene.

        Raises:
            HrrsiError: It can't be read, or zones don't fit it.
        """
        scale = self.survey.scale(name, source)
        self.check_zones(source)  # before hours of work
        return SceneFacts(scale, self._record(source, scale))

    def check_zones(self, source: SceneWindows) -> None:
        """Look at the zones of an open scene, where there are any; as `SceneChecks.check_zones`."""
        if self._outputs.zones is not None:
            self.survey.check_zones(source, self._outputs.zones, self._outputs.zone_name)

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
        with self.survey.open(name) as source:
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
        warn(
            f"{source.path}: {len(outputs.tiles) - len(reached):,} lie outside of the area of "
            "interest, and get no map",
            SceneNotice,
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
