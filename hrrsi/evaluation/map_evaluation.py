"""Evaluation of maps that are there, whatever tool made them, against labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from hrrsi.classes import IGNORE_INDEX, UnknownLabels
from hrrsi.errors import HrrsiError
from hrrsi.evaluation.evaluated_strips import EvaluatedStrip
from hrrsi.evaluation.evaluation import Evaluation, require_labels
from hrrsi.evaluation.map_alignment import GridClasses, on_grid
from hrrsi.evaluation.map_classes import MapClasses, MapFormat, open_map
from hrrsi.evaluation.protocols import DEFAULT_BLOCK
from hrrsi.evaluation.scene_counts import PooledCounts, SceneCounts
from hrrsi.evaluation.scene_evaluation import SceneReading, Truth, labels_read
from hrrsi.labels.label_reading import open_labels
from hrrsi.labels.labelled_scenes import SceneFiles
from hrrsi.labels.scene_labels import Labels
from hrrsi.labels.scheme import MergedClasses, Scheme, merged_classes
from hrrsi.scenes.georeference import pixel_areas
from hrrsi.scenes.polygons import AreaOfInterest, scene_polygons
from hrrsi.scenes.raster_opening import bounded_block_cache, open_raster
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window

VECTOR_SUFFIXES = frozenset({".gpkg", ".geojson", ".json", ".fgb", ".shp"})

_ROWS = 256  # of a strip


@dataclass(frozen=True)
class MapReading:
    """How maps and their labels are read.

    Attributes:
        merges: Classes to join, as `hrrsi.labels.scheme.merged_classes` takes them.
        unknown: What to do about values of maps and labels that the scheme doesn't know.
        map_format: What maps hold, if not what they look like.
        aoi: Vector file of the polygons outside of which nothing counts, or None.
    """

    merges: tuple[str, ...] = ()
    unknown: UnknownLabels = "error"
    map_format: MapFormat | None = None
    aoi: Path | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """What differs from reading everything as it is, for the record of an evaluation."""
        return (
            *SceneReading(merges=self.merges, unknown=self.unknown).words,
            *([f"maps read as {self.map_format}"] if self.map_format else []),
            *([f"only inside of {self.aoi.name}"] if self.aoi is not None else []),
        )


@bounded_block_cache()
def evaluate_maps(
    files: Sequence[SceneFiles],
    scheme: Scheme,
    *,
    split: str | None = None,
    reading: MapReading | None = None,
    block: int = DEFAULT_BLOCK,
    compared_with: Sequence[SceneFiles] = (),
    grids: Sequence[SceneFiles] = (),
    on_strip: Callable[[SceneFiles, EvaluatedStrip], None] | None = None,
    on_pixels: Callable[[int], None] | None = None,
) -> Evaluation:
    """Evaluate maps against labels, strip by strip.

    What is compared lies on the labels' grid, on which maps are laid by their georeference
    (`hrrsi.evaluation.map_alignment.on_grid`); polygons are burned onto the map's grid. Labels in
    a vector file are polygons, whatever the scheme says. Where a map predicts nothing, the label
    counts in no score (`ConfusionMatrix.unpredicted` says how many pixels there are).

    Args:
        files: The scenes (`hrrsi.evaluation.map_pairs.paired_maps`); the image of each is its map.
        scheme: What labels, colours and indices mean.
        split: What the scenes are, for the record.
        reading: How maps and labels are read.
        block: Rows and columns of the blocks that uncertainty is estimated from.
        compared_with: The same scenes with other maps, which these are compared with. What one of
            these doesn't predict is not scored, so that leaving out what is hard can't win.
        grids: The same scenes with the maps whose grids polygons are burned onto; by default
            these. Two maps that are compared need one grid.
        on_strip: Called with each strip of each scene, from top to bottom, before it is counted.
        on_pixels: Called with the number of pixels that have just been read.

    Raises:
        HrrsiError: A file can't be read, holds what the scheme doesn't know, or does not lie on its
            label; no polygon of the area of interest lies on any, or no pixel has a label.
    """
    reading = reading or MapReading()
    merged = merged_classes(scheme, reading.merges)
    kind = labels_read(files)
    counts, unknown, models, laid, touched = [], 0, set(), 0, False
    outside = uncompared = 0
    others, grids_of = ({file.name: file for file in some} for some in (compared_with, grids))
    for file in files:
        with ExitStack() as stack:
            pair = _opened(stack, file, scheme, merged, reading, grids_of.get(file.name))
            if file.name in others:
                other = _opened_map(stack, others[file.name], scheme, merged, reading)
                pair = replace(pair, other=on_grid(other, pair.grid))
            areas = pixel_areas(pair.grid.dataset)
            seen = SceneCounts(file.name, merged.names, kind, block, areas)
            seen.add(_told(pair, file, on_strip, on_pixels))
            counts.append(seen)
            unknown += pair.truth.unknown_pixels
            models.add(pair.classes.model)
            laid += pair.prediction is not pair.classes
            touched |= pair.is_touched
            outside += pair.left_out["outside"]
            uncompared += pair.left_out["uncompared"]
    if not touched:
        raise HrrsiError(
            "no polygon lies on " + ("any of the maps" if len(files) > 1 else files[0].image),
            where=reading.aoi,
            fix="check its CRS",
        )
    names = tuple(file.name for file in files)
    how = [f"{laid} of {len(files)} laid on the labels' grid by nearest pixel"] if laid else []
    pooled = PooledCounts(tuple(counts))
    require_labels(pooled, kind, ", ".join(names[:3]) + (", ..." if len(names) > 3 else ""))
    return Evaluation(
        counts=pooled,
        colours=merged.colours,
        data=scheme.name,
        split=split,
        scenes=names,
        unit="maps",
        window=0,
        overlap=0,
        labels=kind,
        unknown_pixels=unknown,
        augmentation="none",
        model=models.pop() if len(models) == 1 else None,
        seen_in_training=(),
        reading=(*reading.words, *how),
        outside_pixels=outside,
        uncompared_pixels=uncompared if compared_with else None,
    )


def map_pixels(
    files: Sequence[SceneFiles], scheme: Scheme, reading: MapReading | None = None
) -> int:
    """Return the pixels that are compared, having checked that each map opens with its label.

    Raises:
        HrrsiError: As `evaluate_maps`, for what shows without reading the pixels.
    """
    reading = reading or MapReading()
    merged = merged_classes(scheme, reading.merges)
    labels_read(files)
    pixels = 0
    for file in files:
        with ExitStack() as stack:
            grid = _opened(stack, file, scheme, merged, reading).grid
            pixels += grid.height * grid.width
    return pixels


@dataclass(frozen=True)
class _Pair:
    """An open map and its labels.

    Attributes:
        grid: The raster on whose grid they are compared.
        truth: The labels, in the scheme's classes.
        classes: The map on its own grid.
        prediction: The map on the labels' grid.
        merged: The classes that are left of the scheme's.
        area: The area of interest, or None.
        other: The map that it is compared with, on the same grid, or None.
        left_out: Pixels read so far that are ignored: ``outside`` of the area of interest, and
            labelled ones that this map predicts and the other doesn't (``uncompared``), which are
            not scored.
    """

    grid: Scene
    truth: Truth
    classes: MapClasses
    prediction: GridClasses
    merged: MergedClasses
    area: AreaOfInterest | None
    other: GridClasses | None = None
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def is_touched(self) -> bool:
        """Whether anything of it is of interest."""
        return self.area is None or self.area.touches(Window(0, 0, *self.grid.shape))

    def strips(self) -> Iterator[EvaluatedStrip]:
        new_index = self.merged.new_index
        for row in range(0, self.grid.height, _ROWS):
            window = Window(row, 0, min(_ROWS, self.grid.height - row), self.grid.width)
            truths = [new_index[some] for some in self.truth.read(window) if some is not None]
            prediction = self.prediction.read(window)
            if self.area is not None:
                outside = ~self.area.inside(window)
                self.left_out["outside"] += int(outside.sum())
                for labels in (*truths, prediction):
                    labels[outside] = IGNORE_INDEX
            mapped = None
            if self.other is not None:
                lacking = (self.other.read(window) == IGNORE_INDEX) & (prediction != IGNORE_INDEX)
                self.left_out["uncompared"] += int((lacking & (truths[0] != IGNORE_INDEX)).sum())
                mapped, prediction = prediction, np.where(lacking, IGNORE_INDEX, prediction)
                prediction = prediction.astype(np.uint8)
            yield EvaluatedStrip(
                row, truths[0], prediction, None, truths[1] if len(truths) > 1 else None, mapped
            )


def _told(
    pair: _Pair,
    file: SceneFiles,
    on_strip: Callable[[SceneFiles, EvaluatedStrip], None] | None,
    on_pixels: Callable[[int], None] | None,
) -> Iterator[EvaluatedStrip]:
    for strip in pair.strips():
        if on_strip is not None:
            on_strip(file, strip)
        if on_pixels is not None:
            on_pixels(strip.truth.size)
        yield strip


def _opened_map(
    stack: ExitStack, file: SceneFiles, scheme: Scheme, merged: MergedClasses, reading: MapReading
) -> MapClasses:
    return stack.enter_context(
        open_map(
            file.image,
            scheme,
            merged,
            name=file.name,
            unknown=reading.unknown,
            map_format=reading.map_format,
        )
    )


def _opened(
    stack: ExitStack,
    file: SceneFiles,
    scheme: Scheme,
    merged: MergedClasses,
    reading: MapReading,
    grid_of: SceneFiles | None = None,
) -> _Pair:
    """Open a map and its labels until `stack` closes.

    Raises:
        HrrsiError: One can't be opened, or they don't fit each other or the scheme.
    """
    classes = _opened_map(stack, file, scheme, merged, reading)
    paths = [path for path in (file.label, file.eroded_label) if path is not None]
    if PurePosixPath(paths[0]).suffix.lower() in VECTOR_SUFFIXES:
        scheme = scheme.read_as("polygons")
    if scheme.label_format == "polygons":
        grid = classes.scene
        if grid_of is not None:
            grid = _opened_map(stack, grid_of, scheme, merged, reading).scene
    else:
        dataset = stack.enter_context(open_raster(paths[0]))
        grid = Scene(paths[0], dataset, (1,))
    labels: list[Labels] = [
        stack.enter_context(
            open_labels(path, grid, scheme, name=file.name, unknown=reading.unknown)
        )
        for path in paths
    ]
    area = None
    if reading.aoi is not None:  # may lie on other scenes only
        area = AreaOfInterest(scene_polygons(reading.aoi, grid))
    return _Pair(
        grid,
        Truth(labels[0], labels[1] if len(labels) > 1 else None),
        classes,
        on_grid(classes, grid),
        merged,
        area,
    )
