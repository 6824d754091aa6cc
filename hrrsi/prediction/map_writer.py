"""From the complete partial map of a scene to every file that is asked for, and their record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree.ElementTree import ParseError

from hrrsi import __version__
from hrrsi.errors import OutputExistsError, warn
from hrrsi.files import content_digest, scratch_folder
from hrrsi.interruption import stop_if_requested
from hrrsi.maps.cloud_optimised import FREE_SPACE
from hrrsi.maps.outputs import Outputs, TileOutputs, vector_parts
from hrrsi.maps.partial_map import PartialMap, is_unfinished
from hrrsi.maps.rasters import (
    MapSummary,
    gathered_labels,
    map_areas,
    map_strips,
    read_class_raster,
    write_class_raster,
    write_confidence_raster,
    write_probability_raster,
)
from hrrsi.maps.raw_pyramid import LabelPyramid, RawPyramid, write_errors
from hrrsi.maps.sieve import sieved_strips, smallest_component
from hrrsi.maps.styles import (
    derivation_record,
    files_beside,
    is_as_written,
    is_current,
    run_of,
    sidecar_state,
)
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.weights_file import packaged_name
from hrrsi.prediction.engines.engine import Engine
from hrrsi.prediction.options import MapOptions, OutputOptions
from hrrsi.prediction.scene_remarks import SceneWarning
from hrrsi.progress import progress
from hrrsi.quantities import byte_text
from hrrsi.scenes.raster_opening import is_local, mosaic_files, mosaic_tiles
from hrrsi.scenes.resampling import OWN_STEPS
from hrrsi.scenes.scene import Scene, open_scene
from hrrsi.scenes.value_scale import same_values
from hrrsi.scenes.window_source import SceneWindows
from hrrsi.scenes.windows import Window

if TYPE_CHECKING:
    from hrrsi.maps.zones import ZoneAreas

SCENE_FILES = ("the scene's files", "the height model")  # as messages call them
AREA = "area of interest"


# size and time of change in ns by file; of many files a digest of these
FileStates = dict[str, list[int]] | str
_FILES_LISTED = 100  # by name, in a journal that each strip writes anew


@dataclass(frozen=True)
class MapRecord:
    """All that the map of a scene depends on.

    Attributes:
        provenance: What made it, from `run_provenance`.
        identity: What its labels and scores depend on, by the names that messages give it.
        min_area: As in `MapOptions`: what its class map depends on beside them.
    """

    provenance: dict[str, str]
    identity: dict[str, Any]
    min_area: float | None

    @property
    def digest(self) -> str:
        """What identifies the run that makes the class map."""
        text = json.dumps([self.identity, self.min_area], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def tags(self) -> dict[str, str]:
        """The tags of its rasters."""
        merged = {} if self.min_area is None else {"MIN_AREA": f"{self.min_area:g}"}
        return {**self.provenance, **merged}

    def class_map_provenance(
        self, source: SceneWindows, meta: ModelMeta, options: MapOptions
    ) -> dict[str, str]:
        """Return the tags of the class map: also what was found out about its scene."""
        tags, scale = self.tags, self.identity["scale"]
        if source.scene.height_model is not None:
            tags["HEIGHT"] = PurePosixPath(source.scene.height_model.path).name
        if source.steps != OWN_STEPS and source.resolution is not None:
            tags["READ_RESOLUTION"] = f"{source.resolution:.6g}"
        if options.scale is None:
            if not same_values(source.dtype, meta.dtype):
                tags["ESTIMATED_SCALE"] = f"{scale:.9g}"
            elif scale != meta.scale:
                tags["DECLARED_SCALE"] = f"{scale:.9g}"
        return tags


class _Bands(NamedTuple):
    """What the rasters of a map hold, as in `PartialMap`."""

    labels: LabelPyramid
    confidence: RawPyramid | None
    probabilities: list[RawPyramid]

    def cut(self, window: Window, folder: Path) -> _Bands:
        """Return a window of it, in files of its own."""
        return _Bands(
            self.labels.cut(window, folder),
            None if self.confidence is None else self.confidence.cut(window, folder),
            [band.cut(window, folder) for band in self.probabilities],
        )


class MapWriter:
    """Writes the files of one scene after the other.

    Args:
        meta: What the weights say of themselves.
        options: How scenes are mapped.
        outputs: What is written.
        show_progress: Whether to show progress on a terminal.
    """

    def __init__(
        self, meta: ModelMeta, options: MapOptions, outputs: OutputOptions, *, show_progress: bool
    ) -> None:
        self._meta = meta
        self._options = options
        self._outputs = outputs
        self._show_progress = show_progress

    def write_rasters(
        self, partial: PartialMap, source: SceneWindows, files: Outputs, record: MapRecord
    ) -> None:
        """Write the rasters from a complete partial map; each appears whole or not at all.

        Raises:
            OutputError: One can't be written.
        """
        dataset = source.scene.dataset
        labels: Any = partial.labels
        if self._options.min_area is not None:
            smallest = smallest_component(dataset, self._options.min_area)
            labels = sieved_strips(partial.labels.strips(), dataset.width, dataset.height, smallest)
        with gathered_labels(labels, files.classes, dataset, len(self._meta.classes)) as whole:
            bands = _Bands(whole, partial.confidence, partial.probabilities)
            if files.tiles:
                self._write_tiles(bands, source, files.tiles, record)
            else:
                self._write_bands(bands, source, source.scene, files, record)

    def _write_tiles(
        self, bands: _Bands, source: SceneWindows, tiles: Sequence[TileOutputs], record: MapRecord
    ) -> None:
        """Write the rasters of a mosaic's tiles; those that are there already stay in `resume`."""
        with progress("tiles", len(tiles), " tiles", enabled=self._show_progress) as bar:
            for tile in tiles:
                path = tile.outputs.classes
                if not (self._outputs.resume and _is_written(tile.outputs)):
                    with (
                        self._open_tile(tile) as scene,
                        scratch_folder(path.with_name(path.name + ".cut")) as folder,
                    ):
                        with write_errors(path, FREE_SPACE):
                            cut = bands.cut(tile.window, folder)
                        self._write_bands(cut, source, scene, tile.outputs, record)
                bar.update()

    def _write_bands(
        self, bands: _Bands, source: SceneWindows, scene: Scene, files: Outputs, record: MapRecord
    ) -> None:
        """Write the rasters of a map; the class map last, since it says that all are there.

        Args:
            bands: What they hold.
            source: The scene that was mapped.
            scene: The scene whose grid they have: that one, or a tile of it.
            files: The files.
            record: What the map depends on.
        """
        grid = scene.dataset
        has_nodata = source.declares_nodata or source.area is not None
        if files.confidence is not None and bands.confidence is not None:
            write_confidence_raster(
                files.confidence,
                grid,
                bands.confidence,
                has_nodata=has_nodata,
                provenance=record.tags,
            )
        if files.probabilities is not None:
            write_probability_raster(
                files.probabilities,
                grid,
                bands.probabilities,
                classes=self._meta.classes,
                has_nodata=has_nodata,
                provenance=record.tags,
            )
        write_class_raster(
            files.classes,
            grid,
            bands.labels,
            classes=self._meta.classes,
            colours=self._meta.colours,
            has_nodata=has_nodata,
            provenance=record.class_map_provenance(source, self._meta, self._options),
            run=record.digest,
            beside=[p for p in (files.confidence, files.probabilities) if p is not None],
            scene_path=mosaic_tiles(grid) if scene.mosaic else scene_address(scene),
        )

    def write_derived(
        self, scene: Scene, files: Outputs, *, again: bool
    ) -> list[tuple[Outputs, MapSummary, ZoneAreas | None]]:
        """Write what is made from the finished class map, or from those of a mosaic's tiles.

        Args:
            scene: The scene.
            files: Its files.
            again: Whether to replace what is there already.

        Returns:
            The files of each map, what it holds, and the classes of its zones.

        Raises:
            OutputError: A file can't be written.
        """
        if not files.tiles:
            zones = self._write_derived(scene, files, again=again)
            return [(files, self._summary(scene, files), zones)]
        maps = []
        for tile in files.tiles:
            stop_if_requested()
            with self._open_tile(tile) as own:
                zones = self._write_derived(own, tile.outputs, again=again)
                maps.append((tile.outputs, self._summary(own, tile.outputs), zones))
        return maps

    def _open_tile(self, tile: TileOutputs) -> AbstractContextManager[Scene]:
        meta, options = self._meta, self._options
        return open_scene(
            tile.raster,
            bands=options.bands,
            expected_bands=meta.image_bands,
            trained_bands=meta.bands,
            meanings=meta.input_meanings,
            crs=options.crs,
        )

    def _write_derived(self, scene: Scene, files: Outputs, *, again: bool) -> ZoneAreas | None:
        """Write what is made from a finished class map, and return the classes of the zones."""
        options = self._outputs.of_polygons
        vector = None if files.vector is None else vector_parts(files.vector)
        if vector and (again or not is_current(files.classes, vector, options)):
            with derivation_record(files.classes, vector, options):
                self._write_polygons(scene, files, vector[0])
        zones = None if self._outputs.zones is None else self._zones(scene, files)
        if zones is not None and files.zones is not None and files.zone_polygons is not None:
            if not again:  # other zones may be asked for: they are made again
                for path in (files.zones, files.zone_polygons):
                    is_current(files.classes, [path])
            with derivation_record(files.classes, [files.zones]):
                zones.write_csv(files.zones)
            with derivation_record(files.classes, [files.zone_polygons]):
                assert self._outputs.zones is not None
                zones.write_polygons(files.zone_polygons, self._outputs.zones, self._meta.colours)
        preview = files.preview
        if preview is not None and (again or not is_current(files.classes, [preview])):
            # fonts and pictures, seldom asked for
            from hrrsi.maps.preview import write_preview

            with derivation_record(files.classes, [preview]):
                summary = self._summary(scene, files)
                part = scene.dataset.name if scene.is_part or scene.mosaic else None
                write_preview(preview, summary, files.classes, raster=part, bands=scene.bands)
        return zones

    def _summary(self, scene: Scene, files: Outputs) -> MapSummary:
        """Return what the finished class map of a scene says."""
        content = read_class_raster(files.classes)
        assert content is not None
        resolution = scene.resolution
        return MapSummary(
            scene=scene.path,
            height=scene.height,
            width=scene.width,
            classes=list(self._meta.classes),
            colours=list(self._meta.colours),
            class_pixels=content.class_pixels,
            nodata_pixels=content.nodata_pixels,
            pixel_area=None if resolution is None else resolution**2,
            areas=map_areas(files.classes, scene.dataset, content.class_pixels),
        )

    def _write_polygons(self, scene: Scene, files: Outputs, path: Path) -> None:
        # GDAL's vector drivers, seldom asked for
        from hrrsi.maps.vector_files import SHAPEFILE_BYTES, write_class_polygons

        with progress("polygons", scene.height, " rows", enabled=self._show_progress) as bar:
            write_class_polygons(
                path,
                scene.dataset,
                map_strips(files.classes),
                classes=self._meta.classes,
                colours=self._meta.colours,
                simplify=self._outputs.simplify or 0,
                only=self._outputs.vector_classes,
                on_rows=bar.update,
            )
        size = max(part.stat().st_size for part in vector_parts(path) if part.exists())
        if path.suffix.lower() == ".shp" and size > SHAPEFILE_BYTES:
            warn(
                f"{path}: takes {byte_text(size)}; many programs read shapefiles up to "
                f"{byte_text(SHAPEFILE_BYTES)} alone: `vector=gpkg` has no such limit",
                SceneWarning,
            )

    def _zones(self, scene: Scene, files: Outputs) -> ZoneAreas:
        # polygons' libraries, seldom asked for
        from hrrsi.maps.zones import zone_areas

        assert self._outputs.zones is not None
        with progress("zones", scene.height, " rows", enabled=self._show_progress) as bar:
            zones = zone_areas(
                self._outputs.zones,
                scene,
                map_strips(files.classes),
                self._meta.classes,
                attribute=self._outputs.zone_name,
                on_rows=bar.update,
            )
        return zones


