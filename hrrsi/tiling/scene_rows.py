"""Patches of one scene, cut and written a row of windows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rasterio import Affine

from hrrsi.classes import IGNORE_INDEX
from hrrsi.errors import InputError
from hrrsi.interruption import stop_if_requested
from hrrsi.labels.label_reading import open_labels
from hrrsi.labels.merged_classes import MergedClasses
from hrrsi.labels.scene_labels import Labels
from hrrsi.labels.scheme import Scheme
from hrrsi.labels.splits import Part
from hrrsi.scenes.raster_opening import bounded_block_cache
from hrrsi.scenes.scene import Scene, open_scene
from hrrsi.scenes.window_source import scene_at
from hrrsi.scenes.windows import Window, window_grid
from hrrsi.tiling.dataset import Georeference, PatchFormat, image_bytes, label_bytes
from hrrsi.tiling.options import SMALLEST_PATCH, TileOptions
from hrrsi.tiling.scene_overlap import Fingerprints, fingerprints

if TYPE_CHECKING:
    from hrrsi.scenes.polygons import AreaOfInterest

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BandMoments:
    """Count, mean and sum of squared deviations of each band.

    Pieces join by the update of Chan, Golub & LeVeque (1979), which stays exact where sums of
    squares would cancel. Joined in the same order they give the same bits.

    Attributes:
        count: Number of pixels.
        mean: (bands,) mean.
        deviations: (bands,) sum of squared deviations from the mean.
    """

    count: int
    mean: Floats
    deviations: Floats

    @classmethod
    def of(cls, pixels: npt.NDArray[np.generic]) -> BandMoments:
        """Return the moments of (bands, pixels) values."""
        bands, count = pixels.shape
        if count == 0:
            return cls(0, np.zeros(bands), np.zeros(bands))
        values = pixels.astype(np.float64)
        mean = values.mean(axis=1)
        return cls(count, mean, ((values - mean[:, np.newaxis]) ** 2).sum(axis=1))

    def joined(self, other: BandMoments) -> BandMoments:
        """Return the moments of both sets of pixels together."""
        count = self.count + other.count
        if count == 0:
            return self
        difference = other.mean - self.mean
        return BandMoments(
            count,
            self.mean + difference * (other.count / count),
            self.deviations + other.deviations + difference**2 * (self.count * other.count / count),
        )

    @property
    def std(self) -> Floats:
        """(bands,) standard deviation over all pixels."""
        result: Floats = np.sqrt(self.deviations / max(self.count, 1))
        return result


@dataclass(frozen=True)
class Tiling:
    """What is the same for every scene of a run.

    Attributes:
        options: How scenes are cut.
        scheme: Says what labels mean.
        merged: The classes of the patches.
        bands: The 1-based bands of scenes that don't name them.
        dtype: NumPy name of the patches' type.
        band_names: What the bands of patches are, where heights come after those of the scenes;
            otherwise empty.
        file_format: Suffix of the patches' files.
        measure: Whether to gather the statistics of training pixels.
        fingerprint: Whether to gather fingerprints of the pixels.
    """

    options: TileOptions
    scheme: Scheme
    merged: MergedClasses
    bands: tuple[int, ...]
    dtype: str
    band_names: tuple[str, ...]
    file_format: PatchFormat
    measure: bool
    fingerprint: bool


@dataclass(frozen=True)
class SceneRows:
    """Some rows of windows of one scene, or of a block of it: what one process works on at a time.

    Attributes:
        name: The name that patches have: the scene's, or the block's.
        scene: The scene's name.
        part: train, val or test.
        image: Path of its image.
        bands: The 1-based bands of it.
        labels: Paths of its labels.
        height: Path of its height model, or None.
        area: The part of the scene that windows cover, on the grid of patches.
        first: First row of windows.
        stop: The row of windows after the last.
        pixels: Pixels in them, for progress.
        patches: How many they are.
    """

    name: str
    scene: str
    part: Part
    image: str
    bands: tuple[int, ...]
    labels: tuple[str, ...]
    height: str | None
    area: Window
    first: int = 0
    stop: int = 0
    pixels: int = 0
    patches: int = 0

    def grid(self, options: TileOptions) -> list[list[Window]]:
        """Return the windows that cover the whole area, on the scene's grid, row by row."""
        row, col, height, width = self.area
        grid = window_grid(height, width, options.size, options.effective_stride)
        return [[w._replace(row=w.row + row, col=w.col + col) for w in windows] for windows in grid]


