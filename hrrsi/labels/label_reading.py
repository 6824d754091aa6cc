"""Opens the labels of a scene: colours, class indices or polygons, as its scheme says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hrrsi.errors import HrrsiError
from hrrsi.labels.raster_labels import ColourLabels, IndexLabels
from hrrsi.labels.scene_labels import Labels, Unknown
from hrrsi.labels.scheme import Scheme
from hrrsi.scenes.raster_opening import open_raster
from hrrsi.scenes.scene import Scene


@contextmanager
def open_labels(
    path: str,
    scene: Scene,
    scheme: Scheme,
    *,
    name: str,
    unknown: Unknown = "error",
) -> Iterator[Labels]:
    """Open the labels of a scene.

    `scheme.label_format` says what they hold. Class indices in what `Labels.read` returns are
    positions in `scheme.classes`.

    Args:
        path: A raster, or with ``polygons`` any vector file that GDAL reads.
        scene: The open scene that they belong to.
        scheme: Says what colours, values or attributes mean.
        name: The scene's name, for messages.
        unknown: ``"error"`` fails on a label that the scheme doesn't know, ``"ignore"`` makes its
            pixels 255.

    Raises:
        HrrsiError: Not readable, not of the scene's size, not of the scheme's format, or a raster
            whose value for missing data is a class too.
    """
    if scheme.label_format == "polygons":
        from hrrsi.labels.polygon_labels import PolygonLabels

        yield PolygonLabels(path, scene, scheme, name, unknown)
        return
    with open_raster(path) as dataset:
        if (dataset.height, dataset.width) != (scene.height, scene.width):
            raise HrrsiError(
                f"the label has {dataset.height} rows and {dataset.width} columns, "
                f"its image {scene.height} and {scene.width}",
                where=path,
                fix="put the label on the image's grid without resampling its colours",
            )
        kind = ColourLabels if scheme.label_format == "colours" else IndexLabels
        yield kind(path, dataset, scene, scheme, name, unknown)
