"""Evaluation of maps that are there, whatever tool made them, against labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hrrsi.classes import IGNORE_INDEX
from hrrsi.errors import InputError, warn
from hrrsi.evaluation.evaluated_strips import EvaluatedStrip, Truth, observed, open_truth
from hrrsi.evaluation.evaluation import (
    Evaluation,
    EvaluationWarning,
    pooled_counts,
    warn_of_placements,
)
from hrrsi.evaluation.map_classes import MapClasses, open_map
from hrrsi.evaluation.options import EvaluationOptions, MapReading
from hrrsi.evaluation.scene_choice import labels_read
from hrrsi.evaluation.scene_counts import PooledCounts, SceneCounts
from hrrsi.labels.label_reading import mask_scheme
from hrrsi.labels.labelled_scenes import SceneFiles
from hrrsi.labels.laid_classes import GridClasses, on_grid, unsaid_place
from hrrsi.labels.merged_classes import MergedClasses, merged_classes
from hrrsi.labels.scheme import Scheme
from hrrsi.quantities import names_text
from hrrsi.scenes.bands import open_imagery
from hrrsi.scenes.georeference import pixel_areas
from hrrsi.scenes.polygons import AreaOfInterest, scene_polygons
from hrrsi.scenes.raster_opening import bounded_block_cache
from hrrsi.scenes.scene import Scene
from hrrsi.scenes.windows import Window

_ROWS = 256  # of a strip
_MAPS_LOOKED_AT = 20  # before they are scored
_ROWS_SEEN = 64  # of each


@bounded_block_cache()
def evaluate_maps(
    files: Sequence[SceneFiles],
    scheme: Scheme,
    options: EvaluationOptions = EvaluationOptions(),
    reading: MapReading = MapReading(),
    *,
    split: str | None = None,
    compared_with: Sequence[SceneFiles] = (),
    grids: Sequence[SceneFiles] = (),
    on_strip: Callable[[SceneFiles, EvaluatedStrip], None] | None = None,
    on_pixels: Callable[[int], None] | None = None,
) -> Evaluation:
    """Evaluate maps against labels, strip by strip.

    What is compared lies on the labels' grid, on which maps are laid by their georeference
    (`hrrsi.labels.laid_classes.on_grid`); polygons are burned onto the map's grid. Labels in
    a vector file are polygons, whatever the scheme says. Where a map predicts nothing, the label
    counts in no score (`ConfusionMatrix.unpredicted` says how many pixels there are).

    Args:
        files: The scenes, as `hrrsi.evaluation.scene_choice.paired_maps` returns them; the image of
            each is its map.
        scheme: What labels, colours and indices mean.
        options: Which classes are joined, what happens to values that the scheme doesn't know, and
            the blocks; which scenes and which protocol is for the caller.
        reading: How maps are read.
        split: What the scenes are, for the record.
        compared_with: The same scenes with other maps, which these are compared with. What one of
            these doesn't predict is not scored, so that leaving out what is hard can't win.
        grids: The same scenes with the maps whose grids polygons are burned onto; by default
            these. Two maps that are compared need one grid.
        on_strip: Called with each strip of each scene, from top to bottom, before it is counted.
        on_pixels: Called with the number of pixels that have just been read.

    Raises:
        InputError: A file can't be read, holds what the scheme doesn't know, or does not lie on its
            label; no polygon of the area of interest lies on any, or no pixel has a label.
    """
    merged = merged_classes(scheme, options.merges)
    kind = labels_read(files)
    counts, unknown, models, aligned, touched = [], 0, set(), 0, False
    outside = uncompared = 0
    other_maps, grids_of = ({file.name: file for file in maps} for maps in (compared_with, grids))
    # each set of maps has values of its own: masks of 0 and 255, say, beside indices
    opener, other_opener, grid_opener = (
        _opener(maps, scheme, options, reading)[0] for maps in (files, compared_with, grids)
    )
    for file in files:
        with ExitStack() as stack:
            grid_map = None
            if file.name in grids_of:
                grid_map = grid_opener.map(stack, grids_of[file.name]).scene
            pair = opener.labelled_map(stack, file, grid_map)
            if file.name in other_maps:
                other = other_opener.map(stack, other_maps[file.name])
                pair = replace(pair, other=on_grid(other, pair.grid))
            areas = pixel_areas(pair.grid.dataset)
            scene_counts = SceneCounts(
                file.name, merged.names, kind, options.block, areas, merged.candidates
            )
            scene_counts.add(observed(pair.strips(), file, on_strip, on_pixels))
            counts.append(scene_counts)
            unknown += pair.truth.unknown_pixels
            models.add(pair.classes.model)
            aligned += pair.prediction is not pair.classes
            touched |= pair.is_touched
            outside += pair.left_out["outside"]
            uncompared += pair.left_out["uncompared"]
    if not touched:
        raise InputError(
            "no polygon lies on " + ("any of the maps" if len(files) > 1 else files[0].image),
            where=reading.aoi,
            fix="check its CRS",
        )
    if reading.first_index is None:
        _warn_of_counting_from_one(PooledCounts(tuple(counts)).matrix(kind).counts, files)
    names = tuple(file.name for file in files)
    laid = f"{aligned} of {len(files)} laid on the labels' grid by nearest pixel"
    return Evaluation(
        counts=pooled_counts(counts, kind, names_text(names, most=3)),
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
        reading=(*options.words, *reading.words, *([laid] if aligned else [])),
        outside_pixels=outside,
        uncompared_pixels=uncompared if compared_with else None,
    )


def _warn_of_counting_from_one(matrix: npt.NDArray[np.int64], files: Sequence[SceneFiles]) -> None:
    """Warn where the indices of maps seem to be those of labels, plus one.

    Args:
        matrix: Pixels by predicted and true class.
        files: The maps.
    """
    shifted = int(np.trace(matrix, offset=-1))
    if not matrix[0].sum() and shifted > max(np.trace(matrix), matrix.sum() // 2):
        share = shifted / matrix.sum()
        warn(
            f"{files[0].image}: predicts no pixel of the first class, and {share:.0%} "
            "of the labelled pixels as the class after theirs: its indices seem to count from 1; "
            "give `first_index=1` if they do",
            EvaluationWarning,
        )


def map_pixels(
    files: Sequence[SceneFiles],
    scheme: Scheme,
    options: EvaluationOptions = EvaluationOptions(),
    reading: MapReading = MapReading(),
) -> int:
    """Return the pixels that are compared, having checked that each map opens with its label.

    Raises:
        InputError: As `evaluate_maps`, for what shows without reading the pixels.
    """
    opener, notes = _opener(files, scheme, options, reading)
    for line in notes:
        warn(line, EvaluationWarning)
    labels_read(files)
    pixels = 0
    placements: dict[str, str] = {}
    count = len(opener.merged.names)
    pair_counts = np.zeros((count, count), dtype=np.int64)
    for number, file in enumerate(files):
        with ExitStack() as stack:
            pair = opener.labelled_map(stack, file)
            if number < _MAPS_LOOKED_AT and pair.classes.counts_by_scheme:
                pair_counts += pair.sample_matrix()
            grid, own = pair.grid, pair.classes.scene
            pixels += grid.height * grid.width
            if pair.prediction is pair.classes and own is not grid:
                words = unsaid_place(grid, own)
                placements.update({file.name: words} if words else {})
    warn_of_placements(placements)
    if reading.first_index is None:
        _refuse_shifted(pair_counts, files)
    return pixels


def _refuse_shifted(pair_counts: npt.NDArray[np.int64], files: Sequence[SceneFiles]) -> None:
    """Raise where indices of maps are those of labels, plus or minus one, for several classes.

    Args:
        pair_counts: Pixels by predicted and true class.
        files: The maps and their labels.

    Raises:
        InputError: They are.
    """
    for counted, other, matrix in (
        ("map", "label", pair_counts),
        ("label", "map", pair_counts.T),
    ):
        total, shifted = matrix.sum(), np.diagonal(matrix, offset=-1)
        alike = int((2 * shifted > matrix[1:].sum(axis=1)).sum())
        if matrix[0].any() or alike < 2 or shifted.sum() <= max(np.trace(matrix), total // 2):
            continue
        share = shifted.sum() / total
        raise InputError(
            f"the {counted} holds no pixel of the first class, and {share:.0%} of those looked at "
            f"hold the class after that of the {other}: its indices seem to count from 1",
            where=files[0].image if counted == "map" else files[0].label,
            fix="give `first_index=1`, or `first_index=0` if they are right"
            if counted == "map"
            else "give the classes of the scheme their `index`, from 1 on, or `first_index=0` if "
            "they are right",
        )


@dataclass(frozen=True)
class _LabelledMap:
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

    def sample_matrix(self) -> npt.NDArray[np.int64]:
        """Return the pixels of some rows by predicted and true class, (classes, classes)."""
        count = len(self.merged.names)
        counts = np.zeros((count, count), dtype=np.int64)
        last = self.grid.height - 1
        for row in sorted({round(last * n / (_ROWS_SEEN - 1)) for n in range(_ROWS_SEEN)}):
            window = Window(row, 0, 1, self.grid.width)
            truth = self.merged.new_index[self.truth.peek(window)]
            prediction = self.prediction.read(window)
            is_counted = (truth < count) & (prediction < count)
            np.add.at(counts, (prediction[is_counted], truth[is_counted]), 1)
        return counts

    def strips(self) -> Iterator[EvaluatedStrip]:
        new_index = self.merged.new_index
        for row in range(0, self.grid.height, _ROWS):
            window = Window(row, 0, min(_ROWS, self.grid.height - row), self.grid.width)
            truths = [new_index[read] for read in self.truth.read(window) if read is not None]
            prediction = self.prediction.read(window)
            if self.area is not None:
                outside = ~self.area.inside(window)
                self.left_out["outside"] += int(outside.sum())
                for labels in (*truths, prediction):
                    labels[outside] = IGNORE_INDEX
            mapped = None
            if self.other is not None:
                gaps = (self.other.read(window) == IGNORE_INDEX) & (prediction != IGNORE_INDEX)
                self.left_out["uncompared"] += int((gaps & (truths[0] != IGNORE_INDEX)).sum())
                mapped, prediction = prediction, np.where(gaps, IGNORE_INDEX, prediction)
                prediction = prediction.astype(np.uint8)
            yield EvaluatedStrip(
                row, truths[0], prediction, None, truths[1] if len(truths) > 1 else None, mapped
            )


def _opener(
    files: Sequence[SceneFiles], scheme: Scheme, options: EvaluationOptions, reading: MapReading
) -> tuple[_Opener, list[str]]:
    """Return what opens maps and labels, and what is to be said of masks of 0 and 255 among them.

    Args:
        files: The maps and their labels.
        scheme: What colours and indices mean.
        options: How labels are read.
        reading: How maps are read.
    """
    merged = merged_classes(scheme, options.merges)
    labels = [label for file in files for label in file.labels]
    by_index = scheme.reading(labels[0]) if labels else scheme
    label_scheme, of_labels = mask_scheme(by_index, labels)
    map_scheme, of_maps = scheme, None
    if reading.first_index is None:
        images = [file.image for file in files]
        changed, of_maps = mask_scheme(scheme.read_as("indices"), images, "maps")
        if changed.classes == scheme.classes:
            of_maps = None  # what is ignored of maps is counted, and told
        map_scheme = scheme.model_copy(update={"classes": changed.classes})
    notes = [line.partition(": ")[2] for line in (of_labels, of_maps) if line is not None]
    labelled = label_scheme if of_labels is not None else scheme
    return _Opener(map_scheme, merged, options, reading, labelled), notes


@dataclass(frozen=True)
class _Opener:
    """Opens maps and their labels.

    Attributes:
        scheme: What colours and indices of maps mean.
        merged: The classes that are left of the scheme's.
        options: How labels are read.
        reading: How maps are read.
        label_scheme: What labels mean, where that is another thing.
    """

    scheme: Scheme
    merged: MergedClasses
    options: EvaluationOptions
    reading: MapReading
    label_scheme: Scheme

    def map(self, stack: ExitStack, file: SceneFiles) -> MapClasses:
        """Open a map until `stack` closes."""
        return stack.enter_context(
            open_map(
                file.image,
                self.scheme,
                self.merged,
                name=file.name,
                unknown=self.options.unknown,
                map_format=self.reading.map_format,
                first_index=self.reading.first_index,
            )
        )

    def labelled_map(
        self, stack: ExitStack, file: SceneFiles, grid_map: Scene | None = None
    ) -> _LabelledMap:
        """Open a map and its labels until `stack` closes.

        Args:
            stack: Closes them.
            file: The map and its labels.
            grid_map: The map on whose grid polygons are burned; None: this one.

        Raises:
            InputError: One can't be opened, or they don't fit each other or the scheme.
        """
        classes = self.map(stack, file)
        scheme = self.label_scheme.reading(file.label or file.eroded_label or "")
        label = file.label_raster(scheme)
        if label is None:
            grid = grid_map or classes.scene
        else:
            grid = Scene(label, stack.enter_context(open_imagery(label, 1)), (1,))
        truth = stack.enter_context(open_truth(file, grid, scheme, unknown=self.options.unknown))
        aoi, area = self.reading.aoi, None
        if aoi is not None:  # may lie on other scenes only
            area = AreaOfInterest(scene_polygons(Path(aoi), grid), Window(0, 0, *grid.shape))
        return _LabelledMap(grid, truth, classes, on_grid(classes, grid), self.merged, area)