def run_provenance(engine: Engine, weights: Path, options: MapOptions) -> dict[str, str]:
    """Return what makes the maps of a run: version, network, weights, engine and options."""
    shown = {
        "window": options.effective_window,
        "overlap": options.effective_overlap,
        "tta": options.augmentation if options.augmentation != "none" else None,
        "bands": options.bands,
        "nodata": options.nodata,
        "crs": options.crs,
        "scale": options.scale,
        "height": None if options.height is None else PurePosixPath(str(options.height)).name,
        "aoi": None if options.aoi is None else Path(options.aoi).name,
        "mosaic": options.mosaic or None,
        "crop": options.crop or None,
        "resample": None if options.resample == "auto" else options.resample,
    }
    packaged = packaged_name(weights)
    return {
        "VERSION": __version__,
        "MODEL": engine.meta.model,
        "WEIGHTS": weights.name,
        **({} if packaged is None else {"WEIGHTS_PACKAGED": packaged}),
        "WEIGHTS_SHA256": content_digest(weights),
        "ENGINE": f"{engine.name}, precision {engine.precision}",
        "OPTIONS": json.dumps({key: value for key, value in shown.items() if value is not None}),
    }


def map_identity(
    source: SceneWindows,
    scale: float,
    device: str,
    outputs: OutputOptions,
    provenance: dict[str, str],
) -> dict[str, Any]:
    """Return all that labels and scores depend on, by the names that messages give it.

    Args:
        source: The open scene.
        scale: The value that counts as full brightness.
        device: What the engine computes on.
        outputs: What is written.
        provenance: From `run_provenance`.
    """
    scene = source.scene
    return {
        # a mosaic's virtual raster is made anew in every run
        "scene": scene_address(scene) if scene.mosaic is None else scene.mosaic.digest,
        **scene_file_states(scene),
        "place of the map": _grid_place(scene.dataset),
        "scale": scale,
        "pixels of the scene in one that is read": list(source.steps),
        AREA: None if source.area is None else source.area.digest,
        "device": device,
        "confidence": outputs.confidence,
        "probabilities": outputs.probabilities,
        **{key.lower().replace("_", " "): value for key, value in provenance.items()},
    }


