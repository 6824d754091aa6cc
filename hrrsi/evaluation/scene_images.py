"""Images to show under maps that are there: which is of which scene, and lies on its labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from hrrsi.errors import HrrsiError
from hrrsi.evaluation.map_evaluation import VECTOR_SUFFIXES
from hrrsi.labels.labelled_scenes import SceneFiles
from hrrsi.labels.scheme import Scheme, match_scene
from hrrsi.prediction.scene_files import scene_files
from hrrsi.scenes.georeference import is_same_grid
from hrrsi.scenes.raster_opening import open_raster


def scene_images(images: Sequence[Path], scenes: Sequence[str], scheme: Scheme) -> dict[str, str]:
    """Return the image of each scene that has one.

    An image is of the scene that the scheme's patterns for images say, or whose name it has; one
    image and one scene belong together whatever their names.

    Args:
        images: Rasters, and folders of them.
        scenes: Names of the scenes.
        scheme: Says how images are named.

    Raises:
        HrrsiError: No image is of any of the scenes, two are of one, or a folder holds none.
    """
    rasters = scene_files(images)
    if len(rasters) == len(scenes) == 1:
        return {scenes[0]: rasters[0]}
    found: dict[str, str] = {}
    for raster in rasters:
        path = Path(raster).absolute()
        names = (match_scene(scheme, scheme.images, path.as_posix()), path.stem)
        name = next((name for name in names if name in scenes), None)
        if name is None:
            continue  # of a scene that is not evaluated
        if name in found:
            raise HrrsiError(
                f"the images {found[name]} and {raster} claim the same scene",
                where=f"scene {name}",
                fix="give one of them",
            )
        found[name] = raster
    if not found:
        raise HrrsiError(
            f"no image is of a scene that is scored, e.g. {scenes[0]}",
            where=", ".join(map(str, images)),
            fix="name images as the scheme does, or SCENE.tif",
        )
    return found


def is_on_labels(image: str, file: SceneFiles, scheme: Scheme) -> bool:
    """Return whether an image has the grid on which a map and its labels are compared.

    Args:
        image: The raster.
        file: The scene; its image is the map, on whose grid polygons are burned.
        scheme: Says what labels are.

    Raises:
        HrrsiError: A raster can't be opened.
    """
    label = file.label or file.eroded_label or ""
    is_vector = PurePosixPath(label).suffix.lower() in VECTOR_SUFFIXES
    grid = file.image if is_vector or scheme.label_format == "polygons" else label
    with open_raster(image) as picture, open_raster(grid) as raster:
        return is_same_grid(picture, raster)
