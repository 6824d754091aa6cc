"""Rasters of a map: classes (palette, class names) and their areas, confidences, probabilities."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp

from hrrsi.classes import IGNORE_INDEX, Colour
from hrrsi.files import content_digest, replacing, scratch_folder
from hrrsi.interruption import stop_if_requested
from hrrsi.maps.cloud_optimised import FREE_SPACE, write_cloud_optimised
from hrrsi.maps.components import Labels
from hrrsi.maps.raw_pyramid import LabelPyramid, RawPyramid, write_errors
from hrrsi.maps.styles import files_left, map_record, pam_xml, qml_style, sidecar_path
from hrrsi.scenes.georeference import exact_areas, pixel_areas
from hrrsi.scenes.pixel_reader import rasterio_window
from hrrsi.scenes.raster_opening import open_raster
from hrrsi.scenes.scene_rasters import TAG
from hrrsi.scenes.windows import Window

SCORE_STEPS = 250  # 1 in the files of uint8; a step is 0.004
_STRIP_ROWS = 512


class ClassRasterContent(NamedTuple):
    """What a class map of ours says of itself.

    Attributes:
        classes: Class names in the order of their indices.
        class_pixels: Pixels of each class.
        nodata_pixels: Pixels without data.
        provenance: What made it: version, weights, options.
    """

    classes: list[str]
    class_pixels: list[int]
    nodata_pixels: int
    provenance: dict[str, str]


def write_class_raster(
    path: Path,
    scene: Any,
    labels: LabelPyramid | Iterable[npt.NDArray[np.uint8]],
    *,
    classes: Sequence[str],
    colours: Sequence[Colour],
    has_nodata: bool,
    provenance: Mapping[str, str],
    run: str | None = None,
    beside: Sequence[Path] = (),
    scene_path: str | Sequence[str] | None = None,
) -> ClassRasterContent:
    """Write a class map and its sidecars; they appear whole, or not at all.

    The map is a cloud-optimised GeoTIFF with one uint8 band, DEFLATE, with palette, overviews by
    mode (`raw_pyramid.most_frequent`), and the scene's size, CRS, and transform or ground control
    points. Class names stand in a style beside it (``NAME.qml``, which QGIS loads by itself) and
    in GDAL's sidecar (``NAME.tif.aux.xml``: category names, and an attribute table with colours
    and pixel counts). Its bytes depend on the labels, not on how they come.

    Args:
        path: The map; what is there is replaced.
        scene: The rasterio dataset whose grid it has.
        labels: The labels, complete; or strips of them from top to bottom, (rows, width) class
            indices each, 255 where there is no data, which pass through files beside the map.
        classes: Class names in the order of their indices.
        colours: Class colours, likewise.
        has_nodata: Whether 255 is declared as no data.
        provenance: What made the map, e.g. ``{"WEIGHTS": "x.safetensors"}``; written as tags
            with ``HRRSI_`` before them.
        run: What identifies the run that makes the map, scene included; kept in the sidecar, so
            that the map's own bytes depend on the labels alone.
        beside: Finished files of the same run, whose digests the sidecar keeps beside the map's.
        scene_path: What GDAL opens the scene by, or each tile of a mosaic; the sidecar keeps it.

    Returns:
        What the map says of itself.

    Raises:
        OutputError: The folder is not writable, or the disk is full.
        ValueError: The labels don't cover the scene exactly.
    """
    style = path.with_suffix(".qml")
    sidecar = sidecar_path(path)
    digests: dict[str, str | None] = dict.fromkeys(files_left(path))
    digests |= {file.name: content_digest(file) for file in beside}
    # left in reverse order: the map gets its name last, when its sidecars have theirs
    with (
        replacing(path) as raster_file,
        replacing(sidecar) as sidecar_file,
        replacing(style) as style_file,
        gathered_labels(labels, path, scene, len(classes)) as pyramid,
    ):
        class_pixels = list(pyramid.class_pixels)

        def describe(dataset: Any) -> None:
            palette = {index: (*colour, 255) for index, colour in enumerate(colours)}
            dataset.write_colormap(1, {**palette, IGNORE_INDEX: (0, 0, 0, 0)})
            dataset.colorinterp = [ColorInterp.palette]
            dataset.set_band_description(1, "class")
            if has_nodata:
                dataset.nodata = IGNORE_INDEX
            dataset.update_tags(
                **{TAG + "CLASSES": json.dumps(list(classes), ensure_ascii=False)},
                **{TAG + "CLASS_PIXELS": json.dumps(class_pixels)},
                **{TAG + key: value for key, value in provenance.items()},
            )

        write_cloud_optimised(raster_file, scene, [pyramid], final=path, describe=describe)
        with write_errors(path, FREE_SPACE):
            style_file.write_text(qml_style(classes, colours), encoding="utf-8")
            digest = content_digest(raster_file)
            record = map_record(run, digest, files=digests, scene=scene_path)
            content = pam_xml(classes, colours, class_pixels, record)
            sidecar_file.write_text(content, encoding="utf-8")
    return ClassRasterContent(list(classes), class_pixels, pyramid.nodata_pixels, dict(provenance))


def write_confidence_raster(
    path: Path,
    scene: Any,
    confidence: RawPyramid,
    *,
    has_nodata: bool,
    provenance: Mapping[str, str],
) -> None:
    """Write the probability of the class that each pixel got; the file appears whole or not at all.

    A cloud-optimised GeoTIFF with one band, ``confidence``, on the scene's grid, with overviews
    by mean. As uint8 it holds 0 to 250, with a scale of 0.004 that QGIS and GDAL apply, and 255
    where there is no data; as float32 it holds 0 to 1, and NaN there.

    Args:
        path: The file; what is there is replaced.
        scene: The rasterio dataset whose grid it has.
        confidence: From `PartialMap.confidence`, complete.
        has_nodata: Whether 255 (or NaN) is declared as no data.
        provenance: What made the map; written as tags with ``HRRSI_`` before them.

    Raises:
        OutputError: The folder is not writable, or the disk is full.
    """
    tags = {"CONTENT": "confidence", **provenance}
    _write(path, scene, [confidence], ["confidence"], has_nodata, tags)


def write_probability_raster(
    path: Path,
    scene: Any,
    probabilities: Sequence[RawPyramid],
    *,
    classes: Sequence[str],
    has_nodata: bool,
    provenance: Mapping[str, str],
) -> None:
    """Write the probability of each class; the file appears whole or not at all.

    Like `write_confidence_raster`, with a band for each class, which has the class name as its
    description.

    Args:
        path: The file; what is there is replaced.
        scene: The rasterio dataset whose grid it has.
        probabilities: From `PartialMap.probabilities`, complete.
        classes: Class names in the order of their indices.
        has_nodata: Whether 255 (or NaN) is declared as no data.
        provenance: What made the map; written as tags with ``HRRSI_`` before them.

    Raises:
        OutputError: The folder is not writable, or the disk is full.
    """
    names = json.dumps(list(classes), ensure_ascii=False)
    tags = {"CONTENT": "probabilities", "CLASSES": names, **provenance}
    _write(path, scene, probabilities, classes, has_nodata, tags)


def read_class_raster(path: str | Path) -> ClassRasterContent | None:
    """Return what a class map says of itself, or None for a raster that is not one of ours.

    Raises:
        InputError: Not a readable raster.
    """
    with open_raster(path) as dataset:
        tags = dataset.tags()
        content = _tagged_classes(tags)
        if content is None:
            return None
        classes, class_pixels = content
        nodata = dataset.width * dataset.height - sum(class_pixels)
        if nodata < 0:
            return None
    provenance = {
        key.removeprefix(TAG): value
        for key, value in tags.items()
        if key.startswith(TAG) and key not in (TAG + "CLASSES", TAG + "CLASS_PIXELS")
    }
    return ClassRasterContent(classes, class_pixels, nodata, provenance)


def _tagged_classes(tags: Mapping[str, str]) -> tuple[list[str], list[int]] | None:
    """Return class names and pixels as a raster's tags say them, None where they say none."""
    from pydantic import NonNegativeInt, TypeAdapter, ValidationError  # takes a moment

    try:
        names = TypeAdapter(list[str]).validate_json(tags[TAG + "CLASSES"])
        pixels = TypeAdapter(list[NonNegativeInt]).validate_json(tags[TAG + "CLASS_PIXELS"])
    except (KeyError, ValidationError):
        return None
    return (names, pixels) if len(names) == len(pixels) else None


