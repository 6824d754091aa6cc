"""What a tiling run has to do: every scene looked at, none cut yet."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from hrrsi.errors import InputError, MissingInputError, OptionError
from hrrsi.interruption import stop_if_requested
from hrrsi.labels.label_reading import open_labels
from hrrsi.labels.labelled_scenes import SceneFiles, labelled_scenes
from hrrsi.labels.merged_classes import merged_classes
from hrrsi.labels.scheme import Scheme, load_scheme
from hrrsi.labels.splits import Part, SceneSplit, scene_split
from hrrsi.quantities import counted, names_text
from hrrsi.scenes.bands import (
    NATURAL_ORDER,
    band_meanings,
    bands_showing,
    colour_bands,
    names_bands,
    open_imagery,
    unnamed_bands,
)
from hrrsi.scenes.scene import FULL_SCALE, Scene, open_scene
from hrrsi.scenes.value_scale import nominal_scale
from hrrsi.scenes.windows import Window, window_grid
from hrrsi.tiling.dataset import band_names, patch_format
from hrrsi.tiling.options import TileOptions
from hrrsi.tiling.result import (
    SceneBands,
    overlap_notes,
    placement_notes,
    planned_table,
    resolution_notes,
    split_notes,
)
from hrrsi.tiling.scene_overlap import Footprint, footprint, overlaps_by_georeference
from hrrsi.tiling.scene_rows import SceneRows, Tiling, patch_area

_ROWS_PIXELS = 1 << 24  # about how many pixels of a scene one process works on at a time
_MOST_PIECES = 8  # of a scene whose file is read from its start each time


class Sources(NamedTuple):
    """The scenes of a run.

    Attributes:
        files: Their files, in the natural order of their names.
        scheme: Says what labels mean.
        split: Which of them train, validate and test.
    """

    files: list[SceneFiles]
    scheme: Scheme
    split: SceneSplit


@dataclass(frozen=True)
class TilingPlan:
    """What a run has to do.

    Attributes:
        tiling: What is the same for every scene.
        split: Which scenes train, validate and test.
        rows: The work, in a fixed order.
        footprints: Where each scene lies.
        patches: Number of patches of each part, before any is left out.
        dtype: NumPy name of the scenes' type.
        scale: The value that counts as 1, or None where it has to be estimated.
        resolution: Ground sampling distance in metres per pixel, or None where unknown.
        scene_bands: What is known of the scenes' bands.
        resolutions: Ground sampling distance of each scene that has a known one.
        placements: How labels lie on their scenes, where that is to be said.
    """

    tiling: Tiling
    split: SceneSplit
    rows: list[SceneRows]
    footprints: list[Footprint]
    patches: dict[Part, int]
    dtype: str
    scale: float | None
    resolution: float | None
    scene_bands: SceneBands
    resolutions: dict[str, float]
    placements: dict[str, str]

    @property
    def notes(self) -> list[str]:
        """What a person should know before the run: lines that start with what they are."""
        return [
            *split_notes(self.split),
            *overlap_notes(overlaps_by_georeference(self.footprints)),
            *self.scene_notes,
        ]

    @property
    def scene_notes(self) -> list[str]:
        """What a person should know of bands and resolutions: lines likewise."""
        return [
            *self.scene_bands.notes,
            *resolution_notes(self.resolutions),
            *placement_notes(self.placements),
        ]

    @property
    def table(self) -> str:
        """Scenes and patches of each part."""
        return planned_table(self.split, self.patches)


def tiling_plan(
    raw: str | Path | Sequence[str | Path],
    scheme: str | Path | Scheme,
    options: TileOptions = TileOptions(),
) -> TilingPlan:
    """Return what `hrrsi.tile` would do: pixels are not read, nothing is written.

    Args:
        raw: As for `hrrsi.tile`.
        scheme: Likewise.
        options: Likewise.

    Raises:
        InputError: As `hrrsi.tile`, but for what only pixels show.
    """
    return planned_tiling(tiling_sources(raw, scheme, options), options)


def tiling_sources(
    raw: str | Path | Sequence[str | Path], scheme: str | Path | Scheme, options: TileOptions
) -> Sources:
    """Return the scenes in folders and archives, and which of them train, validate and test.

    Raises:
        InputError: As `load_scheme`, `labelled_scenes` and `scene_split`.
        OptionError: `options.background` is none for this scheme.
    """
    folders = [raw] if isinstance(raw, str | Path) else raw
    scheme = scheme if isinstance(scheme, Scheme) else load_scheme(scheme)
    scheme = scheme.read_as(options.effective_label_format, options.attribute)
    if options.background is not None:
        if scheme.label_format != "polygons":
            raise OptionError(
                f"is for polygons, and the labels hold {scheme.label_format}",
                parameter="background",
                fix="leave it out, or give `label_file` or `label_format=polygons`",
            )
        scheme = scheme.with_outside(options.background.strip())
    files = labelled_scenes(
        [Path(folder) for folder in folders],
        scheme,
        label_file=options.label_file,
        heights=options.height,
    )
    without = [f.name for f in files if f.label is None] if options.unlabelled else []
    split = scene_split(
        [file.name for file in files],
        scheme,
        split=options.split,
        val_scenes=options.val_scenes,
        test_scenes=options.test_scenes,
        unlabelled=without,
    )
    return Sources(files, scheme, split)


def planned_tiling(sources: Sources, options: TileOptions) -> TilingPlan:
    """Look at every scene and label, and return what has to be done.

    Raises:
        InputError: A label or height model is missing or doesn't fit its image, or scenes differ
            in bands, type or declared scale.
    """
    files, scheme, split = sources
    by_name = {file.name: file for file in files}
    scenes: list[_Scene] = []
    ordered = [by_name[name] for names in split.parts.values() for name in names]
    meanings = None if options.bands else _wanted_meanings(ordered, scheme)
    for part, names in split.parts.items():
        for name in names:
            stop_if_requested()
            first = scenes[0] if scenes else None
            scenes.append(_scene(by_name[name], part, scheme, options, first, meanings))
    _require_polygons(scenes, scheme, options)
    scene_bands = _scene_bands(scenes, scheme, options, meanings)
    bands, dtype = scene_bands.bands, scenes[0].dtype
    patches: dict[Part, int] = {}
    for scene in scenes:
        part = scene.footprint.part
        patches[part] = patches.get(part, 0) + scene.patches
    footprints = [scene.footprint for scene in scenes]
    scale = options.scale or _common_scale({scene.image: scene.scale for scene in scenes})
    has_height = options.height is not None
    has_statistics = scheme_statistics(scheme, bands, dtype, scale) is not None
    return TilingPlan(
        Tiling(
            options=options,
            scheme=scheme,
            merged=merged_classes(scheme, options.merges),
            bands=bands,
            dtype="float32" if has_height else dtype,
            band_names=tuple(band_names(bands, has_height=True)) if has_height else (),
            file_format="tif" if has_height else patch_format(dtype, len(bands)),
            measure=has_height or not has_statistics,
            fingerprint=not all(footprints[0].comparable(other) for other in footprints),
        ),
        split,
        [rows for scene in scenes for rows in scene.rows],
        footprints,
        patches,
        dtype,
        scale,
        _resolution([scene.resolution for scene in scenes], scheme),
        scene_bands,
        {s.name: s.resolution for s in scenes if s.resolution is not None},
        {s.name: s.placement for s in scenes if s.placement is not None},
    )


def _require_polygons(scenes: Sequence[_Scene], scheme: Scheme, options: TileOptions) -> None:
    """Raise where polygons lie on no scene at all, or without an outside on none that trains."""
    of_training = [scene for scene in scenes if scene.footprint.part == "train"]
    for among, what in ((scenes, "scenes"), (of_training, "training scenes")):
        needed = among is scenes or scheme.outside is None
        if needed and among and all(scene.is_blank for scene in among):
            raise InputError(
                f"no polygon lies on any of the {counted(len(among), what.removesuffix('s'))}"
                f" ({names_text([scene.name for scene in among], most=3)})",
                where=options.label_file or f"the labels of scheme {scheme.name}",
                fix="check the CRS of polygons and scenes, or choose other scenes",
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


@dataclass(frozen=True)
class _Scene:
    """What a look at a scene and its label tells, without reading pixels."""

    name: str
    image: str
    bands: tuple[int, ...]
    is_named: bool
    meanings: tuple[str | None, ...]
    alpha_band: int | None
    has_imagery_alpha: bool
    placement: str | None
    is_blank: bool
    dtype: str
    scale: float | None
    resolution: float | None
    footprint: Footprint
    rows: list[SceneRows]
    patches: int


def _scene(
    file: SceneFiles,
    part: Part,
    scheme: Scheme,
    options: TileOptions,
    first: _Scene | None,
    meanings: Sequence[str] | None,
) -> _Scene:
    label = _label(file, part, options)
    height = _height(file, options)
    bands = options.bands or (first.bands if first else ())
    band_count = len(bands) or len(meanings or ()) or _band_count(file.image, scheme)
    with open_scene(
        file.image,
        bands=options.bands,
        expected_bands=band_count,
        meanings=meanings,
        height_model=height,
    ) as scene:
        dtype = _patch_type(scene)
        if first is not None:
            _require_alike(scene, dtype, first)
            if options.bands is None:
                _require_same_bands(scene, first, meanings)
        if meanings is not None:
            _require_meanings(scene, meanings)
        scale = nominal_scale(scene)
        patch_area(options.aoi, scene)
        with open_labels(label, scene, scheme, name=file.name, unknown=options.unknown) as labels:
            grid = window_grid(scene.height, scene.width, options.size, options.effective_stride)
        unread = set(scene.reader.alpha_bands) - set(scene.bands)
        own = band_meanings(scene.dataset)
        return _Scene(
            name=file.name,
            image=file.image,
            bands=scene.bands,
            is_named=bands_showing(scene.dataset, meanings) == list(scene.bands)
            and list(unnamed_bands(scene.dataset, None)) != list(scene.bands),
            meanings=tuple(own[band - 1] for band in scene.bands),
            alpha_band=min(unread, default=None) if options.bands is None else None,
            has_imagery_alpha=scene.has_imagery_alpha,
            placement=labels.placement,
            is_blank=labels.is_blank,
            dtype=dtype,
            scale=scale and scale.value,
            resolution=scene.resolution,
            footprint=footprint(file.name, part, scene.dataset),
            rows=_scene_rows(
                SceneRows(file.name, part, file.image, scene.bands, label, height, 0, 0, 0),
                grid,
            ),
            patches=len(grid) * len(grid[0]),
        )


def _wanted_meanings(files: Sequence[SceneFiles], scheme: Scheme) -> tuple[str, ...] | None:
    """Return what the bands of patches are to show, or None where that is not known.

    By the scheme's word, else that of the first scene that names all of its bands: red, green,
    blue and near infrared then come in this order.
    """
    if not scheme.band_meanings and scheme.mean is not None:
        return None  # the scheme knows its bands by their numbers alone
    for file in files:
        with open_imagery(file.image, 3) as dataset:
            if scheme.band_meanings:
                found = bands_showing(dataset, scheme.band_meanings) is not None
                if found or len(colour_bands(dataset)) == len(scheme.band_meanings):
                    return scheme.band_meanings
                return None
            own = band_meanings(dataset)
            names = [own[band - 1] for band in colour_bands(dataset)]
        known = [name for name in names if name is not None]
        if len(known) == len(names) == len(set(names)):
            rank = {name: number for number, name in enumerate(NATURAL_ORDER)}
            return tuple(sorted(known, key=lambda name: rank.get(name, len(rank))))
    return None


def _scene_bands(
    scenes: Sequence[_Scene],
    scheme: Scheme,
    options: TileOptions,
    meanings: Sequence[str] | None,
) -> SceneBands:
    """Return what is known of the bands of all scenes."""
    alphas = (scene.alpha_band for scene in scenes if scene.alpha_band is not None)
    unnamed = next((scene.bands for scene in scenes if not scene.is_named), None)
    # bands of scenes that name them come in the order that is wanted, as if they lay so
    bands = unnamed or tuple(range(1, len(scenes[0].bands) + 1))
    known: Sequence[str | None] | None = meanings
    if known is None and options.bands and max(bands) <= len(scheme.band_meanings):
        known = [scheme.band_meanings[band - 1] for band in bands]
    elif known is None and None not in scenes[0].meanings:
        known = scenes[0].meanings
    return SceneBands(
        bands=bands,
        meanings=None if known is None else tuple(known),
        alpha_band=next(alphas, None),
        imagery_alphas=tuple(scene.name for scene in scenes if scene.has_imagery_alpha),
        named={scene.name: scene.bands for scene in scenes if scene.is_named},
    )


def _require_meanings(scene: Scene, meanings: Sequence[str]) -> None:
    """Raise where a scene says that its bands show something else than is wanted.

    Raises:
        InputError: It does.
    """
    if not names_bands(scene.dataset):
        return
    own = band_meanings(scene.dataset)
    shown = [own[band - 1] for band in scene.bands]
    if None not in shown and shown != list(meanings):
        raise InputError(
            f"calls bands {_listed(scene.bands)} {_shown(shown)} where patches hold "
            f"{', '.join(meanings)}",
            where=scene.path,
            fix="choose with `bands`, or leave the scene out of the split",
        )


def _require_alike(scene: Scene, dtype: str, first: _Scene) -> None:
    if dtype != first.dtype:
        raise InputError(
            f"holds {dtype} where the scenes before it hold {first.dtype}",
            where=scene.path,
            fix="convert the scenes to one type",
        )


def _require_same_bands(scene: Scene, first: _Scene, meanings: Sequence[str] | None) -> None:
    own = band_meanings(scene.dataset)
    pairs = [(own[b - 1], other) for b, other in zip(scene.bands, first.meanings, strict=False)]
    if meanings is None and any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise InputError(
            f"calls bands {_listed(scene.bands)} {_shown([pair[0] for pair in pairs])} where "
            f"{first.name} calls them {_shown(first.meanings)}",
            where=scene.path,
            fix="choose with `bands`, bring them into one order, or leave one out of the split",
        )
    is_named = bands_showing(scene.dataset, meanings) is not None or first.is_named
    if scene.bands != first.bands and not is_named:  # an alpha that doesn't come last in all
        raise InputError(
            f"its bands but alpha are {_spaced(scene.bands)} where those of the scenes before it "
            f"are {_spaced(first.bands)}",
            where=scene.path,
            fix="choose with `bands`, or bring them into one order",
        )


def _shown(meanings: Sequence[str | None]) -> str:
    return ", ".join(meaning or "unknown" for meaning in meanings)


def _spaced(bands: Sequence[int]) -> str:
    return ", ".join(map(str, bands))


def _listed(bands: Sequence[int]) -> str:
    return ",".join(map(str, bands))


def _label(file: SceneFiles, part: Part, options: TileOptions) -> str | None:
    eroded = options.eroded and part != "train"
    label = file.eroded_label if eroded else file.label
    if label is None and not (options.unlabelled and part == "train"):
        kind = "eroded label" if eroded else "label"
        raise MissingInputError(
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
    with open_imagery(image, 3) as dataset:
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


def _height(file: SceneFiles, options: TileOptions) -> str | None:
    if options.height is not None and file.height is None:
        raise MissingInputError(
            f"no height model fits it (image {file.image})",
            where=f"scene {file.name}, `height={options.height}`",
            fix="add it, or leave the scene out of the split",
        )
    return file.height if options.height is not None else None


def _patch_type(scene: Scene) -> str:
    """Return the type in which patches keep a scene's values: floats all become float32.

    Raises:
        InputError: Training can't read it.
    """
    if "float" in scene.dtype:
        return "float32"
    if scene.dtype not in FULL_SCALE:
        raise InputError(
            f"holds {scene.dtype}",
            where=scene.path,
            fix=f"convert it to {', '.join(FULL_SCALE)} or float32",
        )
    return scene.dtype


def _common_scale(scales: Mapping[str, float | None]) -> float | None:
    """Return the value that all images declare to be full brightness, None where none does.

    Raises:
        InputError: They differ.
    """
    first, scale = next(iter(scales.items()))
    for image, other in scales.items():
        if other != scale:
            texts = ["none" if value is None else f"{value:g}" for value in (other, scale)]
            raise InputError(
                f"declares {texts[0]} as full brightness where {first} declares {texts[1]}",
                where=image,
                fix="say it for all with `scale`, or convert them to one range",
            )
    return scale


def _resolution(resolutions: Sequence[float | None], scheme: Scheme) -> float | None:
    """Return the scenes' ground sampling distance, else the scheme's.

    Scenes may differ by a little (a geographic CRS); the median stands for them, one that a scene
    has.
    """
    georeferenced = [r for r in resolutions if r is not None]
    return round(statistics.median_low(georeferenced), 6) if georeferenced else scheme.resolution