def _grid_place(dataset: Any) -> str:
    """Return where a grid lies, in words that differ for another place.

    Files beside a raster can change it, and the area of interest that it is cut to.
    """
    points = [(p.row, p.col, p.x, p.y, p.z) for p in dataset.gcps[0]]
    crs = dataset.crs or dataset.gcps[1]
    place = [*dataset.transform[:6], *points, dataset.tags(ns="RPC"), crs and crs.to_wkt()]
    return hashlib.sha256(repr(place).encode()).hexdigest()


def scene_address(scene: Scene) -> str:
    """Return what GDAL opens a scene by, from any folder."""
    return str(Path(scene.path).resolve()) if is_local(scene.path) else scene.path


def scene_file_states(scene: Scene) -> dict[str, FileStates]:
    """Return size and time of change of a scene's files on this machine, by `SCENE_FILES`."""
    files = mosaic_files(scene.dataset) if scene.mosaic else scene.dataset.files
    if scene.dataset.driver == "VRT" and scene.mosaic is None:
        files = list(dict.fromkeys((*files, *mosaic_files(scene.dataset))))
    groups = {SCENE_FILES[0]: files}
    if scene.height_model is not None:
        groups[SCENE_FILES[1]] = scene.height_model.files
    return {name: _file_states(files) for name, files in groups.items()}