def map_strips(path: Path) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the rows of a finished map from top to bottom, (rows, width) uint8 each.

    Raises:
        InputError: Not a readable raster.
    """
    with open_raster(path) as dataset:
        for row in range(0, dataset.height, _STRIP_ROWS):
            stop_if_requested()
            part = Window(row, 0, min(_STRIP_ROWS, dataset.height - row), dataset.width)
            yield dataset.read(1, window=rasterio_window(part))


def stored_scores(
    scores: npt.NDArray[Any], labels: npt.NDArray[np.uint8], dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Return scores as files hold them.

    Args:
        scores: (..., rows, width) float in [0, 1], or uint8 in steps of 0.004 (250 is 1).
        labels: (rows, width), 255 where there is no data.
        dtype: ``uint8`` or ``float32``.

    Returns:
        (..., rows, width): uint8 in steps of 0.004 with 255 where there is no data, or float32
        in [0, 1] with NaN there.
    """
    are_steps = scores.dtype == np.uint8
    empty = labels == IGNORE_INDEX
    if np.dtype(dtype) == np.uint8:
        stored = scores.copy() if are_steps else _steps(scores)
        stored[..., empty] = IGNORE_INDEX
        return stored
    values = scores / np.float32(SCORE_STEPS) if are_steps else scores
    stored = values.astype(np.float32)
    stored[..., empty] = np.nan
    return stored


