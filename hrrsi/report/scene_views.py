"""Pictures of evaluated scenes, taken while their strips stream by."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hrrsi.classes import IGNORE_INDEX, Colour
from hrrsi.errors import InputError, warn
from hrrsi.evaluation.evaluate import SceneSet
from hrrsi.evaluation.evaluated_strips import EvaluatedStrip
from hrrsi.evaluation.evaluation import EvaluationWarning
from hrrsi.labels.labelled_scenes import SceneFiles
from hrrsi.labels.scheme import Scheme, match_scene
from hrrsi.prediction.mapped_scene import scene_files
from hrrsi.quantities import counted_names
from hrrsi.scenes.georeference import is_same_grid
from hrrsi.scenes.pixel_reader import scene_picture
from hrrsi.scenes.raster_opening import open_raster

NO_CLASS_COLOUR = (43, 48, 54)
ERROR_COLOUR = (206, 0, 60)
MOST_SCENES = 40  # with pictures; the page has the figures of all
PALETTE_OFFSET = 33  # of a PNG's palette chunk: after the signature and the header

_LONGER_SIDE = 1400
_LARGE_SCENES = 6  # so many have pictures of that size, more have smaller ones
_SLACK = 1.3  # beyond it, rows that were kept are thinned out
_JPEG_QUALITY = 78
_ERROR_OPACITY = (0, 255, 150)  # of what is right, wrong, and not scored

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SceneView:
    """Pictures of one scene, all of the same size.

    Attributes:
        name: The scene.
        height: Rows of the scene.
        width: Columns of the scene.
        step: Every so many rows and columns were kept.
        truth: PNG with a palette: the classes' colours, then that of no class.
        prediction: Likewise.
        errors: PNG, transparent where the prediction is right, darkened where nothing is scored.
        picture: JPEG of the scene itself, or None.
    """

    name: str
    height: int
    width: int
    step: int
    truth: bytes
    prediction: bytes
    errors: bytes
    picture: bytes | None


class SceneViewCollector:
    """Keeps every so many rows and columns of strips, so that memory has a bound.

    An object of it is what ``hrrsi.evaluate(..., observer=)`` takes.

    Args:
        images: Rasters, and folders of them, to show under maps that are there; scenes that
            weights map show themselves.
    """

    def __init__(self, images: Sequence[Path] = ()) -> None:
        self._images = tuple(images)
        self._image_of: Mapping[str, str] = {}
        self._bands_of: Callable[[str, Any], Sequence[int]] | None = None
        self._colours: tuple[Colour, ...] = ()
        self._side = _LONGER_SIDE
        self._views: list[SceneView] = []
        self._file: SceneFiles | None = None
        self._rows: _SceneRows | None = None

    def begin(self, scenes: SceneSet) -> None:
        """Begin with scenes: the more they are, the smaller their pictures.

        Warns of maps that are there without an image, and of images that don't lie on the labels.

        Raises:
            InputError: As for the images: none is of any scene, or two are of one.
        """
        self._bands_of, self._colours = scenes.bands_of, scenes.colours
        count = max(len(scenes.files), 1)
        self._side = max(320, int(_LONGER_SIDE * min(1.0, (_LARGE_SCENES / count) ** 0.5)))
        if not scenes.are_maps:
            self._image_of = {file.name: file.image for file in scenes.files}
        elif self._images:
            self._image_of = _images_under_maps(self._images, scenes)

    def add(self, file: SceneFiles, strip: EvaluatedStrip) -> None:
        """Keep what is shown of a strip; those of a scene come from top to bottom."""
        if file != self._file:
            self._finish()
            self._file = file
            width = strip.truth.shape[1]
            self._rows = _SceneRows(self._side, width) if len(self._views) < MOST_SCENES else None
        if self._rows is not None:
            self._rows.add(strip)

    @property
    def views(self) -> tuple[SceneView, ...]:
        """The views of all scenes whose strips have come, at most `MOST_SCENES`."""
        self._finish()
        return tuple(self._views)

    def _finish(self) -> None:
        """Turn what was kept of the last scene into pictures, which are smaller."""
        file, rows = self._file, self._rows
        self._file = self._rows = None
        if file is None or rows is None:
            return
        truth, prediction = rows.truth, rows.prediction
        self._views.append(
            SceneView(
                name=file.name,
                height=rows.height,
                width=rows.width,
                step=rows.step,
                truth=class_image(truth, self._colours),
                prediction=class_image(prediction, self._colours),
                errors=error_image(truth, prediction),
                picture=self._picture(file, rows, truth.shape),
            )
        )

    def _picture(self, file: SceneFiles, rows: _SceneRows, shape: tuple[int, ...]) -> bytes | None:
        image = self._image_of.get(file.name)
        if image is None:
            return None
        with open_raster(image) as dataset:
            if dataset.shape != (rows.height, rows.width):
                return None  # of another grid: it would not lie on the labels
            bands = None if self._bands_of is None else self._bands_of(image, dataset)
        pixels = scene_picture(image, bands, *shape[:2])
        return _encoded(Image.fromarray(pixels), "JPEG", quality=_JPEG_QUALITY, optimize=True)


class _SceneRows:
    """Every `step`-th row and column of a scene.

    Args:
        side: Rows and columns that are kept at most, or a little more.
        width: Columns of the scene.
    """

    def __init__(self, side: int, width: int) -> None:
        self.step = max(1, -(-width // side))
        self.width = width
        self.height = 0
        self._side = side
        self._rows: list[Labels] = []  # (2, columns) each: truth and prediction

    def add(self, strip: EvaluatedStrip) -> None:
        self.height = strip.end_row
        for row in range(-strip.first_row % self.step, len(strip.truth), self.step):
            pair = np.stack([strip.truth[row], strip.prediction[row]])
            self._rows.append(np.ascontiguousarray(pair[:, :: self.step]))
        while len(self._rows) > self._side * _SLACK:  # a scene longer than wide
            self._rows = [np.ascontiguousarray(row[:, ::2]) for row in self._rows[::2]]
            self.step *= 2

    @property
    def truth(self) -> Labels:
        return np.stack([row[0] for row in self._rows])

    @property
    def prediction(self) -> Labels:
        return np.stack([row[1] for row in self._rows])


def class_image(labels: Labels, colours: Sequence[Colour]) -> bytes:
    """Return labels as a PNG whose palette are the classes' colours, then that of no class.

    Args:
        labels: (rows, columns) uint8, 255 where there is no class.
        colours: Class colours in the order of their indices.
    """
    indices = np.where(labels == IGNORE_INDEX, np.uint8(len(colours)), labels)
    image = Image.fromarray(indices)
    image.putpalette([value for colour in (*colours, NO_CLASS_COLOUR) for value in colour])
    return _encoded(image, "PNG", optimize=True)


def error_image(truth: Labels, prediction: Labels) -> bytes:
    """Return where a prediction is wrong as a PNG that lies over a picture of the scene.

    Args:
        truth: (rows, columns) uint8, 255 where ignored.
        prediction: Likewise, 255 where there is none.
    """
    scored = (truth != IGNORE_INDEX) & (prediction != IGNORE_INDEX)
    kinds = np.where(scored, truth != prediction, 2).astype(np.uint8)
    image = Image.fromarray(kinds)
    image.putpalette([255, 255, 255, *ERROR_COLOUR, *NO_CLASS_COLOUR])
    return _encoded(image, "PNG", optimize=True, transparency=bytes(_ERROR_OPACITY))


def palette_chunk(colours: Sequence[Colour]) -> bytes:
    """Return the palette chunk that `class_image` writes for these colours."""
    image = class_image(np.zeros((1, 1), dtype=np.uint8), colours)
    return image[PALETTE_OFFSET : PALETTE_OFFSET + 12 + 3 * (len(colours) + 1)]


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=form, **options)
    return file.getvalue()


def _images_under_maps(images: Sequence[Path], scenes: SceneSet) -> dict[str, str]:
    """Return the image to show under the map of each scene; warn of those without."""
    files, scheme = scenes.files, scenes.scheme
    image_of = _scene_images(images, [file.name for file in files], scheme)
    without_image = [file.name for file in files if file.name not in image_of]
    if without_image:
        _warn(f"shown without an image, for none fits: {counted_names(without_image)}")
    elsewhere = [
        file.name
        for file in files
        if file.name in image_of and not _is_on_labels(image_of[file.name], file, scheme)
    ]
    if elsewhere:
        paths = counted_names([image_of.pop(name) for name in elsewhere])
        _warn(f"left out because of another size or place than the labels: {paths}")
    return image_of


def _warn(message: str) -> None:
    warn(message, EvaluationWarning)


def _scene_images(images: Sequence[Path], scenes: Sequence[str], scheme: Scheme) -> dict[str, str]:
    """Return the image of each scene that has one.

    An image is of the scene that the scheme's patterns for images say, or whose name it has; one
    image and one scene belong together whatever their names.

    Args:
        images: Rasters, and folders of them.
        scenes: Names of the scenes.
        scheme: Says how images are named.

    Raises:
        InputError: No image is of any of the scenes, two are of one, or a folder holds none.
    """
    rasters = scene_files(images)
    if len(rasters) == len(scenes) == 1:
        return {scenes[0]: rasters[0]}
    image_of: dict[str, str] = {}
    for raster in rasters:
        path = Path(raster).absolute()
        names = (match_scene(scheme, scheme.images, path.as_posix()), path.stem)
        name = next((name for name in names if name in scenes), None)
        if name is None:
            continue  # of a scene that is not evaluated
        if name in image_of:
            raise InputError(
                f"the images {image_of[name]} and {raster} claim the same scene",
                where=f"scene {name}",
                fix="give one of them",
            )
        image_of[name] = raster
    if not image_of:
        raise InputError(
            f"no image is of a scene that is scored, e.g. {scenes[0]}",
            where=", ".join(map(str, images)),
            fix="name images as the scheme does, or SCENE.tif",
        )
    return image_of


def _is_on_labels(image: str, file: SceneFiles, scheme: Scheme) -> bool:
    """Return whether an image has the grid on which a map and its labels are compared.

    Args:
        image: The raster.
        file: The scene; its image is the map, on whose grid polygons are burned.
        scheme: Says what labels are.

    Raises:
        InputError: A raster can't be opened.
    """
    grid = file.label_raster(scheme) or file.image
    with open_raster(image) as picture, open_raster(grid) as raster:
        return is_same_grid(picture, raster)
