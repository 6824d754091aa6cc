"""What a tiling run has to do: every scene looked at, none cut yet."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hrrsi.classes import UnknownLabels
from hrrsi.errors import HrrsiError
from hrrsi.labels.label_reading import open_labels
from hrrsi.labels.labelled_scenes import SceneFiles
from hrrsi.labels.scheme import Scheme, merged_classes
from hrrsi.labels.splits import Part, SceneSplit
from hrrsi.scenes.bands import colour_bands
from hrrsi.scenes.raster_opening import open_raster
from hrrsi.scenes.scene import FULL_SCALE, Scene, open_scene
from hrrsi.scenes.value_scale import check_scale, known_scale
from hrrsi.scenes.windows import Window, window_grid
from hrrsi.tiling.dataset import band_names
from hrrsi.tiling.patch_files import patch_format
from hrrsi.tiling.scene_overlap import Footprint, footprint
from hrrsi.tiling.scene_rows import SceneRows, Tiling, area_of_interest

_ROWS_PIXELS = 1 << 24  # about how many pixels of a scene one process works on at a time
_MOST_PIECES = 8  # of a scene whose file is read from its start each time


@dataclass(frozen=True)
class TilingOptions:
    """How scenes are cut.

    Attributes:
        size: Rows and columns of a patch.
        stride: Pixels from one patch to the next, at most `size`.
        merges: Classes to join, as `merged_classes` takes them.
        eroded: Whether val and test take labels with eroded class borders; train never does.
        bands: The 1-based bands to keep; by default all but alpha.
        nodata: Value of pixels without data, beside what the scenes declare.
        scale: The value that counts as full brightness; by default what the scenes declare, else
            an estimate.
        height: Where height models come from, as the user says it, if heights are wanted as the
            last band; the files are those of the scenes.
        unknown: What to do about labels that the scheme doesn't know.
        aoi: Vector file of polygons; pixels outside are ignored, patches wholly outside left out.
        workers: Number of processes; the result is the same for any.
        show_progress: Whether a terminal shows a progress bar.
    """

    size: int = 512
    stride: int = 512
    merges: tuple[str, ...] = ()
    eroded: bool = False
    bands: tuple[int, ...] | None = None
    nodata: float | None = None
    scale: float | None = None
    height: str | None = None
    unknown: UnknownLabels = "error"
    aoi: Path | None = None
    workers: int = 1
    show_progress: bool = True


@dataclass(frozen=True)
class TilingPlan:
    """What a run has to do.

    Attributes:
        tiling: What is the same for every scene.
        rows: The work, in a fixed order.
        footprints: Where each scene lies.
        patches: Number of patches of each part, before any is left out.
        dtype: NumPy name of the scenes' type.
        scale: The value that counts as 1, or None where it has to be estimated.
        resolution: Ground sampling distance in metres per pixel, or None where unknown.
        alpha_band: The first band that the scenes call alpha, left out unasked; or None.
    """

    tiling: Tiling
    rows: list[SceneRows]
    footprints: list[Footprint]
    patches: dict[Part, int]
    dtype: str
    scale: float | None
    resolution: float | None
    alpha_band: int | None


def tiling_plan(
    files: Sequence[SceneFiles],
    scheme: Scheme,
    split: SceneSplit,
    folder: Path,
    options: TilingOptions,
) -> TilingPlan:
    """Look at every scene and label, and return what has to be done.

    Raises:
        HrrsiError: A label or height model is missing or doesn't fit its image, or scenes differ
            in bands, type or declared scale.
    """
    by_name = {file.name: file for file in files}
    bands: tuple[int, ...] = options.bands or ()
    dtype = ""
    rows: list[SceneRows] = []
    footprints: list[Footprint] = []
    patches: dict[Part, int] = {}
    resolutions: list[float | None] = []
    declared: dict[str, float | None] = {}
    alpha_band = None
    check_scale(options.scale)
    for part, names in split.parts.items():
        for name in names:
            file = by_name[name]
            label = _label(file, eroded=options.eroded and part != "train")
            height = _height(file, options)
            expected = len(bands) or _band_count(file.image, scheme)
            with open_scene(
                file.image, bands=options.bands, expected_bands=expected, height_model=height
            ) as scene:
                scene_dtype = _patch_type(scene)
                if dtype and scene_dtype != dtype:
                    raise HrrsiError(
                        f"holds {scene_dtype} where the scenes before it hold {dtype}",
                        where=file.image,
                        fix="convert the scenes to one type",
                    )
                if bands and scene.bands != bands:  # an alpha that doesn't come last in all
                    raise HrrsiError(
                        f"its bands but alpha are {_listed(scene.bands)} where those of the scenes "
                        f"before it are {_listed(bands)}",
                        where=file.image,
                        fix="choose with --bands, or bring them into one order",
                    )
                bands, dtype = scene.bands, scene_dtype
                if options.bands is None:
                    others = set(range(1, scene.dataset.count + 1)) - set(bands)
                    alpha_band = alpha_band or min(others, default=None)
                value = known_scale(scene)
                declared[file.image] = value and value.value
                resolutions.append(scene.resolution)
                footprints.append(footprint(name, part, scene.dataset))
                area_of_interest(options.aoi, scene)
                with open_labels(label, scene, scheme, name=name, unknown=options.unknown):
                    grid = window_grid(scene.height, scene.width, options.size, options.stride)
                rows += _scene_rows(SceneRows(name, part, file.image, label, height, 0, 0, 0), grid)
                patches[part] = patches.get(part, 0) + len(grid) * len(grid[0])
    scale = options.scale or _common_scale(declared)
    measure = options.height is not None or scheme_statistics(scheme, bands, dtype, scale) is None
    first = footprints[0]
    return TilingPlan(
        Tiling(
            folder=folder,
            scheme=scheme,
            merged=merged_classes(scheme, options.merges),
            bands=bands,
            dtype=dtype if options.height is None else "float32",
            band_names=() if options.height is None else tuple(band_names(bands, has_height=True)),
            size=options.size,
            stride=options.stride,
            file_format=patch_format(dtype, len(bands)) if options.height is None else "tif",
            nodata=options.nodata,
            unknown=options.unknown,
            aoi=options.aoi,
            measure=measure,
            fingerprint=not all(first.comparable(other) for other in footprints),
        ),
        rows,
        footprints,
        patches,
        dtype,
        scale,
        _resolution(resolutions, scheme),
        alpha_band,
    )


def scheme_statistics(
    scheme: Scheme, bands: Sequence[int], dtype: str, scale: float | None
) -> tuple[list[float], list[float]] | None:
    """Return the scheme's mean and standard deviation if they are of these bands, else None."""
    if scheme.mean is None or scheme.std is None or (dtype, scale) != ("uint8", 255):
        return None
    if tuple(bands) != tuple(range(1, len(scheme.mean) + 1)):
        return None
    return list(scheme.mean), list(scheme.std)