@dataclass
class RowsContent:
    """What the patches of some rows of windows hold.

    Attributes:
        label_pixels: (classes and partial labels,) labelled pixels.
        patches: Number of patches written.
        empty_patches: Number of patches left out because none of their pixels has a class (or, of
            those kept without labels, data).
        ignored_pixels: Pixels of label 255.
        unknown_pixels: Pixels whose label the scheme doesn't know, each counted once.
        data_pixels: Pixels of the scene that hold data, with or without a height, likewise.
        without_height: Those of them that have no height.
        moments: Statistics of the pixels with data (and in the area of interest) of training
            patches, where they are measured.
        fingerprints: Of the patches' pixels, where they are gathered.
    """

    label_pixels: npt.NDArray[np.int64]
    patches: int = 0
    empty_patches: int = 0
    ignored_pixels: int = 0
    unknown_pixels: int = 0
    data_pixels: int = 0
    without_height: int = 0
    moments: BandMoments | None = None
    fingerprints: list[Fingerprints] = field(default_factory=list)


class _OpenScene(NamedTuple):
    """A scene and what belongs to it, opened."""

    scene: Scene
    labels: Labels
    area: AreaOfInterest | None


class _LabelledPixels(NamedTuple):
    """A row of windows over the whole width of the area, or one patch of it.

    Attributes:
        pixels: (bands, height, width).
        indices: (height, width) class indices, 255 where there is none.
        valid: (height, width), which pixels hold data and lie in the area of interest.
    """

    pixels: npt.NDArray[Any]
    indices: npt.NDArray[np.uint8]
    valid: npt.NDArray[np.bool_]


@bounded_block_cache()
def write_rows(job: tuple[Path, Tiling, SceneRows]) -> RowsContent:
    """Cut and write the patches of some rows of windows of a scene.

    In ``val`` and ``test`` each pixel keeps its label only in the first patch, from the top left,
    that holds it. Pixels without data (or without height, where heights are wanted) are 0 in the
    image and 255 in the label, and so is the padding of scenes smaller than a patch. Their height
    is the mean of the patch: 0 may be far from any height that there is.

    Args:
        job: The dataset's folder, what is the same for every scene, and the rows of windows.

    Raises:
        InputError: The image or label can't be read, or the label holds unknown values.
    """
    folder, tiling, rows = job
    options = tiling.options
    content = RowsContent(np.zeros(len(tiling.merged.label_colours), dtype=np.int64))
    with ExitStack() as stack:
        opened_scene = open_tiled(rows.image, rows.bands, options, rows.height)
        scene = on_patch_grid(stack.enter_context(opened_scene), options, tiling.scheme)
        grid = rows.grid(options)
        top, bottom = grid[rows.first][0], grid[rows.stop - 1][0]
        within = rows.area._replace(row=top.row, height=bottom.row + bottom.height - top.row)
        labels = stack.enter_context(
            open_labels(
                rows.labels,
                scene,
                tiling.scheme,
                name=rows.scene,
                unknown=options.unknown,
                within=within,
            )
        )
        opened = _OpenScene(scene, labels, patch_area(options.aoi, scene))
        for number in range(rows.first, rows.stop):
            above = grid[number - 1][0] if number else Window(0, 0, 0, 0)
            rows_end = above.row + above.height  # what the row of windows above holds, too
            left, right = grid[number][0], grid[number][-1]
            strip_window = left._replace(width=right.col + right.width - left.col)
            strip = _read_strip(tiling, opened, strip_window, rows_end, content)
            columns_end = 0
            for window in grid[number]:
                stop_if_requested()
                inside = window._replace(col=window.col - left.col)
                patch = _patch(options.size, strip, inside, has_height=scene.has_height)
                if rows.part != "train":
                    patch.indices[: max(0, rows_end - window.row)] = IGNORE_INDEX
                    patch.indices[:, : max(0, columns_end - window.col)] = IGNORE_INDEX
                if _count(patch, tiling, rows.part, content):
                    name = f"{rows.name}_{window.row:05d}_{window.col:05d}"
                    _write(patch, tiling, folder / rows.part, name, _georeference(scene, window))
                columns_end = window.col + window.width
    return content


def open_tiled(
    image: str, bands: Sequence[int], options: TileOptions, height_model: str | None = None
) -> AbstractContextManager[Scene]:
    """Open a scene as its patches are cut from it; as `open_scene`.

    Args:
        image: The scene.
        bands: The 1-based bands of the patches.
        options: How scenes are read.
        height_model: A raster of heights as one more band, or None.
    """
    return open_scene(
        image,
        bands=bands,
        expected_bands=len(bands),
        nodata=options.nodata,
        crs=options.crs,
        height_model=height_model,
    )