def is_finished(files: Outputs, record: MapRecord) -> bool:
    """Return whether an earlier run has made this very map, or those of all of its tiles.

    Raises:
        OutputExistsError: There is a map that another run made.
    """
    for outputs in files.maps:
        if outputs.classes.exists() and run_of(outputs.classes) != record.digest:
            raise OutputExistsError(
                "exists already, and was made otherwise, or of another scene",
                where=outputs.classes,
                fix="give `overwrite` instead of `resume`, or another `out`",
            )
    if is_unfinished(files.classes):
        return False
    return all(_is_written(outputs) for outputs in files.maps)


def _is_written(files: Outputs) -> bool:
    """Return whether the rasters of a map are there, as they were when it was finished.

    Raises:
        OutputExistsError: One was changed since.
    """
    if not files.classes.exists():
        return False
    scores = [path for path in (files.confidence, files.probabilities) if path is not None]
    if not all(p.exists() for p in scores):
        return False
    digests = files_beside(files.classes)
    changed = [p for p in scores if digests.get(p.name) not in (None, content_digest(p))]
    if is_as_written(files.classes) is False:
        changed.insert(0, files.classes)
    if changed:
        raise OutputExistsError(
            "is damaged, or was changed since it was written",
            where=changed[0],
            fix="give `overwrite` instead of `resume`, or another `out`",
        )
    return True


def _file_states(names: Sequence[str]) -> FileStates:
    """Return size and time of change of those files that are on this machine; of many a digest.

    Of GDAL's sidecars it is what they say beside statistics.
    """
    files = [file for file in map(Path, names) if file.exists()]
    states = ((str(file.resolve()), _file_state(file)) for file in files)
    state_by_path = {path: state for path, state in states if state is not None}
    if len(state_by_path) <= _FILES_LISTED:
        return state_by_path
    digest = hashlib.sha256(json.dumps(state_by_path, sort_keys=True).encode()).hexdigest()
    return f"{digest} of {len(state_by_path)} files"


def _file_state(file: Path) -> list[int] | None:
    if file.name.endswith(".aux.xml"):
        with suppress(OSError, ParseError):
            state = sidecar_state(file)
            return None if state is None else [state]
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]
