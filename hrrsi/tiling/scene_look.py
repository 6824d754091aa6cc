"""A look at a scene and its label before anything is cut: what they are, and the work on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from hrrsi.errors import InputError, MissingInputError
from hrrsi.labels.label_reading import open_labels
from hrrsi.labels.labelled_scenes import SceneFiles
from hrrsi.labels.scheme import Scheme
from hrrsi.labels.splits import Part
from hrrsi.scenes.bands import (
    band_meanings,
    bands_showing,
    colour_bands,
    names_bands,
    open_imagery,
    unnamed_bands,
)
from hrrsi.scenes.resampling import are_squares
from hrrsi.scenes.scene import Scene, open_scene
from hrrsi.scenes.value_scale import FULL_SCALE, nominal_scale
from hrrsi.scenes.window_source import ResampledScene
from hrrsi.scenes.windows import Window
from hrrsi.tiling.options import TileOptions
from hrrsi.tiling.scene_overlap import Footprint, footprint
from hrrsi.tiling.scene_rows import SceneRows, on_patch_grid, patch_area

_ROWS_PIXELS = 1 << 24  # about how many pixels of a scene one process works on at a time
_MOST_PIECES = 8  # of a scene whose file is read from its start each time


class Piece(NamedTuple):
    """A whole scene, or a block of one, as a part of a split.

    Attributes:
        name: Its name in the dataset.
        part: train, val or test.
        window: Where it lies on the scene; None: it is the whole scene.
    """

    name: str
    part: Part
    window: Window | None = None


@dataclass(frozen=True)
class SceneLook:
    """What a look at a scene and its label tells, without reading pixels.

    Attributes:
        name: The scene's name.
        image: Path of its image.
        labels: Paths of its labels for each part that it may be in.
        height_model: Path of its height model, or None.
        shape: Rows and columns of pixels, on the grid of patches.
        step: The image's pixels in one of these, along each axis.
        bands: The 1-based bands of it that patches hold.
        is_named: Whether the image names them, and in another order than they lie in.
        meanings: What each shows by the image's own word, or None.
        alpha_band: The first band that the image calls alpha, left out unasked; or None.
        has_imagery_alpha: Whether its alpha holds values of imagery, and masks nothing.
        placement: In words, how the label lies on the image, where that is to be said.
        is_blank: Whether no polygon lies on it.
        dtype: NumPy name of the patches' type.
        scale: The value that it declares as full brightness, or None.
        resolution: Ground sampling distance of patches in metres per pixel, or None.
        own_resolution: That of the image.
        is_square: Whether the image's pixels pass for squares on the ground.
        ground: Where it lies.
    """

    name: str
    image: str
    labels: dict[Part, tuple[str, ...]]
    height_model: str | None
    shape: tuple[int, int]
    step: float
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
    own_resolution: float | None
    is_square: bool
    ground: Footprint

    def footprint(self, piece: Piece) -> Footprint:
        """Return where a piece of the scene lies."""
        return self.ground.of_window(piece.name, piece.part, piece.window, self.shape)

    def rows(self, piece: Piece, options: TileOptions) -> list[SceneRows]:
        """Return the work on a piece, cut up in a way that doesn't depend on the processes."""
        window = piece.window or Window(0, 0, *self.shape)
        scene = SceneRows(
            piece.name,
            self.name,
            piece.part,
            self.image,
            self.bands,
            self.labels[piece.part],
            self.height_model,
            window,
        )
        grid = scene.grid(options)
        row_pixels = sum(window.height * window.width for window in grid[0])
        step = max(1, int(_ROWS_PIXELS / (row_pixels * max(1.0, self.step) ** 2)))
        if self.image.startswith("/vsi") or not self.image.lower().endswith((".tif", ".tiff")):
            step = max(step, -(-len(grid) // _MOST_PIECES))
        return [
            replace(
                scene,
                first=first,
                stop=min(first + step, len(grid)),
                pixels=row_pixels * (min(first + step, len(grid)) - first),
                patches=len(grid[0]) * (min(first + step, len(grid)) - first),
            )
            for first in range(0, len(grid), step)
        ]


def scene_look(
    file: SceneFiles,
    parts: Sequence[Part],
    scheme: Scheme,
    options: TileOptions,
    first: SceneLook | None,
    meanings: Sequence[str] | None,
) -> SceneLook:
    """Look at a scene and its label.

    Args:
        file: The scene's files.
        parts: The parts of the split that it may be in.
        scheme: Says what labels mean.
        options: How scenes are read.
        first: The look at the first scene, whose like the others have to be; None: it is this one.
        meanings: What bands are to show, where that is known.

    Raises:
        InputError: A label or height model is missing or doesn't fit, or the scene is not like the
            first one.
    """
    own_labels = {part: _labels(file, part, options) for part in parts}
    height = _height(file, options)
    bands = options.bands or (first.bands if first else ())
    band_count = len(bands) or len(meanings or ()) or _band_count(file.image, scheme)
    with open_scene(
        file.image,
        bands=options.bands,
        expected_bands=band_count,
        meanings=meanings,
        crs=options.crs,
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
        brought = on_patch_grid(scene, options, scheme)
        patch_area(options.aoi, brought)
        for label in dict.fromkeys(own_labels.values()):
            with open_labels(
                label, brought, scheme, name=file.name, unknown=options.unknown
            ) as labels:
                pass
        unread = set(scene.reader.alpha_bands) - set(scene.bands)
        own = band_meanings(scene.dataset)
        return SceneLook(
            name=file.name,
            image=file.image,
            labels=own_labels,
            height_model=height,
            shape=brought.shape,
            step=brought.step if isinstance(brought, ResampledScene) else 1.0,
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
            resolution=brought.resolution,
            own_resolution=scene.resolution or (options.resolution and scheme.resolution),
            is_square=are_squares(scene.pixel_sides),
            ground=footprint(
                file.name,
                parts[0],
                (scene if scene.dataset.transform.is_identity else brought).dataset,
            ),
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


def _require_alike(scene: Scene, dtype: str, first: SceneLook) -> None:
    if dtype != first.dtype:
        raise InputError(
            f"holds {dtype} where the scenes before it hold {first.dtype}",
            where=scene.path,
            fix="convert the scenes to one type",
        )


def _require_same_bands(scene: Scene, first: SceneLook, meanings: Sequence[str] | None) -> None:
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


def _labels(file: SceneFiles, part: Part, options: TileOptions) -> tuple[str, ...]:
    eroded = options.eroded and part != "train"
    if not eroded:
        labels = file.labels
    else:
        labels = () if file.eroded_label is None else (file.eroded_label,)
    if not labels and not (options.unlabelled and part == "train"):
        kind = "eroded label" if eroded else "label"
        raise MissingInputError(
            f"has no {kind} (image {file.image})",
            where=f"scene {file.name}",
            fix=f"give the folder or archive of the {kind}s too, or leave the scene out of the "
            "split",
        )
    return labels


def _band_count(image: str, scheme: Scheme) -> int:
    """Return how many bands patches hold: as many as the scheme's mean, else as the image."""
    if scheme.mean is not None:
        return len(scheme.mean)
    with open_imagery(image, 3) as dataset:
        return len(colour_bands(dataset))


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