def on_patch_grid(scene: Scene, options: TileOptions, scheme: Scheme) -> Scene:
    """Return a scene at the ground resolution of patches, where that is asked for.

    Args:
        scene: As `open_tiled` opens it.
        options: How scenes are read.
        scheme: Says at which resolution they are, where they don't.

    Raises:
        InputError: As `scene_at`, or it would be smaller than the smallest patch.
    """
    brought = scene_at(scene, options.resolution, scheme.resolution)
    if brought is not scene and min(brought.shape) < min(SMALLEST_PATCH, *scene.shape):
        raise InputError(
            f"would have {brought.height} rows and {brought.width} columns at "
            f"{options.resolution:g} m a pixel",
            where=scene.path,
            fix="give a finer `resolution`, in metres a pixel",
        )
    return brought


def patch_area(aoi: str | Path | None, scene: Scene) -> AreaOfInterest | None:
    """Return the area of interest of a scene, which may lie beside it; None without a file.

    Raises:
        InputError: As `scene_polygons`.
    """
    if aoi is None:
        return None
    from hrrsi.scenes.polygons import AreaOfInterest, scene_polygons  # 40 MB, seldom needed

    return AreaOfInterest(scene_polygons(aoi, scene), Window(0, 0, *scene.shape))


def _read_strip(
    tiling: Tiling, opened: _OpenScene, window: Window, rows_end: int, content: RowsContent
) -> _LabelledPixels:
    """Return a row of windows, and count its unknown labels below the end of the row above."""
    scene, labels, area = opened
    pixels = scene.read(window)
    valid = scene.read_valid(window, pixels)
    overlap = max(0, rows_end - window.row)
    without_height = scene.without_height(window, pixels)
    if without_height is not None:
        content.without_height += int(without_height[overlap:].sum())
        content.data_pixels += int((without_height | valid)[overlap:].sum())
    pixels = pixels.astype(tiling.dtype, copy=False)
    pixels[:, ~valid] = 0
    if without_height is not None:
        pixels[-1, ~valid] = np.nan
    indices, unknown = labels.read_with_unknown(
        window._replace(row=window.row + overlap, height=window.height - overlap)
    )
    content.unknown_pixels += unknown
    if overlap:
        above = labels.read(window._replace(height=overlap))
        indices = np.concatenate([above, indices])
    indices = tiling.merged.new_index[indices]
    if area is not None:
        valid &= area.inside(window)
    indices[~valid] = IGNORE_INDEX
    return _LabelledPixels(pixels, indices, valid)


def _patch(
    size: int, strip: _LabelledPixels, window: Window, *, has_height: bool
) -> _LabelledPixels:
    """Return one window of a row of windows, padded to a whole patch.

    Its columns are counted from the first of the row.
    """
    columns = slice(window.col, window.col + window.width)
    patch = _LabelledPixels(
        np.zeros((len(strip.pixels), size, size), dtype=strip.pixels.dtype),
        np.full((size, size), IGNORE_INDEX, dtype=np.uint8),
        np.zeros((size, size), dtype=bool),
    )
    for whole, part in zip(patch, strip, strict=True):
        whole[..., : window.height, : window.width] = part[..., columns]
    if has_height:
        heights = patch.pixels[-1]
        heights[window.height :], heights[:, window.width :] = np.nan, np.nan
        valid = np.isfinite(heights)
        heights[~valid] = heights[valid].mean(dtype=np.float64) if valid.any() else 0
    return patch


def _count(patch: _LabelledPixels, tiling: Tiling, part: Part, content: RowsContent) -> bool:
    """Count what a patch holds, and return whether it is kept: whether it can teach anything."""
    counts = np.bincount(patch.indices.ravel(), minlength=256)
    kept_unlabelled = tiling.options.unlabelled and part == "train" and patch.valid.any()
    if counts[IGNORE_INDEX] == patch.indices.size and not kept_unlabelled:
        content.empty_patches += 1
        return False
    content.patches += 1
    content.label_pixels += counts[: len(content.label_pixels)]
    content.ignored_pixels += int(counts[IGNORE_INDEX])
    if tiling.measure and part == "train":
        piece = BandMoments.of(patch.pixels[:, patch.valid])
        content.moments = content.moments.joined(piece) if content.moments else piece
    if tiling.fingerprint:
        content.fingerprints.append(fingerprints(patch.pixels[: len(tiling.bands)]))
    return True


def _write(
    patch: _LabelledPixels, tiling: Tiling, folder: Path, name: str, place: Georeference | None
) -> None:
    file = f"{name}.{tiling.file_format}"
    image = image_bytes(patch.pixels, tiling.file_format, place, tiling.band_names)
    label = label_bytes(patch.indices, tiling.merged.label_colours, tiling.file_format, place)
    (folder / "image" / file).write_bytes(image)
    (folder / "label" / file).write_bytes(label)


def _georeference(scene: Scene, window: Window) -> Georeference | None:
    if scene.own_grid.dataset.transform.is_identity:
        return None
    place, crs = scene.dataset.transform, scene.dataset.crs
    return Georeference(
        crs.to_wkt() if crs else None, place @ Affine.translation(window.col, window.row)
    )
