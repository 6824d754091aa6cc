"""From the complete partial map of a scene to every file that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hrrsi.maps.class_areas import MapSummary, map_areas
from hrrsi.maps.class_raster import map_strips, read_class_raster, write_class_raster
from hrrsi.maps.outputs import Outputs
from hrrsi.maps.partial_map import PartialMap
from hrrsi.maps.regions.sieve import sieved_strips, smallest_component
from hrrsi.maps.score_rasters import write_confidence_raster, write_probability_raster
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.prediction.map_record import MapRecord
from hrrsi.prediction.options import MapOptions, OutputOptions
from hrrsi.progress import progress
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.window_source import SceneWindows

if TYPE_CHECKING:
    from pathlib import Path

    from hrrsi.maps.zone_areas import ZoneAreas


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
        has_nodata = source.declares_nodata or source.area is not None
        if files.confidence is not None and partial.confidence is not None:
            write_confidence_raster(
                files.confidence,
                dataset,
                partial.confidence,
                has_nodata=has_nodata,
                provenance=record.provenance,
            )
        if files.probabilities is not None:
            write_probability_raster(
                files.probabilities,
                dataset,
                partial.probabilities,
                classes=self._meta.classes,
                has_nodata=has_nodata,
                provenance=record.provenance,
            )
        labels: Any = partial.labels
        if self._options.min_area is not None:
            smallest = smallest_component(dataset, self._options.min_area)
            labels = sieved_strips(partial.labels.strips(), dataset.width, dataset.height, smallest)
        write_class_raster(
            files.classes,
            dataset,
            labels,
            classes=self._meta.classes,
            colours=self._meta.colours,
            has_nodata=has_nodata,
            provenance=record.class_map_provenance(source, self._meta, self._options),
            run=record.digest,
        )

    def write_derived(self, scene: Scene, files: Outputs, *, again: bool) -> ZoneAreas | None:
        """Write what is made from the finished class map, and return the classes of the zones.

        Args:
            scene: The scene.
            files: Its files.
            again: Whether to replace what is there already.

        Raises:
            OutputError: A file can't be written.
        """
        if files.vector is not None and (again or not _is_newer(files.vector, files)):
            self._write_polygons(scene, files, files.vector)
        zones = None if self._outputs.zones is None else self._zones(scene, files)
        if files.preview is not None and (again or not _is_newer(files.preview, files)):
            # fonts and pictures, seldom asked for
            from hrrsi.maps.preview import write_preview

            summary = self.summary(scene, files)
            write_preview(files.preview, summary, files.classes, bands=scene.bands)
        return zones

    def summary(self, scene: Scene, files: Outputs) -> MapSummary:
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
        from hrrsi.maps.regions.polygons import write_class_polygons

        with progress("polygons", scene.height, " rows", enabled=self._show_progress) as bar:
            write_class_polygons(
                path,
                scene.dataset,
                map_strips(files.classes),
                classes=self._meta.classes,
                colours=self._meta.colours,
                on_rows=bar.update,
            )

    def _zones(self, scene: Scene, files: Outputs) -> ZoneAreas:
        from hrrsi.maps.zone_areas import zone_areas

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
        if files.zones is not None:
            zones.write_csv(files.zones)
        return zones


def _is_newer(path: Path, files: Outputs) -> bool:
    """Return whether a file was made after the class map, so that it can be made from it."""
    return path.exists() and path.stat().st_mtime_ns >= files.classes.stat().st_mtime_ns
