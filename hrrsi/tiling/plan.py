"""What a tiling run has to do: every scene looked at, none cut yet."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, get_args

from hrrsi.classes import LabelFormat
from hrrsi.errors import InputError, OptionError
from hrrsi.interruption import stop_if_requested
from hrrsi.labels.file_scheme import (
    FileSchemeOptions,
    file_scheme,
    image_patterns,
    is_label_raster,
)
from hrrsi.labels.label_reading import mask_scheme
from hrrsi.labels.labelled_scenes import SceneFiles, labelled_scenes
from hrrsi.labels.merged_classes import merged_classes
from hrrsi.labels.scheme import Scheme, load_scheme
from hrrsi.labels.splits import ALL_TRAIN, Part, SceneSplit, scene_split
from hrrsi.quantities import counted, counted_names, names_text
from hrrsi.scenes.bands import (
    NATURAL_ORDER,
    band_meanings,
    bands_showing,
    colour_bands,
    open_imagery,
)
from hrrsi.scenes.input_bands import band_names
from hrrsi.tiling.blocks import BlockSplit, block_split
from hrrsi.tiling.dataset import patch_format
from hrrsi.tiling.options import TileOptions
from hrrsi.tiling.result import (
    MUCH_IGNORED,
    SceneBands,
    overlap_notes,
    placement_notes,
    planned_table,
    resolution_notes,
    split_notes,
)
from hrrsi.tiling.scene_look import Piece, SceneLook, scene_look
from hrrsi.tiling.scene_overlap import Footprint, overlaps_by_georeference
from hrrsi.tiling.scene_rows import SceneRows, Tiling


class Sources(NamedTuple):
    """The scenes of a run.

    Attributes:
        files: Their files, in the natural order of their names.
        scheme: Says what labels mean.
        split: Which of them train, validate and test.
        scheme_notes: Lines on the scheme, where it was made of the labels.
    """

    files: list[SceneFiles]
    scheme: Scheme
    split: SceneSplit
    scheme_notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TilingPlan:
    """What a run has to do.

    Attributes:
        tiling: What is the same for every scene.
        split: Which scenes train, validate and test.
        rows: The work, in a fixed order.
        footprints: Where each scene or block lies.
        dtype: NumPy name of the scenes' type.
        scale: The value that counts as 1, or None where it has to be estimated.
        resolution: Ground sampling distance in metres per pixel, or None where unknown.
        scene_bands: What is known of the scenes' bands.
        resolutions: Ground sampling distance of each scene that has a known one, before it is
            brought to another.
        steps: How many of each scene's pixels one of the patches is wide.
        placements: How labels lie on their scenes, where that is to be said.
        scheme_notes: Lines on the scheme, where it was made of the labels, or labels hold 255, and
            on pixels that are no squares.
        blocks: The blocks of scenes, where they are split so; else None.
        mask_note: The one of these lines that tells of 255 in labels, or None.
    """

    tiling: Tiling
    split: SceneSplit
    rows: list[SceneRows]
    footprints: list[Footprint]
    dtype: str
    scale: float | None
    resolution: float | None
    scene_bands: SceneBands
    resolutions: dict[str, float]
    steps: dict[str, float]
    placements: dict[str, str]
    scheme_notes: tuple[str, ...] = ()
    blocks: BlockSplit | None = None
    mask_note: str | None = None

    @property
    def patches(self) -> dict[Part, int]:
        """Number of patches of each part, before any is left out."""
        patches: dict[Part, int] = {}
        for rows in self.rows:
            patches[rows.part] = patches.get(rows.part, 0) + rows.patches
        return patches

    @property
    def resampled_from(self) -> tuple[float, float] | None:
        """The finest and the coarsest ground resolution of scenes that are read at another."""
        if all(step == 1 for step in self.steps.values()):
            return None
        own = [round(resolution, 6) for resolution in self.resolutions.values()]
        return min(own), max(own)

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
        """What a person should know of classes, bands, resolutions and blocks: lines likewise."""
        return [
            *self.scheme_notes,
            *(self.blocks.notes if self.blocks else ()),
            *self.scene_bands.notes,
            *resolution_notes(self.resolutions, self.tiling.options.resolution),
            *placement_notes(self.placements),
        ]

    @property
    def table(self) -> str:
        """Scenes and patches of each part."""
        return planned_table(self.split, self.patches)


def tiling_plan(
    raw: str | Path | Sequence[str | Path],
    scheme: str | Path | Scheme | None,
    options: TileOptions = TileOptions(),
) -> TilingPlan:
    """Return what `hrrsi.tile` would do: pixels of scenes are not read, nothing is written.

    Labels are, where blocks of them are to be dealt out or a scheme is to be made of them.

    Args:
        raw: As for `hrrsi.tile`.
        scheme: Likewise.
        options: Likewise.

    Raises:
        InputError: As `hrrsi.tile`, but for what only pixels show.
    """
    return planned_tiling(tiling_sources(raw, scheme, options), options)


def tiling_sources(
    raw: str | Path | Sequence[str | Path], scheme: str | Path | Scheme | None, options: TileOptions
) -> Sources:
    """Return the scenes in folders and archives, and which of them train, validate and test.

    Raises:
        InputError: As `load_scheme`, `file_scheme`, `labelled_scenes` and `scene_split`.
        OptionError: `options.background` is none for this scheme, it has splits beside
            `options.split_blocks`, or there are neither a scheme nor labels to make one of.
    """
    labels = options.label_files
    if options.attribute is not None and labels and all(map(is_label_raster, labels)):
        raise OptionError(
            f"is of polygons, and {labels[0]} is a raster",
            parameter="attribute",
            fix="leave it out",
        )
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise OptionError(f"{twice[0]} is given twice", parameter="labels", fix="give it once")
    paths = [Path(path) for path in ([raw] if isinstance(raw, str | Path) else raw)]
    if scheme is None:
        if not labels:
            raise OptionError(
                "is missing",
                parameter="scheme",
                fix="give it, or `labels`, a file whose classes make one",
            )
        files = _files(paths, image_patterns(labels[0]), options)
        reading = FileSchemeOptions(
            options.attribute,
            options.label_format,
            options.crs,
            options.background and options.background.strip(),
        )
        label_scheme = file_scheme(labels, [file.image for file in files], reading)
        scheme, notes = label_scheme.scheme, label_scheme.notes
    else:
        scheme, notes = scheme if isinstance(scheme, Scheme) else load_scheme(scheme), ()
        files = _files(paths, scheme, options)
        scheme = scheme.read_as(_label_format(scheme, options), options.attribute)
    is_from_labels = bool(notes)
    if is_from_labels and len(labels) == 1:
        scheme = scheme.read_as(options.label_format)
    are_mixed = len(labels) > 1 and not all(map(is_label_raster, labels))
    has_polygons = scheme.label_format == "polygons" or are_mixed
    if options.background is not None:
        if not (has_polygons or (is_from_labels and scheme.outside is not None)):
            raise OptionError(
                f"is for polygons, and the labels hold {scheme.label_format}",
                parameter="background",
                fix="leave it out, or give polygons as `labels` or `label_format=polygons`",
            )
        scheme = scheme.with_outside(options.background.strip())
    elif is_from_labels and has_polygons and len(scheme.classes) == 1:
        notes += (
            f"warning: {scheme.class_names[0]} is the only class, and what lies outside of its "
            "polygons is ignored; `background=other` makes a class of it",
        )
    without = [f.name for f in files if f.label is None] if options.unlabelled else []
    return Sources(files, scheme, _split(files, scheme, options, without), notes)


def _files(raw: Sequence[Path], scheme: Scheme, options: TileOptions) -> list[SceneFiles]:
    return labelled_scenes(raw, scheme, labels=options.label_files, heights=options.height)


def _label_format(scheme: Scheme, options: TileOptions) -> LabelFormat | None:
    """Return what labels hold, or None where the scheme says it.

    Of several files it is what the rasters among them hold, if there are any.
    """
    labels = options.label_files
    if options.label_format is not None or not labels:
        return options.label_format
    if not any(map(is_label_raster, labels)):
        return "polygons"
    return "indices" if scheme.label_format == "polygons" else None


def _split(
    files: Sequence[SceneFiles], scheme: Scheme, options: TileOptions, without: Sequence[str]
) -> SceneSplit:
    """Return how scenes are split; all of them train until blocks of them are dealt out."""
    names = [file.name for file in files]
    if options.split_blocks is not None:
        if scheme.splits:
            raise OptionError(
                f"is a split beside those of the scheme {scheme.name} ({', '.join(scheme.splits)})",
                parameter="split_blocks",
                fix="leave it out, or take them out of the scheme",
            )
        return SceneSplit(ALL_TRAIN, tuple(names), (), ())
    is_chosen = options.split or options.val_scenes or options.test_scenes
    if options.labels and not scheme.splits and not is_chosen:
        return SceneSplit(ALL_TRAIN, tuple(names), (), ())
    return scene_split(
        names,
        scheme,
        split=options.split,
        val_scenes=options.val_scenes,
        test_scenes=options.test_scenes,
        unlabelled=without,
    )


def planned_tiling(sources: Sources, options: TileOptions) -> TilingPlan:
    """Look at every scene and label, and return what has to be done.

    Raises:
        InputError: A label or height model is missing or doesn't fit its image, or scenes differ
            in bands, type or declared scale.
        OptionError: Blocks are asked for, and there are too few.
    """
    files, scheme, split, scheme_notes = sources
    merged = merged_classes(scheme, options.merges)
    by_name = {file.name: file for file in files}
    looks: list[SceneLook] = []
    part_of = {name: part for part, names in split.parts.items() for name in names}
    labels = [label for name in part_of for label in by_name[name].labels]
    scheme, mask_note = mask_scheme(scheme, labels, most_ignored=MUCH_IGNORED)
    if mask_note is not None:
        scheme_notes += (mask_note,)
    meanings = None
    if not options.bands:
        meanings = _target_meanings([by_name[name] for name in part_of], scheme)
    for name, part in part_of.items():
        stop_if_requested()
        parts: Sequence[Part] = [part] if options.split_blocks is None else get_args(Part)
        first = looks[0] if looks else None
        looks.append(scene_look(by_name[name], parts, scheme, options, first, meanings))
    _require_polygons(looks, scheme, options)
    scene_bands = _scene_bands(looks, scheme, options, meanings)
    bands, dtype = scene_bands.bands, looks[0].dtype
    scale = options.scale or _common_scale({look.image: look.scale for look in looks})
    stretched = [look.name for look in looks if not look.is_square]
    if stretched:
        scheme_notes += (
            "warning: pixels are no squares on the ground, and patches keep them, stretched, where "
            f"`hrrsi predict` reads such scenes as squares: {counted_names(stretched)}; bring them "
            "to square pixels first (`gdalwarp -t_srs` with a CRS in metres)",
        )
    blocks = None
    pieces = {look.name: [Piece(look.name, part_of[look.name])] for look in looks}
    if options.split_blocks is not None:
        blocks = block_split(looks, scheme, merged, options)
        split = blocks.split
        pieces = {look.name: blocks.pieces(look.name) for look in looks}
    footprints = [look.footprint(piece) for look in looks for piece in pieces[look.name]]
    has_height = options.height is not None
    has_statistics = scheme_statistics(scheme, bands, dtype, scale) is not None
    return TilingPlan(
        Tiling(
            options=options,
            scheme=scheme,
            merged=merged,
            bands=bands,
            dtype="float32" if has_height else dtype,
            band_names=tuple(band_names(bands, has_height=True)) if has_height else (),
            file_format="tif" if has_height else patch_format(dtype, len(bands)),
            measure=has_height or not has_statistics,
            fingerprint=not all(footprints[0].comparable(other) for other in footprints),
        ),
        split,
        [
            rows
            for look in looks
            for piece in pieces[look.name]
            for rows in look.rows(piece, options)
        ],
        footprints,
        dtype,
        scale,
        options.resolution or _resolution([look.resolution for look in looks], scheme),
        scene_bands,
        {look.name: look.own_resolution for look in looks if look.own_resolution is not None},
        {look.name: look.step for look in looks},
        {look.name: look.placement for look in looks if look.placement is not None},
        scheme_notes,
        blocks,
        mask_note,
    )


def _require_polygons(looks: Sequence[SceneLook], scheme: Scheme, options: TileOptions) -> None:
    """Raise where polygons lie on no scene at all, or without an outside on none that trains."""
    of_training = [look for look in looks if "train" in look.labels]
    for among, kind in ((looks, "scenes"), (of_training, "training scenes")):
        is_required = among is looks or scheme.outside is None
        if is_required and among and all(look.is_blank for look in among):
            raise InputError(
                f"no polygon lies on any of the {counted(len(among), kind.removesuffix('s'))}"
                f" ({names_text([look.name for look in among], most=3)})",
                where=", ".join(options.label_files) or f"the labels of scheme {scheme.name}",
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


def _target_meanings(files: Sequence[SceneFiles], scheme: Scheme) -> tuple[str, ...] | None:
    """Return what the bands of patches are to show, or None where that is not known.

    By the scheme's word, else that of the first scene that names all of its bands: red, green,
    blue and near infrared then come in this order.
    """
    if not scheme.band_meanings and scheme.mean is not None:
        return None  # the scheme knows its bands by their numbers alone
    for file in files:
        with open_imagery(file.image, 3) as dataset:
            if scheme.band_meanings:
                has_meanings = bands_showing(dataset, scheme.band_meanings) is not None
                if has_meanings or len(colour_bands(dataset)) == len(scheme.band_meanings):
                    return scheme.band_meanings
                return None
            own = band_meanings(dataset)
            names = [own[band - 1] for band in colour_bands(dataset)]
        meanings = [name for name in names if name is not None]
        if len(meanings) == len(names) == len(set(names)):
            rank = {name: number for number, name in enumerate(NATURAL_ORDER)}
            return tuple(sorted(meanings, key=lambda name: rank.get(name, len(rank))))
    return None


def _scene_bands(
    scenes: Sequence[SceneLook],
    scheme: Scheme,
    options: TileOptions,
    meanings: Sequence[str] | None,
) -> SceneBands:
    """Return what is known of the bands of all scenes."""
    alphas = (scene.alpha_band for scene in scenes if scene.alpha_band is not None)
    unnamed = next((scene.bands for scene in scenes if not scene.is_named), None)
    # bands of scenes that name them come in the order that is wanted, as if they lay so
    bands = unnamed or tuple(range(1, len(scenes[0].bands) + 1))
    patch_meanings: Sequence[str | None] | None = meanings
    if patch_meanings is None and options.bands and max(bands) <= len(scheme.band_meanings):
        patch_meanings = [scheme.band_meanings[band - 1] for band in bands]
    elif patch_meanings is None and None not in scenes[0].meanings:
        patch_meanings = scenes[0].meanings
    return SceneBands(
        bands=bands,
        meanings=None if patch_meanings is None else tuple(patch_meanings),
        alpha_band=next(alphas, None),
        imagery_alphas=tuple(scene.name for scene in scenes if scene.has_imagery_alpha),
        named={scene.name: scene.bands for scene in scenes if scene.is_named},
    )


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
