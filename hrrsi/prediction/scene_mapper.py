"""Maps one scene: from its windows to a partial map, and from that to every file asked for."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hrrsi import __version__
from hrrsi.errors import HrrsiError, OutputExistsError, WeightsError
from hrrsi.files import content_digest
from hrrsi.maps.areas import ClassAreas
from hrrsi.maps.class_raster import read_class_raster, run_of, write_class_raster
from hrrsi.maps.outputs import Outputs
from hrrsi.maps.partial_map import PartialMap, open_partial_map, partial_map_folder
from hrrsi.maps.regions.sieve import sieved_strips, smallest_component
from hrrsi.maps.score_rasters import write_confidence_raster, write_probability_raster
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.mapped_scene import MappedScene
from hrrsi.prediction.options import MapOptions, OutputOptions
from hrrsi.prediction.scene_checks import SceneChecks, image_bands, require_height_as_trained
from hrrsi.prediction.sliding_window import predict_strips
from hrrsi.progress import progress
from hrrsi.scenes.georeference import pixel_areas
from hrrsi.scenes.height_files import height_files
from hrrsi.scenes.raster_opening import is_local, open_raster
from hrrsi.scenes.scene import Scene, open_scene, rasterio_window
from hrrsi.scenes.value_scale import same_values
from hrrsi.scenes.window_source import SceneWindows, open_scene_windows
from hrrsi.scenes.windows import Window

if TYPE_CHECKING:
    from hrrsi.maps.areas import ZoneAreas

_ROWS = 512


class SceneMapper:
    """Maps one scene after the other with the same engine and options.

    Args:
        engine: Runs the network.
        weights: Its weights file.
        options: How scenes are mapped.
        outputs: What is written.
        show_progress: Whether to show progress on a terminal.

    Raises:
        HrrsiError: Scenes can't be resampled to weights whose resolution is not known, or the
            weights see a height model and none is given, or the other way round.
    """

    def __init__(
        self,
        engine: Engine,
        weights: Path,
        options: MapOptions,
        outputs: OutputOptions,
        *,
        show_progress: bool,
    ) -> None:
        self._engine = engine
        self._options = options
        self._outputs = outputs
        height = None if options.height is None else str(options.height)
        require_height_as_trained(engine.meta, height)
        self._heights = None if height is None else height_files(height)
        engine.prepare(options.window, options.window)  # while the first scene is looked at
        self._show_progress = show_progress
        self._checks = SceneChecks(engine.meta)
        if options.resample and engine.meta["resolution"] is None:
            raise WeightsError(
                "does not say at which ground resolution it was trained",
                where=weights,
                fix="leave `resample` out",
            )
        shown = {
            "window": options.window,
            "overlap": options.effective_overlap,
            "tta": options.augmentation if options.augmentation != "none" else None,
            "bands": options.bands,
            "nodata": options.nodata,
            "scale": options.scale,
            "height": None if height is None else PurePosixPath(height).name,
            "aoi": None if options.aoi is None else Path(options.aoi).name,
            "resample": options.resample or None,
        }
        self._provenance = {
            "VERSION": __version__,
            "MODEL": engine.meta["model"],
            "WEIGHTS": weights.name,
            "WEIGHTS_SHA256": content_digest(weights),
            "ENGINE": f"{engine.name}, precision {engine.precision}",
            "OPTIONS": json.dumps({k: value for k, value in shown.items() if value is not None}),
        }

    @contextmanager
    def open(self, name: str) -> Iterator[SceneWindows]:
        """Open a scene as the options want it.

        Raises:
            InputError: It can't be read, or does not fit the weights or the options.
        """
        meta, options = self._engine.meta, self._options
        resolution = meta["resolution"] if options.resample else None
        with (
            open_scene(
                name,
                bands=options.bands,
                expected_bands=image_bands(meta),
                trained_bands=meta["bands"],
                nodata=options.nodata,
                height_model=None if self._heights is None else self._heights.of(name),
            ) as scene,
            open_scene_windows(scene, resolution=resolution, aoi=options.aoi) as source,
        ):
            yield source

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
        resume = self._outputs.resume
        with self.open(name) as source:
            scene = source.scene
            if self._options.bands is None:
                self._checks.compare_bands(scene)
            scale = self._checks.scale(scene, self._options.scale)
            if not self._options.resample:
                self._checks.compare_resolution(scene)
            if self._outputs.zones is not None:  # before hours of work
                from hrrsi.maps.areas import check_zones

                check_zones(self._outputs.zones, scene, self._outputs.zone_name)
            identity = self._identity(source, scale)
            if resume and self._is_finished(outputs, identity):
                zones = self._write_derived(scene, outputs, again=False)
                return self._mapped(scene, outputs, zones, start, earlier=True)
            height, width = scene.shape
            with open_partial_map(
                outputs.classes,
                height=height,
                width=width,
                num_classes=len(self._engine.meta["classes"]),
                fingerprint=identity,
                confidence=self._outputs.confidence,
                probabilities=self._outputs.probabilities,
                resume=resume,
            ) as partial:
                try:
                    self._fill(partial, source, scale)
                    self._write(partial, source, outputs, identity)
                    zones = self._write_derived(scene, outputs, again=True)
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

    def _write(
        self, partial: PartialMap, source: SceneWindows, outputs: Outputs, identity: dict[str, Any]
    ) -> None:
        """Write the rasters from the complete partial map; each appears whole or not at all."""
        options, meta, scene = self._options, self._engine.meta, source.scene
        dataset = scene.dataset
        has_nodata = scene.declares_nodata or source.area is not None
        if outputs.confidence is not None and partial.confidence is not None:
            write_confidence_raster(
                outputs.confidence,
                dataset,
                partial.confidence,
                has_nodata=has_nodata,
                provenance=self._provenance,
            )
        if outputs.probabilities is not None:
            write_probability_raster(
                outputs.probabilities,
                dataset,
                partial.probabilities,
                classes=meta["classes"],
                has_nodata=has_nodata,
                provenance=self._provenance,
            )
        labels: Any = partial.labels
        provenance = self._provenance
        if options.min_area is not None:
            smallest = smallest_component(dataset, options.min_area)
            labels = sieved_strips(partial.labels.strips(), dataset.width, dataset.height, smallest)
            provenance = {**provenance, "MIN_AREA": f"{options.min_area:g}"}
        if scene.height_model is not None:
            provenance = {**provenance, "HEIGHT": PurePosixPath(scene.height_model.path).name}
        if options.scale is None:
            if not same_values(scene.dtype, meta["dtype"]):
                provenance = {**provenance, "ESTIMATED_SCALE": f"{identity['scale']:.9g}"}
            elif identity["scale"] != meta["scale"]:
                provenance = {**provenance, "DECLARED_SCALE": f"{identity['scale']:.9g}"}
        write_class_raster(
            outputs.classes,
            dataset,
            labels,
            classes=meta["classes"],
            colours=meta["colours"],
            has_nodata=has_nodata,
            provenance=provenance,
            run=_digest(identity, options.min_area),
        )

    def _write_derived(self, scene: Scene, outputs: Outputs, *, again: bool) -> ZoneAreas | None:
        """Write what is made from the finished map, and return the classes of the zones.

        Args:
            scene: The scene.
            outputs: Its files.
            again: Whether to replace what is there already.
        """
        options, meta, dataset = self._outputs, self._engine.meta, scene.dataset
        if outputs.vector is not None and (again or not _is_newer(outputs.vector, outputs)):
            # GDAL's vector drivers, seldom asked for
            from hrrsi.maps.regions.polygons import write_class_polygons

            with progress("polygons", dataset.height, " rows", enabled=self._show_progress) as bar:
                write_class_polygons(
                    outputs.vector,
                    dataset,
                    _map_strips(outputs.classes),
                    classes=meta["classes"],
                    colours=meta["colours"],
                    on_rows=bar.update,
                )
        zones = None
        if options.zones is not None:
            from hrrsi.maps.areas import zone_areas

            with progress("zones", dataset.height, " rows", enabled=self._show_progress) as bar:
                zones = zone_areas(
                    options.zones,
                    scene,
                    _map_strips(outputs.classes),
                    meta["classes"],
                    attribute=options.zone_name,
                    on_rows=bar.update,
                )
            if outputs.zones is not None:
                zones.write_csv(outputs.zones)
        if outputs.preview is not None and (again or not _is_newer(outputs.preview, outputs)):
            # fonts and pictures, seldom asked for
            from hrrsi.maps.preview import write_preview

            mapped = self._mapped(scene, outputs, zones, time.perf_counter(), earlier=False)
            write_preview(mapped, outputs.preview, bands=scene.bands)
        return zones

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
        meta = self._engine.meta
        content = read_class_raster(outputs.classes)
        assert content is not None
        height, width = scene.shape
        resolution = scene.resolution
        return MappedScene(
            scene=scene.path,
            outputs=outputs,
            height=height,
            width=width,
            classes=list(meta["classes"]),
            colours=list(meta["colours"]),
            class_pixels=content.class_pixels,
            nodata_pixels=content.nodata_pixels,
            pixel_area=None if resolution is None else resolution**2,
            areas=_areas(scene, content.class_pixels, outputs.classes),
            zones=zones,
            height_model=None if scene.height_model is None else scene.height_model.path,
            earlier=earlier,
            seconds=time.perf_counter() - start,
        )

    def _is_finished(self, outputs: Outputs, identity: dict[str, Any]) -> bool:
        """Return whether an earlier run with these options has mapped this very scene.

        Raises:
            HrrsiError: There is a map that another run made.
        """
        if not outputs.classes.exists():
            return False
        if run_of(outputs.classes) != _digest(identity, self._options.min_area):
            raise OutputExistsError(
                "exists already, and was made otherwise, or of another scene",
                where=outputs.classes,
                fix="give `overwrite` instead of `resume`, or another `out`",
            )
        scores = [path for path in (outputs.confidence, outputs.probabilities) if path is not None]
        return not partial_map_folder(outputs.classes).exists() and all(
            path.exists() for path in scores
        )

    def _identity(self, source: SceneWindows, scale: float) -> dict[str, Any]:
        """Return all that the labels and scores depend on, by the names that messages give it."""
        scene = source.scene
        heights = scene.height_model
        of_heights = {} if heights is None else {"the height model": _states(heights.files)}
        return {
            "scene": str(Path(scene.path).resolve()) if is_local(scene.path) else scene.path,
            "the scene's files": _states(scene.dataset.files),
            **of_heights,
            "scale": scale,
            "area of interest": None if source.area is None else source.area.digest,
            "device": self._engine.device,
            "confidence": self._outputs.confidence,
            "probabilities": self._outputs.probabilities,
            **{key.lower().replace("_", " "): value for key, value in self._provenance.items()},
        }


def _states(names: Sequence[str]) -> dict[str, list[int]]:
    """Return size and time of change of those files that are on this machine."""
    files = [file for file in map(Path, names) if file.exists()]
    states = [(file, file.stat()) for file in files]
    return {str(file.resolve()): [s.st_size, s.st_mtime_ns] for file, s in states}


def _is_newer(path: Path, outputs: Outputs) -> bool:
    """Return whether a file was made after the class map, so that it can be made from it."""
    return path.exists() and path.stat().st_mtime_ns >= outputs.classes.stat().st_mtime_ns


def _digest(identity: dict[str, Any], min_area: float | None) -> str:
    text = json.dumps([identity, min_area], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _map_strips(path: Path) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the rows of a finished map, (rows, width) uint8 each."""
    with open_raster(path) as dataset:
        for row in range(0, dataset.height, _ROWS):
            part = Window(row, 0, min(_ROWS, dataset.height - row), dataset.width)
            yield dataset.read(1, window=rasterio_window(part))


def _areas(scene: Scene, class_pixels: Sequence[int], path: Path) -> list[float] | None:
    """Return the square metres of each class, or None where they are not known."""
    by_row = pixel_areas(scene.dataset)
    if by_row is None:
        return None
    if (by_row == by_row[0]).all():
        return [pixels * float(by_row[0]) for pixels in class_pixels]
    areas = ClassAreas(len(class_pixels), by_row)
    for labels in _map_strips(path):
        areas.add(labels)
    return areas.areas