def empty_score(dtype: npt.DTypeLike) -> float:
    """Return what stands where there is no data: 255 among bytes, else NaN."""
    return IGNORE_INDEX if np.dtype(dtype) == np.uint8 else np.nan


def empty_scores(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return stored scores of pixels without data."""
    return np.full(shape, empty_score(dtype), dtype=dtype)


@contextmanager
def gathered_labels(
    labels: LabelPyramid | Iterable[npt.NDArray[np.uint8]],
    path: Path,
    scene: Any,
    num_classes: int,
) -> Iterator[LabelPyramid]:
    """Yield the labels as a complete pyramid, which strips become beside the map.

    Args:
        labels: As for `write_class_raster`.
        path: The map.
        scene: The rasterio dataset whose grid they have.
        num_classes: Number of classes.

    Raises:
        OutputError: The disk is full.
        ValueError: The labels don't cover the scene exactly.
    """
    if isinstance(labels, LabelPyramid):
        _check_covers(labels, scene)
        yield labels
        return
    # a folder of its own: who makes the strips may keep files beside the map, too
    with scratch_folder(path.with_name(path.name + ".labels")) as folder:
        pyramid = LabelPyramid(
            folder, height=scene.height, width=scene.width, num_classes=num_classes
        )
        for strip in labels:
            with write_errors(path, FREE_SPACE):
                pyramid.append(strip)
        _check_covers(pyramid, scene)
        yield pyramid


def _check_covers(labels: LabelPyramid, scene: Any) -> None:
    if (labels.rows, labels.width) != (scene.height, scene.width):
        raise ValueError(
            f"labels of {labels.rows} x {labels.width} px for a scene of {scene.height} x "
            f"{scene.width} px"
        )


def _steps(scores: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    scaled = scores * np.float32(SCORE_STEPS)
    scaled += np.float32(0.5)
    # rounding of sums may put a probability a hair outside of [0, 1]
    steps: npt.NDArray[np.uint8] = np.clip(scaled, 0, SCORE_STEPS, out=scaled).astype(np.uint8)
    return steps


def _write(
    path: Path,
    scene: Any,
    bands: Sequence[RawPyramid],
    names: Sequence[str],
    has_nodata: bool,
    tags: Mapping[str, str],
) -> None:
    if len(bands) != len(names):
        raise ValueError(f"{len(bands)} bands for {len(names)} names")
    if any((band.rows, band.width) != (scene.height, scene.width) for band in bands):
        raise ValueError(f"scores don't cover {scene.height} x {scene.width} px")
    as_steps = bands[0].dtype == np.uint8

    def describe(dataset: Any) -> None:
        # without it, three or four bands would pass for colours
        dataset.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * (len(bands) - 1)]
        dataset.descriptions = tuple(names)
        if as_steps:
            dataset.scales = (1 / SCORE_STEPS,) * len(bands)
            dataset.offsets = (0.0,) * len(bands)
        if has_nodata:
            dataset.nodata = IGNORE_INDEX if as_steps else np.nan
        dataset.update_tags(**{TAG + key: value for key, value in tags.items()})

    with replacing(path) as file:
        write_cloud_optimised(file, scene, bands, final=path, describe=describe, smooth=True)


@dataclass(frozen=True)
class MapSummary:
    """What a map holds of each class.

    Attributes:
        scene: The raster that it shows, as given.
        height: Rows of pixels.
        width: Columns of pixels.
        classes: Class names in the order of their indices.
        colours: Class colours (red, green, blue, 0 to 255), likewise.
        class_pixels: Pixels of each class.
        nodata_pixels: Pixels without data.
        pixel_area: Square metres of a pixel in the middle of the scene, or None where the ground
            resolution is not known.
        areas: Square metres of each class on the ground, or None where they are not known.
    """

    scene: str
    height: int
    width: int
    classes: list[str]
    colours: list[Colour]
    class_pixels: list[int]
    nodata_pixels: int
    pixel_area: float | None
    areas: list[float] | None

    @property
    def shares(self) -> list[float]:
        """Share of each class in the pixels that hold data, 0 to 1."""
        return [n / max(1, sum(self.class_pixels)) for n in self.class_pixels]


class ClassAreas:
    """Counts the pixels of each class, and the ground that they cover, strip by strip.

    Args:
        num_classes: Number of classes.
        areas: (height,) square metres of a pixel in each row (`pixel_areas`), or None.
    """

    def __init__(self, num_classes: int, areas: npt.NDArray[np.float64] | None) -> None:
        self._exact = None if areas is None else exact_areas(areas)
        self._same = areas is not None and bool((areas == areas[0]).all())
        self._counts = np.zeros(256, dtype=np.int64)
        self._units = np.zeros(num_classes, dtype=np.int64)
        self._row = 0

    def add(self, labels: Labels) -> None:
        """Count the next strip, (rows, width) class indices, 255 where there is no data."""
        # row by row: counting needs eight bytes a pixel
        rows = np.stack([np.bincount(row, minlength=256) for row in labels])
        self._counts += rows.sum(axis=0)
        if self._exact is not None and not self._same:
            units = self._exact.units[self._row : self._row + len(labels)]
            self._units += units @ rows[:, : len(self._units)]
        self._row += len(labels)

    @property
    def pixels(self) -> list[int]:
        """Pixels of each class."""
        return [int(n) for n in self._counts[: len(self._units)]]

    @property
    def nodata_pixels(self) -> int:
        """Pixels without data."""
        return int(self._counts.sum()) - sum(self.pixels)

    @property
    def areas(self) -> list[float] | None:
        """Square metres of each class, or None where they are not known."""
        if self._exact is None:
            return None
        if self._same:
            return [n * (2**30 * self._exact.unit) for n in self.pixels]
        return [int(n) * self._exact.unit for n in self._units]


def map_areas(path: Path, dataset: Any, class_pixels: Sequence[int]) -> list[float] | None:
    """Return the square metres of each class of a finished map, or None where they are not known.

    Args:
        path: The map.
        dataset: The rasterio dataset of its scene.
        class_pixels: Pixels of each class.
    """
    by_row = pixel_areas(dataset)
    if by_row is None:
        return None
    if (by_row == by_row[0]).all():
        return [pixels * float(by_row[0]) for pixels in class_pixels]
    areas = ClassAreas(len(class_pixels), by_row)
    for labels in map_strips(path):
        areas.add(labels)
    return areas.areas