def _listed(bands: Sequence[int]) -> str:
    return ", ".join(map(str, bands))


def _label(file: SceneFiles, *, eroded: bool) -> str:
    label = file.eroded_label if eroded else file.label
    if label is None:
        kind = "eroded label" if eroded else "label"
        raise HrrsiError(
            f"has no {kind} (image {file.image})",
            where=f"scene {file.name}",
            fix=f"give the folder or archive of the {kind}s too, or leave the scene out of the "
            "split",
        )
    return label


def _band_count(image: str, scheme: Scheme) -> int:
    """Return how many bands patches hold: as many as the scheme's mean, else as the image."""
    if scheme.mean is not None:
        return len(scheme.mean)
    with open_raster(image) as dataset:
        return len(colour_bands(dataset))


def _scene_rows(scene: SceneRows, grid: list[list[Window]]) -> list[SceneRows]:
    """Return the work on one scene in pieces that don't depend on the number of processes."""
    row_pixels = sum(window.height * window.width for window in grid[0])
    step = max(1, _ROWS_PIXELS // row_pixels)
    if scene.image.startswith("/vsi") or not scene.image.lower().endswith((".tif", ".tiff")):
        step = max(step, -(-len(grid) // _MOST_PIECES))
    return [
        replace(
            scene,
            first=first,
            stop=min(first + step, len(grid)),
            pixels=row_pixels * (min(first + step, len(grid)) - first),
        )
        for first in range(0, len(grid), step)
    ]


def _height(file: SceneFiles, options: TilingOptions) -> str | None:
    if options.height is not None and file.height is None:
        raise HrrsiError(
            f"no height model fits it (image {file.image})",
            where=f"scene {file.name}, --height {options.height}",
            fix="add it, or leave the scene out of the split",
        )
    return file.height if options.height is not None else None


def _patch_type(scene: Scene) -> str:
    """Return the type in which patches keep a scene's values: floats all become float32.

    Raises:
        HrrsiError: Training can't read it.
    """
    if "float" in scene.dtype:
        return "float32"
    if scene.dtype not in FULL_SCALE:
        raise HrrsiError(
            f"holds {scene.dtype}",
            where=scene.path,
            fix=f"convert it to {', '.join(FULL_SCALE)} or float32",
        )
    return scene.dtype


def _common_scale(declared: Mapping[str, float | None]) -> float | None:
    """Return the value that all scenes declare to be full brightness, None where none does.

    Raises:
        HrrsiError: They differ.
    """
    first, scale = next(iter(declared.items()))
    for image, other in declared.items():
        if other != scale:
            said = ["none" if value is None else f"{value:g}" for value in (other, scale)]
            raise HrrsiError(
                f"declares {said[0]} as full brightness where {first} declares {said[1]}",
                where=image,
                fix="say it for all with --scale, or convert them to one range",
            )
    return scale


def _resolution(known: Sequence[float | None], scheme: Scheme) -> float | None:
    """Return the scenes' ground sampling distance, else the scheme's.

    Scenes may differ by a little (a geographic CRS); the median stands for them.
    """
    georeferenced = [r for r in known if r is not None]
    return round(statistics.median(georeferenced), 6) if georeferenced else scheme.resolution
