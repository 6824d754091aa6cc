"""Opens the labels of a scene: colours, class indices or polygons, as its scheme says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from hrrsi.classes import IGNORE_INDEX, UnknownLabels
from hrrsi.errors import InputError
from hrrsi.interruption import stop_if_requested
from hrrsi.labels.laid_classes import (
    GridClasses,
    LaidMap,
    has_place,
    on_grid,
    placement,
    unsaid_place,
)
from hrrsi.labels.merged_classes import index_by_name
from hrrsi.labels.raster_labels import ColourLabels, IndexLabels
from hrrsi.labels.scene_labels import (
    AbsentLabels,
    Indices,
    LabelLayer,
    Labels,
    PolygonLabels,
    StackedLabels,
)
from hrrsi.labels.scheme import Scheme
from hrrsi.scenes.bands import open_imagery
from hrrsi.scenes.georeference import pixel_coordinates
from hrrsi.scenes.pixel_reader import value_sample
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.window_source import ResampledScene
from hrrsi.scenes.windows import Window

_MASKS_LOOKED_AT = 20  # labels
_LEAST_COVERED = 0.5  # of a scene, by a label on another grid


def mask_scheme(
    scheme: Scheme, rasters: Sequence[str], noun: str = "labels", most_ignored: float = 1.0
) -> tuple[Scheme, str | None]:
    """Return the scheme that reads rasters of class indices, which may be masks of 0 and 255.

    A look at some of their rows tells. Where 255 is taken for a class, any other value is an
    unknown label.

    Args:
        scheme: Says what they mean.
        rasters: The files, of which 20 are looked at that hold more than 0; those of polygons are
            left out.
        noun: What they are, for messages.
        most_ignored: The share of 255 above which a line warns that it is ignored.

    Returns:
        The scheme, as `Scheme.with_mask_values` has it, and a line that says so or warns of what is
        ignored; else None.

    Raises:
        InputError: A file can't be opened.
    """
    files = [path for path in dict.fromkeys(rasters) if not Scheme.reads_polygons(path)]
    if not files or not scheme.leaves_255_open:
        return scheme, None
    counts: dict[float, int] = {}
    masks = []
    looked_at = 0
    for path in files:
        if looked_at == _MASKS_LOOKED_AT:
            break
        stop_if_requested()
        value_counts = value_sample(path)
        if set(value_counts) == {IGNORE_INDEX}:  # which tells nothing
            continue
        looked_at += set(value_counts) != {0}  # nor does this, of what else there is
        for value, count in value_counts.items():
            counts[value] = counts.get(value, 0) + count
        if set(value_counts) == {0, IGNORE_INDEX}:
            masks.append(path)
    changed = scheme.with_mask_values(counts)
    if changed is not scheme:
        return changed, (
            f"note: the {noun} hold 0 and 255 alone, so 255 counts as {scheme.class_names[1]}; "
            "where it is to be ignored, say that in the scheme's `ignored`"
        )
    share = counts.get(IGNORE_INDEX, 0) / max(sum(counts.values()), 1)
    fix = "if it stands for a class, give that `index: 255` in the scheme"
    if set(counts) == {0, IGNORE_INDEX}:
        line = f"the {noun} seem to hold 0 and 255 alone, and 255 ({share:.0%}) is ignored"
    elif masks and len(scheme.all_labels) == 2:
        line = (
            f"{len(masks)} of the {looked_at} {noun} looked at hold 0 and 255 alone, such as "
            f"{masks[0]}, and others other values; 255 is ignored"
        )
        fix = "write masks with the values of the others"
    elif share > most_ignored:
        line = (
            f"about {share:.0%} of the pixels of {noun} hold 255, which is ignored among class "
            "indices"
        )
    else:
        return scheme, None
    return scheme, f"warning: {line}; {fix}"


@contextmanager
def open_labels(
    paths: str | Sequence[str] | None,
    scene: Scene,
    scheme: Scheme,
    *,
    name: str,
    unknown: UnknownLabels = "error",
    within: Window | None = None,
) -> Iterator[Labels]:
    """Open the labels of a scene.

    A raster on another grid than the scene's is laid over it by georeference
    (`hrrsi.labels.laid_classes.on_grid`); `Labels.placement` says so. Where several files have a
    class, that of the last counts.

    `scheme.label_format` says what they hold. Class indices in what `Labels.read` returns are
    positions in `scheme.all_labels`.

    Args:
        paths: A raster, or with ``polygons`` any vector file that GDAL reads; several of them; none
            (or None): every pixel is ignored.
        scene: The open scene that they belong to.
        scheme: Says what colours, values or attributes mean.
        name: The scene's name, for messages.
        unknown: ``"error"`` fails on a label that the scheme doesn't know, ``"ignore"`` makes its
            pixels 255.
        within: The window of the scene that is going to be read, where it isn't all of it.

    Raises:
        InputError: Not readable, of another size without a place on the map, on hardly any of the
            scene, not of the scheme's format, or a raster whose value for missing data is a class
            too.
    """
    files = [paths] if isinstance(paths, str) else list(paths or ())
    with ExitStack() as stack:
        if not files:
            yield AbsentLabels(scene, name)
            return
        own_schemes = [scheme.of_file(path) for path in files]
        if len(files) == 1 and own_schemes[0] is None:
            opened = _open_file(files[0], scene, scheme, name, unknown, within)
            yield stack.enter_context(opened)
            return
        layers = []
        for path, own_scheme in zip(files, own_schemes, strict=True):
            own = (own_scheme or scheme).reading(path)
            has_outside = own.outside is not None and own.label_format != "polygons"
            # of polygons, what lies outside of all of them
            read_by = own if has_outside else own.model_copy(update={"outside": None})
            labels = stack.enter_context(_open_file(path, scene, read_by, name, unknown, within))
            weak = scheme.index_of(own.outside) if has_outside else None
            layers.append(LabelLayer(labels, index_by_name(own, scheme), weak))
        outside = None if scheme.outside is None else scheme.index_of(scheme.outside)
        yield StackedLabels(layers, scene, name, outside)


@contextmanager
def _open_file(
    path: str,
    scene: Scene,
    scheme: Scheme,
    name: str,
    unknown: UnknownLabels,
    within: Window | None,
) -> Iterator[Labels]:
    """Open the labels of a scene in one file, as `open_labels`."""
    if scheme.label_format == "polygons":
        yield PolygonLabels(path, scene, scheme, name, unknown, within)
        return
    with open_imagery(path, 1) as dataset:  # whose .prj counts
        own, image = Scene(path, dataset, (1,)), scene.own_grid
        have_place = all(has_place(raster) for raster in (own, image))
        if own.shape != image.shape and not have_place:
            raise InputError(
                f"the label has {dataset.height} rows and {dataset.width} columns, "
                f"its image {image.height} and {image.width}",
                where=path,
                fix="put the label on the image's grid without resampling its colours",
            )
        kind = ColourLabels if scheme.label_format == "colours" else IndexLabels
        labels = _OwnGrid(kind(path, dataset, own, scheme, name, unknown))
        laid = on_grid(labels, image, "image")
        if isinstance(laid, LaidMap):
            words = _laid_placement(own, laid, image)
            laid = laid if image is scene else on_grid(labels, scene, "image")
            yield LaidLabels(labels, laid, scene, words)
        elif isinstance(scene, ResampledScene):
            places = pixel_coordinates(dataset), pixel_coordinates(dataset, scene.step)
            laid = LaidMap(labels, *places, None, "image")
            yield LaidLabels(labels, laid, scene, unsaid_place(own, image))
        else:
            labels.labels.placement = unsaid_place(own, scene)
            yield labels.labels


@dataclass(frozen=True)
class _OwnGrid:
    """Labels on the grid of their own raster, with unknown ones among the classes."""

    labels: ColourLabels | IndexLabels

    @property
    def scene(self) -> Scene:
        return self.labels.scene

    def read(self, window: Window) -> Indices:
        return self.labels.decoded(window)


class LaidLabels(Labels):
    """Labels of a raster on another grid than the scene's, laid over it by nearest pixel.

    Args:
        own: They on their own grid.
        laid: They on the scene's.
        scene: The scene.
        placement: As `Labels.placement`.
    """

    def __init__(
        self, own: _OwnGrid, laid: GridClasses, scene: Scene, placement: str | None
    ) -> None:
        labels = own.labels
        super().__init__(scene, labels.name, labels.path, labels.unknown)
        self._own, self._laid = labels, laid
        self.placement = placement

    def _decode(self, window: Window) -> Indices:
        return self._laid.read(window)

    def _unknown_error(self) -> InputError:
        return self._own._unknown_error()


def _laid_placement(own: Scene, laid: LaidMap, image: Scene) -> str:
    """Return in words how a label lies on its image.

    Raises:
        InputError: It covers less than half of it.
    """
    words = placement(own, image)
    share = laid.covered_share(*image.shape)
    if share < _LEAST_COVERED:
        raise InputError(
            f"the label {words}, and covers {share:.0%} of it",
            where=own.path,
            fix=f"check the CRS and the transform of both, or cut {image.path} to the label",
        )
    rest = "" if share == 1 else f"; {1 - share:.1%} of the image has no label"
    return f"{words}: laid over it by nearest pixel{rest}"
